"""An ONNX classifier that someone else made, taken over as a source.

The file is not trusted to be what it seems: which tensor holds the logits is found by following its output back to
the Softmax, the layout of its input by comparing shapes with the data, and the result is run against the file itself,
row by row.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, version_converter

from softrisk_core.manifest import ModelFacts
from softrisk_core.rows import Inputs
from softrisk_export.errors import ExportError, ForeignModelError
from softrisk_export.find_logits import check_logits, find_logits
from softrisk_export.foreign_file import ForeignFile
from softrisk_export.free_batch import free_batch, mixing_node
from softrisk_export.graph import OLDEST_OPSET, float_input, opset, with_diagnostics
from softrisk_export.layout import find_layout
from softrisk_export.onnx_edit import Step, chain, prune
from softrisk_export.runtime import Runner
from softrisk_export.source import Source, image_input
from softrisk_export.verify import TOLERANCE

_PREFIX: Final = "softrisk/logits/"

SAMPLE: Final = 64
"""Rows of the data on which the file is tried out."""

_BATCHES: Final = (1, 2, 7)
"""Batch sizes at which the dynamic graph must repeat the file's rows."""


@dataclass(frozen=True)
class Reading:
    """What a user says about an ONNX file that the file does not say itself.

    Attributes:
        logits: Name of the tensor that holds the logits; None to look for it.
        mean: By which the file's inputs are normalised: one value, or one a channel.
        std: Likewise.
        value_range: What black and white are for the file, before mean and std.
        classes: Class names by label.
    """

    logits: str | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    value_range: tuple[float, ...] = (0.0, 1.0)
    classes: tuple[str, ...] | None = None


def foreign_source(path: Path, images: NDArray[np.float32], class_names: tuple[str, ...], reading: Reading) -> Source:
    """Take over an ONNX classifier.

    Args:
        path: The file; opset ≥ 11, weights inside or in files beside it.
        images: Some clean data, shape (N, C, H, W), float32 in [0, 1]: the bundle's input is like them.
        class_names: Of the data, taken if they are as many as the classes of the model; may be empty.
        reading: What else is known about the file.

    Raises:
        ForeignModelError: If the file is damaged, too old, no classifier of such images, or ambiguous; the message
            says what was found and what to do.
    """
    file = ForeignFile.load(path)
    channels, height, width = images.shape[1:]
    layout = find_layout(
        file.sizes,
        (channels, height, width),
        mean=reading.mean,
        std=reading.std,
        value_range=reading.value_range,
    )
    sample = images[:SAMPLE]
    prepared = layout.apply(sample)
    name = reading.logits or find_logits(file.model, file.outputs(prepared[:1]))
    tensor = file.tensor(name)
    values = tensor(prepared)
    check_logits(name, values, is_output=name in file.output_names)
    binary = values.shape[1] == 1

    def logits(inputs: Inputs) -> NDArray[np.float32]:
        (images,) = inputs.values()
        found = tensor(layout.apply(images))
        return np.concatenate([np.zeros_like(found), found], axis=1) if binary else found

    head = _head(file, name, prepared, values)
    layout.prepend(head.graph, file.input, (channels, height, width))
    _as_matrix(head.graph, values.shape[1])
    classes = _classes(2 if binary else values.shape[1], class_names, reading.classes)
    model = with_diagnostics(head, len(classes))
    return Source(
        model=model,
        logits=logits,
        inputs=(image_input(model.graph.input[0].name, (channels, height, width)),),
        classes=classes,
        facts=ModelFacts(
            origin="onnx",
            architecture=path.name,
            parameters=sum(math.prod(weights.dims) for weights in file.model.graph.initializer),
        ),
    )


def _head(file: ForeignFile, name: str, rows: NDArray[np.float32], values: NDArray[np.float32]) -> onnx.ModelProto:
    """The part of the file that computes the logits, with a dynamic batch axis and an opset that the tails can use."""
    head = onnx.ModelProto()
    head.CopyFrom(file.model)
    head.graph.input[0].CopyFrom(float_input(file.input, file.sizes))
    prune(head.graph, name)
    if file.batch is not None or not _runs(head, rows):
        # With an open batch axis, too, a file can hold constants of the one row that it was traced with.
        free_batch(head, file.input, file.batch_of(rows[:1]))
        prune(head.graph, name)
    if opset(head) < OLDEST_OPSET:
        try:
            head = version_converter.convert_version(head, OLDEST_OPSET)
        except Exception as error:  # the converter raises whatever its adapters do
            raise ForeignModelError(
                f"{file.path} has opset {opset(head)} and cannot be converted to {OLDEST_OPSET}: {error}; export it "
                f"again with opset {OLDEST_OPSET} or later"
            ) from error
    _check_batches(head, file, rows, values)
    return head


def _runs(head: onnx.ModelProto, rows: NDArray[np.float32]) -> bool:
    try:
        Runner(head)(rows[[0, -1]])
    except ExportError:
        return False
    return True


def _check_batches(
    head: onnx.ModelProto, file: ForeignFile, rows: NDArray[np.float32], values: NDArray[np.float32]
) -> None:
    """Run a graph on several batch sizes against the file's own rows."""
    for size in _BATCHES:
        chosen = np.arange(size) % len(rows)
        try:
            (found,) = Runner(head)(rows[chosen]).values()
        except ExportError as error:
            raise ForeignModelError(f"the batch size of {file.path} cannot be made dynamic: {error}") from error
        expected = values[chosen]
        if found.size != expected.size or not np.allclose(
            found.reshape(expected.shape), expected, rtol=TOLERANCE.relative, atol=TOLERANCE.absolute
        ):
            node = mixing_node(head, rows[[0, -1]])
            raise ForeignModelError(
                f"the batch size of {file.path} cannot be made dynamic: in a batch of {size} a row gets other logits "
                f"than alone{f'; its values change first at the node {node}' if node else ''}"
            )


def _as_matrix(graph: onnx.GraphProto, width: int) -> None:
    """Bring the output to float32 of shape (batch, classes), one logit z to the two logits 0 and z."""
    steps = [Step("Cast", attributes={"to": TensorProto.FLOAT}), Step("Reshape", {"shape": np.array([-1, width])})]
    if width == 1:
        steps.append(Step("Mul", {"zero_and_one": np.array([[0, 1]], np.float32)}))
    nodes, value = chain(graph, graph.output[0].name, steps, _PREFIX)
    graph.node.extend(nodes)
    graph.output[0].CopyFrom(onnx.ValueInfoProto(name=value))


def _classes(count: int, of_data: tuple[str, ...], given: tuple[str, ...] | None) -> tuple[str, ...]:
    if given is not None and len(given) != count:
        raise ForeignModelError(f"the model has {count} classes, but --classes names {len(given)}")
    if given is not None:
        return given
    return of_data if len(of_data) == count else tuple(str(label) for label in range(count))

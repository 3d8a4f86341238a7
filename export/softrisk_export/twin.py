"""A twin: the same classifier in reduced precision, as the source of a version of its own.

Only the classifier is reduced. The tails stay float32, because a p-value is decided by small differences of logits, and
the calibration is that of the twin, because a threshold of the full precision promises nothing about it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from rich.console import Console

from softrisk_core.manifest import FULL_PRECISION, Precision
from softrisk_core.rows import Inputs, count_rows, take_rows
from softrisk_export.errors import TwinError
from softrisk_export.graph import classifier, with_diagnostics
from softrisk_export.onnx_edit import producers
from softrisk_export.runtime import BATCH_SIZE, Runner
from softrisk_export.source import CleanRows, Logits, Source

RANGE_ROWS: Final = 256
"""At most so many rows, and at most a tenth of all, show the ranges of activations to the quantiser."""


@dataclass(frozen=True)
class Change:
    """What reduced precision changed, on the rows that calibrate the twin.

    Attributes:
        precision: Of the twin.
        accuracy: Of the classifier in full precision, in [0, 1]; None if the labels are not known.
        agreement: Share of rows that keep their label, in [0, 1].
        difference: Largest absolute difference of a logit.
        largest_logit: Largest absolute value of a logit in full precision, to compare the difference with.
    """

    precision: Precision
    accuracy: float | None
    agreement: float
    difference: float
    largest_logit: float


def twin(source: Source, precision: Precision, rows: CleanRows) -> tuple[Source, CleanRows, Change]:
    """Make a twin of a source.

    Args:
        source: In full precision.
        precision: Of the twin: `fp16` or `int8`.
        rows: Clean data that the classifier has not seen.

    Returns:
        The twin, the rows that may calibrate it, and what changed on them. An int8 twin is fitted to the ranges of
        some rows, which are then no longer exchangeable with new ones and are left out.

    Raises:
        CalibrationError: If the rows are too few, or too much alike, to set some apart.
        TwinError: If the source is a twin itself or has radii, or the library cannot reduce its classifier.
    """
    if source.facts.precision != FULL_PRECISION:
        raise TwinError(
            f"the version is a twin in {source.facts.precision} already; name the version in {FULL_PRECISION} that it "
            "was made from"
        )
    if source.bound is not None:
        raise TwinError(
            "the radii of this model are bounds on its classifier in full precision, and say nothing about one in "
            f"{precision}: serve it as it is"
        )
    head = classifier(source.model)
    shown = left = rows
    if precision == "int8":
        shown, left = rows.set_apart(min(RANGE_ROWS, len(rows) // 10), "fit the ranges of int8")
    try:
        with _quiet(), Console(stderr=True).status(f"making the classifier {precision}"):
            reduced = _int8(head, shown.inputs) if precision == "int8" else _fp16(head)
    except Exception as error:  # neither library has exceptions of its own
        raise TwinError(f"the classifier cannot be made {precision}: {' '.join(str(error).split())}") from error
    model = with_diagnostics(_with_used_domains(reduced), len(source.classes))
    run = Runner(model)

    def logits(inputs: Inputs) -> NDArray[np.float32]:
        return run(inputs, ["logits"])["logits"].astype(np.float32)

    change = _change(precision, source.logits, logits, left, source.classes)
    made = replace(
        source,
        model=model,
        logits=logits,
        # The accuracy that was measured on test rows is not the twin's.
        facts=source.facts.model_copy(update={"precision": precision, "clean_accuracy": None}),
        difference=source.difference + change.difference,
    )
    return made, left, change


def _fp16(head: onnx.ModelProto) -> onnx.ModelProto:
    reduced = OnnxModel(convert_float_to_float16(head, keep_io_types=True))
    reduced.topological_sort()  # the converter leaves its casts at the end
    model: onnx.ModelProto = reduced.model
    return model


def _int8(head: onnx.ModelProto, rows: Inputs) -> onnx.ModelProto:
    with TemporaryDirectory() as folder:
        plain, prepared, quantised = (Path(folder, f"{step}.onnx") for step in ("plain", "prepared", "quantised"))
        onnx.save_model(head, plain)
        # Symbolic shape inference is made for transformers, and needs a package more.
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        for node in model.graph.node:
            node.name = node.output[0]  # a file's own names can be empty or the same
        onnx.save_model(model, prepared)
        quantize_static(
            prepared,
            quantised,
            _Rows(rows),
            nodes_to_exclude=_last_layer(model.graph),
            per_channel=True,
            # Weights of 7 bits: with 8, a CPU without VNNI saturates the 16-bit sums that it adds in pairs, and would
            # give other logits than the one that the twin was calibrated on.
            reduce_range=True,
        )
        return onnx.load(quantised)


def _last_layer(graph: onnx.GraphProto) -> list[str]:
    """Nodes from the last weights to the logits. They stay float32: logits of 255 steps have ties for gaps."""
    made_by = producers(graph)
    names = []
    node = made_by.get(graph.output[0].name)
    while node is not None:
        names.append(node.name)
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            break
        node = next((made_by[name] for name in node.input if name in made_by), None)
    return names


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no type hints
    def __init__(self, rows: Inputs) -> None:
        self._batches = (take_rows(rows, slice(start, start + 64)) for start in range(0, count_rows(rows), 64))

    def get_next(self) -> Inputs | None:
        return next(self._batches, None)


def _change(
    precision: Precision,
    before: Logits,
    after: Logits,
    rows: CleanRows,
    classes: tuple[str, ...],
) -> Change:
    parts = [take_rows(rows.inputs, slice(start, start + BATCH_SIZE)) for start in range(0, len(rows), BATCH_SIZE)]
    full, reduced = (np.concatenate([logits(part) for part in parts]) for logits in (before, after))
    labels = full.argmax(axis=1)
    return Change(
        precision=precision,
        accuracy=rows.accuracy(labels, classes),
        agreement=float((labels == reduced.argmax(axis=1)).mean()),
        difference=float(np.abs(full - reduced).max()),
        largest_logit=float(np.abs(full).max()),
    )


def _with_used_domains(model: onnx.ModelProto) -> onnx.ModelProto:
    """Forget operator sets that the libraries declare and no node uses: a runtime may not know them."""
    used = {node.domain for node in model.graph.node} | {""}
    declared = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(declared)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what the libraries log: advice to whoever calls them, nothing that a user could act on."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)

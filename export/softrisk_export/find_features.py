"""Which tensor of a classifier holds its penultimate features, and how a graph gives them away."""

from difflib import get_close_matches
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from softrisk_core.manifest import FEATURES
from softrisk_export.errors import ExportError
from softrisk_export.graph import CLASSIFIER_PREFIX, classifier
from softrisk_export.onnx_edit import Step, chain, depending_on, exposing, producers
from softrisk_export.runtime import Runner

LARGEST: Final = 4096
"""At most so many features: a covariance has the square of that many numbers."""

_LAYERS: Final[tuple[str, ...]] = ("Gemm", "MatMul", "Conv")

_ROUNDING: Final[tuple[str, ...]] = ("QuantizeLinear", "DequantizeLinear")

_PASSING: Final = (
    *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    *("Add", "Sub", "Mul", "Div", "GlobalAveragePool", "AveragePool", "ReduceMean"),
    *_ROUNDING,
)
"""Operators that may stand between the last layer and the logits: bias, scale, shape and mean."""


def feature_tensor(model: onnx.ModelProto, name: str | None, inputs: NDArray[np.float32]) -> str:
    """The tensor of features, checked on some inputs.

    Args:
        model: With the outputs `DIAGNOSTICS_OUTPUTS`.
        name: The classifier's own name for it; None to look for it.
        inputs: Some clean data, shape (N, …), N ≥ 1.

    Returns:
        The classifier's own name for it.

    Raises:
        ExportError: If there is none, or none that can be taken; the message says what was found and what to do.
    """
    head = classifier(model)
    name = _own_name(_find(head.graph) if name is None else name)
    tensor = _locate(head.graph, name)
    run = Runner(exposing(head, [tensor]))
    for size in (1, 3):
        values = run(inputs[np.arange(size) % len(inputs)], [tensor])[tensor]
        if not np.issubdtype(values.dtype, np.floating) or values.shape[:1] != (size,):
            raise ExportError(
                f"{name} is {values.dtype} of shape {values.shape} for a batch of {size}; features are float of shape "
                "(batch, …): name their tensor with --features"
            )
    if values[0].size > LARGEST:
        raise ExportError(
            f"{name} has {values[0].size:,} values for each input, and a score of features takes {LARGEST:,} at most: "
            "name a smaller tensor with --features, such as one behind a pooling layer, or another score"
        )
    return name


def with_features(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Give away a tensor of a classifier, as float32 of shape (batch, D).

    Args:
        model: With the outputs `DIAGNOSTICS_OUTPUTS`.
        name: The classifier's own name for the tensor.

    Returns:
        A new model with the further output `FEATURES`.

    Raises:
        ExportError: If there is no such tensor.
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    steps = [Step("Cast", attributes={"to": TensorProto.FLOAT}), Step("Flatten", attributes={"axis": 1})]
    nodes, _ = chain(opened.graph, _locate(classifier(model).graph, name), steps, FEATURES + "/")
    nodes[-1].output[0] = FEATURES
    opened.graph.node.extend(nodes)
    opened.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["batch", "features"]))
    return opened


def _find(graph: onnx.GraphProto) -> str:
    """What the last layer with weights reads."""
    made_by, entry = producers(graph), graph.input[0].name
    of_data = depending_on(graph, entry)
    name, found = str(graph.output[0].name), False
    allowed = (*_LAYERS, *_PASSING)
    while (node := made_by.get(name)) is not None and node.op_type in allowed:
        sources = [source for source in node.input if source in of_data]
        if len(sources) != 1:
            break
        name = sources[0]
        if node.op_type in _LAYERS:
            # A twin rounds its features, and calls them as its original does before.
            allowed, found = _ROUNDING, True
    if not found or name == entry:
        raise ExportError(
            "the logits do not come straight from a last layer, a Gemm, MatMul or Conv with weights behind other "
            "layers, so that its features are not found: name their tensor with --features of softrisk export, or "
            "choose another score"
        )
    return name


def _locate(graph: onnx.GraphProto, name: str) -> str:
    """The graph's name for a tensor of the classifier, or for what it is rounded to."""
    tensors = {_own_name(output): str(output) for node in graph.node for output in node.output if output}
    if name not in tensors:
        near = get_close_matches(name, tensors, n=3, cutoff=0.3)
        hint = f"; among those that do are {', '.join(near)}" if near else ""
        raise ExportError(f"no tensor {name!r} leads to the classifier's logits{hint}")
    tensor = tensors[name]
    # An int8 twin goes on with rounded values, and is computed in integers only where nobody asks for others.
    for operator in _ROUNDING:
        readers = (node for node in graph.node if node.op_type == operator and tensor in node.input)
        tensor = next((node.output[0] for node in readers), tensor)
    return tensor


def _own_name(name: str) -> str:
    """As the classifier itself calls a tensor; a twin's are prefixed twice."""
    while name.startswith(CLASSIFIER_PREFIX):
        name = name.removeprefix(CLASSIFIER_PREFIX)
    return name

"""Making a fixed batch dynamic.

A file that was exported for one batch size has it in the shape of its input and, often, in constants further in:
the target of a Reshape, an Expand, a token that is concatenated to every row. Each of these is rebuilt from the
batch size of the actual input. Whether that was all is shown by running the result, never assumed.
"""

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from softrisk_export.onnx_edit import depending_on, exposing
from softrisk_export.runtime import Runner

_PREFIX: Final = "softrisk/batch/"

_SHAPE_INPUT: Final = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0, "Resize": 3}
"""Which input of an operator is a shape."""


def free_batch(model: onnx.ModelProto, entry: str, example: NDArray[np.float32]) -> None:
    """Rebuild what in a graph was fixed to a batch size.

    Args:
        model: With one input; changed in place.
        entry: The input, whose first axis is the batch.
        example: A batch of the size that the model was made for.
    """
    graph, batch = model.graph, len(example)
    dependent = depending_on(graph, entry)
    constants = _constants(model, dependent, example)
    nodes = list(graph.node)
    del graph.node[:]
    graph.initializer.append(numpy_helper.from_array(np.array([0]), _PREFIX + "first"))
    graph.node.append(helper.make_node("Shape", [entry], [_PREFIX + "shape"], name=_PREFIX + "shape"))
    graph.node.append(
        helper.make_node("Gather", [_PREFIX + "shape", _PREFIX + "first"], [_PREFIX + "size"], name=_PREFIX + "size")
    )
    for node in nodes:
        index = _SHAPE_INPUT.get(node.op_type)
        if index is not None and index < len(node.input):
            shape = constants.get(node.input[index])
            # A reshaped weight may begin with the same number without being a batch.
            of_rows = node.op_type != "Reshape" or node.input[0] in dependent
            if shape is not None and of_rows and shape[:1].tolist() == [batch]:
                node.input[index] = _with_batch(graph, shape, f"{_PREFIX}{node.output[0]}")
        elif node.op_type == "Concat" and dependent.intersection(node.input):
            for position, name in enumerate(node.input):
                value = constants.get(name)
                if value is not None and _is_one_row(value, batch) and helper.get_node_attr_value(node, "axis"):
                    node.input[position] = _repeated(graph, value[:1], f"{_PREFIX}{node.output[0]}/{position}")
        graph.node.append(node)


def _constants(
    model: onnx.ModelProto, dependent: set[str], example: NDArray[np.float32]
) -> dict[str, NDArray[np.generic]]:
    """Everything that nodes read and that is the same for every input, found by running the model once."""
    constants = {weights.name: numpy_helper.to_array(weights) for weights in model.graph.initializer}
    read = {name for node in model.graph.node for name in node.input}
    computed = [name for node in model.graph.node for name in node.output if name in read - dependent]
    if computed:
        constants |= Runner(exposing(model, computed))(example, computed)
    return constants


def mixing_node(model: onnx.ModelProto, rows: NDArray[np.float32]) -> str | None:
    """The first node by which rows of a batch change each other; None if there is none.

    Args:
        model: With a batch axis that is dynamic as far as onnxruntime can tell.
        rows: Two rows, different ones.
    """
    names: dict[str, str] = {name: node.name for node in model.graph.node for name in node.output if name}
    run = Runner(exposing(model, names))
    together, first, second = run(rows), run(rows[:1]), run(rows[1:])
    for name, node in names.items():
        found = together[name]
        if not np.issubdtype(found.dtype, np.floating) or not found.ndim or np.array_equal(found, first[name]):
            continue  # neither a value of the rows nor different from that of one row
        apart = np.concatenate([first[name], second[name]])
        if found.shape != apart.shape or not np.allclose(found, apart, rtol=1e-3, atol=1e-3):
            return node
    return None


def _is_one_row(value: NDArray[np.generic], batch: int) -> bool:
    return value.shape[:1] == (batch,) and bool((value == value[:1]).all())


def _with_batch(graph: onnx.GraphProto, shape: NDArray[np.generic], name: str) -> str:
    """A shape that begins with the batch size of the input and goes on as before."""
    if shape.size == 1:
        return _PREFIX + "size"
    graph.initializer.append(numpy_helper.from_array(shape[1:].astype(np.int64), f"{name}/rest"))
    graph.node.append(
        helper.make_node("Concat", [_PREFIX + "size", f"{name}/rest"], [f"{name}/shape"], name=f"{name}/shape", axis=0)
    )
    return f"{name}/shape"


def _repeated(graph: onnx.GraphProto, row: NDArray[np.generic], name: str) -> str:
    """A constant row, once for each row of the input."""
    shape = _with_batch(graph, np.array(row.shape), name)
    graph.initializer.append(numpy_helper.from_array(row, f"{name}/row"))
    graph.node.append(helper.make_node("Expand", [f"{name}/row", shape], [f"{name}/rows"], name=f"{name}/rows"))
    return f"{name}/rows"

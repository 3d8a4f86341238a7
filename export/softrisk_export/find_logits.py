"""Which tensor of an ONNX classifier holds its logits."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from softrisk_export.errors import ForeignModelError
from softrisk_export.onnx_edit import producers

_PASSING: Final = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that leave the values of a prediction as they are."""


def find_logits(model: onnx.ModelProto, outputs: Mapping[str, Any]) -> str:
    """The tensor before the final Softmax, LogSoftmax or Sigmoid, or the output itself if there is none.

    Args:
        model: The file.
        outputs: Its outputs by name, for one batch.

    Raises:
        ForeignModelError: If no output, or more than one, looks like class scores, or the classes do not exclude
            each other.
    """
    scores = [name for name, value in outputs.items() if _is_class_scores(value)]
    if len(scores) != 1:
        listed = "; ".join(f"{name}: {_describe(value)}" for name, value in outputs.items())
        problem = "none of the outputs" if not scores else "more than one of the outputs"
        raise ForeignModelError(
            f"{problem} looks like class scores, float of shape (batch, classes): {listed}; name the tensor that "
            "holds the logits with --logits"
        )
    made_by = producers(model.graph)
    name = scores[0]
    while (node := made_by.get(name)) is not None:
        if node.op_type in ("Softmax", "LogSoftmax"):
            return str(node.input[0])
        if node.op_type == "Sigmoid":
            classes = np.asarray(outputs[scores[0]]).reshape(len(outputs[scores[0]]), -1).shape[1]
            if classes > 1:
                raise ForeignModelError(
                    f"{scores[0]} ends in a Sigmoid over {classes} classes that do not exclude each other; softrisk "
                    "takes classifiers that choose one class"
                )
            return str(node.input[0])
        if node.op_type not in _PASSING:
            break
        name = node.input[0]
    return scores[0]


def check_logits(name: str, values: NDArray[np.floating], *, is_output: bool) -> None:
    """Refuse values that are probabilities rather than logits.

    Args:
        name: Of the tensor.
        values: Shape (N, C), on real data.
        is_output: Whether it is an output of the file. A single value in [0, 1] is a probability there, but may well
            be a logit in front of a Sigmoid.

    Raises:
        ForeignModelError: If every row lies in [0, 1] and, for more than one class, sums to 1.
    """
    within = bool(((values >= 0) & (values <= 1)).all())
    if within and (is_output if values.shape[1] == 1 else np.allclose(values.sum(axis=1), 1, atol=1e-3)):
        raise ForeignModelError(
            f"{name} holds probabilities, not logits, and no Softmax or Sigmoid was found behind which the logits "
            "would be; name the tensor that holds them with --logits"
        )


def _is_class_scores(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray)
        and np.issubdtype(value.dtype, np.floating)
        and value.ndim >= 1
        and value.shape[2:] == (1,) * len(value.shape[2:])
    )


def _describe(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"

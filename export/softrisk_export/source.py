"""What an export starts from, whoever made the model: a graph with diagnostics, and what is known about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.manifest import InputSpec, ModelFacts
from softrisk_training.data import ImageData

Logits = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Source:
    """A classifier on its way into a bundle.

    Attributes:
        model: Graph with the outputs `DIAGNOSTICS_OUTPUTS`, not yet calibrated.
        logits: The same classifier as it came: inputs (B, …) → logits (B, C).
        input: The graph's input.
        classes: Class names by label.
        facts: For the manifest.
        seen_rows: Digests of the rows that the model has seen in training, if known.
        tools: Versions of what made the model what it is here.
        difference: How far the logits of `logits` are already known to be from the model that was first exported.
    """

    model: onnx.ModelProto
    logits: Logits
    input: InputSpec
    classes: tuple[str, ...]
    facts: ModelFacts
    seen_rows: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    tools: Mapping[str, str] = field(default_factory=dict)
    difference: float = 0.0


@dataclass(frozen=True)
class CleanRows:
    """Held-out clean data.

    Attributes:
        inputs: Shape (n, …), float32, as the model receives them.
        labels: Shape (n,).
        data: Which data, for people.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]
    data: str

    @classmethod
    def of(cls, data: ImageData, rows: NDArray[np.int64] | None = None, part: str = "all rows") -> "CleanRows":
        """Some rows of a data set, by default all, and what to call this part of it."""
        chosen = np.arange(len(data.labels)) if rows is None else rows
        return cls(inputs=data.inputs(chosen), labels=data.labels[chosen], data=f"{data.source}, {part}")


def check_shape(rows: CleanRows, spec: InputSpec) -> None:
    """Refuse clean data that the model cannot take.

    Raises:
        CalibrationError: If a row has another shape than an instance of the input.
    """
    if rows.inputs.shape[1:] != spec.instance_shape:
        raise CalibrationError(
            f"the model takes inputs of shape {spec.instance_shape}, but the rows of {rows.data} have "
            f"{rows.inputs.shape[1:]}; calibrate on data of the same shape"
        )


def same_location(first: str, second: str) -> bool:
    """Whether two locations, as `load_data` takes them, are the same."""
    return first == second or Path(first).expanduser().resolve() == Path(second).expanduser().resolve()

"""What goes into a model and what comes out, on its way between codecs, batcher and runtime."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from softrisk_core.manifest import InputSpec

Inputs = Mapping[str, NDArray[np.float32]]
"""By name, each (B, …) with the same B ≥ 1."""

Outputs = dict[str, NDArray[Any]]
"""Every one of the manifest's `outputs` by name, each (B,) or (B, C)."""


def with_missing(inputs: Inputs, specs: Sequence[InputSpec]) -> Inputs:
    """The inputs that came, with zeros for those that were left out.

    Args:
        inputs: One at least, and all that may not be left out.
        specs: All inputs of the model.
    """
    if len(inputs) == len(specs):
        return inputs
    rows = len(next(iter(inputs.values())))
    missing = (spec for spec in specs if spec.name not in inputs)
    return {**inputs, **{spec.name: np.zeros((rows, *spec.instance_shape), np.float32) for spec in missing}}


def present(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which instances have an input that may be left out: to the graph one that is all zero is missing.

    Args:
        values: Of the input, shape (B, …).

    Returns:
        Shape (B,).
    """
    found: NDArray[np.bool_] = np.any(values.reshape(len(values), -1), axis=1)
    return found


@dataclass(eq=False, slots=True)
class Batch:
    """What one run of a model gave, for all requests in it.

    Attributes:
        outputs: All rows.
        ranks: The output `rank` as Python integers.
        labels: The output `label` likewise.
        renderings: What a codec made of all rows at once, for the other requests of the batch: rendering a row alone
            costs as much as rendering many.
    """

    outputs: Outputs
    ranks: list[int]
    labels: list[int]
    renderings: dict[Hashable, Any] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Rows:
    """The rows of a batch that belong to one request."""

    batch: Batch
    start: int
    stop: int

    @property
    def outputs(self) -> Outputs:
        """These rows of every output, as views."""
        return {name: array[self.start : self.stop] for name, array in self.batch.outputs.items()}

    @property
    def ranks(self) -> list[int]:
        """Their ranks."""
        return self.batch.ranks[self.start : self.stop]

    @property
    def labels(self) -> list[int]:
        """Their labels."""
        return self.batch.labels[self.start : self.stop]

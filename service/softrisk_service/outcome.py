"""What goes into a model and what comes out, on its way between codecs, batcher and runtime."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Inputs = Mapping[str, NDArray[np.float32]]
"""By name, each (B, …) with the same B ≥ 1."""

Outputs = dict[str, NDArray[Any]]
"""Every one of `softrisk_core.manifest.OUTPUTS` by name, each (B,) or (B, C)."""


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

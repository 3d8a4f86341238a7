"""Rows of pairs as a model's encoders see them: planes, computed once, since no front end learns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softrisk_core.rows import Inputs
from softrisk_training.multimodal.modality import Modality
from softrisk_training.multimodal.model import front_end_of

BATCH: Final = 256


@dataclass(frozen=True)
class Rows:
    """Planes with labels.

    Attributes:
        planes: Of each modality, (N, channels, height, width).
        labels: Shape (N,).
    """

    planes: Sequence[Tensor]
    labels: Tensor

    def select(self, rows: NDArray[np.int64]) -> "Rows":
        """Some of the rows."""
        index = torch.from_numpy(rows)
        return Rows([plane[index] for plane in self.planes], self.labels[index])

    def batches(self, size: int) -> Iterator["Rows"]:
        """All rows, so many at a time."""
        for start in range(0, len(self.labels), size):
            part = slice(start, start + size)
            yield Rows([plane[part] for plane in self.planes], self.labels[part])


def planes_of(inputs: Inputs, modalities: Sequence[Modality]) -> list[Tensor]:
    """Planes of all rows, (N, channels, height, width) for each modality."""
    planes = []
    for modality, values in zip(modalities, inputs.values(), strict=True):
        front_end, tensor = front_end_of(modality), torch.from_numpy(values)
        with torch.no_grad():
            planes.append(torch.cat([front_end(part) for part in torch.split(tensor, BATCH)]))
    return planes

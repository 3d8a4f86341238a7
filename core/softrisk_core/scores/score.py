"""What every nonconformity score is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Score(ABC):
    """A function of logits whose larger values are stranger, and whose rank among clean ones is the risk."""

    @property
    @abstractmethod
    def name(self) -> str:
        """As it is typed and as it stands in a manifest: `gen`, `logit_gap:low`."""

    @property
    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """What was fitted on clean data; empty where nothing is. float32, as in the graph."""
        return {}

    @abstractmethod
    def __call__(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Scores of logits.

        Args:
            logits: Shape (B, C), C ≥ 2, finite.

        Returns:
            Shape (B,), finite.

        Raises:
            ValueError: If the shape is not (B, C) with C ≥ 2.
        """

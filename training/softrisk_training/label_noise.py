"""Wrong labels on purpose, to see what a loss forgives."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_training.data import ImageData

LABEL_STREAM: Final = 2
"""Third part of the seed (seed, 0, …) of the wrong labels, which nothing else in training uses."""


def with_label_noise(data: ImageData, rows: NDArray[np.int64], share: float, seed: int) -> ImageData:
    """The same images with symmetric label noise on some rows: each chosen label becomes any other class.

    Args:
        data: With true labels; it is not changed.
        rows: The training rows. Labels of other rows stay true.
        share: Of the rows whose label becomes wrong, in [0, 1]; rounded to whole rows.
        seed: Decides which rows, and which classes.
    """
    generator = np.random.default_rng([seed, 0, LABEL_STREAM])
    chosen = generator.choice(rows, round(share * len(rows)), replace=False)
    labels = data.labels.copy()
    classes = len(data.classes)
    # From 1 on, and around: every class but the true one, all equally likely.
    labels[chosen] = (labels[chosen] + generator.integers(1, classes, len(chosen))) % classes
    return replace(data, labels=labels)

"""Four disjoint row lists, without which no false-alarm promise holds."""

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from softrisk_training.errors import DataError

TEST_SHARE: Final = 1 / 5
CALIBRATION_SHARE: Final = 1 / 6
SELECTION_SHARE: Final = 1 / 12


class LabelledRows(Protocol):
    """Labelled data of any kind: images, recordings."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Shape (N,)."""

    @property
    def test_rows(self) -> NDArray[np.int64] | None:
        """Rows of the test split that the source publishes."""

    @property
    def location(self) -> str:
        """Where they are, for messages."""

    def digests(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Content digests."""


@dataclass(frozen=True)
class Splits:
    """Row numbers into labelled data; no row, and no content, is in two of the lists.

    Attributes:
        training: Rows that the weights are fitted to, int64.
        selection: Rows that choices are made on: settings, scores, epochs.
        calibration: Rows that give the clean scores behind every p-value.
        test: Rows that are measured on once, at the end.
        dropped: How many rows are in none of the lists because their content is in one already.
    """

    training: NDArray[np.int64]
    selection: NDArray[np.int64]
    calibration: NDArray[np.int64]
    test: NDArray[np.int64]
    dropped: int = 0


def split_rows(data: LabelledRows, seed: int) -> Splits:
    """Split by class: the published test rows or 20 % for test; of the rest 1/6 calibration and 1/12 selection.

    The promise of a flag rests on calibration and test rows being exchangeable: a random split of one pool. So repeated
    contents go before the split, and of each content its first row stays. Dropped after the split, the repeats of a
    test row would be missing from calibration but stay in the test, and contents that repeat would be judged by a
    calibration that hardly knows them.

    Published test rows are kept as they are, repeats included, and what occurs in them is dropped from the pool of the
    other lists. Calibration and test rows are then not one pool, and exchangeable only as far as whoever published
    the test rows drew them at random and without repeats.

    Args:
        data: The data.
        seed: Decides which rows go where; the same seed gives the same lists.

    Raises:
        DataError: If the data are too small for each list to get a row.
    """
    generator = np.random.default_rng(seed)
    rows = np.arange(len(data.labels), dtype=np.int64)
    if data.test_rows is None:
        test, rest = _take(_distinct(data, rows), data.labels, TEST_SHARE, generator)
    else:
        test, others = data.test_rows, np.setdiff1d(rows, data.test_rows)
        rest = _distinct(data, others[~np.isin(data.digests(others), data.digests(test))])
    calibration, remaining = _take(rest, data.labels, CALIBRATION_SHARE, generator)
    # A share of what is left, chosen so that it is SELECTION_SHARE of what there was.
    selection, training = _take(remaining, data.labels, SELECTION_SHARE / (1 - CALIBRATION_SHARE), generator)

    splits = Splits(training, selection, calibration, test, dropped=len(rows) - len(test) - len(rest))
    if any(len(each) == 0 for each in (training, selection, calibration, test)):
        raise DataError(
            f"{data.location} has too few rows ({len(rows)}) to be split into training, selection, calibration and"
            " test; a few dozen for each class are the least"
        )
    return splits


def _distinct(data: LabelledRows, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first row of each content, in ascending order."""
    _, first = np.unique(data.digests(rows), return_index=True)
    return np.sort(rows[first])


def _take(
    rows: NDArray[np.int64], labels: NDArray[np.int64], share: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A share of every class, and the rest, both in ascending order."""
    taken = []
    for label in np.unique(labels[rows]):
        members = generator.permutation(rows[labels[rows] == label])
        taken.append(members[: round(len(members) * share)])
    chosen = np.sort(np.concatenate(taken)) if taken else rows[:0]
    return chosen, np.setdiff1d(rows, chosen)

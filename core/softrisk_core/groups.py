"""Calibration groups: which calibration scores an input is compared with.

A key of the input decides (Mondrian conformal prediction: Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random
World*). It is its predicted label, or its presence case (`softrisk_core.presence`), and then each case is a group. In
the marginal case there is one group for all labels; otherwise a label that is predicted often enough has a group of its
own, and all others share one, so that each group can flag. A class whose group could not flag would be a hole that an
attacker steers to.
"""

import math
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from softrisk_core.conformal import Guarantee, calibration_size_for, marginal_rank, rank_limit, ranks
from softrisk_core.errors import CalibrationError

_FLAGS_OF_ITS_OWN: Final = 2
"""Ranks that a class must be able to flag to have a group of its own. With one, the realised rate would be a draw from
Beta(1, n_c), up to three times α at 95 %."""

_ROUNDING: Final = 1e-9
"""Allowance for 2/α being an integer in exact arithmetic but just above one in float64."""


@dataclass(frozen=True)
class Grouping:
    """The groups of a calibration.

    Attributes:
        of_key: The group of each key, shape (K,): of each label, or of each case.
        sizes: Number of calibration scores of each group, shape (G,).
    """

    of_key: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def marginal(cls, n: int, classes: int) -> Self:
        """One group for all of C labels, with n scores."""
        return cls((0,) * classes, (n,))

    @classmethod
    def by_case(cls, n: int, cases: int) -> Self:
        """A group of n scores for each presence case."""
        return cls(tuple(range(cases)), (n,) * cases)

    @property
    def is_marginal(self) -> bool:
        """Whether there is one group for all keys."""
        return len(self.sizes) == 1

    @property
    def size_of_key(self) -> tuple[int, ...]:
        """Number of calibration scores that an input with each key is compared with, shape (K,)."""
        return tuple(self.sizes[group] for group in self.of_key)

    def keys(self, group: int) -> tuple[int, ...]:
        """The keys of a group, ascending."""
        return tuple(key for key, each in enumerate(self.of_key) if each == group)

    def groups(self, keys: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The group of each row, by its key; both of shape (B,)."""
        groups: NDArray[np.int64] = np.array(self.of_key)[keys]
        return groups

    def sort(self, scores: NDArray[np.float32], keys: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Scores of calibration rows as they are kept: group after group, ascending within each.

        Args:
            scores: Shape (n,).
            keys: Of the rows, shape (n,).
        """
        groups = self.groups(keys)
        return np.concatenate([np.sort(scores[groups == group]) for group in range(len(self.sizes))])

    def split(self, sorted_scores: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The scores of each group, ascending, from all as they are kept, shape (n,)."""
        return np.split(sorted_scores, np.cumsum(self.sizes)[:-1])

    def ranks(
        self, scores: NDArray[np.floating], keys: NDArray[np.integer[Any]], sorted_scores: NDArray[np.float32]
    ) -> NDArray[np.int64]:
        """Conformal ranks, each among the scores of its row's group.

        Args:
            scores: Shape (B,).
            keys: Of the rows, shape (B,).
            sorted_scores: Calibration scores as they are kept, shape (n,).

        Returns:
            Shape (B,), each in 1 … n_g + 1 with the size n_g of the row's group.
        """
        groups = self.groups(keys)
        found = np.empty(len(scores), np.int64)
        for group, own in enumerate(self.split(sorted_scores)):
            found[groups == group] = ranks(scores[groups == group], own)
        return found

    def p_values(self, ranks: NDArray[np.integer[Any]], keys: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """p-values of ranks in the groups of their rows' keys, all of shape (B,). Equal ones are equal floats."""
        p_values: NDArray[np.float64] = ranks / (np.array(self.size_of_key)[keys] + 1)
        return p_values

    def check_alpha(self, alpha: float, guarantee: Guarantee = "marginal") -> None:
        """Refuse a false-alarm rate that one of the groups cannot serve.

        Raises:
            CalibrationError: With the number of scores that the smallest group would need.
        """
        try:
            rank_limit(alpha, min(self.sizes), guarantee)
        except CalibrationError as error:
            if self.is_marginal:
                raise
            raise CalibrationError(f"in the smallest of {len(self.sizes)} calibration groups, {error}") from error

    def rank_limits(self, alpha: float, guarantee: Guarantee = "marginal") -> tuple[int, ...]:
        """Largest flagged rank of an input with each key, shape (K,): flagged ⇔ rank ≤ that of its key.

        Raises:
            CalibrationError: If α is out of range, or one of the groups is too small for it.
        """
        self.check_alpha(alpha, guarantee)
        limits = [rank_limit(alpha, n, guarantee) for n in self.sizes]
        return tuple(limits[group] for group in self.of_key)


def group_by_class(labels: NDArray[np.integer[Any]], classes: int, alpha: float) -> Grouping:
    """Give each label that is predicted for n_c ≥ 2/α calibration rows a group of its own; the others share the last.

    Where these have too few rows together to flag anything, the smallest own group joins them.

    Args:
        labels: Predicted labels of the calibration rows, shape (n,).
        classes: Number of classes C.
        alpha: Default false-alarm rate of the flag, in [1/(n + 1), 1).

    Raises:
        CalibrationError: If that leaves a single group, which would be a marginal calibration.
    """
    counts = np.bincount(labels, minlength=classes)
    enough = math.ceil(_FLAGS_OF_ITS_OWN / alpha - _ROUNDING)
    own = np.flatnonzero(counts >= enough).tolist()
    shared = np.flatnonzero(counts < enough).tolist()
    if own and shared and marginal_rank(alpha, int(counts[shared].sum())) < 1:
        # One is enough for them all: it could flag by itself.
        smallest = min(own, key=lambda label: int(counts[label]))
        own.remove(smallest)
        shared.append(smallest)
    groups = [[label] for label in own] + ([shared] if shared else [])
    if len(groups) == 1:
        raise CalibrationError(
            f"alpha = {alpha} leaves all classes in one group: a class needs {enough} calibration rows with its "
            f"prediction for a group of its own, and the others at least {calibration_size_for(alpha)} together; give "
            "more rows, or calibrate without --per-class"
        )
    of_label = np.empty(classes, np.int64)
    for group, members in enumerate(groups):
        of_label[members] = group
    return Grouping(tuple(of_label.tolist()), tuple(int(counts[members].sum()) for members in groups))

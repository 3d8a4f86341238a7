"""What is left of the promise when classes come in other shares than in the calibration data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from softrisk_core.conformal import marginal_rank, ranks

labelled_scores = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5).map(float)), min_size=2, max_size=60)
CALIBRATION_SHARES = np.array([0.90, 0.09, 0.01])
ALPHA = 0.05


@given(labelled_scores, st.floats(0.02, 0.5))
def test_a_class_is_flagged_at_most_alpha_over_its_share(pool: list[tuple[int, float]], alpha: float) -> None:
    """Each row in turn against the others, as in the proof of the promise: exact, no sampling."""
    labels, scores = np.array([label for label, _ in pool]), np.array([score for _, score in pool])
    limit = marginal_rank(alpha, len(pool) - 1)
    flagged = np.array([ranks(scores[i : i + 1], np.delete(scores, i))[0] <= limit for i in range(len(pool))])
    shares = np.array([np.mean(labels == label) for label in np.unique(labels)])
    rates = np.array([flagged[labels == label].mean() for label in np.unique(labels)])
    assert np.all(rates <= alpha / shares + 1e-12)
    # Any other mix of the same classes is at most as bad as its most inflated class.
    for mix in (np.full(len(shares), 1 / len(shares)), rates / rates.sum() if rates.any() else shares):
        assert mix @ rates <= alpha * (mix / shares).max() + 1e-12


@pytest.mark.parametrize(
    ("mix", "least", "most"),
    [
        (CALIBRATION_SHARES, 0.04, 0.06),
        # The rare class is the strange one: its requests are flagged far more often than α, and so is a stream of them.
        (np.array([0.0, 0.0, 1.0]), 0.60, 1.0),
        (np.array([1.0, 0.0, 0.0]), 0.0, 0.04),
    ],
    ids=["same-mix", "only-the-rare-class", "only-the-common-class"],
)
def test_the_rate_follows_the_mix_of_classes(mix: NDArray[np.float64], least: float, most: float) -> None:
    generator = np.random.default_rng(0)

    def draw(shares: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        return generator.normal(np.array([0.0, 1.0, 3.0])[generator.choice(3, size=size, p=shares)], 1.0)

    calibration = draw(CALIBRATION_SHARES, 10_000)
    flagged = ranks(draw(mix, 20_000), calibration) <= marginal_rank(ALPHA, calibration.size)
    assert least <= flagged.mean() <= most

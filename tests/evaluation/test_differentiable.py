"""Scores with a gradient are the scores of the reference."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from softrisk_core.scores.catalogue import SCORES, find_score
from softrisk_core.scores.score import Score
from softrisk_evaluation.differentiable import differentiable


def logits(rows: int, seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(rows, 6))
    z[np.arange(rows), generator.integers(6, size=rows)] += generator.gamma(6, 1, rows)
    return z


def made(name: str) -> Score:
    recipe = find_score(name)
    return recipe.load({}) if recipe.fit is None else recipe.fit(logits(600, 0))


@pytest.mark.parametrize("name", SCORES)
def test_value_and_slope_are_those_of_the_reference(name: str) -> None:
    score, at = made(name), logits(40, 1)
    points = torch.from_numpy(at).requires_grad_()
    values = differentiable(score)(points)
    np.testing.assert_allclose(values.detach().numpy(), score(at), rtol=1e-9, atol=1e-9)

    (slopes,) = torch.autograd.grad(values.sum(), points)
    assert bool(slopes.isfinite().all())
    step = 1e-6
    for column in range(6):
        ahead, behind = at.copy(), at.copy()
        ahead[:, column] += step
        behind[:, column] -= step
        difference = (score(ahead) - score(behind)) / (2 * step)
        # Kinks (of sorting, of quantiles) may lie between the two points of a row or so.
        wrong = ~np.isclose(slopes[:, column].numpy(), difference, rtol=1e-3, atol=1e-5)
        assert wrong.sum() <= 2


@pytest.mark.parametrize("name", ["msp", "doctor", "gen", "logit_gap:low", "entropy:high"])
def test_a_sure_prediction_still_has_a_slope(name: str) -> None:
    points = torch.tensor([[60.0, 20.0, 0.0, -3.0, 1.0, 2.0]], requires_grad=True)
    (slopes,) = torch.autograd.grad(differentiable(made(name))(points).sum(), points)
    assert bool(slopes.isfinite().all())
    assert float(slopes.abs().max()) > 0

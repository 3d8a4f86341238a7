"""Scores with a gradient are the scores of the reference."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_core.probes import PROBES, Blur, Flip, GreyLevels, Noise, Probe, Shift, draw_noise, make_probes
from softrisk_core.roughness import roughness
from softrisk_core.scores.catalogue import SCORES, find_score
from softrisk_core.scores.combined import Combination, GatedCombination, fit_edges
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_core.scores.features import features
from softrisk_core.scores.score import FeatureScore, LogitScore, Score
from softrisk_evaluation import differentiable_images
from softrisk_evaluation.differentiable import differentiable, with_other_noise

ON_LOGITS = tuple(name for name in SCORES if find_score(name).needs in ("nothing", "logits"))
NOISE = draw_noise((3, 8, 8), seed=0)
SMOOTH: tuple[Probe, ...] = (Flip(), Shift(), Noise(NOISE), Blur())
"""The probes that have slopes of their own."""

ALWAYS = np.array([-np.inf, np.inf], np.float32)
NEVER = np.array([1e9, 1e9], np.float32)


def logits(rows: int, seed: int) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    z = generator.normal(size=(rows, 6))
    z[np.arange(rows), generator.integers(6, size=rows)] += generator.gamma(6, 1, rows)
    return z


def made(name: str) -> LogitScore:
    recipe = find_score(name)
    score: Score = recipe.load({}, ()) if recipe.fit is None else recipe.fit(logits(600, 0))
    assert isinstance(score, LogitScore)
    return score


def never(points: Tensor) -> Tensor:
    raise AssertionError("the score looks at logits alone")


def of_logits(score: Score, z: Tensor) -> Tensor:
    return differentiable(score)(never, torch.empty(0), z)


@pytest.mark.parametrize("name", ON_LOGITS)
def test_value_and_slope_are_those_of_the_reference(name: str) -> None:
    score, at = made(name), logits(40, 1)
    points = torch.from_numpy(at).requires_grad_()
    values = of_logits(score, points)
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
    (slopes,) = torch.autograd.grad(of_logits(made(name), points).sum(), points)
    assert bool(slopes.isfinite().all())
    assert float(slopes.abs().max()) > 0


@dataclass(frozen=True)
class Asked:
    """A classifier of images in float64, with images and scores that are fitted to others like them."""

    classifier: nn.Module
    images: NDArray[np.float64]
    plain: Combination
    full: Combination

    def logits(self, images: NDArray[np.floating]) -> NDArray[np.float64]:
        with torch.no_grad():
            z: Tensor = self.classifier(torch.from_numpy(np.asarray(images, np.float64)))
        return z.numpy()

    def evidence(self, score: Score, images: NDArray[np.float64]) -> Evidence:
        return observe(self.logits, images, score.probes)  # type: ignore[arg-type]  # float64 for small differences

    def value_and_slope(self, score: Score) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        points = torch.from_numpy(self.images).requires_grad_()
        values = differentiable(score)(self.classifier, points, self.classifier(points))
        (slopes,) = torch.autograd.grad(values.sum(), points)
        return values.detach().numpy(), slopes.numpy()


def ask(probes: tuple[Probe, ...]) -> Asked:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 6)).double()
    generator = np.random.default_rng(0)
    images = generator.uniform(0.2, 0.8, size=(300, 3, 8, 8))
    asked = Asked(classifier, images[:12], *[None] * 2)  # type: ignore[arg-type]

    def fitted(asks: tuple[Probe, ...]) -> Combination:
        nothing = np.empty(0, np.float32)
        seen = features(asked.evidence(Combination(nothing, nothing, np.float32(0), asks), images))
        weights = generator.normal(size=2 * seen.shape[1]).astype(np.float32)
        return Combination(fit_edges(seen), weights, np.float32(0.3), asks)

    return Asked(classifier, asked.images, fitted(()), fitted(probes))


@pytest.fixture(scope="module")
def asked() -> Asked:
    return ask(SMOOTH)


def gated(asked: Asked, share: float) -> GatedCombination:
    """With a gate that leaves about this share undecided, in the middle of its scores."""
    scores = asked.plain.of(asked.evidence(asked.plain, asked.images))
    limits = np.quantile(scores, [0.5 - share / 2, 0.5 + share / 2]).astype(np.float32)
    return GatedCombination(asked.plain, asked.full, limits)


SCORES_OF_IMAGES: dict[str, Callable[[Asked], Score]] = {
    "combined": lambda asked: asked.plain,
    "probed always": lambda asked: GatedCombination(asked.plain, asked.full, ALWAYS),
    "probed where undecided": lambda asked: gated(asked, 0.5),
    "never probed": lambda asked: GatedCombination(asked.plain, asked.full, NEVER),
}


@pytest.mark.parametrize("name", SCORES_OF_IMAGES)
def test_value_and_slope_of_a_score_of_images_are_those_of_the_reference(name: str, asked: Asked) -> None:
    score = SCORES_OF_IMAGES[name](asked)
    values, slopes = asked.value_and_slope(score)
    expected = score.of(asked.evidence(score, asked.images))
    np.testing.assert_allclose(values, expected, rtol=1e-7, atol=1e-6)
    if isinstance(score, GatedCombination):
        assert score.was_probed(values).sum() == {"always": 12, "undecided": 6, "probed": 0}[name.split()[-1]]

    generator = np.random.default_rng(1)
    step = 1e-6
    right = 0
    for _ in range(5):
        along = generator.normal(size=asked.images.shape)
        ahead, behind = (score.of(asked.evidence(score, asked.images + side * step * along)) for side in (1.0, -1.0))
        right += np.isclose(
            (slopes * along).sum(axis=(1, 2, 3)), (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-3
        ).sum()
    # Kinks may lie between the two points, and beyond its outer edges a feature is flat in the reference alone.
    assert right >= 0.85 * 5 * len(values)


@pytest.mark.parametrize("probe", make_probes(PROBES, NOISE), ids=PROBES)
def test_probes_change_images_as_the_reference_does(probe: Probe, asked: Asked) -> None:
    images = np.random.default_rng(2).uniform(size=(4, 3, 8, 8)).astype(np.float32)
    found = differentiable_images.probed(probe, torch.from_numpy(images))
    np.testing.assert_array_equal(found.numpy(), probe(images))


def test_roughness_of_grey_images_and_of_flat_ones_is_that_of_the_reference() -> None:
    images = np.random.default_rng(3).uniform(size=(4, 1, 8, 8)).astype(np.float32)
    images[0] = 0.5
    points = torch.from_numpy(images).requires_grad_()
    found = differentiable_images.roughness(points)
    np.testing.assert_allclose(found.detach().numpy(), roughness(images), rtol=1e-9, atol=1e-9)
    (slopes,) = torch.autograd.grad(found.sum(), points)
    assert bool(slopes.isfinite().all())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_flat_image_has_a_way_up_to_more_roughness_and_none_down(channels: int) -> None:
    points = torch.full((1, channels, 8, 8), 0.5, requires_grad=True)
    before = differentiable_images.roughness(points)
    for layer in range(0, 8 if channels > 1 else 4, 4):
        for column in (layer, layer + 1):
            up, down = (torch.autograd.grad(s * before[0, column], points, retain_graph=True)[0] for s in (1, -1))
            assert not down.any()
            after = differentiable_images.roughness(points.detach() + 0.01 * up.sign())
            assert float(after[0, column]) > float(before[0, column].detach()) + 1
            if layer == 0:
                assert bool((up != 0).all())


def test_an_attacker_sees_through_the_rounding_of_grey_levels() -> None:
    asked = ask((GreyLevels(),))
    score = GatedCombination(asked.plain, asked.full, ALWAYS)
    values, slopes = asked.value_and_slope(score)
    np.testing.assert_allclose(values, score.of(asked.evidence(score, asked.images)), rtol=1e-6, atol=1e-5)
    images = torch.rand(2, 3, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(differentiable_images.probed(GreyLevels(), images).sum(), images)
    np.testing.assert_array_equal(slope.numpy(), 1)
    assert (np.abs(slopes).max(axis=(1, 2, 3)) > 0).all()


def test_a_feature_beyond_its_outer_edge_leads_back(asked: Asked) -> None:
    # Nothing but the logit gap is weighed, and nobody has one as large as its smallest edge.
    edges = asked.plain.edges.copy()
    edges[0] += 100
    weights = np.zeros_like(asked.plain.weights)
    weights[0] = 1
    score = Combination(edges, weights, np.float32(0))
    values, slopes = asked.value_and_slope(score)
    np.testing.assert_allclose(values, -6, rtol=1e-6)
    assert (np.abs(slopes).max(axis=(1, 2, 3)) > 0).all()


def test_other_noise_changes_the_noise_and_nothing_else(asked: Asked) -> None:
    score = gated(asked, 0.5)
    other = with_other_noise(score, seed=1)
    assert other.probes[:2] == score.probes[:2]
    (mine, theirs) = (next(p for p in each.probes if isinstance(p, Noise)).values for each in (score, other))
    assert mine.shape == theirs.shape
    assert not np.array_equal(mine, theirs)
    assert (other.full.edges is score.full.edges, other.gate is score.gate) == (True, True)
    np.testing.assert_array_equal(other.limits, score.limits)


@pytest.mark.parametrize("name", ["mahalanobis", "knn"])
def test_scores_of_features_have_the_value_and_the_slope_of_the_reference(name: str) -> None:
    asked = ask(())
    hidden, last = asked.classifier[:3], asked.classifier[3]  # type: ignore[index]  # nn.Sequential

    def features_of(images: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            values: NDArray[np.float64] = hidden(torch.from_numpy(images)).numpy()
        return values

    images = np.random.default_rng(1).uniform(0.2, 0.8, size=(300, 3, 8, 8))
    seen = features_of(images)
    z = last(torch.from_numpy(seen)).detach().numpy()
    score = find_score(name).made_from(Evidence(z, images.astype(np.float32), np.empty((0, 300, 6)), seen))
    assert isinstance(score, FeatureScore)
    values, slopes = asked.value_and_slope(score)
    np.testing.assert_allclose(values, score(features_of(asked.images)), rtol=1e-9)
    step, direction = 1e-6, np.random.default_rng(2).normal(size=asked.images.shape)
    ahead, behind = (score(features_of(asked.images + sign * step * direction)) for sign in (1, -1))
    expected = (ahead - behind) / (2 * step)
    # Between the two points another mean, or another row, may become the nearest.
    assert np.isclose((slopes * direction).sum(axis=(1, 2, 3)), expected, rtol=1e-4, atol=1e-6).sum() >= 11

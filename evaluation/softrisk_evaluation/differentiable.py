"""Scores as functions of torch images and logits, so that an attacker who knows the score has its gradient.

The reference is `softrisk_core.scores`; a test holds each score here to it. Computed in float64, as there: where a sure
prediction saturates float32, the attacker would have no gradient and the evaluation would flatter the score. For the
same reason a score that is flat or jumps has a slope here all the same; its values are always the exact ones.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.adaptive import Classifier, Scoring
from softrisk_core.probes import Noise, draw_noise
from softrisk_core.scores.combined import NORMAL_SCORES, Combination, GatedCombination
from softrisk_core.scores.diagnostic import OneSided, TwoSided
from softrisk_core.scores.doctor import Doctor
from softrisk_core.scores.features import WEIGHED
from softrisk_core.scores.gen import GAMMA, GEN, LARGEST
from softrisk_core.scores.kl_matching import KLMatching
from softrisk_core.scores.knn import KNN, NEAREST
from softrisk_core.scores.knn import TINY as SHORTEST
from softrisk_core.scores.mahalanobis import Mahalanobis
from softrisk_core.scores.msp import MSP
from softrisk_core.scores.profile import LogitProfile
from softrisk_core.scores.score import FeatureScore, Score
from softrisk_evaluation.differentiable_images import probed, roughness, straight_through

_TINY: Final = 1e-300


def differentiable(score: Score) -> Scoring:
    """A score with a gradient.

    Args:
        score: One of `softrisk_core.scores`.

    Returns:
        From classifier, points and logits to the score in float64, shape (B,).

    Raises:
        TypeError: If it is not known here.
    """
    match score:
        case Combination():
            return partial(_combination, score)
        case GatedCombination():
            return partial(_gated, score)
        case FeatureScore():
            return partial(_of_features, score)
    of_sorted = _of_sorted(score)
    return lambda classifier, points, logits: of_sorted(logits.double(), _sorted(logits))


def with_other_noise(score: GatedCombination, seed: int) -> GatedCombination:
    """The score as someone takes it to be who does not know the stored noise, and draws other by this seed.

    Args:
        score: One that probes with noise.
        seed: Of the draw.
    """
    probes = tuple(
        Noise(draw_noise(probe.values.shape, seed)) if isinstance(probe, Noise) else probe for probe in score.probes
    )
    return replace(score, full=replace(score.full, asks=probes))


def _sorted(logits: Tensor) -> Tensor:
    return logits.double().sort(dim=1, descending=True, stable=True).values


def _combination(score: Combination, classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
    features = _features(score, classifier, points, logits)
    edges, levels, weights = (_double(each, features) for each in (score.edges, NORMAL_SCORES, score.weights))
    normal = _normal_scores(features, edges.contiguous(), levels)
    return torch.cat([normal, normal.square()], dim=1) @ weights + float(score.bias)


def _features(score: Combination, classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
    """All features, shape (B, M)."""
    z, ordered = logits.double(), _sorted(logits)
    columns = [*(_diagnostic(name, ordered)[:, None] for name in WEIGHED), roughness(points)]
    predicted = z.argmax(dim=1, keepdim=True)
    for probe in score.probes:
        change = classifier(probed(probe, points)).double() - z
        others = change.scatter(1, predicted, -torch.inf)
        columns += [-change.gather(1, predicted), others.amax(dim=1, keepdim=True)]
    return torch.cat(columns, dim=1)


def _normal_scores(values: Tensor, edges: Tensor, levels: Tensor) -> Tensor:
    """Normal scores of features (B, M), linear between the edges (M, K).

    Beyond the outer edges a feature is flat. An attacker who is there has to find the way back, so that the outer
    slopes go on.
    """
    inside = straight_through(values.clamp(edges[:, 0], edges[:, -1]), values)
    upper = torch.searchsorted(edges, inside.detach().T.contiguous(), right=True).clamp(1, len(levels) - 1)
    above, below = edges.gather(1, upper).T, edges.gather(1, upper - 1).T
    start, end = levels[upper - 1].T, levels[upper].T
    return start + (end - start) / (above - below) * (inside - below)


def _gated(score: GatedCombination, classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
    """Jumps at the limits of the gate; the slope is that of the branch that gives the value."""
    gate = _combination(score.gate, classifier, points, logits)
    low, high = map(float, score.limits)
    moved = gate + torch.where(gate < low, -1, 1) * float(score.shift)
    (rows,) = torch.where((gate >= low) & (gate <= high))
    if len(rows) == 0:
        return moved
    return moved.index_put((rows,), _combination(score.full, classifier, points[rows], logits[rows]))


def last_features(classifier: nn.Module, points: Tensor) -> Tensor:
    """What the last layer with weights reads, with its graph, shape (B, D).

    Args:
        classifier: Points (B, C, H, W) → logits.
        points: What to run it on.
    """
    read: list[Tensor] = []

    def remember(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read[:] = inputs[:1]

    layers = [layer for layer in classifier.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(remember) for layer in layers]
    try:
        classifier(points)
    finally:
        for hook in hooks:
            hook.remove()
    return read[0].flatten(1)


def _of_features(score: FeatureScore, classifier: Classifier, points: Tensor, logits: Tensor) -> Tensor:
    if not isinstance(classifier, nn.Module):
        raise TypeError(f"{score.name} reads features, which only a module has")
    features = last_features(classifier, points).double()
    match score:
        case Mahalanobis():
            means, center, whitening = (
                _double(each, features) for each in (score.means, score.center, score.whitening)
            )
            whitened = (features - center) @ whitening
            nearest = (whitened @ means.T - means.square().sum(dim=1) / 2).argmax(dim=1)
            return ((whitened - means[nearest]).square().sum(dim=1) + _TINY).sqrt()
        case KNN():
            rows = _double(score.rows, features)
            lengths = features.square().sum(dim=1, keepdim=True).sqrt()
            directions = features / lengths.clamp(min=SHORTEST)
            neighbour = (directions @ rows.T).topk(NEAREST, dim=1).indices[:, -1]
            return ((directions - rows[neighbour]).square().sum(dim=1) + _TINY).sqrt()
    raise TypeError(f"no gradient of {score.name} is known")


_OfSorted = Callable[[Tensor, Tensor], Tensor]


def _of_sorted(score: Score) -> _OfSorted:
    """The score as a function of logits, and of the same in descending order."""
    match score:
        case OneSided():
            return lambda z, ordered: score.sign * _diagnostic(score.diagnostic, ordered)
        case TwoSided():
            return lambda z, ordered: _two_sided(score, _diagnostic(score.diagnostic, ordered))
        case MSP():
            return lambda z, ordered: _log_odds_against(ordered)
        case Doctor():
            return lambda z, ordered: _doctor(ordered)
        case GEN():
            return lambda z, ordered: _gen(ordered)
        case KLMatching():
            return lambda z, ordered: _kl_matching(score, z)
        case LogitProfile():
            return lambda z, ordered: _profile(score, z, ordered)
    raise TypeError(f"no gradient of {score.name} is known")


def _log_odds_against(ordered: Tensor) -> Tensor:
    return torch.logsumexp(ordered[:, 1:], dim=1) - ordered[:, 0]


def _diagnostic(name: str, ordered: Tensor) -> Tensor:
    gap = ordered[:, 0] - ordered[:, 1]
    rest = ordered[:, 1:]
    log_p = torch.log_softmax(ordered, dim=1)
    match name:
        case "top2_gap":
            return -torch.expm1(-gap) * log_p[:, 0].exp()
        case "logit_gap":
            return gap
        case "dispersion":
            # A root has no slope at 0.
            return ((rest - rest.mean(dim=1, keepdim=True)).square().mean(dim=1) + _TINY).sqrt()
        case "softmax_dispersion":
            p = log_p[:, 1:].exp()
            return ((p - p.mean(dim=1, keepdim=True)).square().sum(dim=1) + _TINY).sqrt()
        case "complement_entropy":
            if rest.shape[1] == 1:
                return torch.ones_like(gap) + 0 * gap
            log_q = torch.log_softmax(rest, dim=1)
            entropy: Tensor = -(log_q.exp() * log_q).sum(dim=1) / torch.log(log_q.new_tensor(rest.shape[1]))
            return entropy
        case "max_logit":
            return ordered[:, 0]
        case "energy":
            return torch.logsumexp(ordered, dim=1)
        case "entropy":
            return -(log_p.exp() * log_p).sum(dim=1)
    raise TypeError(f"no gradient of {name} is known")


def _two_sided(score: TwoSided, values: Tensor) -> Tensor:
    edges, levels = _double(score.edges, values), _double(score.levels, values)
    inside = values.clamp(edges[0], edges[-1])
    upper = torch.searchsorted(edges, inside.detach().contiguous(), right=True).clamp(1, len(edges) - 1)
    rise = (levels[upper] - levels[upper - 1]) / (edges[upper] - edges[upper - 1])
    below = levels[upper - 1] + rise * (inside - edges[upper - 1])
    return (below - 0.5).abs() + (values - inside).abs() / (edges[-1] - edges[0])


def _doctor(ordered: Tensor) -> Tensor:
    log_p = torch.log_softmax(ordered, dim=1)
    agreement = torch.logsumexp(2 * log_p, dim=1)
    # 1 − Σ p² = Σ p (1 − p), each 1 − p from the others as it would cancel.
    log_first_against = torch.logsumexp(log_p[:, 1:], dim=1)
    against = torch.cat([log_first_against[:, None], torch.log1p(-log_p[:, 1:].exp())], dim=1)
    return torch.logsumexp(log_p + against, dim=1) - agreement


def _gen(ordered: Tensor) -> Tensor:
    log_p = torch.log_softmax(ordered, dim=1)
    against = torch.cat([torch.logsumexp(log_p[:, 1:], dim=1)[:, None], torch.log1p(-log_p[:, 1:].exp())], dim=1)
    return (GAMMA * (log_p + against)[:, :LARGEST]).exp().sum(dim=1)


def _kl_matching(score: KLMatching, z: Tensor) -> Tensor:
    log_p = torch.log_softmax(z, dim=1)
    fit = (log_p.exp() @ _double(score.log_templates, z).T).amax(dim=1)
    return (log_p.exp() * log_p).sum(dim=1) - fit


def _profile(score: LogitProfile, z: Tensor, ordered: Tensor) -> Tensor:
    means, whitening = _double(score.means, z), _double(score.whitening, z)
    largest = ordered[:, : means.shape[1]]
    steps = torch.cat([largest[:, :1], largest[:, :-1] - largest[:, 1:]], dim=1)
    deviations = (steps - means[z.argmax(dim=1)]) @ whitening
    return (deviations.square().sum(dim=1) + _TINY).sqrt()


def _double(values: NDArray[Any], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)

"""Scores as functions of torch logits, so that an attacker who knows the score has its gradient.

The reference is `softrisk_core.scores`; a test holds each score here to it. Computed in float64, as there: where a sure
prediction saturates float32, the attacker would have no gradient and the evaluation would flatter the score.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from numpy.typing import NDArray
from torch import Tensor

from softrisk_attacks.adaptive import Scoring
from softrisk_core.scores.diagnostic import OneSided, TwoSided
from softrisk_core.scores.doctor import Doctor
from softrisk_core.scores.gen import GAMMA, GEN, LARGEST
from softrisk_core.scores.kl_matching import KLMatching
from softrisk_core.scores.msp import MSP
from softrisk_core.scores.profile import LogitProfile
from softrisk_core.scores.score import Score

_TINY: Final = 1e-300


def differentiable(score: Score) -> Scoring:
    """A score with a gradient.

    Args:
        score: One of `softrisk_core.scores`.

    Returns:
        From logits (B, classes) to the score in float64, shape (B,).

    Raises:
        TypeError: If it is not known here.
    """
    of_sorted = _of_sorted(score)
    return lambda logits: of_sorted(logits.double(), logits.double().sort(dim=1, descending=True, stable=True).values)


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

"""Do the attacks work at all? Facts about them, measured on a model, which `red_flags` turns into checks.

Whatever the attacks that were made already tell is taken from them, on all their images. What they do not tell is
measured by attacks of our own on a few images, so that every evaluation can afford it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from softrisk_attacks.apgd import APGD
from softrisk_attacks.attack import Attack, Family, Outcome, run_attack
from softrisk_attacks.black_box import RandomNoise, Square
from softrisk_attacks.standard import PGD
from softrisk_attacks.victim import Victim, margin
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.report import Convergence, Gap, Proportion, Soundness

IMAGES: Final = 100
"""On how many images attacks of our own run, unless told otherwise."""

QUERIES: Final = 500
"""Of our Square attack: enough to show that gradients mislead, not to measure robustness by scores."""

DRAWS: Final = 100
"""Of random noise: within ε as an attack, and within ε/2 to see how rough the loss is (as many as Pintor et al.)."""

TAIL: Final = 10
"""Last steps of an attack, in which little should happen (Pintor et al.)."""

_WHITE_BOX: Final[frozenset[Family]] = frozenset({"single-step", "iterative", "targeted", "minimum-norm"})
_BATCH: Final = 256

Made = tuple[Attack, Outcome]


class _Own(NamedTuple):
    """An attack of our own, and the label under which it is reported."""

    attack: Attack
    seed: int
    label: str


def measure_soundness(
    model: nn.Module,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    outcomes: Sequence[Made],
    *,
    epsilon: float,
    seed: int,
    limit: int = IMAGES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Soundness:
    """Measure what tells whether the attacks of one radius can be believed.

    Args:
        model: What was attacked: maps (B, C, H, W) in [0, 1] to logits.
        inputs: Clean, shape (N, C, H, W), float32 in [0, 1], N ≥ 1.
        labels: True classes, shape (N,).
        outcomes: Attacks and what came of them on all the inputs; those of other radii are left aside.
        epsilon: ℓ∞ radius, in (0, 1].
        seed: Decides which images our own attacks run on, and everything random in them.
        limit: How many at most, ≥ 1.
        on_progress: Called with the amounts of work done and to do.

    Raises:
        AttackError: If inputs, labels and model do not match.
        EvaluationError: If no attack of this radius uses the model's gradients.
    """
    made = [(attack, outcome) for attack, outcome in outcomes if attack.epsilon == epsilon]
    white_box = [each for each in made if each[0].family in _WHITE_BOX]
    if not white_box:
        raise EvaluationError(
            f"no attack by gradients at ε = {epsilon:g} is among the outcomes, so there is nothing to check: run one, "
            "such as pgd(epsilon)"
        )
    iterative = [each for each in made if each[0].family in ("iterative", "targeted")]
    others = [each for each in made if each[0].family not in _WHITE_BOX]

    unbounded = _Own(PGD(1.0, steps=40, restarts=1), seed, "")
    stronger = _of_more_effort(iterative, epsilon, seed)
    gradient_free = _without_gradients([attack for attack, _ in others], epsilon, seed)

    chosen = np.sort(np.random.default_rng(seed).permutation(len(inputs))[:limit])
    few, truth = inputs[chosen], labels[chosen]
    own = (unbounded, *stronger, *gradient_free)
    ran: dict[_Own, Outcome] = {}
    for each in own:
        ran[each] = run_attack(
            model,
            few,
            truth,
            each.attack,
            seed=each.seed,
            on_progress=lambda done, total: on_progress(len(ran) * total + done, len(own) * total),
        )

    # Where a search without gradients only does what more steps would do, too, gradients do not mislead.
    reported, fooled = _labels(white_box), _any(white_box)
    by_gradients, fooled_by_gradients = (*reported, *(each.label for each in stronger)), fooled.copy()
    fooled_by_gradients[chosen] |= np.any([ran[each].fooled for each in stronger], axis=0)

    victim = Victim(model, few[:1])
    clean = _logits(victim, few)
    right = (clean.argmax(dim=1) == torch.from_numpy(truth)).numpy()
    zero, non_finite = _bad_gradients(victim, inputs, labels)
    return Soundness(
        epsilon=epsilon,
        images=len(few),
        zero_gradients=Proportion.where(zero),
        non_finite_gradients=Proportion.where(non_finite),
        repeat_difference=_difference(clean, _logits(victim, few)),
        batch_difference=_difference(clean, _logits(victim, few, batch_size=1)),
        loss_variability=_variability(victim, few, truth, epsilon / 2, seed),
        unbounded=Proportion.where(ran[unbounded].fooled[right]) if right.any() else None,
        single_step=tuple(
            _gap(attack.label, outcome.fooled, _labels(iterative), _any(iterative))
            for attack, outcome in white_box
            if attack.family == "single-step" and iterative
        ),
        gradient_free=(
            *(_gap(attack.label, outcome.fooled, by_gradients, fooled_by_gradients) for attack, outcome in others),
            *(_gap(each.label, ran[each].fooled, by_gradients, fooled_by_gradients[chosen]) for each in gradient_free),
        ),
        stronger=tuple(_gap(each.label, ran[each].fooled, reported, fooled[chosen]) for each in stronger),
        convergence=_convergence([*iterative, *((each.attack, ran[each]) for each in stronger)]),
    )


def _of_more_effort(iterative: Sequence[Made], epsilon: float, seed: int) -> list[_Own]:
    """Twice the steps and twice the restarts of the strongest attack that was made, and one that leaves a trace.

    The label of what is run only for its second half is that of the whole.
    """
    own = []
    adjustable = [(attack, outcome) for attack, outcome in iterative if isinstance(attack, PGD | APGD)]
    if adjustable:
        strongest, _ = max(adjustable, key=lambda each: int(each[1].fooled.sum()))
        steps = replace(strongest, steps=2 * strongest.steps)
        restarts = replace(strongest, restarts=2 * strongest.restarts)
        own.append(_Own(steps, seed, steps.label))
        # The first half of the restarts was made; the second half only needs other random starts.
        own.append(_Own(strongest, seed + 1, restarts.label))
    if not any(_tells(*each) for each in iterative):
        tracing = APGD(epsilon, objective="margin")
        own.append(_Own(tracing, seed, tracing.label))
    return own


def _without_gradients(made: Sequence[Attack], epsilon: float, seed: int) -> list[_Own]:
    """What is missing among the attacks that were made: one by scores, and chance."""
    own: list[Attack] = []
    if not any(
        attack.family in ("score-based", "decision-based") for attack in made if attack.name != RandomNoise.name
    ):
        own.append(Square(epsilon, queries=QUERIES))
    if not any(attack.name == RandomNoise.name for attack in made):
        own.append(RandomNoise(epsilon, draws=DRAWS))
    return [_Own(attack, seed, attack.label) for attack in own]


def _gap(label: str, fooled: NDArray[np.bool_], others: tuple[str, ...], by_others: NDArray[np.bool_]) -> Gap:
    return Gap(attack=label, against=others, only=Proportion.where(fooled & ~by_others))


def _labels(made: Sequence[Made]) -> tuple[str, ...]:
    return tuple(attack.label for attack, _ in made)


def _any(made: Sequence[Made]) -> NDArray[np.bool_]:
    fooled: NDArray[np.bool_] = np.any([outcome.fooled for _, outcome in made], axis=0)
    return fooled


def _convergence(attacks: Sequence[Made]) -> Convergence | None:
    """Of the strongest attack whose trace is long enough to tell.

    The best objective of each image still standing is rescaled to [0, 1], as Pintor et al. do with the loss.
    """
    telling = [each for each in attacks if _tells(*each)]
    if not telling:
        return None
    attack, outcome = max(telling, key=lambda each: int(each[1].fooled.sum()))
    assert outcome.trace is not None
    best = outcome.trace[:, ~np.isnan(outcome.trace).any(axis=0)].astype(np.float64)
    if best.shape[1] == 0:
        return None
    whole, last = best[-1] - best[0], best[-1] - best[-1 - TAIL]
    # An objective that never moves has nothing left to gain, and is found by its zero gradients.
    shares = np.divide(last, whole, out=np.zeros_like(last), where=whole > 0)
    return Convergence(attack=attack.label, standing=best.shape[1], last_gain=float(shares.mean()))


def _tells(attack: Attack, outcome: Outcome) -> bool:
    return attack.family == "iterative" and outcome.trace is not None and len(outcome.trace) > 2 * TAIL


def _bad_gradients(
    victim: Victim, inputs: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where the input gradient of the cross entropy is exactly zero, and where it is not finite, shape (N,) each."""
    zero, non_finite = [], []
    for start in range(0, len(inputs), _BATCH):
        batch = victim.tensor(inputs[start : start + _BATCH]).requires_grad_()
        # The sum: the mean would scale gradients with the batch, towards the smallest floats.
        loss = cross_entropy(victim(batch), victim.tensor(labels[start : start + _BATCH]), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, batch)
        flat = gradient.flatten(1).cpu()
        zero.append((flat == 0).all(dim=1).numpy())
        non_finite.append((~flat.isfinite()).any(dim=1).numpy())
    return np.concatenate(zero), np.concatenate(non_finite)


def _logits(victim: Victim, inputs: NDArray[np.float32], batch_size: int = _BATCH) -> Tensor:
    parts = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    return torch.cat([victim.logits(victim.tensor(part)).cpu() for part in parts])


def _difference(first: Tensor, second: Tensor) -> float:
    """Largest ℓ2 distance between logits of length 1, in [0, 2]; 2 if they are not finite."""
    distances = (normalize(first) - normalize(second)).norm(dim=1)
    return float(distances.nan_to_num(nan=2.0).max())


def _variability(
    victim: Victim, inputs: NDArray[np.float32], labels: NDArray[np.int64], radius: float, seed: int
) -> float:
    """Mean relative change of the margin in a box (Pintor et al., `unstable_predictions_indicator`).

    The margin instead of the cross entropy, so that the scale of the logits is no matter; and a share of 1 at most
    for each image rather than for their mean, so that one on a decision boundary, with a margin of almost zero, does
    not speak for all.
    """
    generator = torch.Generator().manual_seed(seed)
    shares = []
    for start in range(0, len(inputs), _BATCH):
        batch = victim.tensor(inputs[start : start + _BATCH])
        truth = victim.tensor(labels[start : start + _BATCH])
        reference = margin(victim.logits(batch), truth)
        scale = torch.where(reference == 0, 1.0, reference.abs())
        changes = torch.zeros_like(reference)
        for _ in range(DRAWS):
            noise = radius * (2 * torch.rand(batch.shape, generator=generator) - 1).to(batch.device)
            noisy = victim.logits((batch + noise).clamp(0, 1))
            changes += (margin(noisy, truth) - reference).abs() / scale / DRAWS
        shares.append(changes.nan_to_num(nan=1.0).clamp(max=1).cpu())
    return float(torch.cat(shares).mean())

"""What a model says about clean and attacked images: the raw material of most figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from softrisk_attacks.attack import run_attack
from softrisk_attacks.bisected import BisectedAPGD, minimal_epsilon
from softrisk_attacks.standard import pgd
from softrisk_core.diagnostics import diagnose
from softrisk_evaluation.experiments.findings import percent
from softrisk_evaluation.experiments.setup import Setup
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.experiments.task import Arm, Task, logits_of, test_sample, trained
from softrisk_evaluation.statistics import auroc
from softrisk_evaluation.tables import Section

STEPS: Final = 20
MINIMUM_NORM: Final = {"steps": 20, "rounds": 7, "targets": 1}
"""Enough for a curve to a percentage point; the suite tries harder at its one radius."""

_BATCH: Final = 250


def answers(work: Path, task: Task, arm: Arm, seed: int, images: int, epsilon: float) -> Kept:
    """A cell: logits of clean and of attacked test images, and how far each image is from another label.

    The attack is PGD with one random start that takes all of its steps: stopped at the first wrong label, attacks would
    look as unsure as they never are in earnest.

    Returns:
        `labels`, shape (N,); `clean` and `attacked`, logits of shape (N, classes); `gap_slope`, the ℓ1 norm of the
        input gradient of z₍₁₎ − z₍₂₎ at the clean image, shape (N,); `minimal`, the smallest ℓ∞ radius at which the
        label was changed, 0 where it is wrong without an attack and infinite where no radius tried was enough.
    """
    model = trained(work, task, arm, seed)
    inputs, labels = test_sample(task, images)
    outcome = run_attack(model, inputs, labels, pgd(epsilon, STEPS, restarts=1), seed=seed)
    return {
        "labels": labels,
        "clean": logits_of(model, inputs),
        "attacked": logits_of(model, outcome.inputs),
        "gap_slope": gap_slope(model, inputs),
        "minimal": minimal_epsilon(model, inputs, labels, BisectedAPGD(max(task.epsilons), **MINIMUM_NORM), seed=seed),
    }


def answer_cells(task: Task, arms: Sequence[Arm], seeds: range, images: int, epsilon: float) -> list[Cell]:
    """One cell for each arm and seed, seeds innermost."""
    return [
        Cell(
            f"answers/{slug(arm.name)}-{seed}",
            answers,
            {"task": task, "arm": arm, "seed": seed, "images": images, "epsilon": epsilon},
        )
        for arm in arms
        for seed in seeds
    ]


def curve(kept: Kept, epsilons: Sequence[float]) -> list[float]:
    """Share of images that are right and keep their label within each radius, by the minimum-norm attack."""
    return [float((kept["minimal"] > epsilon).mean()) for epsilon in epsilons]


def curve_table(arms: Sequence[Arm], answered: Mapping[str, list[Kept]], setup: Setup) -> Section:
    """The curves of all arms; `answered` by arm, one for each seed."""
    epsilons = setup.task.epsilons
    curves = {arm.name: [curve(kept, epsilons) for kept in answered[arm.name]] for arm in arms}
    return Section(
        title="Robust accuracy over ε by the minimum-norm attack, %",
        columns=("model", *(f"{epsilon:.3g}" for epsilon in epsilons)),
        rows=tuple(
            (arm.name, *(percent([row[column] for row in curves[arm.name]]) for column in range(len(epsilons))))
            for arm in arms
        ),
        note=f"{setup.budget.images} test images; one attack only, with {MINIMUM_NORM['steps']} steps a radius: an "
        "upper bound of the worst case. What does not fall to 0 where ε is large hides from this attack.",
    )


def gap_auroc(kept: Kept) -> float | None:
    """How well a small logit gap tells PGD's successes from clean images; None without successes."""
    clean, attacked, labels = kept["clean"], kept["attacked"], kept["labels"]
    turned = (clean.argmax(axis=1) == labels) & (attacked.argmax(axis=1) != labels)
    return auroc(-diagnose(clean)["logit_gap"], -diagnose(attacked)["logit_gap"][turned]) if turned.any() else None


def gap_slope(model: nn.Module, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """ℓ1 norm of the input gradient of z₍₁₎ − z₍₂₎ at each input, shape (N,)."""
    slopes = []
    for start in range(0, len(inputs), _BATCH):
        batch = torch.from_numpy(inputs[start : start + _BATCH]).requires_grad_()
        top = model(batch).topk(2, dim=1).values
        (gradient,) = torch.autograd.grad((top[:, 0] - top[:, 1]).sum(), batch)
        slopes.append(gradient.flatten(1).abs().sum(dim=1).numpy())
    return np.concatenate(slopes)

"""Where attacked images end, and what of the softmax foretells it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from softrisk_core.diagnostics import diagnose, softmax
from softrisk_evaluation.experiments.answers import STEPS, answer_cells
from softrisk_evaluation.experiments.arms import CE, GCE
from softrisk_evaluation.experiments.findings import Findings, percent, plain
from softrisk_evaluation.experiments.setup import Setup, sampling_error
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.sweep import how_chosen, sweep
from softrisk_evaluation.experiments.task import Arm, by_arm, training_cells
from softrisk_evaluation.statistics import auroc
from softrisk_evaluation.tables import Section

PREDICTORS: Final = ("dispersion", "complement_entropy", "second_probability", "logit_gap", "gap_over_slope")
"""What may foretell how far an image is from another label, all of the clean image."""


def run(setup: Setup) -> Findings:
    """The hypothesis behind DRSL: attacks end in the class that was second before."""
    study, task, budget, seeds = setup.study, setup.task, setup.budget, setup.seeds
    arms = [CE, GCE, sweep(setup).best]
    study.results("training", training_cells(task, arms, seeds))
    kept = study.results("answers", answer_cells(task, arms, seeds, budget.described_images, task.epsilon))
    found = by_arm([runner_up(each) for each in kept], arms)
    return Findings(
        title=f"The runner-up hypothesis, {setup.data_name}",
        question="Do attacked images end in the class that was second before, and does the spread of the wrong classes "
        "foretell which images fall?",
        method=(
            *setup.method,
            how_chosen(setup),
            sampling_error(budget.described_images),
            f"{budget.described_images} test images under PGD-{STEPS}, ε = {task.epsilon:.3g}, one random start, all "
            "steps taken. Distance: the smallest ℓ∞ radius at which the minimum-norm attack changes the label.",
        ),
        tables=[
            Section(
                title="Where attacks end",
                columns=("loss", "successful attacks", "in the class that was second, %", "chance, %"),
                rows=tuple(
                    (
                        arm.name,
                        plain([float(each.successes) for each in found[arm.name]], 0),
                        percent([each.share for each in found[arm.name] if each.successes]),
                        f"{found[arm.name][0].chance:.1%}",
                    )
                    for arm in arms
                ),
                note="Where the wrong classes are flat, which one is second is arbitrary: a share that falls is no "
                f"sign of robustness. Mean ± sd over {len(seeds)} seeds.",
            ),
            _predictor_table(
                "What foretells the distance to another label: Spearman's ρ",
                arms,
                {arm.name: [each.distance_correlation for each in found[arm.name]] for arm in arms},
                "Of clean images that are right. Positive: the larger, the farther.",
            ),
            _predictor_table(
                "What foretells a successful attack: AUROC",
                arms,
                {arm.name: [each.success_auroc for each in found[arm.name]] for arm in arms},
                "Of clean images that are right: turned by PGD against not turned. Below 0.5: small values foretell "
                "it.",
            ),
        ],
        facts={"models": found},
    )


def _predictor_table(
    title: str, arms: Sequence[Arm], found: dict[str, list[dict[str, float | None]]], note: str
) -> Section:
    def cell(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return plain(known) if known else "–"

    return Section(
        title=title,
        columns=("loss", *(name.replace("_", " ") for name in PREDICTORS)),
        rows=tuple(
            (arm.name, *(cell([each[name] for each in found[arm.name]]) for name in PREDICTORS)) for arm in arms
        ),
        note=note,
    )


@dataclass(frozen=True)
class RunnerUp:
    """One model.

    Attributes:
        successes: Images right before and wrong after the attack.
        share: Of these, those whose label after the attack is the second class before it; NaN without any.
        chance: 1 / (classes − 1).
        distance_correlation: Spearman's ρ between each predictor and the smallest radius that changes the label; None
            where one of the two is the same for all images.
        success_auroc: Probability that a predictor tells an image that will be turned from one that will not, larger
            values of the predictor counting for "turned"; None where all or none are.
    """

    successes: int
    share: float
    chance: float
    distance_correlation: dict[str, float | None]
    success_auroc: dict[str, float | None]


def runner_up(kept: Kept) -> RunnerUp:
    """From the answers of one model (`answers`)."""
    clean, attacked, labels = kept["clean"], kept["attacked"], kept["labels"]
    right = clean.argmax(axis=1) == labels
    turned = right & (attacked.argmax(axis=1) != labels)
    second = clean.argsort(axis=1)[:, -2]
    values = predictors(clean, kept["gap_slope"])
    distance = np.minimum(kept["minimal"], 1.0)
    return RunnerUp(
        successes=int(turned.sum()),
        share=float((attacked.argmax(axis=1) == second)[turned].mean()) if turned.any() else float("nan"),
        chance=1 / (clean.shape[1] - 1),
        distance_correlation={name: _spearman(values[name][right], distance[right]) for name in PREDICTORS},
        success_auroc={name: auroc(values[name][right & ~turned], values[name][turned]) for name in PREDICTORS},
    )


def _spearman(values: NDArray[np.float64], distance: NDArray[np.float32]) -> float | None:
    if len(np.unique(values)) < 2 or len(np.unique(distance)) < 2:
        return None
    return float(spearmanr(values, distance).statistic)


def predictors(clean: NDArray[np.float32], gap_slope: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """The `PREDICTORS` of clean images.

    Args:
        clean: Logits, shape (N, classes).
        gap_slope: ℓ1 norm of the gradient of the gap, shape (N,).
    """
    diagnostics = diagnose(clean)
    return {
        "dispersion": diagnostics["dispersion"],
        "complement_entropy": diagnostics["complement_entropy"],
        "second_probability": np.sort(softmax(clean), axis=1)[:, -2],
        "logit_gap": diagnostics["logit_gap"],
        "gap_over_slope": diagnostics["logit_gap"] / np.maximum(gap_slope, 1e-12),
    }

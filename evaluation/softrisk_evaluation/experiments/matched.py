"""Losses at matched clean accuracy, and again at matched confidence: which of them is more robust?"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from softrisk_evaluation.experiments.answers import STEPS, answer_cells, curve, curve_table, gap_auroc
from softrisk_evaluation.experiments.arms import CE, GCE
from softrisk_evaluation.experiments.confidence import at_matched_confidence
from softrisk_evaluation.experiments.cost import step_times
from softrisk_evaluation.experiments.findings import Findings, Picture, percent, plain
from softrisk_evaluation.experiments.setup import Setup, in_words, sampling_error
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.experiments.sweep import APGD_STEPS, PGD_STEPS, TOLERANCE, Measured, Sweep, how_chosen, sweep
from softrisk_evaluation.experiments.task import Arm, by_arm, training_cells
from softrisk_evaluation.experiments.worst_case import attack_table, flag_table, standing, suite_cells, twin_seeds
from softrisk_evaluation.statistics import crossed_bootstrap
from softrisk_evaluation.tables import Section
from softrisk_training.losses import DRSLForm

ROOT_FORM: Final[DRSLForm] = "logit"
"""In the headline whether it held best or not: the root of the spread where the authors have its square."""


def run(setup: Setup) -> Findings:
    """Choose DRSL's weights, train all arms, and attack them."""
    study, task, budget, seeds = setup.study, setup.task, setup.budget, setup.seeds
    choice = sweep(setup)
    arms = [*budget.published, *(choice.arm(form) for form in budget.weights)]
    rooted = [choice.arm(ROOT_FORM)] if ROOT_FORM in budget.weights else []
    headline = list({arm.name: arm for arm in (CE, choice.best, *rooted, GCE)}.values())

    trained = by_arm(study.results("training all arms", training_cells(task, arms, seeds)), arms)
    accuracy = {name: np.array([float(kept["test_accuracy"]) for kept in row]) for name, row in trained.items()}
    study.results("training twins", training_cells(task, [CE], twin_seeds(seeds)))
    answered = by_arm(
        study.results("answers and smallest radii", answer_cells(task, arms, seeds, budget.images, task.epsilon)), arms
    )
    suite = by_arm(
        study.results("full suite", suite_cells(task, arms, seeds, CE, budget.images, task.epsilon, budget.effort)),
        arms,
    )
    large = by_arm(
        study.results(
            "full suite, headline",
            suite_cells(task, headline, seeds, CE, budget.headline_images, task.epsilon, budget.headline_effort),
        ),
        headline,
    )
    tempered = by_arm(
        study.results(
            "matched confidence",
            [
                Cell(
                    f"confidence/{slug(arm.name)}-{seed}",
                    at_matched_confidence,
                    {"task": task, "arm": arm, "seed": seed, "images": budget.images},
                )
                for arm in arms
                for seed in seeds
            ],
        ),
        arms,
    )
    (times,) = study.results("time of a step", [Cell("cost", step_times, {"task": task, "arms": tuple(arms)})])
    curves = {name: [curve(kept, task.epsilons) for kept in row] for name, row in answered.items()}
    seconds = np.median(times["seconds"] / times["baseline"], axis=1)

    return Findings(
        title=f"Losses at matched clean accuracy, {setup.data_name}",
        question="Among losses of the same clean accuracy, which leaves an attacker least, and is it more than a "
        "matter of confidence?",
        method=(
            *setup.method,
            how_chosen(setup),
            "Other losses have the settings of their papers: DRSL alone is tuned.",
            f"Full suite on {budget.images} test images for every arm: {in_words(budget.effort)}.",
            f"Headline, {budget.headline_images} test images: {in_words(budget.headline_effort)}.",
            "Transfer is from CE of another seed.",
            sampling_error(budget.images),
        ),
        tables=[
            _headline(headline, accuracy, large, setup),
            _main(arms, accuracy, suite, tempered, answered, seconds, setup),
            curve_table(arms, answered, setup),
            *(attack_table(f"Each attack: {arm.name}", large[arm.name]) for arm in headline),
            flag_table("Red flags, headline", large),
            flag_table("Red flags, all losses", suite),
            _sweep_table(choice, setup),
        ],
        pictures=[
            Picture(
                "robustness.png",
                "Right on the clean image and under the minimum-norm attack, over its radius; mean of the seeds, band: "
                "smallest and largest. Thin lines: losses that are neither CE nor DRSL.",
                _draw(arms, curves, task.epsilons),
            )
        ],
        facts={
            "chosen": {trial.form: trial.weight for trial in choice.trials if trial.chosen},
            "best": choice.best,
            "sweep": choice,
            "accuracy": accuracy,
            "worst_case": {name: [float(standing(kept).mean()) for kept in row] for name, row in suite.items()},
            "headline_worst_case": {
                name: [float(standing(kept).mean()) for kept in row] for name, row in large.items()
            },
            "per_example": {name: [_per_example(kept) for kept in row] for name, row in large.items()},
            "epsilons": task.epsilons,
            "curves": curves,
            "confidence": {name: [float(kept["confidence"]) for kept in row] for name, row in tempered.items()},
            "step_time_over_ce": dict(zip((arm.name for arm in arms), seconds, strict=True)),
        },
    )


def _headline(
    arms: Sequence[Arm], accuracy: dict[str, NDArray[np.float64]], large: dict[str, list[Kept]], setup: Setup
) -> Section:
    # Seeds × images; an image is compared with itself under the same seed, which is what the interval is made from.
    stands = {name: np.stack([standing(kept) for kept in row]).astype(np.float64) for name, row in large.items()}

    def against_ce(arm: Arm) -> tuple[str, str, str]:
        gain = stands[arm.name] - stands[CE.name]
        low, high = crossed_bootstrap(gain)
        return (
            percent(accuracy[arm.name] - accuracy[CE.name], 2),
            percent(gain.mean(axis=1)),
            f"{low * 100:.1f} … {high * 100:.1f}",
        )

    rows = [
        (
            arm.name,
            percent(accuracy[arm.name], 2),
            percent(stands[arm.name].mean(axis=1)),
            *(("", "", "") if arm == CE else against_ce(arm)),
        )
        for arm in arms
    ]
    return Section(
        title=f"The headline: worst case over the full suite, ε = {setup.task.epsilon:.3g}",
        columns=("loss", "clean, %", "worst case, %", "clean − CE", "worst case − CE", "95 % interval"),
        rows=tuple(rows),
        note=f"{setup.budget.headline_images} test images, {len(setup.seeds)} seeds, mean ± sd. Worst case: no attack "
        "of the suite turns the image. Differences are of the same seed and image; their interval is a bootstrap over "
        "seeds and images. First DRSL in the form that held best on selection rows.",
    )


def _main(
    arms: Sequence[Arm],
    accuracy: dict[str, NDArray[np.float64]],
    suite: dict[str, list[Kept]],
    tempered: dict[str, list[Kept]],
    answered: dict[str, list[Kept]],
    seconds: NDArray[np.float64],
    setup: Setup,
) -> Section:
    rows = []
    for arm, time in zip(arms, seconds, strict=True):
        name = arm.name
        off = float((accuracy[name] - accuracy[CE.name]).mean()) < -TOLERANCE
        aurocs = [value for value in map(gap_auroc, answered[name]) if value is not None]
        rows.append(
            (
                name + (" †" if off else ""),
                percent(accuracy[name], 2),
                percent([standing(kept).mean() for kept in suite[name]]),
                percent([kept["right"].mean() for kept in tempered[name]]),
                percent([kept["right_matched"].mean() for kept in tempered[name]]),
                plain([float(kept["confidence"]) for kept in tempered[name]], 3),
                plain(aurocs, 3) if aurocs else "–",
                f"{time:.2f}",
            )
        )
    return Section(
        title=f"All losses, ε = {setup.task.epsilon:.3g}",
        columns=(
            "loss",
            "clean, %",
            "worst case, %",
            f"PGD-{STEPS}, %",
            "… at CE's confidence, %",
            "confidence",
            "AUROC of the gap",
            "step / CE",
        ),
        rows=tuple(rows),
        note=f"† clean accuracy more than {TOLERANCE * 100:.1f} points below CE. Worst case: right under every attack "
        "of the suite. At CE's confidence: the logits are divided by the temperature at which the mean largest "
        "probability on selection rows is that of CE, then attacked by the same PGD. AUROC: a small logit gap as the "
        "sign of a successful PGD attack against clean test images. Step: median time of a training step over that of "
        "CE, taking turns on one thread.",
    )


def _sweep_table(choice: Sweep, setup: Setup) -> Section:
    def row(name: str, weight: str, measured: Measured, remark: str) -> tuple[str, ...]:
        return (name, weight, f"{measured.accuracy:.2%}", f"{measured.pgd:.1%}", f"{measured.robust:.1%}", remark)

    return Section(
        title="How DRSL's weight was chosen",
        columns=("loss", "weight", "selection accuracy", f"PGD-{PGD_STEPS}", "worst of both", ""),
        rows=(
            row("CE", "", choice.ce, ""),
            *(
                row(f"DRSL {trial.form}", f"{trial.weight:g}", trial.measured, "chosen" if trial.chosen else "")
                for trial in choice.trials
            ),
        ),
        note="Seed 0. Weight: of the penalty of one sample against its cross entropy; for the authors' forms, which "
        f"sum over the batch, b times the batch size. Worst of both: right under PGD-{PGD_STEPS} and under APGD on the "
        f"margin ({APGD_STEPS} steps), one random start each, {setup.budget.sweep_images} selection images, ε = "
        f"{setup.task.epsilon:.3g}.",
    )


def _per_example(kept: Kept) -> dict[str, Any]:
    """Which images each attack turned, as strings of 0 and 1."""
    return {
        str(label): "".join("1" if turned else "0" for turned in row)
        for label, row in zip(kept["attacks"], kept["fooled"], strict=True)
    }


def _draw(arms: Sequence[Arm], curves: dict[str, list[list[float]]], epsilons: Sequence[float]) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    # There are more arms than colours in the usual cycle, and two lines of one colour could be taken for each other.
    axes.set_prop_cycle(color=colormaps["tab20"].resampled(len(arms))(range(len(arms))))
    for arm in arms:
        values = np.array(curves[arm.name])
        if arm == CE or arm.loss == "drsl":
            (line,) = axes.plot(epsilons, values.mean(axis=0), label=arm.name, linewidth=2)
            axes.fill_between(epsilons, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15)
        else:
            axes.plot(epsilons, values.mean(axis=0), label=arm.name, linewidth=0.8, linestyle="--")
    axes.set(xlabel="ε (ℓ∞ on pixels in [0, 1])", ylabel="right", ylim=(0, 1))
    axes.legend(fontsize="small")
    return figure

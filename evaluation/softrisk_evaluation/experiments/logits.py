"""How sure models are: largest logit and gap, clean and attacked, and on which images two models disagree most."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from softrisk_core.diagnostics import diagnose, softmax
from softrisk_evaluation.experiments.adversarial import against
from softrisk_evaluation.experiments.answers import STEPS, answer_cells
from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.findings import Findings, Picture, plain
from softrisk_evaluation.experiments.setup import Setup, sampling_error
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.sweep import how_chosen, sweep
from softrisk_evaluation.experiments.task import Arm, by_arm, test_sample, training_cells
from softrisk_evaluation.tables import Section
from softrisk_training.adversarial import Adversary

GALLERY: Final = 8
"""Images a row."""


def run(setup: Setup) -> Findings:
    """CE, DRSL and adversarial training side by side."""
    study, task, budget, seeds = setup.study, setup.task, setup.budget, setup.seeds
    drsl = sweep(setup).best
    hardened = against(Adversary("pgd", task.training_epsilon, budget.inner_steps), CE)
    arms = [CE, drsl, hardened]
    study.results("training", training_cells(task, arms, seeds))
    answered = by_arm(
        study.results("answers", answer_cells(task, arms, seeds, budget.described_images, task.epsilon)), arms
    )
    pairs = [(CE, drsl), (CE, hardened), (drsl, hardened)]
    inputs, labels = test_sample(task, budget.described_images)
    return Findings(
        title=f"Logit distributions, {setup.data_name}",
        question="Does adversarial training lower the largest logit and the gap, does DRSL do the same, and are the "
        "same images certain to all?",
        method=(
            *setup.method,
            how_chosen(setup),
            sampling_error(budget.described_images),
            f"{budget.described_images} test images, clean and under PGD-{STEPS}, ε = {task.epsilon:.3g}; adversarial "
            f"training at ε = {task.training_epsilon:.3g}.",
        ),
        tables=[_levels(arms, answered, len(seeds)), _agreement(pairs, answered, len(seeds))],
        pictures=[
            Picture(
                "logits.png",
                "Largest logit and gap of clean images and of images under PGD, seed 0; each row one model.",
                _histograms(arms, answered),
            ),
            *(
                Picture(
                    f"gallery-{index}.png",
                    f"Clean test images on whose confidence {first.name} (upper figure) and {second.name} (lower) "
                    "differ most, seed 0; first row: the first is surer, second row: the second is.",
                    _gallery(inputs, labels, answered[first.name][0], answered[second.name][0]),
                )
                for index, (first, second) in enumerate(pairs)
            ),
        ],
        facts={
            name: [{"clean": levels(kept["clean"]), "attacked": levels(kept["attacked"])} for kept in row]
            for name, row in answered.items()
        },
    )


def levels(logits: NDArray[np.float32]) -> dict[str, float]:
    """Means over images, of which the last two do not change with the scale of the logits.

    Args:
        logits: Shape (N, classes).
    """
    diagnostics = diagnose(logits)
    spread = logits.std(axis=1)
    return {
        "max_logit": float(diagnostics["max_logit"].mean()),
        "logit_gap": float(diagnostics["logit_gap"].mean()),
        "confidence": float(softmax(logits).max(axis=1).mean()),
        "complement_entropy": float(diagnostics["complement_entropy"].mean()),
        "max_logit_over_std": float((diagnostics["max_logit"] / spread).mean()),
        "gap_over_std": float((diagnostics["logit_gap"] / spread).mean()),
    }


def gap_over_slope(kept: Kept) -> float:
    """Median of the gap over the ℓ1 norm of its gradient, the first-order ℓ∞ radius; it has no scale either."""
    return float(np.median(diagnose(kept["clean"])["logit_gap"] / np.maximum(kept["gap_slope"], 1e-12)))


def _levels(arms: Sequence[Arm], answered: Mapping[str, list[Kept]], seeds: int) -> Section:
    rows = []
    for arm in arms:
        for state in ("clean", "attacked"):
            found = [levels(kept[state]) for kept in answered[arm.name]]
            slope = plain([gap_over_slope(kept) for kept in answered[arm.name]], 3) if state == "clean" else ""
            rows.append((f"{arm.name}, {state}", *(plain([each[name] for each in found]) for name in found[0]), slope))
    return Section(
        title="How sure",
        columns=(
            "model, images",
            "max logit",
            "gap",
            "confidence",
            "complement entropy",
            "max / sd(z)",
            "gap / sd(z)",
            "gap / slope",
        ),
        rows=tuple(rows),
        note=f"Means over images, ± sd over {seeds} seeds. sd(z): of the logits of an image. Gap / slope: median of "
        "the gap over the ℓ1 norm of its gradient, the first-order ℓ∞ distance to the decision boundary.",
    )


def _agreement(pairs: Sequence[tuple[Arm, Arm]], answered: Mapping[str, list[Kept]], seeds: int) -> Section:
    rows = []
    for first, second in pairs:
        both = list(zip(answered[first.name], answered[second.name], strict=True))
        confidences = [
            float(spearmanr(diagnose(a["clean"])["logit_gap"], diagnose(b["clean"])["logit_gap"]).statistic)
            for a, b in both
        ]
        orders = [wrong_order_agreement(a["clean"], b["clean"]) for a, b in both]
        rows.append((f"{first.name} and {second.name}", plain(confidences), plain(orders)))
    return Section(
        title="Do they agree?",
        columns=("models", "Spearman ρ of the gaps", "Kendall τ of the wrong classes"),
        rows=tuple(rows),
        note=f"On clean images; ± sd over {seeds} seeds. Kendall: mean over images of the rank correlation of the "
        "logits other than that of the class which the first model predicts.",
    )


def wrong_order_agreement(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Mean over images of Kendall's τ between the logits of two models, without the class that the first predicts.

    Args:
        first: Shape (N, classes).
        second: Shape (N, classes).
    """
    top = first.argmax(axis=1)
    values = [
        kendalltau(np.delete(a, label), np.delete(b, label)).statistic
        for a, b, label in zip(first, second, top, strict=True)
    ]
    return float(np.mean(values))


def _histograms(arms: Sequence[Arm], answered: Mapping[str, list[Kept]]) -> Figure:
    figure = Figure(figsize=(8, 2.4 * len(arms)), layout="constrained")
    grid = figure.subplots(len(arms), 2, squeeze=False)
    for row, arm in zip(grid, arms, strict=True):
        kept = answered[arm.name][0]
        for axes, name in zip(row, ("max_logit", "logit_gap"), strict=True):
            clean, attacked = (diagnose(kept[state])[name] for state in ("clean", "attacked"))
            edges = np.histogram_bin_edges(np.concatenate([clean, attacked]), 40)
            axes.hist(clean, edges, color="0.8", label="clean")
            axes.hist(attacked, edges, histtype="step", color="C3", label="attacked")
            axes.set(title=arm.name, xlabel=name.replace("_", " "))
        row[0].legend(fontsize="small")
    return figure


def _gallery(inputs: NDArray[np.float32], labels: NDArray[np.int64], first: Kept, second: Kept) -> Figure:
    confidences = [softmax(kept["clean"]).max(axis=1) for kept in (first, second)]
    order = np.argsort(confidences[0] - confidences[1])
    figure = Figure(figsize=(1.2 * GALLERY, 3.6), layout="constrained")
    grid = figure.subplots(2, GALLERY)
    for axes, index in zip(grid.ravel(), [*order[::-1][:GALLERY], *order[:GALLERY]], strict=True):
        image = inputs[index].transpose(1, 2, 0)
        axes.imshow(image[:, :, 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=1)
        axes.set_axis_off()
        axes.set_title(f"{confidences[0][index]:.2f}\n{confidences[1][index]:.2f}", fontsize="small")
    return figure

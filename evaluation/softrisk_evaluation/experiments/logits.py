"""How sure models are: largest logit and gap, clean and attacked, and on which images two models disagree most."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from softrisk_core.diagnostics import diagnose, softmax
from softrisk_evaluation.activations.sheet import contact_sheet
from softrisk_evaluation.experiments.adversarial import against
from softrisk_evaluation.experiments.answers import STEPS, answer_cells
from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.findings import Findings, Picture, plain
from softrisk_evaluation.experiments.setup import Setup, sampling_error
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.sweep import how_chosen, sweep
from softrisk_evaluation.experiments.task import by_arm, test_sample, training_cells
from softrisk_evaluation.logit_pictures.drawings import draw_levels
from softrisk_evaluation.logit_pictures.shape import CLEAN, STANDING, TURNED, Shape
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
    inputs, _ = test_sample(task, budget.described_images)
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
        tables=[levels_table(answered), agreement_table([(a.name, b.name) for a, b in pairs], answered)],
        pictures=[
            Picture(
                "logits.png",
                "Largest logit and gap of clean images and of images under PGD, seed 0; each column one model.",
                draw_levels({name: by_kind(row[0]) for name, row in answered.items()}),
            ),
            *(
                Picture(
                    f"gallery-{index}.png",
                    f"Clean test images on whose confidence {first.name} (first figure) and {second.name} (second) "
                    "differ most, seed 0.",
                    draw_gallery(inputs, {arm.name: answered[arm.name][0] for arm in (first, second)}),
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


def by_kind(kept: Kept) -> dict[str, Shape]:
    """Of one model, for pictures: clean images, attacked ones that are still right, and successful attacks."""
    clean, attacked = Shape.of(kept["clean"]), Shape.of(kept["attacked"])
    was_right, is_right = clean.label == kept["labels"], attacked.label == kept["labels"]
    standing, turned = (attacked.select(was_right & chosen) for chosen in (is_right, ~is_right))
    return {CLEAN: clean, STANDING: standing, TURNED: turned}


def levels_table(answered: Mapping[str, Sequence[Kept]]) -> Section:
    """How sure models are; `answered` by model, one for each seed."""
    rows = []
    for name, seeds in answered.items():
        for state in ("clean", "attacked"):
            found = [levels(kept[state]) for kept in seeds]
            slope = plain([gap_over_slope(kept) for kept in seeds], 3) if state == "clean" else ""
            rows.append((f"{name}, {state}", *(plain([each[key] for each in found]) for key in found[0]), slope))
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
        note=f"Means over images{_spread(answered)}. sd(z): of the logits of an image. Gap / slope: median of "
        "the gap over the ℓ1 norm of its gradient, the first-order ℓ∞ distance to the decision boundary.",
    )


def agreement_table(pairs: Sequence[tuple[str, str]], answered: Mapping[str, Sequence[Kept]]) -> Section:
    """Whether the same images are certain to two models, and in which order they see the wrong classes."""
    rows = []
    for first, second in pairs:
        both = list(zip(answered[first], answered[second], strict=True))
        confidences = [
            float(spearmanr(diagnose(a["clean"])["logit_gap"], diagnose(b["clean"])["logit_gap"]).statistic)
            for a, b in both
        ]
        orders = [wrong_order_agreement(a["clean"], b["clean"]) for a, b in both]
        rows.append((f"{first} and {second}", plain(confidences), plain(orders)))
    return Section(
        title="Do they agree?",
        columns=("models", "Spearman ρ of the gaps", "Kendall τ of the wrong classes"),
        rows=tuple(rows),
        note=f"On clean images{_spread(answered)}. Kendall: mean over images of the rank correlation of the "
        "logits other than that of the class which the first model predicts.",
    )


def _spread(answered: Mapping[str, Sequence[Kept]]) -> str:
    seeds = len(next(iter(answered.values())))
    return f", ± sd over {seeds} seeds" if seeds > 1 else ""


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


def disagreement(first: Kept, second: Kept) -> NDArray[np.int64]:
    """The clean images, from those of which the first model is surer to those of which the second is, shape (N,)."""
    confidences = [softmax(kept["clean"]).max(axis=1) for kept in (first, second)]
    order: NDArray[np.int64] = np.argsort(confidences[1] - confidences[0], kind="stable")
    return order


def draw_gallery(inputs: NDArray[np.float32], models: Mapping[str, Kept]) -> Figure:
    """Both ends of the order of `disagreement`: a row of images for each, with the confidences of both models.

    Args:
        inputs: Shape (N, C, H, W), in [0, 1].
        models: Two of them, by name.
    """
    first, second = models.values()
    order = disagreement(first, second)
    columns = min(GALLERY, len(order))
    rows = np.stack([order[:columns], order[::-1][:columns]])
    confidences = [softmax(kept["clean"]).max(axis=1) for kept in (first, second)]
    captions = [[" | ".join(f"{each[image]:.2f}" for each in confidences) for image in row] for row in rows]
    return contact_sheet(inputs[rows], [f"{name}\nsurer" for name in models], [""] * columns, captions)

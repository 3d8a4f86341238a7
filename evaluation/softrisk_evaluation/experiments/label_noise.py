"""Training on wrong labels: which losses still learn the right ones."""

from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from softrisk_attacks.attack import run_attack
from softrisk_attacks.standard import pgd
from softrisk_evaluation.experiments.arms import CE, GCE
from softrisk_evaluation.experiments.findings import Findings, Picture, percent
from softrisk_evaluation.experiments.setup import Setup, sampling_error
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.experiments.sweep import how_chosen, sweep
from softrisk_evaluation.experiments.task import Arm, Task, test_sample, trained, training_cells
from softrisk_evaluation.tables import Section

SHARES: Final = (0.0, 0.2, 0.4, 0.6)
STEPS: Final = 20


def run(setup: Setup) -> Findings:
    """Symmetric noise of 0 to 60 % in the training labels; test labels are the true ones."""
    task, seeds = setup.task, setup.seeds
    drsl = sweep(setup).best
    losses = [CE, Arm("MAE", "mae"), GCE, Arm("symmetric CE", "symmetric-ce"), drsl]
    arms = [noisy(loss, share) for loss in losses for share in SHARES]
    kept = setup.study.results("training on noisy labels", training_cells(task, arms, seeds))
    clean = np.array([float(each["test_accuracy"]) for each in kept]).reshape(len(losses), len(SHARES), len(seeds))
    cells = [
        Cell(
            f"noise/{slug(arm.name)}-{seed}",
            robust_on_test,
            {"task": task, "arm": arm, "seed": seed, "images": setup.budget.images},
        )
        for arm in arms
        for seed in seeds
    ]
    robust = np.array([float(each["right"].mean()) for each in setup.study.results(f"PGD-{STEPS}", cells)]).reshape(
        clean.shape
    )
    columns = ("loss", *(f"{share:.0%} wrong" for share in SHARES))
    tables = [
        Section(
            title=title,
            columns=columns,
            rows=tuple(
                (loss.name, *(percent(values[row, column]) for column in range(len(SHARES))))
                for row, loss in enumerate(losses)
            ),
            note=note,
        )
        for title, values, note in (
            ("Clean accuracy, %", clean, f"All test images; mean ± sd over {len(seeds)} seeds."),
            (
                f"Right under PGD-{STEPS}, ε = {task.epsilon:.3g}, %",
                robust,
                f"One random start, {setup.budget.images} test images; mean ± sd over {len(seeds)} seeds.",
            ),
        )
    ]
    return Findings(
        title=f"Label noise on {setup.data_name}",
        question="Does restraining the softmax help a model to learn from labels of which many are wrong?",
        method=(
            *setup.method,
            "Each chosen training label becomes a uniformly random other class; the share is of all training labels.",
            how_chosen(setup) + " Labels were right there; nothing was tuned for noise.",
            sampling_error(setup.budget.images),
        ),
        tables=tables,
        pictures=[
            Picture("label-noise.png", "Clean accuracy over the share of wrong training labels.", _draw(losses, clean))
        ],
        facts={"losses": [loss.name for loss in losses], "shares": SHARES, "accuracy": clean, "robust": robust},
    )


def noisy(loss: Arm, share: float) -> Arm:
    """The loss on labels of which this share is wrong."""
    return Arm(f"{loss.name} {share:.0%} noise", loss.loss, loss.settings, {"label_noise": share} if share else {})


def robust_on_test(work: Path, task: Task, arm: Arm, seed: int, images: int) -> Kept:
    """A cell: `right`, which test images stay right under PGD, shape (images,)."""
    model = trained(work, task, arm, seed)
    inputs, labels = test_sample(task, images)
    return {"right": ~run_attack(model, inputs, labels, pgd(task.epsilon, STEPS, restarts=1), seed=seed).fooled}


def _draw(losses: list[Arm], accuracy: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Figure:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for loss, values in zip(losses, accuracy, strict=True):
        spread = values.std(axis=1, ddof=1) if values.shape[1] > 1 else None
        axes.errorbar(SHARES, values.mean(axis=1), spread, marker="o", capsize=3, label=loss.name)
    axes.set(xlabel="share of wrong training labels", ylabel="clean test accuracy")
    axes.legend()
    return figure

"""How DRSL's weight is chosen: on selection rows, against PGD, among the weights that keep the accuracy of CE."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from softrisk_attacks.attack import run_attack
from softrisk_attacks.standard import pgd
from softrisk_evaluation.experiments.arms import CE, drsl
from softrisk_evaluation.experiments.setup import Setup
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.experiments.task import Arm, Task, selection_sample, trained, training_cells
from softrisk_training.losses import DRSLForm

TOLERANCE: Final = 0.003
"""Clean accuracies are matched if they differ by no more than this: three tenths of a point."""

STEPS: Final = 20
SEED: Final = 0


@dataclass(frozen=True)
class Trial:
    """One weight of one form.

    Attributes:
        form: Of the penalty.
        weight: Against the cross entropy of a sample.
        accuracy: On all selection rows.
        robust: Right on the clean and on the attacked image, on the sample of selection rows.
        chosen: Whether it is the form's choice.
    """

    form: DRSLForm
    weight: float
    accuracy: float
    robust: float
    chosen: bool


@dataclass(frozen=True)
class Sweep:
    """All trials, and CE beside them."""

    trials: tuple[Trial, ...]
    ce_accuracy: float
    ce_robust: float

    def arm(self, form: DRSLForm) -> Arm:
        """DRSL in this form with the chosen weight."""
        (weight,) = (trial.weight for trial in self.trials if trial.form == form and trial.chosen)
        return drsl(form, weight)

    @property
    def best(self) -> Arm:
        """Of the chosen weights of all forms the one that holds best."""
        return self.arm(max((trial for trial in self.trials if trial.chosen), key=lambda trial: trial.robust).form)


def robust_on_selection(work: Path, task: Task, arm: Arm, seed: int, images: int) -> Kept:
    """A cell: `right`, which images of the selection sample stay right under PGD, shape (images,)."""
    model = trained(work, task, arm, seed)
    inputs, labels = selection_sample(task, images)
    outcome = run_attack(model, inputs, labels, pgd(task.epsilon, STEPS, restarts=1), seed=SEED)
    return {"right": ~outcome.fooled}


def sweep(setup: Setup) -> Sweep:
    """Train DRSL with every weight, one seed each, and choose one weight for each form."""
    study, task, images, weights = setup.study, setup.task, setup.budget.sweep_images, setup.budget.weights
    tried = [(form, weight) for form, values in weights.items() for weight in values]
    arms = [CE, *(drsl(form, weight) for form, weight in tried)]
    accuracies = [
        float(kept["selection_accuracy"])
        for kept in study.results("training, one weight of DRSL each", training_cells(task, arms, [SEED]))
    ]
    cells = [
        Cell(f"sweep/{slug(arm.name)}", robust_on_selection, {"task": task, "arm": arm, "seed": SEED, "images": images})
        for arm in arms
    ]
    robust = [float(kept["right"].mean()) for kept in study.results(f"PGD-{STEPS} on selection rows", cells)]
    return choose(tried, accuracies[1:], robust[1:], accuracies[0], robust[0])


def choose(
    tried: list[tuple[DRSLForm, float]],
    accuracies: list[float],
    robust: list[float],
    ce_accuracy: float,
    ce_robust: float,
) -> Sweep:
    """Of each form the weight that holds best among those whose accuracy is CE's, or else the most accurate one."""
    chosen = set()
    for form in dict(tried):
        of_form = [index for index, (other, _) in enumerate(tried) if other == form]
        matched = [index for index in of_form if accuracies[index] >= ce_accuracy - TOLERANCE]
        # A penalty of no effect has ties: the smaller weight is then the smaller intervention.
        chosen.add(
            max(matched, key=lambda index: (robust[index], -tried[index][1]))
            if matched
            else int(np.argmax([accuracies[index] if index in of_form else -1 for index in range(len(tried))]))
        )
    trials = tuple(
        Trial(form, weight, accuracies[index], robust[index], index in chosen)
        for index, (form, weight) in enumerate(tried)
    )
    return Sweep(trials, ce_accuracy, ce_robust)

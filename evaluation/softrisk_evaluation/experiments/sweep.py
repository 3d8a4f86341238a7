"""How DRSL's weight is chosen: on selection rows, under attack, among the weights that keep the accuracy of CE.

The attack is PGD with 20 steps and APGD on the margin, the worse of the two for each image. PGD alone would choose what
hides from PGD: it climbs the cross entropy, and DRSL changes what the cross entropy looks like.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from softrisk_attacks.apgd import APGD
from softrisk_attacks.attack import run_attack
from softrisk_attacks.standard import pgd
from softrisk_evaluation.experiments.arms import CE, drsl
from softrisk_evaluation.experiments.setup import Setup
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.experiments.task import Arm, Task, selection_sample, trained, training_cells
from softrisk_training.losses import DRSLForm

TOLERANCE: Final = 0.003
"""A clean accuracy is matched if it is no more than this below that of CE: three tenths of a point."""

PGD_STEPS: Final = 20
APGD_STEPS: Final = 50
SEED: Final = 0


@dataclass(frozen=True)
class Measured:
    """One trained model on selection rows.

    Attributes:
        accuracy: On all of them, in [0, 1].
        pgd: Right under PGD, of the sample that is attacked.
        robust: Right under PGD and under APGD on the margin.
    """

    accuracy: float
    pgd: float
    robust: float


@dataclass(frozen=True)
class Trial:
    """One weight of one form.

    Attributes:
        form: Of the penalty.
        weight: Against the cross entropy of a sample.
        measured: What came of it.
        chosen: Whether it is the form's choice.
    """

    form: DRSLForm
    weight: float
    measured: Measured
    chosen: bool


@dataclass(frozen=True)
class Sweep:
    """All trials, and CE beside them."""

    trials: tuple[Trial, ...]
    ce: Measured

    def arm(self, form: DRSLForm) -> Arm:
        """DRSL in this form with the chosen weight."""
        (weight,) = (trial.weight for trial in self.trials if trial.form == form and trial.chosen)
        return drsl(form, weight)

    @property
    def best(self) -> Arm:
        """Of the forms' choices the one that holds best, matched ones before those that are not."""
        chosen = [trial for trial in self.trials if trial.chosen]
        return self.arm(
            max(chosen, key=lambda trial: (is_matched(trial.measured, self.ce), trial.measured.robust)).form
        )


def attack_selection(work: Path, task: Task, arm: Arm, seed: int, images: int) -> Kept:
    """A cell: `pgd` and `margin`, which images of the selection sample stay right under each, shape (images,)."""
    model = trained(work, task, arm, seed)
    inputs, labels = selection_sample(task, images)
    attacks = {
        "pgd": pgd(task.epsilon, PGD_STEPS, restarts=1),
        "margin": APGD(task.epsilon, "margin", APGD_STEPS),
    }
    return {name: ~run_attack(model, inputs, labels, attack, seed=SEED).fooled for name, attack in attacks.items()}


def sweep(setup: Setup) -> Sweep:
    """Train DRSL with every weight, one seed each, and choose one weight for each form."""
    study, task, images = setup.study, setup.task, setup.budget.sweep_images
    tried = [(form, weight) for form, values in setup.budget.weights.items() for weight in values]
    arms = [CE, *(drsl(form, weight) for form, weight in tried)]
    accuracies = study.results("training, one weight of DRSL each", training_cells(task, arms, [SEED]))
    cells = [
        Cell(f"sweep/{slug(arm.name)}", attack_selection, {"task": task, "arm": arm, "seed": SEED, "images": images})
        for arm in arms
    ]
    attacked = study.results("attacks on selection rows", cells)
    ce, *trials = (
        Measured(
            accuracy=float(accuracy["selection_accuracy"]),
            pgd=float(kept["pgd"].mean()),
            robust=float((kept["pgd"] & kept["margin"]).mean()),
        )
        for accuracy, kept in zip(accuracies, attacked, strict=True)
    )
    return choose(tried, trials, ce)


def how_chosen(setup: Setup) -> str:
    """For the page of every experiment that uses the choice."""
    return (
        f"DRSL's weight: seed 0, the highest accuracy under PGD-{PGD_STEPS} and APGD on the margin together, ε = "
        f"{setup.task.epsilon:.3g}, on {setup.budget.sweep_images} selection images, among those whose selection "
        f"accuracy is at most {TOLERANCE * 100:.1f} points below that of CE."
    )


def choose(tried: list[tuple[DRSLForm, float]], measured: list[Measured], ce: Measured) -> Sweep:
    """Of each form the weight that holds best among those whose accuracy is CE's, or else the most accurate one."""
    chosen = set()
    for form in dict(tried):
        of_form = [index for index, (other, _) in enumerate(tried) if other == form]
        matched = [index for index in of_form if is_matched(measured[index], ce)]
        # A penalty of no effect has ties: the smaller weight is then the smaller intervention.
        chosen.add(
            max(matched, key=lambda index: (measured[index].robust, -tried[index][1]))
            if matched
            else max(of_form, key=lambda index: measured[index].accuracy)
        )
    trials = tuple(Trial(form, weight, measured[index], index in chosen) for index, (form, weight) in enumerate(tried))
    return Sweep(trials, ce)


def is_matched(measured: Measured, ce: Measured) -> bool:
    """Whether a model is no less accurate than CE, within the tolerance."""
    return measured.accuracy >= ce.accuracy - TOLERANCE

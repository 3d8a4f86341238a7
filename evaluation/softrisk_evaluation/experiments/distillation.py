"""Does the order of the wrong classes carry robustness?

A student learns, on clean images only, the softmax of an adversarially trained teacher; in each arm something else
is done to the teacher's logits first. If flattening or shuffling the wrong classes costs the student the robustness
that it would inherit, their order matters, and DRSL, which flattens them, gives something away.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from softrisk_attacks.apgd import APGD
from softrisk_attacks.attack import run_attack
from softrisk_attacks.standard import pgd
from softrisk_evaluation.experiments.adversarial import against
from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.findings import Findings, percent
from softrisk_evaluation.experiments.setup import Setup, sampling_error
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.experiments.task import (
    BATCH_SIZE,
    Arm,
    Task,
    checkpoint_path,
    logits_of,
    rows_of,
    test_sample,
    trained,
    training_cells,
)
from softrisk_evaluation.tables import Section
from softrisk_training.adversarial import Adversary
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.models import architecture, build_classifier
from softrisk_training.trainer import make_optimizer, one_cycle

Logits = NDArray[np.float32]
Change = Callable[[Logits, Logits, np.random.Generator], Logits]
"""From logits of the teacher, and of a model that was trained on clean images, to what is taught."""

TEMPERATURE: Final = 4.0
"""Softens teacher and student alike (Hinton et al., arXiv 1503.02531)."""

STEPS: Final = 20
MARGIN_STEPS: Final = 50


def _wrong_classes(logits: Logits, change: Callable[[Logits], Logits]) -> Logits:
    """Applies a change to the logits below the largest of each row, given and taken in descending order."""
    order = np.argsort(-logits, axis=1)
    ordered = np.take_along_axis(logits, order, axis=1)
    changed = np.concatenate([ordered[:, :1], change(ordered[:, 1:])], axis=1)
    result = np.empty_like(logits)
    np.put_along_axis(result, order, changed.astype(np.float32), axis=1)
    return result


def _flat_below(kept: int) -> Change:
    def flatten(wrong: Logits) -> Logits:
        rest = wrong[:, kept:]
        return np.concatenate([wrong[:, :kept], np.repeat(rest.mean(axis=1, keepdims=True), rest.shape[1], 1)], axis=1)

    return lambda logits, other, generator: _wrong_classes(logits, flatten)


def _shuffled(logits: Logits, other: Logits, generator: np.random.Generator) -> Logits:
    return _wrong_classes(logits, lambda wrong: generator.permuted(wrong, axis=1))


def _shuffled_by_class(logits: Logits, other: Logits, generator: np.random.Generator) -> Logits:
    """For each predicted class one permutation of the others: consistent from sample to sample, but a wrong order."""
    result = logits.copy()
    top = logits.argmax(axis=1)
    for label in range(logits.shape[1]):
        others = np.delete(np.arange(logits.shape[1]), label)
        members = np.flatnonzero(top == label)
        result[np.ix_(members, others)] = logits[np.ix_(members, generator.permutation(others))]
    return result


def _mean_profile(logits: Logits, other: Logits, generator: np.random.Generator) -> Logits:
    """The order of each sample, but the mean sorted logits of all: every sample equally sure."""
    order = np.argsort(-logits, axis=1)
    profile = np.take_along_axis(logits, order, axis=1).mean(axis=0)
    result = np.empty_like(logits)
    np.put_along_axis(result, order, np.broadcast_to(profile, logits.shape), axis=1)
    return result


def _mean_gap(logits: Logits, other: Logits, generator: np.random.Generator) -> Logits:
    """The wrong classes of each sample as they are; the largest logit at the mean gap above the second."""
    result = logits.copy()
    top = np.sort(logits, axis=1)[:, -2:]
    rows = np.arange(len(logits))
    result[rows, logits.argmax(axis=1)] = top[:, 0] + (top[:, 1] - top[:, 0]).mean()
    return result


def _own_order(values: Logits, order_of: Logits) -> Logits:
    """The sorted logits of one, in the order of the other."""
    result = np.empty_like(values)
    np.put_along_axis(result, np.argsort(-order_of, axis=1), -np.sort(-values, axis=1), axis=1)
    return result


TEACHERS: Final[dict[str, Change]] = {
    "as it is": lambda logits, other, generator: logits,
    "wrong classes flat": _flat_below(0),
    "runner-up kept, rest flat": _flat_below(1),
    "two kept, rest flat": _flat_below(2),
    "three kept, rest flat": _flat_below(3),
    "wrong classes shuffled": _shuffled,
    "wrong classes shuffled by class": _shuffled_by_class,
    "mean profile, own order": _mean_profile,
    "mean gap, own order": _mean_gap,
    "own values, order of CE": lambda logits, other, generator: _own_order(logits, other),
    "values of CE, own order": lambda logits, other, generator: _own_order(other, logits),
    "CE instead": lambda logits, other, generator: other,
}
"""What is done to the teacher's logits."""

HARD: Final = "labels only"
"""The control without a teacher."""


def run(setup: Setup) -> Findings:
    """Teach students by changed logits of one adversarially trained teacher."""
    study, task, budget, seeds = setup.study, setup.task, setup.budget, setup.seeds
    teacher = against(Adversary("pgd", task.training_epsilon, budget.inner_steps), CE)
    study.results("training the teachers", training_cells(task, [teacher, CE], range(1)))
    changes = [*TEACHERS, HARD]
    common = {"task": task, "teacher": teacher, "images": budget.images, "epsilon": task.epsilon}
    kept = study.results(
        "students",
        [
            Cell(f"student/{slug(change)}-{seed}", student, {**common, "change": change, "seed": seed})
            for change in changes
            for seed in seeds
        ],
    )
    models = (teacher, CE)
    themselves = study.results(
        "teachers",
        [Cell(f"teacher/{slug(arm.name)}", teacher_itself, {**common, "teacher": arm}) for arm in models],
    )
    figures = {
        name: np.array([each[name].mean() for each in kept]).reshape(len(changes), len(seeds))
        for name in ("right_clean", "right_pgd", "right")
    }
    rows = [
        (f"({arm.name} itself)", *(f"{each[name].mean():.1%}".rstrip("%") for name in figures))
        for arm, each in zip(models, themselves, strict=True)
    ]
    rows += [(change, *(percent(figures[name][row]) for name in figures)) for row, change in enumerate(changes)]
    return Findings(
        title=f"Does the order of the wrong classes matter? {setup.data_name}",
        question="Can a student that sees clean images only inherit robustness from an adversarially trained teacher, "
        "and does that rest on the order of the wrong classes, which DRSL flattens?",
        method=(
            *setup.method,
            sampling_error(budget.images),
            f"Teacher: {teacher.name}, one seed. Students: the same network and schedule, T² · KL of the softmax at "
            f"temperature T = {TEMPERATURE:g}, clean training images without augmentation, {len(seeds)} seeds.",
            f"PGD-{STEPS} and APGD-{MARGIN_STEPS} on the margin, one random start each, ε = {task.epsilon:.3g}, "
            f"{budget.images} test images.",
            "Flat: each wrong logit is their mean, which makes the teacher surer, too, since the softmax of a mean is "
            "less than the mean of the softmax. Shuffles keep every value and so the confidence. The order of CE "
            "brings its predictions with it.",
        ),
        tables=[
            Section(
                title="Students",
                columns=("teacher's logits", "clean, %", f"PGD-{STEPS}, %", "worst of both, %"),
                rows=tuple(rows),
                note=f"Mean ± sd over {len(seeds)} seeds. Order: of the classes by the logits; values: the sorted "
                "logits.",
            )
        ],
        facts={"changes": changes, **figures},
    )


def student(work: Path, task: Task, teacher: Arm, change: str, seed: int, images: int, epsilon: float) -> Kept:
    """A cell: train a student on clean images, and attack it.

    Args:
        work: The working folder.
        task: Data, network and number of epochs; the network and its schedule are those of every arm.
        teacher: Must have been trained with seed 0.
        change: A key of `TEACHERS`, or `HARD`.
        seed: Of initialisation, row order and shuffling.
        images: Test images that are attacked.
        epsilon: ℓ∞ radius.

    Returns:
        `right_clean`, over all test rows; `right_pgd` under PGD, and `right` under PGD and APGD on the margin, of the
        sample.
    """
    data, splits = rows_of(task.data)
    rows = splits.training
    recipe = architecture(task.architecture)
    arguments = load_checkpoint(checkpoint_path(work, task, teacher, 0)).arguments
    taught = None
    if change != HARD:
        own = logits_of(trained(work, task, teacher, 0), data.inputs(rows))
        other = logits_of(trained(work, task, CE, 0), data.inputs(rows))
        taught = TEACHERS[change](own, other, np.random.default_rng([seed, 1]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pupil = build_classifier(
            task.architecture, input_shape=data.input_shape, classes=len(data.classes), **arguments
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(pupil, recipe.optimizer, recipe.learning_rate, recipe.weight_decay)
    total = task.epochs * (-(-len(rows) // BATCH_SIZE))
    step = 0
    pupil.train()
    for epoch in range(task.epochs):
        order = np.random.default_rng([seed, 2, epoch]).permutation(len(rows))
        for start in range(0, len(order), BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * one_cycle((step + 0.5) / total)
            with torch.autocast("cpu", torch.bfloat16):
                logits = pupil(torch.from_numpy(data.inputs(rows[chosen])))
            if taught is None:
                value = F.cross_entropy(logits.float(), torch.from_numpy(data.labels[rows[chosen]]))
            else:
                value = distillation_loss(logits.float(), torch.from_numpy(taught[chosen]))
            optimizer.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()
            step += 1
    return _examined(pupil.eval().requires_grad_(False), task, seed, images, epsilon)


def teacher_itself(work: Path, task: Task, teacher: Arm, images: int, epsilon: float) -> Kept:
    """A cell: the same figures of a teacher."""
    return _examined(trained(work, task, teacher, 0), task, 0, images, epsilon)


def _examined(model: nn.Module, task: Task, seed: int, images: int, epsilon: float) -> Kept:
    data, splits = rows_of(task.data)
    inputs, labels = test_sample(task, images)
    by_pgd = run_attack(model, inputs, labels, pgd(epsilon, STEPS, restarts=1), seed=seed)
    # Distilled at a temperature, logits are large, and the cross entropy saturates: what PGD misses, the margin finds.
    by_margin = run_attack(model, inputs, labels, APGD(epsilon, "margin", MARGIN_STEPS), seed=seed)
    predicted = logits_of(model, data.inputs(splits.test)).argmax(axis=1)
    return {
        "right_clean": predicted == data.labels[splits.test],
        "right_pgd": ~by_pgd.fooled,
        "right": ~(by_pgd.fooled | by_margin.fooled),
    }


def distillation_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """T² · KL(softmax(taught / T) ‖ softmax(logits / T)), mean over the batch (Hinton et al., arXiv 1503.02531)."""
    return TEMPERATURE**2 * F.kl_div(
        F.log_softmax(logits / TEMPERATURE, dim=1),
        F.log_softmax(taught / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )

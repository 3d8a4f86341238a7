"""Captioners of scenes: trained, attacked and asked how sure they are, each a cell."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_attacks.captions import CaptionAttack, attack_captions
from softrisk_evaluation.experiments.study import Cell, Kept, digest, slug
from softrisk_evaluation.experiments.task import Arm, rows_of
from softrisk_training.captioning.captioner import Captioner
from softrisk_training.captioning.checkpoint import build_captioner, load_caption_checkpoint
from softrisk_training.captioning.quality import exact_matches, write_captions
from softrisk_training.captioning.scenes import CaptionedImages, held_out_scenes
from softrisk_training.captioning.training import CaptionConfig, Schedule, train_captioner

BATCH_SIZE: Final = 32

OBJECTIVES: Final = ("ce", "margin")
"""Of the attacks, one after the other on what still stands."""


@dataclass(frozen=True)
class CaptionTask:
    """What captioners are trained on.

    Attributes:
        data: Location for `load_data`.
        width: Filters of the first convolution.
        epochs: Passes over the scenes.
        scenes: Composed of training rows.
    """

    data: str
    width: int
    epochs: int
    scenes: int


@cache
def judged_scenes(data: str) -> CaptionedImages:
    """The test scenes, the same for all arms and seeds; the first ones are attacked."""
    return held_out_scenes(*rows_of(data))


def trained_captioner(work: Path, task: CaptionTask, arm: Arm, seed: int) -> Captioner:
    """The trained captioner, in eval mode.

    Raises:
        CheckpointError: If it has not been trained, or cannot be read.
    """
    return build_captioner(load_caption_checkpoint(_path(work, task, arm, seed)))


def train_captions(work: Path, task: CaptionTask, arm: Arm, seed: int) -> Kept:
    """A cell: train an arm.

    Returns:
        `written`, its captions of all test scenes, shape (N, T), and `references`, of the same shape.
    """
    out = _path(work, task, arm, seed)
    if not out.exists():
        schedule = Schedule(task.epochs, BATCH_SIZE, seed=seed)
        config = CaptionConfig(task.width, arm.loss, arm.settings, task.scenes, schedule)
        train_captioner(config, *rows_of(task.data), out)
    scenes = judged_scenes(task.data)
    written, _ = write_captions(trained_captioner(work, task, arm, seed), scenes.inputs(np.arange(len(scenes.images))))
    return {"written": written, "references": scenes.captions}


def attack_arm(
    work: Path,
    task: CaptionTask,
    arm: Arm,
    seed: int,
    images: int,
    levels: Sequence[int],
    steps: int,
    restarts: int,
    targeted: bool,
) -> Kept:
    """A cell: attack the first test scenes, at rising radii, in grey levels of 255, those that still stand.

    What a caption is, is decided by writing it. Targets are references of other scenes.

    Returns:
        `right`, which captions are right without an attack, shape (N,); `succeeded`, by any objective, and
        `by_ce`, by cross entropy alone, both of shape (E, N).
    """
    model = trained_captioner(work, task, arm, seed)
    inputs, references = _sample(task, images)
    wanted = targets(references) if targeted else references

    def reached(points: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        matches = exact_matches(write_captions(model, points)[0], wanted[rows])
        return matches if targeted else ~matches

    everything = np.arange(len(inputs))
    right = exact_matches(write_captions(model, inputs)[0], references)
    by_any = reached(inputs, everything)
    by_ce = by_any.copy()
    found: dict[str, list[NDArray[np.bool_]]] = {"succeeded": [], "by_ce": []}
    for level in levels:
        for objective in OBJECTIVES:
            standing = everything[~by_ce] if objective == "ce" else everything[~by_any]
            if len(standing):
                attack = CaptionAttack(level / 255, objective, targeted, steps, restarts)
                outcome = attack_captions(model, inputs[standing], wanted[standing], attack, seed=seed)
                won = standing[reached(outcome.images, standing)]
                by_any[won] = True
                if objective == "ce":
                    by_ce[won] = True
        found["succeeded"].append(by_any.copy())
        found["by_ce"].append(by_ce.copy())
    return {"right": right, **{name: np.stack(rows) for name, rows in found.items()}}


def asked_arm(work: Path, task: CaptionTask, arm: Arm, seed: int, images: int, epsilon: float, steps: int) -> Kept:
    """A cell: what the captioner says of clean scenes, and of attacked ones after all steps.

    Stopped at its first success, an attack would end where the model is undecided, and any diagnostic would see it.

    Returns:
        `references`, shape (N, T); `clean`, `attacked`, captions of shape (N, T); `clean_logits`, `attacked_logits`,
        shape (N, T, words).
    """
    model = trained_captioner(work, task, arm, seed)
    inputs, references = _sample(task, images)
    attack = CaptionAttack(epsilon, steps=steps, restarts=1, until_fooled=False)
    outcome = attack_captions(model, inputs, references, attack, seed=seed)
    clean, clean_logits = write_captions(model, inputs)
    attacked, attacked_logits = write_captions(model, outcome.images)
    return {
        "references": references,
        "clean": clean,
        "clean_logits": clean_logits,
        "attacked": attacked,
        "attacked_logits": attacked_logits,
    }


def targets(references: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each reference the next one, in order and around, that is another caption."""
    following = references.copy()
    for row, reference in enumerate(references):
        others = np.roll(references, -row - 1, axis=0)
        following[row] = next(other for other in others if (other != reference).any())
    return following


def cells(
    name: str, function: Callable[..., Kept], arms: Sequence[Arm], seeds: Sequence[int], **arguments: object
) -> list[Cell]:
    """One cell for each arm and seed, seeds innermost."""
    return [
        Cell(f"{name}/{slug(arm.name)}-{seed}", function, {**arguments, "arm": arm, "seed": seed})
        for arm in arms
        for seed in seeds
    ]


def _sample(task: CaptionTask, images: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    scenes = judged_scenes(task.data)
    return scenes.inputs(np.arange(len(scenes.images))[:images]), scenes.captions[:images]


def _path(work: Path, task: CaptionTask, arm: Arm, seed: int) -> Path:
    return work / "captioners" / f"{slug(arm.name)}-{seed}-{digest([task, arm.loss, arm.settings, seed])}.pt"

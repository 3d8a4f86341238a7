"""What is trained and measured: the pairs, the arms, and the rows that are attacked."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch

from softrisk_evaluation.experiments.study import Cell, Kept, digest, slug
from softrisk_training.multimodal.checkpoint import (
    MultimodalCheckpoint,
    build_multimodal_model,
    load_multimodal_checkpoint,
)
from softrisk_training.multimodal.config import MultimodalConfig
from softrisk_training.multimodal.model import MultimodalClassifier
from softrisk_training.multimodal.pairs import PairedData, load_pairs
from softrisk_training.multimodal.rows import Rows, planes_of
from softrisk_training.multimodal.trainer import train_multimodal

SPLIT_SEED: Final = 0
"""All arms and seeds share one split, so that no test row has ever trained anything that is compared."""


@dataclass(frozen=True)
class MultimodalTask:
    """The pairs that are trained on and attacked.

    Attributes:
        images: Location of the images.
        audio: Location of the recordings.
        speaker_disjoint: Whether the test is of unseen speakers.
        rows: Test pairs that are attacked; all if there are not so many.
    """

    images: str
    audio: str
    speaker_disjoint: bool
    rows: int


@dataclass(frozen=True)
class MultimodalArm:
    """One way of training.

    Attributes:
        name: For tables.
        config: Of the training, but for its seed.
    """

    name: str
    config: MultimodalConfig


@cache
def pairs_of(task: MultimodalTask) -> PairedData:
    """The pairs; kept, as every cell of a process needs them."""
    return load_pairs(task.images, task.audio, seed=SPLIT_SEED, speaker_disjoint=task.speaker_disjoint)


def checkpoint_path(work: Path, task: MultimodalTask, arm: MultimodalArm, seed: int) -> Path:
    """Where the trained classifier of an arm is kept."""
    what = digest([task.images, task.audio, task.speaker_disjoint, asdict(arm.config), seed])
    return work / "models" / f"{slug(arm.name)}-{seed}-{what}.pt"


def train_arm(work: Path, task: MultimodalTask, arm: MultimodalArm, seed: int) -> Kept:
    """A cell: train an arm.

    Returns:
        `test_accuracy`, in [0, 1]; of a method with a second step `mean_radius`, before and after it.
    """
    out = checkpoint_path(work, task, arm, seed)
    if not out.exists():
        train_multimodal(replace(arm.config, seed=seed), pairs_of(task), out)
    checkpoint = load_multimodal_checkpoint(out)
    kept = {"test_accuracy": np.array(checkpoint.test_accuracy)}
    if "mean_radius_before" in checkpoint.settings:
        radii = [float(checkpoint.settings[f"mean_radius_{when}"]) for when in ("before", "after")]
        kept["mean_radius"] = np.array(radii)
    return kept


def training_cells(task: MultimodalTask, arms: Sequence[MultimodalArm], seeds: Sequence[int]) -> list[Cell]:
    """One cell for each arm and seed, seeds innermost."""
    return [
        Cell(f"trained/{slug(arm.name)}-{seed}", train_arm, {"task": task, "arm": arm, "seed": seed})
        for arm in arms
        for seed in seeds
    ]


def trained(
    work: Path, task: MultimodalTask, arm: MultimodalArm, seed: int
) -> tuple[MultimodalClassifier, MultimodalCheckpoint]:
    """A trained classifier, in eval mode and without gradients of its weights, and its checkpoint."""
    checkpoint = load_multimodal_checkpoint(checkpoint_path(work, task, arm, seed))
    model = build_multimodal_model(checkpoint)
    model.requires_grad_(False)
    return model, checkpoint


def attacked_rows(task: MultimodalTask) -> tuple[Rows, Rows]:
    """The attacked test pairs, the same for all arms and seeds: as inputs of the model, and as planes."""
    data = pairs_of(task)
    chosen = np.random.default_rng(SPLIT_SEED).permutation(data.splits.test)[: task.rows]
    inputs, labels = data.rows(chosen), torch.from_numpy(data.labels[chosen])
    tensors = [torch.from_numpy(values) for values in inputs.values()]
    return Rows(tensors, labels), Rows(planes_of(inputs, data.modalities), labels)

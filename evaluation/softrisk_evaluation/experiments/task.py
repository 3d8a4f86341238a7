"""What is trained: a data set with its network, and the arms that are compared on it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_evaluation.experiments.study import Cell, Kept, digest, slug
from softrisk_training.augmentation import Augmentation
from softrisk_training.checkpoint import build_model, load_checkpoint
from softrisk_training.data import ImageData, Splits, load_data, split_rows
from softrisk_training.models import architecture
from softrisk_training.trainer import TrainingConfig, state_path, train

SPLIT_SEED: Final = 0
"""All arms and seeds share one split, so that no test row has ever trained anything that is compared."""

BATCH_SIZE: Final = 128

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A data set with the network that is trained on it.

    Attributes:
        data: Location for `load_data`.
        architecture: Name of the network.
        width: Filters of its first layer.
        epochs: Passes over the training rows.
        augmentation: What preserves the label.
        epsilon: ℓ∞ radius of the headline figures, in units of [0, 1] pixels.
        epsilons: Radii of the curves; the largest is the largest that minimum-norm attacks try.
        training_epsilon: Radius of adversarial training, and of the attacks on what it trained.
    """

    data: str
    architecture: str
    width: int
    epochs: int
    augmentation: Augmentation
    epsilon: float
    epsilons: tuple[float, ...]
    training_epsilon: float


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name: For tables.
        loss: Name of the loss.
        settings: Its settings.
        training: Further fields of `TrainingConfig` that differ from the task's.
        temperature: Of the softmax after training: logits are divided by it.
    """

    name: str
    loss: str
    settings: dict[str, float | str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0


@cache
def rows_of(data: str) -> tuple[ImageData, Splits]:
    """A data set and its split; kept, as every cell of a process needs them."""
    images = load_data(data)
    return images, split_rows(images, SPLIT_SEED)


def checkpoint_path(work: Path, task: Task, arm: Arm, seed: int) -> Path:
    """Where the trained classifier of an arm is kept; figures of the evaluation have no say in its name."""
    recipe = [task.data, task.architecture, task.width, task.epochs, task.augmentation]
    what = digest([*recipe, arm.loss, arm.settings, arm.training, seed])
    return work / "models" / f"{slug(arm.name)}-{seed}-{what}.pt"


class Tempered(nn.Module):
    """A model whose logits are divided by a temperature: the same labels, another confidence.

    Args:
        model: Its logits are divided.
        temperature: > 0.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits over the temperature, shape (B, classes)."""
        logits: Tensor = self.model(inputs)
        return logits / self.temperature


def trained(work: Path, task: Task, arm: Arm, seed: int) -> nn.Module:
    """The trained classifier, in eval mode and without gradients of its weights.

    Raises:
        CheckpointError: If it has not been trained, or cannot be read.
    """
    model = build_model(load_checkpoint(checkpoint_path(work, task, arm, seed))).requires_grad_(False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model if arm.temperature == 1 else Tempered(model, arm.temperature)


def train_arm(work: Path, task: Task, arm: Arm, seed: int) -> Kept:
    """A cell: train an arm, or go on with what an interruption left.

    Returns:
        `test_accuracy` and `selection_accuracy`, in [0, 1].
    """
    out = checkpoint_path(work, task, arm, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():
        recipe = architecture(task.architecture)
        config = TrainingConfig(
            architecture=task.architecture,
            width=task.width,
            loss=arm.loss,
            loss_settings=arm.settings,
            epochs=task.epochs,
            batch_size=BATCH_SIZE,
            optimizer=recipe.optimizer,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            augmentation=task.augmentation,
            bfloat16=True,
            seed=seed,
        )
        data, splits = rows_of(task.data)
        train(replace(config, **arm.training), data, splits, out, resume=state_path(out).exists())
    checkpoint = load_checkpoint(out)
    return {
        "test_accuracy": np.array(checkpoint.test_accuracy),
        "selection_accuracy": np.array(checkpoint.selection_accuracy),
    }


def training_cells(task: Task, arms: Sequence[Arm], seeds: Sequence[int]) -> list[Cell]:
    """One cell for each arm and seed, seeds innermost."""
    return [
        Cell(
            f"trained/{slug(arm.name)}-{seed}",
            train_arm,
            {"task": task, "arm": arm, "seed": seed},
        )
        for arm in arms
        for seed in seeds
    ]


def by_arm(results: Sequence[T], arms: Sequence[Arm]) -> dict[str, list[T]]:
    """Results of cells, seeds innermost, by the name of the arm."""
    seeds = len(results) // len(arms)
    return {arm.name: list(results[row * seeds : (row + 1) * seeds]) for row, arm in enumerate(arms)}


def test_sample(task: Task, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Test images and labels, the same for all arms and seeds; a smaller sample is the beginning of a larger one."""
    data, splits = rows_of(task.data)
    return _sample(data, splits.test, count)


def selection_sample(task: Task, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The same of the selection rows, on which choices are made."""
    data, splits = rows_of(task.data)
    return _sample(data, splits.selection, count)


def _sample(data: ImageData, rows: NDArray[np.int64], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    chosen = np.random.default_rng(SPLIT_SEED).permutation(rows)[:count]
    return data.inputs(chosen), data.labels[chosen]


def logits_of(model: nn.Module, inputs: NDArray[np.float32], batch_size: int = 500) -> NDArray[np.float32]:
    """Logits of the inputs, shape (N, classes)."""
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(inputs[start : start + batch_size])) for start in range(0, len(inputs), batch_size)
        ]
    return np.concatenate([part.numpy() for part in parts])

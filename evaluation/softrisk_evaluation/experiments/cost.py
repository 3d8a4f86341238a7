"""What a loss costs: the time of a training step against cross entropy, the two taking turns in one process."""

import time
from pathlib import Path
from typing import Final

import numpy as np
import torch

from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.task import BATCH_SIZE, Arm, Task, rows_of
from softrisk_training.losses import make_loss
from softrisk_training.models import build_classifier

ROUNDS: Final = 40


def step_times(work: Path, task: Task, arms: tuple[Arm, ...]) -> Kept:
    """A cell: seconds of one step of each arm's loss, on the same network and batch.

    Args:
        work: Not used.
        task: Whose network and images are used, in float32.
        arms: Of which only the losses matter.

    Returns:
        `seconds`, shape (arms, `ROUNDS`); `baseline`, the same of CE, shape (`ROUNDS`,).
    """
    data, splits = rows_of(task.data)
    channels = data.input_shape[0]
    model = build_classifier(
        task.architecture,
        input_shape=data.input_shape,
        classes=len(data.classes),
        width=task.width,
        mean=[0.5] * channels,
        std=[0.25] * channels,
    )
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    inputs = torch.from_numpy(data.inputs(splits.training[:BATCH_SIZE]))
    labels = torch.from_numpy(data.labels[splits.training[:BATCH_SIZE]])
    losses = [make_loss(arm.loss, **arm.settings) for arm in (CE, *arms)]
    seconds = np.empty((len(losses), ROUNDS))
    for turn in range(-2, ROUNDS):
        for row, loss in enumerate(losses):
            started = time.perf_counter()
            value = loss(model(inputs), labels)
            optimizer.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()
            if turn >= 0:
                seconds[row, turn] = time.perf_counter() - started
    return {"seconds": seconds[1:], "baseline": seconds[0]}

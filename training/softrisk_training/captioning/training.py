"""Teacher-forced training, of the small captioner from scratch and of any other."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from softrisk_training.captioning.captioner import Captioner
from softrisk_training.captioning.checkpoint import CaptionCheckpoint
from softrisk_training.captioning.language import Language
from softrisk_training.captioning.model import scene_captioner
from softrisk_training.captioning.quality import measure
from softrisk_training.captioning.scenes import CaptionedImages, compose, held_out_scenes
from softrisk_training.checkpoint import tool_versions
from softrisk_training.data import ImageData, Splits, absolute_location
from softrisk_training.errors import TrainingError
from softrisk_training.losses import Loss, kept_tokens, make_loss
from softrisk_training.trainer import Progress, make_optimizer, one_cycle


@dataclass(frozen=True)
class Schedule:
    """How a captioner is trained.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images in a step.
        learning_rate: Peak of the one-cycle schedule of AdamW.
        weight_decay: Decoupled.
        seed: Of the row order.
    """

    epochs: int
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name.replace('_', ' ')} must be greater than 0, got {getattr(self, name)}")


def fit(
    model: Captioner,
    data: CaptionedImages,
    loss: Loss,
    schedule: Schedule,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> list[dict[str, float]]:
    """Train a captioner on fixed captions, each token after the true ones before it.

    Args:
        model: Trained in place, on its own device; left in eval mode.
        data: What it is trained on.
        loss: Any of the losses: the kept tokens of a batch are its samples.
        schedule: How.
        on_progress: Called after every step; its accuracy is that of tokens under teacher forcing.

    Returns:
        For each epoch the mean loss and the accuracy.

    Raises:
        TrainingError: If the loss is no longer finite.
    """
    device = next(model.parameters()).device
    optimizer = make_optimizer(model, "adamw", schedule.learning_rate, schedule.weight_decay)
    count = len(data.captions)
    steps = math.ceil(count / schedule.batch_size)
    history = []
    model.train()
    for epoch in range(schedule.epochs):
        order = np.random.default_rng([schedule.seed, epoch]).permutation(count)
        total, right, seen = 0.0, 0, 0
        for step in range(steps):
            rows = order[step * schedule.batch_size : (step + 1) * schedule.batch_size]
            # Half a step on, so that neither the first nor the last step has learning rate 0.
            share = (epoch * steps + step + 0.5) / (schedule.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * one_cycle(share)
            captions = torch.from_numpy(data.captions[rows]).to(device)
            logits = model(torch.from_numpy(data.inputs(rows)).to(device), captions)
            kept, truth = kept_tokens(logits, captions)
            value = loss(kept, truth)
            optimizer.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()

            total += value.item() * len(truth)
            if not math.isfinite(total):
                raise TrainingError(
                    f"the loss is no longer finite in epoch {epoch + 1}; lower the learning rate or the weight"
                )
            right += int((kept.argmax(dim=1) == truth).sum())
            seen += len(truth)
            done = epoch * steps + step + 1
            progress = Progress(epoch + 1, done, schedule.epochs * steps, total / seen, right / seen)
            on_progress(progress)
        history.append({"loss": progress.loss, "accuracy": progress.accuracy})
    model.eval()
    return history


@dataclass(frozen=True)
class CaptionConfig:
    """All that decides, with data and splits, which captioner comes out.

    Attributes:
        width: Filters of the first convolution.
        loss: Name of the loss.
        loss_settings: Its settings; those not given take their defaults.
        scenes: Composed from training rows.
        schedule: How it is trained; its seed is also that of initialisation and scenes.
    """

    width: int
    loss: str
    loss_settings: dict[str, float | str]
    scenes: int
    schedule: Schedule


def train_captioner(
    config: CaptionConfig,
    data: ImageData,
    splits: Splits,
    out: Path,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> CaptionCheckpoint:
    """Compose scenes, train a small captioner from scratch, and write its checkpoint.

    Scenes to train on and to test on are made of images of different rows.

    Args:
        config: What to train.
        data: Where the images are.
        splits: Which rows are for what.
        out: The checkpoint; it must not exist.
        on_progress: Called after every step.

    Raises:
        TrainingError: If `out` exists, or the loss is no longer finite.
    """
    if out.exists():
        raise TrainingError(f"{out} exists and is not overwritten; choose another --out, or delete it")
    seed = config.schedule.seed
    loss = make_loss(config.loss, **config.loss_settings)
    scenes = compose(data, splits.training, config.scenes, seed)
    sample = scenes.inputs(np.arange(min(config.scenes, 1000)))
    arguments: dict[str, Any] = {
        "width": config.width,
        "mean": sample.mean(axis=(0, 2, 3), dtype=np.float64).tolist(),
        "std": np.maximum(sample.std(axis=(0, 2, 3), dtype=np.float64), 1e-3).tolist(),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = scene_captioner(Language.of(data.classes), scenes.input_shape, **arguments)
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    history = fit(model, scenes, loss, config.schedule, on_progress)
    checkpoint = CaptionCheckpoint(
        arguments=arguments,
        weights={name: values.cpu().contiguous() for name, values in model.state_dict().items()},
        loss=config.loss,
        loss_settings=loss.settings,
        data_source=data.source,
        data_location=absolute_location(data.location),
        classes=data.classes,
        input_shape=scenes.input_shape,
        scenes=config.scenes,
        schedule=asdict(config.schedule),
        quality=measure(model, held_out_scenes(data, splits)),
        history=history,
        versions=tool_versions(),
    )
    checkpoint.save(out)
    return checkpoint

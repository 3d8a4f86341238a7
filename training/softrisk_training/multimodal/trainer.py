"""Training of multi-modal classifiers: a first step for all weights, a second for the factors, then constants."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from softrisk_training.checkpoint import tool_versions
from softrisk_training.data import Splits
from softrisk_training.errors import TrainingError
from softrisk_training.multimodal.certificate import certify, encoder_bounds, gradient_grams, head_grams
from softrisk_training.multimodal.checkpoint import MultimodalCheckpoint
from softrisk_training.multimodal.config import MultimodalConfig
from softrisk_training.multimodal.constraints import Orthonormal, UnitRows, constrain, release
from softrisk_training.multimodal.encoders import WIDTHS
from softrisk_training.multimodal.model import MultimodalClassifier, build_classifier
from softrisk_training.multimodal.objectives import METHODS, batch_loss, drop_modalities
from softrisk_training.multimodal.pairs import PairedData
from softrisk_training.multimodal.rows import Rows, planes_of
from softrisk_training.multimodal.widen import ScoredRows, widen
from softrisk_training.trainer import one_cycle

EVALUATION_BATCH: Final = 256
GRADIENT_ROWS: Final = 200
"""Training rows whose gradients give the estimated constants."""

DROPOUT_STREAM: Final = 1
"""Third part of the seed (seed, epoch, …) of which modalities are left out, so that all else stays the same."""


@dataclass(frozen=True)
class Progress:
    """How far training is, reported after every step of an epoch, and in the second step of CRMT.

    Attributes:
        epoch: Counted from 1.
        steps: Finished steps of all epochs.
        total_steps: Steps that there will be.
        loss: Mean training loss of this epoch so far.
        selection_accuracy: On the selection rows; None until the epoch is finished.
    """

    epoch: int
    steps: int
    total_steps: int
    loss: float
    selection_accuracy: float | None = None


def train_multimodal(
    config: MultimodalConfig,
    data: PairedData,
    out: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> MultimodalCheckpoint:
    """Train a multi-modal classifier and write its checkpoint.

    Args:
        config: What to train.
        data: The pairs; calibration rows are not looked at, test rows once, at the end.
        out: The checkpoint; it must not exist.
        on_progress: Called after every step and every epoch.

    Raises:
        TrainingError: If `out` exists, if encoder or fusion do not fit the data, or if the loss is no longer finite.
    """
    refuse_existing(out)
    splits, planes = data.splits, planes_of(data.inputs, data.modalities)
    model, arguments = _initial_model(config, data, planes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    rows = Rows([plane.to(device) for plane in planes], torch.from_numpy(data.labels).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=0.0)
    history: list[dict[str, float]] = []
    for epoch in range(config.epochs):
        for progress in _train_epoch(model, optimizer, config, rows.select(splits.training), epoch):
            on_progress(progress)
        accuracy = measure_accuracy(model, rows.select(splits.selection))
        history.append({"loss": progress.loss, "selection_accuracy": accuracy})
        on_progress(replace(progress, selection_accuracy=accuracy))

    release(model)
    model.eval().requires_grad_(False)
    settings = config.settings
    # Evenly spread, so that every class and speaker has its share.
    sample = rows.select(splits.training[:: max(1, len(splits.training) // GRADIENT_ROWS)])
    if METHODS[config.method].certifies:
        settings |= _second_step(model, config, rows, splits, sample)
    checkpoint = MultimodalCheckpoint(
        modalities=data.modalities,
        arguments=arguments,
        weights={name: values.cpu().contiguous() for name, values in model.state_dict().items()},
        classes=data.classes,
        method=config.method,
        optional=tuple(data.inputs) if config.modality_dropout else (),
        data_source=data.source,
        data_locations=dict(data.locations),
        pairing=dict(data.pairing),
        splits=splits,
        digests=data.digests(np.concatenate([splits.training, splits.selection])),
        seed=config.seed,
        epochs=config.epochs,
        settings=settings,
        selection_accuracy=measure_accuracy(model, rows.select(splits.selection)),
        test_accuracy=measure_accuracy(model, rows.select(splits.test)),
        history=history,
        lipschitz=certify(model, sample.planes),
        versions=tool_versions(),
    )
    checkpoint.save(out)
    return checkpoint


def refuse_existing(out: Path) -> None:
    """Refuse to overwrite a file.

    Raises:
        TrainingError: If there is one.
    """
    if out.exists():
        raise TrainingError(f"{out} exists and is not overwritten; choose another --out, or delete it")


def measure_accuracy(model: MultimodalClassifier, rows: Rows) -> float:
    """Share of the rows, in [0, 1], whose largest logit is that of their label."""
    return float((model.fusion.combine(scores_of(model, rows)).argmax(dim=1) == rows.labels).double().mean())


def scores_of(model: MultimodalClassifier, rows: Rows) -> Tensor:
    """Scores of all rows, shape (N, modalities, C), without a graph."""
    with torch.no_grad():
        return torch.cat([model.scores(*batch.planes) for batch in rows.batches(EVALUATION_BATCH)])


def _initial_model(
    config: MultimodalConfig, data: PairedData, planes: Sequence[Tensor]
) -> tuple[MultimodalClassifier, dict[str, Any]]:
    training = [plane[torch.from_numpy(data.splits.training)].double() for plane in planes]
    arguments: dict[str, Any] = {
        "encoder": config.encoder,
        "fusion": config.fusion_name,
        "width": config.width or WIDTHS[config.encoder],
        "features": config.features,
        "means": [float(plane.mean()) for plane in training],
        "stds": [max(float(plane.std()), 1e-3) for plane in training],
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_classifier(data.modalities, len(data.classes), **arguments)
        heads = UnitRows if config.rows_only else Orthonormal
        constrain(
            model,
            lipschitz=config.encoder == "lipschitz",
            heads=heads if config.fusion_name == "orthogonal" else None,
        )
    return model, arguments


def _train_epoch(
    model: MultimodalClassifier, optimizer: torch.optim.Optimizer, config: MultimodalConfig, rows: Rows, epoch: int
) -> Iterator[Progress]:
    generator = np.random.default_rng([config.seed, epoch])
    dropping = np.random.default_rng([config.seed, epoch, DROPOUT_STREAM])
    steps = math.ceil(len(rows.labels) / config.batch_size)
    total_loss, seen = 0.0, 0
    model.train()
    shuffled = rows.select(generator.permutation(len(rows.labels)))
    for step, batch in enumerate(shuffled.batches(config.batch_size), start=1):
        # Half a step on, so that neither the first nor the last step has learning rate 0.
        done = (epoch * steps + step - 0.5) / (config.epochs * steps)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * one_cycle(done)
        loss = batch_loss(
            model,
            drop_modalities(batch.planes, config.modality_dropout, dropping),
            batch.labels,
            METHODS[config.method],
            rho=config.margin_weight,
            epsilon=config.radius,
            generator=generator,
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        total_loss += loss.item() * len(batch.labels)
        seen += len(batch.labels)
        if not math.isfinite(total_loss):
            raise TrainingError(f"the loss is no longer finite in epoch {epoch + 1}; lower the learning rate")
        yield Progress(epoch + 1, epoch * steps + step, config.epochs * steps, total_loss / seen)


def _second_step(
    model: MultimodalClassifier, config: MultimodalConfig, rows: Rows, splits: Splits, sample: Rows
) -> dict[str, float | str | bool]:
    """Widen the radii, by proved slopes where encoders are made for it, and by seen ones otherwise."""
    if config.encoder == "lipschitz":
        grams = head_grams(model, [bound.slope for bound in encoder_bounds(model, sample.planes)])
    else:
        # Proved slopes of such encoders say next to nothing of how steep they are.
        grams = gradient_grams(model, sample.planes, of_scores=True)
    training, selection = (
        ScoredRows(scores_of(model, chosen).cpu(), chosen.labels.cpu())
        for chosen in (rows.select(splits.training), rows.select(splits.selection))
    )
    mean_radii = widen(model.fusion, training, selection, grams)
    return {
        "widened_by": "certified slopes" if config.encoder == "lipschitz" else "estimated slopes",
        "mean_radius_before": mean_radii.before,
        "mean_radius_after": mean_radii.after,
    }

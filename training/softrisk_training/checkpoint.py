"""The file between training and export: weights, and everything that has to be known about them."""

import os
import pickle
import platform
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softrisk_core import __version__
from softrisk_training.data import ImageData, Splits, load_data
from softrisk_training.errors import CheckpointError, DataError
from softrisk_training.models import Classifier, InputShape, build_classifier

FORMAT: Final = "softrisk-checkpoint"
WRITERS: Final = {
    FORMAT: "softrisk train",
    "softrisk-multimodal-checkpoint": "softrisk train-multimodal",
    "softrisk-captioner": "softrisk train-captions",
}
"""The command that writes each kind of checkpoint."""
FORMAT_VERSION: Final = 1
ROW_LISTS: Final = ("training", "selection", "calibration", "test")

_UNREADABLE: Final = (
    *(OSError, RuntimeError, EOFError, ValueError, KeyError),
    *(pickle.UnpicklingError, zipfile.BadZipFile),
)
"""What torch raises about a file that is not one of its own."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained classifier with its history, complete for export.

    Attributes:
        architecture: Name of the architecture.
        arguments: Further arguments of `build_classifier`: width, mean, std.
        weights: State of the classifier, on the CPU.
        loss: Name of the loss.
        loss_settings: Its settings, such as form and τ.
        data_source: What it was trained on, for people.
        data_location: The same for `load_data`, absolute: a checkpoint is a private file, and used from anywhere.
        classes: Names of the classes.
        input_shape: (channels, height, width).
        splits: The four row lists, into the data at `data_location`.
        digests: Content digests of the training and selection rows, uint64: rows that may not calibrate or test.
        seed: Seed of split, initialisation, row order and augmentation.
        epochs: How many were trained.
        settings: Batch size, optimiser and whatever else it takes to train the same again.
        selection_accuracy: On the selection rows, in [0, 1].
        test_accuracy: On the test rows, in [0, 1], measured once, after the last epoch.
        history: One entry for each epoch: training loss and accuracy, selection accuracy.
        versions: Of softrisk, torch, numpy and Python.
    """

    architecture: str
    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    loss: str
    loss_settings: dict[str, float | str]
    data_source: str
    data_location: str
    classes: tuple[str, ...]
    input_shape: InputShape
    splits: Splits
    digests: NDArray[np.uint64]
    seed: int
    epochs: int
    settings: dict[str, float | str | bool]
    selection_accuracy: float
    test_accuracy: float
    history: list[dict[str, float]]
    versions: dict[str, str]

    def save(self, path: Path) -> None:
        """Write the checkpoint; the file appears whole or not at all.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        payload = {field.name: getattr(self, field.name) for field in fields(self)}
        rows = {name: torch.from_numpy(getattr(self.splits, name)) for name in ROW_LISTS}
        payload["splits"] = {**rows, "dropped": self.splits.dropped}
        # As int64: torch does next to nothing with uint64.
        payload["digests"] = torch.from_numpy(self.digests.view(np.int64))
        write_payload(path, FORMAT, payload)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: The file; it is read without executing anything in it.

    Raises:
        CheckpointError: If it is missing, damaged, not a checkpoint of softrisk, or of a newer format.
    """
    payload = read_payload(path, FORMAT)
    try:
        rows = payload["splits"]
        splits = Splits(**{name: rows[name].numpy() for name in ROW_LISTS}, dropped=rows["dropped"])
        digests = payload["digests"].numpy().view(np.uint64)
        known = {field.name: payload[field.name] for field in fields(Checkpoint)}
        return Checkpoint(**{**known, "splits": splits, "digests": digests})
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is an incomplete checkpoint: {error}; train again") from error


def training_data(checkpoint: Checkpoint, path: Path, option: str) -> ImageData:
    """The data that a checkpoint was trained on, in which its row lists still hold.

    Args:
        checkpoint: The checkpoint.
        path: Where it was read from, for the message.
        option: With which the user can name other data, for the message.

    Raises:
        DataError: If the data cannot be read where the checkpoint says, or have fewer rows than then.
    """
    recorded = f"{checkpoint.data_location}, as recorded in {path}"
    try:
        data = load_data(checkpoint.data_location)
    except DataError as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"the data at {recorded}, cannot be read; give {option} ({reason})") from error
    rows = max(int(getattr(checkpoint.splits, name).max()) for name in ROW_LISTS) + 1
    if len(data.labels) < rows:
        raise DataError(
            f"the data at {recorded}, have {len(data.labels)} rows now, but had {rows} at least at the training; bring "
            f"the old data back, or give {option}"
        )
    return data


def build_model(checkpoint: Checkpoint) -> Classifier:
    """The trained classifier, in eval mode: float32 pixels in [0, 1], shape (B, C, H, W), to logits.

    Raises:
        CheckpointError: If the weights do not fit the architecture that the checkpoint names.
    """
    model = build_classifier(
        checkpoint.architecture,
        input_shape=checkpoint.input_shape,
        classes=len(checkpoint.classes),
        **checkpoint.arguments,
    )
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit the architecture {checkpoint.architecture!r}: {error}"
        ) from error
    return model.eval()


def tool_versions() -> dict[str, str]:
    """Versions of what shaped the weights."""
    return {
        "softrisk": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def write_payload(path: Path, kind: str, payload: dict[str, Any]) -> None:
    """Write tensors and plain values, marked with what they are; the file appears whole or not at all.

    Raises:
        CheckpointError: If the file cannot be written.
    """
    unfinished = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"format": kind, "format_version": FORMAT_VERSION, **payload}, unfinished)
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def kind_of(path: Path) -> str | None:
    """With what `write_payload` marked a file; None for anything else, and for what cannot be read."""
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # tensors stay on the disk
    except _UNREADABLE:
        return None
    return payload.get("format") if isinstance(payload, dict) else None


def read_payload(path: Path, kind: str) -> dict[str, Any]:
    """Read what `write_payload` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged, of another kind, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; {WRITERS[kind]} writes checkpoints")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} is not a checkpoint of softrisk, or it is damaged or truncated: it cannot be read"
        ) from error
    found = payload.get("format") if isinstance(payload, dict) else None
    if not isinstance(payload, dict) or found != kind:
        origin = f"comes from {WRITERS[found]}" if found in WRITERS else "is a file of torch"
        raise CheckpointError(f"{path} {origin}, and is not a {kind}; {WRITERS[kind]} writes these")
    if payload.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {payload.get('format_version')}, this softrisk reads {FORMAT_VERSION};"
            " update softrisk"
        )
    return payload

"""The file between multi-modal training and export."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from softrisk_training.checkpoint import ROW_LISTS, read_payload, write_payload
from softrisk_training.data import Splits
from softrisk_training.errors import CheckpointError, DataError
from softrisk_training.multimodal.certificate import Lipschitz
from softrisk_training.multimodal.modality import Modality
from softrisk_training.multimodal.model import MultimodalClassifier, build_classifier
from softrisk_training.multimodal.pairs import PairedData, load_pairs

FORMAT: Final = "softrisk-multimodal-checkpoint"


@dataclass(frozen=True)
class MultimodalCheckpoint:
    """A trained multi-modal classifier with its history, complete for export.

    Attributes:
        modalities: Its inputs, in the order of `MultimodalClassifier.forward`.
        arguments: Of `build_classifier` beside modalities and classes: encoder, fusion, width, features, means, stds.
        weights: State of the classifier, on the CPU.
        classes: Names of the classes.
        method: How it was trained, such as `crmt`.
        optional: Names of the modalities that it was trained to do without.
        data_source: What it was trained on, for people.
        data_locations: For each modality where its data are, absolute.
        pairing: Further arguments of `load_pairs`: seed, repeats, speaker_disjoint.
        splits: The four row lists, into the pairs.
        digests: Content digests of the training and selection pairs, uint64: rows that may not calibrate or test.
        seed: Of initialisation, row order and whatever else is drawn.
        epochs: Of the first step.
        settings: Everything else that decides which weights come out.
        selection_accuracy: On the selection rows, in [0, 1].
        test_accuracy: On the test rows, in [0, 1], measured once, at the end.
        history: One entry for each epoch.
        lipschitz: Constants for radii.
        versions: Of softrisk, torch, numpy and Python.
    """

    modalities: tuple[Modality, ...]
    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    classes: tuple[str, ...]
    method: str
    optional: tuple[str, ...]
    data_source: str
    data_locations: dict[str, str]
    pairing: dict[str, Any]
    splits: Splits
    digests: NDArray[np.uint64]
    seed: int
    epochs: int
    settings: dict[str, float | str | bool]
    selection_accuracy: float
    test_accuracy: float
    history: list[dict[str, float]]
    lipschitz: Lipschitz
    versions: dict[str, str]

    def save(self, path: Path) -> None:
        """Write the checkpoint; the file appears whole or not at all.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        payload = {field.name: getattr(self, field.name) for field in fields(self)}
        payload["modalities"] = [asdict(modality) for modality in self.modalities]
        rows = {name: torch.from_numpy(getattr(self.splits, name)) for name in ROW_LISTS}
        payload["splits"] = {**rows, "dropped": self.splits.dropped}
        payload["digests"] = torch.from_numpy(self.digests.view(np.int64))
        payload["lipschitz"] = {
            "certified": _to_tensor(self.lipschitz.certified),
            "estimated": _to_tensor(self.lipschitz.estimated),
            "rounding": self.lipschitz.rounding,
        }
        write_payload(path, FORMAT, payload)


def load_multimodal_checkpoint(path: Path) -> MultimodalCheckpoint:
    """Read a multi-modal checkpoint.

    Args:
        path: The file; it is read without executing anything in it.

    Raises:
        CheckpointError: If it is missing, damaged, of another kind, or of a newer format.
    """
    payload = read_payload(path, FORMAT)
    try:
        known = {field.name: payload[field.name] for field in fields(MultimodalCheckpoint)}
        rows, constants = known["splits"], known["lipschitz"]
        known["modalities"] = tuple(Modality(**modality) for modality in known["modalities"])
        known["splits"] = Splits(**{name: rows[name].numpy() for name in ROW_LISTS}, dropped=rows["dropped"])
        known["digests"] = known["digests"].numpy().view(np.uint64)
        known["lipschitz"] = Lipschitz(
            _to_array(constants["certified"]), _to_array(constants["estimated"]), constants["rounding"]
        )
        return MultimodalCheckpoint(**known)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is an incomplete checkpoint: {error}; train again") from error


def build_multimodal_model(checkpoint: MultimodalCheckpoint) -> MultimodalClassifier:
    """The trained classifier, in eval mode.

    Raises:
        CheckpointError: If the weights do not fit the architecture that the checkpoint names.
    """
    model = build_classifier(checkpoint.modalities, len(checkpoint.classes), **checkpoint.arguments)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the architecture {checkpoint.arguments}: {error}") from error
    return model.eval()


def training_pairs(checkpoint: MultimodalCheckpoint, path: Path) -> PairedData:
    """The pairs that a checkpoint was trained on, in which its row lists hold.

    Args:
        checkpoint: The checkpoint.
        path: Where it was read from, for the message.

    Raises:
        DataError: If the data cannot be read where the checkpoint says, or are others now.
    """
    locations: Mapping[str, str] = checkpoint.data_locations
    data = load_pairs(locations["image"], locations["audio"], **checkpoint.pairing)
    seen = np.concatenate([checkpoint.splits.training, checkpoint.splits.selection])
    if len(data.labels) <= seen.max() or not np.array_equal(data.digests(seen), checkpoint.digests):
        raise DataError(
            f"the data at {' and '.join(locations.values())} are not those that {path} was trained on; bring the old "
            "data back, or train again"
        )
    return data


def _to_tensor(constants: NDArray[np.float64] | None) -> Tensor | None:
    return None if constants is None else torch.from_numpy(constants)


def _to_array(constants: Tensor | None) -> NDArray[np.float64] | None:
    return None if constants is None else constants.numpy()

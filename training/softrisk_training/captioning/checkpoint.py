"""The file that a trained captioner of scenes is kept in."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from softrisk_training.captioning.language import Language
from softrisk_training.captioning.model import SceneCaptioner, scene_captioner
from softrisk_training.captioning.quality import Quality
from softrisk_training.checkpoint import read_payload, write_payload
from softrisk_training.errors import CheckpointError
from softrisk_training.models import InputShape

FORMAT: Final = "softrisk-captioner"


@dataclass(frozen=True)
class CaptionCheckpoint:
    """A trained captioner of scenes with its history.

    Attributes:
        arguments: Further arguments of `scene_captioner`: width, mean, std.
        weights: State of the captioner, on the CPU.
        loss: Name of the loss.
        loss_settings: Its settings.
        data_source: What the scenes were composed of, for people.
        data_location: The same for `load_data`, absolute.
        classes: Names of the classes; their nouns are the end of the vocabulary.
        input_shape: (channels, height, width) of the scenes.
        scenes: How many it was trained on.
        schedule: Fields of the `Schedule`.
        quality: On the test scenes, measured once, at the end.
        history: For each epoch the mean loss and the accuracy under teacher forcing.
        versions: Of softrisk, torch, numpy and Python.
    """

    arguments: dict[str, Any]
    weights: dict[str, Tensor]
    loss: str
    loss_settings: dict[str, float | str]
    data_source: str
    data_location: str
    classes: tuple[str, ...]
    input_shape: InputShape
    scenes: int
    schedule: dict[str, float]
    quality: Quality
    history: list[dict[str, float]]
    versions: dict[str, str]

    @property
    def language(self) -> Language:
        """The words that it writes."""
        return Language.of(self.classes)

    def save(self, path: Path) -> None:
        """Write the checkpoint; the file appears whole or not at all.

        Raises:
            CheckpointError: If the file cannot be written.
        """
        payload = {field.name: getattr(self, field.name) for field in fields(self)}
        write_payload(path, FORMAT, {**payload, "quality": self.quality._asdict()})


def load_caption_checkpoint(path: Path) -> CaptionCheckpoint:
    """Read the checkpoint of a captioner.

    Args:
        path: The file; it is read without executing anything in it.

    Raises:
        CheckpointError: If it is missing, damaged, of another kind, or of a newer format.
    """
    payload = read_payload(path, FORMAT)
    try:
        known = {field.name: payload[field.name] for field in fields(CaptionCheckpoint)}
        return CaptionCheckpoint(**{**known, "quality": Quality(**known["quality"])})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is an incomplete checkpoint: {error}; train again") from error


def build_captioner(checkpoint: CaptionCheckpoint) -> SceneCaptioner:
    """The trained captioner, in eval mode.

    Raises:
        CheckpointError: If the weights do not fit it.
    """
    model = scene_captioner(checkpoint.language, checkpoint.input_shape, **checkpoint.arguments)
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit a captioner of scenes: {error}") from error
    return model.eval()

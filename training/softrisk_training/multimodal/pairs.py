"""Pairs of an image and a recording of the same class, and the four disjoint row lists of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.rows import Inputs, digest_rows, take_rows
from softrisk_training.checkpoint import ROW_LISTS
from softrisk_training.data import ImageData, Splits, absolute_location, load_data, split_rows
from softrisk_training.data.audio import AudioData, load_audio
from softrisk_training.data.images import same_classes
from softrisk_training.errors import DataError
from softrisk_training.multimodal.modality import SAMPLE_RATE, Modality, audio_modality, image_modality

SECONDS: Final = 1
"""Length of every recording: all but a few spoken digits are shorter."""

UNSEEN_SHARE: Final = 1 / 5
"""Share of the speakers, one at least, that only the test hears if it is to be of unseen speakers."""


@dataclass(frozen=True)
class PairedData:
    """Labelled instances of several modalities.

    Attributes:
        inputs: For each modality its values, (N, …); the keys are in the order of the model's inputs.
        labels: Shape (N,), int64, indices into `classes`.
        classes: Names of the classes.
        source: What the data are, for people.
        speakers: Who speaks in each, shape (N,); None if the source does not say.
        modalities: What the inputs are, in the same order.
        splits: The four row lists. An image or a recording that is in one of them is in no other.
        members: For each modality the row in its own data set, shape (N,).
        locations: For each modality where its data are, absolute.
        pairing: Further arguments of `load_pairs`, which make the same pairs again.
    """

    inputs: Mapping[str, NDArray[np.float32]]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    speakers: NDArray[np.str_] | None
    modalities: tuple[Modality, ...]
    splits: Splits
    members: Mapping[str, NDArray[np.int64]]
    locations: Mapping[str, str]
    pairing: Mapping[str, Any]

    def rows(self, rows: NDArray[np.int64]) -> Inputs:
        """Model inputs of some rows."""
        return take_rows(self.inputs, rows)

    def digests(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Content digests of whole pairs, shape (len(rows),)."""
        return digest_rows(*self.rows(rows).values())


def load_pairs(images: str, audio: str, *, seed: int, repeats: int = 3, speaker_disjoint: bool = False) -> PairedData:
    """Pair each recording with images of the same class.

    Images and recordings are split on their own, as `split_rows` does, and paired within each list. A recording is in
    `repeats` training pairs, and in one pair of any other list; an image is in one pair at most. So the calibration
    pairs are as many independent draws as there are rows of them: pairs that share a recording would not be.

    Args:
        images: Location of labelled images, for `load_data`.
        audio: Location of labelled recordings, for `load_audio`.
        seed: Decides which rows go where, and what is paired; the same seed gives the same pairs.
        repeats: Training pairs of each training recording, ≥ 1.
        speaker_disjoint: Whether the test is of speakers, drawn at random, whom no other list hears. Calibration and
            test rows are then not exchangeable, and that is the point.

    Raises:
        DataError: If either cannot be read, their classes differ, or there are too few images of a class or speakers.
    """
    if repeats < 1:
        raise DataError(f"every recording needs at least one training pair, got repeats = {repeats}")
    pictures, sounds = load_data(images), load_audio(audio, sample_rate=SAMPLE_RATE, samples=SECONDS * SAMPLE_RATE)
    if not (same_classes(sounds.classes, pictures.classes) or same_classes(pictures.classes, sounds.classes)):
        raise DataError(
            f"{images} has the classes {', '.join(pictures.classes)}, {audio} has {', '.join(sounds.classes)}: an "
            "image and a recording are paired if their classes are the same"
        )
    generator = np.random.default_rng([seed, len(sounds.labels)])
    if speaker_disjoint:
        sounds = replace(sounds, test_rows=_unseen(sounds, generator))
    of_images, of_sounds = split_rows(pictures, seed), split_rows(sounds, seed)
    chosen_images, chosen_sounds = [], []
    lists: dict[str, Any] = {}
    start = 0
    for name in ROW_LISTS:
        each = repeats if name == "training" else 1
        recordings = np.repeat(getattr(of_sounds, name), each)
        chosen_sounds.append(recordings)
        chosen_images.append(_partners(recordings, getattr(of_images, name), pictures, sounds, generator, name))
        lists[name] = np.arange(start, start + len(recordings), dtype=np.int64)
        start += len(recordings)
    image_rows, sound_rows = np.concatenate(chosen_images), np.concatenate(chosen_sounds)
    modalities = (image_modality(pictures.input_shape), audio_modality(sounds.recordings.shape[1]))
    return PairedData(
        inputs={"image": pictures.inputs(image_rows), "audio": sounds.recordings[sound_rows]},
        labels=sounds.labels[sound_rows],
        classes=pictures.classes,
        source=f"{pictures.source} with {sounds.source}",
        speakers=None if sounds.speakers is None else sounds.speakers[sound_rows],
        modalities=modalities,
        splits=Splits(**lists),
        members={"image": image_rows, "audio": sound_rows},
        locations={"image": absolute_location(images), "audio": absolute_location(audio)},
        pairing={"seed": seed, "repeats": repeats, "speaker_disjoint": speaker_disjoint},
    )


def _unseen(sounds: AudioData, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows of the speakers that only the test hears."""
    if sounds.speakers is None:
        raise DataError(
            f"{sounds.location} does not say who speaks: file names must be <class>_<speaker>_<number>.wav, or leave "
            "the split by speakers out"
        )
    names = np.unique(sounds.speakers)
    held_out = generator.permutation(names)[: max(1, round(UNSEEN_SHARE * len(names)))]
    if len(names) < 2:
        raise DataError(f"{sounds.location} has one speaker only: a test of unseen speakers needs two at least")
    return np.flatnonzero(np.isin(sounds.speakers, held_out)).astype(np.int64)


def _partners(
    recordings: NDArray[np.int64],
    candidates: NDArray[np.int64],
    pictures: ImageData,
    sounds: AudioData,
    generator: np.random.Generator,
    name: str,
) -> NDArray[np.int64]:
    """For each recording an image of its class, none twice."""
    labels = sounds.labels[recordings]
    partners = np.empty(len(recordings), np.int64)
    for label in np.unique(labels):
        wanted = labels == label
        found = candidates[pictures.labels[candidates] == label]
        if len(found) < wanted.sum():
            raise DataError(
                f"{pictures.location} has {len(found)} images of class {pictures.classes[label]!r} for the {name} rows "
                f"and {wanted.sum()} pairs that need one each: give more images, or make fewer training pairs of each "
                "recording (--repeats)"
            )
        partners[wanted] = generator.choice(found, int(wanted.sum()), replace=False)
    return partners

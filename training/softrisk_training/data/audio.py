"""Labelled recordings: parquet folders in the layout of Hugging Face audio data sets."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.audio import decode_audio
from softrisk_core.errors import AudioError
from softrisk_core.rows import digest_rows
from softrisk_training.data.images import class_names
from softrisk_training.data.parquet import is_parquet_folder, published_test_rows, read_shards, shard_names
from softrisk_training.errors import DataError

AUDIO_COLUMNS: Final = ("audio",)

_SPEAKER: Final = re.compile(r"[^_]+_([^_]+)_\d+\.wav")
"""File names of the Free Spoken Digit Dataset, `<digit>_<speaker>_<index>.wav`, are all that it says of speakers."""


@dataclass(frozen=True)
class AudioData:
    """Labelled recordings of one length.

    Attributes:
        recordings: Shape (N, samples), float32 in [−1, 1].
        sample_rate: Samples a second.
        labels: Shape (N,), int64, indices into `classes`.
        classes: Names of the classes.
        speakers: Who speaks in each, shape (N,); None if the source does not say.
        test_rows: Rows of the test split that the source publishes; None if it publishes none.
        source: What the data are, for people.
        location: What `load_audio` was called with.
    """

    recordings: NDArray[np.float32]
    sample_rate: int
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    speakers: NDArray[np.str_] | None
    test_rows: NDArray[np.int64] | None
    source: str
    location: str

    def digests(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Content digests of the recordings, shape (len(rows),)."""
        return digest_rows(self.recordings[rows])


def load_audio(location: str, *, sample_rate: int, samples: int) -> AudioData:
    """A folder with `train-*.parquet` and `test-*.parquet`, columns `audio: {bytes, path}`, WAV inside, and `label`.

    Args:
        location: Path of the folder.
        sample_rate: Samples a second that every recording must have; nothing is resampled.
        samples: Length: zeros follow a shorter recording, and of a longer one the beginning is taken.

    Raises:
        DataError: If there is no such folder, or a recording in it is unlabelled, damaged, of another rate or silent.
    """
    folder = Path(location).expanduser()
    if not folder.is_dir() or not is_parquet_folder(folder):
        raise DataError(
            f"{location} is no folder of parquet files; recordings are given as a folder with train-*.parquet and "
            "test-*.parquet, as Hugging Face writes them, with the columns audio and label"
        )
    shards = read_shards(folder, location, AUDIO_COLUMNS)
    labels = [shard.labels for shard in shards if shard.labels is not None]
    if len(labels) < len(shards):
        raise DataError(f"{location} holds recordings without labels, and here they are needed")
    all_labels = np.concatenate(labels)
    names = [_SPEAKER.fullmatch(Path(path).name) for shard in shards for path in shard.paths]
    return AudioData(
        recordings=np.stack(
            [_decoded(name, content, sample_rate, samples) for shard in shards for name, content in shard.contents]
        ),
        sample_rate=sample_rate,
        labels=all_labels,
        classes=shard_names(shards) or class_names(all_labels),
        speakers=np.array([match[1] for match in names if match]) if all(names) else None,
        test_rows=published_test_rows(shards),
        source=folder.resolve().name,
        location=location,
    )


def _decoded(name: str, content: bytes, sample_rate: int, samples: int) -> NDArray[np.float32]:
    try:
        return decode_audio(content, sample_rate=sample_rate, samples=samples, longer="crop")
    except AudioError as error:
        raise DataError(f"{name}: {error}") from error

"""Pairs of images and recordings: the same class, and nothing in two of the lists."""

import io
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softrisk_training.checkpoint import ROW_LISTS
from softrisk_training.data.audio import load_audio
from softrisk_training.errors import DataError
from softrisk_training.multimodal.pairs import PairedData, load_pairs


@pytest.fixture(scope="module")
def pairs(tones: Path) -> PairedData:
    return load_pairs("digits", str(tones), seed=0, repeats=2)


def wav(rate: int = 8000, samples: int = 100) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.full(samples, 1000, "<i2").tobytes())
    return buffer.getvalue()


def write(folder: Path, contents: list[bytes], paths: list[str], labels: list[int] | None = None) -> str:
    audio = [{"bytes": content, "path": path} for content, path in zip(contents, paths, strict=True)]
    columns = {"audio": audio} | ({} if labels is None else {"label": labels})
    pq.write_table(pa.table(columns), folder / "train-0.parquet")
    return str(folder)


def test_an_image_and_its_recording_are_of_the_same_digit(pairs: PairedData) -> None:
    from softrisk_training.data import load_data

    pictures, sounds = load_data("digits"), load_audio(pairs.locations["audio"], sample_rate=8000, samples=8000)
    assert (pictures.labels[pairs.members["image"]] == pairs.labels).all()
    assert (sounds.labels[pairs.members["audio"]] == pairs.labels).all()
    assert np.array_equal(pairs.inputs["audio"], sounds.recordings[pairs.members["audio"]])
    assert list(pairs.inputs) == [modality.name for modality in pairs.modalities]
    assert [values.shape[1:] for values in pairs.inputs.values()] == [modality.shape for modality in pairs.modalities]


@pytest.mark.parametrize("modality", ["image", "audio"])
def test_what_is_in_one_list_is_in_no_other(pairs: PairedData, modality: str) -> None:
    lists = [set(pairs.members[modality][getattr(pairs.splits, name)]) for name in ROW_LISTS]
    assert sum(map(len, lists)) == len(set.union(*lists))


@pytest.mark.parametrize("name", ["selection", "calibration", "test"])
def test_whoever_is_not_trained_on_is_in_one_pair(pairs: PairedData, name: str) -> None:
    rows = getattr(pairs.splits, name)
    for members in pairs.members.values():
        assert len(set(members[rows])) == len(rows) > 0


def test_each_training_recording_has_as_many_images_as_asked_for(pairs: PairedData) -> None:
    rows = pairs.splits.training
    _, counts = np.unique(pairs.members["audio"][rows], return_counts=True)
    assert (counts == 2).all()
    assert len(set(pairs.members["image"][rows])) == len(rows)


def test_the_seed_alone_decides(pairs: PairedData) -> None:
    audio = pairs.locations["audio"]
    again, other = (load_pairs("digits", audio, seed=seed, repeats=2) for seed in (0, 1))
    for modality, members in pairs.members.items():
        assert np.array_equal(again.members[modality], members)
        assert not np.array_equal(other.members[modality], members)
    everything = np.arange(len(pairs.labels))
    assert np.array_equal(again.digests(everything), pairs.digests(everything))


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_unseen_speakers_are_heard_in_the_test_alone(tones: Path, seed: int) -> None:
    disjoint = load_pairs("digits", str(tones), seed=seed, repeats=1, speaker_disjoint=True)
    assert disjoint.speakers is not None
    heard = np.concatenate([getattr(disjoint.splits, name) for name in ROW_LISTS if name != "test"])
    assert set(disjoint.speakers[heard]).isdisjoint(disjoint.speakers[disjoint.splits.test])
    assert set(disjoint.speakers) == {"anna", "ben", "cleo"}


def test_a_recording_of_another_rate_is_refused_not_resampled(tmp_path: Path) -> None:
    location = write(tmp_path, [wav(), wav(rate=16000)], ["a", "b"], [0, 1])
    with pytest.raises(DataError, match=r"row 1: the recording has 16000 samples a second.*resample it"):
        load_audio(location, sample_rate=8000, samples=8000)


def test_recordings_are_cut_and_filled_up_to_one_length(tmp_path: Path) -> None:
    location = write(tmp_path, [wav(samples=100), wav(samples=300)], ["0_a_1.wav", "b"], [0, 1])
    audio = load_audio(location, sample_rate=8000, samples=200)
    assert audio.recordings.shape == (2, 200)
    assert (audio.recordings[0, 100:] == 0).all()
    assert (audio.recordings[1] != 0).all()
    assert audio.speakers is None  # one of the names does not say


def test_what_cannot_be_paired_is_refused(tmp_path: Path, tones: Path) -> None:
    with pytest.raises(DataError, match="is no folder of parquet files"):
        load_audio(str(tmp_path / "nothing"), sample_rate=8000, samples=8000)
    unlabelled = write(tmp_path, [wav()], ["a"])
    with pytest.raises(DataError, match="without labels"):
        load_audio(unlabelled, sample_rate=8000, samples=8000)
    with pytest.raises(DataError, match=r"images of class '\d' for the training rows"):
        load_pairs("digits", str(tones), seed=0, repeats=50)
    with pytest.raises(DataError, match="at least one training pair"):
        load_pairs("digits", str(tones), seed=0, repeats=0)

"""Fixtures for every room."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from softrisk_core.bundle import Bundle

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with mnist/, cifar10/ and fsdd/ in Hugging Face layout; the test is skipped without it."""
    folder = Path(os.environ.get("SOFTRISK_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set SOFTRISK_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small classifier of scikit-learn's digits; not to be written to."""
    # Rooms without torch are tested too.
    from softrisk_training.data import load_data, split_rows
    from softrisk_training.trainer import TrainingConfig, train

    config = TrainingConfig(
        architecture="small-cnn",
        width=8,
        loss="drsl",
        loss_settings={},
        epochs=8,
        batch_size=32,
        optimizer="adamw",
        learning_rate=5e-3,
        weight_decay=0.0,
        augmentation="none",
        bfloat16=False,
        seed=0,
    )
    path = tmp_path_factory.mktemp("checkpoint") / "digits.pt"
    data = load_data("digits")
    train(config, data, split_rows(data, config.seed), path)
    return path


@pytest.fixture(scope="session")
def make_senses() -> "Callable[..., Bundle]":
    """Exports a small classifier of an image and a recording (`tests.senses`)."""
    # Rooms that export nothing are tested too.
    from tests.senses import make_senses

    return make_senses


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings, one tone for each digit, by three "speakers", in the layout of the Free Spoken Digit Dataset."""
    import io
    import wave

    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    def wav(digit: int, generator: np.random.Generator) -> bytes:
        time = np.arange(generator.integers(3000, 7500)) / 8000
        tone = generator.uniform(0.1, 0.5) * np.sin(2 * np.pi * (300 + 300 * digit) * time)
        samples = (32767 * (tone + generator.normal(0, 0.01, time.size))).astype("<i2")
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        return buffer.getvalue()

    generator = np.random.default_rng(0)
    rows = [(digit, name, number) for digit in range(10) for name in ("anna", "ben", "cleo") for number in range(6)]
    audio = [{"bytes": wav(digit, generator), "path": f"{digit}_{name}_{number}.wav"} for digit, name, number in rows]
    folder = tmp_path_factory.mktemp("tones")
    pq.write_table(pa.table({"audio": audio, "label": [digit for digit, *_ in rows]}), folder / "train-0.parquet")
    return folder

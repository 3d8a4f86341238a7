"""Fixtures for every room."""

import os
from pathlib import Path

import pytest

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

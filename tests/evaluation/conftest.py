"""A small classifier of digits with its checkpoint and its bundle, made once for all tests of the room."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.progress import Progress

from softrisk_core.repository import Repository
from softrisk_evaluation.experiments import study
from softrisk_evaluation.experiments.study import Study
from softrisk_export.checkpoint_source import checkpoint_source
from softrisk_export.fit import Wanted
from softrisk_export.seal import seal

ALPHA = 0.05


@pytest.fixture(scope="session")
def checkpoint(trained_digits: Path) -> Path:
    return trained_digits


@pytest.fixture(scope="session")
def sealed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with version 1 of the model `digits`; not to be written to."""
    repository = tmp_path_factory.mktemp("sealed") / "models"
    source, rows = checkpoint_source(checkpoint, None)
    score = "logit_gap:low"
    seal(Repository(repository), "digits", source, rows, Wanted(score), ALPHA)
    return repository


@pytest.fixture
def repository(sealed: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return shutil.copytree(sealed, tmp_path / "models")


class _Thread(ThreadPoolExecutor):
    """Stands in for processes, each of which would import torch again."""

    def __init__(self, workers: int, context: object, initializer: object, initargs: object) -> None:
        super().__init__(1)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of experiments are computed in this process, one after the other."""
    monkeypatch.setattr(study, "ProcessPoolExecutor", _Thread)


@pytest.fixture
def kept(in_process: None, tmp_path: Path) -> Study:
    """A study that keeps its cells in an empty folder."""
    return Study(tmp_path / "runs", 2, Progress(disable=True))

"""A checkpoint that costs no training, and the bundle made from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softrisk_core.bundle import Bundle
from softrisk_core.repository import Repository
from softrisk_export.checkpoint_source import checkpoint_source
from softrisk_export.fit import Wanted
from softrisk_export.seal import seal
from softrisk_training.checkpoint import Checkpoint
from softrisk_training.data import load_data, split_rows
from softrisk_training.models import build_classifier


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained classifier of the digits, as `softrisk train` would leave a trained one."""
    data = load_data("digits")
    splits = split_rows(data, seed=0)
    arguments: dict[str, Any] = {"width": 4, "mean": [0.3], "std": [0.4]}
    torch.manual_seed(0)
    model = build_classifier("small-cnn", input_shape=(1, 8, 8), classes=10, **arguments)
    path = tmp_path_factory.mktemp("checkpoint") / "digits.pt"
    Checkpoint(
        architecture="small-cnn",
        arguments=arguments,
        weights=model.state_dict(),
        loss="drsl",
        loss_settings={"form": "logit", "tau": 0.3},
        data_source=data.source,
        data_location="digits",
        classes=data.classes,
        input_shape=data.input_shape,
        splits=splits,
        digests=data.digests(np.concatenate([splits.training, splits.selection])),
        seed=0,
        epochs=0,
        settings={},
        selection_accuracy=0.1,
        test_accuracy=0.1,
        history=[],
        versions={},
    ).save(path)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The checkpoint, exported; not to be changed."""
    source, rows = checkpoint_source(checkpoint_path, None)
    score = "logit_gap:low"
    return seal(Repository(tmp_path_factory.mktemp("models")), "digits", source, rows, Wanted(score), 0.05).bundle

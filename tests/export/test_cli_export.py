"""The two commands as a user types them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.errors import CalibrationError, SoftriskError
from softrisk_core.repository import Repository
from softrisk_export import cli_calibrate, cli_export
from softrisk_export.runtime import Runner
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.data import load_data


@pytest.fixture
def own_data(checkpoint_path: Path, tmp_path: Path) -> Path:
    """Clean data that the checkpoint has not seen."""
    data, rows = load_data("digits"), load_checkpoint(checkpoint_path).splits.test
    np.savez(tmp_path / "own.npz", images=data.images[rows], labels=data.labels[rows])
    return tmp_path / "own.npz"


@pytest.fixture
def first_version(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the bundle in a repository that a test may change."""
    return Path(shutil.copytree(bundle.folder, tmp_path / "models" / "digits" / "1"))


def run(app: typer.Typer, *arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_export_of_a_checkpoint(checkpoint_path: Path, tmp_path: Path) -> None:
    said = run(cli_export.app, checkpoint_path, "--out", tmp_path / "models", "--score", "entropy:high")
    bundle = load_bundle(tmp_path / "models" / "digits" / "1")
    assert str(bundle.manifest.nonconformity) == "entropy"
    assert f"calibrated on {bundle.manifest.calibration.n} clean rows" in said
    assert "accuracy there" in said
    assert f"softrisk serve {tmp_path / 'models'}" in said
    assert f"softrisk evaluate {bundle.folder}" in said


def test_calibrate_makes_the_next_version(first_version: Path, own_data: Path) -> None:
    run(cli_calibrate.app, first_version, "--data", own_data, "--alpha", "0.02", "--score", "dispersion:high")
    run(cli_calibrate.app, first_version.parent / "2", "--data", own_data)
    old, new, same = (load_bundle(first_version.parent / version) for version in "123")
    assert (new.manifest.name, new.manifest.version) == ("digits", 2)
    assert (str(new.manifest.nonconformity), new.manifest.calibration.alpha) == ("dispersion", 0.02)
    assert new.manifest.calibration.data == "own.npz, all rows"
    assert new.manifest.model == old.manifest.model
    assert new.manifest.parity.source == old.manifest.parity.source
    assert new.manifest.tools["torch"] == old.manifest.tools["torch"]
    np.testing.assert_array_equal(new.calibration().training_rows, old.calibration().training_rows)
    # The same data and score give the same graph: nothing of an earlier calibration stays behind.
    assert same.manifest.calibration == new.manifest.calibration
    assert same.manifest.files["model.onnx"] == new.manifest.files["model.onnx"]
    images = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    before, after = (Runner(each.model_path.read_bytes())(images) for each in (old, new))
    np.testing.assert_array_equal(after["logits"], before["logits"])
    np.testing.assert_array_equal(after["nonconformity"], after["dispersion"])


def test_calibrate_refuses_rows_that_the_model_has_seen(first_version: Path) -> None:
    with pytest.raises(CalibrationError, match="of the 1797 calibration rows were used to train"):
        run(cli_calibrate.app, first_version, "--data", "digits")
    assert Repository(first_version.parent.parent).versions("digits") == [1]


def test_calibrate_imports_no_torch(first_version: Path, own_data: Path) -> None:
    script = (
        "import sys; from softrisk_export.cli_calibrate import app\n"
        f"app([{str(first_version)!r}, '--data', {str(own_data)!r}], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert Repository(first_version.parent.parent).versions("digits") == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--alpha", "0.0001"], "at least 9999"),
        (["--alpha", "2"], "between 0 and 1"),
        (["--score", "gap"], "is not a score"),
        (["--name", "../up"], "is not a model name"),
        (["--calibration", "nowhere"], "nowhere does not exist"),
    ],
)
def test_mistakes_are_errors_of_ours(checkpoint_path: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(SoftriskError, match=said):
        run(cli_export.app, checkpoint_path, "--out", tmp_path / "models", *arguments)
    assert Repository(tmp_path / "models").models() == []


def test_an_onnx_file_needs_calibration_data(tmp_path: Path) -> None:
    with pytest.raises(SoftriskError, match="with --calibration"):
        run(cli_export.app, tmp_path / "some.onnx")

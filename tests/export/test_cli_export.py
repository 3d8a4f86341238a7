"""The two commands as a user types them."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.errors import CalibrationError, SoftriskError
from softrisk_core.repository import Repository
from softrisk_core.scores.evidence import Evidence
from softrisk_export import cli_calibrate, cli_export
from softrisk_export.runtime import Runner
from softrisk_training import cli as cli_training
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


def test_a_checkpoint_of_relative_data_is_exported_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data("digits")
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    np.savez("own.npz", images=data.images[:600], labels=data.labels[:600])
    run(cli_training.app, "own.npz", "--epochs", "1", "--width", "4")
    monkeypatch.chdir(tmp_path / "there")
    run(cli_export.app, "../here/own.pt", "--alpha", "0.05")
    run(cli_export.app, "../here/own.pt", "--alpha", "0.05", "--calibration", "../here/own.npz")
    first, second = (load_bundle(Path("models/own") / version) for version in "12")
    assert first.manifest.calibration == second.manifest.calibration
    assert first.manifest.calibration.data == "own.npz, calibration rows"
    assert str(tmp_path) not in first.manifest.model_dump_json()


def test_calibrate_makes_the_next_version(first_version: Path, own_data: Path) -> None:
    run(cli_calibrate.app, first_version.parent, "--data", own_data, "--alpha", "0.02", "--score", "dispersion:high")
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


@pytest.mark.parametrize("score", ["logit_gap:two-sided", "kl-matching", "logit-profile"])
def test_a_fitted_score_is_calibrated_on_other_rows_than_it_was_fitted_on(
    first_version: Path, own_data: Path, score: str
) -> None:
    rows = len(np.load(own_data)["images"])
    run(cli_calibrate.app, first_version, "--data", own_data, "--score", score)
    bundle = load_bundle(first_version.parent / "2")
    facts, arrays = bundle.manifest.calibration, bundle.calibration()
    assert facts.n == rows - rows // 5
    assert facts.data == f"own.npz, all rows but {rows // 5} that fit {score}"
    assert arrays.fit_rows.size == rows // 5
    assert not np.isin(arrays.fit_rows, arrays.calibration_rows).any()
    images = np.random.default_rng(0).random((5, 1, 8, 8), dtype=np.float32)
    outputs = Runner(bundle.model_path.read_bytes())(images)
    evidence = Evidence(outputs["logits"].astype(np.float64), images, np.empty((0, *outputs["logits"].shape)))
    np.testing.assert_allclose(outputs["nonconformity"], bundle.score().of(evidence), rtol=1e-4, atol=1e-4)
    # The next version asks for the same score, and fits it to the same rows.
    run(cli_calibrate.app, bundle.folder, "--data", own_data)
    again = load_bundle(first_version.parent / "3")
    assert again.manifest.files["score.npz"] == bundle.manifest.files["score.npz"]
    assert again.manifest.calibration == facts


def test_a_calibration_needs_no_labels(first_version: Path, own_data: Path, tmp_path: Path) -> None:
    images = np.load(own_data)["images"][:, 0]
    (tmp_path / "traffic").mkdir()
    for row, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "traffic" / f"{row:03}.png")
    labelled = run(cli_calibrate.app, first_version, "--data", own_data)
    unlabelled = run(cli_calibrate.app, first_version, "--data", tmp_path / "traffic")
    assert "accuracy there" in labelled
    assert "accuracy" not in unlabelled
    first, second = (load_bundle(first_version.parent / version) for version in "23")
    assert second.manifest.calibration.id == first.manifest.calibration.id
    assert second.manifest.calibration.data == "traffic, all rows"


def test_repeated_contents_are_kept_and_counted(first_version: Path, own_data: Path, tmp_path: Path) -> None:
    images = np.load(own_data)["images"]
    np.savez(tmp_path / "traffic.npz", images=np.concatenate([images, images[:30], images[:10]]))
    said = run(cli_calibrate.app, first_version, "--data", tmp_path / "traffic.npz")
    assert "40 of these rows repeat the content of another" in said
    assert load_bundle(first_version.parent / "2").manifest.calibration.n == len(images) + 40
    assert "repeat the content" not in run(cli_calibrate.app, first_version, "--data", own_data)


def test_the_rows_of_an_earlier_calibration_calibrate_again(
    first_version: Path, checkpoint_path: Path, tmp_path: Path
) -> None:
    data, rows = load_data("digits"), load_checkpoint(checkpoint_path).splits.calibration
    np.savez(tmp_path / "old.npz", images=data.images[rows])
    run(cli_calibrate.app, first_version, "--data", tmp_path / "old.npz")
    old, new = (load_bundle(first_version.parent / version).manifest.calibration for version in "12")
    assert new.id == old.id


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
        (["--optional", "image"], "--optional is for a checkpoint of several inputs"),
    ],
)
def test_mistakes_are_errors_of_ours(checkpoint_path: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(SoftriskError, match=said):
        run(cli_export.app, checkpoint_path, "--out", tmp_path / "models", *arguments)
    assert Repository(tmp_path / "models").models() == []


def test_an_onnx_file_needs_calibration_data(tmp_path: Path) -> None:
    with pytest.raises(SoftriskError, match="with --calibration"):
        run(cli_export.app, tmp_path / "some.onnx")


def test_a_folder_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(SoftriskError, match="is a folder; SOURCE is a checkpoint"):
        run(cli_export.app, tmp_path)


def test_few_rows_are_said_to_give_no_confidence(first_version: Path, own_data: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", images=np.load(own_data)["images"][:20])
    few = run(cli_calibrate.app, first_version, "--data", tmp_path / "few.npz", "--alpha", "0.1")
    assert "too few rows for 0.1 with 95 % confidence, which needs at least 29" in few
    assert "too few rows" not in run(cli_calibrate.app, first_version, "--data", own_data, "--alpha", "0.1")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """An ONNX classifier of the digits: the nearest class mean, which predicts some classes more often than others."""
    data = load_data("digits")
    images = data.inputs(np.arange(len(data.images))).reshape(len(data.images), -1)
    means = np.stack([images[data.labels == label].mean(axis=0) for label in range(10)])
    graph = onnx.parser.parse_graph(
        "means (float[N,1,8,8] x) => (float[N,10] y) { flat = Flatten (x) y = Gemm (flat, weights, bias) }"
    )
    for name, value in {"weights": 8 * means.T, "bias": -4 * (means**2).sum(axis=1)}.items():
        graph.initializer.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save_model(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "means.onnx")
    return tmp_path / "means.onnx"


def test_calibration_per_class_is_an_option_and_stays_one(classifier: Path, tmp_path: Path) -> None:
    options = ("--calibration", "digits", "--out", tmp_path / "models", "--per-class", "--alpha", "0.011")
    said = run(cli_export.app, classifier, *options)
    versions = tmp_path / "models" / "means"
    bundle = load_bundle(versions / "1")
    manifest, groups = bundle.manifest, bundle.manifest.calibration.groups
    own = sum(len(group.labels) == 1 for group in groups)
    assert 1 < own < 9
    assert f"for each of {own} predicted classes by itself, the other {10 - own} together" in said
    assert f"the smallest of these groups has {min(manifest.grouping.sizes)} rows" in said
    assert manifest.format_version == 3

    data = load_data("digits")
    outputs = Runner(bundle.model_path.read_bytes())(data.inputs(np.arange(len(data.images))))
    scores, labels = outputs["nonconformity"].astype(np.float32), outputs["label"]
    np.testing.assert_array_equal(outputs["rank"], manifest.grouping.ranks(scores, labels, bundle.calibration().scores))
    for group, facts in enumerate(groups):
        members = manifest.grouping.groups(labels) == group
        assert members.sum() == facts.n
        assert 0 < outputs["flagged"][members].mean() <= 0.011

    run(cli_calibrate.app, bundle.folder, "--data", "digits")
    again = load_bundle(versions / "2").manifest
    assert again.calibration == manifest.calibration
    assert again.files["calibration.npz"] == manifest.files["calibration.npz"]
    run(cli_calibrate.app, bundle.folder, "--data", "digits", "--marginal")
    marginal = load_bundle(versions / "3").manifest
    assert (marginal.format_version, marginal.calibration.groups) == (1, ())
    run(cli_calibrate.app, versions / "3", "--data", "digits")
    assert load_bundle(versions / "4").manifest.calibration == marginal.calibration
    run(cli_calibrate.app, versions / "4", "--data", "digits", "--per-class")
    assert load_bundle(versions / "5").manifest.calibration == manifest.calibration


def test_too_few_rows_for_groups_are_refused(first_version: Path, own_data: Path) -> None:
    with pytest.raises(CalibrationError, match=r"a class needs 200 calibration rows .* without --per-class"):
        run(cli_calibrate.app, first_version, "--data", own_data, "--per-class", "--alpha", "0.01")
    assert Repository(first_version.parent.parent).versions("digits") == [1]

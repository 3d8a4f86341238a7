"""Twins in reduced precision, made from a bundle as a user makes them."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import nn
from typer.testing import CliRunner

from softrisk_core import cli_inspect
from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.conformal import ranks
from softrisk_core.diagnostics import diagnose
from softrisk_core.errors import CalibrationError
from softrisk_core.manifest import OUTPUTS, ModelFacts
from softrisk_core.repository import Repository
from softrisk_core.rows import digest_rows
from softrisk_export import cli_calibrate
from softrisk_export.checkpoint_source import INPUT, export_logits, logits_of
from softrisk_export.errors import TwinError
from softrisk_export.fit import Wanted
from softrisk_export.graph import classifier, with_diagnostics
from softrisk_export.runtime import Runner
from softrisk_export.seal import seal
from softrisk_export.source import CleanRows, Source, image_input
from softrisk_export.twin import twin
from softrisk_export.verify import REDUCED, TOLERANCE, replay_tolerance
from softrisk_training.data import load_data

PRECISIONS = ("fp16", "int8")


def build_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained classifier of the digits as version 1, its twins as versions 2 and 3."""
    data, network = load_data("digits"), build_network()
    images, labels = torch.from_numpy(data.inputs(np.arange(1000))), torch.from_numpy(data.labels[:1000])
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        optimiser.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(network(images), labels))
        optimiser.step()

    source = Source(
        model=with_diagnostics(export_logits(network, {INPUT: (1, 8, 8)}), 10),
        logits=logits_of(network),
        inputs=(image_input(INPUT, (1, 8, 8)),),
        classes=data.classes,
        facts=ModelFacts(origin="checkpoint", clean_accuracy=0.9),
        seen_rows=data.digests(np.arange(1000)),
    )
    folder = tmp_path_factory.mktemp("twins")
    score = "logit_gap:low"
    rows = np.arange(1000, len(data.images))
    seal(Repository(folder), "digits", source, CleanRows.of(data, INPUT, rows), Wanted(score), 0.05)
    np.savez(folder / "own.npz", images=data.images[rows], labels=data.labels[rows])
    for precision in PRECISIONS:
        said = calibrate(folder, "1", "--precision", precision)
        (folder / f"{precision}.txt").write_text(said)
    return folder


def calibrate(folder: Path, version: str, *options: str) -> str:
    arguments = [str(folder / "digits" / version), "--data", str(folder / "own.npz"), *options]
    result = CliRunner().invoke(cli_calibrate.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def made(repository: Path, precision: str) -> Bundle:
    return load_bundle(repository / "digits" / str(1 + ("fp32", *PRECISIONS).index(precision)))


def own_rows(repository: Path) -> CleanRows:
    return CleanRows.of(load_data(str(repository / "own.npz")), INPUT)


def run(bundle: Bundle, inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return Runner(bundle.model_path.read_bytes()).over(inputs)


def test_the_manifest_says_the_precision(repository: Path) -> None:
    full = made(repository, "fp32").manifest
    assert full.model.precision == "fp32"
    # Left out where it says nothing, so that readers from before twins take the bundle.
    assert '"precision"' not in full.model_dump_json()
    for precision in PRECISIONS:
        manifest = made(repository, precision).manifest
        assert f'"precision":"{precision}"' in manifest.model_dump_json()
        assert (manifest.model.precision, manifest.format_version) == (precision, 1)
        assert manifest.model.clean_accuracy is None
        assert (manifest.inputs, manifest.classes) == (full.inputs, full.classes)
        assert manifest.calibration.alpha == full.calibration.alpha


def test_inspect_shows_the_precision(repository: Path) -> None:
    full, reduced = (
        CliRunner().invoke(cli_inspect.app, [str(made(repository, each).folder)], catch_exceptions=False).output
        for each in ("fp32", "int8")
    )
    assert "in int8" in reduced
    assert "in fp32" not in full


@pytest.mark.parametrize("precision", PRECISIONS)
def test_only_the_classifier_is_reduced(repository: Path, precision: str) -> None:
    nodes = onnx.load(made(repository, precision).model_path).graph.node
    full = onnx.load(made(repository, "fp32").model_path).graph.node
    tail, full_tail = (
        [(node.op_type, list(node.input), list(node.output)) for node in each if node.name.startswith("softrisk/")]
        for each in (nodes, full)
    )
    assert tail == full_tail
    assert len(nodes) > len(full)
    onnx.checker.check_model(onnx.load(made(repository, precision).model_path), full_check=True)
    assert {node.domain for node in nodes} == {""}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_smaller(repository: Path, precision: str) -> None:
    def head_bytes(bundle: Bundle) -> int:
        return sum(len(each.raw_data) for each in classifier(onnx.load(bundle.model_path)).graph.initializer)

    assert head_bytes(made(repository, precision)) < 0.7 * head_bytes(made(repository, "fp32"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_twin_is_nearly_the_same_classifier(repository: Path, precision: str) -> None:
    rows = own_rows(repository)
    full, reduced = (run(made(repository, each), rows.input) for each in ("fp32", precision))
    difference = np.abs(full["logits"] - reduced["logits"]).max()
    assert 0 < difference < 0.1 * np.abs(full["logits"]).max()
    assert (full["label"] == reduced["label"]).mean() > 0.97
    # The manifest says how far it is from the classifier that was first exported.
    parity = made(repository, precision).manifest.parity
    assert parity.source == pytest.approx(difference, rel=0.2, abs=1e-4)
    # And its diagnoses are those of its own logits, in full precision.
    for name, values in diagnose(reduced["logits"]).items():
        np.testing.assert_allclose(reduced[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
    assert parity.reference < 1e-4


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_calibration_is_that_of_the_twin(repository: Path, precision: str) -> None:
    twin_bundle, full = made(repository, precision), made(repository, "fp32")
    assert twin_bundle.manifest.calibration.id != full.manifest.calibration.id
    outputs, arrays = run(twin_bundle, own_rows(repository).input), twin_bundle.calibration()
    np.testing.assert_array_equal(outputs["rank"], ranks(outputs["nonconformity"], arrays.scores))
    assert np.isin(arrays.scores, outputs["nonconformity"]).all()
    inputs, golden = twin_bundle.golden()
    found = run(twin_bundle, inputs[INPUT])
    for name in OUTPUTS:
        np.testing.assert_array_equal(found[name], golden[name], err_msg=name)


def test_rows_that_fit_the_ranges_do_not_calibrate(repository: Path) -> None:
    n = len(own_rows(repository).input)
    half, integer = (made(repository, precision).manifest.calibration for precision in PRECISIONS)
    assert (half.n, half.data) == (n, "own.npz, all rows")
    assert (integer.n, integer.data) == (n - n // 10, f"own.npz, all rows but {n // 10} that fit the ranges of int8")
    rows = own_rows(repository)
    source = cli_calibrate.bundle_source(made(repository, "fp32"))
    # What is frequent in the traffic stays so: of a frame that is half of it, only the rows themselves leave.
    frames = np.concatenate([np.repeat(rows.input[:1], n, axis=0), rows.input])
    _, left, _ = twin(source, "int8", CleanRows({INPUT: frames}, "some"))
    assert len(left.input) == 2 * n - 2 * n // 10
    assert (left.input == rows.input[0]).all(axis=(1, 2, 3)).mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_changed_is_said(repository: Path, precision: str) -> None:
    said = " ".join((repository / f"{precision}.txt").read_text().split())
    rows, bundle = own_rows(repository), made(repository, precision)
    used = np.isin(digest_rows(rows.input), bundle.calibration().calibration_rows)
    full, reduced = (run(made(repository, each), rows.input[used]) for each in ("fp32", precision))
    assert rows.labels is not None
    labels = rows.labels[used]
    assert f"accuracy there {(reduced['label'] == labels).mean():.2%}" in said
    assert f"twin of the fp32 version, accuracy there {(full['label'] == labels).mean():.2%}" in said
    assert f"{(reduced['label'] == full['label']).mean():.2%} of these rows keep their label" in said
    assert f"differ by up to {np.abs(full['logits'] - reduced['logits']).max():.2g}" in said


@pytest.mark.parametrize("precision", PRECISIONS)
def test_another_implementation_is_within_the_recorded_tolerance(repository: Path, precision: str) -> None:
    bundle = made(repository, precision)
    tolerance = bundle.manifest.parity.tolerance
    inputs, golden = bundle.golden()
    outputs = dict(zip(OUTPUTS, OTHERS[precision](bundle.model_path, inputs), strict=True))
    for name in ("logits", "probabilities", "logit_gap", "dispersion", "energy", "entropy", "complement_entropy"):
        difference = np.abs(outputs[name] - golden[name])
        assert (difference <= tolerance.absolute + tolerance.relative * np.abs(golden[name])).all(), name


def as_written(path: Path, inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Every value between two nodes in the type that the file gives it: onnxruntime would compute fp16 in float32."""
    found = ReferenceEvaluator(onnx.load(path)).run(None, inputs)
    assert isinstance(found, list)
    return found


def unoptimised(path: Path, inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Between quantisation and dequantisation in float32: with its optimiser, onnxruntime would add integers."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found: list[NDArray[np.float32]] = session.run(None, inputs)
    return found


OTHERS = {"fp16": as_written, "int8": unoptimised}


def test_tolerances_follow_the_precision(repository: Path) -> None:
    logits = np.array([[-20, 3], [1, 2]], np.float32)
    assert replay_tolerance("fp32", logits) == TOLERANCE
    for precision in ("fp16", "int8"):
        assert replay_tolerance(precision, logits).absolute == pytest.approx(20 * REDUCED[precision])
    found = {each: made(repository, each).manifest.parity.tolerance.absolute for each in ("fp32", *PRECISIONS)}
    assert found["fp32"] == TOLERANCE.absolute < found["fp16"] < found["int8"]


def test_a_twin_of_a_twin_is_refused(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "copy")
    with pytest.raises(TwinError, match=r"is a twin in int8 already; name the version in fp32"):
        calibrate(tmp_path / "copy", "3", "--precision", "fp16")
    assert Repository(tmp_path / "copy").versions("digits") == [1, 2, 3]


def test_a_twin_that_is_calibrated_again_stays_one(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository, tmp_path / "copy")
    said = calibrate(tmp_path / "copy", "3", "--alpha", "0.1")
    calibrate(tmp_path / "copy", "4", "--alpha", "0.1")
    old, new, same = (load_bundle(tmp_path / "copy" / "digits" / version) for version in "345")
    for bundle in (old, new, same):
        arrays = bundle.calibration()
        assert arrays.fit_rows.size
        assert not np.isin(arrays.fit_rows, arrays.calibration_rows).any()
    assert "keep their label" not in said
    assert new.manifest.model == old.manifest.model
    assert new.manifest.parity.source == old.manifest.parity.source
    assert same.manifest.files["model.onnx"] == new.manifest.files["model.onnx"]
    images = own_rows(repository).input[:50]
    np.testing.assert_array_equal(run(new, images)["logits"], run(old, images)["logits"])


def test_a_single_row_cannot_make_a_twin(repository: Path) -> None:
    same = CleanRows(inputs={INPUT: np.zeros((1, 1, 8, 8), np.float32)}, data="black")
    with pytest.raises(CalibrationError, match="black leave no row to calibrate on"):
        twin(cli_calibrate.bundle_source(made(repository, "fp32")), "int8", same)


def test_what_the_library_cannot_reduce_is_an_error(repository: Path) -> None:
    source = cli_calibrate.bundle_source(made(repository, "fp32"))
    other = CleanRows(
        inputs={INPUT: np.random.default_rng(0).random((50, 1, 7, 7), dtype=np.float32)}, data="too small"
    )
    with pytest.raises(TwinError, match="the classifier cannot be made int8: "):
        twin(source, "int8", other)


def test_logits_of_a_twin_are_not_in_steps(repository: Path) -> None:
    outputs = run(made(repository, "int8"), own_rows(repository).input)
    assert np.unique(outputs["logits"]).size > 0.9 * outputs["logits"].size

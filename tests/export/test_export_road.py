"""From a checkpoint to a bundle, and from a bundle to the next."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from softrisk_core.bundle import GOLDEN_ROWS, Bundle, load_bundle
from softrisk_core.conformal import ranks
from softrisk_core.diagnostics import DIAGNOSTICS, diagnose
from softrisk_core.errors import CalibrationError
from softrisk_core.manifest import OUTPUTS
from softrisk_core.repository import Repository
from softrisk_export.checkpoint_source import OPSET, checkpoint_source
from softrisk_export.fit import Wanted
from softrisk_export.runtime import Runner
from softrisk_export.seal import seal
from softrisk_export.source import CleanRows
from softrisk_training.checkpoint import build_model, load_checkpoint
from softrisk_training.data import load_data
from softrisk_training.errors import DataError

LOW_GAP = "logit_gap:low"


def test_the_bundle_says_what_it_is(bundle: Bundle) -> None:
    manifest = load_bundle(bundle.folder).manifest
    assert (manifest.name, manifest.version, manifest.opset) == ("digits", 1, OPSET)
    (spec,) = manifest.inputs
    assert (spec.shape, spec.domain) == ((-1, 1, 8, 8), (0.0, 1.0))
    assert spec.image is not None
    assert (spec.image.mode, spec.image.size) == ("L", (8, 8))
    assert manifest.model.loss == "drsl(form=logit, tau=0.3)"
    assert manifest.model.parameters is not None
    assert manifest.classes == tuple("0123456789")
    assert manifest.calibration.data == "scikit-learn digits, calibration rows"
    assert {"softrisk", "onnx", "onnxruntime", "torch", "onnxscript"} <= set(manifest.tools)
    assert manifest.parity.batch_sizes == (1, 2, 7, 64)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_the_graph_computes_what_torch_computes(bundle: Bundle, checkpoint_path: Path, size: int) -> None:
    inputs = np.random.default_rng(size).random((size, 1, 8, 8), dtype=np.float32)
    outputs = Runner(bundle.model_path.read_bytes())(inputs)
    with torch.inference_mode():
        logits = build_model(load_checkpoint(checkpoint_path))(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-4, atol=1e-5)
    for name, expected in diagnose(logits).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)


def test_the_calibration_is_that_of_the_checkpoints_calibration_rows(bundle: Bundle, checkpoint_path: Path) -> None:
    checkpoint, data = load_checkpoint(checkpoint_path), load_data("digits")
    arrays, rows = bundle.calibration(), checkpoint.splits.calibration
    outputs = Runner(bundle.model_path.read_bytes())(data.inputs(rows))
    np.testing.assert_array_equal(outputs["rank"], ranks(outputs["nonconformity"], arrays.scores))
    np.testing.assert_array_equal(np.sort(arrays.calibration_rows), np.sort(data.digests(rows)))
    np.testing.assert_array_equal(arrays.training_rows, checkpoint.digests)
    assert set(arrays.histograms) == set(DIAGNOSTICS)


def test_golden_rows_are_repeated(bundle: Bundle) -> None:
    inputs, outputs = bundle.golden()
    assert tuple(outputs) == OUTPUTS
    assert all(len(values) == GOLDEN_ROWS for values in (*inputs.values(), *outputs.values()))
    (images,) = inputs.values()
    found = Runner(bundle.model_path.read_bytes())(images)
    for name, values in outputs.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_fewer_rows_than_golden_ones_are_repeated(checkpoint_path: Path, tmp_path: Path) -> None:
    source, rows = checkpoint_source(checkpoint_path, None)
    few = CleanRows(inputs={"image": rows.input[:30]}, data="few")
    inputs, _ = seal(Repository(tmp_path), "few", source, few, Wanted(LOW_GAP), 0.1).bundle.golden()
    np.testing.assert_array_equal(inputs["image"], rows.input[:30][np.arange(GOLDEN_ROWS) % 30])


ALONE = """
import json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = numpy.full((3, 1, 8, 8), 0.5, numpy.float32)
rank, p_value, flagged = session.run(["rank", "p_value", "flagged"], {"image": image})
facts = session.get_modelmeta().custom_metadata_map
ours = [name for name in sys.modules if name.startswith("softrisk")]
print(json.dumps([rank.tolist(), p_value.tolist(), flagged.tolist(), facts, ours]))
"""


def test_onnxruntime_alone_returns_rank_p_value_and_flag(bundle: Bundle) -> None:
    command = [sys.executable, "-c", ALONE, str(bundle.model_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rank, p_value, flagged, facts, ours = json.loads(answer)
    calibration = bundle.manifest.calibration
    assert ours == []
    assert p_value == pytest.approx([each / (calibration.n + 1) for each in rank], rel=1e-6)
    assert flagged == [each <= int(0.05 * (calibration.n + 1)) for each in rank]
    assert facts["softrisk.calibration.id"] == calibration.id
    assert facts["softrisk.nonconformity"] == "logit_gap:low"


def test_the_file_holds_its_weights_and_a_dynamic_batch(bundle: Bundle) -> None:
    model = onnx.load(bundle.model_path, load_external_data=False)
    assert not any(weights.external_data for weights in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    # Nor does it say on which machine it was made.
    assert b"softrisk_training" not in bundle.model_path.read_bytes()
    assert {path.name for path in bundle.folder.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "calibration.npz",
        "golden.npz",
    }


def test_the_same_location_means_the_calibration_rows(checkpoint_path: Path) -> None:
    _, rows = checkpoint_source(checkpoint_path, "digits")
    assert len(rows) == len(load_checkpoint(checkpoint_path).splits.calibration)


def test_other_data_that_hold_training_rows_are_refused(checkpoint_path: Path, tmp_path: Path) -> None:
    data, splits = load_data("digits"), load_checkpoint(checkpoint_path).splits
    rows = np.concatenate([splits.training[:11], splits.test[:89]])
    np.savez(tmp_path / "own.npz", images=data.images[rows], labels=data.labels[rows])
    source, clean = checkpoint_source(checkpoint_path, str(tmp_path / "own.npz"))
    with pytest.raises(CalibrationError, match="11 of the 100 calibration rows"):
        seal(Repository(tmp_path / "models"), "digits", source, clean, Wanted(LOW_GAP), 0.05)
    assert Repository(tmp_path / "models").models() == []


def test_data_of_another_shape_are_refused(checkpoint_path: Path, tmp_path: Path) -> None:
    source, _ = checkpoint_source(checkpoint_path, None)
    other = CleanRows(inputs={"image": np.zeros((100, 3, 8, 8), np.float32)}, data="colours")
    with pytest.raises(CalibrationError, match=r"\(1, 8, 8\), but the rows of colours have \(3, 8, 8\)"):
        seal(Repository(tmp_path), "digits", source, other, Wanted(LOW_GAP), 0.05)


def test_accuracy_is_said_only_where_the_labels_mean_the_classes_of_the_model() -> None:
    inputs = {"image": np.zeros((4, 1, 8, 8), np.float32)}
    labels, predicted = np.array([0, 1, 1, 0]), np.array([0, 1, 1, 1])
    assert CleanRows(inputs, "made", labels, ("cat", "dog")).accuracy(predicted, ("cat", "dog")) == 0.75
    assert CleanRows(inputs, "made", labels, ("0", "1")).accuracy(predicted, ("cat", "dog", "emu")) == 0.75
    assert CleanRows(inputs, "made", labels, ("dog", "emu")).accuracy(predicted, ("cat", "dog", "emu")) is None
    assert CleanRows(inputs, "made").accuracy(predicted, ("cat", "dog")) is None


def test_data_that_have_moved_are_named_with_the_way_out(checkpoint_path: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.pt"
    replace(load_checkpoint(checkpoint_path), data_location="moved/data").save(moved)
    with pytest.raises(DataError, match=r"moved/data, as recorded in .*moved\.pt, cannot be read; .* --calibration"):
        checkpoint_source(moved, None)


def test_data_that_have_lost_rows_are_refused(checkpoint_path: Path, tmp_path: Path) -> None:
    data = load_data("digits")
    np.savez(tmp_path / "few.npz", images=data.images[:500], labels=data.labels[:500])
    replace(load_checkpoint(checkpoint_path), data_location=str(tmp_path / "few.npz")).save(tmp_path / "some.pt")
    with pytest.raises(DataError, match=r"have 500 rows now, but had 1\d\d\d at least .* --calibration"):
        checkpoint_source(tmp_path / "some.pt", None)

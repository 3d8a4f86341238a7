"""From a checkpoint of an image and a recording to a bundle, by the command line, and what its evaluation shows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.export.test_cli_export import run
from typer.testing import CliRunner

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.errors import SoftriskError
from softrisk_core.manifest import OUTPUTS, AudioInput
from softrisk_core.presence import keep_present
from softrisk_core.rows import take_rows
from softrisk_evaluation import cli as cli_evaluate
from softrisk_evaluation.presence import evaluate_cases
from softrisk_export import cli_calibrate, cli_export
from softrisk_export.errors import ExportError
from softrisk_export.runtime import Runner
from softrisk_training.multimodal.certificate import certified_radius
from softrisk_training.multimodal.checkpoint import (
    MultimodalCheckpoint,
    build_multimodal_model,
    load_multimodal_checkpoint,
    training_pairs,
)
from softrisk_training.multimodal.config import MultimodalConfig
from softrisk_training.multimodal.pairs import load_pairs
from softrisk_training.multimodal.trainer import train_multimodal

CONFIG = MultimodalConfig(width=4, features=16, epochs=3, batch_size=32, learning_rate=1e-2, modality_dropout=0.3)


@pytest.fixture(scope="module")
def path(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("multimodal")
    train_multimodal(CONFIG, load_pairs("digits", str(tones), seed=0, repeats=2), folder / "spoken.pt")
    run(cli_export.app, folder / "spoken.pt", "--out", folder / "models", "--alpha", "0.1")
    return folder / "spoken.pt"


@pytest.fixture
def checkpoint(path: Path) -> MultimodalCheckpoint:
    return load_multimodal_checkpoint(path)


@pytest.fixture
def bundle(path: Path) -> Bundle:
    return load_bundle(path.parent / "models" / "spoken" / "1")


def test_the_bundle_says_what_the_checkpoint_knows(bundle: Bundle, checkpoint: MultimodalCheckpoint) -> None:
    manifest = bundle.manifest
    image, audio = manifest.inputs
    assert (image.name, image.shape, image.domain) == ("image", (-1, 1, 8, 8), (0, 1))
    assert image.image is not None
    assert (audio.name, audio.shape, audio.domain) == ("audio", (-1, 8000), (-1, 1))
    assert audio.audio == AudioInput(sample_rate=8000, longer="crop")
    assert {spec.name for spec in manifest.inputs if spec.optional} == set(checkpoint.optional)
    assert manifest.radius is not None
    assert manifest.radius.spaces == {"image": "pixels", "audio": "log-mel"}
    assert manifest.radius.kinds == ("certified", "estimated")
    assert manifest.radius.rounding == checkpoint.lipschitz.rounding
    assert manifest.calibration.n == len(checkpoint.splits.calibration)
    assert manifest.model.clean_accuracy == checkpoint.test_accuracy


@pytest.mark.parametrize("case", [("image", "audio"), ("image",), ("audio",)])
def test_the_graph_computes_what_torch_and_the_certificate_compute(
    bundle: Bundle, checkpoint: MultimodalCheckpoint, path: Path, case: tuple[str, ...]
) -> None:
    inputs = keep_present(training_pairs(checkpoint, path).rows(checkpoint.splits.test), case)
    outputs = Runner(bundle.model_path.read_bytes()).over(inputs)
    assert tuple(outputs) == bundle.manifest.outputs
    assert outputs.keys() > set(OUTPUTS)
    with torch.inference_mode():
        logits = build_multimodal_model(checkpoint)(*map(torch.from_numpy, inputs.values())).numpy()
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-4, atol=1e-5)
    for position, name in enumerate(inputs):
        expected = certified_radius(outputs["logits"], checkpoint.lipschitz, position) * (name in case)
        np.testing.assert_allclose(outputs[f"certified_radius_{name}"], expected, rtol=1e-4, atol=1e-6)
    both = certified_radius(outputs["logits"], checkpoint.lipschitz)
    alone = outputs[f"certified_radius_{case[0]}"]
    np.testing.assert_allclose(outputs["certified_radius"], both if len(case) > 1 else alone, rtol=1e-4, atol=1e-6)
    assert (outputs["certified_radius"] <= outputs["estimated_radius"] + 1e-6).all()


def test_the_pairs_of_the_checkpoint_calibrate_the_next_version(path: Path, bundle: Bundle) -> None:
    said = run(cli_calibrate.app, bundle.folder, "--checkpoint", path, "--score", "max_logit:low", "--alpha", "0.2")
    made = load_bundle(bundle.folder.parent / "2")
    assert str(made.manifest.nonconformity) == "−max_logit"
    assert made.manifest.calibration.alpha == 0.2
    assert made.manifest.radius == bundle.manifest.radius
    assert "for each presence case by itself: image and audio; image; audio" in said
    np.testing.assert_array_equal(made.calibration().calibration_rows, bundle.calibration().calibration_rows)


def test_images_cannot_stand_for_its_pairs(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="--calibration takes images, and this model takes pairs"):
        run(cli_export.app, path, "--out", tmp_path, "--calibration", "digits")


def test_which_inputs_may_be_left_out_can_be_said(path: Path, tmp_path: Path) -> None:
    run(cli_export.app, path, "--out", tmp_path, "--alpha", "0.1", "--optional", "audio")
    assert load_bundle(tmp_path / "spoken" / "1").manifest.cases == (("image", "audio"), ("image",))
    with pytest.raises(ExportError, match="inputs image and audio, and none that is called text"):
        run(cli_export.app, path, "--out", tmp_path, "--optional", "text")


def test_calibrating_needs_its_checkpoint(bundle: Bundle) -> None:
    with pytest.raises(ExportError, match="the checkpoint behind BUNDLE with --checkpoint"):
        run(cli_calibrate.app, bundle.folder)


def test_pairs_of_another_training_neither_calibrate_nor_test(
    bundle: Bundle, checkpoint: MultimodalCheckpoint, tmp_path: Path
) -> None:
    other = tmp_path / "other.pt"
    # As with another seed: the same recordings in other pairs.
    replace(checkpoint, digests=checkpoint.digests + np.uint64(1)).save(other)
    with pytest.raises(ExportError, match="trained on other pairs than the classifier in the bundle"):
        run(cli_calibrate.app, bundle.folder, "--checkpoint", other)
    with pytest.raises(SoftriskError, match="trained on other pairs than the bundle"):
        evaluate_cases(bundle, other)


def test_the_evaluation_shows_each_case_on_test_pairs(
    bundle: Bundle, path: Path, checkpoint: MultimodalCheckpoint
) -> None:
    facts = evaluate_cases(bundle, path)
    assert tuple(each.present for each in facts) == bundle.manifest.cases
    inputs = take_rows(training_pairs(checkpoint, path).inputs, checkpoint.splits.test)
    for each in facts:
        outputs = Runner(bundle.model_path.read_bytes()).over(keep_present(inputs, each.present))
        right = outputs["label"] == training_pairs(checkpoint, path).labels[checkpoint.splits.test]
        assert (each.accuracy.successes, each.accuracy.trials) == (right.sum(), len(right))
        (level,) = (level for level in each.false_alarms if (level.alpha, level.guarantee) == (0.1, "marginal"))
        assert level.realised.successes == outputs["flagged"].sum()
        assert level.law.low <= level.realised.rate <= level.law.high
        assert each.radii["certified_radius"] == np.median(outputs["certified_radius"][right])
    shown = CliRunner().invoke(
        cli_evaluate.app,
        [str(bundle.folder), "--checkpoint", str(path)],
        catch_exceptions=False,
        env={"COLUMNS": "250"},
    )
    assert "image and audio, 0.1 marginal" in shown.output
    assert f"{facts[1].accuracy.rate:.2%}" in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "are evaluated on the test pairs of a checkpoint"),
        (["--data", "digits"], "takes several inputs"),
        (["--epsilon", "0.1", "--out", "report"], "no report is written: leave out --epsilon, --out"),
    ],
)
def test_an_evaluation_without_pairs_is_refused(bundle: Bundle, arguments: list[str], said: str) -> None:
    with pytest.raises(SoftriskError, match=said):
        run(cli_evaluate.app, bundle.folder, *arguments)

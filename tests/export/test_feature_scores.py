"""Scores of penultimate features inside the graph, and how the tensor of these is found."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx.checker
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tests.export.test_foreign import write
from torch import nn
from typer.testing import CliRunner

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.errors import SoftriskError
from softrisk_core.manifest import FEATURES, OUTPUTS
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_core.scores.score import FeatureScore
from softrisk_export import cli_calibrate, cli_export, fit
from softrisk_export.checkpoint_source import export_logits
from softrisk_export.errors import ExportError
from softrisk_export.find_features import feature_tensor, with_features
from softrisk_export.fit import Wanted, fit_score
from softrisk_export.foreign import Reading, foreign_source
from softrisk_export.graph import with_diagnostics, with_score
from softrisk_export.runtime import Runner
from softrisk_export.source import CleanRows, Source
from softrisk_service.runtime import Runtime
from softrisk_service.settings import Settings

NAMES = ("mahalanobis", "knn")

GREY = np.random.default_rng(0).random((300, 1, 6, 6), dtype=np.float32)

HEAD = "g (float[n, 1, 6, 6] x) => (float[n, 4] y) {{ flat = Flatten (x) h = Gemm (flat, w, b) f = Relu (h) {} }}"


def weights(features: int = 8) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(1)
    shapes = {"w": (36, features), "b": (features,), "v": (features, 4), "c": (4,), "s": (1,)}
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def foreign(folder: Path, ending: str, features: int = 8) -> Source:
    path = write(folder, HEAD.format(ending), weights(features))
    return foreign_source(path, GREY, (), Reading())


def expected_features(images: NDArray[np.float32], features: int = 8) -> NDArray[np.float32]:
    constants = weights(features)
    values: NDArray[np.float32] = np.maximum(images.reshape(len(images), 36) @ constants["w"] + constants["b"], 0)
    return values


def features_in(model: onnx.ModelProto, name: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
    values: NDArray[np.float32] = Runner(with_features(model, name))(images, [FEATURES])[FEATURES]
    return values


ENDINGS = {
    "gemm": "y = Gemm (f, v, c)",
    "matmul and bias": "p = MatMul (f, v) y = Add (c, p)",
    "scale and softmax": "z = Gemm (f, v, c) t = Mul (z, s) y = Softmax <axis = 1> (t)",
    "identity": "d = Identity (f) z = Gemm (d, v, c) y = Identity (z)",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_features_are_what_the_last_layer_reads(tmp_path: Path, ending: str) -> None:
    source = foreign(tmp_path, ENDINGS[ending])
    name = feature_tensor(source.model, None, GREY)
    assert name == ("d" if ending == "identity" else "f")
    found = features_in(source.model, name, GREY)
    np.testing.assert_allclose(found, expected_features(GREY), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
        nn.Sequential(nn.Conv2d(8, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=["pool, linear", "convolution, pool"],
)
def test_the_features_of_convolutional_networks(head: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), head).eval()
    model = with_diagnostics(export_logits(network, {"image": (1, 6, 6)}), 4)
    found = features_in(model, feature_tensor(model, None, GREY), GREY)
    with torch.inference_mode():
        maps = network[:2](torch.from_numpy(GREY))
    pools = isinstance(head[0], nn.AdaptiveAvgPool2d)  # type: ignore[index]
    expected = (maps.mean(dim=(2, 3)) if pools else maps.flatten(1)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_where_no_last_layer_is_found_the_message_says_what_to_do(tmp_path: Path) -> None:
    source = foreign(tmp_path, "z = Gemm (f, v, c) y = Tanh (z)")
    with pytest.raises(ExportError, match=r"features are not found: name their tensor with --features"):
        feature_tensor(source.model, None, GREY)
    assert feature_tensor(source.model, "f", GREY) == "f"
    with pytest.raises(ExportError, match=r"no tensor 'flatt' leads to the classifier's logits; .* flat"):
        feature_tensor(source.model, "flatt", GREY)


def test_what_is_no_row_of_numbers_for_each_input_is_refused(tmp_path: Path) -> None:
    source = foreign(tmp_path, "k = Transpose <perm = [1, 0]> (f) r = Transpose <perm = [1, 0]> (k) y = Gemm (r, v, c)")
    with pytest.raises(ExportError, match=r"k is float32 of shape \(8, 1\) for a batch of 1; features are float"):
        feature_tensor(source.model, "k", GREY)
    source = foreign(tmp_path, "i = Cast <to = 7> (f) r = Cast <to = 1> (i) y = Gemm (r, v, c)")
    with pytest.raises(ExportError, match=r"i is int64"):
        feature_tensor(source.model, "i", GREY)


def test_too_many_features_are_refused(tmp_path: Path) -> None:
    source = foreign(tmp_path, ENDINGS["gemm"], features=5000)
    with pytest.raises(ExportError, match=r"f has 5,000 values .* takes 4,096 at most: name a smaller tensor"):
        feature_tensor(source.model, None, GREY)


def fitted(name: str, source: Source) -> FeatureScore:
    run = Runner(source.model)
    features = expected_features(GREY)
    evidence = Evidence(
        run(GREY, ["logits"])["logits"].astype(np.float64), GREY, np.empty((0, 300, 4)), features.astype(np.float64)
    )
    score = find_score(name).made_from(evidence)
    assert isinstance(score, FeatureScore)
    return score


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    source = foreign(tmp_path, ENDINGS["gemm"])
    score = fitted(name, source)
    model = with_score(with_features(source.model, "f"), score)
    onnx.checker.check_model(model, full_check=True)
    new = np.random.default_rng(5).random((40, 1, 6, 6), dtype=np.float32)
    for images in (new, np.float32(3) * new, np.zeros_like(new)):
        outputs = Runner(model)(images)
        np.testing.assert_allclose(outputs["nonconformity"], score(outputs[FEATURES]), rtol=1e-4, atol=1e-5)
        (standard,) = ReferenceEvaluator(model).run(["nonconformity"], {"x": images})
        np.testing.assert_allclose(np.asarray(standard), outputs["nonconformity"], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def clean_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean") / "clean.npz"
    np.savez(path, images=(255 * GREY[:, 0]).astype(np.uint8))
    return path


def invoke(app: Any, *arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def assert_faithful(bundle: Bundle, features: str) -> None:
    """The graph repeats its own reference, and the manifest says what it reads."""
    run, score = Runner(bundle.model_path.read_bytes()), bundle.score()
    evidence = observe(
        lambda x: run(x, ["logits"])["logits"], GREY[:40], score.probes, lambda x: run(x, [FEATURES])[FEATURES]
    )
    found = run(GREY[:40], ["nonconformity"])["nonconformity"]
    np.testing.assert_allclose(found, score.of(evidence), rtol=1e-4, atol=1e-4)
    assert bundle.manifest.nonconformity.features == features
    assert bundle.manifest.format_version == 3
    assert set(bundle.golden()[1]) == set(OUTPUTS)
    Runtime(bundle, Settings(threads=1))  # it serves nothing that differs from its reference


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_file_with_a_named_tensor_keeps_it_through_calibrations_and_twins(
    tmp_path: Path, clean_file: Path, name: str
) -> None:
    # Tanh hides the last layer, so that the tensor must be named.
    path = write(tmp_path, HEAD.format("z = Gemm (f, v, c) y = Tanh (z)"), weights())
    models = tmp_path / "models"
    export = (cli_export.app, path, "--calibration", clean_file, "--out", models, "--score", name, "--alpha", 0.05)
    with pytest.raises(ExportError, match="--features"):
        invoke(*export)
    invoke(*export, "--features", "f")
    assert_faithful(load_bundle(models / "model" / "1"), "f")
    invoke(cli_calibrate.app, models / "model" / "1", "--data", clean_file)
    assert_faithful(load_bundle(models / "model" / "2"), "f")
    other = NAMES[1 - NAMES.index(name)]
    invoke(cli_calibrate.app, models / "model" / "1", "--data", clean_file, "--score", other)
    assert load_bundle(models / "model" / "3").manifest.nonconformity.score == other
    for version, precision in ((4, "fp16"), (5, "int8")):
        invoke(cli_calibrate.app, models / "model" / "1", "--data", clean_file, "--precision", precision)
        bundle = load_bundle(models / "model" / str(version))
        assert bundle.manifest.model.precision == precision
        assert bundle.manifest.nonconformity.score == name
        assert_faithful(bundle, "f")
    invoke(cli_calibrate.app, models / "model" / "5", "--data", clean_file)
    assert_faithful(load_bundle(models / "model" / "6"), "f")


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_and_its_twins_can_be_ranked_by_features(
    tmp_path: Path, checkpoint_path: Path, bundle: Bundle, name: str
) -> None:
    arguments = ("--out", tmp_path, "--name", "digits", "--score", name, "--alpha", 0.05)
    invoke(cli_export.app, checkpoint_path, *arguments)
    facts = load_bundle(tmp_path / "digits" / "1").manifest
    assert facts.nonconformity.features == "relu_4"
    # A version of another score, in reduced precision: its features are looked for in the twin.
    plain = ("--out", tmp_path, "--name", "plain", "--alpha", 0.05)
    invoke(cli_export.app, checkpoint_path, *plain)
    invoke(
        *(cli_calibrate.app, tmp_path / "plain", "--checkpoint", checkpoint_path),
        *("--score", name, "--precision", "int8"),
    )
    assert load_bundle(tmp_path / "plain" / "2").manifest.nonconformity.features == "relu_4"


def test_features_of_a_score_that_reads_none_are_refused(tmp_path: Path, clean_file: Path) -> None:
    path = write(tmp_path, HEAD.format(ENDINGS["gemm"]), weights())
    with pytest.raises(SoftriskError, match="msp reads no features: leave out --features"):
        invoke(cli_export.app, path, "--calibration", clean_file, "--score", "msp", "--features", "f")


def test_scores_of_features_are_among_those_to_choose_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "FEWEST_JUDGES", 10)
    rows = CleanRows(inputs={"image": GREY}, data="noise")
    facts = fit_score(Wanted("auto", epsilons=(0.3,)), foreign(tmp_path, ENDINGS["gemm"]), rows).facts
    assert facts.choice is not None
    assert set(NAMES) <= {candidate.score for candidate in facts.choice.candidates}
    assert (facts.features == "f") == (facts.score in NAMES)
    hidden = foreign(tmp_path, "z = Gemm (f, v, c) y = Tanh (z)")
    facts = fit_score(Wanted("auto", epsilons=(0.3,)), hidden, rows).facts
    assert facts.choice is not None
    assert not set(NAMES) & {candidate.score for candidate in facts.choice.candidates}

"""A model of an image and a recording, either of which may be missing: from source to bundle to the next version."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from typer.testing import CliRunner

from softrisk_core import cli_inspect
from softrisk_core.bundle import GOLDEN_ROWS, Bundle, load_bundle
from softrisk_core.conformal import marginal_rank, ranks
from softrisk_core.errors import CalibrationError, SoftriskError
from softrisk_core.manifest import OUTPUTS, AudioInput, InputSpec, ModelFacts
from softrisk_core.presence import find_cases, keep_present
from softrisk_core.radius import radius
from softrisk_core.repository import Repository
from softrisk_core.rows import Inputs, digest_rows, take_rows
from softrisk_export import cli_calibrate
from softrisk_export.bound import Bound
from softrisk_export.errors import ParityError, TwinError
from softrisk_export.fit import Wanted
from softrisk_export.graph import with_diagnostics
from softrisk_export.runtime import Runner
from softrisk_export.seal import Sealed, seal
from softrisk_export.source import CleanRows, Source, image_input

LOW_GAP = Wanted("logit_gap:low")
SAMPLES = 16
CASES = (("image", "audio"), ("image",), ("audio",))
TRAINED, CALIBRATING = 900, 500
ALPHA = 0.05

HEAD = """
<ir_version: 8, opset_import: ["": 18]>
agraph (float[batch, 1, 8, 8] image, float[batch, 16] audio) => (float[batch, 10] y) {
    pixels = Flatten (image)
    seen = MatMul (pixels, image_weights)
    heard = MatMul (audio, audio_weights)
    y = Add (seen, heard)
}
"""


def pairs() -> tuple[Inputs, NDArray[np.int64]]:
    """Digits with a noisy tone for each class."""
    digits = load_digits()
    labels = digits.target.astype(np.int64)
    tones = np.sin(np.arange(SAMPLES) * np.arange(1, 11)[:, None])
    noise = np.random.default_rng(0).normal(size=(len(labels), SAMPLES))
    sounds = np.clip(0.4 * tones[labels] + 0.2 * noise, -1, 1)
    return {
        "image": (digits.images / 16).astype(np.float32)[:, None],
        "audio": sounds.astype(np.float32),
    }, labels


INPUTS, LABELS = pairs()


@pytest.fixture(scope="module")
def source() -> Source:
    """A linear classifier, fitted by least squares to the first pairs, with the constants that linear ones have."""
    rows = {name: values[:TRAINED].reshape(TRAINED, -1) for name, values in INPUTS.items()}
    joint = np.concatenate([rows["image"], rows["audio"]], axis=1)
    weights = np.linalg.lstsq(joint, np.eye(10)[LABELS[:TRAINED]] * 4, rcond=0.01)[0].astype(np.float32)
    parts = {"image_weights": weights[:64], "audio_weights": weights[64:]}
    model = onnx.parser.parse_model(HEAD)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(values, name) for name, values in parts.items())

    def logits(inputs: Inputs) -> NDArray[np.float32]:
        values: NDArray[np.float32] = inputs["image"].reshape(-1, 64) @ weights[:64] + inputs["audio"] @ weights[64:]
        return values

    distances = [np.linalg.norm(part[:, :, None] - part[:, None], axis=0) for part in parts.values()]
    return Source(
        model=with_diagnostics(model, 10),
        logits=logits,
        inputs=(
            image_input("image", (1, 8, 8)).model_copy(update={"optional": True}),
            InputSpec(
                name="audio",
                shape=(-1, SAMPLES),
                domain=(-1, 1),
                audio=AudioInput(sample_rate=8000, longer="crop"),
                optional=True,
            ),
        ),
        classes=tuple(map(str, range(10))),
        facts=ModelFacts(origin="checkpoint", architecture="linear"),
        seen_rows=digest_rows(*take_rows(INPUTS, slice(0, TRAINED)).values()),
        bound=Bound({"image": "pixels", "audio": "samples"}, {"certified": np.array(distances, np.float64)}),
    )


def clean(rows: slice = slice(TRAINED, TRAINED + CALIBRATING)) -> CleanRows:
    return CleanRows(take_rows(INPUTS, rows), "pairs", LABELS[rows], tuple(map(str, range(10))))


@pytest.fixture(scope="module")
def sealed(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal(Repository(tmp_path_factory.mktemp("models")), "pairs", source, clean(), LOW_GAP, ALPHA)


@pytest.fixture
def bundle(sealed: Sealed) -> Bundle:
    return sealed.bundle


def test_the_bundle_says_what_it_is(bundle: Bundle, sealed: Sealed) -> None:
    manifest = load_bundle(bundle.folder).manifest
    assert manifest.format_version == 4
    assert [spec.name for spec in manifest.inputs] == ["image", "audio"]
    assert manifest.cases == CASES
    assert manifest.radius is not None
    assert manifest.radius.spaces == {"image": "pixels", "audio": "samples"}
    assert manifest.radius.kinds == ("certified",)
    assert (manifest.calibration.n, len(bundle.calibration().scores)) == (CALIBRATING, 3 * CALIBRATING)
    assert len(bundle.calibration().calibration_rows) == CALIBRATING
    assert all(counts.sum() == CALIBRATING for _, counts in bundle.calibration().histograms.values())
    assert sealed.accuracy is not None
    assert sealed.accuracy > 0.9


def test_any_runtime_needs_only_the_file(bundle: Bundle, source: Source) -> None:
    run = Runner(bundle.model_path.read_bytes())
    assert run.outputs == bundle.manifest.outputs
    assert run.outputs[: len(OUTPUTS)] == OUTPUTS
    rows = take_rows(INPUTS, slice(1500, 1507))
    outputs = run(rows)
    np.testing.assert_allclose(outputs["logits"], source.logits(rows), rtol=1e-4, atol=1e-5)


def test_golden_rows_show_every_case(bundle: Bundle) -> None:
    inputs, outputs = bundle.golden()
    assert tuple(outputs) == bundle.manifest.outputs
    found = find_cases(inputs, {"image": True, "audio": True})
    np.testing.assert_array_equal(found, np.arange(GOLDEN_ROWS) % 3)
    repeated = Runner(bundle.model_path.read_bytes())(inputs)
    for name, values in outputs.items():
        np.testing.assert_array_equal(repeated[name], values)


@pytest.mark.parametrize("case", range(3))
def test_an_instance_is_ranked_among_the_rows_that_lack_the_same_inputs(bundle: Bundle, case: int) -> None:
    run = Runner(bundle.model_path.read_bytes())
    calibrating = run(keep_present(clean().inputs, CASES[case]), ["nonconformity"])["nonconformity"]
    np.testing.assert_array_equal(bundle.calibration().scores.reshape(3, -1)[case], np.sort(calibrating))
    outputs = run(keep_present(take_rows(INPUTS, slice(1400, 1797)), CASES[case]))
    np.testing.assert_array_equal(outputs["rank"], ranks(outputs["nonconformity"], calibrating))
    np.testing.assert_array_equal(outputs["flagged"], outputs["rank"] <= marginal_rank(ALPHA, CALIBRATING))
    # 397 rows exchangeable with those that calibrate: far more than the promise allows would be a fault.
    assert outputs["flagged"].mean() < 2.2 * ALPHA


def test_the_radius_is_proved_by_moving_there(bundle: Bundle) -> None:
    """Of a linear classifier the bound is attained: just inside the label stays, just outside it need not."""
    run = Runner(bundle.model_path.read_bytes())
    rows = take_rows(INPUTS, slice(1400, 1440))
    before = run(rows)
    (constants,) = bundle.lipschitz().values()
    np.testing.assert_allclose(before["certified_radius"], radius(before["logits"], constants), rtol=1e-4)
    weights = {each.name.split("/")[-1]: onnx.numpy_helper.to_array(each) for each in initializers(bundle)}
    label = before["label"]
    gaps = before["logits"][np.arange(40), label][:, None] - before["logits"]
    with np.errstate(divide="ignore", invalid="ignore"):
        distances = gaps / np.sqrt(np.square(constants).sum(axis=0))[label]
    distances[np.arange(40), label] = np.inf
    nearest = distances.argmin(axis=1)
    steps = {name: (weights[f"{name}_weights"][:, nearest] - weights[f"{name}_weights"][:, label]).T for name in INPUTS}
    length = np.sqrt(sum(np.square(step).sum(axis=1) for step in steps.values()))
    for share, same in ((0.999, True), (1.001, False)):
        scale = (share * before["certified_radius"] / length)[:, None]
        moved = {
            name: (rows[name] + (scale * step).reshape(rows[name].shape)).astype(np.float32)
            for name, step in steps.items()
        }
        assert ((run(moved, ["label"])["label"] == label) == same).all()


def initializers(bundle: Bundle) -> list[onnx.TensorProto]:
    return list(onnx.load(bundle.model_path).graph.initializer)


def test_a_radius_that_is_too_large_is_noticed(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softrisk_export.input_tails._DOWN", 1 + 1e-6)
    with pytest.raises(ParityError, match="output certified_radius is larger than its reference"):
        seal(Repository(tmp_path), "pairs", source, clean(), LOW_GAP, ALPHA)


@pytest.mark.parametrize("score", ["energy:two-sided", "kl-matching", "gen"])
def test_scores_of_logits_are_fitted_on_rows_of_their_own(source: Source, tmp_path: Path, score: str) -> None:
    bundle = seal(Repository(tmp_path), "pairs", source, clean(), Wanted(score), ALPHA).bundle
    fitted = score != "gen"
    assert bundle.manifest.calibration.n == CALIBRATING - fitted * (CALIBRATING // 5)
    assert len(bundle.calibration().fit_rows) == fitted * (CALIBRATING // 5)


@pytest.mark.parametrize(
    ("wanted", "needs"),
    [
        (Wanted("auto"), "auto needs attacks"),
        (Wanted("combined"), "combined needs attacks"),
        (Wanted("combined", mode="always"), "probing needs attacks"),
        (Wanted("knn"), "knn needs features"),
    ],
)
def test_scores_that_need_one_image_are_refused(source: Source, tmp_path: Path, wanted: Wanted, needs: str) -> None:
    with pytest.raises(CalibrationError, match=f"{needs}.*inputs image and audio: name a score of the logits"):
        seal(Repository(tmp_path), "pairs", source, clean(), wanted, ALPHA)


def without_audio(rows: CleanRows) -> CleanRows:
    return replace(rows, inputs={"image": rows.inputs["image"]})


def one_silent(rows: CleanRows) -> CleanRows:
    sounds = rows.inputs["audio"].copy()
    sounds[3] = 0
    return replace(rows, inputs={**rows.inputs, "audio": sounds})


def shorter(rows: CleanRows) -> CleanRows:
    return replace(rows, inputs={**rows.inputs, "audio": rows.inputs["audio"][:, :9]})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_audio, "the model takes image and audio, but the rows of pairs have image;"),
        (one_silent, "1 of the 500 rows of pairs have an input that is all zero, which means missing"),
        (shorter, r"shape \(16,\), but the rows of pairs have \(9,\)"),
        (lambda rows: clean(slice(TRAINED - 9, 1400)), "9 of the 509 calibration rows were used to train"),
    ],
)
def test_rows_that_cannot_calibrate_it_are_refused(
    source: Source, tmp_path: Path, change: Callable[[CleanRows], CleanRows], said: str
) -> None:
    with pytest.raises(CalibrationError, match=said):
        seal(Repository(tmp_path), "pairs", source, change(clean()), LOW_GAP, ALPHA)


def test_an_input_that_the_model_cannot_do_without_is_not_optional(source: Source, tmp_path: Path) -> None:
    deaf = onnx.ModelProto()
    deaf.CopyFrom(source.model)
    (weights,) = (each for each in deaf.graph.initializer if each.name.endswith("audio_weights"))
    weights.CopyFrom(onnx.numpy_helper.from_array(np.zeros((SAMPLES, 10), np.float32), weights.name))
    with pytest.raises(CalibrationError, match="same value on all rows that have nothing but audio"):
        seal(Repository(tmp_path), "pairs", replace(source, model=deaf), clean(), LOW_GAP, ALPHA)


def test_classes_and_cases_are_not_both_calibrated_by_themselves(source: Source, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="leave out --per-class"):
        seal(Repository(tmp_path), "pairs", source, clean(), LOW_GAP, ALPHA, per_class=True)


def test_without_optional_inputs_there_is_one_case_and_classes_can_be(source: Source, tmp_path: Path) -> None:
    needed = replace(
        source, inputs=tuple(spec.model_copy(update={"optional": False}) for spec in source.inputs), bound=None
    )
    bundle = seal(Repository(tmp_path), "pairs", needed, clean(), LOW_GAP, ALPHA, per_class=True).bundle
    assert bundle.manifest.outputs == OUTPUTS
    assert len(bundle.manifest.calibration.groups) > 1
    # An input of zeros is an input like any other.
    silent = {**take_rows(INPUTS, slice(1500, 1510)), "audio": np.zeros((10, SAMPLES), np.float32)}
    outputs = Runner(bundle.model_path.read_bytes())(silent)
    expected = bundle.manifest.grouping.ranks(outputs["nonconformity"], outputs["label"], bundle.calibration().scores)
    np.testing.assert_array_equal(outputs["rank"], expected)


def test_the_next_version_keeps_inputs_and_bound(bundle: Bundle, tmp_path: Path) -> None:
    again = cli_calibrate.bundle_source(bundle)
    made = seal(Repository(tmp_path), "pairs", again, clean(slice(1400, 1797)), LOW_GAP, 0.1).bundle
    assert (made.manifest.inputs, made.manifest.radius) == (bundle.manifest.inputs, bundle.manifest.radius)
    rows = keep_present(take_rows(INPUTS, slice(900, 1000)), ("audio",))
    before, after = (Runner(each.model_path.read_bytes())(rows) for each in (bundle, made))
    for name in ("logits", "nonconformity", "certified_radius", "certified_radius_image", "certified_radius_audio"):
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("arguments", [["--data", "digits"], ["--data", "digits", "--precision", "fp16"]])
def test_images_alone_calibrate_no_pairs(bundle: Bundle, tmp_path: Path, arguments: list[str]) -> None:
    shutil.copytree(bundle.folder.parent, tmp_path / "pairs")
    with pytest.raises(SoftriskError, match=r"--data takes images, and BUNDLE takes image and audio"):
        CliRunner().invoke(cli_calibrate.app, [str(tmp_path / "pairs"), *arguments], catch_exceptions=False)


def test_bounds_are_those_of_full_precision(bundle: Bundle) -> None:
    from softrisk_export.twin import twin

    with pytest.raises(TwinError, match="bounds on its classifier in full precision"):
        twin(cli_calibrate.bundle_source(bundle), "fp16", clean())


def test_inspect_shows_inputs_cases_and_radius(bundle: Bundle) -> None:
    shown = CliRunner().invoke(cli_inspect.app, [str(bundle.folder)], catch_exceptions=False, env={"COLUMNS": "300"})
    text = " ".join(shown.output.split())
    assert "audio: FP32 [-1, 16], values in [-1, 1], WAV, mono, 8,000 Hz, 0.002 s: shorter ones padded, longer" in text
    assert "may be left out" in text
    assert "by itself with image and audio; image; audio" in text
    assert "radius certified, ℓ2, of the label: image in pixels, audio in samples" in text

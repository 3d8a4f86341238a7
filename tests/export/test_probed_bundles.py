"""Bundles of fitted combinations, from the command that makes them to the versions that come of them."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.export.test_cli_export import run
from typer.testing import CliRunner

from softrisk_attacks.black_box import Square
from softrisk_attacks.standard import fgsm, pgd
from softrisk_core import cli_inspect
from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.errors import CalibrationError
from softrisk_core.scores.evidence import observe
from softrisk_export import attackers, cli_calibrate, cli_export, fit
from softrisk_export.choose import FEWEST, FEWEST_JUDGES
from softrisk_export.runtime import Runner
from softrisk_training import cli as cli_training
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.data import load_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probed")


@pytest.fixture(scope="module", autouse=True)
def few_attacks() -> object:
    """Two families of short attacks in place of the usual ones."""

    def short(epsilons: list[float], *, classes: int, gradients: bool = True) -> list[object]:
        if not gradients:
            return [Square(max(epsilons), 20)]
        return [fgsm(max(epsilons)), pgd(max(epsilons), 3, 1)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attackers, "calibration_attacks", short)
        patch.setattr(fit, "FEWEST_JUDGES", FEWEST)
        yield


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    """A trained classifier of the digits."""
    torch.manual_seed(0)
    path = folder / "digits.pt"
    run(cli_training.app, "digits", "--epochs", "4", "--out", path)
    return path


@pytest.fixture(scope="module")
def own_data(checkpoint: Path, folder: Path) -> Path:
    """Clean data that the checkpoint has not seen."""
    data, rows = load_data("digits"), load_checkpoint(checkpoint).splits.test
    np.savez(folder / "own.npz", images=data.images[rows], labels=data.labels[rows])
    return folder / "own.npz"


@pytest.fixture(scope="module")
def probed(checkpoint: Path, folder: Path) -> Bundle:
    options = ("--score", "combined", "--probes", "auto", "--probe", "shift", "--probe", "noise", "--alpha", "0.05")
    run(cli_export.app, checkpoint, "--out", folder / "models", *options)
    return load_bundle(folder / "models" / "digits" / "1")


def check(bundle: Bundle) -> None:
    """The graph computes the score that the bundle says, and its calibration rows fitted nothing."""
    images = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)
    model = Runner(bundle.model_path.read_bytes())
    evidence = observe(lambda inputs: model(inputs, ["logits"])["logits"], images, bundle.score().probes)
    found = model(images, ["nonconformity"])["nonconformity"]
    np.testing.assert_allclose(found, bundle.score().of(evidence), rtol=1e-3, atol=1e-3)
    arrays = bundle.calibration()
    assert not np.isin(arrays.calibration_rows, arrays.fit_rows).any()


def test_a_probed_bundle_says_how_it_came_about(probed: Bundle) -> None:
    nonconformity = probed.manifest.nonconformity
    assert (probed.manifest.format_version, nonconformity.score) == (3, "probed")
    assert nonconformity.probes is not None
    assert (nonconformity.probes.mode, nonconformity.probes.names) == ("auto", ("shift", "noise"))
    assert 1 <= nonconformity.probes.passes <= 3
    assert len(nonconformity.families) == 2
    assert set(probed.manifest.files) == {"model.onnx", "calibration.npz", "golden.npz", "score.npz"}
    check(probed)


def shown(bundle: Bundle) -> str:
    """What `softrisk inspect` says, spaces aside."""
    found = CliRunner().invoke(cli_inspect.app, [str(bundle.folder)], catch_exceptions=False, env={"COLUMNS": "200"})
    return " ".join(found.output.split())


def test_inspect_shows_what_the_score_was_fitted_to_and_what_it_costs(probed: Bundle) -> None:
    text, facts = shown(probed), probed.manifest.nonconformity
    assert f"fitted to attacks of the families {', '.join(facts.families)}" in text
    assert facts.probes is not None
    assert f"costs {facts.probes.passes:.2f} forward passes for a clean input on average, of up to 3" in text
    assert "chosen by" not in text
    for point in facts.probes.curve:
        assert f"{point.passes:.2f} │ {point.worst:.0%} │ {point.mean:.0%}" in text


def test_recalibration_keeps_the_fitted_score_and_drops_the_rows_that_fitted_it(
    probed: Bundle, checkpoint: Path, own_data: Path, tmp_path: Path
) -> None:
    # The rows of the first calibration, among them those that fitted the score.
    data, rows = load_data("digits"), load_checkpoint(checkpoint).splits.calibration
    np.savez(tmp_path / "first.npz", images=data.images[rows])
    shutil.copytree(probed.folder, tmp_path / "digits" / "1")

    def calibrated(data: Path) -> Bundle:
        said = run(cli_calibrate.app, tmp_path / "digits", "--data", data)
        bundle = load_bundle(Path(said.split(":")[0]))
        assert bundle.manifest.files["score.npz"] == probed.manifest.files["score.npz"]
        check(bundle)
        return bundle

    other = calibrated(own_data)
    assert other.manifest.calibration.n == len(np.load(own_data)["images"])
    # A version between that never saw these rows does not make the score forget them.
    again = calibrated(tmp_path / "first.npz")
    fitted = probed.calibration().fit_rows
    assert again.manifest.calibration.n == len(rows) - len(fitted)
    assert again.manifest.calibration.id == probed.manifest.calibration.id
    np.testing.assert_array_equal(np.sort(again.calibration().fit_rows), np.sort(fitted))


def test_a_twin_of_a_probed_bundle_is_probed(probed: Bundle, own_data: Path) -> None:
    said = run(cli_calibrate.app, probed.folder, "--data", own_data, "--precision", "int8")
    twin = load_bundle(Path(said.split(":")[0]))
    assert (twin.manifest.model.precision, twin.manifest.nonconformity.score) == ("int8", "probed")
    assert twin.manifest.files["score.npz"] == probed.manifest.files["score.npz"]
    # Those that fitted the score, and those that fitted the ranges.
    assert twin.calibration().fit_rows.size > probed.calibration().fit_rows.size
    again = run(cli_calibrate.app, twin.folder, "--data", own_data)
    assert load_bundle(Path(again.split(":")[0])).manifest.calibration.id == twin.manifest.calibration.id


def test_with_the_checkpoint_it_is_fitted_again(probed: Bundle, checkpoint: Path, own_data: Path) -> None:
    options = ("--checkpoint", checkpoint, "--probes", "always", "--probe", "blur")
    said = run(cli_calibrate.app, probed.folder, "--data", own_data, *options)
    bundle = load_bundle(Path(said.split(":")[0]))
    facts = bundle.manifest.nonconformity.probes
    assert facts is not None
    assert (facts.mode, facts.names, facts.passes) == ("always", ("blur",), 2)
    assert bundle.manifest.files["score.npz"] != probed.manifest.files["score.npz"]
    check(bundle)


def test_other_modes_of_a_sealed_score_need_no_gradients(probed: Bundle, own_data: Path) -> None:
    made = {}
    for mode in ("always", "off"):
        said = run(cli_calibrate.app, probed.folder, "--data", own_data, "--probes", mode)
        made[mode] = load_bundle(Path(said.split(":")[0]))
        check(made[mode])
    always, off = (made[mode].manifest.nonconformity for mode in ("always", "off"))
    assert (always.score, off.score, off.probes) == ("probed", "combined", None)
    assert always.probes is not None
    assert (always.probes.mode, always.probes.passes) == ("always", 3)
    assert (always.choice, always.probes.curve) == (None, ())
    sealed = probed.score().arrays
    np.testing.assert_array_equal(made["always"].score().arrays["full:weights"], sealed["full:weights"])
    np.testing.assert_array_equal(made["off"].score().arrays["weights"], sealed["gate:weights"])


@pytest.mark.parametrize("options", [("--probes", "auto"), ("--score", "combined", "--probes", "auto")])
def test_the_mode_that_is_sealed_stays_as_it_is(probed: Bundle, own_data: Path, options: tuple[str, ...]) -> None:
    said = run(cli_calibrate.app, probed.folder, "--data", own_data, *options)
    again = load_bundle(Path(said.split(":")[0])).manifest
    assert again.files["score.npz"] == probed.manifest.files["score.npz"]
    before = probed.manifest.nonconformity.probes
    assert before is not None
    assert again.nonconformity.probes is not None
    assert (again.nonconformity.probes.mode, again.nonconformity.probes.curve) == ("auto", before.curve)


@pytest.mark.parametrize("score", ["gen", "combined", "logit_gap:low"])
def test_a_score_without_probes_stays_where_they_are_off(
    checkpoint: Path, own_data: Path, tmp_path: Path, score: str
) -> None:
    run(cli_export.app, checkpoint, "--out", tmp_path, "--score", score, "--alpha", "0.05")
    run(cli_calibrate.app, tmp_path / "digits", "--data", own_data, "--probes", "off")
    first, second = (load_bundle(tmp_path / "digits" / version).manifest for version in "12")
    assert second.nonconformity == first.nonconformity
    assert second.files.get("score.npz") == first.files.get("score.npz")


def test_no_two_bundles_share_their_noise(probed: Bundle, checkpoint: Path, own_data: Path) -> None:
    options = ("--checkpoint", checkpoint, "--probes", "always", "--probe", "noise")
    noise = probed.score().arrays["noise"]
    said = run(cli_calibrate.app, probed.folder, "--data", own_data, *options)
    assert (load_bundle(Path(said.split(":")[0])).score().arrays["noise"] != noise).all()


def test_another_checkpoint_is_refused(probed: Bundle, checkpoint_path: Path, own_data: Path) -> None:
    options = ("--checkpoint", checkpoint_path, "--probes", "always", "--probe", "blur")
    with pytest.raises(CalibrationError, match="another classifier than the one that is calibrated"):
        run(cli_calibrate.app, probed.folder, "--data", own_data, *options)


@pytest.fixture(scope="module")
def foreign(probed: Bundle, folder: Path) -> Path:
    """The same classifier as somebody else's file."""
    from softrisk_export.graph import classifier

    onnx.save_model(classifier(onnx.load(probed.model_path)), folder / "foreign.onnx")
    return folder / "foreign.onnx"


def test_a_score_for_an_onnx_file_is_chosen_by_queries(foreign: Path, own_data: Path, tmp_path: Path) -> None:
    options = ("--calibration", own_data, "--out", tmp_path, "--score", "auto", "--epsilon", "0.5", "--alpha", "0.05")
    run(cli_export.app, foreign, *options)
    facts = load_bundle(tmp_path / "foreign" / "1").manifest.nonconformity
    assert facts.choice is not None
    assert facts.choice.families == ("score-based",)
    assert facts.score == facts.choice.candidates[0].score
    assert facts.score not in ("combined", "probed")
    text = shown(load_bundle(tmp_path / "foreign" / "1"))
    assert f"chosen by attacks of the families score-based, at 5 % false alarms on {facts.choice.rows} clean" in text
    for each in facts.choice.candidates:
        assert f"{each.score} │ {each.attack} │ {each.worst:.0%} │ {each.mean:.0%}" in text


@pytest.mark.parametrize("options", [("--score", "combined"), ("--probes", "auto", "--score", "auto")])
def test_a_combination_for_an_onnx_file_is_refused_with_the_reason(
    foreign: Path, own_data: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    with pytest.raises(CalibrationError, match=r"gradients, which an ONNX file does not have: export the checkpoint"):
        run(cli_export.app, foreign, "--calibration", own_data, "--out", tmp_path, *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--score", "entropy:high", "--probes", "auto"), "not to entropy:high"),
        (("--score", "probed"), "needs --probes auto or --probes always"),
        (("--score", "combined", "--probe", "blur"), "add --probes auto or always"),
        (("--score", "combined", "--probes", "always", "--probe", "mirror"), "some of flip, shift"),
        (("--score", "gen", "--epsilon", "0.1"), "gen does not: leave it out"),
        (("--score", "combined", "--alpha", "0.0001"), "at least 9999"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    with pytest.raises(CalibrationError, match=said):
        run(cli_export.app, checkpoint, "--out", tmp_path, *options)
    assert not (tmp_path / "digits").exists()


def test_too_few_rows_are_refused_before_anything_is_attacked(checkpoint: Path, own_data: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", images=np.load(own_data)["images"][:140])
    options = ("--calibration", tmp_path / "few.npz", "--score", "combined", "--alpha", "0.05")
    with pytest.raises(CalibrationError, match="of the 140 a fifth is set apart for them: give 150 or more"):
        run(cli_export.app, checkpoint, "--out", tmp_path, *options)


@pytest.mark.parametrize("options", [("--score", "auto"), ("--probes", "auto")])
def test_a_choice_needs_more_rows_than_a_fit(
    checkpoint: Path, tmp_path: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "FEWEST_JUDGES", FEWEST_JUDGES)
    with pytest.raises(CalibrationError, match="give 1,500 or more, or choose nothing"):
        run(cli_export.app, checkpoint, "--out", tmp_path, "--alpha", "0.05", *options)

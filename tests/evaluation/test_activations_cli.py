"""`softrisk visualize activations` and its experiment: from a command to pictures and figures."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from softrisk_core.cli import COMMANDS
from softrisk_evaluation import cli_experiment
from softrisk_evaluation.activations.album import PIXELS, RECORD, SHEET
from softrisk_evaluation.cli_visualize import app
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.experiments import activation_maximisation
from softrisk_training.checkpoint import load_checkpoint


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setattr(sys, "argv", ["softrisk", "visualize", *arguments])
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_the_command_is_in_the_table() -> None:
    (command,) = (command for command in COMMANDS if command.name == "visualize")
    assert (command.module, command.extra) == ("softrisk_evaluation.cli_visualize", "evaluation")


def test_all_classes_on_one_sheet_with_pixels_and_figures(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "pictures"
    arguments = ["activations", str(checkpoint), "--seeds", "2", "--held-out", str(checkpoint), "--out", str(out)]
    result = run(monkeypatch, *arguments)
    assert result.exit_code == 0
    assert f"contact sheet: {out / SHEET}" in result.output
    with Image.open(out / SHEET) as sheet:
        assert min(sheet.size) > 200
    with np.load(out / PIXELS) as pixels:
        assert pixels["images"].shape == (10, 2, 1, 8, 8)
        assert ((pixels["images"] >= 0) & (pixels["images"] <= 1)).all()
        assert list(pixels["targets"]) == list("0123456789")
        assert list(pixels["seeds"]) == [0, 1]
    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    assert record["command"] == " ".join(["softrisk", "visualize", *arguments])
    assert record["settings"]["transformations"] == {"rotation": 15, "scaling": 0.2, "jitter": 0}
    for target in record["targets"]:
        for image in target["images"]:
            assert image["predicted"] == target["name"]
            assert image["held_out"] == {str(checkpoint): pytest.approx(image["probability"])}
            assert image["kept_at_worst"] <= image["kept"]


def test_chosen_classes_and_units(checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = ["--class", "7", "--class", "2", "--unit", "network.2:5", "--seeds", "1", "--first-seed", "4"]
    settings = ["--steps", "3", "--parameterisation", "pixel", "--rotation", "0", "--jitter", "1"]
    result = run(monkeypatch, "activations", str(checkpoint), *chosen, *settings, "--out", str(tmp_path))
    assert result.exit_code == 0
    record = json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))
    assert [target["name"] for target in record["targets"]] == ["7", "2", "network.2:5"]
    assert [image["seed"] for target in record["targets"] for image in target["images"]] == [4, 4, 4]
    assert record["targets"][2]["images"][0]["probability"] is None
    assert record["targets"][2]["likeness"] is None
    assert record["settings"]["steps"] == 3
    assert record["settings"]["transformations"]["jitter"] == 1


def test_units_alone_are_shown_without_classes(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    options = ["--unit", "network.2:5", "--steps", "2", "--out", str(tmp_path)]
    assert run(monkeypatch, "activations", str(checkpoint), *options).exit_code == 0
    record = json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))
    assert [target["name"] for target in record["targets"]] == ["network.2:5"]


def test_a_network_for_other_images_is_no_judge(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loaded = load_checkpoint(checkpoint)
    other = tmp_path / "letters.pt"
    replace(loaded, classes=tuple("abcdefghij")).save(other)
    with pytest.raises(EvaluationError, match=r"letters\.pt cannot judge .* the classes a, b, c.* not .*0, 1, 2"):
        run(monkeypatch, "activations", str(checkpoint), "--held-out", str(other), "--out", str(tmp_path / "pictures"))
    assert not (tmp_path / "pictures").exists()


def test_the_experiment_compares_ways_and_trainings(
    in_process: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for ways in ("WAYS", "UNPENALISED"):
        short = {way: replace(settings, steps=3) for way, settings in getattr(activation_maximisation, ways).items()}
        monkeypatch.setattr(activation_maximisation, ways, short)
    arguments = ["activation-maximisation", "--quick", "--epochs", "1", "--width", "4", "--out", "found"]
    monkeypatch.setattr(sys, "argv", ["softrisk", "experiment", *arguments])
    assert CliRunner().invoke(cli_experiment.app, arguments, catch_exceptions=False).exit_code == 0
    folder = tmp_path / "found" / "activation-maximisation"
    facts = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert len(facts["found"]) == 3
    for maker in facts["found"].values():
        assert list(maker["ways"])[:4] == ["none", "rotation", "scaling", "both"]
        for figures in maker["ways"].values():
            assert np.shape(figures["transfer"]) == (len(maker["held_out"]), 10, 3)
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "| CE | both | " in page
    assert (folder / "twins.png").is_file()

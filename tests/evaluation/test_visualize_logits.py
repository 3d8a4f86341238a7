"""`softrisk visualize logits`, from checkpoints to a page."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softrisk_core import cli
from softrisk_evaluation.cli_logits import PAGE
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.data import load_data

Logits = Callable[..., str]


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Logits:
    """Run the command; what it prints, errors included, in one line."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["softrisk", "visualize", "logits", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        text = " ".join((printed.out + printed.err).split())
        assert (stopped.value.code == 0) != ("error:" in text), text
        return text

    return run


@pytest.fixture
def hotter(checkpoint: Path, tmp_path: Path) -> Path:
    """The same classifier with logits of twice the size."""
    loaded = load_checkpoint(checkpoint)
    last = [name for name in loaded.weights if name.endswith("weight")][-1].removesuffix("weight")
    weights = {name: tensor * 2 if name.startswith(last) else tensor for name, tensor in loaded.weights.items()}
    path = tmp_path / "hotter.pt"
    replace(loaded, weights=weights).save(path)
    return path


def test_models_side_by_side(logits: Logits, checkpoint: Path, hotter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed = logits(checkpoint, hotter, "--epsilon", "0.2", "--images", "40", "--out", out)
    assert f"all tables and figures: {out / PAGE}" in printed
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    loaded, digits = load_checkpoint(checkpoint), load_data("digits")
    assert set(result["rows"]) <= set(loaded.splits.test.tolist())
    assert len(result["rows"]) == 40
    plain, hot = result["models"].values()
    # Twice the logits: the same labels, a sharper softmax.
    assert plain["images"]["clean"] == hot["images"]["clean"] == 40
    assert hot["profiles"]["clean"][1][1] < plain["profiles"]["clean"][1][1]
    for model in (plain, hot):
        assert model["images"]["attacked, still right"] + model["images"]["successful attacks"] <= 40
        assert model["images"]["successful attacks"] > 0
        assert 0 <= model["ends_in_second_class"] <= 1
    (order,) = result["disagreement"].values()
    assert sorted(order) == result["rows"]
    assert digits.labels.size > max(order)

    html = (out / PAGE).read_text(encoding="utf-8")
    pictures = {"levels.png", "profiles.png", "runner-up.png", "map.png", "disagreement-1.png"}
    assert {path.name for path in out.glob("*.png")} == pictures
    assert html.count("<img") == html.count("data:image/png;base64,") == len(pictures)
    assert "://" not in re.sub(r"data:[^\"]*", "", html)
    markdown = (out / "README.md").read_text(encoding="utf-8")
    for text in (html, markdown):
        assert text.count("What to see") == text.count("What not to conclude") >= len(pictures)
    levels = [float(value) for value in re.findall(r"^\| \S+, clean \| ([\d.]+) ", markdown, re.MULTILINE)]
    assert levels[1] == pytest.approx(2 * levels[0], rel=0.01)


def test_one_model_has_nobody_to_disagree_with(logits: Logits, checkpoint: Path, tmp_path: Path) -> None:
    logits(checkpoint, "--images", "20", "--out", tmp_path / "out")
    assert not list((tmp_path / "out").glob("disagreement-*"))
    assert "Do they agree" not in (tmp_path / "out" / PAGE).read_text(encoding="utf-8")


def test_what_does_not_compare_is_refused(logits: Logits, checkpoint: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(checkpoint)
    replace(loaded, classes=tuple("abcdefghij")).save(tmp_path / "letters.pt")
    assert "do not compare" in logits(checkpoint, tmp_path / "letters.pt")
    assert "named twice" in logits(checkpoint, checkpoint)
    np.savez(tmp_path / "large.npz", images=np.zeros((30, 9, 9), np.uint8), labels=np.arange(30) % 10)
    assert "does not fit" in logits(checkpoint, "--data", tmp_path / "large.npz")


def test_rows_that_one_of_the_models_has_seen_are_left_out(logits: Logits, checkpoint: Path, tmp_path: Path) -> None:
    loaded, digits = load_checkpoint(checkpoint), load_data("digits")
    seen = np.concatenate([loaded.digests, digits.digests(loaded.splits.test[15:])])
    replace(loaded, digests=seen).save(tmp_path / "curious.pt")
    printed = logits(checkpoint, tmp_path / "curious.pt", "--out", tmp_path / "out")
    assert f"only 15 of {len(loaded.splits.test)} test images" in printed
    assert not (tmp_path / "out").exists()

"""`softrisk experiment`: from a command to a page, and again from what was kept."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from softrisk_evaluation import cli_experiment
from softrisk_evaluation.cli_experiment import EXPERIMENTS, app
from softrisk_evaluation.experiments.findings import PAGE, RESULT, Findings
from softrisk_evaluation.experiments.setup import Setup
from softrisk_evaluation.experiments.task import rows_of


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    monkeypatch.setattr(sys, "argv", ["softrisk", "experiment", *arguments])
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_an_experiment_writes_a_page_and_goes_on_from_what_is_kept(
    in_process: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--quick", "--epochs", "1", "--width", "4", "--out", "found"]
    first = run(monkeypatch, "runner-up", *options)
    assert first.exit_code == 0
    assert f"found/runner-up/{PAGE}" in first.output
    page = tmp_path / "found" / "runner-up" / PAGE
    text = page.read_text(encoding="utf-8")
    assert "`softrisk experiment runner-up --quick --epochs 1 --width 4 --out found`" in text
    for line in ("small-cnn, 4 filters in the first layer, 1 epochs", "| CE | ", "| GCE q=0.7 | ", "| DRSL "):
        assert line in text
    facts = json.loads((page.parent / RESULT).read_text(encoding="utf-8"))
    assert [len(row) for row in facts["models"].values()] == [2, 2, 2]

    computed = files(tmp_path / "runs")
    assert run(monkeypatch, "runner-up", *options).exit_code == 0
    assert files(tmp_path / "runs") == computed
    assert page.read_text(encoding="utf-8") == text

    # Another experiment on the same arms finds their answers there.
    assert run(monkeypatch, "embedding", *options).exit_code == 0
    assert files(tmp_path / "runs") == computed
    assert (tmp_path / "found" / "embedding" / "embedding.png").is_file()


def test_an_unknown_experiment_is_told_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, "everything")
    assert result.exit_code == 2
    for name in (*EXPERIMENTS, "all"):
        assert name in result.output


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(setup: Setup) -> Findings:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli_experiment.EXPERIMENTS, "controls", interrupted)
    work = tmp_path / "kept"
    result = run(monkeypatch, "controls", "--work", str(work), "--out", str(tmp_path / "found"))
    assert result.exit_code == 130
    assert f"what is finished is kept in {work}" in result.output
    assert not (tmp_path / "found").exists()


def test_no_more_images_are_announced_than_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    budgets = []

    def seen(setup: Setup) -> Findings:
        budgets.append(setup.budget)
        raise KeyboardInterrupt

    monkeypatch.setitem(cli_experiment.EXPERIMENTS, "controls", seen)
    options = ["--images", "5000", "--headline-images", "5000", "--work", str(tmp_path)]
    run(monkeypatch, "controls", *options)
    test_rows = len(rows_of("digits")[1].test)
    assert (budgets[0].images, budgets[0].headline_images) == (test_rows, test_rows)

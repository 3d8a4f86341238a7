"""Diagnostics of tokens, and the experiment about PRSL on captions."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from softrisk_core.diagnostics import diagnose
from softrisk_evaluation.cli_experiment import app
from softrisk_evaluation.experiments import captions as caption_cells
from softrisk_evaluation.experiments import prsl
from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.captions import CaptionTask, asked_arm, attack_arm, targets, train_captions
from softrisk_evaluation.experiments.findings import PAGE, RESULT
from softrisk_evaluation.token_diagnostics import TOKEN_DIAGNOSTICS, caption_scores, token_diagnostics
from softrisk_training.captioning.quality import exact_matches


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), top_k=st.integers(1, 6))
def test_tokens_are_diagnosed_within_their_largest_logits(seed: int, top_k: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(3, 4, 7)).astype(np.float32)
    written = generator.random((3, 4)) < 0.7
    written[:, 0] = True
    found = token_diagnostics(logits, written, top_k)
    for row, column in np.ndindex(3, 4):
        largest = np.sort(logits[row, column])[::-1][: top_k + 1]
        expected = diagnose(largest[None])
        for name in TOKEN_DIAGNOSTICS:
            value = found[name][row, column]
            assert np.isnan(value) if not written[row, column] else value == pytest.approx(expected[name][0])


def test_a_caption_is_as_strange_as_its_strangest_token() -> None:
    logits = np.array([[[9, 1, 0, 0], [5, 4, 0, 0], [0, 0, 0, 0]]], dtype=np.float32)
    written = np.array([[True, True, False]])
    scores = caption_scores(logits, written, top_k=3)
    # A small gap is strange, a large dispersion is.
    assert scores["logit_gap, strangest token"] == pytest.approx([-1])
    assert scores["logit_gap, mean"] == pytest.approx([-4.5])
    assert scores["dispersion, strangest token"] == pytest.approx([np.std([4, 0, 0])])


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> CaptionTask:
    """Scenes of two patterns in noise, which are learnt in a second."""
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 2
    images = generator.uniform(0, 0.2, (240, 8, 8)).astype(np.float32)
    images[labels == 0, :4] += 0.5
    images[labels == 1, :, ::2] += 0.5
    path = tmp_path_factory.mktemp("data") / "patterns.npz"
    np.savez(path, images=images, labels=labels)
    return CaptionTask(str(path), 8, 4, 1500)


@pytest.fixture(scope="module")
def work(task: CaptionTask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    kept = train_captions(folder, task, CE, 0)
    assert exact_matches(kept["written"], kept["references"]).mean() > 0.5
    return folder


def test_what_is_trained_is_not_trained_again(work: Path, task: CaptionTask) -> None:
    (checkpoint,) = (work / "captioners").iterdir()
    before = checkpoint.stat().st_mtime_ns
    train_captions(work, task, CE, 0)
    assert checkpoint.stat().st_mtime_ns == before


def test_targets_are_captions_of_other_scenes(task: CaptionTask) -> None:
    references = caption_cells.judged_scenes(task.data).captions[:50]
    wanted = targets(references)
    assert (wanted != references).any(axis=1).all()
    assert {tuple(row) for row in wanted} <= {tuple(row) for row in references}


@pytest.mark.parametrize("targeted", [False, True])
def test_attacks_win_more_at_larger_radii_and_with_more_objectives(
    work: Path, task: CaptionTask, targeted: bool
) -> None:
    kept = attack_arm(work, task, CE, 0, 24, (5, 25, 125), steps=10, restarts=1, targeted=targeted)
    assert kept["succeeded"].shape == kept["by_ce"].shape == (3, 24)
    for name in ("succeeded", "by_ce"):
        assert (kept[name][1:] >= kept[name][:-1]).all()
    assert (kept["succeeded"] >= kept["by_ce"]).all()
    assert kept["succeeded"][-1].mean() > kept["succeeded"][0].mean()
    if not targeted:
        # A caption that is wrong without an attack has fallen from the start.
        assert kept["succeeded"][0][~kept["right"]].all()


def test_detection_compares_successful_attacks_with_clean_captions(work: Path, task: CaptionTask) -> None:
    kept = asked_arm(work, task, CE, 0, 40, epsilon=0.4, steps=10)
    found = prsl.detection(kept)
    assert len(found) == 2 * len(TOKEN_DIAGNOSTICS)
    assert all(value is not None and 0 <= value <= 1 for value in found.values())
    # Were nothing attacked, there would be nothing to detect.
    calm = {**kept, "attacked": kept["clean"], "attacked_logits": kept["clean_logits"]}
    assert set(prsl.detection(calm).values()) == {None}


def test_the_experiment_writes_a_page_with_all_arms(
    in_process: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = ["prsl", "--quick", "--epochs", "1", "--width", "4", "--images", "4", "--seeds", "1", "--out", "found"]
    monkeypatch.setattr(sys, "argv", ["softrisk", "experiment", *arguments])
    monkeypatch.setattr(prsl, "ARMS", (CE, prsl.prsl("across-tokens", 6, 0.01)))
    monkeypatch.setattr(prsl, "AWAY", (8, 64))
    monkeypatch.setattr(prsl, "TOWARDS", (64,))
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    page = tmp_path / "found" / "prsl" / PAGE
    text = page.read_text(encoding="utf-8")
    for line in ("| CE | ", "| across-tokens K=6 b·n=0.01 | ", "ε = 64/255", "leave out 0"):
        assert line in text
    facts = json.loads((page.parent / RESULT).read_text(encoding="utf-8"))
    assert set(facts["exact_match"]) == {"CE", "across-tokens K=6 b·n=0.01"}
    assert len(facts["away"]["CE"]) == 1
    assert (page.parent / "success.png").is_file()

    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert kept == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}

"""What is measured on versions of a model with clean rows: the false-alarm law, and what probes cost."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from benchmarks.clean_rows import CleanData
from benchmarks.false_alarm_law_page import Record as LawRecord
from benchmarks.probe_cost_page import Record as CostRecord
from numpy.typing import NDArray

from benchmarks import false_alarm_law, probe_cost
from softrisk_core.bundle import load_bundle
from softrisk_core.conformal import confident_rank, marginal_rank
from softrisk_core.probes import draw_noise, make_probes
from softrisk_core.repository import Repository
from softrisk_core.score_facts import Nonconformity, ProbeFacts
from softrisk_core.scores.combined import Combination, GatedCombination, fit_edges
from softrisk_core.scores.evidence import observe
from softrisk_core.scores.features import features
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.statistics import FalseAlarmLaw, GroupAlarms
from softrisk_export.checkpoint_source import checkpoint_source
from softrisk_export.fit import Wanted, opened
from softrisk_export.seal import seal
from softrisk_export.source import Source
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.data import load_data

PROBES = ("shift", "noise")


def probed(source: Source, inputs: NDArray[np.float32]) -> Wanted:
    """A combination that probes about the half of clean inputs, with weights out of thin air."""
    probes = make_probes(PROBES, draw_noise(inputs.shape[1:], seed=0))
    logits, _ = opened(source, None)
    parts = []
    for own in ((), probes):
        evidence = observe(logits, inputs, own)
        edges = fit_edges(features(evidence))
        parts.append(Combination(edges, np.full(2 * len(edges), 0.1, np.float32), np.float32(0), own))
    gate, full = parts
    median = np.median(gate.of(observe(logits, inputs, ())))
    score = GatedCombination(gate, full, np.array([median, np.inf], np.float32))
    facts = ProbeFacts(mode="auto", names=PROBES, passes=2)
    return Wanted("probed", sealed=(score, Nonconformity(score="probed", families=("iterative",), probes=facts)))


@pytest.fixture(scope="module")
def model(trained_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 4: a diagnostic, a score that was fitted to clean rows, one with probes, one for each class."""
    repository = Repository(tmp_path_factory.mktemp("models"))
    source, rows = checkpoint_source(trained_digits, None)
    for wanted in (Wanted("logit_gap:low"), Wanted("logit_gap:two-sided"), probed(source, rows.input)):
        seal(repository, "digits", source, rows, wanted, 0.05)
    seal(repository, "digits", source, rows, Wanted("logit_gap:low"), 0.2, per_class=True)
    return repository.path("digits", 1).parent


def test_rows_are_the_calibration_and_test_rows_that_fitted_nothing(model: Path, trained_digits: Path) -> None:
    clean, splits, data = CleanData("digits"), load_checkpoint(trained_digits).splits, load_data("digits")
    for version, fitted in ((1, False), (2, True)):
        bundle = load_bundle(model / str(version))
        found = set(clean.unseen(bundle).digests.tolist())
        expected = set(data.digests(np.concatenate([splits.calibration, splits.test])).tolist())
        fit_rows = set(bundle.calibration().fit_rows.tolist())
        assert bool(fit_rows) == fitted
        assert found == expected - fit_rows


def test_a_version_that_does_not_know_its_training_rows_is_refused(trained_digits: Path, tmp_path: Path) -> None:
    source, rows = checkpoint_source(trained_digits, None)
    source = replace(source, seen_rows=np.empty(0, np.uint64))
    bundle = seal(Repository(tmp_path), "digits", source, rows, Wanted("logit_gap:low"), 0.05).bundle
    with pytest.raises(EvaluationError, match="does not know which rows trained it"):
        CleanData("digits").unseen(bundle)


def test_random_splits_of_each_version_follow_the_law(model: Path, tmp_path: Path) -> None:
    false_alarm_law.main([model / "1", model / "2", model / "3"], "digits", tmp_path, splits=200, seed=0)
    record = LawRecord.model_validate_json((tmp_path / "result.json").read_text())
    assert [law.subject.short_score for law in record.laws] == ["−logit_gap", "logit_gap:two-sided", "probed, auto"]
    for law in record.laws:
        assert law.calibration_rows == min(law.own_calibration_rows, law.rows // 2)
        n, m = law.calibration_rows, law.test_rows
        # A few hundred rows serve no α = 0.1 %.
        assert [level.resplits.alpha for level in law.levels] == [0.01, 0.05]
        for level in law.levels:
            found, alpha = level.resplits, level.resplits.alpha
            assert len(level.alarms) == found.splits == 200
            assert level.mean_rate == pytest.approx(np.mean(level.alarms) / m)
            assert level.expected_rate == marginal_rank(alpha, n) / (n + 1)
            # The standard deviation of the mean over 200 splits is below a tenth of that of one.
            exact = FalseAlarmLaw.of([GroupAlarms(marginal_rank(alpha, n), n, m)]).masses
            spread = float(np.sqrt(exact @ np.square(np.arange(m + 1) / m - level.expected_rate)))
            assert level.mean_rate == pytest.approx(level.expected_rate, abs=0.4 * spread)
            assert found.inside.rate == pytest.approx(found.expected_inside, abs=0.06)
            # The promise is about the long run; finitely many test rows exceed α more often.
            assert level.confident_above_in_the_long_run <= 0.05
            assert level.confident_above_in_the_long_run < found.expected_above or confident_rank(alpha, n) == 0
            assert found.confident_above.rate == pytest.approx(found.expected_above, abs=0.08)
        (own,) = (level for level in law.own if level.alpha == 0.05)
        assert own.realised.trials == law.rows - law.own_calibration_rows
    page = (tmp_path / "README.md").read_text()
    assert "| digits/3: probed, auto, fp32 | 5 % |" in page
    assert "![False-alarm rates of random splits, and the law's intervals](false-alarm-law.png)" in page
    assert (tmp_path / "false-alarm-law.png").stat().st_size > 1000


def test_a_calibration_per_class_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="per class"):
        false_alarm_law.main([model / "4"], "digits", tmp_path, splits=1, seed=0)


def test_data_without_other_clean_rows_are_refused(model: Path, trained_digits: Path, tmp_path: Path) -> None:
    data, rows = load_data("digits"), load_checkpoint(trained_digits).splits.calibration
    np.savez(tmp_path / "own.npz", images=data.images[rows], labels=data.labels[rows])
    with pytest.raises(EvaluationError, match="none beside those that calibrate"):
        false_alarm_law.main([model / "1"], str(tmp_path / "own.npz"), tmp_path, splits=1, seed=0)


def test_what_probes_cost_counts_the_rows_that_are_probed(model: Path, tmp_path: Path) -> None:
    probe_cost.main([model / "1", model / "3"], "digits", tmp_path, rows=100, repeats=2, threads=1, seed=0)
    plain, probing = CostRecord.model_validate_json((tmp_path / "result.json").read_text()).costs
    assert plain.probed is None
    assert plain.passes == 1
    assert probing.probed is not None
    assert probing.probed.trials == 100
    assert 0.3 < probing.probed.rate < 0.7
    assert probing.passes == pytest.approx(1 + len(PROBES) * probing.probed.rate)
    for version in (plain, probing):
        assert [(cost.batch, cost.batches) for cost in version.costs] == [(1, 100), (32, 3)]
        for cost in version.costs:
            assert cost.logits_ms > 0
            for ratio in (cost.diagnostics, cost.whole):
                assert ratio.value > 0
                assert ratio.low <= ratio.high
    page = (tmp_path / "README.md").read_text()
    assert "100 clean rows of digits" in page
    assert "| digits/3: probed, auto, fp32 | 32 |" in page
    assert json.loads((tmp_path / "result.json").read_text())["circumstances"]["machine"]


def test_a_few_dear_batches_are_not_hidden_by_many_cheap_ones() -> None:
    times = np.ones((5, 10, 3))
    times[:, :2, 2] = 6.0  # two batches of ten are probed, in every repeat
    times[0, 5, 2] = 1000.0  # a hiccup
    cost = probe_cost._cost(1, times)
    assert cost.diagnostics.value == 1
    assert cost.whole.value == pytest.approx(2.0)
    assert cost.whole.low == pytest.approx(2.0)
    assert cost.whole.high > 100

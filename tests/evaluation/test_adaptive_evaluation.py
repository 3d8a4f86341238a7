"""`softrisk evaluate --adaptive`: what an attacker who knows the score gets past the flag."""

import sys
from pathlib import Path

import numpy as np
import pytest

from softrisk_core import cli
from softrisk_core.conformal import marginal_rank
from softrisk_evaluation.report import Report


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> object:
    monkeypatch.setattr(sys, "argv", ["softrisk", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_the_report_says_what_knowledge_of_the_score_is_worth(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repository: Path, checkpoint: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "report"
    sizes = ("--steps", "6", "--restarts", "2", "--limit", "60", "--sanity-images", "0")
    code = run(
        monkeypatch, repository / "digits", "--checkpoint", checkpoint, "--epsilon", "0.2", "--adaptive", *sizes,
        "--out", out,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    assert "Attackers who know the score" in printed
    report = Report.model_validate_json((out / "report.json").read_bytes())
    assert " --adaptive" in report.settings.command
    findings = report.adaptive
    assert findings is not None
    assert [attack.name for attack in findings.attacks] == [
        "selective PGD", "orthogonal PGD", "PGD on margin − 0.1·score", "PGD on margin − 1·score",
        "PGD on margin − 10·score", "logit mimicry",
    ]  # fmt: skip

    # Every figure can be made again from what the artifact said about every input.
    answers = np.load(out / "examples.npz")
    chosen = answers["attacked"]
    truth, clean, rank = answers["truth"][chosen], answers["clean:label"][chosen], answers["clean:rank"][chosen]
    honest = clean == truth
    for attack in findings.attacks:
        wrong = honest & (answers[f"{attack.label}:label"] != truth)
        assert attack.successful == wrong.sum()
        for level in attack.undetected:
            limit = marginal_rank(level.alpha, report.subject.calibration_rows)
            assert level.of_all.successes == (wrong & (answers[f"{attack.label}:rank"] > limit)).sum()
            assert level.of_all.trials == 60
    for row in findings.worst_case:
        limit = marginal_rank(row.alpha, report.subject.calibration_rows)
        stands = honest & (rank > limit)
        assert row.clean.successes == stands.sum()
        for label in [*(each.label for each in report.attacks), *(each.label for each in findings.attacks)]:
            stands &= (answers[f"{label}:label"] == truth) | (answers[f"{label}:rank"] <= limit)
        assert row.robust.successes == stands.sum()
    for flooded in findings.flooding:
        assert flooded.after.trials == honest.sum()
        assert flooded.after.rate >= flooded.before.rate
    assert findings.flooding[-1].after.rate > findings.flooding[-1].before.rate + 0.1
    # Knowing the score can only help: more gets past the flag than of the attack that climbs the margin alone.
    margin = next(attack for attack in report.attacks if attack.name == "APGD-margin")
    past = honest & (answers[f"{margin.label}:label"] != truth)
    limit = marginal_rank(0.05, report.subject.calibration_rows)
    unknowing = (past & (answers[f"{margin.label}:rank"] > limit)).sum()
    assert max(attack.undetected[-1].of_all.successes for attack in findings.attacks) >= unknowing
    assert "Robust accuracy with rejection" in (out / "report.md").read_text(encoding="utf-8")


def test_without_gradients_nobody_can_adapt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repository: Path, tmp_path: Path
) -> None:
    assert run(monkeypatch, repository / "digits", "--data", "digits", "--adaptive", "--out", tmp_path / "r") == 1
    assert "give its --checkpoint" in " ".join(capsys.readouterr().err.split())

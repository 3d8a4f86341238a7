"""`softrisk evaluate`, from a bundle and its checkpoint to a report on disk."""

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from softrisk_core import cli
from softrisk_core.bundle import load_bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.repository import Repository
from softrisk_evaluation.report import Report
from softrisk_export.checkpoint_source import checkpoint_source
from softrisk_export.fit import Wanted
from softrisk_export.seal import seal
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.data import load_data

QUICK = ("--epsilon", "0.1", "--steps", "2", "--restarts", "1", "--limit", "40", "--sanity-images", "5")

Softrisk = Callable[..., str]


@pytest.fixture
def softrisk(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Softrisk:
    """Run the command; what it prints, errors included, in one line."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["softrisk", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        printed = capsys.readouterr()
        text = " ".join((printed.out + printed.err).split())
        assert (stopped.value.code == 0) != ("error:" in text), text
        return text

    return run


def read(folder: Path) -> Report:
    return Report.model_validate_json((folder / "report.json").read_bytes())


def test_a_report_beside_the_bundle(softrisk: Softrisk, repository: Path, checkpoint: Path) -> None:
    version = repository / "digits" / "1"
    before = {path.name: path.read_bytes() for path in version.iterdir()}
    printed = softrisk(
        "evaluate", repository / "digits", "--checkpoint", checkpoint,
        "--epsilon", "0.3", "--epsilon", "0.1", "--steps", "4", "--restarts", "2", "--limit", "80", "--resplits", "50",
        "--sanity-images", "20",
    )  # fmt: skip
    assert {path.name: path.read_bytes() for path in version.iterdir() if path.is_file()} == before
    load_bundle(version)
    folder = version / "report"
    report, trained = read(folder), load_checkpoint(checkpoint)

    assert report.data.rows == len(trained.splits.test) == report.clean_accuracy.trials
    assert report.clean_accuracy.rate == pytest.approx(trained.test_accuracy)
    assert [attack.label for attack in report.attacks] == [
        "FGSM ε=0.1", "PGD-4 ε=0.1 ×2", "APGD-margin-8 ε=0.1 ×1",
        "FGSM ε=0.3", "PGD-4 ε=0.3 ×2", "APGD-margin-8 ε=0.3 ×1",
    ]  # fmt: skip
    assert all(attack.robust.trials == 80 for attack in report.attacks)
    # A larger ball is worse, and the worst case no better than any attack.
    assert report.attacks[4].robust.successes < report.attacks[1].robust.successes
    for worst in report.worst_case:
        rates = [attack.robust.rate for attack in report.attacks if attack.epsilon == worst.epsilon]
        assert worst.robust.rate <= min(rates)
    assert {row.alpha for row in report.false_alarms} == {0.01, 0.05}
    assert [split.splits for split in report.resplits] == [50, 50]
    assert [(facts.epsilon, facts.images) for facts in report.soundness] == [(0.1, 20), (0.3, 20)]
    assert report.soundness[0].zero_gradients.trials == 80
    assert report.subject.logits_difference is not None
    assert report.subject.logits_difference < 1e-3
    assert report.settings.command == (
        f"softrisk evaluate {repository / 'digits'} --checkpoint {checkpoint} --epsilon 0.3 --epsilon 0.1 --steps 4 "
        "--restarts 2 --limit 80 --resplits 50 --sanity-images 20 --seed 0"
    )

    for expected in (
        "PGD-4 ε=0.3 ×2",
        "worst case ε=0.1",
        "0.05 marginal",
        "−complement_entropy",
        "report:",
        "logits of two passes",
        "passed",
    ):
        assert expected in printed
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    for expected in (
        "| risk_score |", "| flagged |", "](roc.png)", "](false-alarm-law.png)", report.settings.command,
        "| input gradients of zero | 0 of 80 images | none | passed |",
    ):  # fmt: skip
        assert expected in markdown


def test_the_report_can_be_recomputed_from_its_examples(softrisk: Softrisk, repository: Path, checkpoint: Path) -> None:
    softrisk("evaluate", repository / "digits" / "1", "--checkpoint", checkpoint, *QUICK)
    folder = repository / "digits" / "1" / "report"
    report = read(folder)
    attack = report.attacks[1]
    with np.load(folder / "examples.npz") as arrays:
        truth, chosen = arrays["truth"], arrays["attacked"]
        assert (truth == load_data("digits").labels[arrays["row"]]).all()
        assert (arrays["clean:label"] == truth).sum() == report.clean_accuracy.successes
        was_right = (arrays["clean:label"] == truth)[chosen]
        is_right = arrays[f"{attack.label}:label"] == truth[chosen]
        assert (was_right & is_right).sum() == attack.robust.successes
        successful = was_right & ~is_right
        assert successful.sum() == attack.successful
        ranks = arrays[f"{attack.label}:rank"][successful]
        is_attacked = np.repeat([0, 1], [truth.size, ranks.size])
        expected = roc_auc_score(is_attacked, -np.concatenate([arrays["clean:rank"], ranks]))
        assert attack.on_successful[0].auroc == pytest.approx(expected)
        assert all(f"clean:{name}" in arrays for name in DIAGNOSTICS)
        originals = arrays["clean:rank"][chosen][successful]
        is_attacked_or_original = np.repeat([0, 1], ranks.size)
        expected = roc_auc_score(is_attacked_or_original, -np.concatenate([originals, ranks]))
        assert attack.on_successful[0].auroc_on_originals == pytest.approx(expected)
        msp = next(each for each in attack.on_successful if each.score == "msp")
        scores = arrays[f"{attack.label}:msp"][successful]
        assert scores.dtype == np.float32
        expected = roc_auc_score(is_attacked, np.concatenate([arrays["clean:msp"], scores]))
        assert msp.auroc == pytest.approx(expected)
        # α = 0.05 is the bundle's own default, so these flags are the graph's.
        flagged = next(row for row in report.false_alarms if (row.alpha, row.guarantee) == (0.05, "marginal"))
        assert (arrays["clean:rank"] <= flagged.rank_limit).sum() == flagged.realised.successes


def test_the_same_command_writes_the_same_files(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = ("evaluate", repository / "digits", "--checkpoint", checkpoint, *QUICK, "--out", tmp_path / "out")
    softrisk(*command)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    softrisk(*command)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == first
    assert not (repository / "digits" / "1" / "report").exists()
    digests = json.loads(first.pop("digests.json"))
    assert {name: entry["sha256"] for name, entry in digests.items()} == {
        name: sha256(content).hexdigest() for name, content in first.items()
    }


def test_another_checkpoint_is_refused(softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path) -> None:
    payload = torch.load(checkpoint, weights_only=True)
    weights = payload["weights"]
    weights[next(reversed(weights))] += 1.0
    torch.save(payload, tmp_path / "other.pt")
    printed = softrisk("evaluate", repository / "digits", "--checkpoint", tmp_path / "other.pt", *QUICK)
    assert "different classifiers" in printed


def test_a_twin_is_judged_with_the_checkpoint_behind_it(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    digits, rows = load_data("digits"), load_checkpoint(checkpoint).splits.calibration
    np.savez(tmp_path / "clean.npz", images=digits.images[rows], labels=digits.labels[rows])
    softrisk(
        "calibrate", repository / "digits", "--data", tmp_path / "clean.npz", "--precision", "int8", "--alpha", "0.1"
    )
    assert load_bundle(repository / "digits" / "2").manifest.parity.source > 1e-3
    softrisk("evaluate", repository / "digits" / "2", "--checkpoint", checkpoint, *QUICK)
    assert (repository / "digits" / "2" / "report" / "report.json").is_file()


def test_rows_that_were_seen_are_left_out(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    digits, splits = load_data("digits"), load_checkpoint(checkpoint).splits
    rows = np.concatenate([splits.test[:100], splits.training[:30], splits.selection[:20], splits.calibration[:10]])
    np.savez(tmp_path / "mixed.npz", images=digits.images[rows], labels=digits.labels[rows])
    out = tmp_path / "out"
    command = ("evaluate", repository / "digits", "--checkpoint", checkpoint, *QUICK, "--out", out)
    assert "60 test rows left out" in softrisk(*command, "--data", tmp_path / "mixed.npz")
    report = read(out)
    assert (report.data.rows, report.data.dropped) == (100, 60)

    np.savez(tmp_path / "seen.npz", images=digits.images[rows[100:]], labels=digits.labels[rows[100:]])
    printed = softrisk(*command, "--data", tmp_path / "seen.npz")
    assert "all 60 rows" in printed
    assert "--data" in printed


def test_data_that_do_not_fit_are_refused(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = ("evaluate", repository / "digits", "--checkpoint", checkpoint, *QUICK, "--data")
    np.savez(tmp_path / "large.npz", images=np.zeros((4, 9, 9), np.uint8), labels=np.arange(4))
    assert "have shape (1, 9, 9), the bundle expects (1, 8, 8)" in softrisk(*command, tmp_path / "large.npz")
    np.savez(tmp_path / "classes.npz", images=np.zeros((12, 8, 8), np.uint8), labels=np.arange(12))
    assert "are not those of the bundle" in softrisk(*command, tmp_path / "classes.npz")


def test_a_folder_that_is_no_report_is_not_overwritten(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("keep me", encoding="utf-8")
    printed = softrisk(
        "evaluate", repository / "digits", "--checkpoint", checkpoint, *QUICK, "--out", tmp_path / "letters"
    )
    assert "is not a report" in printed
    assert (tmp_path / "letters" / "love.txt").read_text(encoding="utf-8") == "keep me"


def test_without_a_checkpoint_only_clean_inputs_are_judged(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    digits, splits = load_data("digits"), load_checkpoint(checkpoint).splits
    rows = np.concatenate([splits.test, splits.calibration[:10]])
    np.savez(tmp_path / "own.npz", images=digits.images[rows], labels=digits.labels[rows])
    out = tmp_path / "out"
    command = ("evaluate", repository / "digits", "--data", tmp_path / "own.npz", "--out", out, "--resplits", "20")
    printed = softrisk(*command)
    report, trained = read(out), load_checkpoint(checkpoint)
    assert report.clean_accuracy.rate == pytest.approx(trained.test_accuracy)
    assert (report.data.dropped, report.data.training_known) == (10, True)
    assert {row.alpha for row in report.false_alarms} == {0.01, 0.05}
    assert [split.splits for split in report.resplits] == [20, 20]
    assert (report.attacks, report.worst_case, report.soundness, report.red_flags) == ((), (), (), ())
    assert [check.sign for check in report.checks] == ["false alarms at α = 0.01", "false alarms at α = 0.05"]
    assert (report.subject.checkpoint_sha256, report.subject.logits_difference) == (None, None)
    assert {path.name for path in out.iterdir() if path.suffix == ".png"} == {
        "p-values.png", "false-alarm-law.png", "levels.png", "softmax-profile.png", "runner-up.png"
    }  # fmt: skip
    with np.load(out / "examples.npz") as arrays:
        assert arrays["attacked"].size == 0
    markdown = (out / "report.md").read_text(encoding="utf-8")
    for text in (printed, markdown):
        assert "Nothing about attacks was measured" in text
        for attack in ("FGSM", "Red flags", "Detection", "Under attack"):
            assert attack not in text


def test_of_a_foreign_model_the_training_rows_are_not_known(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    digits, splits = load_data("digits"), load_checkpoint(checkpoint).splits
    np.savez(tmp_path / "clean.npz", images=digits.images[splits.calibration])
    rows = np.concatenate([splits.test, splits.training])
    np.savez(tmp_path / "own.npz", images=digits.images[rows], labels=digits.labels[rows])
    model = repository / "digits" / "1" / "model.onnx"
    softrisk(
        "export", model, "--logits", "logits", "--calibration", tmp_path / "clean.npz", "--name", "foreign",
        "--out", repository,
    )  # fmt: skip
    softrisk("evaluate", repository / "foreign", "--data", tmp_path / "own.npz")
    folder = repository / "foreign" / "1" / "report"
    report = read(folder)
    assert (report.data.rows, report.data.training_known) == (len(rows), False)
    assert "which rows the model was trained on is not known" in (folder / "report.md").read_text(encoding="utf-8")


def test_attacks_that_are_not_checked_are_said_not_to_be(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = ("evaluate", repository / "digits", "--checkpoint", checkpoint, *QUICK, "--out", tmp_path / "out")
    warning = "The attacks themselves were not checked (--sanity-images 0)."
    assert warning not in softrisk(*command)
    assert warning in softrisk(*command, "--sanity-images", "0")
    report = read(tmp_path / "out")
    assert len(report.attacks) == 3
    assert report.soundness == ()
    assert not any("gradients" in check.sign for check in report.checks)
    assert warning in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_red_flags_are_shown_with_what_to_do(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    # Of 40 images, so small a radius fools hardly one.
    few = ("--epsilon", "0.001", *QUICK[2:], "--out", tmp_path / "out")
    printed = softrisk("evaluate", repository / "digits", "--checkpoint", checkpoint, *few)
    flags = read(tmp_path / "out").red_flags
    assert any(flag.sign == "successes of FGSM ε=0.001" for flag in flags)
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Red flags" in printed
    for flag in flags:
        assert f"| {flag.finding} | {flag.advice} |" in markdown


def test_without_checkpoint_and_data_there_is_nothing_to_judge(softrisk: Softrisk, repository: Path) -> None:
    printed = softrisk("evaluate", repository / "digits")
    assert "--data" in printed
    assert "--checkpoint" in printed


def test_data_that_have_moved_are_named_with_the_way_out(
    softrisk: Softrisk, repository: Path, checkpoint: Path, tmp_path: Path
) -> None:
    payload = torch.load(checkpoint, weights_only=True)
    torch.save({**payload, "data_location": "moved/data"}, tmp_path / "moved.pt")
    printed = softrisk("evaluate", repository / "digits", "--checkpoint", tmp_path / "moved.pt", *QUICK)
    assert f"moved/data, as recorded in {tmp_path / 'moved.pt'}, cannot be read; give test data with --data" in printed


def test_a_bundle_that_is_calibrated_per_class_is_judged_by_group(
    softrisk: Softrisk, checkpoint: Path, tmp_path: Path
) -> None:
    source, rows = checkpoint_source(checkpoint, None)
    bundle = seal(
        Repository(tmp_path / "models"), "digits", source, rows, Wanted("logit_gap:low"), 0.1, per_class=True
    ).bundle
    grouping = bundle.manifest.grouping
    assert len(grouping.sizes) > 1
    softrisk("evaluate", bundle.folder, "--checkpoint", checkpoint, "--resplits", "20", *QUICK)
    report = read(bundle.folder / "report")
    with np.load(bundle.folder / "report" / "examples.npz") as arrays:
        ranks, labels = arrays["clean:rank"], arrays["clean:label"]
    for row in report.false_alarms:
        assert row.rank_limit is None
        limits = np.array(grouping.rank_limits(row.alpha, row.guarantee))
        assert row.realised.successes == (ranks <= limits[labels]).sum()
    assert "has a limit of its own" in (bundle.folder / "report" / "report.md").read_text()

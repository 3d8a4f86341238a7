"""`report.html`, as whoever opens it sees it."""

import json
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from softrisk_core import cli
from softrisk_core.bundle import load_bundle
from softrisk_evaluation.base_rate import alarms
from softrisk_evaluation.evaluate import Evaluation, evaluate
from softrisk_evaluation.examples import Examples
from softrisk_evaluation.pictures import amplification, difference, picture
from softrisk_evaluation.publish import publish
from softrisk_evaluation.report import Report, Settings
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.data import load_data

ATTACKS = ["FGSM ε=0.1", "PGD-2 ε=0.1 ×1", "APGD-margin-2 ε=0.1 ×1", "FGSM ε=0.3", "PGD-2 ε=0.3 ×1"]


class Page(HTMLParser):
    """Tags, tables and text of a page; fails where tags are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input", "br"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += data

    def pictures(self) -> list[str]:
        return [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]

    def prose(self) -> str:
        return " ".join(self.text.split())


Judge = Callable[..., Evaluation]


@pytest.fixture
def judge(repository: Path, checkpoint: Path) -> Judge:
    def run(*, epsilons: tuple[float, ...] = (0.1,), resplits: int = 0, adaptive: bool = False) -> Evaluation:
        settings = Settings(
            command="softrisk evaluate <bundle>", epsilons=epsilons, steps=2, restarts=1, limit=60, seed=0,
            resplits=resplits, sanity_images=0, adaptive=adaptive,
        )  # fmt: skip
        bundle = load_bundle(repository / "digits" / "1")
        return evaluate(bundle, checkpoint, None, settings, Progress(disable=True))

    return run


def published(evaluation: Evaluation, folder: Path) -> str:
    publish(evaluation, folder)
    return (folder / "report.html").read_text(encoding="utf-8")


def changed(evaluation: Evaluation, **fields: object) -> Evaluation:
    return Evaluation(**{**vars(evaluation), **fields})


def test_one_file_that_asks_for_no_other(judge: Judge, tmp_path: Path) -> None:
    html = published(judge(epsilons=(0.1, 0.3), resplits=20), tmp_path / "report")
    page = Page(html)
    assert len(html.encode()) < 5_000_000
    assert "://" not in re.sub(r"data:[^\"]*", "", html)
    assert all(source.startswith("data:image/png;base64,") for source in page.pictures())
    names = {tag for tag, _ in page.tags}
    assert not names & {"link", "iframe", "object", "embed", "base", "form"}
    attributes = {name for _, each in page.tags for name in each}
    assert not attributes & {"href", "srcset", "action", "onload", "onerror", "onclick"}
    policies = [each.get("content") or "" for tag, each in page.tags if tag == "meta" and "http-equiv" in each]
    assert "default-src 'none'" in policies[0]
    # Six figures, and clean, attacked and difference of three examples.
    assert len(page.pictures()) == 6 + 9
    assert all(each.get("alt") for tag, each in page.tags if tag == "img")


def test_every_attack_stands_with_its_rates(judge: Judge, tmp_path: Path) -> None:
    evaluation = judge(epsilons=(0.1, 0.3))
    page = Page(published(evaluation, tmp_path / "report"))
    heading = page.rows.index(
        ["attack", "ε", "successful", "AUROC", "AUROC, own", "TPR at 0.1%", "TPR at 1.0%", "TPR at 5.0%"]
    )  # fmt: skip
    results = evaluation.report.attacks
    rows = page.rows[heading + 1 : heading + 1 + len(results)]
    assert [row[0] for row in rows[: len(ATTACKS)]] == ATTACKS
    for row, result in zip(rows, results, strict=True):
        risk = result.on_successful[0]
        assert risk.auroc is not None
        assert risk.auroc_on_originals is not None
        areas = [f"{risk.auroc:.3f}", f"{risk.auroc_on_originals:.3f}"]
        assert row[1:5] == [f"{result.epsilon:g}", f"{result.successful} of 60", *areas]
        at_1, at_5 = risk.points
        assert at_1.detected is not None
        assert at_5.detected is not None
        assert row[6:] == [f"{at_1.detected.rate:.1%}", f"{at_5.detected.rate:.1%}"]
        # A rate below one clean image in all is one at which none of them is flagged.
        strangest = evaluation.clean.rank.min()
        attacked = next(each for each in evaluation.attacked if each.attack.label == result.label)
        assert row[5] == f"{(attacked.answers.rank[attacked.successful] < strangest).mean():.1%}"


def test_false_alarms_of_the_classes_add_up(judge: Judge, tmp_path: Path) -> None:
    evaluation = judge()
    page = Page(published(evaluation, tmp_path / "report"))
    heading = page.rows.index(["class", "flagged", "rate", "95 % interval", ""])
    rows = page.rows[heading + 1 : heading + 11]
    assert [row[0] for row in rows] == list(evaluation.manifest.classes)
    counts = [[int(number) for number in row[1].split(" of ")] for row in rows]
    whole = next(row for row in evaluation.report.false_alarms if (row.alpha, row.guarantee) == (0.05, "marginal"))
    assert np.sum(counts, axis=0).tolist() == [whole.realised.successes, whole.realised.trials]


def test_of_many_classes_those_that_are_flagged_most_are_listed(judge: Judge, tmp_path: Path) -> None:
    evaluation = judge()
    names = tuple(f"class {number}" for number in range(25))
    # Everybody is honest, and only the last class is flagged.
    labels = np.arange(len(evaluation.test.labels)) % 25
    ranks = np.where(labels == 24, 1, 200)
    answers = type(evaluation.clean)(**{**vars(evaluation.clean), "rank": ranks})
    test = type(evaluation.test)(**{**vars(evaluation.test), "labels": labels})
    manifest = evaluation.manifest.model_copy(update={"classes": names})
    many = changed(evaluation, clean=answers, test=test, manifest=manifest, examples=Examples(None, ()))
    page = Page(published(many, tmp_path / "report"))
    heading = page.rows.index(["class", "flagged", "rate", "95 % interval", ""])
    assert page.rows[heading + 1][0] == "class 24"
    assert page.rows[heading + 20][0].startswith("class")
    assert page.rows[heading + 21][0] == "share of attacks"
    assert "shown are 20 of 25" in page.prose()


def test_examples_are_shown_with_what_was_changed_and_how_much(judge: Judge, tmp_path: Path) -> None:
    evaluation = judge(epsilons=(0.1, 0.3))
    page = Page(published(evaluation, tmp_path / "report"))
    attack, shown = evaluation.examples.attack, evaluation.examples.shown
    assert attack is not None
    most = max(result.successful for result in evaluation.report.attacks)
    assert next(result for result in evaluation.report.attacks if result.label == attack.label).successful == most
    assert f"amplified {0.5 / attack.epsilon:.3g} times" in page.prose()
    ranks = [example.attacked.rank for example in shown if example.attacked]
    assert ranks == sorted(ranks)
    digits = load_data("digits")
    for example in shown:
        assert example.truth == digits.labels[example.row]
        assert (example.clean.image == digits.inputs(np.array([example.row]))[0]).all()
        assert example.clean.label == example.clean.probabilities.argmax() == example.truth
        assert example.attacked is not None
        assert example.attacked.label == example.attacked.probabilities.argmax() != example.truth
        assert np.abs(example.attacked.image - example.clean.image).max() <= attack.epsilon + 1e-6
        assert picture(example.attacked.image) in page.pictures()
        assert f"{example.clean.probabilities[3]:.3f} → {example.attacked.probabilities[3]:.3f}" in page.prose()


def test_the_examples_lie_beside_the_page_for_softrisk_explain(judge: Judge, tmp_path: Path) -> None:
    evaluation = judge()
    html = published(evaluation, tmp_path / "report")
    assert "softrisk explain example-1-clean.npy example-1-attacked.npy" in html
    digests = json.loads((tmp_path / "report" / "digests.json").read_text(encoding="utf-8"))
    for number, example in enumerate(evaluation.examples.shown, start=1):
        for state, view in (("clean", example.clean), ("attacked", example.attacked)):
            assert view is not None
            name = f"example-{number}-{state}.npy"
            assert (np.load(tmp_path / "report" / name) == view.image).all()
            assert name in digests


def test_how_many_attacks_end_in_the_second_class_is_told(judge: Judge, tmp_path: Path) -> None:
    evaluation = judge(epsilons=(0.1, 0.3))
    prose = Page(published(evaluation, tmp_path / "report")).prose()
    most = max(evaluation.attacked, key=lambda each: each.successful.sum())
    with np.load(tmp_path / "report" / "examples.npz") as arrays:
        second = arrays["clean:runner_up"][arrays["attacked"]][most.successful]
        ends = arrays[f"{most.attack.label}:label"][most.successful]
        np.testing.assert_allclose(arrays["clean:profile"].sum(axis=1), 1, rtol=1e-5)
    assert f"Of {len(ends)} successes, {(ends == second).sum()} (" in prose
    assert "at random it would be 11 %" in prose


def test_names_are_text_and_nothing_else(judge: Judge, tmp_path: Path) -> None:
    hostile = "</td></script><script>alert('1')</script><img src=x onerror=alert(2)>\"'&"
    evaluation = judge()
    manifest = evaluation.manifest
    model = manifest.model.model_copy(update={"architecture": hostile, "loss": hostile, "data": hostile})
    manifest = manifest.model_copy(update={"classes": (hostile, *manifest.classes[1:]), "model": model})
    subject = evaluation.report.subject.model_copy(update={"name": hostile})
    report: Report = evaluation.report.model_copy(update={"subject": subject})
    html = published(changed(evaluation, report=report, manifest=manifest), tmp_path / "report")
    page = Page(html)
    assert "<script>alert" not in html
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert hostile in [row[0] for row in page.rows]
    assert page.text.count(hostile) > 5
    assert "softrisk evaluate <bundle>" in page.text


def test_attackers_who_know_the_score_are_not_hidden_among_all_tables(judge: Judge, tmp_path: Path) -> None:
    knowing = judge(adaptive=True)
    without = Page(published(judge(), tmp_path / "without")).prose()
    with_them = Page(published(knowing, tmp_path / "with")).prose()
    assert knowing.report.adaptive is not None
    assert "None of these attacks knows the score" in without
    assert "None of these attacks knows the score" not in with_them
    beginning, _ = with_them.split("All tables")
    assert all(attack.label in beginning for attack in knowing.report.adaptive.attacks)
    # Nor is the sum done for the attackers that are easier to find.
    missed = [
        level.of_successful.rate
        for attack in knowing.report.adaptive.attacks
        for level in attack.undetected
        if level.of_successful and level.alpha == knowing.manifest.calibration.alpha
    ]
    detection = re.search(r"a detection rate of ([\d.]+) %", with_them)
    assert detection is not None
    assert float(detection[1]) <= 100 * (1 - max(missed)) + 0.05


def test_without_attacks_the_page_claims_nothing_about_them(
    judge: Judge, checkpoint: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, splits = load_data("digits"), load_checkpoint(checkpoint).splits
    np.savez(tmp_path / "clean.npz", images=digits.images[splits.calibration])
    np.savez(tmp_path / "own.npz", images=digits.images[splits.test], labels=digits.labels[splits.test])
    model = repository / "digits" / "1" / "model.onnx"
    for arguments in (
        ("export", model, "--logits", "logits", "--calibration", tmp_path / "clean.npz", "--name", "foreign", "--out",
         repository),
        ("evaluate", repository / "foreign", "--data", tmp_path / "own.npz", "--out", tmp_path / "report"),
    ):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["softrisk", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert stopped.value.code == 0
    page = Page((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    prose = page.prose()
    for expected in (
        "Nothing about attacks was measured", "Nothing was attacked: clean test images", "as none was measured",
        "an ONNX file", "nothing is claimed against any attacker",
    ):  # fmt: skip
        assert expected in prose
    for attack in ("FGSM", "PGD", "AUROC", "difference", "Detection rates"):
        assert attack not in prose
    assert len(page.pictures()) == 4 + 3


def test_red_flags_are_shown_or_said_to_be_absent(judge: Judge, tmp_path: Path) -> None:
    evaluation = judge(epsilons=(0.001,))
    flags = evaluation.report.red_flags
    assert flags
    prose = Page(published(evaluation, tmp_path / "bad")).prose()
    assert all(flag.finding in prose and flag.advice in prose for flag in flags)
    assert "None were raised" not in prose

    passed = tuple(check for check in evaluation.report.checks if not check.red_flag)
    good = changed(evaluation, report=evaluation.report.model_copy(update={"checks": passed}))
    assert f"None were raised by {len(passed)} checks" in Page(published(good, tmp_path / "good")).prose()


def test_base_rates_stand_without_a_script(judge: Judge, tmp_path: Path) -> None:
    evaluation = judge(epsilons=(0.1, 0.3))
    page = Page(published(evaluation, tmp_path / "report"))
    heading = next(number for number, row in enumerate(page.rows) if row[0] == "share of attacks")
    rows = page.rows[heading + 1 : heading + 5]
    assert [row[0] for row in rows] == ["1 in 100", "1 in 1,000", "1 in 10,000", "1 in 100,000"]
    assert [row[3] for row in rows] == ["49,500", "49,950", "49,995", "50,000"]
    flags = [result.on_successful[0].flags[1].detected for result in evaluation.report.attacks]
    worst = min(flag.rate for flag in flags if flag)
    assert rows[0][2] == f"{10_000 * worst:,.1f}"
    calculator = next(each for _, each in page.tags if each.get("id") == "own")
    assert "hidden" in calculator
    assert calculator["data-alpha"] == "0.05"
    assert float(calculator["data-detection"] or "") == pytest.approx(worst)


def test_where_attacks_are_rare_one_alarm_in_eleven_is_right() -> None:
    found = alarms(0.001, false_alarms=0.01, detection=0.999)
    assert (found.attacks, found.detected, found.false) == (1000, 999, 9990)
    assert found.precision == pytest.approx(1 / 11)
    assert alarms(0.0, 0.0, 1.0).precision == 0


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_of_any_number_of_channels(channels: int) -> None:
    image = np.linspace(0, 1, channels * 600 * 400, dtype=np.float32).reshape(channels, 600, 400)
    assert picture(image).startswith("data:image/png;base64,")
    assert difference(image, image, amplification(0.1)) == picture(np.full_like(image, 0.5))

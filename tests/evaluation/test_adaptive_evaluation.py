"""`softrisk evaluate --adaptive`: what an attacker who knows the score gets past the flag."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from softrisk_attacks.adaptive import AdaptiveAttack, SelectivePGD, WeightedPGD
from softrisk_attacks.apgd import APGD
from softrisk_attacks.attack import run_attack
from softrisk_core import cli
from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.conformal import marginal_rank
from softrisk_core.groups import Grouping
from softrisk_core.probes import Probe, draw_noise, make_probes
from softrisk_core.repository import Repository
from softrisk_core.scores.combined import Combination, GatedCombination, fit_edges
from softrisk_core.scores.evidence import observe
from softrisk_core.scores.features import features
from softrisk_evaluation.adaptive import Target, adaptive_attacks
from softrisk_evaluation.artifact import Artifact
from softrisk_evaluation.differentiable import differentiable
from softrisk_evaluation.levels import score_limits
from softrisk_evaluation.report import Report, Settings
from softrisk_evaluation.subject import check_same_features, clean_data
from softrisk_export.checkpoint_source import checkpoint_source
from softrisk_export.fit import Wanted
from softrisk_export.graph import classifier
from softrisk_export.seal import seal
from softrisk_training.checkpoint import build_model, load_checkpoint


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> object:
    monkeypatch.setattr(sys, "argv", ["softrisk", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def examples(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / "examples.npz") as arrays:
        return dict(arrays)


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
        "selective PGD", "orthogonal PGD", "targeted selective PGD", "PGD on margin − 0.1·score",
        "PGD on margin − 1·score", "PGD on margin − 10·score", "logit mimicry",
    ]  # fmt: skip

    # Every figure can be made again from what the artifact said about every input.
    answers = examples(out)
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
    implied = [check for check in report.checks if check.sign.startswith("classifier implied by the flag at ε = 0.2")]
    assert [check.found for check in implied] == [
        f"{row.robust.rate:.1%} robust accuracy at ε = 0.1" for row in findings.worst_case
    ]


SMALL = ("--epsilon", "0.2", "--steps", "3", "--restarts", "1", "--limit", "30", "--sanity-images", "0", "--adaptive")


def sealed_as(wanted: Wanted, checkpoint: Path, folder: Path, *, per_class: bool = False) -> Bundle:
    source, rows = checkpoint_source(checkpoint, None)
    return seal(Repository(folder), "digits", source, rows, wanted, 0.1, per_class=per_class).bundle


def test_a_calibration_per_class_judges_by_the_group_of_the_attacked_label(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    bundle = sealed_as(Wanted("logit_gap:low"), checkpoint, tmp_path / "models", per_class=True)
    assert run(monkeypatch, bundle.folder, "--checkpoint", checkpoint, *SMALL) == 0
    report = Report.model_validate_json((bundle.folder / "report" / "report.json").read_bytes())
    answers = examples(bundle.folder / "report")
    truth, clean = answers["truth"][answers["attacked"]], answers["clean:label"][answers["attacked"]]
    assert report.adaptive is not None
    assert report.adaptive.worst_case
    for attack in report.adaptive.attacks:
        labels = answers[f"{attack.label}:label"]
        for level in attack.undetected:
            limits = np.array(bundle.manifest.grouping.rank_limits(level.alpha))
            past = (clean == truth) & (labels != truth) & (answers[f"{attack.label}:rank"] > limits[labels])
            assert level.of_all.successes == past.sum()


def test_a_score_with_probes_is_attacked_through_them(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    wanted = Wanted("probed", mode="always", probes=("shift", "noise"), epsilons=(0.2,))
    bundle = sealed_as(wanted, checkpoint, tmp_path / "models")
    assert run(monkeypatch, bundle.folder, "--checkpoint", checkpoint, *SMALL) == 0
    report = Report.model_validate_json((bundle.folder / "report" / "report.json").read_bytes())
    assert report.adaptive is not None
    by_name = {attack.name: attack for attack in report.adaptive.attacks}
    assert "selective PGD on the mean over noise (EOT)" in by_name
    # Whoever attacks through the probes looks less strange than whoever climbs the margin alone.
    answers = examples(bundle.folder / "report")
    truth = answers["truth"][answers["attacked"]]
    labels = (by_name["selective PGD"].label, next(each.label for each in report.attacks if "APGD" in each.label))
    both = np.logical_and.reduce([answers[f"{label}:label"] != truth for label in labels])
    knowing, ignorant = (np.median(answers[f"{label}:nonconformity"][both]) for label in labels)
    assert knowing < ignorant


SETTINGS = Settings(
    command="", epsilons=(0.1,), steps=2, restarts=1, limit=None, seed=0, resplits=0, sanity_images=0, adaptive=True
)


def combination(artifact: Artifact, inputs: NDArray[np.float32], asks: tuple[Probe, ...]) -> Combination:
    seen = features(observe(artifact.logits, inputs, asks))
    return Combination(fit_edges(seen), np.ones(2 * seen.shape[1], np.float32), np.float32(0), asks)


def as_seen(attack: AdaptiveAttack, artifact: Artifact, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """What an attacker lowers, for each input."""

    def classifier(points: Tensor) -> Tensor:
        return torch.from_numpy(artifact.logits(points.numpy()))

    points = torch.from_numpy(inputs)
    return attack.score(classifier, points, classifier(points)).numpy()


def test_a_gate_that_leaves_half_undecided_does_not_shrink_the_weight_of_the_score(sealed: Path) -> None:
    bundle = load_bundle(sealed / "digits" / "1")
    artifact = Artifact(bundle)
    inputs = np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32)
    gate = combination(artifact, inputs, ())
    middle = np.median(gate.of(observe(artifact.logits, inputs, ())))
    full = combination(artifact, inputs, make_probes(("shift",), np.empty(0, np.float32)))
    score = GatedCombination(gate, full, np.array([middle, np.inf], np.float32))
    values = score.of(observe(artifact.logits, inputs, score.probes)).astype(np.float32)
    probed = score.was_probed(values)
    assert probed.sum() == 30
    clean = replace(artifact.answer(inputs), nonconformity=values)
    target = Target(score, clean, inputs, bundle.manifest.grouping, np.zeros(10, np.float32))
    weighted = next(a for a in adaptive_attacks(target, artifact, SETTINGS) if isinstance(a, WeightedPGD))
    seen = as_seen(weighted, artifact, inputs)
    for branch in (probed, ~probed):
        assert 0.1 < np.subtract(*np.quantile(seen[branch], (0.75, 0.25))) < 10


def test_attackers_know_what_passes_for_the_class_that_they_reach(sealed: Path) -> None:
    bundle = load_bundle(sealed / "digits" / "1")
    artifact = Artifact(bundle)
    inputs = np.random.default_rng(0).random((300, 1, 8, 8), dtype=np.float32)
    clean = artifact.answer(inputs)
    often = np.bincount(clean.label, minlength=10).argmax()
    sizes = (99, 199)
    grouping = Grouping(tuple(int(label == often) for label in range(10)), sizes)
    low, high = np.quantile(clean.nonconformity, (0.2, 0.9))
    spread = np.random.default_rng(1).normal(size=sum(sizes))
    rows = np.repeat([(often + 1) % 10, often], sizes)
    scores = grouping.sort((spread + np.where(rows == often, high, low)).astype(np.float32), rows)
    target = Target(bundle.score(), clean, inputs, grouping, score_limits(scores, grouping, 0.1))
    passes = grouping.ranks(clean.nonconformity, clean.label, scores) > np.array(grouping.rank_limits(0.1))[clean.label]
    assert 20 < passes.sum() < 280
    for attack in adaptive_attacks(target, artifact, SETTINGS):
        np.testing.assert_array_equal(as_seen(attack, artifact, inputs) <= 0, passes)


@pytest.mark.parametrize(
    ("probes", "low", "surrogates"),
    [
        (("shift",), -np.inf, []),
        (("shift",), 0.0, ["the gate"]),
        (("shift", "noise"), -np.inf, ["the mean over noise (EOT)"]),
        (("shift", "noise"), 0.0, ["the gate", "the mean over noise (EOT)"]),
    ],
)
def test_a_gate_can_be_passed_and_noise_be_guessed(
    probes: tuple[str, ...], low: float, surrogates: list[str], sealed: Path
) -> None:
    bundle = load_bundle(sealed / "digits" / "1")
    artifact = Artifact(bundle)
    inputs = np.random.default_rng(0).random((30, 1, 8, 8), dtype=np.float32)
    asks = make_probes(probes, draw_noise((1, 8, 8), seed=0))
    limits = np.array([low, np.inf], np.float32)
    target = Target(
        GatedCombination(combination(artifact, inputs, ()), combination(artifact, inputs, asks), limits),
        artifact.answer(inputs),
        inputs,
        bundle.manifest.grouping,
        np.zeros(10, np.float32),
    )
    names = [attack.name for attack in adaptive_attacks(target, artifact, SETTINGS)]
    assert len(set(names)) == len(names)
    assert [name.removeprefix("selective PGD on ") for name in names if " on the " in name] == surrogates


@pytest.mark.parametrize("name", ["mahalanobis", "knn"])
def test_scores_of_features_can_be_adapted_to(
    name: str, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, tmp_path: Path
) -> None:
    bundle = sealed_as(Wanted(name), checkpoint, tmp_path / "models")
    score, artifact = bundle.score(), Artifact(bundle)
    trained = load_checkpoint(checkpoint)
    test = clean_data(bundle, trained, checkpoint, None)
    inputs, labels, model = test.inputs, test.labels, build_model(trained)
    check_same_features(score, model, artifact, inputs)
    ignorant, knowing = (
        run_attack(model, inputs, labels, attack, seed=0)
        for attack in (APGD(0.2, "margin", 20), SelectivePGD(0.2, differentiable(score), 20, 1))
    )
    both = ignorant.fooled & knowing.fooled
    assert both.sum() > 20
    before, after = (artifact.answer(each.inputs).nonconformity[both] for each in (ignorant, knowing))
    assert np.median(after) < 0.9 * np.median(before)


def test_features_of_another_layer_are_not_attacked_in_place_of_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    source, _ = checkpoint_source(checkpoint, None)
    head = classifier(source.model)
    first = next(node.output[0] for node in head.graph.node if node.op_type == "Relu")
    bundle = sealed_as(Wanted("mahalanobis", features=first), checkpoint, tmp_path / "models")
    assert run(monkeypatch, bundle.folder, "--checkpoint", checkpoint, *SMALL) == 1
    assert "reads other features" in " ".join(capsys.readouterr().err.split())

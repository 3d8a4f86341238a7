"""The figures of `benchmarks.detection`, on evidence that is made up."""

from dataclasses import replace

import numpy as np
import pytest
from benchmarks.detection.asked import packed, unpacked
from benchmarks.detection.judge import (
    ALPHAS,
    Attempt,
    Material,
    counted,
    detect,
    false_alarms,
    held_out,
    interval,
    plain,
    published,
    share_flagged,
)
from benchmarks.detection.page import findings
from numpy.typing import NDArray

from softrisk_core.probes import draw_noise, make_probes
from softrisk_core.scores.catalogue import find_score
from softrisk_core.scores.evidence import Evidence
from softrisk_export.choose import Attacked, Trial

PROBES = make_probes(("shift", "noise"), draw_noise((1, 6, 6), 0))
FAMILIES = ("single-step", "iterative", "score-based")


def evidence(rows: int, seed: int, strangeness: float = 0.0) -> Evidence:
    """Logits of 4 classes; strange inputs are rougher, and their class gives way under probes."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, 4)) + 4 * np.eye(4)[generator.integers(4, size=rows)]
    images = np.clip(0.5 + (0.02 + 0.05 * strangeness) * generator.normal(size=(rows, 1, 6, 6)), 0, 1)
    probed = logits + 0.1 * generator.normal(size=(2, rows, 4))
    probed[:, np.arange(rows), logits.argmax(axis=1)] -= 2 * strangeness
    return Evidence(logits, images.astype(np.float32), probed)


def attacks(seed: int) -> tuple[Attacked, ...]:
    return tuple(
        Attacked(f"attack {index}", family, evidence(40, seed + index, 1.0)) for index, family in enumerate(FAMILIES)
    )


@pytest.fixture(scope="module")
def material() -> Material:
    trial = Trial(evidence(300, 1), attacks(10), evidence(200, 2), attacks(20), PROBES)
    tested = tuple(Attempt(each.label, each.family, each.evidence, np.arange(40) % 4 > 0) for each in attacks(30))
    return Material(trial, evidence(500, 3), evidence(400, 4), tested)


def test_what_is_kept_comes_back(material: Material) -> None:
    original = replace(material.clean, features=np.arange(800.0).reshape(400, 2))
    back = unpacked("clean", packed("clean", original))
    assert back.features is not None
    np.testing.assert_array_equal(back.features, original.features)
    np.testing.assert_allclose(back.probed, original.probed, rtol=1e-6)
    assert unpacked("clean", packed("clean", material.clean)).features is None


def test_a_score_is_judged_as_by_hand(material: Material) -> None:
    score = find_score("logit_gap:low").load({}, ())
    bare = plain(material)
    (found, *_) = detect(score, "gap", bare, bare.tested)
    values = score.of(bare.tested[0].evidence).astype(np.float32)
    won = bare.tested[0].successful
    clean = score.of(bare.clean).astype(np.float32)
    assert found.successes == won.sum() == 30
    assert found.auroc == pytest.approx((values[won][:, None] > clean).mean())
    assert found.own_auroc == pytest.approx((values[won][:, None] > clean[:40][won]).mean())
    limits = np.sort(score.of(bare.calibration).astype(np.float32))
    flagged = [1 + (limits >= value).sum() <= 0.05 * 501 for value in values[won]]
    assert share_flagged(found, 0.05) == pytest.approx(np.mean(flagged))
    assert np.isnan(share_flagged(found, 0.001))  # 500 rows do not serve it


def test_attacks_of_the_family_that_is_held_out_change_nothing(material: Material) -> None:
    trial = material.trial
    other = replace(
        trial,
        fit_attacks=(replace(trial.fit_attacks[0], evidence=evidence(40, 77, -3.0)), *trial.fit_attacks[1:]),
        judge_attacks=(replace(trial.judge_attacks[0], evidence=evidence(40, 78, -3.0)), *trial.judge_attacks[1:]),
    )
    before = held_out(material, "auto").detections[0]
    after = held_out(replace(material, trial=other), "auto").detections[0]
    assert before.family == FAMILIES[0]
    np.testing.assert_array_equal(before.placements, after.placements)
    np.testing.assert_array_equal(before.flags, after.flags)


def test_families_can_be_held_out_together(material: Material) -> None:
    unlike = tuple(replace(each, evidence=evidence(40, 79, -3.0)) for each in material.trial.fit_attacks[:2])
    other = replace(material.trial, fit_attacks=(*unlike, material.trial.fit_attacks[2]))
    before, after = (
        held_out(replace(material, trial=trial), "always", [FAMILIES[:2]]).detections
        for trial in (material.trial, other)
    )
    assert [each.family for each in before] == list(FAMILIES[:2])
    for first, second in zip(before, after, strict=True):
        np.testing.assert_array_equal(first.placements, second.placements)


def test_probes_find_what_logits_do_not_show(material: Material) -> None:
    ours = held_out(material, "always")
    assert min(each.auroc for each in ours.detections) > 0.9
    assert max(each.auroc for found in published(material).values() for each in found) < 0.8
    assert all(rates[ALPHAS.index(0.05)] is not None for rates in ours.alarms.values())


def test_false_alarms_are_counted_on_the_test_rows(material: Material) -> None:
    score = find_score("logit_gap:low").load({}, ())
    assert false_alarms(score, plain(material))[0] is None
    rate = false_alarms(score, plain(material))[2]
    assert rate is not None
    assert 0.0 <= rate < 0.15


def test_an_interval_holds_its_mean_and_bears_few_successes() -> None:
    def figures(known: int) -> NDArray[np.float64]:
        return np.where(np.arange(50) < known, np.random.default_rng(known).random(50), np.nan)

    low, high = interval([figures(40), figures(50)[:30]])
    mean = np.mean([np.nanmean(figures(40)), np.nanmean(figures(50)[:30])])
    assert low < mean < high
    low, high = interval([figures(1)])
    assert low == high == figures(1)[0]


def test_attacks_with_few_successes_do_not_count(material: Material) -> None:
    score = find_score("logit_gap:low").load({}, ())
    rare = replace(plain(material).tested[0], successful=np.arange(40) < 9)
    assert counted(detect(score, "gap", plain(material), [rare])) == []


def test_a_page_is_made_of_it(material: Material) -> None:
    from benchmarks.detection.measure import judged

    page = findings(judged(material, np.ones(400, np.bool_), 40), "made up", "no model", [0.1])
    assert [table.title for table in page.tables][:2] == ["Probes off, auto and always", "By attack, probes always"]
    assert all(len(row) == len(table.columns) for table in page.tables for row in table.rows)

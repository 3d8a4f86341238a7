"""Which score is chosen and where its gate opens, by attacks that are made up here."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.probes import draw_noise, make_probes
from softrisk_core.score_facts import GatePoint
from softrisk_core.scores.combined import ALWAYS, GatedCombination
from softrisk_core.scores.evidence import Evidence
from softrisk_export import choose as choosing
from softrisk_export.choose import (
    FEWEST,
    KEPT,
    SHARES,
    Attacked,
    Trial,
    choose,
    detected,
    gate_limits,
    gates,
    knee,
    without_probes,
)
from softrisk_export.combine import fit_combination
from softrisk_export.fit import ProbeMode, Wanted, decide

PROBED = make_probes(("shift", "blur"), draw_noise((1, 6, 6), 0))


def inputs(rows: int, seed: int, gap: float = 4, moved: float = 0.1, noise: float = 0) -> Evidence:
    """Evidence with a typical logit gap, and of what probes typically move."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, 5))
    logits[np.arange(rows), generator.integers(5, size=rows)] += gap + generator.gamma(2, 1, rows)
    smooth = np.outer(*[np.linspace(0.2, 0.7, 6)] * 2)[None, None] + generator.normal(0, 0.01, (rows, 1, 6, 6))
    rough = smooth + noise * generator.choice([-1, 1], smooth.shape)
    probed = logits + moved * generator.normal(size=(len(PROBED), rows, 5))
    return Evidence(logits, np.clip(rough, 0, 1).astype(np.float32), probed)


def trial(attacks: dict[tuple[str, str], dict[str, float]], rows: int = 60) -> Trial:
    """Attacks by (label, family), and what is strange about each."""
    made = [
        tuple(
            Attacked(label, family, inputs(rows, seed + 7 * index, **strange))
            for index, ((label, family), strange) in enumerate(attacks.items())
        )
        for seed in (100, 200)
    ]
    return Trial(inputs(400, 1), made[0], inputs(200, 2), made[1], PROBED)


WEAK = {("a", "weak"): {"gap": -3.0}, ("b", "weak"): {"gap": -3.5}}
FRAGILE = {("c", "fragile"): {"moved": 3.0}, ("d", "brittle"): {"moved": 4.0}}


def test_attacks_that_close_the_gap_are_left_to_a_score_that_needs_no_attacks() -> None:
    name, choice = choose(trial({**WEAK}))
    assert choice.families == ("weak",)
    # One family says nothing about others, so that nothing is fitted to it.
    assert not {"combined", "probed"} & {candidate.score for candidate in choice.candidates}
    assert name == choice.candidates[0].score


def test_the_best_worst_case_wins_and_not_the_best_mean() -> None:
    feeble = {("e", "feeble"): {"gap": -3.2}}
    name, choice = choose(trial({**WEAK, **feeble, **FRAGILE}))
    found = {candidate.score: candidate for candidate in choice.candidates}
    assert name == "probed"
    assert found["logit_gap:low"].worst < 0.3 < found["probed"].worst
    assert found["logit_gap:low"].attack in ("c", "d")
    order = [(-candidate.worst, -candidate.mean) for candidate in choice.candidates]
    assert order == sorted(order)
    assert choice.families == ("weak", "feeble", "fragile", "brittle")


def test_without_probes_none_is_a_candidate() -> None:
    _, choice = choose(trial({**WEAK, **FRAGILE}).plain())
    names = {candidate.score for candidate in choice.candidates}
    assert "combined" in names
    assert "probed" not in names


def test_no_family_judges_a_score_that_was_fitted_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trial({**WEAK, **FRAGILE})
    family_of = {id(each.evidence.logits): each.family for each in (*made.fit_attacks, *made.judge_attacks)}
    fitted: dict[int, set[str]] = {}
    judged: list[tuple[set[str], str]] = []
    fit, judge = fit_combination, choosing.detected

    def remember(clean: Evidence, attacked: list[Evidence], probes: tuple[object, ...]) -> object:
        found = fit(clean, attacked, probes)  # type: ignore[arg-type]
        fitted[id(found.edges)] = {family_of[id(each.logits)] for each in attacked}
        return found

    def watch(score: object, clean: Evidence, attacks: list[Attacked]) -> object:
        parts = (score.gate, score.full) if isinstance(score, GatedCombination) else (score,)
        used = set().union(*(fitted.get(id(getattr(part, "edges", None)), set()) for part in parts))
        judged.extend((used, each.family) for each in attacks)
        return judge(score, clean, attacks)  # type: ignore[arg-type]

    monkeypatch.setattr(choosing, "fit_combination", remember)
    monkeypatch.setattr(choosing, "detected", watch)
    choose(made)
    gates(made)
    assert any(used for used, _ in judged)
    assert all(family not in used for used, family in judged)


def test_attacks_with_few_successes_neither_fit_nor_judge() -> None:
    made = trial({**WEAK, **FRAGILE})
    few = Attacked("e", "rare", made.fit_attacks[0].evidence.at(np.arange(FEWEST - 1)))
    more = replace(made, fit_attacks=(*made.fit_attacks, few), judge_attacks=(*made.judge_attacks, few))
    assert more.families == made.families
    assert choose(more) == choose(made)


@pytest.mark.parametrize("wanted", [Wanted("auto"), Wanted("combined"), Wanted("combined", "always")])
def test_too_few_successes_are_an_error_that_says_what_to_do(wanted: Wanted) -> None:
    with pytest.raises(CalibrationError, match="larger radii with --epsilon, or name a score"):
        decide(wanted, trial({**WEAK, **FRAGILE}, rows=FEWEST - 1))


def test_a_gate_cannot_be_chosen_without_attacks_to_judge_by() -> None:
    made = trial({**WEAK, **FRAGILE})
    nothing = replace(made, judge_attacks=trial({**WEAK, **FRAGILE}, rows=FEWEST - 1).judge_attacks)
    with pytest.raises(CalibrationError, match="that judge"):
        gates(nothing)


def test_detection_is_measured_at_the_rate_of_false_alarms() -> None:
    made = trial({**WEAK})
    gate, _ = made.combinations()
    clean = without_probes(made.judge)
    itself = Attacked("clean", "none", clean)
    assert detected(gate, clean, [itself])["clean"] == pytest.approx(0.05, abs=1 / 200)


def test_the_gate_opens_for_the_strangest_share_of_clean_inputs() -> None:
    made = trial({**WEAK, **FRAGILE})
    gate, full = made.combinations()
    scores = gate.of(without_probes(made.judge))
    for share in SHARES[:-1]:
        gated = GatedCombination(gate, full, gate_limits(gate, made.judge, share))
        assert gated.undecided(scores).mean() == pytest.approx(share, abs=0.015)
        assert not gated.undecided(scores[scores < np.quantile(scores, 1 - share - 0.02)]).any()
    np.testing.assert_array_equal(gate_limits(gate, made.judge, 1.0), ALWAYS)


def test_gates_cost_more_the_wider_they_are() -> None:
    curve = gates(trial({**WEAK, **FRAGILE}))
    assert [point.passes for point in curve] == pytest.approx([1 + 2 * share for share in SHARES])
    assert all(0 <= point.worst <= point.mean <= 1 for point in curve)


def test_a_score_with_a_gate_is_compared_as_it_is_behind_its_gate() -> None:
    made = trial({**WEAK, ("e", "feeble"): {"gap": -3.2}, **FRAGILE})
    score, facts = decide(Wanted("auto", "auto"), made)
    assert isinstance(score, GatedCombination)
    assert facts.probes is not None
    assert facts.choice is not None
    best = facts.choice.candidates[0]
    curve = facts.probes.curve
    assert best.score == "probed"
    assert (best.worst, best.mean) == (curve[knee(curve)].worst, curve[knee(curve)].mean)
    _, always = decide(Wanted("auto", "always"), made)
    assert always.choice is not None
    assert always.choice.candidates[0].mean == curve[-1].mean
    # Nothing is chosen where everything is probed.
    assert always.probes is not None
    assert always.probes.curve == ()


def test_a_gate_for_one_family_is_judged_by_that_family() -> None:
    curve = gates(trial({**FRAGILE}).leaving_out("brittle"))
    assert curve[-1].mean > 0.9


def test_each_combination_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trial({**WEAK, **FRAGILE})
    fitted: list[tuple[int, ...]] = []

    def count(clean: Evidence, attacked: list[Evidence], probes: tuple[object, ...]) -> object:
        fitted.append((len(probes), *map(id, attacked)))
        return fit_combination(clean, attacked, probes)  # type: ignore[arg-type]

    monkeypatch.setattr(choosing, "fit_combination", count)
    choose(made)
    gates(made)
    # Without and with probes, without each of three families.
    assert len(fitted) == 2 * 3


def curve_of(means: list[float], worsts: list[float] | None = None) -> list[GatePoint]:
    worst = means if worsts is None else worsts
    shares = np.linspace(0.05, 1, len(means))
    return [
        GatePoint(passes=1 + 4 * share, worst=low, mean=mean)
        for share, low, mean in zip(shares, worst, means, strict=True)
    ]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        # Nearly all at the second gate, little beyond.
        (curve_of([0.7, 0.78, 0.79, 0.8, 0.8]), 1),
        # Where none brings more, the first is the cheapest.
        (curve_of([0.5, 0.5, 0.5, 0.5, 0.5]), 0),
        # The mean is there early, the worst attack only at the end.
        (curve_of([0.8, 0.8, 0.8, 0.8, 0.8], [0.0, 0.0, 0.1, 0.2, 0.6]), 4),
        # A gate that keeps too little does not count, however cheap.
        (curve_of([0.3, 0.5, 0.6, 0.9, 1.0]), 3),
        (curve_of([0.9]), 0),
    ],
)
def test_the_knee(curve: list[GatePoint], expected: int) -> None:
    assert knee(curve) == expected


def test_a_gate_never_keeps_less_than_it_must() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        worst: NDArray[np.float64] = np.sort(generator.random(6)) if generator.random() < 0.7 else generator.random(6)
        mean = worst + (1 - worst) * generator.random(6)
        curve = curve_of(mean.tolist(), worst.tolist())
        point = curve[knee(curve)]
        assert point.worst >= KEPT * curve[-1].worst
        assert point.mean >= KEPT * curve[-1].mean


def test_the_decision_for_probes_is_gated_or_always() -> None:
    made = trial({**WEAK, **FRAGILE})
    modes: tuple[ProbeMode, ...] = ("auto", "always")
    for mode in modes:
        score, facts = decide(Wanted("combined", mode), made)
        assert isinstance(score, GatedCombination)
        assert facts.probes is not None
        assert (facts.score, facts.probes.mode, facts.probes.names) == ("probed", mode, ("shift", "blur"))
        assert facts.families == ("weak", "fragile", "brittle")
        assert np.isinf(score.limits).all() or mode == "auto"
        if mode == "always":
            assert facts.probes.passes == 3

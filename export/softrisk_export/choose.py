"""Which score, and where its gate opens: by attacks of families that it was not fitted to.

A rule that was fitted to some attacks can fall below chance on others. So every attack is judged by scores fitted
without any of its family, on rows that fitted nothing, and a score is worth as much as it detects of the attack that it
detects least of.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.probes import Probe
from softrisk_core.score_facts import Candidate, Choice, GatePoint
from softrisk_core.scores.catalogue import SCORES, find_score
from softrisk_core.scores.combined import ALWAYS, Combination, GatedCombination
from softrisk_core.scores.evidence import Evidence
from softrisk_core.scores.score import Score
from softrisk_export.combine import fit_combination

FALSE_ALARMS: Final = 0.05
"""At which detection is judged: few of the rows that judge are left beyond a smaller rate."""

FEWEST: Final = 10
"""Inputs that an attack must have fooled the classifier with, to fit or to judge."""

FEWEST_JUDGES: Final = 100
"""Clean rows that a score or a gate is chosen by: of fewer, less than five lie beyond `FALSE_ALARMS`."""

SHARES: Final = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Of clean traffic: what a gate may leave undecided."""

KEPT: Final = 0.85
"""Share of the detection of probing always that a gate must keep."""


@dataclass(frozen=True)
class Attacked:
    """The successes of one attack.

    Attributes:
        label: Of the attack.
        family: Of the attack.
        evidence: About the inputs that it fooled the classifier with.
    """

    label: str
    family: str
    evidence: Evidence

    def plain(self) -> "Attacked":
        """The same without probes."""
        return Attacked(self.label, self.family, without_probes(self.evidence))


_Combinations = tuple[Combination, Combination]


@dataclass(frozen=True, eq=False)
class Trial:
    """Clean and attacked inputs, some to fit scores to and others to judge them by.

    Attributes:
        fit: About clean inputs.
        fit_attacks: Attacks on some of them.
        judge: About other clean inputs.
        judge_attacks: Attacks on some of these.
        probes: Of all the evidence.
        features: Name of the tensor of the features in it; None if it has none.
    """

    fit: Evidence
    fit_attacks: tuple[Attacked, ...]
    judge: Evidence
    judge_attacks: tuple[Attacked, ...]
    probes: tuple[Probe, ...]
    features: str | None = None
    _fitted: dict[str | None, _Combinations] = field(default_factory=dict, init=False, repr=False)

    @property
    def families(self) -> tuple[str, ...]:
        """Of the attacks to fit to, in their order."""
        return tuple(dict.fromkeys(each.family for each in self.fit_attacks if len(each.evidence.logits) >= FEWEST))

    def plain(self) -> "Trial":
        """The same without probes."""
        fit, judge = (tuple(each.plain() for each in attacks) for attacks in (self.fit_attacks, self.judge_attacks))
        return Trial(without_probes(self.fit), fit, without_probes(self.judge), judge, (), self.features)

    def leaving_out(self, family: str) -> "Trial":
        """The same as if one family were not known."""
        fit, judge = (
            tuple(each for each in attacks if each.family != family)
            for attacks in (self.fit_attacks, self.judge_attacks)
        )
        return replace(self, fit_attacks=fit, judge_attacks=judge)

    def combinations(self, without: str | None = None) -> _Combinations:
        """The combination without probes, and that with them, fitted to all families but one, and once only.

        Raises:
            CalibrationError: If no attack is left to fit to.
        """
        if without not in self._fitted:
            self._fitted[without] = self._fit_combinations(without)
        return self._fitted[without]

    def _fit_combinations(self, without: str | None) -> _Combinations:
        used = [each for each in self.fit_attacks if each.family != without and len(each.evidence.logits) >= FEWEST]
        if not used:
            raise CalibrationError(
                f"no attack changed the class of {FEWEST} or more of the inputs, so that there is nothing to fit a "
                "score to: give larger radii with --epsilon, or name a score that needs no attacks"
            )
        plain = [without_probes(each.evidence) for each in used]
        gate = fit_combination(without_probes(self.fit), plain, ())
        if not self.probes:
            return gate, gate
        return gate, fit_combination(self.fit, [each.evidence for each in used], self.probes)


def without_probes(evidence: Evidence) -> Evidence:
    """The same evidence before anything was probed."""
    return replace(evidence, probed=evidence.probed[:0])


def detected(
    score: Score, clean: Evidence, attacks: Iterable[Attacked], alpha: float = FALSE_ALARMS
) -> dict[str, float]:
    """For each attack the share of its successes beyond a limit that clean inputs exceed at rate α."""
    limit = np.quantile(score.of(clean), 1 - alpha)
    return {each.label: float((score.of(each.evidence) > limit).mean()) for each in attacks}


def choose(trial: Trial, share: float = 1.0) -> tuple[str, Choice]:
    """The score with the best worst case, and among what it was chosen.

    Args:
        trial: With attacks of several families, or of one: then nothing that needs attacks is a candidate.
        share: Of clean inputs, in (0, 1]: what the gate of the candidate with probes leaves undecided.

    Raises:
        CalibrationError: If no attack succeeded often enough to judge.
    """
    attacks = _judging(trial)
    found = []
    for name, judged in _candidates(trial, share):
        shares: dict[str, float] = {}
        for family in dict.fromkeys(each.family for each in attacks):
            members = [each for each in attacks if each.family == family]
            shares |= judged(family, members)
        worst = min(shares, key=lambda label: shares[label])
        found.append(
            Candidate(score=name, worst=shares[worst], attack=worst, mean=float(np.mean(list(shares.values()))))
        )
    best = max(found, key=lambda candidate: (candidate.worst, candidate.mean))
    families = tuple(dict.fromkeys(each.family for each in attacks))
    return best.score, Choice(
        rows=len(trial.judge.logits),
        families=families,
        candidates=tuple(sorted(found, key=lambda c: (-c.worst, -c.mean))),
    )


def _judging(trial: Trial) -> list[Attacked]:
    attacks = [each for each in trial.judge_attacks if len(each.evidence.logits) >= FEWEST]
    if not attacks:
        raise CalibrationError(
            f"no attack changed the class of {FEWEST} or more of the inputs that judge, so that there is nothing to "
            "choose a score or a gate by: give larger radii with --epsilon, or name a score that needs no attacks"
        )
    return attacks


_Judged = Callable[[str, Sequence[Attacked]], Mapping[str, float]]
"""From a family and its attacks to what is detected of each by a score that was fitted without it."""


def _candidates(trial: Trial, share: float) -> Iterable[tuple[str, _Judged]]:
    plain = without_probes(trial.judge)
    for name in SCORES:
        recipe = find_score(name)
        if recipe.needs == "attacks" or (recipe.needs == "features" and trial.fit.features is None):
            continue
        try:
            score = recipe.made_from(trial.fit)
        except CalibrationError:
            continue  # a diagnostic that does not vary, or too few rows
        if np.ptp(score.of(plain)) > 0:
            yield name, lambda family, members, score=score: detected(score, plain, members)  # type: ignore[misc]
    if len(trial.families) < 2:
        return
    yield (
        "combined",
        lambda family, members: detected(trial.combinations(family)[0], plain, [each.plain() for each in members]),
    )
    if trial.probes:
        yield "probed", lambda family, members: detected(_gated(trial, family, share), trial.judge, members)


def _gated(trial: Trial, without: str | None, share: float) -> GatedCombination:
    gate, full = trial.combinations(without)
    return GatedCombination(gate, full, gate_limits(gate, trial.judge, share))


def gates(trial: Trial) -> tuple[GatePoint, ...]:
    """What each gate costs and brings: (forward passes, detection) for each of `SHARES`, by families left out.

    A family that is alone cannot be left out. Then the curve says what each gate keeps of the detection of these very
    attacks, and nothing about others.

    Raises:
        CalibrationError: If no attack succeeded often enough to fit to, or to judge by.
    """
    attacks = _judging(trial)
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    for family in dict.fromkeys(each.family for each in attacks):
        without = family if len(trial.families) > 1 else None
        members = [each for each in attacks if each.family == family]
        for share in SHARES:
            found[share] += detected(_gated(trial, without, share), trial.judge, members).values()
    return tuple(
        GatePoint(passes=1 + share * len(trial.probes), worst=min(shares), mean=float(np.mean(shares)))
        for share, shares in found.items()
    )


def knee(curve: Sequence[GatePoint]) -> int:
    """Position of the gate beyond which further passes bring least: the point furthest above the straight line.

    Gates that keep less than `KEPT` of the last one's detection, of the worst attack or on average, do not count.

    Args:
        curve: By rising passes, the last of which probes always.
    """
    always = curve[-1]
    good = [
        index
        for index, point in enumerate(curve)
        if point.worst >= KEPT * always.worst and point.mean >= KEPT * always.mean
    ]
    first = curve[good[0]]

    def above(index: int) -> float:
        passes = (curve[index].passes - first.passes) / max(always.passes - first.passes, 1e-9)
        gain = (curve[index].mean - first.mean) / max(always.mean - first.mean, 1e-9)
        return gain - passes

    return max(good, key=above)


def gate_limits(gate: Combination, clean: Evidence, share: float) -> NDArray[np.float32]:
    """Scores of the gate between which inputs are probed: the strangest share of clean ones, up to the strangest.

    The limits lie between scores, not on them, so that an input like one of these does not change sides by rounding.

    Args:
        gate: The combination without probes.
        clean: Clean inputs that neither fitted it nor calibrate.
        share: Of these, in (0, 1].

    Returns:
        Shape (2,).
    """
    if share == 1:
        return ALWAYS
    scores = np.sort(gate.of(without_probes(clean)))
    first = min(max(1, round((1 - share) * scores.size)), scores.size - 1)
    beyond = scores[-1] + 0.01 * (scores[-1] - scores[0])
    return np.array([(scores[first - 1] + scores[first]) / 2, beyond], np.float32)

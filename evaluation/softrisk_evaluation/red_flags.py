"""From facts to checks: what an evaluation found, what a sound one keeps to, and what to do where it does not.

A check that fails is a red flag: a sign that the evaluation is too kind, or that a score misleads. After the checks of
AutoAttack (Croce & Hein, ICML 2020), Carlini et al. (arXiv 1902.06705) and Pintor et al. (arXiv 2106.09947). None
failing is no proof of a good evaluation.

One indicator of Pintor et al. has no check: silent success, an adversarial image that is met on the way and not
returned. Our own attacks return it; the toolbox's PGD returns its last step, and a restart that ends better hides that
an earlier step was enough. What it misses is found by an attack of more effort.
"""

import math
from collections.abc import Sequence
from itertools import groupby, pairwise
from typing import Final

from softrisk_evaluation.report import (
    Adaptive,
    AttackResult,
    Check,
    FalseAlarms,
    Gap,
    Proportion,
    Soundness,
    WithRejection,
    WorstCase,
)

FEW: Final = 30
"""Successful attacks below which a true-positive rate says little: its 95 % interval can be 0.38 wide."""

GAP: Final = 0.002
"""Share of images that an attack which should be weaker may fool alone: AutoAttack's 0.2 percentage points
(`checks.py`, `check_square_sr`). One image is tolerated however few there are: climbing can end on the wrong hill."""

MORE_EFFORT: Final = 0.02
"""Share of images that an attack of more effort may fool alone: robust accuracy is known no better than that, and its
interval for 1,000 images is wider. One image is tolerated however few there are."""

UNBOUNDED: Final = 0.01
"""Share of images that an attack without a bound may miss; one is tolerated however few there are."""

UNSTABLE_LOGITS: Final = 1e-4
"""Distance between logits of length 1 that rounding does not reach: AutoAttack's (`checks.py`,
`check_randomized`)."""

UNSTABLE_LOSS: Final = 0.5
"""Mean relative change of the margin under noise of ±ε/2. The code of Pintor et al. has no limit, this one is ours:
small classifiers of digits without masked gradients changed by 2 % to 21 % at ε = 0.05 to 0.3."""

LAST_GAIN: Final = 0.05
"""Share of the gain that may come in the last ten steps (Pintor et al., `incomplete_optimization_indicator`)."""

_MASKED: Final = (
    "gradients mislead or are masked, and the robust accuracy is too high: attack another objective (the margin), "
    "raise --steps and --restarts, replace what is not differentiable by something that is (BPDA), or believe the "
    "attack without gradients and give it more queries"
)


def checks(
    attacks: Sequence[AttackResult], soundness: Sequence[Soundness], false_alarms: Sequence[FalseAlarms]
) -> tuple[Check, ...]:
    """All checks of an evaluation.

    Args:
        attacks: All on the same rows.
        soundness: Of each radius; empty if not measured.
        false_alarms: On clean inputs.
    """
    everything = (
        *_within_the_law(false_alarms),
        *_iterative_stronger(attacks),
        *_accuracy_falls(attacks),
        *(check for facts in soundness for check in soundness_checks(facts)),
        *_score_leads(attacks),
        *_enough_successes(attacks),
    )
    # Some facts of soundness do not depend on the radius, and are found again at each.
    return tuple(dict.fromkeys(everything))


def soundness_flags(facts: Soundness) -> tuple[Check, ...]:
    """The checks of the attacks of one radius that failed."""
    return tuple(check for check in soundness_checks(facts) if check.red_flag)


def soundness_checks(facts: Soundness) -> tuple[Check, ...]:
    """The checks of the attacks of one radius."""
    return (
        _all_gradients("input gradients of zero", facts.zero_gradients, "the model is over-confident in float32 or"),
        _all_gradients("input gradients that are not finite", facts.non_finite_gradients, "the logits overflow or"),
        Check(
            sign="logits of two passes",
            found=f"differ by {facts.repeat_difference:.1e} of their length",
            limit=f"≤ {UNSTABLE_LOGITS:.0e}",
            red_flag=facts.repeat_difference > UNSTABLE_LOGITS,
            advice="the model is random: an attack must average gradients over its randomness (EoT), and a prediction "
            "is not one; or fix its random state",
        ),
        Check(
            sign="logits in a batch and alone",
            found=f"differ by {facts.batch_difference:.1e} of their length",
            limit=f"≤ {UNSTABLE_LOGITS:.0e}",
            red_flag=facts.batch_difference > UNSTABLE_LOGITS,
            advice="the answer about an image depends on what else is in its batch (statistics of the batch?), in the "
            "service too: use running statistics",
        ),
        Check(
            sign=f"margin under noise of ±{facts.epsilon / 2:.4g}",
            found=f"changes by {facts.loss_variability:.1%} on average",
            limit=f"≤ {UNSTABLE_LOSS:.0%}",
            red_flag=facts.loss_variability > UNSTABLE_LOSS,
            advice="the loss is too rough for a gradient to say much: average gradients over noise, and rather believe "
            "attacks without gradients",
        ),
        *([_unbounded(facts.unbounded)] if facts.unbounded else []),
        *(_gap(gap, "many steps", GAP, "one step beats many: " + _MASKED) for gap in facts.single_step),
        *(_gap(gap, "every attack by gradients", GAP, _MASKED) for gap in facts.gradient_free),
        *(
            _gap(
                gap,
                "attacks of less effort",
                MORE_EFFORT,
                "the attacks have not converged and the robust accuracy is too high: raise --steps and --restarts "
                "until it stays",
            )
            for gap in facts.stronger
        ),
        *_converged(facts),
    )


def implied_classifiers(adaptive: Adaptive | None, worst_case: Sequence[WorstCase]) -> tuple[Check, ...]:
    """What robust accuracy with rejection would mean for classifiers without rejection.

    A classifier that is right or refuses under every attack of radius ε implies another one, which refuses nothing and
    is as robust at ε/2, though perhaps not one that can be computed (Tramèr, "Detecting adversarial examples is
    (nearly) as hard as classifying them", ICML 2022). So a flag that is worth more than half the radius claims a better
    classifier than the one it guards. That is no contradiction, but more often an attack that was too weak.

    Args:
        adaptive: With robust accuracy under rejection; None if it was not measured.
        worst_case: Robust accuracy without, of each radius.
    """
    if adaptive is None:
        return ()
    return tuple(_implied_classifier(row, worst_case) for row in adaptive.worst_case)


def _implied_classifier(row: WithRejection, worst_case: Sequence[WorstCase]) -> Check:
    half = row.epsilon / 2
    own = next((worst.robust for worst in worst_case if math.isclose(worst.epsilon, half)), None)
    return Check(
        sign=f"classifier implied by the flag at ε = {row.epsilon:.4g}, α = {row.alpha:g}",
        found=f"{row.robust.rate:.1%} robust accuracy at ε = {half:.4g}",
        limit=f"none known: give --epsilon {half:.4g}, too"
        if own is None
        else f"≤ {own.rate:.1%}, what this one has there, within the interval",
        red_flag=own is not None and row.robust.interval.low > own.rate,
        advice="a flag that is worth more than half the radius implies a classifier more robust than this one; rather "
        "believe that the attacks on the flag are too weak: raise --steps and --restarts, and attack it by other means",
    )


def _within_the_law(false_alarms: Sequence[FalseAlarms]) -> list[Check]:
    # Both guarantees of a level read the same ranks, so one of them speaks for both.
    return [
        Check(
            sign=f"false alarms at α = {row.alpha:g}",
            found=f"{row.realised.rate:.1%} of the clean images are flagged",
            limit=f"the law allows {row.law.low:.1%} to {row.law.high:.1%}",
            red_flag=not row.law.low <= row.realised.rate <= row.law.high,
            advice="one time in twenty this is chance; otherwise the test data are not like the calibration data "
            "(recalibrate with softrisk calibrate on data like your traffic), the calibration rows were not held out, "
            "or many scores tie",
        )
        for row in false_alarms
        if row.guarantee == "marginal"
    ]


def _iterative_stronger(attacks: Sequence[AttackResult]) -> list[Check]:
    return [
        Check(
            sign=f"{iterative.label} against one step",
            found=f"leaves {iterative.robust.rate:.2%} right, {single.label} {single.robust.rate:.2%}",
            limit="no more than one step",
            red_flag=iterative.robust.successes > single.robust.successes,
            advice="one step beats many: gradients are masked or the attack is too weak: raise --steps and --restarts, "
            "and do not trust the robust accuracy",
        )
        for single in attacks
        for iterative in attacks
        if (single.family, iterative.family) == ("single-step", "iterative") and single.epsilon == iterative.epsilon
    ]


def _accuracy_falls(attacks: Sequence[AttackResult]) -> list[Check]:
    by_name = sorted(attacks, key=lambda attack: (attack.name, attack.epsilon))
    return [
        Check(
            sign=f"{larger.label} against {smaller.label}",
            found=f"leaves {larger.robust.rate:.2%} right, the smaller ball {smaller.robust.rate:.2%}",
            limit="no more than the smaller ball",
            red_flag=larger.robust.successes > smaller.robust.successes,
            advice="a larger ball holds the smaller one, so the attack does not converge: raise --steps and --restarts",
        )
        for _, of_one_name in groupby(by_name, key=lambda attack: attack.name)
        for smaller, larger in pairwise(of_one_name)
    ]


def _score_leads(attacks: Sequence[AttackResult]) -> list[Check]:
    return [
        Check(
            sign=f"risk score under {attack.label}",
            found=f"AUROC {auroc:.3f} against clean images",
            limit="≥ 0.5",
            red_flag=auroc < 0.5,
            advice="the attack makes the model more certain than clean images do; the flag does not protect against "
            "it: calibrate on another score",
        )
        for attack in attacks
        if (auroc := attack.on_successful[0].auroc) is not None
    ]


def _enough_successes(attacks: Sequence[AttackResult]) -> list[Check]:
    return [
        Check(
            sign=f"successes of {attack.label}",
            found=f"{attack.successful} successful attacks",
            limit=f"≥ {FEW}",
            red_flag=attack.successful < FEW,
            advice="detection figures on them say little: attack more images (--limit) or raise --epsilon",
        )
        for attack in attacks
    ]


def _all_gradients(sign: str, share: Proportion, cause: str) -> Check:
    return Check(
        sign=sign,
        found=_images(share),
        limit="none",
        red_flag=share.successes > 0,
        advice="attacks by gradient cannot move from there, so the robust accuracy is an upper bound: "
        f"{cause} its gradients are masked",
    )


def _unbounded(share: Proportion) -> Check:
    missed, most = share.trials - share.successes, _tolerated(UNBOUNDED, share)
    return Check(
        sign="an attack without a bound",
        found=f"misses {missed} of {share.trials} images",
        limit=f"≤ {most}",
        red_flag=missed > most,
        advice="nothing resists an attack that may draw any image, so the attack is at fault: " + _MASKED,
    )


def _gap(gap: Gap, others: str, tolerated: float, advice: str) -> Check:
    most = _tolerated(tolerated, gap.only)
    return Check(
        sign=f"{gap.attack} against {others}",
        found=f"alone fools {_images(gap.only)}",
        limit=f"≤ {most}",
        red_flag=gap.only.successes > most,
        advice=advice,
    )


def _converged(facts: Soundness) -> list[Check]:
    if facts.convergence is None:
        return []
    last = facts.convergence
    return [
        Check(
            sign=f"last ten steps of {last.attack}",
            found=f"{last.last_gain:.1%} of the gain on the {last.standing} images left standing",
            limit=f"≤ {LAST_GAIN:.0%}",
            red_flag=last.last_gain > LAST_GAIN,
            advice="the loss still rises when the attack stops, so the robust accuracy is too high: raise --steps",
        )
    ]


def _tolerated(rate: float, share: Proportion) -> int:
    return max(1, math.floor(rate * share.trials))


def _images(share: Proportion) -> str:
    return f"{share.successes} of {share.trials} images"

"""Figures as a page."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from benchmarks.detection.judge import ALPHAS, FEWEST, GRADIENT, MODES, Detection, counted, interval, share_flagged
from benchmarks.detection.measure import Figures
from matplotlib.figure import Figure

from softrisk_evaluation.experiments.findings import Findings, Picture
from softrisk_evaluation.tables import Section

KEPT: Final = ("attack", "family", "score", "successes", "auroc", "own_auroc", "detected")


def findings(figures: Figures, data: str, model: str, epsilons: Sequence[float]) -> Findings:
    """The page.

    Args:
        figures: Of one checkpoint.
        data: Name of the data.
        model: The network and its loss, for people.
        epsilons: ℓ∞ radii of fit and test.
    """
    radii = ", ".join(f"{epsilon:.4g}" for epsilon in epsilons)
    return Findings(
        title=f"What the score detects: {data}, {model}",
        question="How many successful attacks does the flag catch, of a family that its score was neither fitted to "
        "nor chosen by, and what do further forward passes add?",
        method=(
            f"{figures.accuracy:.2%} right on {figures.clean:,} clean test images, of which {figures.images:,} are "
            f"attacked, ℓ∞ radii {radii}. Every attack takes all its steps, except Square and those of minimum norm, "
            "which end where they succeed. Successful: right on the clean image and wrong on the attacked one.",
            f"Limits are fixed on {figures.calibration:,} clean calibration images, one for each score and α, before "
            "it meets an attack. AUROC is against all clean test images, and against the successes' originals.",
            "Held out: for the attacks of each family, score and gate are fitted and chosen anew, as if that family "
            f"did not exist. Families known at calibration: {', '.join(figures.families)}. They are relatives: without "
            "the iterative ones, targeted steps by signed gradients remain, at the same radii.",
            "No gradients known: all attacks that follow a gradient, by a score that was fitted to "
            f"{' and '.join(family for family in figures.families if family not in GRADIENT)} attacks alone.",
            "Shipped: what an export with `--score auto` seals, fitted to attacks of every family on other images, "
            "with other steps (FGSM has none to change) and seeds.",
            "Intervals: 95 %, bootstrap over attacked images; clean images, calibration and fit stay as they are. One "
            "training; nothing here is adaptive (see the evaluation).",
            f"Means and worst cases are over attacks with {FEWEST} or more successes.",
        ),
        tables=[
            _summary(figures),
            *(_by_attack(figures, mode) for mode in reversed(MODES)),
            *_published(figures),
            _cost(figures),
        ],
        pictures=[_picture(figures)],
        facts=_facts(figures),
    )


def mean_detected(detections: Iterable[Detection], alpha: float) -> float:
    """Over attacks with enough successes."""
    return float(np.mean([share_flagged(each, alpha) for each in counted(detections)]))


def _summary(figures: Figures) -> Section:
    rows = []
    for mode in MODES:
        held, blind = figures.held_out[mode], figures.gradient_free[mode]
        for kind, found, alarms in (
            ("held out", held.detections, list(held.alarms.values())),
            ("no gradients known", blind.detections, list(blind.alarms.values())),
            ("shipped", figures.shipped[mode], [figures.alarms[mode]]),
        ):
            used = counted(found)
            if not used:
                continue
            low, high = interval([each.placements for each in used])
            rows.append(
                (
                    f"{mode}, {kind}",
                    f"{figures.passes[mode]:.2f}",
                    f"{min(each.auroc for each in used):.3f}",
                    f"{np.mean([each.auroc for each in used]):.3f} ({low:.3f} … {high:.3f})",
                    *(
                        text
                        for alpha in (0.05, 0.01)
                        for text in (
                            f"{min(share_flagged(each, alpha) for each in used):.2f}",
                            f"{mean_detected(used, alpha):.2f}",
                        )
                    ),
                    f"{mean_detected(used, 0.001):.2f}",
                    _rates(alarms),
                )
            )
    return Section(
        title="Probes off, auto and always",
        columns=(
            "probes",
            "passes",
            "AUROC, worst",
            "AUROC, mean",
            "TPR at 5 %, worst",
            "mean",
            "TPR at 1 %, worst",
            "mean",
            "TPR at 0.1 %, mean",
            "false alarms at 5 / 1 / 0.1 %",
        ),
        rows=tuple(rows),
        note="Scores shipped: "
        + "; ".join(f"{mode}: {name}" for mode, name in figures.names.items())
        + ". Passes and false alarms: on clean test images; held out, the largest rate over families.",
    )


def _rates(alarms: Sequence[Sequence[float | None]]) -> str:
    """The largest over scores, by falling α."""
    return " / ".join(
        "–" if any(rate is None for rate in rates) else f"{max(rate for rate in rates if rate is not None):.2%}"
        for rates in reversed(list(zip(*alarms, strict=True)))
    )


def _by_attack(figures: Figures, mode: str) -> Section:
    rows = []
    for held, shipped in zip(
        figures.held_out[mode].detections,
        figures.shipped[mode],
        strict=True,
    ):
        if held.successes < FEWEST:
            rows.append((held.attack, f"{figures.robust[held.attack]:.1%}", str(held.successes), *["–"] * 7))
            continue
        low, high = interval([held.placements])
        rows.append(
            (
                held.attack,
                f"{figures.robust[held.attack]:.1%}",
                f"{held.successes:,}",
                f"{held.auroc:.3f} ({low:.3f} … {high:.3f})",
                f"{held.own_auroc:.3f}",
                *(f"{share_flagged(held, alpha):.2f}" for alpha in reversed(ALPHAS)),
                f"{shipped.auroc:.3f}",
                f"{share_flagged(shipped, 0.05):.2f}",
            )
        )
    return Section(
        title=f"By attack, probes {mode}",
        columns=(
            "attack",
            "still right",
            "successes",
            "AUROC, held out",
            "own originals",
            "TPR at 5 %",
            "at 1 %",
            "at 0.1 %",
            "shipped: AUROC",
            "TPR at 5 %",
        ),
        rows=tuple(rows),
    )


def _published(figures: Figures) -> list[Section]:
    ours = {f"ours, {mode}": figures.held_out[mode].detections for mode in reversed(MODES)}
    scores = {**ours, **figures.published}
    best = {each.attack: each for each in figures.held_out["always"].detections}
    better = [
        f"{each.attack}: {name} {each.auroc:.3f} against {best[each.attack].auroc:.3f}"
        for name, found in figures.published.items()
        for each in counted(found)
        if each.auroc > best[each.attack].auroc
    ]
    overview = Section(
        title="Beside the scores of the literature",
        columns=("score", "AUROC, worst", "mean", "TPR at 5 %, worst", "mean", "TPR at 1 %, mean"),
        rows=tuple(
            (
                name,
                f"{min(each.auroc for each in used):.3f}",
                f"{np.mean([each.auroc for each in used]):.3f}",
                f"{min(share_flagged(each, 0.05) for each in used):.2f}",
                f"{mean_detected(used, 0.05):.2f}",
                f"{mean_detected(used, 0.01):.2f}",
            )
            for name, found in scores.items()
            if (used := counted(found))
        ),
        note="All by the same limits and on the same images. Ours are held out. Where a published score has the larger "
        f"AUROC: {'; '.join(better) or 'nowhere'}.",
    )
    attacks = list(figures.robust)
    table = {name: {each.attack: each for each in found} for name, found in scores.items()}
    detail = Section(
        title="AUROC by attack and score",
        columns=("attack", *scores),
        rows=tuple(
            (
                attack,
                *(f"{row[attack].auroc:.3f}" if row[attack].successes else "–" for row in table.values()),
            )
            for attack in attacks
        ),
    )
    return [overview, detail]


def _cost(figures: Figures) -> Section:
    always = figures.curve[-1]
    return Section(
        title="What forward passes buy: TPR at 5 %, held out",
        columns=("passes for a clean image", "worst attack", "mean", "of always, mean"),
        rows=tuple(
            (f"{point.passes:.2f}", f"{point.worst:.2f}", f"{point.mean:.3f}", f"{point.mean / always.mean:.1%}")
            for point in figures.curve
        ),
        note="Gates by the share of clean images that they let through. "
        f"`auto` takes {figures.passes['auto']:.2f} passes.",
    )


def _picture(figures: Figures) -> Picture:
    attacks = [each.attack for each in figures.shipped["always"] if each.successes >= FEWEST]
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(9, 0.24 * len(attacks) + 1.6), layout="constrained")
        axes, cost = figure.subplots(1, 2, width_ratios=(2, 1))
        for mode, mark, colour in zip(MODES, ("o", "s", "D"), ("#9a9a9a", "#c98a1b", "#1f6f8b"), strict=True):
            found = {each.attack: each for each in figures.held_out[mode].detections}
            axes.plot(
                [share_flagged(found[attack], 0.05) for attack in attacks],
                range(len(attacks)),
                mark,
                color=colour,
                label=mode,
                ms=4,
            )
        axes.set_yticks(range(len(attacks)), attacks)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.02)
        axes.set_xlabel("detected of the successes at 5 % false alarms, family held out")
        axes.grid(axis="x", color="#e5e5e5")
        axes.legend(frameon=False, title="probes")
        cost.plot(
            [point.passes for point in figures.curve],
            [point.mean for point in figures.curve],
            "-o",
            color="#1f6f8b",
            ms=4,
            label="mean",
        )
        cost.plot(
            [point.passes for point in figures.curve],
            [point.worst for point in figures.curve],
            "-o",
            color="#b3312c",
            ms=4,
            label="worst attack",
        )
        cost.axvline(figures.passes["auto"], color="#c98a1b", ls="--", label="auto")
        cost.set_ylim(0, 1.02)
        cost.set_xlabel("forward passes, clean image")
        cost.grid(color="#e5e5e5")
        cost.legend(frameon=False)
    return Picture(
        "detection.png",
        "Left: each attack, by the share of its successes that is flagged at 5 % false alarms, for the three modes of "
        "probing; to the right is better. Right: what further forward passes bring.",
        figure,
    )


def _facts(figures: Figures) -> dict[str, Any]:
    def short(found: Sequence[Detection]) -> list[dict[str, Any]]:
        return [{name: getattr(each, name) for name in KEPT} for each in found]

    return {
        "accuracy": figures.accuracy,
        "images": figures.images,
        "calibration_rows": figures.calibration,
        "alphas": list(ALPHAS),
        "scores": figures.names,
        "passes": figures.passes,
        "false_alarms": figures.alarms,
        "robust": figures.robust,
        **{
            name: {
                mode: {"attacks": short(found.detections), "false_alarms": found.alarms, "scores": found.scores}
                for mode, found in by_mode.items()
            }
            for name, by_mode in (("held_out", figures.held_out), ("gradient_free", figures.gradient_free))
        },
        "shipped": {mode: short(found) for mode, found in figures.shipped.items()},
        "published": {name: short(found) for name, found in figures.published.items()},
        "curve": [point.model_dump() for point in figures.curve],
    }

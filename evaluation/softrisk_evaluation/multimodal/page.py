"""What the experiment found, as tables and figures."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from softrisk_evaluation.experiments.findings import percent, plain
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.multimodal.measure import MOVES
from softrisk_evaluation.statistics import crossed_bootstrap
from softrisk_evaluation.tables import Section

Measured = Mapping[str, Sequence[Kept]]
"""By the name of the arm, one for each seed."""

NAMES: Final = {"both": "both", "image": "image alone", "audio": "recording alone"}


def robust_table(measured: Measured, accuracy: Mapping[str, NDArray[np.float64]], epsilon: float) -> Section:
    """Clean and under PGD at the radius of the headline."""
    return Section(
        title=f"Right under ℓ2-PGD, ε = {epsilon:g}, %",
        columns=("training", "clean, all test pairs", "clean", *(f"{name} changed" for name in NAMES.values())),
        rows=tuple(
            (
                arm,
                percent(accuracy[arm], 2),
                percent([kept["right"].mean() for kept in row]),
                *(percent([(kept[f"pgd/{moved}"] > epsilon).mean() for kept in row]) for moved in MOVES),
            )
            for arm, row in measured.items()
        ),
        note="Mean ± sd over seeds.",
    )


def difference_table(measured: Measured, pairs: Sequence[tuple[str, str]], epsilons: Sequence[float]) -> Section:
    """Of two trainings the second minus the first, on the same pairs and seeds."""

    def cell(values: NDArray[np.float64]) -> str:
        low, high = crossed_bootstrap(values)
        return f"{values.mean() * 100:+.1f} ({low * 100:+.1f} … {high * 100:+.1f})"

    def gain(first: str, second: str, what: str, epsilon: float) -> NDArray[np.float64]:
        before, after = (
            np.array(
                [kept["right"] if not what else kept[f"pgd/{what}"] > epsilon for kept in measured[arm]], np.float64
            )
            for arm in (first, second)
        )
        return after - before

    rows = [
        (
            f"{second} − {first}, {NAMES[moved]} changed",
            cell(gain(first, second, "", 0.0)),
            *(cell(gain(first, second, moved, epsilon)) for epsilon in epsilons),
        )
        for first, second in pairs
        for moved in MOVES
    ]
    return Section(
        title="Differences, points",
        columns=("", "clean", *(f"ε = {epsilon:g}" for epsilon in epsilons)),
        rows=tuple(rows),
        note="Of the same seeds and pairs; in brackets 95 % intervals, by a bootstrap over seeds and pairs.",
    )


def preference_table(measured: Measured, epsilon: float) -> Section:
    """Which modality a training relies on, and what that makes of attacks on it."""
    rows = []
    for arm, row in measured.items():
        without = {name: np.array([kept[f"without-{name}"].mean() for kept in row]) for name in ("image", "audio")}
        alone = {
            name: np.array([(kept[f"pgd/{name}"] > epsilon).mean() for kept in row]) for name in ("image", "audio")
        }
        rows.append(
            (
                arm,
                percent(without["image"]),
                percent(without["audio"]),
                _preferred(without["audio"] - without["image"]),
                percent(without["audio"] - without["image"]),
                percent(alone["audio"] - alone["image"]),
                plain([float(np.median(kept["slope-ratio"])) for kept in row]),
            )
        )
    return Section(
        title="Preferred modality",
        columns=(
            "training",
            "right without image, %",
            "right without recording, %",
            "preferred",
            "its advantage, points (image − recording)",
            f"attack on image − on recording, points lost at ε = {epsilon:g}",
            "slopes, image / recording",
        ),
        rows=tuple(rows),
        note="A missing modality is zero. Preferred is the modality with which alone more is right, if all seeds "
        "agree; a positive advantage is the image's. Points lost: how much more an attack on the image alone costs "
        "than one on the recording alone. Slopes: the median over pairs of the ratio of the largest gradients that "
        "were seen, between label and runner-up; the paper's indicator of which modality is the more vulnerable.",
    )


def radius_table(measured: Measured, epsilons: Sequence[float]) -> Section:
    """Certified and estimated radii."""
    rows = []
    for arm, row in measured.items():
        for moved in MOVES:
            certified = [kept.get(f"certified/{moved}") for kept in row]
            rows.append(
                (
                    f"{arm}, {NAMES[moved]}",
                    *(
                        plain([float(np.median(kept[f"{kind}/{moved}"][kept["right"]])) for kept in row], 3)
                        if f"{kind}/{moved}" in row[0]
                        else "–"
                        for kind in ("certified", "estimated")
                    ),
                    plain([_median_distance(kept, moved) for kept in row], 3),
                    *(
                        percent([(kept["right"] & (kept[f"certified/{moved}"] >= epsilon)).mean() for kept in row])
                        if certified[0] is not None
                        else "–"
                        for epsilon in epsilons
                    ),
                    str(sum(_contradicted(kept, "certified", moved) for kept in row)),
                    str(sum(_contradicted(kept, "estimated", moved) for kept in row)),
                )
            )
    return Section(
        title="Radii",
        columns=(
            "training, what changes",
            "certified, median",
            "estimated, median",
            "PGD, median",
            *(f"certified at ε = {epsilon:g}, %" for epsilon in epsilons),
            "certified ones contradicted",
            "estimated ones contradicted",
        ),
        rows=tuple(rows),
        note="Medians over pairs that are right. PGD: of the length of the change that turned the label; the largest ε "
        "that was tried for a pair that still stands. Certified at ε: right, and the certified radius is at least ε; "
        "free encoders are so steep that what float32 may add to a logit already exceeds every lead. Contradicted: "
        "pairs, of all seeds, whose label was turned by a change shorter than the radius.",
    )


def realism_table(measured: Measured, epsilons: Sequence[float], waveform: Sequence[float]) -> Section:
    """FGM beside PGD, and the attack on the waveform."""
    middle = epsilons[len(epsilons) // 2]
    position = list(epsilons).index(middle)
    return Section(
        title="Other attacks, %",
        columns=(
            "training",
            *(f"FGM, {name} changed, ε = {middle:g}" for name in NAMES.values()),
            *(f"PGD on the waveform, ε = {epsilon:g}" for epsilon in waveform),
        ),
        rows=tuple(
            (
                arm,
                *(percent([kept[f"fgm/{moved}"][position].mean() for kept in row]) for moved in MOVES),
                *(percent([(kept["waveform"] > epsilon).mean() for kept in row]) for epsilon in waveform),
            )
            for arm, row in measured.items()
        ),
        note="The waveform is in [−1, 1] and 8,000 samples long: ε = 0.1 is white noise of −59 dB of full scale. No "
        "radius is certified in its ℓ2 norm; that every successful change lies outside the certified radius of its "
        "log-mel plane was checked. FGM follows the cross entropy, which is flat in float32 where the label leads by "
        "much: a high figure beside a low one of PGD tells that, and no robustness.",
    )


def draw_curves(measured: Measured, epsilons: Sequence[float]) -> Figure:
    """Right over ε under PGD, for each of `MOVES`, and certified accuracy."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    radii = np.array([0.0, *epsilons])
    for axes, moved in zip(figure.subplots(1, len(MOVES), sharey=True), MOVES, strict=True):
        for arm, row in measured.items():
            stands = np.array([[(kept[f"pgd/{moved}"] > epsilon).mean() for epsilon in radii] for kept in row])
            (line,) = axes.plot(radii, stands.mean(axis=0), marker=".", label=arm)
            axes.fill_between(radii, stands.min(axis=0), stands.max(axis=0), color=line.get_color(), alpha=0.15)
            if f"certified/{moved}" in row[0]:
                fine = np.linspace(0, radii[-1], 200)
                proved = [
                    [(kept["right"] & (kept[f"certified/{moved}"] >= epsilon)).mean() for epsilon in fine]
                    for kept in row
                ]
                axes.plot(fine, np.mean(proved, axis=0), linestyle=":", color=line.get_color())
        axes.set(title=f"{NAMES[moved]} changed", xlabel="ε (ℓ2)", ylim=(0, 1.02))
    figure.axes[0].set_ylabel("right")
    figure.axes[0].legend(fontsize="small")
    return figure


def _preferred(advantage: NDArray[np.float64]) -> str:
    """Of the image over the recording, one for each seed."""
    if (advantage > 0).all():
        return "image"
    return "recording" if (advantage < 0).all() else "neither"


def _median_distance(kept: Kept, moved: str) -> float:
    distance, right = kept[f"distance/{moved}"], kept["right"]
    turned = distance[right & np.isfinite(distance)]
    largest = float(turned.max()) if turned.size else 0.0
    return float(np.median(np.minimum(distance[right], largest)))


def _contradicted(kept: Kept, kind: str, moved: str) -> int:
    radii = kept.get(f"{kind}/{moved}")
    return 0 if radii is None else int((kept["right"] & (kept[f"distance/{moved}"] < radii)).sum())

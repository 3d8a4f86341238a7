"""The options of the command line that say what is ranked."""

from collections.abc import Sequence
from typing import Annotated

import typer

from softrisk_core.errors import CalibrationError
from softrisk_core.probes import PROBES, draw_noise, make_probes
from softrisk_core.scores.catalogue import KINDS, find_score
from softrisk_export.fit import CHOOSE, ProbeMode, Wanted

SCORE_HELP = (
    f"What is ranked: {KINDS}; or {CHOOSE}, the one that detects most of the attack of which it detects least, each "
    "attack judged without its family."
)

DEFAULT = "logit_gap:low"

ScoreOption = Annotated[
    str | None, typer.Option(help=f"{SCORE_HELP} Default: {DEFAULT}, or combined with --probes.", show_default=False)
]
PROBES_HELP = (
    "Ask the classifier also about slightly changed inputs, and combine what it says: always, or, at a fraction of the "
    "cost, where the score without is undecided (auto)."
)

ProbesOption = Annotated[ProbeMode, typer.Option(help=f"{PROBES_HELP} The combination is fitted to attacks.")]
ProbeOption = Annotated[
    list[str],
    typer.Option(
        help=f"A change that keeps the classes of your inputs; may be repeated. Some of {', '.join(PROBES)}. Default: "
        "all, but flip only if the model was trained with mirrored images."
    ),
]
EpsilonOption = Annotated[
    list[float],
    typer.Option(
        help="ℓ∞ radius, on pixels in [0, 1], of the attacks that a score is fitted to or chosen by; may be repeated. "
        "Default: 1, 2, 4 and 8/255 for colours; 0.05, 0.1 and 0.2 for grey images."
    ),
]


def wanted_score(
    score: str | None, mode: ProbeMode, probes: Sequence[str], epsilons: Sequence[float], features: str | None = None
) -> Wanted:
    """What the options say.

    Where no score is named, it is a combination with probes, and the small logit gap without.

    Raises:
        CalibrationError: If there is no such score or probe, or the score reads no features and their tensor is named.
    """
    if score is None:
        score = DEFAULT if mode == "off" else "combined"
    if score != CHOOSE and find_score(score).needs != "features" and features is not None:
        raise CalibrationError(
            f"{score} reads no features: leave out --features, or choose mahalanobis, knn or {CHOOSE}"
        )
    if probes:
        make_probes(probes, draw_noise((1, 1, 1), seed=0))
    return Wanted(score=score, mode=mode, probes=tuple(probes), epsilons=tuple(epsilons), features=features)

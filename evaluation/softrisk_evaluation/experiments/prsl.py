"""What PRSL is worth where it was made for: captions, clean and attacked, by CE and by PRSL in its modes."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.captions import (
    BATCH_SIZE,
    CaptionTask,
    asked_arm,
    attack_arm,
    cells,
    judged_scenes,
    train_captions,
)
from softrisk_evaluation.experiments.findings import Findings, Picture, percent, plain
from softrisk_evaluation.experiments.setup import Setup
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.task import Arm, by_arm, rows_of
from softrisk_evaluation.statistics import auroc, clopper_pearson, crossed_bootstrap
from softrisk_evaluation.tables import Section
from softrisk_evaluation.token_diagnostics import caption_scores
from softrisk_training.captioning.quality import exact_matches, token_accuracy
from softrisk_training.losses import PRSLMode, authors_weight

AWAY: Final = (4, 8, 16)
"""Radii of attacks away from a caption, in grey levels of 255."""

TOWARDS: Final = (16, 32)
"""The same of attacks towards another caption, which needs more."""

HEADLINE: Final = 8
"""Radius at which captions are asked how sure they are."""

TOKENS: Final = 6.5
"""Of a caption with its end: seven beside each other, six above each other."""

TOP_K: Final = 6
"""How many of the words that were not written a diagnostic looks at."""

SUCCESSES: Final = ("succeeded", "by_ce")
"""Of `attack_arm`."""


def prsl(mode: PRSLMode, end: int, weight: float) -> Arm:
    """PRSL on the strongest wrong words, with the penalty of a token weighed against its cross entropy."""
    across = mode == "across-tokens"
    per_batch = authors_weight(weight, round(BATCH_SIZE * TOKENS)) if across else weight
    settings: dict[str, float | str] = {"mode": mode, "end": end, "weight": per_batch}
    return Arm(f"{mode} K={end} {'b·n' if across else 'w'}={weight:g}", "prsl", settings)


ARMS: Final = (
    CE,
    prsl("across-tokens", 6, 0.01),
    prsl("across-tokens", 6, 1),
    prsl("within-token", 2, 0.1),
    prsl("within-token", 6, 0.1),
    prsl("topk-mass", 2, 1),
    prsl("topk-mass", 6, 1),
)
"""Few, as each is trained and attacked for every seed. The first PRSL has the weight of the authors' runs."""


def run(setup: Setup) -> Findings:
    """Clean captions, attacks away from and towards a caption, and what diagnostics of tokens see of them."""
    study, budget, seeds = setup.study, setup.budget, setup.seeds
    task = CaptionTask(setup.task.data, setup.task.width, setup.task.epochs, budget.scenes)
    effort = {"steps": budget.headline_effort.steps, "restarts": budget.headline_effort.restarts}
    common = {"task": task, "images": budget.images}
    described = by_arm(study.results("training", cells("captions", train_captions, ARMS, seeds, task=task)), ARMS)
    away, towards = (
        by_arm(
            study.results(
                f"attacks {name}",
                cells(name, attack_arm, ARMS, seeds, **common, **effort, levels=levels, targeted=name == "towards"),
            ),
            ARMS,
        )
        for name, levels in (("away", AWAY), ("towards", TOWARDS))
    )
    asking = {**common, "epsilon": HEADLINE / 255, "steps": effort["steps"]}
    asked = by_arm(study.results("diagnostics", cells("asked", asked_arm, ARMS, seeds, **asking)), ARMS)
    scenes = judged_scenes(task.data)
    return Findings(
        title=f"PRSL on captions, scenes of {setup.data_name}",
        question="Do captions of a model that was trained with PRSL stand attacks that those of CE do not, at the same "
        "quality, and does the softmax of the tokens betray an attack?",
        method=(
            f"Scenes of two images, {scenes.input_shape[1]}×{scenes.input_shape[2]} pixels, one right caption each: "
            f"{task.scenes:,} of training rows, drawn anew for each seed; {len(scenes.images):,} of test rows "
            f"({len(rows_of(task.data)[1].test):,} images), the same for all arms and seeds.",
            f"Convolutional encoder ({task.width} filters in the first layer), transformer decoder of two layers, from "
            f"scratch; {task.epochs} epochs, batches of {BATCH_SIZE}, AdamW, {len(seeds)} seeds.",
            "K: strongest wrong words that PRSL restrains; weights are against the mean cross entropy of a token, and "
            "were not tuned. b·n = 0.01 is the authors' own, 1e-5 at 1,024 tokens in a batch.",
            f"Attacks on the first {budget.images} test scenes: ℓ∞ on pixels in [0, 1], float32, Auto-PGD of "
            f"{effort['steps']} steps × {effort['restarts']} random starts on the cross entropy of a fixed caption, "
            "then as many on the margin of its decisive token. No regulariser takes part. What fell at a smaller "
            "radius counts as fallen at a larger one.",
            "Away: the greedy caption is not the reference, in any word. Towards: it is the caption of another scene, "
            "word for word.",
        ),
        tables=[
            _quality_table(described),
            _success_table("Attacks away from the caption that succeed, %", away, AWAY),
            _difference_table("Captions that stand attacks away from them, points more than CE", away),
            _success_table("Attacks towards another caption that succeed, %", towards, TOWARDS),
            _objective_table(away),
            _detection_table(asked),
        ],
        pictures=[
            Picture(
                "success.png",
                "Share of attacks that succeed over their radius; mean of the seeds, images that are described rightly "
                "without an attack.",
                _draw(away, towards),
            )
        ],
        facts={
            "levels": {"away": AWAY, "towards": TOWARDS},
            "exact_match": {name: _exact(rows).mean(axis=1) for name, rows in described.items()},
            "token_accuracy": {name: _token_accuracies(rows) for name, rows in described.items()},
            "away": {name: [_success_rates(kept) for kept in rows] for name, rows in away.items()},
            "towards": {name: [_success_rates(kept) for kept in rows] for name, rows in towards.items()},
            "detection": {name: [detection(kept) for kept in rows] for name, rows in asked.items()},
        },
    )


def _exact(rows: Sequence[Kept]) -> NDArray[np.bool_]:
    """Shape (seeds, scenes)."""
    return np.stack([exact_matches(kept["written"], kept["references"]) for kept in rows])


def _token_accuracies(rows: Sequence[Kept]) -> list[float]:
    return [token_accuracy(kept["written"], kept["references"]) for kept in rows]


def _success_rates(kept: Kept) -> dict[str, NDArray[np.float64]]:
    """Over the radii, of the captions that are right without an attack: by any objective, by cross entropy alone."""
    right = kept["right"]
    if not right.any():
        return {name: np.full(len(kept[name]), np.nan) for name in SUCCESSES}
    return {name: kept[name][:, right].mean(axis=1) for name in SUCCESSES}


def _quality_table(described: Mapping[str, Sequence[Kept]]) -> Section:
    baseline = _exact(described[CE.name]).astype(float)
    rows = []
    for name, kept in described.items():
        exact = _exact(kept)
        low, high = crossed_bootstrap(exact - baseline)
        gain = f"{100 * (exact - baseline).mean():.1f} ({100 * low:.1f} … {100 * high:.1f})"
        quality = (percent(exact.mean(axis=1)), percent(_token_accuracies(kept), 2))
        rows.append((name, *quality, "" if name == CE.name else gain))
    return Section(
        title="Clean captions",
        columns=("loss", "exact match, %", "token accuracy, %", "exact match − CE, points"),
        rows=tuple(rows),
        note="Mean ± sd over seeds; in brackets a 95 % interval, a bootstrap over seeds and scenes of the difference "
        "on the same scene and seed.",
    )


def _success_table(title: str, attacked: Mapping[str, Sequence[Kept]], levels: Sequence[int]) -> Section:
    def cell(rows: Sequence[Kept], radius: int) -> str:
        won = sum(int(kept["succeeded"][radius, kept["right"]].sum()) for kept in rows)
        tried = sum(int(kept["right"].sum()) for kept in rows)
        if tried == 0:
            return "–"
        low, high = clopper_pearson(won, tried)
        return f"{100 * won / tried:.1f} ({100 * low:.1f} … {100 * high:.1f})"

    return Section(
        title=title,
        columns=("loss", *_radii(levels)),
        rows=tuple((name, *(cell(rows, radius) for radius in range(len(levels)))) for name, rows in attacked.items()),
        note="Of the scenes that are described rightly without an attack, all seeds together; in brackets the 95 % "
        "interval of Clopper and Pearson, which takes the same scene under two seeds for two.",
    )


def _difference_table(title: str, attacked: Mapping[str, Sequence[Kept]]) -> Section:
    standing = {name: np.stack([~kept["succeeded"] for kept in rows]).astype(float) for name, rows in attacked.items()}
    rows, outside, compared = [], 0, 0
    for name, values in standing.items():
        if name == CE.name:
            continue
        line = []
        for radius in range(len(AWAY)):
            difference = (values - standing[CE.name])[:, radius]
            low, high = crossed_bootstrap(difference)
            line.append(f"{100 * difference.mean():.1f} ({100 * low:.1f} … {100 * high:.1f})")
            compared += 1
            outside += low > 0 or high < 0
        rows.append((name, *line))
    return Section(
        title=title,
        columns=("loss", *_radii(AWAY)),
        rows=tuple(rows),
        note="Of all attacked scenes, a caption that is wrong without an attack counting as fallen; in brackets a 95 % "
        f"interval, a bootstrap over seeds and scenes. {outside} of {compared} intervals leave out 0; nothing is "
        "corrected for so many comparisons.",
    )


def _objective_table(away: Mapping[str, Sequence[Kept]]) -> Section:
    return Section(
        title="What cross entropy alone would have found: attacks away from the caption that succeed, %",
        columns=("loss", *_radii(AWAY)),
        rows=tuple(
            (
                name,
                *(percent([_success_rates(kept)["by_ce"][radius] for kept in rows]) for radius in range(len(AWAY))),
            )
            for name, rows in away.items()
        ),
        note="Mean ± sd over seeds. Where it falls short of the table above, a loss hides from the cross entropy.",
    )


def detection(kept: Kept) -> dict[str, float | None]:
    """AUROC of each score of captions: successful attacks against clean scenes, both right without an attack."""
    right = exact_matches(kept["clean"], kept["references"])
    turned = right & ~exact_matches(kept["attacked"], kept["references"])
    clean = caption_scores(kept["clean_logits"], kept["clean"] >= 0, TOP_K)
    attacked = caption_scores(kept["attacked_logits"], kept["attacked"] >= 0, TOP_K)
    return {name: auroc(clean[name][right], attacked[name][turned]) for name in clean}


def _detection_table(asked: Mapping[str, Sequence[Kept]]) -> Section:
    found = {name: [detection(kept) for kept in rows] for name, rows in asked.items()}
    scores = list(next(iter(found.values()))[0])
    return Section(
        title=f"Do diagnostics of the tokens see the attack? AUROC, ε = {HEADLINE}/255",
        columns=("loss", *(score.replace("_", " ") for score in scores)),
        rows=tuple(
            (name, *(plain([each[score] for each in rows if each[score] is not None]) for score in scores))  # type: ignore[misc]
            for name, rows in found.items()
        ),
        note=f"Within the {TOP_K + 1} largest logits of each token; small gaps, large dispersions and small entropies "
        "count as strange. Attacks on cross entropy that took all their steps, those that succeeded, against clean "
        "scenes. Mean ± sd over seeds.",
    )


def _radii(levels: Sequence[int]) -> list[str]:
    return [f"ε = {level}/255" for level in levels]


def _draw(away: Mapping[str, Sequence[Kept]], towards: Mapping[str, Sequence[Kept]]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = (("away from the caption", away, AWAY), ("towards another caption", towards, TOWARDS))
    for axes, (title, attacked, levels) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        for name, rows in attacked.items():
            rates = np.mean([_success_rates(kept)["succeeded"] for kept in rows], axis=0)
            axes.plot(range(len(levels)), rates, marker="o", label=name, color="black" if name == CE.name else None)
        axes.set(title=title, xlabel="ε, grey levels of 255", xticks=range(len(levels)), xticklabels=levels)
    figure.axes[0].set_ylabel("attacks that succeed")
    figure.axes[0].legend(fontsize="small")
    return figure

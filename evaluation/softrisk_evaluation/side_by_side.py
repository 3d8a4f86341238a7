"""Trained classifiers on the same test images, clean and attacked: their logits, and where they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from softrisk_attacks.attack import run_attack
from softrisk_attacks.standard import pgd
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.experiments.answers import STEPS, gap_slope
from softrisk_evaluation.experiments.embedding import Tips, draw_plane, plane, tips
from softrisk_evaluation.experiments.findings import Findings, Picture
from softrisk_evaluation.experiments.logits import agreement_table, by_kind, disagreement, draw_gallery, levels_table
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.task import logits_of
from softrisk_evaluation.logit_pictures.drawings import Ends, draw_levels, draw_profiles, draw_runner_up
from softrisk_evaluation.logit_pictures.shape import CLEAN, STANDING, TURNED, Shape, bands
from softrisk_evaluation.subject import candidate_rows
from softrisk_evaluation.tables import Section
from softrisk_training.checkpoint import Checkpoint, build_model, load_checkpoint
from softrisk_training.data import ImageData
from softrisk_training.data.images import same_classes

FEWEST: Final = 20
"""Images: a map of fewer shows nothing."""

_BATCH: Final = 50


@dataclass(frozen=True)
class Settings:
    """What is asked of all models.

    Attributes:
        epsilon: ℓ∞ radius of the attack, on pixels in [0, 1].
        images: How many test images.
        seed: Which of them, and where the attack starts.
    """

    epsilon: float
    images: int
    seed: int


def compare(paths: Sequence[Path], location: str | None, settings: Settings, progress: Progress) -> Findings:
    """Attack each model with its own gradients and draw what it says before and after.

    Args:
        paths: Checkpoints of classifiers of the same images into the same classes.
        location: Test data for `load_data`; None for the test rows of the first checkpoint.
        settings: What is asked.
        progress: Gets two tasks for each model.

    Raises:
        EvaluationError: If the models do not compare, or fewer than `FEWEST` test images are new to all of them.
        SoftriskError: If a file cannot be read.
    """
    models = dict(zip(_names(paths), map(load_checkpoint, paths), strict=True))
    _check_comparable(paths, models)
    first = next(iter(models.values()))
    data, rows = candidate_rows(first, paths[0], location)
    _check_fit(data, first, paths[0])
    chosen = _unseen(data, rows, models, settings)
    inputs, labels = data.inputs(chosen), data.labels[chosen]
    answered = {name: _ask(name, each, inputs, labels, settings, progress) for name, each in models.items()}
    bar = progress.add_task("maps", total=len(models))
    points = {}
    for name, kept in answered.items():
        points[name] = plane(kept, settings.seed)
        progress.advance(bar)
    found = {name: tips(kept, points[name]) for name, kept in answered.items()}
    kinds = {name: by_kind(kept) for name, kept in answered.items()}
    ends = {name: _ends(kept) for name, kept in answered.items()}
    pairs = [(next(iter(models)), name) for name in list(models)[1:]]
    seeds = {name: [kept] for name, kept in answered.items()}
    return Findings(
        title="Logits of " + ", ".join(models),
        question="How sure are these models of clean and of attacked images, which class comes second, and on which "
        "images do they differ?",
        method=(
            f"{len(chosen)} test images of {data.source}, the same for all models and new to each of them.",
            f"Attack: PGD-{STEPS}, ε = {settings.epsilon:.3g}, one random start, all steps taken, each model by its "
            "own gradients: the attacked images of two models are not the same. One weak attack: what is right under "
            "it is not robust for that.",
            *(_facts(name, checkpoint) for name, checkpoint in models.items()),
        ),
        tables=[
            _outcomes(kinds, ends, found, len(first.classes)),
            levels_table(seeds),
            *([agreement_table(pairs, seeds)] if pairs else []),
        ],
        pictures=[
            *_pictures(kinds, ends, first.classes),
            Picture(
                "map.png",
                "What to see: a map (t-SNE) of softmax outputs, clean ones in the colour of their predicted class "
                "and successful attacks as black crosses: at the tips of clusters, between them, or within. What not "
                "to conclude: anything from distances, sizes and gaps on the map, which t-SNE makes as it likes; the "
                "first table has the shares in the space of the softmax itself.",
                draw_plane(answered, points),
            ),
            *(
                Picture(
                    f"disagreement-{index}.png",
                    f"What to see: the clean images on whose confidence {one} (first figure) and {other} (second) "
                    "differ most. What not to conclude: that the surer of the two is right, or that these images are "
                    "typical; they are the two ends of an order.",
                    draw_gallery(inputs, {name: answered[name] for name in (one, other)}),
                )
                for index, (one, other) in enumerate(pairs, start=1)
            ),
        ],
        facts={
            "rows": chosen,
            "models": {name: _numbers(kinds[name], ends[name], found[name]) for name in models},
            "disagreement": {
                f"{one} against {other}": chosen[disagreement(answered[one], answered[other])] for one, other in pairs
            },
        },
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """File names without their ends, where they tell the files apart."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _check_comparable(paths: Sequence[Path], models: Mapping[str, Checkpoint]) -> None:
    if len(models) < len(paths):
        raise EvaluationError("a checkpoint was named twice: a model has nothing to differ in from itself")
    first, *others = zip(paths, models.values(), strict=True)
    for path, other in others:
        if (other.input_shape, other.classes) != (first[1].input_shape, first[1].classes):
            raise EvaluationError(
                f"{path} and {first[0]} do not compare: input shapes {other.input_shape} and {first[1].input_shape}, "
                f"classes {', '.join(other.classes)} and {', '.join(first[1].classes)}; give models for the same task"
            )


def _check_fit(data: ImageData, model: Checkpoint, path: Path) -> None:
    if data.input_shape != model.input_shape or not same_classes(data.classes, model.classes):
        raise EvaluationError(
            f"{data.location} does not fit {path}: images of shape {data.input_shape} in the classes "
            f"{', '.join(data.classes)}, not {model.input_shape} in {', '.join(model.classes)}; give other --data"
        )


def _unseen(
    data: ImageData, rows: NDArray[np.int64], models: Mapping[str, Checkpoint], settings: Settings
) -> NDArray[np.int64]:
    seen = np.concatenate([checkpoint.digests for checkpoint in models.values()])
    unseen = rows[~np.isin(data.digests(rows), seen)]
    chosen = np.random.default_rng(settings.seed).permutation(unseen)[: settings.images]
    if len(chosen) < FEWEST:
        raise EvaluationError(
            f"only {len(chosen)} of {len(rows)} test images of {data.location} are new to all of these models, and "
            f"{FEWEST} is the least: give other --data, or models that were trained with the same --seed"
        )
    return np.sort(chosen)


def _ask(
    name: str,
    checkpoint: Checkpoint,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    settings: Settings,
    progress: Progress,
) -> Kept:
    """What `experiments.answers` keeps of a model, without its minimum-norm attack, which takes minutes."""
    model = build_model(checkpoint).requires_grad_(False)
    bar = progress.add_task(f"PGD on {name}", total=len(inputs))
    outcome = run_attack(
        model,
        inputs,
        labels,
        pgd(settings.epsilon, STEPS, restarts=1),
        seed=settings.seed,
        batch_size=_BATCH,
        on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
    )
    return {
        "labels": labels,
        "clean": logits_of(model, inputs),
        "attacked": logits_of(model, outcome.inputs),
        "gap_slope": gap_slope(model, inputs),
    }


def _ends(kept: Kept) -> Ends:
    clean, attacked = Shape.of(kept["clean"]), Shape.of(kept["attacked"])
    turned = (clean.label == kept["labels"]) & (attacked.label != kept["labels"])
    return Ends(clean.label, clean.runner_up, turned, attacked.label[turned])


def _facts(name: str, checkpoint: Checkpoint) -> str:
    loss = ", ".join(f"{key}={value}" for key, value in checkpoint.loss_settings.items())
    adversary = str(checkpoint.settings.get("adversary", "none"))
    hardened = "" if adversary == "none" else f", trained under attack ({adversary}, ε = {_radius(checkpoint)})"
    return (
        f"{name}: {checkpoint.architecture}, {checkpoint.loss}{f'({loss})' if loss else ''}{hardened}, "
        f"{checkpoint.epochs} epochs, seed {checkpoint.seed}; {checkpoint.test_accuracy:.2%} of its test rows right."
    )


def _radius(checkpoint: Checkpoint) -> str:
    return f"{float(checkpoint.settings['adversary_epsilon']):.3g}"


def _outcomes(
    kinds: Mapping[str, Mapping[str, Shape]], ends: Mapping[str, Ends], found: Mapping[str, Tips], classes: int
) -> Section:
    rows = []
    for name, each in kinds.items():
        images, standing, turned = (len(each[kind].label) for kind in (CLEAN, STANDING, TURNED))
        shares = (ends[name].followed, found[name].at_the_edge, found[name].between)
        rows.append(
            (
                name,
                f"{(standing + turned) / images:.1%}",
                f"{standing / images:.1%}",
                f"{turned}",
                *("–" if np.isnan(share) else f"{share:.0%}" for share in shares),
            )
        )
    return Section(
        title="What the attack does",
        columns=("model", "right", "attacked", "successes", "to the second", "at the edge", "between"),
        rows=tuple(rows),
        note=f"To the second: successes that end in the class that was second; at random {1 / (classes - 1):.0%}. At "
        "the edge: farther from the centre of the cluster of the predicted class than 95 % of its clean outputs. "
        "Between: nearer to the middle between two centres than to any centre. Both in the space of the softmax.",
    )


def _pictures(
    kinds: Mapping[str, Mapping[str, Shape]], ends: Mapping[str, Ends], classes: Sequence[str]
) -> list[Picture]:
    return [
        Picture(
            "levels.png",
            "What to see: how far attacks push the largest logit and its distance to the next, and how much of the "
            "red line, of successful attacks, lies under the grey clean images, where no rule on these numbers finds "
            "it. Blue and red together weigh as much as grey. What not to conclude: that lower logits are safer, or "
            "higher ones surer. All logits of a model may be multiplied by a number without changing a label; the "
            "columns over sd(z) and over the slope have no such freedom.",
            draw_levels(kinds),
        ),
        Picture(
            "profiles.png",
            "What to see: the softmax in descending order, from the most likely class on; lines are medians, bands "
            "hold nine of ten images. A level tail is what DRSL trains for; a steep one ranks the wrong classes. "
            "What not to conclude: that a level tail is robust, or that a high second place is an attack: near a "
            "border between two classes clean images have one, too.",
            draw_profiles(kinds),
        ),
        Picture(
            "runner-up.png",
            "What to see: for clean images of each predicted class, which class is second (above), and where "
            "successful attacks of the class end (below). Alike pictures say that attacks follow the second class. "
            "Grey rows: no success. What not to conclude: robustness from unlike ones. Where the wrong classes are "
            "level, which is second is chance; and a row with few successes is coarse.",
            draw_runner_up(ends, classes),
        ),
    ]


def _numbers(kinds: Mapping[str, Shape], ends: Ends, found: Tips) -> dict[str, object]:
    return {
        "images": {kind: len(shape.label) for kind, shape in kinds.items()},
        "profiles": {kind: bands(shape.profile) for kind, shape in kinds.items() if len(shape.label)},
        "ends_in_second_class": ends.followed,
        "tips": found,
    }

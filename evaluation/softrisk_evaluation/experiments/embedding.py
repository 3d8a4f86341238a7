"""Clean and attacked softmax outputs in the plane, and where attacked ones lie in the space they come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE

from softrisk_core.diagnostics import softmax
from softrisk_evaluation.experiments.answers import STEPS, answer_cells
from softrisk_evaluation.experiments.arms import CE, GCE
from softrisk_evaluation.experiments.findings import Findings, Picture, percent, plain
from softrisk_evaluation.experiments.setup import Setup, sampling_error
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.sweep import how_chosen, sweep
from softrisk_evaluation.experiments.task import by_arm, training_cells
from softrisk_evaluation.tables import Section

Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Clean and attacked images in the plane, each of shape (N, 2)."""

EDGE: Final = 0.95
"""Beyond this quantile of the clean outputs' distances from the centre of their cluster is its edge."""


def run(setup: Setup) -> Findings:
    """The picture of the paper: are attacked outputs of DRSL at the tips of clusters, those of CE scattered?"""
    study, task, budget, seeds = setup.study, setup.task, setup.budget, setup.seeds
    arms = [CE, GCE, sweep(setup).best]
    study.results("training", training_cells(task, arms, seeds))
    kept = study.results("answers", answer_cells(task, arms, seeds, budget.described_images, task.epsilon))
    bar = study.progress.add_task("embeddings", total=len(kept))
    points = []
    for index, each in enumerate(kept):
        points.append(plane(each, seeds[index % len(seeds)]))
        study.progress.advance(bar)
    found = by_arm([tips(each, where) for each, where in zip(kept, points, strict=True)], arms)
    by_name = {name: row[0] for name, row in by_arm(points, arms).items()}
    return Findings(
        title=f"Clean and attacked softmax outputs in the plane, {setup.data_name}",
        question="Do attacked outputs sit at the tips of the clusters for DRSL, and scattered for CE and GCE?",
        method=(
            *setup.method,
            how_chosen(setup),
            sampling_error(budget.described_images),
            f"t-SNE (perplexity 30, PCA start) of the square roots of the softmax outputs of {budget.described_images} "
            f"test images, clean and under PGD-{STEPS}, ε = {task.epsilon:.3g}, together.",
        ),
        tables=[
            Section(
                title="How far the picture holds",
                columns=(
                    "loss",
                    "successful attacks",
                    "at the edge, %",
                    "between clusters, %",
                    "at the edge in the plane, %",
                ),
                rows=tuple(
                    (
                        arm.name,
                        plain([float(each.attacks) for each in found[arm.name]], 0),
                        percent([each.at_the_edge for each in found[arm.name] if each.attacks]),
                        percent([each.between for each in found[arm.name] if each.attacks]),
                        percent([each.plane_at_the_edge for each in found[arm.name] if each.attacks]),
                    )
                    for arm in arms
                ),
                note="At the edge: farther from the centre of the cluster of the predicted class than 95 % of its "
                "clean outputs (5 % would be chance). Between: nearer to the middle between two centres than to any "
                "centre. Both in the space of the softmax; the last column in the picture's plane. Mean ± sd over "
                f"{len(seeds)} seeds.",
            )
        ],
        pictures=[
            Picture(
                "embedding.png",
                "t-SNE of softmax outputs, seed 0: clean images as dots in the colour of their predicted class, "
                "successful attacks as black crosses.",
                draw_plane({name: row[0] for name, row in by_arm(kept, arms).items()}, by_name),
            )
        ],
        facts={"models": found},
    )


def draw_plane(kept: Mapping[str, Kept], points: Mapping[str, Points]) -> Figure:
    """A plane for each model: clean images in the colour of their predicted class, successful attacks in black."""
    figure = Figure(figsize=(4 * len(kept), 4), layout="constrained")
    for axes, (name, answers) in zip(figure.subplots(1, len(kept), squeeze=False)[0], kept.items(), strict=True):
        clean, attacked = points[name]
        before, after = answers["clean"].argmax(axis=1), answers["attacked"].argmax(axis=1)
        turned = (before == answers["labels"]) & (after != answers["labels"])
        axes.scatter(*clean.T, c=before, cmap="tab10", s=6)
        axes.scatter(*attacked[turned].T, c="black", s=12, marker="x", linewidths=0.7)
        axes.set(title=name, xticks=[], yticks=[])
    return figure


@dataclass(frozen=True)
class Tips:
    """Where the successful attacks of one model lie.

    Attributes:
        attacks: How many.
        at_the_edge: Share that is farther from the centre of the cluster of its own prediction than 95 % of the clean
            outputs of that cluster, in the space of the softmax. Chance is 0.05.
        between: Share that is nearer to the middle between two centres than to either.
        plane_at_the_edge: `at_the_edge` in the plane of the picture.
    """

    attacks: int
    at_the_edge: float
    between: float
    plane_at_the_edge: float


def plane(kept: Kept, seed: int) -> Points:
    """t-SNE of the softmax outputs of clean and attacked images together."""
    outputs = np.concatenate([softmax(kept["clean"]), softmax(kept["attacked"])])
    # Roots: the Euclidean distance between them is the Hellinger distance, which tells small probabilities apart.
    points = TSNE(perplexity=30, init="pca", random_state=seed).fit_transform(np.sqrt(outputs))
    return points[: len(kept["clean"])], points[len(kept["clean"]) :]


def tips(kept: Kept, points: Points) -> Tips:
    """How far "attacked outputs sit at the tips of the clusters" holds.

    Args:
        kept: Answers of one model.
        points: From `plane`.
    """
    labels = kept["labels"]
    before, after = kept["clean"].argmax(axis=1), kept["attacked"].argmax(axis=1)
    turned = (before == labels) & (after != labels)
    clean, attacked = softmax(kept["clean"]), softmax(kept["attacked"])
    return Tips(
        attacks=int(turned.sum()),
        at_the_edge=_beyond(clean, before, attacked[turned], after[turned]),
        between=_between(clean, before, attacked[turned]),
        plane_at_the_edge=_beyond(points[0], before, points[1][turned], after[turned]),
    )


def _beyond(
    clean: NDArray[np.float64], clusters: NDArray[np.int64], attacked: NDArray[np.float64], into: NDArray[np.int64]
) -> float:
    beyond = []
    for label in np.unique(into):
        members = clean[clusters == label]
        if len(members):
            centre = members.mean(axis=0)
            limit = np.quantile(np.linalg.norm(members - centre, axis=1), EDGE)
            beyond.append(np.linalg.norm(attacked[into == label] - centre, axis=1) > limit)
    return float(np.concatenate(beyond).mean()) if beyond else float("nan")


def _between(clean: NDArray[np.float64], clusters: NDArray[np.int64], attacked: NDArray[np.float64]) -> float:
    if not len(attacked):
        return float("nan")
    centres = np.stack([clean[clusters == label].mean(axis=0) for label in np.unique(clusters)])
    first, second = np.triu_indices(len(centres), 1)
    middles = (centres[first] + centres[second]) / 2
    to_centres = np.linalg.norm(attacked[:, None] - centres[None], axis=2).min(axis=1)
    to_middles = np.linalg.norm(attacked[:, None] - middles[None], axis=2).min(axis=1)
    return float((to_middles < to_centres).mean())

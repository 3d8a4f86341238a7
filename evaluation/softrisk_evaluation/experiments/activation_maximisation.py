"""Do rotation and scaling help activation maximisation, and what does it draw of CE, DRSL and adversarial training?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_evaluation.activations.maximise import Settings, maximise
from softrisk_evaluation.activations.quality import ANGLES, FACTORS, measure, transfer
from softrisk_evaluation.activations.sheet import contact_sheet
from softrisk_evaluation.activations.targets import class_targets
from softrisk_evaluation.activations.transformations import Transformations
from softrisk_evaluation.experiments.adversarial import against
from softrisk_evaluation.experiments.arms import CE, drsl
from softrisk_evaluation.experiments.findings import Findings, Picture, plain
from softrisk_evaluation.experiments.setup import Setup
from softrisk_evaluation.experiments.study import Cell, Kept, slug
from softrisk_evaluation.experiments.task import Arm, Task, logits_of, rows_of, test_sample, trained, training_cells
from softrisk_evaluation.statistics import crossed_bootstrap
from softrisk_evaluation.tables import Section
from softrisk_training.adversarial import Adversary
from softrisk_training.models import Classifier, architecture

STARTS: Final = 3
"""Images of each class."""

SMALLEST_FOR_BOTH: Final = 16
"""Pixels on a side that every architecture takes."""

_BOTH: Final = Settings()
_UNTURNED: Final = replace(_BOTH, transformations=Transformations())

NONE: Final = "none"
BOTH: Final = "both"

WAYS: Final = {
    NONE: _UNTURNED,
    "rotation": replace(_BOTH, transformations=replace(_BOTH.transformations, scaling=0.0)),
    "scaling": replace(_BOTH, transformations=replace(_BOTH.transformations, rotation=0.0)),
    BOTH: _BOTH,
}
"""How images are made: but for what the names say, with the default settings."""

UNPENALISED: Final = {
    f"{NONE}, λ = 0": replace(_UNTURNED, l2=0.0, tv=0.0),
    f"{BOTH}, λ = 0": replace(_BOTH, l2=0.0, tv=0.0),
}
"""The same for the first training, to see what the penalties do."""


@dataclass(frozen=True)
class Network:
    """One trained network.

    Attributes:
        task: Its data and architecture.
        arm: How it was trained.
        seed: Of its training.
    """

    task: Task
    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.arm.name}, {self.task.architecture}, seed {self.seed}"


Found = Mapping[str, Mapping[str, Kept]]
"""By the name of the training that the images were made with, then by the way."""


def run(setup: Setup) -> Findings:
    """Make images in every way with one network of each training, and ask all other networks."""
    study, task, budget = setup.study, setup.task, setup.budget
    makers, judges = networks(task, budget.inner_steps, max(2, budget.seeds))
    everybody = (*makers, *judges)
    trainings = [cell for each in everybody for cell in training_cells(each.task, [each.arm], [each.seed])]
    accuracies = study.results("training", trainings)
    ways = {maker.arm.name: WAYS if maker.arm != CE else WAYS | UNPENALISED for maker in makers}
    cells = [
        Cell(
            f"activations/{slug(maker.arm.name)}-{slug(way)}",
            excite,
            {
                "maker": maker,
                "settings": settings,
                "others": tuple(each for each in everybody if each != maker),
                "clean_images": budget.described_images,
            },
        )
        for maker in makers
        for way, settings in ways[maker.arm.name].items()
    ]
    kept = iter(study.results("ascents", cells))
    found = {training: {way: next(kept) for way in of_training} for training, of_training in ways.items()}
    known = "; ".join(
        f"{each.name}: {float(accuracy['test_accuracy']):.1%}"
        for each, accuracy in zip(everybody, accuracies, strict=True)
    )
    views = _BOTH.transformations
    return Findings(
        title=f"Activation maximisation, {setup.data_name}",
        question="Do rotation and scaling during the ascent make images that other networks take for the class, and "
        "how do cross entropy, DRSL and adversarial training differ in what they draw?",
        method=(
            *setup.method[:2],
            f"Networks and their accuracy on test images: {known}. Images are made with seed 0 of each training, "
            f"{STARTS} for each class, from different noise; noise and views are the same for all. All networks but "
            "the one that made an image are held out.",
            "What is raised is the logit of the class above the mean of all logits, its gradient scaled to norm 1. "
            f"Ascent: {_BOTH.steps} steps of Adam, learning rate {_BOTH.learning_rate:g}, {_BOTH.parameterisation} "
            f"parameterisation, λ₂ = {_BOTH.l2:g}, λ_TV = {_BOTH.tv:g}; a new view at each step, rotation up to "
            f"±{views.rotation:g}°, scaling up to a factor of {1 + views.scaling:g}. These are the defaults of "
            "`softrisk visualize activations`.",
            "Intervals: 95 %, bootstrap over noise and classes (crossed), for these networks: what another training of "
            "the same kind would give is not covered.",
        ),
        tables=[_transfer(found), _figures(found), *(_by_judge(each, found, everybody) for each in makers)],
        pictures=_pictures(setup, found),
        facts={
            "classes": rows_of(task.data)[0].classes,
            "found": {
                maker.arm.name: {
                    "held_out": [each.name for each in everybody if each != maker],
                    "ways": {way: _without_images(kept) for way, kept in found[maker.arm.name].items()},
                }
                for maker in makers
            },
        },
    )


def networks(task: Task, inner_steps: int, seeds: int) -> tuple[tuple[Network, ...], tuple[Network, ...]]:
    """Those that make images, one of each training, and others that only judge.

    Args:
        task: Data and architecture.
        inner_steps: Steps of PGD inside adversarial training.
        seeds: Of cross entropy; all but 0 judge, and so does the other architecture, if it takes such images.
    """
    hardened = against(Adversary("pgd", task.training_epsilon, inner_steps), CE)
    flat = drsl("squared", architecture(task.architecture).tau)
    makers = tuple(Network(task, arm, 0) for arm in (CE, flat, hardened))
    judges = [Network(task, CE, seed) for seed in range(1, seeds)]
    if min(rows_of(task.data)[0].input_shape[1:]) >= SMALLEST_FOR_BOTH:
        other = "resnet" if task.architecture == "small-cnn" else "small-cnn"
        judges.append(Network(replace(task, architecture=other), CE, 0))
    return makers, tuple(judges)


def excite(work: Path, maker: Network, settings: Settings, others: tuple[Network, ...], clean_images: int) -> Kept:
    """A cell: images for all classes, and what there is to say of them.

    Args:
        work: The working folder.
        maker: Makes the images.
        settings: Of the ascent.
        others: Judge them.
        clean_images: Test images, whose logits are the unit of strength.

    Returns:
        `images`, shape (classes, `STARTS`, C, H, W); `strength`, the logit of the class above the mean of all, 1 being
        that of clean test images of the class, shape (classes, `STARTS`); `transfer`, the probability that the others
        give the class, and `judged`, the strength in these, shape (others, classes, `STARTS`); and all of `Quality`.
    """
    data, _ = rows_of(maker.task.data)
    model = trained(work, maker.task, maker.arm, maker.seed)
    assert isinstance(model, Classifier)  # no arm here has a temperature
    targets = class_targets(data.classes, data.classes)
    images = maximise(model, data.input_shape, targets, range(STARTS), settings)
    judges = [trained(work, other.task, other.arm, other.seed) for other in others]
    return {
        "images": images.numpy(),
        "strength": _strength(model, images, maker.task, clean_images),
        "transfer": np.stack([transfer(judge, images, targets) for judge in judges]),
        "judged": np.stack([_strength(judge, images, maker.task, clean_images) for judge in judges]),
        **measure(model, images, targets)._asdict(),
    }


def _strength(model: nn.Module, images: Tensor, task: Task, clean_images: int) -> NDArray[np.float64]:
    """Shape (classes, `STARTS`)."""
    inputs, labels = test_sample(task, clean_images)
    classes = np.arange(len(images))
    clean = _above_mean(logits_of(model, inputs))[np.arange(len(labels)), labels]
    unit = np.array([clean[labels == label].mean() for label in classes])
    excited = _above_mean(logits_of(model, images.flatten(0, 1).numpy()))
    of_classes = excited[np.arange(len(excited)), np.repeat(classes, images.shape[1])]
    strength: NDArray[np.float64] = of_classes.reshape(images.shape[:2]) / unit[:, None]
    return strength


def _above_mean(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    above: NDArray[np.float64] = logits - logits.mean(axis=1, keepdims=True, dtype=np.float64)
    return above


def _transfer(found: Found) -> Section:
    rows = []
    for training, ways in found.items():
        for way, kept in ways.items():
            row = [training, way]
            for score in (transferred, carried_over):
                reached = score(kept)
                gain = reached - score(ways[NONE])
                row += [_share(reached), "" if way == NONE else f"{_share(gain, '+')}, {verdict(gain)}"]
            rows.append(tuple(row))
    return Section(
        title="Do other networks see the class?",
        columns=("training", "transformations", "transfer, %", "against none", "carried over, %", "against none"),
        rows=tuple(rows),
        note="Transfer: probability that held-out networks give the class. Carried over: strength in them as a share "
        "of the mean strength in the network that the images were made with, where strength is the logit of the class "
        "above the mean of all logits, in units of clean test images of the class. Means over held-out networks, "
        "classes and starts, with 95 % intervals; differences are between images of the same class and noise. "
        "Better: the whole interval is above 0.",
        prose=True,
    )


def transferred(kept: Kept) -> NDArray[np.float64]:
    """Mean probability over held-out networks, shape (`STARTS`, classes)."""
    mean: NDArray[np.float64] = kept["transfer"].mean(axis=0).T
    return mean


def carried_over(kept: Kept) -> NDArray[np.float64]:
    """Mean strength over held-out networks as a share of the maker's own mean, shape (`STARTS`, classes)."""
    share: NDArray[np.float64] = kept["judged"].mean(axis=0).T / kept["strength"].mean()
    return share


def verdict(gain: NDArray[np.float64]) -> str:
    """What an interval says of a difference, shape (`STARTS`, classes)."""
    low, high = crossed_bootstrap(gain)
    return "better" if low > 0 else "worse" if high < 0 else "not shown"


def _share(values: NDArray[np.float64], sign: str = "") -> str:
    low, high = crossed_bootstrap(values)
    return f"{values.mean() * 100:{sign}.1f} ({low * 100:.1f} … {high * 100:.1f})"


def _figures(found: Found) -> Section:
    rows = []
    for training, ways in found.items():
        for way, kept in ways.items():
            means = [plain(kept[name].mean(axis=0)) for name in ("probability", "strength")]
            # Medians: an ascent that failed has next to nothing to keep a share of.
            shares = [plain(np.median(kept[name], axis=0)) for name in ("kept", "kept_at_worst")]
            grain = [plain(kept[name].mean(axis=0)) for name in ("fine_energy", "total_variation")]
            rows.append((training, way, *means, *shares, *grain, f"{kept['likeness'].mean():.2f}"))
    return Section(
        title="What the images are like",
        columns=(
            "training",
            "transformations",
            "own probability",
            "own strength",
            "kept",
            "kept at worst",
            "fine energy",
            "total variation",
            "likeness",
        ),
        rows=tuple(rows),
        note="Own: in the network that the images were made with. Kept: share of the strength that is left from "
        f"{len(ANGLES)} angles up to ±{max(ANGLES):g}° times {len(FACTORS)} scales of {min(FACTORS):g} to "
        f"{max(FACTORS):g}, mean and worst of them, median over classes; the ascent has drawn none of these views. "
        "Fine energy: share in waves shorter than four pixels. Likeness: correlation of two images of a class from "
        f"different noise. ± is the standard deviation over {STARTS} starts.",
        prose=True,
    )


def _by_judge(maker: Network, found: Found, everybody: Sequence[Network]) -> Section:
    return Section(
        title=f"Images of {maker.arm.name}: transfer to each held-out network, %",
        columns=("transformations", *(each.name for each in everybody if each != maker)),
        rows=tuple((way, *percents(kept["transfer"].mean(axis=(1, 2)))) for way, kept in found[maker.arm.name].items()),
    )


def percents(shares: NDArray[np.float64]) -> list[str]:
    """Each as `85.2`."""
    return [f"{share * 100:.1f}" for share in shares]


def _pictures(setup: Setup, found: Found) -> list[Picture]:
    classes = rows_of(setup.task.data)[0].classes

    def sheet(kept: Mapping[str, Kept]) -> Figure:
        return contact_sheet(
            np.stack([each["images"][:, 0] for each in kept.values()]),
            list(kept),
            classes,
            [percents(transferred(each)[0]) for each in kept.values()],
        )

    caption = "First start; below each image its transfer, %."
    twins = {training: ways[BOTH] for training, ways in found.items()}
    return [
        Picture("twins.png", f"The trainings side by side, rotation and scaling. {caption}", sheet(twins)),
        *(
            Picture(f"ways-{index}.png", f"Images of {training}, made in each way. {caption}", sheet(ways))
            for index, (training, ways) in enumerate(found.items())
        ),
    ]


def _without_images(kept: Kept) -> Kept:
    return {name: values for name, values in kept.items() if name != "images"}

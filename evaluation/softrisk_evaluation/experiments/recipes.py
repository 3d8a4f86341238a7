"""What is trained for a data set, and how much is measured, unless the user says otherwise."""

from dataclasses import replace
from typing import Final

from softrisk_attacks.suite import Effort
from softrisk_evaluation.experiments.arms import CE, GCE, PUBLISHED, WEIGHTS
from softrisk_evaluation.experiments.setup import Budget
from softrisk_evaluation.experiments.task import Task, rows_of

GREY_EPSILONS: Final = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
COLOUR_EPSILONS: Final = (0.5 / 255, 1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255)

GREY: Final = Budget(
    published=PUBLISHED,
    weights=WEIGHTS,
    adversaries=("pgd", "trades", "fast"),
    seeds=3,
    sweep_images=300,
    images=100,
    effort=Effort(steps=50, restarts=1, targets=5, rounds=4, queries=1000, draws=200, subset=25),
    headline_images=200,
    headline_effort=Effort(steps=100, restarts=2, targets=9, rounds=4, queries=2500, draws=300, subset=40),
    described_images=300,
    inner_steps=5,
    scenes=20_000,
)
"""What two CPU cores do in half an hour or an hour for each experiment on grey images."""

COLOUR: Final = replace(
    GREY,
    published=(CE, GCE),
    weights={"squared": (0.001, 0.01, 0.1, 0.3, 1, 10)},
    adversaries=("pgd",),
    seeds=2,
    headline_images=500,
    headline_effort=Effort(steps=50, restarts=1, targets=9, rounds=3, queries=1000, draws=200, subset=25),
)
"""The same for a network that takes ten times as long: fewer arms, and one form of DRSL."""

SECONDS: Final = Budget(
    published=(CE, GCE),
    weights={"logit": (0.1, 1), "authors": (0.1, 1)},
    adversaries=("pgd",),
    seeds=2,
    sweep_images=40,
    images=24,
    effort=Effort(steps=5, restarts=1, targets=2, rounds=2, queries=50, draws=20, subset=4),
    headline_images=30,
    headline_effort=Effort(steps=5, restarts=1, targets=2, rounds=2, queries=50, draws=20, subset=4),
    described_images=40,
    inner_steps=2,
    scenes=300,
)
"""What shows that an experiment runs, and nothing else."""


def recipe(data: str) -> tuple[Task, Budget]:
    """Network, radii and budget that suit the images: those of MNIST for grey ones, of CIFAR-10 for coloured ones.

    Args:
        data: Location for `load_data`.

    Raises:
        DataError: If the data cannot be read.
    """
    images, _ = rows_of(data)
    if images.input_shape[0] == 1:
        grey = Task(
            data=data,
            architecture="small-cnn",
            width=16,
            epochs=5,
            augmentation="none",
            epsilon=0.1,
            epsilons=GREY_EPSILONS,
            training_epsilon=0.2,
        )
        return grey, GREY
    colour = Task(
        data=data,
        architecture="resnet",
        width=16,
        epochs=6,
        augmentation="crop-flip",
        epsilon=1 / 255,
        epsilons=COLOUR_EPSILONS,
        training_epsilon=8 / 255,
    )
    return colour, COLOUR

"""What every experiment is given: where it keeps its cells, what it trains, and how much it may spend."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from softrisk_attacks.suite import Effort
from softrisk_evaluation.experiments.study import Study
from softrisk_evaluation.experiments.task import BATCH_SIZE, Arm, Task, rows_of
from softrisk_training.adversarial import AdversaryKind
from softrisk_training.data import Splits
from softrisk_training.losses import DRSLForm


@dataclass(frozen=True)
class Budget:
    """How much is measured.

    Attributes:
        published: Losses that DRSL is compared with; the first is CE.
        weights: Of DRSL, that are tried for each of its forms.
        adversaries: Kinds of adversarial training.
        seeds: Trainings of each arm.
        sweep_images: Selection rows that are attacked where a weight is chosen.
        images: Test images that are attacked for each arm.
        effort: Of the full suite on these.
        headline_images: Test images that are attacked for the few arms that a page is about.
        headline_effort: Of the full suite on these.
        described_images: Test images on which answers are described: distributions, correlations, pictures.
        inner_steps: Steps of PGD inside adversarial training.
        scenes: That a captioner is trained on.
    """

    published: tuple[Arm, ...]
    weights: Mapping[DRSLForm, tuple[float, ...]]
    adversaries: tuple[AdversaryKind, ...]
    seeds: int
    sweep_images: int
    images: int
    effort: Effort
    headline_images: int
    headline_effort: Effort
    described_images: int
    inner_steps: int
    scenes: int

    def within(self, splits: Splits) -> "Budget":
        """No more images than there are, so that a page says how many were attacked."""
        test = len(splits.test)
        return replace(
            self,
            sweep_images=min(self.sweep_images, len(splits.selection)),
            images=min(self.images, test),
            headline_images=min(self.headline_images, test),
            described_images=min(self.described_images, test),
        )


def in_words(effort: Effort) -> str:
    """What the full suite is."""
    e = effort
    subset = "all" if e.subset is None else f"the first {e.subset}"
    return (
        f"noise ({e.draws:,} draws), FGSM, PGD and margin APGD ({e.steps} steps × {e.restarts}), APGD on cross entropy "
        f"and on scaled cross entropy ({e.steps} steps), targeted APGD ({e.steps} steps × {e.targets} targets), "
        f"bisected APGD ({e.rounds} rounds of {max(1, e.steps // 3)} steps), transfer, Square ({e.queries:,} queries); "
        f"DeepFool, C&W and HopSkipJump ({e.queries:,} queries) on {subset} images"
    )


def sampling_error(images: int) -> str:
    """What ± does not say."""
    return (
        f"± is the standard deviation over seeds. The images are a sample, too: a share of 80 % of {images} images is "
        f"known to ±{1.96 * math.sqrt(0.8 * 0.2 / images) * 100:.0f} points (95 %), though arms are compared on the "
        "same images."
    )


@dataclass(frozen=True)
class Setup:
    """One experiment's surroundings.

    Attributes:
        study: Keeps cells.
        task: What is trained.
        budget: How much is measured.
    """

    study: Study
    task: Task
    budget: Budget

    @property
    def seeds(self) -> range:
        """Of initialisation, row order and attacks."""
        return range(self.budget.seeds)

    @cached_property
    def data_name(self) -> str:
        """What the data are, for titles."""
        return rows_of(self.task.data)[0].source

    @cached_property
    def method(self) -> tuple[str, ...]:
        """What holds for all figures of this setup."""
        _, splits = rows_of(self.task.data)
        task = self.task
        return (
            f"{len(splits.training):,} training, {len(splits.selection):,} selection and {len(splits.test):,} test "
            "images of one split for all arms and seeds; choices are made on selection rows only.",
            f"{task.architecture}, {task.width} filters in the first layer, {task.epochs} epochs, batches of "
            f"{BATCH_SIZE}, augmentation {task.augmentation}, forward pass of the training in bfloat16.",
            "Attacks are ℓ∞ on pixels in [0, 1] in float32; an image that is wrong without an attack counts as wrong.",
        )

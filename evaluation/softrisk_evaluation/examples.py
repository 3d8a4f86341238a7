"""A few inputs to look at: chosen by a rule, so that nobody picks the flattering ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from softrisk_attacks.attack import Attack
from softrisk_core.groups import Grouping
from softrisk_evaluation.artifact import Answers, Artifact
from softrisk_evaluation.levels import p_values
from softrisk_evaluation.subject import CleanData
from softrisk_evaluation.under_attack import Attacked, strongest

_PLACES: Final = ("with the smallest p-value", "with the median p-value", "with the largest p-value")


@dataclass(frozen=True)
class View:
    """One input as the artifact sees it.

    Attributes:
        image: Shape (C, H, W), in [0, 1].
        label: Predicted class.
        rank: Conformal rank.
        probabilities: Softmax, shape (classes,).
    """

    image: NDArray[np.float32]
    label: int
    rank: int
    probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Example:
    """An input and, if there is one, its attacked twin.

    Attributes:
        place: Where it stands among those that it was chosen from.
        row: Its number in the data.
        truth: Its class.
        clean: Without an attack.
        attacked: Under it; None if nothing was attacked with success.
    """

    place: str
    row: int
    truth: int
    clean: View
    attacked: View | None


@dataclass(frozen=True)
class Examples:
    """What is shown, and of which attack.

    Attributes:
        attack: The one with the most successes; None if none succeeded, and clean inputs are shown.
        shown: At most three.
    """

    attack: Attack | None
    shown: tuple[Example, ...]


def choose_examples(
    artifact: Artifact,
    grouping: Grouping,
    test: CleanData,
    clean: Answers,
    chosen: NDArray[np.int64],
    attacked: Sequence[Attacked],
) -> Examples:
    """The inputs with the smallest, the median and the largest p-value: found, typical, and missed.

    Args:
        artifact: Tells the softmax, which answers do not keep.
        grouping: Of its calibration.
        test: Clean test inputs.
        clean: Answers about all of them.
        chosen: Positions in `test` of those that were attacked.
        attacked: What came of it.
    """
    most = strongest(attacked)
    if most is None:
        return Examples(None, tuple(_clean_examples(artifact, grouping, test, clean)))
    examples = []
    for place, position in _spread(p_values(most.answers, grouping), np.flatnonzero(most.successful)):
        before = _view(artifact, test.inputs, clean, int(chosen[position]))
        after = _view(artifact, most.outcome.inputs, most.answers, position)
        row = chosen[position]
        examples.append(Example(place, int(test.rows[row]), int(test.labels[row]), before, after))
    return Examples(most.attack, tuple(examples))


def _clean_examples(artifact: Artifact, grouping: Grouping, test: CleanData, clean: Answers) -> list[Example]:
    return [
        Example(place, int(test.rows[row]), int(test.labels[row]), _view(artifact, test.inputs, clean, row), None)
        for place, row in _spread(p_values(clean, grouping), np.arange(len(clean.rank)))
    ]


def _spread(values: NDArray[np.float64], positions: NDArray[np.int64]) -> list[tuple[str, int]]:
    """First, median and last of these positions by p-value; of fewer than three there is no median to show."""
    ordered = positions[np.argsort(values[positions], kind="stable")]
    at = dict(zip(_PLACES, (0, len(ordered) // 2, len(ordered) - 1), strict=True))
    kept = {index: place for place, index in at.items()}
    return [(place, int(ordered[index])) for index, place in sorted(kept.items())]


def _view(artifact: Artifact, inputs: NDArray[np.float32], answers: Answers, position: int) -> View:
    image = inputs[position]
    return View(
        image=image,
        label=int(answers.label[position]),
        rank=int(answers.rank[position]),
        probabilities=softmax(artifact.logits(image[None])[0].astype(np.float64)),
    )

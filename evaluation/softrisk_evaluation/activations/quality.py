"""How good activating images are: to the network that they were made with, to other networks, and to the eye."""

from collections.abc import Sequence
from itertools import product
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_evaluation.activations.measures import fine_energy, likeness, total_variation
from softrisk_evaluation.activations.targets import Target, answers, strengths
from softrisk_evaluation.activations.transformations import Views, transform

ANGLES: Final = (-20.0, -10.0, 0.0, 10.0, 20.0)
"""Degrees; no draw hits them but by chance."""

FACTORS: Final = (0.8, 0.9, 1.0, 1.1, 1.25)

Floats = NDArray[np.float64]


class Quality(NamedTuple):
    """Figures of the images of T targets with S seeds each.

    Attributes:
        score: Logit of the class, or mean activation of the unit, shape (T, S).
        probability: Of the class, by softmax; NaN for a unit; shape (T, S).
        predicted: The most likely class, shape (T, S).
        kept: The score from `ANGLES` × `FACTORS`, as a share of that of the image as it is, mean; shape (T, S). Here
            that of a class is counted from the mean of the logits, so that neither their zero nor their scale makes a
            difference between networks.
        kept_at_worst: The smallest of these shares, shape (T, S).
        fine_energy: Share of the energy in waves shorter than four pixels, shape (T, S).
        total_variation: Mean absolute difference of neighbouring pixels, shape (T, S).
        likeness: Mean correlation of two images of a target, shape (T,); NaN for one seed.
    """

    score: Floats
    probability: Floats
    predicted: NDArray[np.int64]
    kept: Floats
    kept_at_worst: Floats
    fine_energy: Floats
    total_variation: Floats
    likeness: Floats


def measure(model: nn.Module, images: Tensor, targets: Sequence[Target]) -> Quality:
    """All that can be said without another network.

    Args:
        model: That the images were made with.
        images: From `maximise`, on the device of the model, shape (T, S, C, H, W).
        targets: What they are to excite, T of them.
    """
    shape = images.shape[:2]
    flat = images.flatten(0, 1)
    wanted = [target for target in targets for _ in range(shape[1])]
    with torch.inference_mode():
        score, logits = answers(model, flat, wanted)
        straight = strengths(model, flat, wanted)
        seen = torch.stack([strengths(model, transform(flat, view), wanted) for view in _grid(len(flat))])
    kept = seen / straight

    def table(values: Tensor) -> NDArray[np.float64]:
        return values.double().cpu().numpy().reshape(shape)

    return Quality(
        score=table(score),
        probability=transfer(model, images, targets),
        predicted=logits.argmax(dim=1).cpu().numpy().reshape(shape),
        kept=table(kept.mean(dim=0)),
        kept_at_worst=table(kept.amin(dim=0)),
        fine_energy=table(fine_energy(flat)),
        total_variation=table(total_variation(flat)),
        likeness=likeness(images) if shape[1] > 1 else np.full(shape[0], np.nan),
    )


def transfer(model: nn.Module, images: Tensor, targets: Sequence[Target]) -> Floats:
    """The probability that a network gives the class that an image was made for.

    Args:
        model: With the classes of the network that the images were made with.
        images: Shape (T, S, C, H, W).
        targets: T of them.

    Returns:
        Shape (T, S); NaN for units, which another network does not have.
    """
    with torch.inference_mode():
        probabilities = torch.softmax(model(images.flatten(0, 1)).double(), dim=1).cpu().numpy()
    of_targets = probabilities.reshape(*images.shape[:2], -1)
    return np.stack(
        [
            rows[:, target.channel] if target.is_class else np.full(len(rows), np.nan)
            for rows, target in zip(of_targets, targets, strict=True)
        ]
    )


def _grid(count: int) -> list[Views]:
    """For each place of the grid a view for each image."""
    return [
        Views(np.full(count, angle), np.full(count, factor), np.zeros((count, 2)))
        for angle, factor in product(ANGLES, FACTORS)
    ]

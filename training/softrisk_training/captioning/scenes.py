"""Scenes: two images of a labelled data set beside or above each other, with the caption that says so."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_training.captioning.language import Language
from softrisk_training.data import ImageData, Images, Splits

TEST_SCENES: Final = 1000
_TEST_SEED: Final = 0


@dataclass(frozen=True)
class CaptionedImages(Images):
    """Images with one caption each.

    Attributes:
        captions: Shape (N, T), int64: tokens, the end, and then `IGNORED`.
    """

    captions: NDArray[np.int64]


def compose(data: ImageData, rows: NDArray[np.int64], count: int, seed: int) -> CaptionedImages:
    """Draw scenes: which two images, which way, and how far each is moved across it.

    Args:
        data: Where the images are, of shape (C, H, W) each.
        rows: Which of them may be drawn.
        count: Of the scenes.
        seed: Decides everything random.

    Returns:
        Images of shape (count, C, 2H, 2W), black where no image lies.
    """
    language = Language.of(data.classes)
    generator = np.random.default_rng(seed)
    pairs = generator.choice(rows, (count, 2))
    vertical = generator.random(count) < 0.5
    channels, height, width = data.input_shape
    shifts = generator.integers(0, [[height + 1], [width + 1]], (count, 2, 2))
    images = np.zeros((count, channels, 2 * height, 2 * width), dtype=data.images.dtype)
    captions = []
    for scene, pair, upright, moved in zip(images, pairs, vertical, shifts, strict=True):
        for place, row in enumerate(pair):
            top, left = (place * height, moved[1, place]) if upright else (moved[0, place], place * width)
            scene[:, top : top + height, left : left + width] = data.images[row]
        near, far = data.labels[pair]
        captions.append(language.describe(int(near), int(far), vertical=bool(upright)))
    return CaptionedImages(images, f"scenes of {data.source}", data.location, language.encode(captions))


def held_out_scenes(data: ImageData, splits: Splits) -> CaptionedImages:
    """The scenes of test rows that captioners are judged on: the same ones for the same split."""
    return compose(data, splits.test, TEST_SCENES, _TEST_SEED)

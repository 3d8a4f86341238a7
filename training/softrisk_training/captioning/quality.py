"""What a captioner writes, and how much of it is right."""

from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from softrisk_training.captioning.captioner import Captioner, generate
from softrisk_training.captioning.scenes import CaptionedImages
from softrisk_training.losses import IGNORED

BATCH: Final = 250


class Quality(NamedTuple):
    """Of greedy captions.

    Attributes:
        exact_match: Share of the captions that are their references token by token, in [0, 1].
        token_accuracy: Share of the tokens of the references that a caption has in the same place, in [0, 1].
    """

    exact_match: float
    token_accuracy: float


def measure(model: Captioner, data: CaptionedImages) -> Quality:
    """What a captioner makes of captioned images; it is left in eval mode."""
    captions, _ = write_captions(model, data.inputs(np.arange(len(data.images))))
    return Quality(float(exact_matches(captions, data.captions).mean()), token_accuracy(captions, data.captions))


def write_captions(model: Captioner, images: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Write captions greedily, in eval mode.

    Args:
        model: Left in eval mode.
        images: Shape (N, C, H, W), in [0, 1].

    Returns:
        Captions, shape (N, longest), and the logits of their tokens, shape (N, longest, words).
    """
    model.eval()
    device = next(model.parameters()).device
    parts = [
        generate(model, torch.from_numpy(images[start : start + BATCH]).to(device))
        for start in range(0, len(images), BATCH)
    ]
    return (
        torch.cat([part.captions for part in parts]).cpu().numpy(),
        torch.cat([part.logits for part in parts]).cpu().numpy(),
    )


def exact_matches(captions: NDArray[np.int64], references: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which captions are their references token by token, shape (N,); both of shape (N, T)."""
    matches: NDArray[np.bool_] = (captions == references).all(axis=1)
    return matches


def token_accuracy(captions: NDArray[np.int64], references: NDArray[np.int64]) -> float:
    """Share of the tokens of the references, in [0, 1], that a caption has in the same place."""
    kept = references != IGNORED
    return float((captions == references)[kept].mean())

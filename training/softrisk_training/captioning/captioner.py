"""What a captioner is, and how it writes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softrisk_training.losses import IGNORED


class Captioner(nn.Module, ABC):
    """An encoder of images and an autoregressive decoder of tokens, with the normalisation inside.

    Training, attacks and diagnostics need no more of a model than this.

    Args:
        begin: The token that every caption is written after.
        end: The token that ends it.
        longest: Tokens of the longest caption, its end included.
    """

    def __init__(self, begin: int, end: int, longest: int) -> None:
        super().__init__()
        self.begin = begin
        self.end = end
        self.longest = longest

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """What the decoder attends to, shape (B, places, features), of images (B, C, H, W) in [0, 1]."""

    @abstractmethod
    def decode(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the token after each, shape (B, T, words); they depend on no later one.

        Args:
            states: From `encode`.
            tokens: Shape (B, T), the first of which is `begin`.
        """

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        """Logits of each token of a caption after all before it: teacher forcing.

        Args:
            images: Shape (B, C, H, W), in [0, 1].
            captions: Shape (B, T): tokens, the end, and then `IGNORED`.

        Returns:
            Shape (B, T, words).
        """
        begin = captions.new_full((len(captions), 1), self.begin)
        before = captions[:, :-1].masked_fill(captions[:, :-1] == IGNORED, self.end)
        return self.decode(self.encode(images), torch.cat([begin, before], dim=1))


@dataclass(frozen=True)
class Generated:
    """Captions that a model wrote.

    Attributes:
        captions: Shape (B, longest): tokens, the end if it came in time, and then `IGNORED`.
        logits: That each token was the largest of, shape (B, longest, words); 0 where nothing was written.
    """

    captions: Tensor
    logits: Tensor


@torch.no_grad()
def generate(model: Captioner, images: Tensor) -> Generated:
    """Write captions greedily: at each position the most likely token.

    Args:
        model: In eval mode.
        images: Shape (B, C, H, W), in [0, 1].
    """
    states = model.encode(images)
    written = torch.full((len(images), 1), model.begin, device=images.device)
    unfinished = torch.ones(len(images), dtype=torch.bool, device=images.device)
    captions: list[Tensor] = []
    logits: list[Tensor] = []
    while len(captions) < model.longest and bool(unfinished.any()):
        # Everything is decoded anew for each token: captions are short, and every decoder can do it.
        following = model.decode(states, written)[:, -1]
        token = following.argmax(dim=1)
        captions.append(token.masked_fill(~unfinished, IGNORED))
        logits.append(following * unfinished[:, None])
        written = torch.cat([written, token[:, None]], dim=1)
        unfinished = unfinished & (token != model.end)
    missing = model.longest - len(captions)
    return Generated(
        F.pad(torch.stack(captions, dim=1), (0, missing), value=IGNORED),
        F.pad(torch.stack(logits, dim=1), (0, 0, 0, missing)),
    )

"""The small captioner: a convolutional encoder and a transformer decoder, from scratch."""

from collections.abc import Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn

from softrisk_training.captioning.captioner import Captioner
from softrisk_training.captioning.language import LONGEST, Language
from softrisk_training.models import InputShape

GRID: Final = 7
"""The encoder halves the image until neither side has more places than this."""

HEADS: Final = 4
LAYERS: Final = 2


class SceneCaptioner(Captioner):
    """Describes small images in a small vocabulary.

    Encoder: 5×5 convolutions of stride 2 until a grid of at most 7×7 places is left, each with twice as many filters,
    up to 4 · `width`; a 3×3 convolution; learnt positions. Decoder: two pre-norm transformer layers of 4 · `width`
    features and four heads, which attend to the tokens so far and to the places.

    Args:
        input_shape: (channels, height, width) of the images.
        words: Size of the vocabulary.
        begin: The token before every caption.
        end: The token after the last word.
        longest: Tokens of the longest caption, its end included.
        width: Filters of the first convolution.
        mean: Of each channel, in [0, 1].
        std: Of each channel, > 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        input_shape: InputShape,
        words: int,
        begin: int,
        end: int,
        longest: int,
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(begin, end, longest)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        channels, rows, columns = input_shape
        features = 4 * width
        layers: list[nn.Module] = []
        filters = width
        while max(rows, columns) > GRID:
            # The stride halves the work, too, which a pool after the convolution would not.
            layers += [nn.Conv2d(channels, filters, 5, stride=2, padding=2), nn.ReLU()]
            channels, rows, columns = filters, (rows + 1) // 2, (columns + 1) // 2
            filters = min(2 * filters, features)
        self.convolutions = nn.Sequential(*layers, nn.Conv2d(channels, features, 3, padding=1))
        self.places = nn.Parameter(0.02 * torch.randn(rows * columns, features))
        self.embedding = nn.Embedding(words, features)
        self.positions = nn.Parameter(0.02 * torch.randn(longest, features))
        layer = nn.TransformerDecoderLayer(
            features, HEADS, 2 * features, dropout=0.0, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, LAYERS, norm=nn.LayerNorm(features))
        self.output = nn.Linear(features, words)

    def encode(self, images: Tensor) -> Tensor:
        """One state for each place, shape (B, rows · columns, features)."""
        features: Tensor = self.convolutions((images - self.mean) / self.std)
        return features.flatten(start_dim=2).transpose(1, 2) + self.places

    def decode(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the token after each, shape (B, T, words)."""
        length = tokens.shape[1]
        later = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        embedded = self.embedding(tokens) + self.positions[:length]
        return cast(Tensor, self.output(self.decoder(embedded, states, tgt_mask=later)))


def scene_captioner(
    language: Language, input_shape: InputShape, width: int, mean: Sequence[float], std: Sequence[float]
) -> SceneCaptioner:
    """A freshly initialised captioner of scenes.

    Args:
        language: Its words.
        input_shape: (channels, height, width) of the scenes.
        width: Filters of the first convolution.
        mean: Of each channel of the training scenes.
        std: Of each channel of the training scenes.
    """
    return SceneCaptioner(input_shape, len(language.words), language.begin, language.end, LONGEST, width, mean, std)

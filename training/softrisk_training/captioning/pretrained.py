"""Hugging Face checkpoints of an image encoder with a text decoder, such as ViT with GPT-2, as captioners.

Needs the extra `captions`. Nothing is downloaded unless the location names a repository of the hub.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_core.errors import MissingExtraError
from softrisk_training.captioning.captioner import Captioner
from softrisk_training.errors import CheckpointError, TrainingError
from softrisk_training.losses import IGNORED

LONGEST: Final = 32
"""Tokens of a caption, its end included, unless the caller wants another number."""


class PretrainedCaptioner(Captioner):
    """A `VisionEncoderDecoderModel` behind the interface of a captioner.

    Args:
        network: The model; `network.save_pretrained` writes what fine-tuning made of it.
        mean: Of each channel, as its image processor subtracts it from pixels in [0, 1].
        std: Of each channel, by which it then divides.
        begin: Token that its decoder starts with.
        end: Token that ends a caption.
        longest: Tokens of the longest caption, its end included.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], begin: int, end: int, longest: int
    ) -> None:
        super().__init__(begin, end, longest)
        self.network = network
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def encode(self, images: Tensor) -> Tensor:
        """The encoder's last hidden state; images must have the size that the encoder takes."""
        encoder = cast(Any, self.network).encoder
        return cast(Tensor, encoder(pixel_values=(images - self.mean) / self.std).last_hidden_state)

    def decode(self, states: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the token after each, shape (B, T, words)."""
        answer = self.network(encoder_outputs=(states,), decoder_input_ids=tokens, use_cache=False)
        return cast(Tensor, answer.logits)


class Pretrained(NamedTuple):
    """A checkpoint as it was loaded.

    Attributes:
        captioner: In eval mode.
        tokenizer: From text to tokens and back.
        size: (height, width) of the images that the encoder takes.
    """

    captioner: PretrainedCaptioner
    tokenizer: Any
    size: tuple[int, int]


def load_pretrained(location: str, longest: int = LONGEST) -> Pretrained:
    """Load a vision-encoder-decoder checkpoint.

    Args:
        location: A folder that `save_pretrained` of model, tokenizer and image processor wrote, or a repository of the
            hub, such as nlpconnect/vit-gpt2-image-captioning.
        longest: Tokens of the longest caption, its end included.

    Raises:
        MissingExtraError: If transformers is not installed.
        CheckpointError: If there is no such checkpoint, or it lacks what a captioner needs.
    """
    try:
        import transformers
        from transformers.image_processing_base import ImageProcessingMixin
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"pre-trained captioners need {error.name}, which is not installed: pip install 'softrisk[captions]'"
        ) from error
    try:
        network = transformers.VisionEncoderDecoderModel.from_pretrained(location)
        tokenizer = transformers.AutoTokenizer.from_pretrained(location)
        pixels, _ = ImageProcessingMixin.get_image_processor_dict(location)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{location} cannot be read as a vision-encoder-decoder checkpoint: {error}") from error
    begin, end = network.config.decoder_start_token_id, tokenizer.eos_token_id
    if begin is None or end is None:
        raise CheckpointError(
            f"{location}: a captioner needs a token to start with and one to end with; set decoder_start_token_id in"
            " the configuration and eos_token in the tokenizer"
        )
    if not {"image_mean", "image_std"} <= pixels.keys():
        raise CheckpointError(f"{location}: the preprocessor configuration lacks image_mean or image_std")
    captioner = PretrainedCaptioner(network, pixels["image_mean"], pixels["image_std"], begin, end, longest)
    side = network.config.encoder.image_size
    return Pretrained(captioner.eval(), tokenizer, (side, side) if isinstance(side, int) else tuple(side))


def tokenise(pretrained: Pretrained, captions: Sequence[str]) -> NDArray[np.int64]:
    """Captions as `fit` and the attacks take them: tokens, the end, and then `IGNORED`, shape (N, longest).

    The authors of PRSL pad with the end instead, which then counts as a word in cross entropy and penalty.

    Raises:
        TrainingError: If a caption is too long.
    """
    longest, end = pretrained.captioner.longest, pretrained.captioner.end
    tokens = np.full((len(captions), longest), IGNORED, dtype=np.int64)
    for row, caption in zip(tokens, captions, strict=True):
        ids = [*pretrained.tokenizer(caption, add_special_tokens=False)["input_ids"], end]
        if len(ids) > longest:
            raise TrainingError(f"the caption {caption!r} has {len(ids)} tokens with its end, more than {longest}")
        row[: len(ids)] = ids
    return tokens


def to_text(pretrained: Pretrained, captions: NDArray[np.int64]) -> list[str]:
    """Captions as text, of tokens as `tokenise` and `generate` give them."""
    end = pretrained.captioner.end
    kept = [[token for token in row.tolist() if token not in (IGNORED, end)] for row in captions]
    return [str(pretrained.tokenizer.decode(each)).strip() for each in kept]

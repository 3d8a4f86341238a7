"""Hugging Face checkpoints: a tiny random one, made here, is trained and attacked like any other captioner."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from softrisk_attacks.captions import CaptionAttack, attack_captions
from softrisk_training.captioning.pretrained import Pretrained, load_pretrained, to_text, tokenise
from softrisk_training.captioning.quality import exact_matches, write_captions
from softrisk_training.captioning.scenes import CaptionedImages
from softrisk_training.captioning.training import Schedule, fit
from softrisk_training.errors import CheckpointError, TrainingError
from softrisk_training.losses import IGNORED, PRSL

NEEDED = "needs transformers: pip install 'softrisk[captions]'"
transformers: Any = pytest.importorskip("transformers", reason=NEEDED)
tokenizers: Any = pytest.importorskip("tokenizers", reason=NEEDED)

WORDS = ("<end>", "<unknown>", "dark", "all", "is", "red", "blue", "white")
CAPTIONS = ("all is red", "all is blue", "dark")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT with a GPT-2 of 32 features, as `save_pretrained` writes it."""
    path = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    encoder = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=8, patch_size=4
    )
    decoder = transformers.GPT2Config(
        vocab_size=len(WORDS), n_positions=16, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 0, 0, 0
    transformers.VisionEncoderDecoderModel(config=config).save_pretrained(path)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: token for token, word in enumerate(WORDS)}, unk_token="<unknown>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", unk_token="<unknown>"
    ).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "ViTImageProcessor", "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    return path


@pytest.fixture
def pretrained(folder: Path) -> Pretrained:
    return load_pretrained(str(folder), longest=6)


def pictures(count: int) -> tuple[np.ndarray, list[str]]:
    """Images that are red, blue or dark, with their captions."""
    generator = np.random.default_rng(0)
    kinds = generator.integers(3, size=count)
    images = generator.uniform(0, 0.3, (count, 3, 8, 8)).astype(np.float32)
    images[kinds == 0, 0] += 0.6
    images[kinds == 1, 2] += 0.6
    return images, [CAPTIONS[kind] for kind in kinds]


def test_the_adapter_says_what_the_model_says(pretrained: Pretrained) -> None:
    captioner = pretrained.captioner
    assert (captioner.begin, captioner.end, captioner.longest, pretrained.size) == (0, 0, 6, (8, 8))
    images, texts = pictures(3)
    captions = tokenise(pretrained, texts)
    before = np.concatenate([np.zeros((3, 1), np.int64), np.where(captions < 0, 0, captions)[:, :-1]], axis=1)
    network: Any = captioner.network
    with torch.no_grad():
        ours = captioner(torch.from_numpy(images), torch.from_numpy(captions))
        theirs = network(
            pixel_values=torch.from_numpy(images) / 0.5 - 1, decoder_input_ids=torch.from_numpy(before)
        ).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_captions_are_tokens_with_an_end_and_padding(pretrained: Pretrained) -> None:
    tokens = tokenise(pretrained, CAPTIONS)
    assert tokens[2].tolist() == [WORDS.index("dark"), 0, IGNORED, IGNORED, IGNORED, IGNORED]
    assert to_text(pretrained, tokens) == list(CAPTIONS)
    with pytest.raises(TrainingError, match="has 7 tokens with its end, more than 6"):
        tokenise(pretrained, ["all is red is all blue"])


def test_it_is_fine_tuned_attacked_and_saved_like_any_other(pretrained: Pretrained, tmp_path: Path) -> None:
    captioner = pretrained.captioner
    images, texts = pictures(96)
    captions = tokenise(pretrained, texts)
    data = CaptionedImages(images, "made here", "nowhere", captions)
    schedule = Schedule(epochs=16, batch_size=16, learning_rate=5e-3)
    history = fit(captioner, data, PRSL("topk-mass", end=3, weight=0.1), schedule)
    assert history[-1]["loss"] < 0.3 * history[0]["loss"]
    written, _ = write_captions(captioner, images)
    right = exact_matches(written, captions)
    assert right.mean() > 0.9

    attack = CaptionAttack(0.4, steps=15, restarts=1)
    outcome = attack_captions(captioner, images[right][:8], captions[right][:8], attack, seed=0)
    after, _ = write_captions(captioner, outcome.images)
    np.testing.assert_array_equal(outcome.succeeded, ~exact_matches(after, captions[right][:8]))
    assert outcome.succeeded.any()

    network: Any = captioner.network
    network.save_pretrained(tmp_path)
    pretrained.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.5]}')
    again, _ = write_captions(load_pretrained(str(tmp_path), longest=6).captioner, images)
    np.testing.assert_array_equal(again, written)


def test_what_is_no_such_checkpoint_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read as a vision-encoder-decoder checkpoint"):
        load_pretrained(str(tmp_path))

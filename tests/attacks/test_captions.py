"""Attacks on captions: exact on a model of which everything is known, and true to what a decoder writes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.captions import CaptionAim, CaptionAttack, attack_captions
from softrisk_attacks.errors import AttackError

WORDS, LENGTH, PIXELS = 5, 4, 9


class Writer(nn.Module):
    """Linear in the image at each position, given the token before it."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn(LENGTH, WORDS, PIXELS, generator=generator))
        self.after = nn.Parameter(torch.randn(WORDS + 1, WORDS, generator=generator))

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        before = torch.cat([torch.full_like(captions[:, :1], WORDS), captions[:, :-1].clamp(min=0)], dim=1)
        return torch.einsum("twp,bp->btw", self.weights, images.flatten(start_dim=1)) + self.after[before]

    def write(self, images: Tensor) -> Tensor:
        captions = torch.zeros(len(images), LENGTH, dtype=torch.int64)
        for position in range(LENGTH):
            captions[:, position] = self(images, captions)[:, position].argmax(dim=1)
        return captions


Written = tuple[Writer, NDArray[np.float32], NDArray[np.int64]]


@pytest.fixture(scope="module")
def written() -> Written:
    """A model, images, and what it writes of them."""
    model = Writer().requires_grad_(False)
    images = torch.rand(24, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    return model, images.numpy(), model.write(images).numpy()


ATTACKS = [
    CaptionAttack(0.05, objective, targeted, steps=20) for objective in ("ce", "margin") for targeted in (False, True)
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_success_is_what_the_decoder_then_writes(written: Written, attack: CaptionAttack) -> None:
    model, images, captions = written
    wanted = np.roll(captions, 1, axis=0) if attack.targeted else captions
    attack = replace(attack, epsilon=0.3) if attack.targeted else attack
    outcome = attack_captions(model, images, wanted, attack, seed=0)
    assert np.abs(outcome.images - images).max() <= attack.epsilon + 1e-6
    assert outcome.images.min() >= 0
    assert outcome.images.max() <= 1
    same = (model.write(torch.from_numpy(outcome.images)).numpy() == wanted).all(axis=1)
    np.testing.assert_array_equal(outcome.succeeded, same if attack.targeted else ~same)
    np.testing.assert_array_equal(outcome.succeeded, outcome.margin > 0)
    assert 0 < outcome.succeeded.sum() < len(images)


def first_order_radius(model: Writer, images: Tensor, captions: Tensor) -> Tensor:
    """Of a linear model, without the bounds of pixels: the least ε at which some token can be made wrong."""
    logits = model(images, captions)
    own = logits.gather(2, captions[..., None])
    weights = model.weights[torch.arange(LENGTH), captions]
    slopes = (weights[:, :, None] - model.weights[None]).abs().sum(dim=3)
    radii: Tensor = (own - logits) / slopes
    return radii.scatter(2, captions[..., None], torch.inf).amin(dim=(1, 2))


def test_the_margin_finds_the_smallest_change_of_a_linear_model(written: Written) -> None:
    model, images, captions = written
    # Far from 0 and 1 the box is the ball.
    inner = 0.45 + 0.1 * images
    captions = model.write(torch.from_numpy(inner)).numpy()
    radii = first_order_radius(model, torch.from_numpy(inner), torch.from_numpy(captions)).numpy()
    epsilon = float(np.median(radii))
    outcome = attack_captions(model, inner, captions, CaptionAttack(epsilon, "margin", restarts=5), seed=0)
    assert not outcome.succeeded[radii > epsilon * 1.001].any()
    # The decisive token may change on the way, so that a climb can miss a few.
    assert outcome.succeeded[radii < epsilon * 0.9].mean() > 0.8


def test_what_is_done_already_is_left_as_it_is(written: Written) -> None:
    model, images, captions = written
    wrong = captions.copy()
    wrong[:, 0] = (wrong[:, 0] + 1) % WORDS
    outcome = attack_captions(model, images, wrong, CaptionAttack(0.1, steps=3), seed=0)
    assert outcome.succeeded.all()
    np.testing.assert_array_equal(outcome.images, images)
    towards = attack_captions(model, images, captions, CaptionAttack(0.1, targeted=True, steps=3), seed=0)
    assert towards.succeeded.all()
    np.testing.assert_array_equal(towards.images, images)


def test_padding_is_no_part_of_a_caption(written: Written) -> None:
    model, images, captions = written
    short = captions.copy()
    short[:, 2:] = -100
    logits = model(torch.from_numpy(images), torch.from_numpy(captions))
    changed = logits.clone()
    changed[:, 2:] += torch.randn(changed[:, 2:].shape, generator=torch.Generator().manual_seed(2))
    for targeted in (False, True):
        for objective in ("ce", "margin"):
            aim = CaptionAim(torch.from_numpy(short), objective, targeted)
            torch.testing.assert_close(aim(logits), aim(changed))
            torch.testing.assert_close(aim.margin(logits), aim.margin(changed))


def test_without_stopping_an_attack_goes_further(written: Written) -> None:
    model, images, captions = written
    stopped = attack_captions(model, images, captions, CaptionAttack(0.2, steps=30, restarts=1), seed=0)
    whole = CaptionAttack(0.2, steps=30, restarts=1, until_fooled=False)
    further = attack_captions(model, images, captions, whole, seed=0)
    both = stopped.succeeded & further.succeeded
    assert both.any()
    assert (further.margin[both] >= stopped.margin[both] - 1e-5).all()
    assert further.margin[both].mean() > 1.2 * stopped.margin[both].mean()


def test_the_seed_decides_and_batches_are_reported(written: Written) -> None:
    model, images, captions = written
    seen: list[tuple[int, int]] = []
    attack = CaptionAttack(0.05, steps=5)

    def attacked(seed: int) -> NDArray[np.float32]:
        outcome = attack_captions(
            model, images, captions, attack, seed=seed, batch_size=10, on_progress=lambda *done: seen.append(done)
        )
        return outcome.images

    np.testing.assert_array_equal(attacked(0), attacked(0))
    assert (attacked(0) != attacked(1)).any()
    assert seen[:3] == [(10, 24), (20, 24), (24, 24)]


def test_wrong_arguments_are_refused(written: Written) -> None:
    model, images, captions = written
    with pytest.raises(AttackError, match="epsilon must be in"):
        CaptionAttack(0.0)
    with pytest.raises(AttackError, match="steps must be at least 1"):
        CaptionAttack(0.1, steps=0)
    attack = CaptionAttack(0.1)
    with pytest.raises(AttackError, match=r"images .* with captions"):
        attack_captions(model, images, captions[:3], attack, seed=0)
    with pytest.raises(AttackError, match=r"in \[0, 1\]"):
        attack_captions(model, images + 1, captions, attack, seed=0)
    with pytest.raises(AttackError, match="one token or more"):
        attack_captions(model, images, np.full_like(captions, -100), attack, seed=0)

"""Noise on labels and pixels: as much as asked for, and only where it belongs."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from softrisk_training.augmentation import add_noise
from softrisk_training.data import ImageData, Splits, load_data, split_rows
from softrisk_training.errors import TrainingError
from softrisk_training.label_noise import with_label_noise
from softrisk_training.trainer import Progress, TrainingConfig, train, warm_up

CONFIG = TrainingConfig(
    architecture="small-cnn",
    width=4,
    loss="drsl",
    loss_settings={"tau": 2.0},
    epochs=1,
    batch_size=128,
    optimizer="adamw",
    learning_rate=4e-3,
    weight_decay=1e-2,
    augmentation="none",
    bfloat16=False,
    seed=0,
)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="module")
def splits(data: ImageData) -> Splits:
    return split_rows(data, seed=0)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_the_training_labels_becomes_wrong(data: ImageData, splits: Splits, share: float) -> None:
    before = data.labels.copy()
    noisy = with_label_noise(data, splits.training, share, seed=3)
    changed = np.flatnonzero(noisy.labels != before)
    assert len(changed) == round(share * len(splits.training))
    assert np.isin(changed, splits.training).all()
    np.testing.assert_array_equal(data.labels, before)
    assert noisy.images is data.images
    np.testing.assert_array_equal(noisy.labels, with_label_noise(data, splits.training, share, seed=3).labels)


def test_all_other_classes_are_equally_likely(data: ImageData, splits: Splits) -> None:
    noisy = with_label_noise(data, splits.training, 1.0, seed=0)
    moves = Counter(((noisy.labels - data.labels) % 10)[splits.training].tolist())
    assert set(moves) == set(range(1, 10))
    expected = len(splits.training) / 9
    assert all(abs(count - expected) < 4 * expected**0.5 for count in moves.values())


def test_wrong_labels_are_trained_on_and_true_ones_judged(data: ImageData, splits: Splits, tmp_path: Path) -> None:
    config = replace(CONFIG, loss="ce", loss_settings={}, epochs=10, batch_size=32, label_noise=0.4)
    checkpoint = train(config, data, splits, tmp_path / "some.pt")
    assert checkpoint.history[-1]["accuracy"] < 0.6
    assert checkpoint.selection_accuracy > 0.7
    assert checkpoint.settings["label_noise"] == 0.4


def test_pixels_get_noise_and_stay_in_range() -> None:
    grey = torch.full((20, 1, 16, 16), 0.5)
    noisy = add_noise(grey, 0.1, np.random.default_rng(0))
    assert noisy.std().item() == pytest.approx(0.1, rel=0.05)
    wild = add_noise(grey, 3.0, np.random.default_rng(0))
    assert (wild.min().item(), wild.max().item()) == (0, 1)


def test_no_noise_draws_nothing() -> None:
    generator = np.random.default_rng(0)
    inputs = torch.rand(2, 1, 4, 4)
    assert add_noise(inputs, 0.0, generator) is inputs
    assert generator.random() == np.random.default_rng(0).random()


def first_loss(config: TrainingConfig, data: ImageData, splits: Splits, out: Path) -> float:
    """Loss of the first step, in which the weights are still the initial ones."""
    losses: list[float] = []

    def note(progress: Progress) -> None:
        losses.append(progress.loss)

    train(config, data, splits, out, on_progress=note)
    return losses[0]


def test_the_weight_of_the_penalty_rises_from_nothing(data: ImageData, splits: Splits, tmp_path: Path) -> None:
    constant = first_loss(CONFIG, data, splits, tmp_path / "constant.pt")
    rising = first_loss(replace(CONFIG, tau_warm_up=1.0), data, splits, tmp_path / "rising.pt")
    plain = first_loss(replace(CONFIG, loss="ce", loss_settings={}), data, splits, tmp_path / "plain.pt")
    steps = -(-len(splits.training) // CONFIG.batch_size)
    assert rising - plain == pytest.approx((constant - plain) * 0.5 / steps, rel=1e-3)
    assert constant > plain


def test_a_warm_up_is_a_straight_line_and_then_constant() -> None:
    assert [warm_up(done, 0.5) for done in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0, 0.5, 1, 1, 1]
    assert warm_up(0.0, 0.0) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_noise": 1.5}, r"label noise must be in \[0, 1\], got 1.5"),
        ({"tau_warm_up": -0.1}, r"tau warm up must be in \[0, 1\]"),
        ({"input_noise": -0.1}, "input noise must not be negative"),
        ({"loss": "ce", "loss_settings": {}, "tau_warm_up": 0.1}, "only the loss 'drsl' has a τ to warm up, not 'ce'"),
        ({"loss": "ce"}, "the loss 'ce' has no setting 'tau'"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        TrainingConfig(**{**asdict(CONFIG), **settings})

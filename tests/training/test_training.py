"""Training: what it learns, what it refuses, and that an interruption leaves no trace in the weights."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from softrisk_training.augmentation import augment
from softrisk_training.checkpoint import Checkpoint, build_model, load_checkpoint
from softrisk_training.data import ImageData, Splits, load_data, split_rows
from softrisk_training.errors import CheckpointError, TrainingError
from softrisk_training.models import ARCHITECTURES, Optimizer, build_classifier
from softrisk_training.trainer import Progress, TrainingConfig, measure_accuracy, one_cycle, state_path, train

CONFIG = TrainingConfig(
    architecture="small-cnn",
    width=8,
    loss="drsl",
    loss_settings={"form": "logit", "tau": 0.3},
    epochs=3,
    batch_size=64,
    optimizer="adamw",
    learning_rate=4e-3,
    weight_decay=1e-2,
    augmentation="crop",
    bfloat16=False,
    seed=0,
)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="module")
def splits(data: ImageData) -> Splits:
    return split_rows(data, seed=0)


@pytest.fixture(scope="module")
def trained(data: ImageData, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Checkpoint]:
    path = tmp_path_factory.mktemp("trained") / "digits.pt"
    return path, train(replace(CONFIG, epochs=12, augmentation="none"), data, splits, path)


def test_a_dozen_epochs_learn_the_digits(trained: tuple[Path, Checkpoint]) -> None:
    _, checkpoint = trained
    assert checkpoint.test_accuracy > 0.94
    assert len(checkpoint.history) == checkpoint.epochs == 12
    assert checkpoint.selection_accuracy == checkpoint.history[-1]["selection_accuracy"]


def test_a_checkpoint_holds_all_that_export_needs(
    trained: tuple[Path, Checkpoint], data: ImageData, splits: Splits
) -> None:
    path, _ = trained
    checkpoint = load_checkpoint(path)
    assert checkpoint.architecture == "small-cnn"
    assert (checkpoint.loss, checkpoint.loss_settings) == ("drsl", {"form": "logit", "tau": 0.3})
    assert (checkpoint.data_source, checkpoint.data_location) == ("scikit-learn digits", "digits")
    assert checkpoint.classes == data.classes
    assert checkpoint.input_shape == (1, 8, 8)
    for name in ("training", "selection", "calibration", "test"):
        np.testing.assert_array_equal(getattr(checkpoint.splits, name), getattr(splits, name))
    assert all(weights.is_contiguous() for weights in checkpoint.weights.values())
    assert checkpoint.digests.dtype == np.uint64
    np.testing.assert_array_equal(checkpoint.digests, data.digests(np.concatenate([splits.training, splits.selection])))
    model = build_model(checkpoint)
    assert not model.training
    assert measure_accuracy(model, data, splits.test) == checkpoint.test_accuracy
    assert not state_path(path).exists()


class Interrupt:
    """Raises KeyboardInterrupt at a step, as Ctrl-C does."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __call__(self, progress: Progress) -> None:
        if progress.steps == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [5, 17, 36], ids=["first epoch", "within an epoch", "end of an epoch"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_an_interrupted_training_ends_in_the_same_bits(
    data: ImageData, splits: Splits, tmp_path: Path, at: int, optimizer: Optimizer
) -> None:
    few = replace(splits, training=splits.training[:768])
    config = replace(CONFIG, optimizer=optimizer, learning_rate=4e-3 if optimizer == "adamw" else 0.05)
    whole = train(config, data, few, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        train(config, data, few, tmp_path / "parts.pt", on_progress=Interrupt(at))
    torch.manual_seed(1234)
    parts = train(config, data, few, tmp_path / "parts.pt", resume=True)
    assert parts.history == whole.history
    for name, weights in whole.weights.items():
        assert torch.equal(parts.weights[name], weights), name


def test_training_leaves_the_random_state_alone(data: ImageData, splits: Splits, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(replace(CONFIG, epochs=1), data, splits, tmp_path / "some.pt")
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_overwritten_and_resume_is_never_guessed(data: ImageData, splits: Splits, tmp_path: Path) -> None:
    out = tmp_path / "some.pt"
    with pytest.raises(TrainingError, match="nothing to resume"):
        train(CONFIG, data, splits, out, resume=True)
    with pytest.raises(KeyboardInterrupt):
        train(CONFIG, data, splits, out, on_progress=Interrupt(1))
    with pytest.raises(TrainingError, match=r"unfinished training; go on with --resume"):
        train(CONFIG, data, splits, out)
    with pytest.raises(TrainingError, match=r"other settings \(seed 0 → 1\)"):
        train(replace(CONFIG, seed=1), data, splits, out, resume=True)
    with pytest.raises(TrainingError, match="other rows"):
        train(CONFIG, data, replace(splits, training=splits.training[1:]), out, resume=True)
    out.write_bytes(b"precious")
    with pytest.raises(TrainingError, match="exists and is not overwritten"):
        train(CONFIG, data, splits, out)
    assert out.read_bytes() == b"precious"


def test_a_loss_that_explodes_is_reported(data: ImageData, splits: Splits, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no longer finite in epoch 1; lower the learning rate"):
        train(
            replace(CONFIG, optimizer="sgd", learning_rate=1e12, augmentation="none"),
            data,
            splits,
            tmp_path / "some.pt",
        )


@pytest.mark.parametrize("setting", ["epochs", "batch_size", "learning_rate", "width"])
def test_settings_of_zero_are_refused(setting: str) -> None:
    with pytest.raises(TrainingError, match="must be greater than 0, got 0"):
        TrainingConfig(**{**asdict(CONFIG), setting: 0})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n and more", "cannot be read"),
        ({"weights": torch.zeros(2)}, "not a softrisk-checkpoint"),
        ({"format": "softrisk-checkpoint", "format_version": 99}, "format version 99, this softrisk reads 1"),
        ({"format": "softrisk-checkpoint", "format_version": 1}, "incomplete checkpoint"),
    ],
)
def test_what_is_not_a_checkpoint_is_refused(
    tmp_path: Path, content: bytes | dict[str, object] | None, message: str
) -> None:
    path = tmp_path / "some.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


def test_a_truncated_checkpoint_is_refused(trained: tuple[Path, Checkpoint], tmp_path: Path) -> None:
    content = trained[0].read_bytes()
    path = tmp_path / "some.pt"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_are_refused(trained: tuple[Path, Checkpoint]) -> None:
    checkpoint = replace(trained[1], classes=("a", "b"))
    with pytest.raises(CheckpointError, match="do not fit the architecture 'small-cnn'"):
        build_model(checkpoint)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("small-cnn", (1, 8, 8)),
        ("small-cnn", (1, 28, 28)),
        ("small-cnn", (3, 31, 50)),
        ("small-cnn", (3, 64, 64)),
        ("resnet", (3, 32, 32)),
        ("resnet", (1, 16, 20)),
    ],
)
def test_architectures_give_logits(name: str, shape: tuple[int, int, int]) -> None:
    model = build_classifier(name, input_shape=shape, classes=7, width=4, mean=[0.5] * shape[0], std=[0.25] * shape[0])
    assert model.eval()(torch.rand(2, *shape)).shape == (2, 7)


def test_normalisation_is_inside_the_model() -> None:
    model = build_classifier("small-cnn", input_shape=(1, 8, 8), classes=3, width=4, mean=[0.3], std=[0.2])
    inputs = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(model(inputs), model.network((inputs - 0.3) / 0.2))


def test_the_resnet_has_the_size_that_it_claims() -> None:
    model = build_classifier(
        "resnet", input_shape=(3, 32, 32), classes=10, width=ARCHITECTURES["resnet"].width, mean=[0] * 3, std=[1] * 3
    )
    assert sum(weights.numel() for weights in model.parameters()) == pytest.approx(1.6e6, rel=0.05)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg", (1, 8, 8), "unknown architecture 'vgg': choose one of small-cnn, resnet"),
        ("small-cnn", (1, 7, 8), "8×8 to 64×64 pixels, not 7×8"),
        ("resnet", (3, 65, 32), "16×16 to 64×64 pixels, not 65×32"),
    ],
)
def test_wrong_architectures_are_refused(name: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        build_classifier(name, input_shape=shape, classes=3, width=4, mean=[0], std=[1])


def test_crops_are_shifts_and_only_crop_flip_mirrors() -> None:
    ramp = torch.arange(16.0).expand(200, 1, 16, 16)
    generator = np.random.default_rng(0)
    assert augment(ramp, "none", generator) is ramp
    # In the middle of a ramp a shift keeps the slope; a mirrored image has the opposite one.
    slope = augment(ramp, "crop", generator)[:, 0, 8].diff(dim=1)[:, 4:-4]
    assert (slope == 1).all()
    mirrored = augment(ramp, "crop-flip", generator)[:, 0, 8].diff(dim=1)[:, 4:-4]
    assert set(mirrored.flatten().tolist()) == {-1.0, 1.0}


def test_one_cycle_rises_to_one_and_falls_to_zero() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == 1 == rates[25]
    assert rates[-1] == pytest.approx(0)


def test_the_resnet_learns_with_its_own_settings(data: ImageData, splits: Splits, tmp_path: Path) -> None:
    recipe = ARCHITECTURES["resnet"]
    config = replace(
        CONFIG,
        architecture="resnet",
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        epochs=4,
    )
    larger = replace(data, images=data.images.repeat(2, axis=2).repeat(2, axis=3))
    assert train(config, larger, splits, tmp_path / "some.pt").test_accuracy > 0.8


def test_bfloat16_trains_too(data: ImageData, splits: Splits, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=4, augmentation="none", bfloat16=True)
    assert train(config, data, splits, tmp_path / "some.pt").test_accuracy > 0.6

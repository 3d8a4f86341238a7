"""Training of multi-modal classifiers, from pairs to a checkpoint whose certificate no attack contradicts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from softrisk_attacks.joint import Ball, joint_ascent, joint_norm, random_start
from softrisk_training import cli_multimodal
from softrisk_training.checkpoint import load_checkpoint
from softrisk_training.errors import CheckpointError, TrainingError
from softrisk_training.multimodal.certificate import certified_radius
from softrisk_training.multimodal.checkpoint import (
    MultimodalCheckpoint,
    build_multimodal_model,
    load_multimodal_checkpoint,
    training_pairs,
)
from softrisk_training.multimodal.config import MultimodalConfig
from softrisk_training.multimodal.front_end import HOP, PADDING, WINDOW, LogMel, mel_bands
from softrisk_training.multimodal.objectives import METHODS, Method, drop_modalities, modality_margins
from softrisk_training.multimodal.pairs import PairedData, load_pairs
from softrisk_training.multimodal.rows import planes_of
from softrisk_training.multimodal.trainer import train_multimodal

SMALL = MultimodalConfig(width=4, features=16, epochs=3, batch_size=32, learning_rate=1e-2)


@pytest.fixture(scope="module")
def pairs(tones: Path) -> PairedData:
    return load_pairs("digits", str(tones), seed=0, repeats=2)


@pytest.fixture(scope="module")
def trained(pairs: PairedData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trained")
    configs = {"crmt": SMALL, "joint": replace(SMALL, method="joint"), "plain": replace(SMALL, encoder="small-cnn")}
    for name, config in configs.items():
        train_multimodal(config, pairs, folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in configs}


def held_out(pairs: PairedData) -> tuple[list[torch.Tensor], torch.Tensor]:
    rows = pairs.splits.test
    return planes_of(pairs.rows(rows), pairs.modalities), torch.from_numpy(pairs.labels[rows])


@pytest.mark.parametrize("name", ["crmt", "joint", "plain"])
@pytest.mark.parametrize("moved", [(True, True), (True, False), (False, True)])
def test_no_attack_contradicts_the_certificate(
    trained: dict[str, Path], pairs: PairedData, name: str, moved: tuple[bool, bool]
) -> None:
    checkpoint = load_multimodal_checkpoint(trained[name])
    model = build_multimodal_model(checkpoint)
    planes, labels = held_out(pairs)
    with torch.no_grad():
        logits = model.classify(*planes)
    radii = certified_radius(logits.numpy(), checkpoint.lipschitz, None if all(moved) else moved.index(True))
    right = (logits.argmax(dim=1) == labels).numpy()
    # Free encoders are so steep that nothing useful is proved of them; what is must hold all the same.
    assert name == "plain" or np.median(radii[right]) > 0
    generator = np.random.default_rng(0)
    for epsilon in (0.1, 0.5, 2.0):
        ball = Ball(epsilon, moved, (None, None))
        for start in (None, random_start(planes, ball, generator)):
            found = joint_ascent(
                model.classify, planes, labels, ball, steps=10, step_size=epsilon / 4, objective="margin", start=start
            )
            with torch.no_grad():
                still = (model.classify(*found).argmax(dim=1) == labels).numpy()
            assert (joint_norm([new - old for new, old in zip(found, planes, strict=True)]) <= epsilon * 1.0001).all()
            assert (right & (radii >= epsilon)).mean() <= still.mean()
            assert still[right & (radii >= epsilon)].all()


def test_the_second_step_widens_the_certified_radii_of_selection_rows(trained: dict[str, Path]) -> None:
    settings = load_multimodal_checkpoint(trained["crmt"]).settings
    assert 0 < float(settings["mean_radius_before"]) <= float(settings["mean_radius_after"])
    assert settings["widened_by"] == "certified slopes"


def test_a_checkpoint_comes_back_as_it_was(trained: dict[str, Path], pairs: PairedData, tmp_path: Path) -> None:
    checkpoint = load_multimodal_checkpoint(trained["crmt"])
    checkpoint.save(tmp_path / "again.pt")
    again = load_multimodal_checkpoint(tmp_path / "again.pt")
    planes, labels = held_out(pairs)
    with torch.no_grad():
        first, second = (build_multimodal_model(each).classify(*planes) for each in (checkpoint, again))
    assert torch.equal(first, second)
    assert float((first.argmax(dim=1) == labels).double().mean()) == checkpoint.test_accuracy
    assert again.modalities == pairs.modalities
    assert again.lipschitz.rounding == checkpoint.lipschitz.rounding > 0
    assert again.lipschitz.certified is not None
    np.testing.assert_array_equal(again.lipschitz.certified, checkpoint.lipschitz.certified)
    assert again.optional == ()
    reloaded = training_pairs(again, tmp_path / "again.pt")
    np.testing.assert_array_equal(reloaded.splits.calibration, pairs.splits.calibration)
    np.testing.assert_array_equal(reloaded.inputs["audio"], pairs.inputs["audio"])
    with pytest.raises(CheckpointError, match="comes from softrisk train-multimodal, and is not a softrisk-checkpoint"):
        load_checkpoint(tmp_path / "again.pt")


def test_saved_heads_are_orthonormal_and_no_layer_is_steeper_than_one(trained: dict[str, Path]) -> None:
    model = build_multimodal_model(load_multimodal_checkpoint(trained["crmt"]))
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
    for head in model.fusion.heads:
        weight = head.weight
        assert isinstance(weight, torch.Tensor)
        torch.testing.assert_close(weight @ weight.T, torch.eye(10), atol=1e-5, rtol=0)
    assert (model.fusion.scale >= 0).all()


def test_the_model_learns_both_modalities(trained: dict[str, Path], pairs: PairedData) -> None:
    checkpoint = load_multimodal_checkpoint(trained["crmt"])
    assert checkpoint.test_accuracy > 0.9


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("crmt", "joint")])
def test_every_method_trains(method: Method, pairs: PairedData, tmp_path: Path) -> None:
    config = replace(SMALL, method=method, epochs=1, modality_dropout=0.3)
    checkpoint = train_multimodal(config, pairs, tmp_path / "model.pt")
    assert checkpoint.optional == ("image", "audio")
    assert checkpoint.method == method
    assert np.isfinite(checkpoint.history[0]["loss"])


def test_the_same_seed_gives_the_same_weights(pairs: PairedData, tmp_path: Path) -> None:
    def weights(seed: int, name: str) -> NDArray[np.float32]:
        checkpoint = train_multimodal(replace(SMALL, epochs=1, seed=seed), pairs, tmp_path / name)
        return np.concatenate([values.numpy().ravel() for values in checkpoint.weights.values()])

    first = weights(0, "first")
    np.testing.assert_array_equal(first, weights(0, "second"))
    assert not np.array_equal(first, weights(1, "third"))


def test_attention_trains_and_is_estimated_only(pairs: PairedData, tmp_path: Path) -> None:
    config = replace(SMALL, method="joint", encoder="small-cnn", fusion="transformer", epochs=1)
    checkpoint = train_multimodal(config, pairs, tmp_path / "model.pt")
    assert checkpoint.lipschitz.certified is None
    assert checkpoint.lipschitz.estimated is not None
    planes, _ = held_out(pairs)
    assert build_multimodal_model(checkpoint).scores(*planes).shape == (len(pairs.splits.test), 2, 10)


def test_the_margins_of_the_first_step_are_those_of_the_formula() -> None:
    scores = torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    for row, label in enumerate(labels.tolist()):
        others = [k for k in range(5) if k != label]
        total = sum((scores[row, m, k] - scores[row, m, label]).exp() for m in range(2) for k in others)
        torch.testing.assert_close(modality_margins(scores, labels)[row], torch.as_tensor(1e-5 + total).log())


def test_a_row_never_lacks_all_modalities() -> None:
    planes = [torch.ones(1000, 1, 2, 2), torch.ones(1000, 1, 3, 3)]
    dropped = drop_modalities(planes, 0.4, np.random.default_rng(0))
    present = torch.stack([plane.flatten(1).amax(dim=1) for plane in dropped])
    assert (present.sum(dim=0) >= 1).all()
    assert 0.3 < float((present.sum(dim=0) == 1).double().mean()) < 0.5


def test_log_mel_is_what_the_formula_says() -> None:
    waveform = np.random.default_rng(0).uniform(-1, 1, 8000).astype(np.float32)
    padded = np.pad(waveform.astype(np.float64), PADDING)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    window = np.hanning(WINDOW + 1)[:-1]
    power = np.abs(np.fft.rfft(frames * window)) ** 2 / (window.sum() / 2) ** 2
    expected = np.log1p(power @ mel_bands().T / 1e-6).T / np.log1p(1e6)
    found = LogMel()(torch.from_numpy(waveform)[None])
    assert found.shape == (1, 1, 32, 64)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-5)


def test_silence_is_zero_and_a_full_scale_sine_about_one() -> None:
    time = torch.arange(8000) / 8000
    assert (LogMel()(torch.zeros(1, 8000)) == 0).all()
    assert 0.9 < float(LogMel()(torch.sin(2 * torch.pi * 1000 * time)[None]).max()) < 1.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "crmt", "fusion": "transformer"}, "leave the fusion out"),
        ({"method": "joint", "rows_only": True}, "in the fusion orthogonal only"),
        ({"epsilon": 0.0}, "epsilon must be greater than 0"),
        ({"modality_dropout": 1.0}, r"must be in \[0, 1\)"),
        ({"rho": -1.0}, "must not be negative"),
        ({"method": "joint", "rho": 1.0}, "which joint has not; leave it out"),
        ({"method": "crmt", "epsilon": 1.0}, "which crmt has not; leave it out"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        replace(SMALL, **changes)  # type: ignore[arg-type]


def test_the_command_trains_and_never_overwrites(tones: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.pt"
    arguments = ["digits", str(tones), "--out", str(out), "--epochs", "1", "--width", "4", "--features", "16"]
    result = CliRunner().invoke(cli_multimodal.app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"softrisk export {out}" in result.output.replace("\n", "")
    checkpoint: MultimodalCheckpoint = load_multimodal_checkpoint(out)
    assert checkpoint.settings["encoder"] == "lipschitz"
    with pytest.raises(TrainingError, match="not overwritten"):
        CliRunner().invoke(cli_multimodal.app, arguments, catch_exceptions=False)

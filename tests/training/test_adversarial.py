"""Training under attack: the short attack itself, what the loss is taken of, and the guard against a collapse."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softrisk_attacks.errors import AttackError
from softrisk_attacks.inner import pgd_inner
from softrisk_training import trainer
from softrisk_training.adversarial import (
    Adversary,
    AdversaryKind,
    batch_loss,
    collapsed,
    make_adversary,
    probe_robustness,
)
from softrisk_training.checkpoint import Checkpoint, build_model
from softrisk_training.data import ImageData, Splits, load_data, split_rows
from softrisk_training.errors import TrainingError
from softrisk_training.losses import LOSSES, make_loss
from softrisk_training.trainer import Progress, TrainingConfig, train

CONFIG = TrainingConfig(
    architecture="small-cnn",
    width=8,
    loss="ce",
    loss_settings={},
    epochs=6,
    batch_size=64,
    optimizer="adamw",
    learning_rate=4e-3,
    weight_decay=1e-2,
    augmentation="none",
    bfloat16=False,
    seed=0,
)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return load_data("digits")


@pytest.fixture(scope="module")
def splits(data: ImageData) -> Splits:
    return split_rows(data, seed=0)


class Linear(nn.Module):
    """Logits linear in the pixels, where the strongest attack is known."""

    def __init__(self) -> None:
        super().__init__()
        weights = np.random.default_rng(1).normal(size=(2, 12))
        self.weights = nn.Parameter(torch.from_numpy(weights).float())

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1) @ self.weights.T


def grey(rows: int = 5) -> Tensor:
    return torch.from_numpy(generator().uniform(0, 1, (rows, 3, 2, 2))).float()


def test_on_a_linear_model_the_attack_finds_the_worst_corner() -> None:
    model, inputs, labels = Linear(), grey(), torch.tensor([0, 1, 0, 1, 0])
    attacked = pgd_inner(model, inputs, labels, epsilon=0.1, step_size=0.05, steps=10, generator=generator())
    direction = (model.weights[1] - model.weights[0]).sign().view(3, 2, 2)
    signs = torch.where(labels == 0, 1.0, -1.0)[:, None, None, None]
    torch.testing.assert_close(attacked, (inputs + 0.1 * signs * direction).clamp(0, 1), rtol=0, atol=1e-6)


def test_the_attack_stays_in_the_ball_and_leaves_the_model_alone() -> None:
    model, inputs, labels = Linear().train(), grey(), torch.zeros(5, dtype=torch.int64)
    before = inputs.clone()
    attacked = pgd_inner(model, inputs, labels, epsilon=0.3, step_size=1.0, steps=3, generator=generator())
    assert (attacked - inputs).abs().max() <= 0.3 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert not attacked.requires_grad
    assert model.training
    assert model.weights.grad is None
    assert torch.equal(inputs, before)
    again = pgd_inner(model, inputs, labels, epsilon=0.3, step_size=1.0, steps=3, generator=generator())
    assert torch.equal(attacked, again)


def test_the_divergence_is_raised_without_labels() -> None:
    model, inputs = Linear(), grey()
    attacked = [
        pgd_inner(
            model,
            inputs,
            torch.full((5,), label),
            epsilon=0.1,
            step_size=0.05,
            steps=5,
            generator=generator(),
            objective="divergence",
        )
        for label in (0, 1)
    ]
    assert torch.equal(*attacked)
    p, attacked_p = model(inputs).softmax(dim=1), model(attacked[0]).softmax(dim=1)
    random = (inputs + 0.1 * (2 * torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0)) - 1)).clamp(0, 1)
    random_p = model(random).softmax(dim=1)
    for row in range(5):
        divergence, chance = ((p * (p / other).log()).sum(dim=1)[row] for other in (attacked_p, random_p))
        assert divergence > chance


@pytest.mark.parametrize("setting", ["epsilon", "step_size", "steps"])
def test_an_attack_that_does_nothing_is_refused(setting: str) -> None:
    settings = {"epsilon": 0.1, "step_size": 0.1, "steps": 1, setting: 0}
    with pytest.raises(AttackError, match="must be greater than 0"):
        pgd_inner(Linear(), grey(), torch.zeros(5, dtype=torch.int64), generator=generator(), **settings)  # type: ignore[arg-type]  # mixed numbers


@pytest.fixture
def normalised() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4)).train()


@pytest.mark.parametrize(("kind", "forward_passes"), [("none", 1), ("pgd", 1), ("fast", 1), ("trades", 2)])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_goes_with_every_adversary(
    normalised: nn.Module, loss: str, kind: AdversaryKind, forward_passes: int
) -> None:
    adversary = Adversary(kind, 0.1, steps=2)
    labels = torch.tensor([0, 1, 2, 3, 0])
    settings = {"end": 3} if loss == "prsl" else {}  # there are three wrong classes
    made = make_loss(loss, **settings)
    value, logits = batch_loss(normalised, made, grey(), labels, adversary, generator(), bfloat16=False)
    assert logits.shape == (5, 4)
    torch.autograd.backward(value)
    for weights in normalised.parameters():
        assert weights.grad is not None
        assert torch.isfinite(weights.grad).all()
    # The attack's own passes leave the statistics of batch normalisation alone.
    assert normalised.get_buffer("1.num_batches_tracked").item() == forward_passes


@pytest.mark.parametrize("kind", ["pgd", "fast", "trades"])
def test_the_loss_is_of_attacked_logits_but_for_trades_of_clean_ones(
    normalised: nn.Module, kind: AdversaryKind
) -> None:
    adversary, loss, labels = Adversary(kind, 0.2, beta=0.0), make_loss("drsl"), torch.tensor([0, 1, 2, 3, 0])
    value, logits = batch_loss(normalised, loss, grey(), labels, adversary, generator(), bfloat16=False)
    plain, clean_logits = batch_loss(normalised, loss, grey(), labels, Adversary(), generator(), bfloat16=False)
    assert value.item() == pytest.approx(loss(logits, labels).item())
    if kind == "trades":
        assert torch.equal(logits, clean_logits)
        with_divergence, _ = batch_loss(
            normalised, loss, grey(), labels, replace(adversary, beta=5.0), generator(), bfloat16=False
        )
        assert with_divergence > plain
    else:
        assert make_loss("ce")(logits, labels) > make_loss("ce")(clean_logits, labels)


@pytest.fixture(scope="module")
def plain(data: ImageData, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train(CONFIG, data, splits, tmp_path_factory.mktemp("plain") / "plain.pt")


@pytest.mark.parametrize("kind", ["pgd", "fast", "trades"])
def test_training_under_attack_makes_robust(
    plain: Checkpoint, data: ImageData, splits: Splits, tmp_path: Path, kind: AdversaryKind
) -> None:
    adversary = Adversary(kind, 0.1, steps=2)
    attacked = train(replace(CONFIG, epochs=9, adversary=adversary), data, splits, tmp_path / "attacked.pt")
    robust = [
        probe_robustness(build_model(checkpoint), data, splits.selection, adversary, 0, 0)
        for checkpoint in (plain, attacked)
    ]
    assert robust[1] > robust[0] + 0.15
    expected = {"adversary": kind, "adversary_epsilon": 0.1}
    assert expected.items() <= attacked.settings.items()
    assert ("adversary_beta" in attacked.settings) == (kind == "trades")


class Interrupt:
    """Raises KeyboardInterrupt at a step, or after an epoch, as Ctrl-C does."""

    def __init__(self, step: int = 0, epoch: int = 0) -> None:
        self.step, self.epoch = step, epoch

    def __call__(self, progress: Progress) -> None:
        finished = progress.selection_accuracy is not None
        if (progress.steps == self.step and not finished) or (progress.epoch == self.epoch and finished):
            raise KeyboardInterrupt


def assert_same(parts: Checkpoint, whole: Checkpoint) -> None:
    assert parts.history == whole.history
    assert parts.settings == whole.settings
    for name, weights in whole.weights.items():
        assert torch.equal(parts.weights[name], weights), name


@pytest.mark.parametrize("kind", ["pgd", "fast", "trades"])
def test_an_interruption_leaves_no_trace_with_all_that_is_random(
    data: ImageData, splits: Splits, tmp_path: Path, kind: AdversaryKind
) -> None:
    few = replace(splits, training=splits.training[:512])
    config = replace(
        CONFIG,
        epochs=3,
        loss="drsl",
        augmentation="crop",
        tau_warm_up=0.5,
        adversary=Adversary(kind, 0.1, steps=2),
        label_noise=0.2,
        input_noise=0.1,
    )
    whole = train(config, data, few, tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        train(config, data, few, tmp_path / "parts.pt", on_progress=Interrupt(step=13))
    parts = train(config, data, few, tmp_path / "parts.pt", resume=True)
    assert_same(parts, whole)
    with pytest.raises(KeyboardInterrupt):
        train(config, data, few, tmp_path / "other.pt", on_progress=Interrupt(step=1))
    other = replace(config, adversary=Adversary(kind, 0.2, steps=2))
    with pytest.raises(TrainingError, match="other settings"):
        train(other, data, few, tmp_path / "other.pt", resume=True)


class Probe:
    """Stands for the probe: pretends a robust accuracy for each epoch, and keeps the weights that it was shown."""

    def __init__(self, *robust: float) -> None:
        self.robust = robust
        self.seen: dict[int, dict[str, Tensor]] = {}

    def __call__(self, model: nn.Module, *arguments: object) -> float:
        epoch = arguments[-1]
        assert isinstance(epoch, int)
        self.seen[epoch] = {name: weights.clone() for name, weights in model.state_dict().items()}
        return self.robust[epoch]


@pytest.fixture
def fast() -> TrainingConfig:
    return replace(CONFIG, adversary=Adversary("fast", 0.1))


@pytest.mark.parametrize("kind", ["pgd", "fast", "trades"])
def test_every_adversary_is_guarded_and_plain_training_is_not(
    data: ImageData, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: AdversaryKind
) -> None:
    monkeypatch.setattr(trainer, "probe_robustness", Probe(0.6, 0.2))
    guarded = replace(CONFIG, adversary=Adversary(kind, 0.1, steps=1), epochs=3)
    assert train(guarded, data, splits, tmp_path / "guarded.pt").settings["kept_epoch"] == 1
    plain = train(replace(CONFIG, epochs=1), data, splits, tmp_path / "plain.pt")
    assert "robust_accuracy" not in plain.history[0]


def test_a_collapse_ends_training_with_the_most_robust_weights(
    data: ImageData, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: TrainingConfig
) -> None:
    probe = Probe(0.4, 0.6, 0.5, 0.2)
    monkeypatch.setattr(trainer, "probe_robustness", probe)
    checkpoint = train(fast, data, splits, tmp_path / "some.pt")
    assert [entry["robust_accuracy"] for entry in checkpoint.history] == [0.4, 0.6, 0.5, 0.2]
    assert (checkpoint.epochs, checkpoint.settings["kept_epoch"]) == (4, 2)
    assert checkpoint.selection_accuracy == checkpoint.history[1]["selection_accuracy"]
    for name, weights in checkpoint.weights.items():
        assert torch.equal(weights, probe.seen[1][name]), name
    for at in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            train(fast, data, splits, tmp_path / f"{at}.pt", on_progress=Interrupt(epoch=at))
        assert_same(train(fast, data, splits, tmp_path / f"{at}.pt", resume=True), checkpoint)


def test_without_a_collapse_the_last_weights_are_kept(
    data: ImageData, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: TrainingConfig
) -> None:
    probe = Probe(0.4, 0.6, 0.3)
    monkeypatch.setattr(trainer, "probe_robustness", probe)
    checkpoint = train(replace(fast, epochs=3), data, splits, tmp_path / "some.pt")
    assert "kept_epoch" not in checkpoint.settings
    assert checkpoint.selection_accuracy == checkpoint.history[2]["selection_accuracy"]
    assert torch.equal(checkpoint.weights["network.0.weight"], probe.seen[2]["network.0.weight"])


def test_nothing_collapses_that_was_not_probed() -> None:
    assert not collapsed([])
    assert not collapsed([{"loss": 1.0}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "cw"}, "unknown adversary 'cw': choose one of none, pgd, fast, trades"),
        ({"kind": "pgd"}, r"'pgd' needs an epsilon in \(0, 1\], in units of \[0, 1\] pixels, got 0"),
        ({"kind": "fast", "epsilon": 8.0}, "got 8"),
        ({"kind": "none", "epsilon": 0.1}, "'none' has no setting 'epsilon': it takes none"),
        ({"kind": "fast", "epsilon": 0.1, "steps": 3}, "'fast' has no setting 'steps': it takes epsilon"),
        ({"kind": "pgd", "epsilon": 0.1, "beta": 1.0}, "no setting 'beta': it takes epsilon and steps"),
        ({"kind": "pgd", "epsilon": 0.1, "steps": 0}, "at least 1, got 0"),
        ({"kind": "trades", "epsilon": 0.1, "beta": -1.0}, "beta of TRADES must not be negative"),
    ],
)
def test_a_wrong_adversary_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make_adversary(**settings)  # type: ignore[arg-type]  # wrong on purpose

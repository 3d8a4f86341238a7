"""What is measured about attacks: on models whose faults are known, on sound ones, and on hand-made outcomes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.apgd import APGD
from softrisk_attacks.attack import Attack, Outcome, run_attack
from softrisk_attacks.black_box import RandomNoise, Square
from softrisk_attacks.standard import fgsm, pgd
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.red_flags import soundness_flags
from softrisk_evaluation.report import Soundness
from softrisk_evaluation.soundness import Made, measure_soundness
from softrisk_training.checkpoint import build_model, load_checkpoint
from softrisk_training.data import load_data

EPSILON = 0.1
ATTACKS = (fgsm(EPSILON), pgd(EPSILON), APGD(EPSILON, "margin"))

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


class Bright(nn.Module):
    """Class 1 if the mean of the four pixels is above a half: linear, nothing to find fault with."""

    def forward(self, inputs: Tensor) -> Tensor:
        lead = 4 * (inputs.flatten(1).mean(dim=1) - 0.5)
        return torch.stack([-lead, lead], dim=1)


class Noisy(Bright):
    def forward(self, inputs: Tensor) -> Tensor:
        logits = super().forward(inputs)
        return logits + 0.01 * torch.randn_like(logits)


class Centred(Bright):
    """Subtracts a mean over the batch, as normalisation by the statistics of the batch does."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits = super().forward(inputs)
        return logits - torch.stack([0.1 * logits[:, 0].mean(), torch.zeros(())])


class Rippled(Bright):
    """Ripples of a period of a thousandth drown the direction that matters."""

    def forward(self, inputs: Tensor) -> Tensor:
        ripple = torch.sin(2000 * torch.pi * inputs.flatten(1)).mean(dim=1)
        return super().forward(inputs) + 5 * torch.stack([-ripple, ripple], dim=1)


class Overflowing(Bright):
    """Finite logits, whose gradient is not: the slope of a square root at zero."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs) + (0 * inputs).sqrt().flatten(1).sum(dim=1, keepdim=True)


def bright_images(count: int = 40, nearest: float = 0.02) -> tuple[Images, Labels]:
    """Half of them dark, half bright, with means between `nearest` and 0.3 away from a half."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    means = 0.5 + (2 * labels - 1) * np.linspace(nearest, 0.3, count)
    noise = generator.uniform(-0.05, 0.05, (count, 1, 2, 2))
    noise -= noise.mean(axis=(2, 3), keepdims=True)
    return (means[:, None, None, None] + noise).astype(np.float32), labels


def made(model: nn.Module, inputs: Images, labels: Labels, attacks: tuple[Attack, ...] = ATTACKS) -> list[Made]:
    return [(attack, run_attack(model, inputs, labels, attack, seed=0)) for attack in attacks]


def pretended(attack: Attack, inputs: Images, fooled: list[int], trace: NDArray[np.float32] | None = None) -> Made:
    """An outcome that is made up: these images are fooled."""
    mask = np.isin(np.arange(len(inputs)), fooled)
    return attack, Outcome(inputs, mask, np.where(mask, 1, -1).astype(np.float32), trace)


def measure(model: nn.Module, inputs: Images, labels: Labels, outcomes: list[Made], limit: int = 100) -> Soundness:
    return measure_soundness(model, inputs, labels, outcomes, epsilon=EPSILON, seed=0, limit=limit)


def signs(facts: Soundness) -> set[str]:
    return {flag.sign for flag in soundness_flags(facts)}


def test_of_a_linear_model_nothing_is_said() -> None:
    inputs, labels = bright_images()
    facts = measure(Bright(), inputs, labels, made(Bright(), inputs, labels), limit=30)
    assert soundness_flags(facts) == ()
    assert facts.images == 30
    assert facts.zero_gradients.trials == 40
    assert facts.single_step[0].only.trials == 40
    assert [gap.attack for gap in facts.gradient_free] == ["Square-500 ε=0.1", "random noise-100 ε=0.1"]
    assert [gap.attack for gap in facts.stronger] == ["PGD-40 ε=0.1 ×5", "PGD-20 ε=0.1 ×10"]
    assert facts.unbounded is not None
    assert facts.unbounded.rate == 1
    assert facts.convergence is not None
    assert facts.convergence.standing > 0
    assert Soundness.model_validate_json(facts.model_dump_json()) == facts


@pytest.mark.parametrize(
    ("model", "sign"),
    [
        (Noisy(), "logits of two passes"),
        (Centred(), "logits in a batch and alone"),
        (Rippled(), "margin under noise of ±0.05"),
        (Overflowing(), "input gradients that are not finite"),
    ],
)
def test_a_fault_of_the_model_is_found(model: nn.Module, sign: str) -> None:
    inputs, labels = bright_images(20)
    # The attacks themselves are of no matter here.
    outcomes = [pretended(pgd(EPSILON, 2, 1), inputs, [])]
    assert sign in signs(measure(model, inputs, labels, outcomes))
    assert sign not in signs(measure(Bright(), inputs, labels, outcomes))


def test_what_one_attack_fools_alone_is_counted_image_by_image() -> None:
    # Nobody fools the model on these, so that only what is made up counts.
    inputs, labels = bright_images(nearest=2 * EPSILON)
    twin, other_radius = APGD(EPSILON, restarts=2), pgd(0.2)
    outcomes = [
        pretended(fgsm(EPSILON), inputs, [0, 1, 2]),
        pretended(pgd(EPSILON), inputs, [1]),
        pretended(twin, inputs, [2]),
        pretended(other_radius, inputs, [0]),
        pretended(Square(EPSILON), inputs, [0, 3, 4]),
        pretended(RandomNoise(EPSILON, draws=7), inputs, [1]),
    ]
    facts = measure(Bright(), inputs, labels, outcomes)
    (single,) = facts.single_step
    assert (single.attack, single.only.successes) == ("FGSM ε=0.1", 1)
    assert single.against == ("PGD-20 ε=0.1 ×5", "APGD-CE-100 ε=0.1 ×2")
    # What was made already is not made again.
    assert [(gap.attack, gap.only.successes, gap.only.trials) for gap in facts.gradient_free] == [
        ("Square-5000 ε=0.1", 2, 40),
        ("random noise-7 ε=0.1", 0, 40),
    ]
    assert all(gap.against[:3] == ("FGSM ε=0.1", *single.against) for gap in facts.gradient_free)


def test_attacks_that_gave_up_too_early_are_found() -> None:
    inputs, labels = bright_images()
    weak = [pretended(pgd(EPSILON), inputs, [])]
    facts = measure(Bright(), inputs, labels, weak, limit=30)
    # The linear model falls to whoever tries, wherever its lead is within reach.
    assert all(gap.only.successes > 5 for gap in facts.stronger)
    assert {f"{gap.attack} against attacks of less effort" for gap in facts.stronger} <= signs(facts)


@pytest.mark.parametrize(("tail", "expected"), [(0.0, 0.0), (0.1, 0.1)])
def test_what_the_last_ten_steps_gained_is_measured(tail: float, expected: float) -> None:
    inputs, labels = bright_images(4)
    rise = np.concatenate([np.linspace(0, 1 - tail, 20), np.linspace(1 - tail, 1, 11)[1:]])
    trace = np.stack([rise, 50 * rise - 7, np.full(30, np.nan), np.full(30, np.nan)], axis=1).astype(np.float32)
    trace[0, 2] = 0
    attack = APGD(EPSILON, steps=30)
    facts = measure(Bright(), inputs, labels, [pretended(attack, inputs, [2, 3], trace)])
    assert facts.convergence is not None
    assert facts.convergence.attack == attack.label
    assert facts.convergence.standing == 2
    assert facts.convergence.last_gain == pytest.approx(expected, abs=1e-5)
    assert (f"last ten steps of {attack.label}" in signs(facts)) == (expected > 0.05)


def test_where_nothing_was_attacked_there_is_nothing_to_check() -> None:
    inputs, labels = bright_images(4)
    with pytest.raises(EvaluationError, match=r"no attack by gradients at ε = 0\.1"):
        measure(Bright(), inputs, labels, [pretended(pgd(0.2), inputs, []), pretended(Square(EPSILON), inputs, [])])


def test_progress_reaches_its_end() -> None:
    inputs, labels = bright_images(8)
    seen: list[tuple[int, int]] = []
    measure_soundness(
        Bright(), inputs, labels, [pretended(pgd(EPSILON, 2, 1), inputs, [])], epsilon=EPSILON, seed=0,
        on_progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


class Saturated(nn.Module):
    """The same decisions with logits so large that the cross entropy is exactly zero in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = 1e4 * self.model(inputs)
        return logits


class Stepped(Saturated):
    """The same model behind an input layer of 17 grey levels, the slope of which is zero."""

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model((inputs * 16).round() / 16)
        return logits


@pytest.fixture(scope="module")
def digits(checkpoint: Path) -> tuple[nn.Module, Images, Labels]:
    trained = load_checkpoint(checkpoint)
    data, rows = load_data("digits"), trained.splits.test[:80]
    return build_model(trained), data.inputs(rows), data.labels[rows]


def test_of_a_trained_model_nothing_is_said(digits: tuple[nn.Module, Images, Labels]) -> None:
    model, inputs, labels = digits
    assert soundness_flags(measure(model, inputs, labels, made(model, inputs, labels), limit=50)) == ()


@pytest.mark.parametrize(
    ("masked", "others"),
    [
        # The margin has a gradient where the cross entropy has none.
        (Saturated, {"APGD-margin-100 ε=0.1 ×1 against attacks of less effort"}),
        (Stepped, {"Square-500 ε=0.1 against every attack by gradients"}),
    ],
)
def test_masked_gradients_are_found(
    digits: tuple[nn.Module, Images, Labels], masked: type[Saturated], others: set[str]
) -> None:
    model, inputs, labels = digits
    model = masked(model).eval()
    facts = measure(model, inputs, labels, made(model, inputs, labels, (fgsm(EPSILON), pgd(EPSILON))), limit=50)
    assert facts.zero_gradients.rate > 0.5
    assert {"input gradients of zero", "an attack without a bound", *others} <= signs(facts)

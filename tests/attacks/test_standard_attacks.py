"""FGSM and PGD: inside the ball, in range, reproducible, and as strong as they claim."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from softrisk_attacks.attack import Attack, run_attack
from softrisk_attacks.errors import AttackError
from softrisk_attacks.standard import fgsm, pgd

Inputs = NDArray[np.float32]
Labels = NDArray[np.int64]
ATTACKS = [fgsm(0.1), pgd(0.1, steps=7, restarts=2)]


def accuracy(model: nn.Module, inputs: Inputs, labels: Labels) -> float:
    with torch.inference_mode():
        return float((model(torch.from_numpy(inputs)).argmax(dim=1).numpy() == labels).mean())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attacked_inputs_stay_in_the_ball_and_in_range(
    attack: Attack, model: nn.Module, digits: tuple[Inputs, Labels]
) -> None:
    inputs, labels = digits[0][:100], digits[1][:100]
    attacked = run_attack(model, inputs, labels, attack, seed=0, batch_size=32).inputs
    assert attacked.dtype == np.float32
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    distance = np.abs(attacked - inputs).max(axis=(1, 2, 3))
    assert distance.max() <= attack.epsilon + 1e-6
    assert distance.min() >= attack.epsilon - 1e-6


def test_the_seed_decides_and_nothing_else_is_touched(model: nn.Module, digits: tuple[Inputs, Labels]) -> None:
    inputs, labels = digits[0][:40], digits[1][:40]
    before = inputs.copy()
    weights = {name: values.clone() for name, values in model.state_dict().items()}
    np.random.seed(99)  # noqa: NPY002 - the global state is what must not move
    expected = np.random.random(3)  # noqa: NPY002 - the same
    np.random.seed(99)  # noqa: NPY002 - the same
    model.train()
    first = run_attack(model, inputs, labels, ATTACKS[1], seed=5).inputs
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in model.parameters())
    model.eval()
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002 - the same
    np.testing.assert_array_equal(first, run_attack(model, inputs, labels, ATTACKS[1], seed=5).inputs)
    assert not np.array_equal(first, run_attack(model, inputs, labels, ATTACKS[1], seed=6).inputs)
    np.testing.assert_array_equal(inputs, before)
    for name, values in model.state_dict().items():
        assert torch.equal(values, weights[name])


def test_stronger_attacks_leave_less_accuracy(model: nn.Module, digits: tuple[Inputs, Labels]) -> None:
    inputs, labels = digits[0][:200], digits[1][:200]

    def left(attack: Attack) -> float:
        return accuracy(model, run_attack(model, inputs, labels, attack, seed=0).inputs, labels)

    clean = accuracy(model, inputs, labels)
    assert clean > 0.97
    assert clean > left(fgsm(0.1)) >= left(pgd(0.1)) > left(pgd(0.3))
    assert left(pgd(0.9)) == 0


def test_more_restarts_never_help_the_defender(model: nn.Module, digits: tuple[Inputs, Labels]) -> None:
    # Few steps, so that the start matters. The first start is the same for both, one batch, one stream.
    inputs, labels = digits[0][:150], digits[1][:150]
    one = run_attack(model, inputs, labels, pgd(0.12, steps=2, restarts=1), seed=1).fooled
    many = run_attack(model, inputs, labels, pgd(0.12, steps=2, restarts=8), seed=1).fooled
    assert not (one & ~many).any()
    assert many.sum() > one.sum()


def test_an_input_that_is_wrong_without_an_attack_stays_wrong(model: nn.Module, digits: tuple[Inputs, Labels]) -> None:
    # ART's own restarts would count any change of the prediction as a success, the change back to the label included.
    inputs = digits[0][:60]
    with torch.inference_mode():
        logits = model(torch.from_numpy(inputs))
    runner_up = logits.argsort(dim=1)[:, -2].numpy()
    attacked = run_attack(model, inputs, runner_up, pgd(0.2), seed=0).inputs
    assert accuracy(model, attacked, runner_up) == 0


class _Counting(nn.Module):
    """A linear model that counts the inputs that it is asked for gradients of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.counter = [0]

    def __deepcopy__(self, memo: object) -> "_Counting":
        return self

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.requires_grad:
            self.counter[0] += len(inputs)
        logits: torch.Tensor = self.layer(inputs.flatten(1))
        return logits


def test_every_step_of_every_restart_is_run_on_every_input() -> None:
    model = _Counting()
    inputs = np.full((5, 1, 2, 2), 0.5, dtype=np.float32)
    labels = np.array([0, 1, 0, 1, 0])
    run_attack(model, inputs, labels, pgd(0.4, steps=6, restarts=3), seed=0, batch_size=2)
    assert model.counter[0] == 5 * 6 * 3


def test_progress_counts_inputs(model: nn.Module, digits: tuple[Inputs, Labels]) -> None:
    seen: list[tuple[int, int]] = []
    run_attack(
        model, digits[0][:10], digits[1][:10], fgsm(0.1), seed=0, batch_size=4, on_progress=lambda *n: seen.append(n)
    )
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_labels_for_tables_and_step_sizes() -> None:
    assert fgsm(0.1).label == "FGSM ε=0.1"
    assert pgd(0.1).label == "PGD-20 ε=0.1 ×5"
    assert pgd(8 / 255, steps=100, restarts=10).label == "PGD-100 ε=0.03137 ×10"
    assert pgd(0.1, steps=20).step_size == pytest.approx(0.0125)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fgsm(0), "epsilon must be in"),
        (lambda: pgd(8), r"epsilon must be in \(0, 1\], in units of \[0, 1\] pixels, got 8"),
        (lambda: pgd(0.1, steps=0), "steps must be at least 1, got 0"),
        (lambda: pgd(0.1, restarts=0), "restarts must be at least 1, got 0"),
    ],
)
def test_impossible_attacks_are_refused(make: "type[Attack]", message: str) -> None:
    with pytest.raises(AttackError, match=message):
        make()  # type: ignore[call-arg]  # a function that makes an attack


def test_wrong_inputs_are_refused(model: nn.Module, digits: tuple[Inputs, Labels]) -> None:
    inputs, labels = digits
    with pytest.raises(AttackError, match=r"needs inputs in \[0, 1\]"):
        run_attack(model, inputs[:3] * 16, labels[:3], fgsm(0.1), seed=0)
    with pytest.raises(AttackError, match="with labels"):
        run_attack(model, inputs[:3], labels[:2], fgsm(0.1), seed=0)
    assert len(run_attack(model, inputs[:0], labels[:0], fgsm(0.1), seed=0).inputs) == 0

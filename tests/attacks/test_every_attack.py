"""What holds for every attack: the ball, the range, the seed, the caller's model, the verdict."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from softrisk_attacks.apgd import APGD, TargetedAPGD
from softrisk_attacks.attack import Attack, run_attack
from softrisk_attacks.bisected import BisectedAPGD
from softrisk_attacks.black_box import RandomNoise, Square
from softrisk_attacks.decision import HopSkipJump
from softrisk_attacks.errors import AttackError
from softrisk_attacks.minimum_norm import CarliniWagner, DeepFool
from softrisk_attacks.rays import RayS
from softrisk_attacks.standard import fgsm
from softrisk_attacks.suite import Effort, full_suite, worst_case
from softrisk_attacks.transfer import Transfer

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]
LITTLE = Effort(steps=8, restarts=2, targets=2, rounds=3, queries=60, draws=10, subset=12)


@pytest.fixture(scope="module")
def suite(twin: nn.Module) -> list[Attack]:
    return full_suite(0.1, classes=10, twin=twin, effort=LITTLE)


KINDS = range(13)
"""As many as the suite has."""


@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_is_inside_the_ball_true_and_made_by_the_seed_alone(
    kind: int, suite: list[Attack], model: nn.Module, digits: Digits
) -> None:
    attack = suite[kind]
    inputs, labels = digits[0][:30], digits[1][:30].copy()
    labels[:4] = (labels[:4] + 1) % 10  # wrong without an attack
    before = inputs.copy()
    weights = {name: values.clone() for name, values in model.state_dict().items()}
    np.random.seed(7)  # noqa: NPY002 - the global state is what must not move
    expected = np.random.random(3)  # noqa: NPY002 - the same
    np.random.seed(7)  # noqa: NPY002 - the same
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    model.train()
    first = run_attack(model, inputs, labels, attack, seed=5, batch_size=20)
    assert model.training
    model.eval()
    again = run_attack(model, inputs, labels, attack, seed=5, batch_size=20)

    # Reproducible, and nothing of the caller's moves.
    np.testing.assert_array_equal(first.inputs, again.inputs)
    np.testing.assert_array_equal(first.margin, again.margin)
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002 - the same
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(inputs, before)
    assert all(torch.equal(values, weights[name]) for name, values in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())

    # Inside.
    assert first.inputs.dtype == np.float32
    assert first.inputs.min() >= 0
    assert first.inputs.max() <= 1
    assert np.abs(first.inputs - inputs).max() <= attack.epsilon + 1e-6

    # True: the verdict is the model's own answer about the points that are returned.
    with torch.inference_mode():
        logits = model(torch.from_numpy(first.inputs)).numpy()
    np.testing.assert_array_equal(first.fooled, logits.argmax(axis=1) != labels)
    own = logits[np.arange(30), labels]
    logits[np.arange(30), labels] = -np.inf
    np.testing.assert_allclose(first.margin, logits.max(axis=1) - own, atol=1e-4)
    assert first.fooled[:4].all()

    # Left alone where nothing was asked for.
    if attack.subset is not None:
        np.testing.assert_array_equal(first.inputs[attack.subset :], inputs[attack.subset :])


@pytest.mark.parametrize("kind", KINDS)
def test_every_attack_that_searches_fools_at_a_radius_that_leaves_no_chance(
    kind: int, twin: nn.Module, model: nn.Module, digits: Digits
) -> None:
    attack = full_suite(0.9, classes=10, twin=twin, effort=dataclasses.replace(LITTLE, steps=20, queries=400))[kind]
    outcome = run_attack(model, digits[0][:12], digits[1][:12], attack, seed=0)
    if attack.name not in ("FGSM", "random noise", "transfer"):
        assert outcome.fooled.all()
    assert outcome.fooled.any()
    assert np.isfinite(outcome.distance(digits[0][:12])).sum() == outcome.fooled.sum()


def test_the_suite_has_every_attack_and_writes_down_what_it_did(suite: list[Attack], twin: nn.Module) -> None:
    names = [attack.name for attack in suite]
    assert len(set(names)) == len(names) == len(KINDS)
    assert {attack.family for attack in suite} == {
        "single-step", "iterative", "targeted", "minimum-norm", "score-based", "decision-based", "transfer"
    }  # fmt: skip
    assert "transfer" not in [attack.name for attack in full_suite(0.1, classes=10)]
    for attack in suite:
        written = json.loads(json.dumps(attack.settings))
        assert written["epsilon"] == 0.1
        assert {*written, "subset", "twin"} >= {each.name for each in dataclasses.fields(attack)}
        assert "twin" not in written
    (targeted,) = (attack for attack in full_suite(0.1, classes=3) if isinstance(attack, TargetedAPGD))
    assert targeted.targets == 2


def test_the_worst_case_is_any_success(suite: list[Attack], model: nn.Module, digits: Digits) -> None:
    outcomes = [run_attack(model, digits[0][:40], digits[1][:40], attack, seed=0) for attack in suite[:3]]
    worst = worst_case(outcomes)
    assert worst.sum() >= max(outcome.fooled.sum() for outcome in outcomes)
    for outcome in outcomes:
        assert not (outcome.fooled & ~worst).any()
    with pytest.raises(AttackError, match="outcomes of the same inputs, got none"):
        worst_case([])
    with pytest.raises(AttackError, match="outcomes of the same inputs"):
        worst_case([outcomes[0], run_attack(model, digits[0][:3], digits[1][:3], suite[0], seed=0)])


def test_iterating_is_stronger_than_one_step_and_one_step_than_noise(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:150], digits[1][:150]

    def fooled(attack: Attack) -> int:
        return int(run_attack(model, inputs, labels, attack, seed=0).fooled.sum())

    noise, step, run = fooled(RandomNoise(0.12, 20)), fooled(fgsm(0.12)), fooled(APGD(0.12, "ce", steps=30))
    assert noise < step <= run
    assert run <= fooled(APGD(0.12, "margin", steps=30, restarts=3)) + 2
    assert fooled(Square(0.12, 20)) <= fooled(Square(0.12, 300)) <= run + 2
    assert fooled(Square(0.12, 300)) > noise


def test_a_twin_lends_its_gradients(model: nn.Module, twin: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:100], digits[1][:100]
    transferred = run_attack(model, inputs, labels, Transfer(0.2, twin, steps=20), seed=0)
    assert transferred.fooled.sum() > run_attack(model, inputs, labels, RandomNoise(0.2, 50), seed=0).fooled.sum()
    itself = run_attack(model, inputs, labels, Transfer(0.2, model, steps=20), seed=0)
    assert itself.fooled.sum() >= transferred.fooled.sum()
    stranger = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(AttackError, match="the twin must have the model's 10 classes, it has 3"):
        run_attack(model, inputs, labels, Transfer(0.2, stranger), seed=0)


class _OnlyClasses(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(self.model(inputs).argmax(dim=1), 10).float()


def test_hop_skip_jump_needs_nothing_but_classes(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:6], digits[1][:6]
    attack = HopSkipJump(0.25, queries=700)
    by_logits = run_attack(model, inputs, labels, attack, seed=1)
    by_classes = run_attack(_OnlyClasses(model), inputs, labels, attack, seed=1)
    assert by_logits.fooled.any()
    np.testing.assert_array_equal(by_logits.inputs, by_classes.inputs)


def test_rays_need_nothing_but_classes_and_fool_more_by_more_queries(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:60], digits[1][:60]
    few, many, by_classes = (
        run_attack(victim, inputs, labels, RayS(0.2, queries), seed=1)
        for victim, queries in ((model, 30), (model, 300), (_OnlyClasses(model), 300))
    )
    assert few.fooled.sum() < many.fooled.sum()
    assert many.fooled.sum() > run_attack(model, inputs, labels, RandomNoise(0.2, 300), seed=1).fooled.sum()
    # Logits that differ by no more than rounding are no success, one class instead of another is.
    np.testing.assert_array_equal(many.fooled, by_classes.fooled)


def test_rays_that_press_on_end_far_behind_the_border(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:60], digits[1][:60]
    first, deep = (run_attack(model, inputs, labels, RayS(0.2, 300, press_on), seed=1) for press_on in (False, True))
    right = torch.from_numpy(inputs)
    with torch.no_grad():
        both = first.fooled & deep.fooled & (model(right).argmax(dim=1).numpy() == labels)
    assert both.sum() > 10
    assert np.median(deep.margin[both]) > np.median(first.margin[both])


class _Counting(nn.Module):
    """Linear, and counts the inputs that it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3)
        self.asked: list[int] = []

    def __deepcopy__(self, memo: object) -> "_Counting":
        return self

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(inputs))
        logits: torch.Tensor = self.layer(inputs.flatten(1))
        return logits


@pytest.mark.parametrize(
    ("attack", "queries"),
    [
        (Square(0.001, 40), 40),
        (RandomNoise(0.001, 40), 40),
        (HopSkipJump(0.001, 40), 40),
        (RayS(0.001, 40), 40),
        (RayS(0.001, 40, press_on=True), 40),
        (APGD(0.001, "margin", steps=9, restarts=2), 20),
        (TargetedAPGD(0.001, steps=9, targets=2), 20),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_queries_are_spent_on_inputs_that_stand_and_no_more_than_allowed(attack: Attack, queries: int) -> None:
    torch.manual_seed(0)
    model = _Counting()
    with torch.no_grad():
        model.layer.bias.copy_(torch.tensor([5.0, 0.0, 0.0]))
    inputs = np.full((6, 1, 4, 4), 0.5, dtype=np.float32)
    inputs[0, 0, 0, 0] = 0.4

    def asked(labels: NDArray[np.int64]) -> int:
        model.asked.clear()
        run_attack(model, inputs, labels, attack, seed=0)
        return sum(model.asked)

    overhead = asked(np.ones(6, dtype=np.int64))
    two = asked(np.array([0, 0, 1, 1, 1, 1]))
    assert two - overhead <= 2 * queries
    # HopSkipJump may find no start: all that this model is asked about is of class 0.
    if attack.family != "decision-based":
        assert two - overhead == 2 * queries


def test_progress_subset_and_trace_over_batches(model: nn.Module, digits: Digits) -> None:
    seen: list[tuple[int, int]] = []
    attack = APGD(0.02, "ce", steps=5, subset=6)
    outcome = run_attack(
        model, digits[0][:10], digits[1][:10], attack, seed=0, batch_size=4, on_progress=lambda *n: seen.append(n)
    )
    assert seen == [(4, 10), (8, 10), (10, 10)]
    assert outcome.trace is not None
    assert outcome.trace.shape == (5, 10)
    standing = ~outcome.fooled[:6]
    assert standing.sum() >= 4
    np.testing.assert_array_equal(np.isfinite(outcome.trace[-1, :6]), standing)
    assert np.isnan(outcome.trace[:, 6:]).all()


def test_labels_for_tables(twin: nn.Module) -> None:
    assert APGD(0.1).label == "APGD-CE-100 ε=0.1 ×1"
    assert APGD(0.1, "margin", 50, 3).label == "APGD-margin-50 ε=0.1 ×3"
    assert APGD(0.1, "scaled-ce").label == "APGD-scaled CE-100 ε=0.1 ×1"
    assert TargetedAPGD(0.1).label == "APGD-T-100 ε=0.1 ×9 targets"
    assert BisectedAPGD(0.3).label == "bisected APGD-30 ε=0.3 ×8 rounds ×3 targets"
    assert Square(8 / 255).label == "Square-5000 ε=0.03137"
    assert HopSkipJump(0.1, subset=100).label == "HopSkipJump-5000 ε=0.1 (first 100)"
    assert CarliniWagner(0.1).label == "C&W-20 ε=0.1 ×9 weights"
    assert DeepFool(0.1).label == "DeepFool-50 ε=0.1"
    assert RandomNoise(0.1, 10).label == "random noise-10 ε=0.1"
    assert Transfer(0.1, twin).label == "transfer-100 ε=0.1 ×1"
    assert "Sequential" not in repr(Transfer(0.1, twin))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APGD(1.5), r"epsilon must be in \(0, 1\], in units of \[0, 1\] pixels, got 1.5"),
        (lambda: APGD(0.1, "dlr"), "objective must be one of ce, margin, scaled-ce, got 'dlr'"),  # type: ignore[arg-type]
        (lambda: APGD(0.1, steps=0), "steps must be at least 1, got 0"),
        (lambda: APGD(0.1, restarts=0), "restarts must be at least 1, got 0"),
        (lambda: TargetedAPGD(0.1, targets=0), "targets must be at least 1, got 0"),
        (lambda: BisectedAPGD(0.1, rounds=0), "rounds must be at least 1, got 0"),
        (lambda: Square(0.1, queries=0), "queries must be at least 1, got 0"),
        (lambda: HopSkipJump(0.1, queries=-1), "queries must be at least 1, got -1"),
        (lambda: RandomNoise(0.1, draws=0), "draws must be at least 1, got 0"),
        (lambda: CarliniWagner(0.1, weights=0), "weights must be at least 1, got 0"),
        (lambda: DeepFool(0.1, overshoot=-1), "overshoot must not be negative, got -1"),
        (lambda: Square(0.1, subset=0), "subset must be at least 1, or None"),
        (lambda: Transfer(0.1, nn.Identity(), steps=0), "steps must be at least 1, got 0"),
        (lambda: full_suite(0.1, classes=1), "a suite needs 2 or more classes, got 1"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(AttackError, match=message):
        make()


def test_impossible_models_are_refused(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:3], digits[1][:3]
    with pytest.raises(AttackError, match="targets must be at most 9, as the model has 10 classes, got 10"):
        run_attack(model, inputs, labels, TargetedAPGD(0.1, targets=10), seed=0)
    with pytest.raises(AttackError, match=r"labels must be in 0 … 9, as the model has 10 classes, got 0 … 10"):
        run_attack(model, inputs, np.array([0, 1, 10]), fgsm(0.1), seed=0)
    with pytest.raises(AttackError, match="2 or more classes"):
        run_attack(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), inputs, labels, fgsm(0.1), seed=0)
    with pytest.raises(AttackError, match="finds every input robust"):
        run_attack(_Undefined(), inputs, labels, fgsm(0.1), seed=0)


class _Undefined(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.flatten(1) * torch.nan

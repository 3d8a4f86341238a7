"""APGD: at least as strong as ART's, with a gradient where others have none, and exact on linear models."""

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.apgd import APGD, TargetedAPGD
from softrisk_attacks.attack import run_attack
from softrisk_attacks.bisected import BisectedAPGD, minimal_epsilon
from softrisk_attacks.objectives import towards, untargeted

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]


def test_apgd_is_at_least_as_strong_as_the_toolbox_version(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:200], digits[1][:200]
    epsilon, steps = 0.1, 20
    toolbox = AutoProjectedGradientDescent(
        PyTorchClassifier(model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu"),
        norm=np.inf,
        eps=epsilon,
        eps_step=2 * epsilon,
        max_iter=steps,
        nb_random_init=1,
        batch_size=200,
        loss_type=None,
        verbose=False,
    )
    with torch.random.fork_rng():
        theirs = toolbox.generate(inputs, labels)
    with torch.inference_mode():
        fooled = model(torch.from_numpy(theirs)).argmax(dim=1).numpy() != labels
    ours = run_attack(model, inputs, labels, APGD(epsilon, "ce", steps), seed=0)
    assert 20 < fooled.sum() <= ours.fooled.sum() < 200


def test_the_trace_rises_and_ends_where_the_model_is_fooled(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:100], digits[1][:100]
    outcome = run_attack(model, inputs, labels, APGD(0.1, "margin", steps=25), seed=0)
    trace = outcome.trace
    assert trace is not None
    assert trace.shape == (25, 100)
    assert outcome.fooled.any()
    assert not outcome.fooled.all()
    standing = ~outcome.fooled
    assert np.isfinite(trace[:, standing]).all()
    assert (np.diff(trace[:, standing], axis=0) >= 0).all()
    np.testing.assert_allclose(trace[-1, standing], outcome.margin[standing], atol=1e-4)
    assert np.isnan(trace[-1, outcome.fooled]).all()
    # Once it is fooled an input does not come back.
    assert not (np.isfinite(trace[1:]) & np.isnan(trace[:-1])).any()


def _dlr(logits: Tensor, labels: Tensor) -> Tensor:
    ordered = logits.sort(dim=1, descending=True).values
    own = logits.gather(1, labels[:, None])[:, 0]
    return -(own - ordered[:, 1]) / (ordered[:, 0] - ordered[:, 2])


class _Flat(nn.Module):
    """All wrong classes of class 0 have the same logit, as a penalty on their spread would have it."""

    def forward(self, inputs: Tensor) -> Tensor:
        own = inputs.flatten(1).sum(dim=1, keepdim=True) - 1
        return torch.cat([own, torch.zeros(len(inputs), 3)], dim=1)


def test_the_margin_leads_somewhere_where_the_ratio_does_not() -> None:
    inputs = torch.full((2, 1, 2, 2), 0.4, requires_grad=True)
    labels = torch.zeros(2, dtype=torch.int64)
    logits = _Flat()(inputs)
    (by_ratio,) = torch.autograd.grad(_dlr(logits, labels).sum(), inputs, retain_graph=True)
    (by_margin,) = torch.autograd.grad(untargeted("margin", logits, labels)(logits).sum(), inputs, retain_graph=True)
    (by_target,) = torch.autograd.grad(towards(labels + 2, labels)(logits).sum(), inputs)
    assert by_ratio.abs().max() < 1e-6
    np.testing.assert_array_equal(by_margin, -np.ones((2, 1, 2, 2)))
    np.testing.assert_array_equal(by_target, -np.ones((2, 1, 2, 2)))
    for attack in (APGD(0.2, "margin", 5), TargetedAPGD(0.2, 5, 3)):
        outcome = run_attack(_Flat(), inputs.detach().numpy(), labels.numpy(), attack, seed=0)
        assert outcome.fooled.all()


class _Loud(nn.Module):
    """So sure that the cross entropy of its label is zero in float32."""

    def forward(self, inputs: Tensor) -> Tensor:
        own = inputs.flatten(1).sum(dim=1, keepdim=True) - 1
        return torch.cat([4000 * own, torch.zeros(len(inputs), 3)], dim=1)


def test_scaled_cross_entropy_is_not_saturated() -> None:
    inputs, labels = np.full((8, 1, 2, 2), 0.4, dtype=np.float32), np.zeros(8, dtype=np.int64)
    plain = run_attack(_Loud(), inputs, labels, APGD(0.16, "ce", 10), seed=0)
    scaled = run_attack(_Loud(), inputs, labels, APGD(0.16, "scaled-ce", 10), seed=0)
    assert not plain.fooled.any()
    assert scaled.fooled.all()


def test_an_iterate_that_fools_is_returned_whatever_its_objective(model: nn.Module, digits: Digits) -> None:
    # Towards one class, an iterate may stumble over another one while the objective is still low.
    inputs, labels = digits[0][:60], digits[1][:60]
    outcome = run_attack(model, inputs, labels, TargetedAPGD(0.3, steps=10, targets=1), seed=0)
    assert outcome.fooled.all()
    with torch.inference_mode():
        clean, reached = model(torch.from_numpy(inputs)), model(torch.from_numpy(outcome.inputs))
    target = clean.scatter(1, torch.from_numpy(labels)[:, None], -torch.inf).argmax(dim=1)
    assert (reached.argmax(dim=1) != target).any()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 5))
def test_the_smallest_radius_of_a_linear_model_is_margin_over_norm(seed: int, classes: int) -> None:
    source = torch.Generator().manual_seed(seed)
    layer = nn.Linear(16, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 16, generator=source))
        layer.bias.copy_(0.3 * torch.randn(classes, generator=source))
    points = 0.4 + 0.2 * torch.rand(12, 1, 4, 4, generator=source)
    with torch.no_grad():
        logits = layer(points.flatten(1))
    labels = logits.argmax(dim=1)
    lead = logits.amax(dim=1, keepdim=True) - logits
    norm = (layer.weight[labels][:, None] - layer.weight[None]).abs().sum(dim=2).detach()
    exact = torch.where(lead > 0, lead / norm, torch.inf).amin(dim=1).numpy()

    attack = BisectedAPGD(0.4, steps=10, rounds=8, targets=min(4, classes - 1))
    model = nn.Sequential(nn.Flatten(), layer)
    found = minimal_epsilon(model, points.numpy(), labels.numpy(), attack, seed=0)
    reachable = exact < 0.39
    assert (found >= exact * (1 - 1e-3) - 1e-6).all()
    np.testing.assert_allclose(found[reachable], exact[reachable], rtol=0.03, atol=1e-3)
    assert np.isinf(found[exact > 0.4]).all()


def test_smallest_radii_give_the_whole_curve(model: nn.Module, digits: Digits) -> None:
    inputs, labels = digits[0][:60], digits[1][:60].copy()
    labels[:3] = (labels[:3] + 1) % 10
    attack = BisectedAPGD(0.5, steps=15, rounds=6, targets=2)
    outcome = run_attack(model, inputs, labels, attack, seed=0)
    found = outcome.distance(inputs)
    np.testing.assert_array_equal(found, minimal_epsilon(model, inputs, labels, attack, seed=0))
    with torch.inference_mode():
        right = model(torch.from_numpy(inputs)).argmax(dim=1).numpy() == labels
    assert 50 < right.sum() <= 57
    np.testing.assert_array_equal(found[~right], 0)
    assert (found[right] > 0).all()
    assert outcome.fooled.all()
    for epsilon in (0.05, 0.1, 0.2):
        at_once = run_attack(model, inputs, labels, APGD(epsilon, "margin", 30, restarts=2), seed=0)
        # One run for all radii is as good as a run for each.
        assert (found <= epsilon).sum() >= at_once.fooled.sum() - 1
    small = minimal_epsilon(model, inputs, labels, BisectedAPGD(0.02, 5, 2, 1), seed=0)
    assert set(np.flatnonzero(np.isfinite(small))) <= set(np.flatnonzero(found <= 0.021))


@pytest.mark.parametrize("objective", ["ce", "margin", "scaled-ce"])
def test_an_objective_of_some_inputs_is_that_of_all(objective: str) -> None:
    clean = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, -1.0], [5.0, 4.0, 1.0]])
    labels = torch.tensor([0, 1, 0])
    aim = untargeted(objective, clean, labels)  # type: ignore[arg-type]  # one of the three
    some = torch.tensor([2, 0])
    torch.testing.assert_close(aim.select(some)(clean[some]), aim(clean)[some])
    worse = clean.clone()
    worse[torch.arange(3), labels] -= 1
    assert (aim(worse) > aim(clean)).all()

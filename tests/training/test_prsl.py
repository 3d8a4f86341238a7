"""PRSL: its values against literal loops, its minimum, its gradients, and what each mode does not look at."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torch.nn import functional as F

from softrisk_training.errors import TrainingError
from softrisk_training.losses import DRSL, IGNORED, PRSL, PRSLMode, make_loss

MODES = get_args(PRSLMode)
unhurried = settings(deadline=None, max_examples=50)
"""The first call of a process takes torch longer than the deadline of a test."""


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits (B, T, C) and labels (B, T), some of them padding, the first never."""
    batch, length, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(5, 8))
    logits = draw(hnp.arrays(np.float64, (batch, length, classes), elements=st.floats(-20, 20, width=32)))
    labels = draw(hnp.arrays(np.int64, (batch, length), elements=st.integers(0, classes - 1)))
    padding = draw(hnp.arrays(np.bool_, (batch, length)))
    padding[0, 0] = False
    return torch.from_numpy(logits), torch.from_numpy(np.where(padding, IGNORED, labels))


windows = st.sampled_from([(0, 2), (0, 4), (1, 3), (2, 4)])


def literal_penalty(mode: PRSLMode, logits: Tensor, labels: Tensor, start: int, end: int) -> float:
    """The definitions, token by token."""
    means: list[float] = []
    spreads: list[float] = []
    masses: list[float] = []
    for sequence, truths in zip(logits.numpy(), labels.numpy(), strict=True):
        for row, label in zip(sequence, truths, strict=True):
            if label == IGNORED:
                continue
            others = sorted((value for index, value in enumerate(row) if index != label), reverse=True)
            window = others[start:end]
            mean = sum(window) / len(window)
            means.append(mean)
            spreads.append(sum((value - mean) ** 2 for value in window))
            exponentials = np.exp(row - row.max())
            masses.append(sum(math.exp(value - row.max()) for value in window) / exponentials.sum())
    if mode == "across-tokens":
        level = max(means)
        log_sum = level + math.log(sum(math.exp(mean - level) for mean in means))
        return len(means) * log_sum - sum(means)
    return sum(spreads) / len(spreads) if mode == "within-token" else sum(masses) / len(masses)


@pytest.mark.parametrize("mode", MODES)
@unhurried
@given(batch=sequences(), window=windows)
def test_the_penalty_is_its_definition_token_by_token(
    mode: PRSLMode, batch: tuple[Tensor, Tensor], window: tuple[int, int]
) -> None:
    expected = literal_penalty(mode, *batch, *window)
    assert PRSL(mode, *window).penalty(*batch).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
@unhurried
@given(batch=sequences(), weight=st.floats(0, 10))
def test_the_loss_is_cross_entropy_of_kept_tokens_and_the_weighted_penalty(
    mode: PRSLMode, batch: tuple[Tensor, Tensor], weight: float
) -> None:
    logits, labels = batch
    ce = F.cross_entropy(logits.flatten(end_dim=1), labels.flatten(), ignore_index=IGNORED)
    loss = PRSL(mode, end=3, weight=weight)
    assert loss(logits, labels).item() == pytest.approx(
        ce.item() + weight * loss.penalty(logits, labels).item(), rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize("mode", MODES)
@unhurried
@given(batch=sequences(), noise=st.floats(-50, 50))
def test_padding_has_neither_a_say_nor_a_gradient(mode: PRSLMode, batch: tuple[Tensor, Tensor], noise: float) -> None:
    logits, labels = batch
    loss = PRSL(mode, end=3)
    padding = (labels == IGNORED)[..., None]
    changed = torch.where(padding, torch.full_like(logits, noise), logits).requires_grad_()
    value = loss(changed, labels)
    assert value.item() == pytest.approx(loss(logits, labels).item(), rel=1e-12)
    torch.autograd.backward(value)
    assert changed.grad is not None
    assert changed.grad[padding.expand_as(logits)].abs().sum() == 0


@unhurried
@given(batch=sequences(), window=windows)
def test_across_tokens_has_the_gradient_n_times_softmax_less_one(
    batch: tuple[Tensor, Tensor], window: tuple[int, int]
) -> None:
    """∂R/∂m_i = n · softmax(m)_i − 1, shared alike among the window of token i; nothing elsewhere."""
    logits, labels = batch
    logits.requires_grad_()
    torch.autograd.backward(PRSL("across-tokens", *window).penalty(logits, labels))
    assert logits.grad is not None
    kept = labels != IGNORED
    rows, gradients, truth = logits.detach()[kept], logits.grad[kept], labels[kept]
    n, width = len(rows), window[1] - window[0]
    others = rows.scatter(1, truth[:, None], -torch.inf)
    means = others.topk(window[1], dim=1).values[:, window[0] :].mean(dim=1)
    expected = n * means.softmax(dim=0) - 1
    torch.testing.assert_close(gradients.sum(dim=1), expected)
    assert (gradients != 0).sum(dim=1).le(width).all()
    touched = gradients.abs().amax(dim=1)
    torch.testing.assert_close(touched, expected.abs() / width)
    assert gradients.gather(1, truth[:, None]).abs().max() == 0
    # A common shift of all tokens changes nothing, so that the gradients cancel.
    assert gradients.sum().item() == pytest.approx(0, abs=1e-9)


@unhurried
@given(batch=sequences())
def test_across_tokens_is_least_where_all_tokens_have_one_level(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    loss = PRSL("across-tokens", end=3)
    n = int((labels != IGNORED).sum())
    least = n * math.log(n)
    assert loss.penalty(logits, labels).item() >= least - 1e-9
    others = logits.scatter(2, labels.clamp(min=0)[..., None], -torch.inf)
    level = others.topk(3, dim=2).values.mean(dim=2, keepdim=True)
    # Shifting each token to the common level leaves the spread within tokens as it is, and that has no price here.
    assert loss.penalty(logits - level, labels).item() == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("mode", MODES)
@unhurried
@given(batch=sequences(), shift=st.floats(-50, 50))
def test_a_common_shift_of_all_logits_changes_nothing(
    mode: PRSLMode, batch: tuple[Tensor, Tensor], shift: float
) -> None:
    logits, labels = batch
    loss = PRSL(mode, end=3)
    assert loss.penalty(logits + shift, labels).item() == pytest.approx(
        loss.penalty(logits, labels).item(), rel=1e-7, abs=1e-7
    )


@pytest.mark.parametrize("mode", ["within-token", "topk-mass"])
@unhurried
@given(batch=sequences(), data=st.data())
def test_tokens_are_judged_each_on_its_own_but_for_across_tokens(
    mode: PRSLMode, batch: tuple[Tensor, Tensor], data: st.DataObject
) -> None:
    logits, labels = batch
    shifts = data.draw(hnp.arrays(np.float64, (*labels.shape, 1), elements=st.floats(-20, 20)))
    loss = PRSL(mode, end=3)
    moved = loss.penalty(logits + torch.from_numpy(shifts), labels).item()
    assert moved == pytest.approx(loss.penalty(logits, labels).item(), rel=1e-7, abs=1e-7)


@unhurried
@given(batch=sequences())
def test_within_token_over_all_wrong_classes_is_the_squared_form_of_drsl(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    kept = labels != IGNORED
    expected = DRSL("squared").penalty(logits[kept], labels[kept]).item()
    everything = PRSL("within-token", end=logits.shape[2] - 1)
    assert everything.penalty(logits, labels).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@unhurried
@given(batch=sequences())
def test_the_mass_of_all_wrong_classes_is_what_the_label_lacks(batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch
    kept = labels != IGNORED
    missing = 1 - logits[kept].softmax(dim=1).gather(1, labels[kept][:, None])
    everything = PRSL("topk-mass", end=logits.shape[2] - 1)
    assert everything.penalty(logits, labels).item() == pytest.approx(missing.mean().item(), abs=1e-12)


@pytest.mark.parametrize("mode", MODES)
@unhurried
@given(batch=sequences())
def test_a_classifier_s_batch_is_a_sequence_of_its_samples(mode: PRSLMode, batch: tuple[Tensor, Tensor]) -> None:
    logits, labels = batch[0].flatten(end_dim=1), batch[1].flatten().clamp(min=0)
    loss = PRSL(mode, end=3)
    assert loss(logits, labels).item() == pytest.approx(loss(logits[None], labels[None]).item(), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_descent_does_what_the_mode_is_about(mode: PRSLMode) -> None:
    """Weighted strongly against cross entropy, a few steps bring levels, spreads or mass down."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(6, 5, 9, generator=generator)).requires_grad_()
    labels = torch.randint(9, (6, 5), generator=generator)
    loss = PRSL(mode, end=4, weight=1.0)
    before = loss.penalty(logits, labels).item()
    optimizer = torch.optim.Adam([logits], 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        torch.autograd.backward(loss(logits, labels))
        optimizer.step()
    least = 30 * math.log(30) if mode == "across-tokens" else 0
    assert loss.penalty(logits, labels).item() - least < 0.2 * (before - least)
    assert (logits.argmax(dim=2) == labels).float().mean() > 0.5


def test_settings_are_recorded_with_the_default_weight_of_the_mode() -> None:
    assert make_loss("prsl").settings == {"mode": "across-tokens", "start": 0, "end": 6, "weight": 1e-5}
    chosen = make_loss("prsl", mode="topk-mass", start=4, end=13)
    assert chosen.settings == {"mode": "topk-mass", "start": 4, "end": 13, "weight": 1.0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "topk"}, "unknown PRSL mode 'topk': choose one of across-tokens"),
        ({"start": 3, "end": 3}, "0 ≤ start < end, got 3 … 3"),
        ({"start": -1}, "0 ≤ start < end"),
        ({"weight": -1.0}, "weight must not be negative"),
        ({"mode": "within-token", "end": 1}, "a single rank has no spread"),
    ],
)
def test_a_wrong_setting_is_refused(arguments: dict[str, float | str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make_loss("prsl", **arguments)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(TrainingError, match="ends at rank 6, but there are 3 wrong classes"):
        PRSL()(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(TrainingError, match="stands for padding"):
        PRSL()(torch.zeros(2, 3, 9), torch.full((2, 3), IGNORED))

"""What the losses promise: values against NumPy and literal loops, gradients that stay finite and in their place."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from softrisk_core.diagnostics import diagnose, softmax
from softrisk_training.errors import TrainingError
from softrisk_training.losses import DRSL, LOSSES, PRSL, DRSLForm, Loss, authors_weight, make_loss, per_sample_weight

Batch = tuple[Tensor, Tensor]
FORMS = get_args(DRSLForm)
FLAT_FORMS = [form for form in FORMS if form != "authors-vectorised"]
"""The forms that are 0 where all classes but the label are equal, at whatever level."""
ALL_LOSSES = [
    *(make_loss(name) for name in LOSSES if name not in ("drsl", "prsl")),
    *(DRSL(form) for form in FORMS),
    # A single wrong class is all that a classifier of two has.
    *(PRSL(mode, end=1) for mode in ("across-tokens", "topk-mass")),
]


first_gradient = settings(deadline=None)
"""The first gradient of a process takes torch longer than the deadline of a test."""


def name_of(loss: Loss) -> str:
    variant = loss.settings.get("form", loss.settings.get("mode"))
    return f"{loss.name}-{variant}" if variant else loss.name


INVARIANT = [loss for loss in ALL_LOSSES if name_of(loss) not in ("logit-squeezing", "drsl-authors-vectorised")]


@st.composite
def batches(draw: st.DrawFn, scale: float = 20, min_classes: int = 3) -> Batch:
    shape = (draw(st.integers(1, 4)), draw(st.integers(min_classes, 8)))
    logits = draw(hnp.arrays(np.float64, shape, elements=st.floats(-scale, scale, width=32)))
    labels = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1)))
    return torch.from_numpy(logits), torch.from_numpy(labels)


def without_label(row: NDArray[np.float64], label: int) -> NDArray[np.float64]:
    return np.delete(row, label)


@given(batches())
def test_the_logit_form_is_the_dispersion_of_core_where_the_label_is_predicted(batch: Batch) -> None:
    logits, _ = batch
    penalty = DRSL("logit").penalty(logits, logits.argmax(dim=1))
    assert penalty.item() == pytest.approx(diagnose(logits.numpy())["dispersion"].mean(), abs=2e-6)


@given(batches())
def test_the_authors_form_is_their_loop(batch: Batch) -> None:
    logits, labels = batch
    total = 0.0
    for row, label in zip(logits.numpy(), labels.numpy(), strict=True):
        others = [value for j, value in enumerate(row) if j != label]
        mean = sum(others) / len(others)
        total += sum((value - mean) ** 2 for value in others)
    assert DRSL("authors").penalty(logits, labels).item() == pytest.approx(total, abs=1e-9)


@given(batches())
def test_the_vectorised_form_is_the_authors_with_a_pull_of_the_mean_to_zero(batch: Batch) -> None:
    logits, labels = batch
    classes = logits.shape[1]
    means = np.array([without_label(*pair).mean() for pair in zip(logits.numpy(), labels.numpy(), strict=True)])
    expected = DRSL("authors").penalty(logits, labels).item() + ((classes - 1) * (means / classes) ** 2).sum()
    assert DRSL("authors-vectorised").penalty(logits, labels).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(batches())
def test_the_squared_form_is_the_authors_with_a_mean_in_place_of_the_sum(batch: Batch) -> None:
    logits, labels = batch
    summed = DRSL("authors", tau=authors_weight(1.5, len(labels)))
    assert DRSL("squared", tau=1.5)(logits, labels).item() == pytest.approx(summed(logits, labels).item(), rel=1e-9)


@pytest.mark.parametrize("form", ["authors", "authors-vectorised"])
@first_gradient
@given(batch=batches(), weight=st.floats(0, 10))
def test_the_weight_of_the_authors_is_a_weight_per_sample(form: DRSLForm, batch: Batch, weight: float) -> None:
    logits, labels = batch
    size = len(labels)
    tau = authors_weight(weight, size)
    assert per_sample_weight(tau, size) == pytest.approx(weight, rel=1e-12)
    by_sum, by_mean = (logits.clone().requires_grad_() for _ in range(2))
    torch.autograd.backward(DRSL(form, tau=tau)(by_sum, labels))
    alone = [DRSL(form).penalty(by_mean[i : i + 1], labels[i : i + 1]) for i in range(size)]
    torch.autograd.backward(make_loss("ce")(by_mean, labels) + weight * torch.stack(alone).mean())
    torch.testing.assert_close(by_sum.grad, by_mean.grad)


def test_weights_that_make_no_sense_are_refused() -> None:
    with pytest.raises(TrainingError, match="weight must not be negative, got -1"):
        authors_weight(-1, 8)
    with pytest.raises(TrainingError, match="at least 1 sample, got 0"):
        per_sample_weight(1e-3, 0)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@given(batch=batches())
def test_a_share_of_tau_counts_during_a_warm_up(share: float, batch: Batch) -> None:
    loss = DRSL("logit", tau=2.0)
    loss.tau_share = share
    assert loss(*batch).item() == pytest.approx(DRSL("logit", tau=2.0 * share)(*batch).item(), rel=1e-12)
    assert loss.settings["tau"] == 2.0


@given(batches())
def test_the_conditional_form_is_the_distance_of_the_renormalised_softmax_from_uniform(batch: Batch) -> None:
    logits, labels = batch
    distances = []
    for row, label in zip(logits.numpy(), labels.numpy(), strict=True):
        others = without_label(row, label)
        q = np.exp(others - others.max()) / np.exp(others - others.max()).sum()
        distances.append(np.linalg.norm(q - 1 / len(others)))
    assert DRSL("conditional").penalty(logits, labels).item() == pytest.approx(np.mean(distances), abs=2e-6)


@given(batches())
def test_the_probability_form_is_the_formula_of_the_paper(batch: Batch) -> None:
    logits, labels = batch
    distances = []
    for row, label in zip(softmax(logits.numpy()), labels.numpy(), strict=True):
        others = without_label(row, label)
        distances.append(np.linalg.norm(others - others.mean()))
    assert DRSL("probability").penalty(logits, labels).item() == pytest.approx(np.mean(distances), abs=2e-6)


@pytest.mark.parametrize("form", FLAT_FORMS)
@given(batch=batches(), level=st.floats(-20, 20))
def test_a_penalty_is_zero_where_all_other_classes_are_equal_and_only_there(
    form: DRSLForm, batch: Batch, level: float
) -> None:
    logits, labels = batch
    flat = torch.full_like(logits, level).scatter(1, labels[:, None], level + 3)
    assert DRSL(form).penalty(flat, labels).item() == pytest.approx(0, abs=2e-6)
    uneven = flat.clone()
    uneven[0, (labels[0] + 1) % logits.shape[1]] += 1
    assert DRSL(form).penalty(uneven, labels).item() > 1e-3


@pytest.mark.parametrize("loss", INVARIANT, ids=name_of)
@given(batch=batches(), shift=st.floats(-50, 50))
def test_a_common_shift_of_the_logits_changes_nothing(loss: Loss, batch: Batch, shift: float) -> None:
    logits, labels = batch
    assert loss(logits + shift, labels).item() == pytest.approx(loss(logits, labels).item(), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("form", ["squared", "logit", "authors", "authors-vectorised", "conditional"])
@first_gradient
@given(batch=batches())
def test_the_penalty_leaves_the_logit_of_the_label_alone(form: DRSLForm, batch: Batch) -> None:
    logits, labels = batch
    logits.requires_grad_()
    torch.autograd.backward(DRSL(form).penalty(logits, labels))
    assert logits.grad is not None
    assert logits.grad.gather(1, labels[:, None]).abs().max() == 0


@pytest.mark.parametrize("loss", ALL_LOSSES, ids=name_of)
@first_gradient
@given(batch=batches(scale=1e4, min_classes=2))
def test_value_and_gradient_are_finite_in_float32_at_huge_logits(loss: Loss, batch: Batch) -> None:
    assume(loss.name != "guided-complement" or batch[0].shape[1] > 2)
    logits, labels = batch[0].float().requires_grad_(), batch[1]
    value = loss(logits, labels)
    torch.autograd.backward(value)
    assert logits.grad is not None
    assert math.isfinite(value.item())
    assert torch.isfinite(logits.grad).all()
    # An entropy near its maximum may round to the other side of it.
    assert value.item() >= -1e-6


@pytest.mark.parametrize("form", FLAT_FORMS)
def test_with_two_classes_drsl_is_cross_entropy(form: DRSLForm) -> None:
    logits, labels = torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([0, 0])
    assert DRSL(form, tau=1)(logits, labels).item() == pytest.approx(make_loss("ce")(logits, labels).item(), abs=2e-6)


@given(batches())
def test_mae_and_gce_against_their_formulas(batch: Batch) -> None:
    logits, labels = batch
    p = softmax(logits.numpy())[np.arange(len(labels)), labels.numpy()]
    assert make_loss("mae")(logits, labels).item() == pytest.approx((2 * (1 - p)).mean(), abs=1e-9)
    assert make_loss("gce", q=0.7)(logits, labels).item() == pytest.approx(((1 - p**0.7) / 0.7).mean(), abs=1e-9)
    assert make_loss("gce", q=1)(logits, labels).item() == pytest.approx((1 - p).mean(), abs=1e-9)


@given(batches())
def test_symmetric_ce_against_its_formula(batch: Batch) -> None:
    logits, labels = batch
    p = softmax(logits.numpy())
    one_hot = np.eye(logits.shape[1])[labels.numpy()]
    ce = -np.log(p[one_hot == 1]).mean()
    rce = -(p * np.where(one_hot == 1, 0, -4)).sum(axis=1).mean()
    assert make_loss("symmetric-ce")(logits, labels).item() == pytest.approx(0.1 * ce + rce, rel=1e-6, abs=1e-9)
    other = make_loss("symmetric-ce", alpha=6, beta=0.1, log_zero=-9)
    assert other(logits, labels).item() == pytest.approx(6 * ce + 0.1 * 9 / 4 * rce, rel=1e-6, abs=1e-9)


@given(batches())
def test_reverse_cross_entropy_is_the_paper_s_for_negated_logits(batch: Batch) -> None:
    logits, labels = batch
    reversed_labels = (1 - np.eye(logits.shape[1])[labels.numpy()]) / (logits.shape[1] - 1)
    expected = -(reversed_labels * np.log(softmax(-logits.numpy()))).sum(axis=1).mean()
    assert make_loss("rce")(logits, labels).item() == pytest.approx(expected, rel=1e-9)


def test_reverse_cross_entropy_teaches_the_largest_logit_to_be_the_label() -> None:
    logits = torch.zeros(1, 4, requires_grad=True)
    torch.autograd.backward(make_loss("rce")(logits, torch.tensor([2])))
    assert logits.grad is not None
    assert (-logits.grad).argmax() == 2


def complement_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """H(q) of each sample, as the papers of the complement write it."""
    p = logits.softmax(dim=1)
    own = torch.nn.functional.one_hot(labels, logits.shape[1])
    q = p / (1 - p.gather(1, labels[:, None]))
    return -(q * q.log() * (1 - own)).sum(dim=1)


@pytest.mark.parametrize("name", ["cot", "guided-complement"])
@first_gradient
@given(batch=batches(scale=6))
def test_losses_of_the_complement_have_value_and_gradient_of_their_papers(name: str, batch: Batch) -> None:
    ours, theirs = (batch[0].clone().requires_grad_() for _ in range(2))
    labels, classes = batch[1], batch[0].shape[1]
    entropy = complement_entropy(theirs, labels)
    if name == "cot":
        expected = make_loss("ce")(theirs, labels) - entropy.mean() / (classes - 1)
        constant = math.log(classes - 1) / (classes - 1)
    else:
        guide = theirs.softmax(dim=1).gather(1, labels[:, None])[:, 0] ** (1 / 3)
        expected = -(guide * entropy).mean() / math.log(classes)
        constant = math.log(classes - 1) / math.log(classes)
    value = make_loss(name)(ours, labels)
    assert value.item() == pytest.approx(expected.item() + constant, abs=1e-6)
    torch.autograd.backward([value, expected])
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-8)


def test_guided_complement_entropy_refuses_two_classes() -> None:
    with pytest.raises(TrainingError, match="needs at least 3 classes"):
        make_loss("guided-complement")(torch.zeros(1, 2), torch.tensor([0]))


@given(batches())
def test_focal_loss_and_logit_squeezing_against_their_formulas(batch: Batch) -> None:
    logits, labels = batch
    p = softmax(logits.numpy())[np.arange(len(labels)), labels.numpy()]
    focal = make_loss("focal")(logits, labels).item()
    assert focal == pytest.approx(((1 - p) ** 2 * -np.log(p)).mean(), rel=1e-6, abs=1e-9)
    ce = make_loss("ce")(logits, labels).item()
    assert make_loss("focal", gamma=0)(logits, labels).item() == pytest.approx(ce, rel=1e-9)
    squeezed = make_loss("logit-squeezing", weight=0.5)(logits, labels).item()
    assert squeezed == pytest.approx(ce + 0.5 * np.square(logits.numpy()).sum(axis=1).mean(), rel=1e-9)


def test_label_smoothing_against_its_target_distribution() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    target = np.array([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
    expected = -(target * np.log(softmax(logits.numpy())[0])).sum()
    assert make_loss("label-smoothing")(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_a_loss_knows_what_it_was_made_with() -> None:
    assert make_loss("drsl", form="conditional").settings == {"form": "conditional", "tau": 1.0}
    assert make_loss("drsl", form="authors").settings == {"form": "authors", "tau": 0.001}
    assert make_loss("ce").settings == {}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("hinge", {}, "unknown loss 'hinge': choose one of ce, label-smoothing, focal"),
        ("ce", {"tau": 0.3}, "has no setting 'tau': it takes none"),
        ("gce", {"tau": 0.3}, "it takes q"),
        ("gce", {"q": 0.0}, r"q .* must be in \(0, 1\]"),
        ("label-smoothing", {"smoothing": 1.0}, "smoothing must be in"),
        ("focal", {"gamma": -1.0}, "gamma must not be negative"),
        ("logit-squeezing", {"weight": float("nan")}, "weight must not be negative"),
        ("symmetric-ce", {"log_zero": 0.0}, "log_zero, which stands for log 0, must be negative"),
        ("guided-complement", {"alpha": 0.0}, "must be greater than 0"),
        ("drsl", {"form": "l2"}, "unknown DRSL form 'l2'"),
        ("drsl", {"tau": -1.0}, "tau must not be negative"),
    ],
)
def test_a_wrong_loss_is_refused_with_what_is_right(name: str, settings: dict[str, float | str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make_loss(name, **settings)

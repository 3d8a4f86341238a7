"""What is done to a teacher's logits is what the name says, and nothing else."""

from typing import Final

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import rel_entr

from softrisk_core.diagnostics import softmax
from softrisk_evaluation.experiments.distillation import TEACHERS, TEMPERATURE, distillation_loss

Logits = NDArray[np.float32]

OTHERS_TOP: Final = ("own values, order of CE", "CE instead")
"""Whose largest logit is not where the teacher has it."""

seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, rows: int = 40, classes: int = 7) -> tuple[Logits, Logits]:
    """Logits of a teacher and of a model trained on clean images; no two of a row are equal."""
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(rows, classes)).astype(np.float32),
        (5 * generator.normal(size=(rows, classes))).astype(np.float32),
    )


def changed(change: str, own: Logits, other: Logits, seed: int = 0) -> Logits:
    before = own.copy(), other.copy()
    result = TEACHERS[change](own, other, np.random.default_rng(seed))
    np.testing.assert_array_equal((own, other), before)
    assert result.dtype == np.float32
    return result


def descending(logits: Logits) -> Logits:
    return -np.sort(-logits, axis=1)


def order(logits: Logits) -> NDArray[np.int64]:
    places: NDArray[np.int64] = np.argsort(-logits, axis=1)
    return places


def moves(before: Logits, after: Logits) -> NDArray[np.int64]:
    """For each place of each row, from which place its value comes."""
    sources: NDArray[np.int64] = (after[:, :, None] == before[:, None, :]).argmax(axis=2)
    return sources


@pytest.mark.parametrize("change", sorted(TEACHERS))
@given(seeds)
def test_the_predicted_class_is_kept_or_that_of_ce(change: str, seed: int) -> None:
    own, other = drawn(seed)
    expected = other if change in OTHERS_TOP else own
    np.testing.assert_array_equal(changed(change, own, other).argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ("wrong classes flat", 0),
        ("runner-up kept, rest flat", 1),
        ("two kept, rest flat", 2),
        ("three kept, rest flat", 3),
    ],
)
@given(seeds)
def test_flat_is_flat_below_what_is_kept(change: str, kept: int, seed: int) -> None:
    own, other = drawn(seed)
    result = changed(change, own, other)
    whole, rest = np.split(order(own), [kept + 1], axis=1)
    np.testing.assert_array_equal(np.take_along_axis(result, whole, 1), np.take_along_axis(own, whole, 1))
    flat = np.take_along_axis(result, rest, 1)
    assert (flat == flat[:, :1]).all()
    np.testing.assert_allclose(flat[:, 0], np.take_along_axis(own, rest, 1).mean(axis=1), atol=1e-5)


@pytest.mark.parametrize("change", ["wrong classes shuffled", "wrong classes shuffled by class"])
@given(seeds)
def test_shuffling_keeps_values_and_the_largest(change: str, seed: int) -> None:
    own, other = drawn(seed)
    result = changed(change, own, other, seed)
    np.testing.assert_array_equal(descending(result), descending(own))
    np.testing.assert_array_equal(result.max(axis=1), own[np.arange(len(own)), result.argmax(axis=1)])


def test_each_image_is_shuffled_in_its_own_way() -> None:
    own, other = drawn(0, rows=2000)
    result = changed("wrong classes shuffled", own, other)
    # The runner-up goes to each of the 6 places behind the largest equally often: 333 ± 17.
    places = (order(result) == order(own)[:, 1:2]).argmax(axis=1)
    assert (np.abs(np.bincount(places, minlength=7)[1:] - 2000 / 6) < 100).all()


def test_shuffled_by_class_is_one_permutation_for_each_predicted_class() -> None:
    own, other = drawn(1, rows=300)
    moved = moves(own, changed("wrong classes shuffled by class", own, other))
    top = own.argmax(axis=1)
    permutations = [np.unique(moved[top == label], axis=0) for label in range(7)]
    assert all(len(each) == 1 for each in permutations)
    assert len(np.unique(np.concatenate(permutations), axis=0)) > 1
    assert (changed("wrong classes shuffled by class", own, other, seed=2) != own).any()


def test_shuffles_are_decided_by_the_seed() -> None:
    own, other = drawn(3)
    for change in ("wrong classes shuffled", "wrong classes shuffled by class"):
        first = changed(change, own, other, seed=1)
        np.testing.assert_array_equal(changed(change, own, other, seed=1), first)
        assert (changed(change, own, other, seed=2) != first).any()


@given(seeds)
def test_the_mean_profile_keeps_nothing_but_the_order(seed: int) -> None:
    own, other = drawn(seed)
    result = changed("mean profile, own order", own, other)
    np.testing.assert_array_equal(order(result), order(own))
    np.testing.assert_allclose(descending(result), np.tile(descending(own).mean(axis=0), (len(own), 1)), atol=1e-5)


@given(seeds)
def test_the_mean_gap_changes_nothing_but_the_gap(seed: int) -> None:
    own, other = drawn(seed)
    result = changed("mean gap, own order", own, other)
    before, after = descending(own), descending(result)
    np.testing.assert_array_equal(order(result), order(own))
    np.testing.assert_array_equal(after[:, 1:], before[:, 1:])
    np.testing.assert_allclose(after[:, 0] - after[:, 1], (before[:, 0] - before[:, 1]).mean(), atol=1e-5)


@given(seeds)
def test_values_of_one_model_in_the_order_of_the_other(seed: int) -> None:
    own, other = drawn(seed)
    for change, values, order_of in (
        ("own values, order of CE", own, other),
        ("values of CE, own order", other, own),
        ("CE instead", other, other),
        ("as it is", own, own),
    ):
        result = changed(change, own, other)
        np.testing.assert_array_equal(descending(result), descending(values))
        np.testing.assert_array_equal(order(result), order(order_of))


@given(seeds)
def test_the_loss_is_the_divergence_of_the_student_from_the_teacher(seed: int) -> None:
    taught, logits = drawn(seed, rows=5)
    expected = rel_entr(softmax(taught / TEMPERATURE), softmax(logits / TEMPERATURE)).sum(axis=1).mean()
    loss = distillation_loss(torch.from_numpy(logits), torch.from_numpy(taught)).item()
    assert loss == pytest.approx(TEMPERATURE**2 * expected, rel=1e-4)
    assert distillation_loss(torch.from_numpy(taught + 3), torch.from_numpy(taught)).item() == pytest.approx(
        0, abs=1e-5
    )

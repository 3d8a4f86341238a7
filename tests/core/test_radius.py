"""The radius within which a label is proved not to change, against closed forms and attacks on linear classifiers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from softrisk_core.radius import LARGEST, radius

Array = NDArray[np.float64]

LOGITS = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(2, 6)), elements=st.floats(-50, 50))


def constants(inputs: int, classes: int, seed: int) -> Array:
    return np.random.default_rng(seed).uniform(0.1, 3, (inputs, classes, classes))


@given(LOGITS, st.integers(1, 4), st.integers(0, 2**32))
def test_it_is_the_formula_pair_by_pair(logits: Array, inputs: int, seed: int) -> None:
    lipschitz = constants(inputs, logits.shape[1], seed)
    for z, found in zip(logits, radius(logits, lipschitz), strict=True):
        y = z.argmax()
        others = [k for k in range(len(z)) if k != y]
        expected = min((z[y] - z[k]) / np.sqrt(sum(lipschitz[m, y, k] ** 2 for m in range(inputs))) for k in others)
        assert found == pytest.approx(expected, rel=1e-12)


@given(LOGITS, st.integers(1, 3), st.integers(0, 2**32))
def test_what_may_be_changed_on_top_never_makes_it_larger(logits: Array, inputs: int, seed: int) -> None:
    lipschitz = constants(inputs + 1, logits.shape[1], seed)
    assert (radius(logits, lipschitz) <= radius(logits, lipschitz[:-1])).all()
    np.testing.assert_allclose(radius(logits, lipschitz), radius(logits, lipschitz[::-1]))


def linear(seed: int, classes: int = 4, sizes: tuple[int, int] = (5, 3)) -> tuple[list[Array], Array]:
    """Weights of a linear classifier of two inputs, and its constants: |w_y − w_k| for each input."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(classes, size)) for size in sizes]
    return weights, np.array([np.linalg.norm(w[:, None] - w[None], axis=2) for w in weights])


@pytest.mark.parametrize("seed", range(5))
def test_of_a_linear_classifier_it_is_attained_and_not_exceeded(seed: int) -> None:
    weights, lipschitz = linear(seed)
    rng = np.random.default_rng(seed)
    inputs = [rng.normal(size=w.shape[1]) for w in weights]
    logits = np.array([w @ x for w, x in zip(weights, inputs, strict=True)]).sum(axis=0)
    label, (limit,) = int(np.argmax(logits)), radius(logits[None], lipschitz)
    runners_up = []
    for k in set(range(len(logits))) - {label}:
        step = [w[k] - w[label] for w in weights]
        length = np.sqrt(sum(s @ s for s in step))
        for share, changes in ((0.999, False), (1.001, True)):
            moved = [x + share * limit * s / length for x, s in zip(inputs, step, strict=True)]
            after = int(np.argmax(sum(w @ x for w, x in zip(weights, moved, strict=True))))
            if not changes:
                assert after == label
            runners_up.append(changes and after != label)
    assert any(runners_up)


@given(LOGITS, st.floats(0, 5), st.integers(0, 2**32))
def test_logits_that_may_be_off_are_allowed_for(logits: Array, rounding: float, seed: int) -> None:
    lipschitz = constants(2, logits.shape[1], seed)
    found, rng = radius(logits, lipschitz, rounding), np.random.default_rng(seed)
    exact = logits + rng.choice([-rounding, rounding], logits.shape)
    for z, limit, real in zip(logits, found, exact, strict=True):
        y = z.argmax()
        for k in set(range(len(z))) - {y} if limit > 0 else ():
            # The exact difference falls by no more than this, and what is then computed is off again.
            fallen = real[y] - real[k] - limit * np.sqrt(np.square(lipschitz[:, y, k]).sum())
            assert fallen - 2 * rounding >= -1e-9 * (1 + np.abs(z).max())
    assert (found <= radius(logits, lipschitz)).all()


def test_scaling_an_input_scales_its_radius() -> None:
    _, lipschitz = linear(0)
    logits = np.random.default_rng(1).normal(size=(6, 4))
    np.testing.assert_allclose(radius(logits, 10 * lipschitz[0]), radius(logits, lipschitz[:1]) / 10)


def test_two_classes_ties_and_constants_of_zero() -> None:
    zero, two = np.zeros((2, 2)), np.full((2, 2), 2.0)
    np.testing.assert_array_equal(radius([[3, 1], [1, 1]], two), [1, 0])
    # Nothing that is changed moves these logits apart or together.
    np.testing.assert_array_equal(radius([[3, 1], [1, 1]], zero), [LARGEST, 0])
    apart = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(radius([[3, 1, 0]], apart), [3])


@pytest.mark.parametrize(
    ("logits", "lipschitz"),
    [
        ([[1.0, 2.0]], np.ones((3, 3))),
        ([[1.0]], np.ones((1, 1))),
        ([1.0, 2.0], np.ones((2, 2))),
        ([[1.0, 2.0]], -np.ones((2, 2))),
        ([[1.0, 2.0]], np.full((2, 2), np.nan)),
        ([[1.0, 2.0]], np.empty((0, 2, 2))),
    ],
)
def test_what_is_no_bound_is_refused(logits: list[list[float]], lipschitz: Array) -> None:
    with pytest.raises(ValueError, match=r"do not fit|not negative"):
        radius(logits, lipschitz)

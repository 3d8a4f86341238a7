"""Diagnostics against their definitions in extended precision, and the properties that users rely on."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import special, stats

from softrisk_core.diagnostics import DIAGNOSTICS, diagnose, softmax

GOLDEN = Path(__file__).parent / "golden_diagnostics.json"

logit_batches = arrays(
    np.float64,
    st.tuples(st.integers(1, 5), st.integers(2, 12)),
    elements=st.floats(-1e4, 1e4, allow_nan=False, width=32),
)
moderate_batches = arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(2, 12)), elements=st.floats(-8, 8, width=32)
)


def by_definition(row: NDArray[np.float64]) -> dict[str, float]:
    """The formulas of the documentation, written down naively with SciPy."""
    top = int(row.argmax())
    p = special.softmax(row)
    ordered, ordered_p = np.sort(row)[::-1], np.sort(p)[::-1]
    rest, rest_p = np.delete(row, top), np.delete(p, top)
    return {
        "top2_gap": ordered_p[0] - ordered_p[1],
        "logit_gap": ordered[0] - ordered[1],
        "dispersion": rest.std(),
        "softmax_dispersion": float(np.linalg.norm(rest_p - rest_p.mean())),
        "complement_entropy": 1.0 if len(rest) == 1 else float(stats.entropy(rest_p) / np.log(len(rest))),
        "max_logit": ordered[0],
        "energy": float(special.logsumexp(row)),
        "entropy": float(stats.entropy(p)),
    }


@given(moderate_batches)
def test_every_diagnostic_follows_its_definition(logits: NDArray[np.float64]) -> None:
    found = diagnose(logits)
    assert tuple(found) == DIAGNOSTICS
    for i, row in enumerate(logits):
        for name, expected in by_definition(row).items():
            assert found[name][i] == pytest.approx(expected, rel=1e-9, abs=1e-12), name


@given(logit_batches)
def test_large_logits_stay_finite_and_in_range(logits: NDArray[np.float64]) -> None:
    found = diagnose(logits)
    classes = logits.shape[1]
    for name, values in found.items():
        assert np.isfinite(values).all(), name
    for name in ("top2_gap", "complement_entropy"):
        assert ((found[name] >= 0) & (found[name] <= 1)).all()
    for name in ("logit_gap", "dispersion", "softmax_dispersion", "entropy"):
        assert (found[name] >= 0).all()
    assert (found["entropy"] <= np.log(classes) + 1e-9).all()
    assert (found["energy"] >= found["max_logit"]).all()


@given(moderate_batches, st.floats(-1e3, 1e3))
def test_only_max_logit_and_energy_feel_a_shift(logits: NDArray[np.float64], shift: float) -> None:
    before, after = diagnose(logits), diagnose(logits + shift)
    for name in DIAGNOSTICS:
        moved = shift if name in ("max_logit", "energy") else 0.0
        assert after[name] == pytest.approx(before[name] + moved, rel=1e-6, abs=1e-6), name


@given(moderate_batches, st.randoms(use_true_random=False))
def test_class_order_does_not_matter(logits: NDArray[np.float64], shuffler: random.Random) -> None:
    order = list(range(logits.shape[1]))
    shuffler.shuffle(order)
    before, after = diagnose(logits), diagnose(logits[:, order])
    for name in DIAGNOSTICS:
        assert after[name] == pytest.approx(before[name], rel=1e-9, abs=1e-12), name


@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 50_000])
def test_any_number_of_classes(classes: int) -> None:
    logits = np.random.default_rng(classes).normal(size=(3, classes)) * 4
    found = diagnose(logits)
    for i, row in enumerate(logits):
        for name, expected in by_definition(row).items():
            assert found[name][i] == pytest.approx(expected, rel=1e-9, abs=1e-12), name


def test_two_classes_have_no_spread() -> None:
    found = diagnose([[3.0, -1.0], [-1e4, 1e4]])
    assert found["dispersion"].tolist() == [0, 0]
    assert found["softmax_dispersion"].tolist() == [0, 0]
    assert found["complement_entropy"].tolist() == [1, 1]


def test_a_near_certain_prediction_keeps_its_spread() -> None:
    """p = 1 − 1e-12 or closer: float32 softmax would leave nothing of the other classes."""
    found = diagnose([[30.0, 0.0, -1.0, -2.0], [90.0, 0.0, -1.0, -2.0]])
    assert found["complement_entropy"][0] == pytest.approx(found["complement_entropy"][1])
    assert found["softmax_dispersion"][1] / found["softmax_dispersion"][0] == pytest.approx(np.exp(-60), rel=1e-9)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 2, 2)])
def test_wrong_shapes_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="batch, classes"):
        diagnose(np.zeros(shape))


@given(logit_batches)
def test_softmax_rows_sum_to_one(logits: NDArray[np.float64]) -> None:
    assert softmax(logits).sum(axis=1) == pytest.approx(np.ones(len(logits)))


@pytest.mark.parametrize("case", json.loads(GOLDEN.read_text())["cases"], ids=lambda case: str(case["logits"][:3]))
def test_golden_values(case: dict[str, Any]) -> None:
    """Pinned values: a change here changes what every stored calibration means."""
    found = diagnose([case["logits"]])
    for name, expected in case["diagnostics"].items():
        assert found[name][0] == pytest.approx(expected, rel=1e-12, abs=1e-300), name

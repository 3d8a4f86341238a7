"""Presence cases and radii in the graph, against the NumPy reference."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnx.checker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from softrisk_core.conformal import ranks
from softrisk_core.groups import Grouping
from softrisk_core.manifest import OUTPUTS, RadiusKind
from softrisk_core.presence import find_cases, keep_present, presence_cases
from softrisk_core.radius import LARGEST, radius
from softrisk_core.rows import Inputs
from softrisk_core.scores.catalogue import find_score
from softrisk_export.bound import Bound
from softrisk_export.graph import float_input, with_diagnostics, with_risk, with_score
from softrisk_export.input_tails import CASE, with_presence, with_radii
from softrisk_export.onnx_edit import exposing
from softrisk_export.runtime import Runner

NAMES = ("image", "audio")
Floats = NDArray[np.float32]


def adding(names: Sequence[str], classes: int, version: int = 18) -> onnx.ModelProto:
    """A graph with diagnostics whose logits are the sum of its inputs."""
    total = helper.make_node("Sum", list(names), ["y"])
    inputs = [float_input(name, [classes]) for name in names]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])
    graph = helper.make_graph([total], "adding", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    return with_diagnostics(model, classes)


def bounded(names: Sequence[str], classes: int, kinds: Sequence[RadiusKind] = ("certified",), seed: int = 0) -> Bound:
    rng = np.random.default_rng(seed)
    constants = {kind: rng.uniform(0.01, 3, (len(names), classes, classes)) for kind in kinds}
    return Bound(dict.fromkeys(names, "pixels"), constants, rounding=0.01)


CLASSES = 4
ALL_OPTIONAL = dict.fromkeys(NAMES, True)
BOTH: Sequence[RadiusKind] = ("certified", "estimated")
BOUND = bounded(NAMES, CLASSES, BOTH)
RUN = Runner(with_radii(with_presence(adding(NAMES, CLASSES), ALL_OPTIONAL), BOUND, ALL_OPTIONAL))
"""Built once for all examples."""

ROW = hnp.arrays(np.float32, CLASSES, elements=st.floats(-1e4, 1e4, width=32) | st.just(0.0))


@given(st.lists(st.tuples(ROW, ROW), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_radii_are_the_reference_and_never_larger(rows: list[tuple[Floats, Floats]]) -> None:
    inputs = {name: np.array([row[position] for row in rows]) for position, name in enumerate(NAMES)}
    outputs = RUN(inputs)
    expected = BOUND.radii(outputs["logits"].astype(np.float64), inputs, ALL_OPTIONAL)
    assert set(expected) == set(RUN.outputs) - {"logits", "probabilities", "label"} - set(OUTPUTS)
    for name, values in expected.items():
        assert (outputs[name] <= values).all(), name
        np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


@given(
    hnp.arrays(np.float32, (3, 2), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.floats(1e-30, 1e30),
    st.floats(0, 1e3),
)
@settings(deadline=None, max_examples=25)
def test_no_logits_and_constants_make_a_radius_too_large(logits: Floats, constant: float, rounding: float) -> None:
    """Also where float32 has no relative accuracy any more; logits whose gap it cannot hold are refused elsewhere."""
    bound = Bound({"x": "pixels"}, {"certified": np.full((1, 2, 2), constant)}, rounding)
    outputs = Runner(with_radii(adding(["x"], 2), bound, {"x": False}))(logits)
    expected = radius(outputs["logits"], bound.lipschitz["certified"], rounding)
    gaps = np.abs(np.diff(logits.astype(np.float64)))[:, 0]
    finite = gaps <= LARGEST
    # Off by a share of what is taken off, which is more than a share of what is left.
    slack = 1e-5 * rounding / constant + 1e-37
    assert (outputs["certified_radius"] <= expected)[finite].all()
    np.testing.assert_allclose(outputs["certified_radius"][finite], expected[finite], rtol=1e-5, atol=slack)


def test_the_radius_of_a_case_is_over_the_inputs_that_are_there() -> None:
    rng = np.random.default_rng(1)
    whole: Inputs = {name: rng.normal(size=(5, CLASSES)).astype(np.float32) for name in NAMES}
    constants = BOUND.lipschitz["certified"]
    for case, changed in (((*NAMES,), [0, 1]), (("image",), [0]), (("audio",), [1])):
        outputs = RUN(keep_present(whole, case))
        expected = radius(outputs["logits"], constants[changed], BOUND.rounding)
        np.testing.assert_allclose(outputs["certified_radius"], expected, rtol=1e-5, atol=1e-6)
        for position, name in enumerate(NAMES):
            own = radius(outputs["logits"], constants[[position]], BOUND.rounding) if name in case else np.zeros(5)
            np.testing.assert_allclose(outputs[f"certified_radius_{name}"], own, rtol=1e-5, atol=1e-6)
    nothing = RUN(keep_present(whole, ()))
    assert all((nothing[name] == 0).all() for name in BOUND.facts.outputs)


def test_constants_of_zero_two_classes_and_one_input() -> None:
    zero = Bound({"x": "pixels"}, {"estimated": np.zeros((1, 2, 2))})
    outputs = Runner(with_radii(adding(["x"], 2), zero, {"x": False}))(np.array([[3, 1], [1, 1]], np.float32))
    np.testing.assert_array_equal(outputs["estimated_radius"], np.array([LARGEST, 0], np.float32))
    assert list(outputs)[-1] == "estimated_radius"


@pytest.mark.parametrize("optional", [(True, True), (False, True), (True, False)])
def test_cases_are_those_of_the_reference(optional: tuple[bool, bool]) -> None:
    may_lack = dict(zip(NAMES, optional, strict=True))
    run = Runner(exposing(with_presence(adding(NAMES, 3), may_lack), [CASE]))
    rng = np.random.default_rng(0)
    inputs: Inputs = {
        name: (rng.normal(size=(40, 3)) * rng.integers(0, 2, (40, 1))).astype(np.float32) for name in NAMES
    }
    inputs["image"][0] = [0, -1e-38, 0]
    expected = find_cases(inputs, may_lack)
    assert len(set(expected.tolist())) == (4 if all(optional) else 2)
    np.testing.assert_array_equal(run(inputs, [CASE])[CASE], expected)


@given(st.data())
@settings(deadline=None, max_examples=15)
def test_an_instance_is_ranked_among_its_own_case(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    values = st.sampled_from([-2.0, -1.0, -0.5, 0.25, 0.5, 1.0, 2.0])
    cases = presence_cases(ALL_OPTIONAL)
    scores = [np.sort(np.array(data.draw(st.lists(values, min_size=n, max_size=n)), np.float32)) for _ in cases]
    grouping, alpha = Grouping.by_case(n, len(cases)), max(0.3, 1 / (n + 1))
    scored = with_score(with_presence(adding(NAMES, 3), ALL_OPTIONAL), find_score("max_logit:high").load({}, ()))
    run = Runner(with_risk(scored, np.concatenate(scores), grouping, alpha, CASE))
    rows = data.draw(st.lists(st.tuples(values, st.integers(0, len(cases) - 1)), min_size=1, max_size=8))
    # The score of a row is its largest logit.
    low = np.float32(-9)
    parts: list[Inputs] = [
        keep_present(
            {"image": np.array([[s, low, low]], np.float32), "audio": np.array([[s, low, low]], np.float32)}, cases[c]
        )
        for s, c in rows
    ]
    inputs = {name: np.concatenate([part[name] for part in parts]) for name in NAMES}
    outputs = run(inputs)
    expected = [int(ranks(outputs["nonconformity"][[row]], scores[case])[0]) for row, (_, case) in enumerate(rows)]
    np.testing.assert_array_equal(outputs["rank"], expected)
    np.testing.assert_allclose(outputs["p_value"], np.array(expected) / (n + 1), rtol=1e-6)
    np.testing.assert_array_equal(outputs["flagged"], outputs["rank"] <= grouping.rank_limits(alpha)[0])


def test_an_instance_without_any_input_is_the_strangest() -> None:
    scored = with_score(with_presence(adding(NAMES, 3), ALL_OPTIONAL), find_score("max_logit:high").load({}, ()))
    # Larger than none of the calibration scores.
    scores = np.full(300, 5, np.float32)
    run = Runner(with_risk(scored, scores, Grouping.by_case(100, 3), 0.05, CASE))
    outputs = run({name: np.zeros((2, 3), np.float32) for name in NAMES})
    np.testing.assert_array_equal(outputs["rank"], 1)
    assert outputs["flagged"].all()
    assert not run({name: np.ones((2, 3), np.float32) for name in NAMES})["flagged"].any()


@pytest.mark.parametrize("version", [13, 18, 21])
def test_the_tails_are_valid_in_every_opset_and_another_runtime_computes_the_same(version: int) -> None:
    model = with_radii(with_presence(adding(NAMES, CLASSES, version), ALL_OPTIONAL), BOUND, ALL_OPTIONAL)
    onnx.checker.check_model(model, full_check=True)
    rng = np.random.default_rng(2)
    inputs = {name: rng.normal(size=(3, CLASSES)).astype(np.float32) for name in NAMES}
    inputs["audio"][1] = 0
    expected = dict(zip(RUN.outputs, ReferenceEvaluator(model).run(list(RUN.outputs), inputs), strict=True))
    found = Runner(model)(inputs)
    for name in BOUND.facts.outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)

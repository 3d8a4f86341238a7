"""Ranks within calibration groups, in the graph, against the NumPy reference."""

import numpy as np
import onnx
import onnx.checker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from softrisk_core.groups import Grouping
from softrisk_core.scores.catalogue import find_score
from softrisk_export.graph import RISK_PREFIX, float_input, with_diagnostics, with_risk, with_score
from softrisk_export.runtime import Outputs, Runner

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

# Few different values make ties; the outer ones lie beyond every calibration score.
VALUES = (-3.0e38, -2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.0000001, 2.0, 3.0e38)


def graph(calibration: Floats, grouping: Grouping, alpha: float, version: int = 17) -> onnx.ModelProto:
    """A graph whose input is the logits and whose score is the largest of them."""
    classes = len(grouping.of_key)
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", classes])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    head = onnx.helper.make_graph([node], "head", [float_input("x", [classes])], [output])
    model = onnx.helper.make_model(head, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)
    scored = with_score(with_diagnostics(model, classes), find_score("max_logit:high").load({}, ()))
    return with_risk(scored, calibration, grouping, alpha)


def logits(scores: Floats, labels: Labels, classes: int) -> Floats:
    """Logits of these labels whose largest are these scores."""
    below = np.nextafter(scores, np.float32(-np.inf))
    rows = np.repeat(below[:, None], classes, axis=1)
    rows[np.arange(len(scores)), labels] = scores
    return rows


def check(calibration: Floats, grouping: Grouping, scores: Floats, labels: Labels, alpha: float) -> None:
    outputs: Outputs = Runner(graph(calibration, grouping, alpha))(logits(scores, labels, len(grouping.of_key)))
    np.testing.assert_array_equal(outputs["label"], labels)
    expected = grouping.ranks(scores, labels, calibration)
    np.testing.assert_array_equal(outputs["rank"], expected)
    sizes = np.array(grouping.size_of_key)[labels]
    np.testing.assert_array_equal(outputs["p_value"], expected.astype(np.float32) / (sizes + 1).astype(np.float32))
    np.testing.assert_array_equal(outputs["risk_score"], np.float32(1) - outputs["p_value"])
    np.testing.assert_array_equal(outputs["flagged"], expected <= np.array(grouping.rank_limits(alpha))[labels])


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_ranks_are_exact_with_ties(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=2, max_size=5))
    further = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=3))
    of_label = data.draw(st.permutations([*range(len(sizes)), *further]))
    grouping = Grouping(tuple(of_label), tuple(sizes))
    groups = [sorted(data.draw(st.lists(st.sampled_from(VALUES), min_size=n, max_size=n))) for n in sizes]
    rows = data.draw(st.lists(st.tuples(st.sampled_from(VALUES), st.integers(0, len(of_label) - 1)), min_size=1))
    least = 1 / (min(sizes) + 1)
    alpha = min(least + data.draw(st.floats(0, 1)) * (1 - least), 0.999)
    calibration = np.array([score for group in groups for score in group], np.float32)
    scores, labels = np.array([score for score, _ in rows], np.float32), np.array([label for _, label in rows])
    check(calibration, grouping, scores, labels, alpha)


@pytest.mark.parametrize(
    "sizes", [(1, 1), (1, 10_000), (10_000, 1), (99, 100, 101), (3, 4999, 64, 65), (1024, 1025, 1023), (7,) * 300]
)
def test_ranks_are_exact_for_groups_of_any_sizes(sizes: tuple[int, ...]) -> None:
    generator = np.random.default_rng(sum(sizes))
    grouping = Grouping(tuple(range(len(sizes))), sizes)
    # Each group has its own range, so that the scores of another would give other ranks.
    groups = [generator.normal(group, 2, n).round(2).astype(np.float32) for group, n in enumerate(sizes)]
    calibration = np.concatenate([np.sort(group) for group in groups])
    scores = np.concatenate([generator.choice(calibration, 300), generator.normal(0, 3, 300)]).astype(np.float32)
    check(calibration, grouping, scores, generator.integers(0, len(sizes), 600), max(0.05, 1 / (min(sizes) + 1)))


def test_a_score_that_is_no_number_is_the_strangest_of_its_group() -> None:
    grouping = Grouping((0, 1, 1), (30, 99))
    outputs = Runner(graph(np.arange(129, dtype=np.float32), grouping, 0.05))(np.full((1, 3), np.nan, np.float32))
    assert outputs["rank"].tolist() == [1]
    assert outputs["flagged"].tolist() == [True]


@pytest.mark.parametrize("version", [13, 17, 21])
def test_the_file_means_the_same_by_the_standard(version: int) -> None:
    generator = np.random.default_rng(version)
    grouping = Grouping((1, 0, 2, 0, 2), (150, 700, 31))
    calibration = np.concatenate([np.sort(generator.normal(size=n).astype(np.float32)) for n in grouping.sizes])
    model = graph(calibration, grouping, 0.05, version)
    onnx.checker.check_model(model, full_check=True)
    rows = generator.normal(0, 1, (20, 5)).astype(np.float32)
    expected = Runner(model)(rows)
    found = ReferenceEvaluator(model).run(None, {"x": rows})
    for (name, values), others in zip(expected.items(), found, strict=True):
        np.testing.assert_allclose(others, values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_marginal_calibration_looks_up_no_group() -> None:
    model = graph(np.arange(99, dtype=np.float32), Grouping.marginal(99, 3), 0.05)
    assert [node.op_type for node in model.graph.node if node.name.startswith(RISK_PREFIX)] == [
        "Unsqueeze", "GreaterOrEqual", "Cast", "ReduceSum", "Cast", "Gather", "GreaterOrEqual", "Cast", "ReduceSum",
        "Cast", "Gather", "Add", "Cast", "Div", "Sub", "LessOrEqual",
    ]  # fmt: skip
    assert [each.name for each in model.graph.initializer if each.name.startswith(RISK_PREFIX)] == [
        RISK_PREFIX + name for name in ("one", "last_axis", "pivots", "blocks", "first_ranks", "ranks", "rank_limit")
    ]

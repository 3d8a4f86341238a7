import numpy as np
import onnx
import onnx.checker
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from softrisk_core.conformal import rank_limit, ranks, smallest_alpha
from softrisk_core.diagnostics import DIAGNOSTICS, diagnose, softmax
from softrisk_core.groups import Grouping
from softrisk_core.manifest import OUTPUTS
from softrisk_core.scores.catalogue import find_score
from softrisk_export.graph import classifier, float_input, opset, with_diagnostics, with_risk, with_score
from softrisk_export.runtime import Outputs, Runner

LOW_GAP = "logit_gap:low"


def finished(
    head: onnx.ModelProto, classes: int, scores: NDArray[np.float32], alpha: float, score: str = LOW_GAP
) -> onnx.ModelProto:
    """A head with all tails."""
    scored = with_score(with_diagnostics(head, classes), find_score(score).load({}, ()))
    return with_risk(scored, scores, Grouping.marginal(scores.size, classes), alpha)


def logits_graph(classes: int, version: int = 13, entry: str = "x", value: str = "y") -> onnx.ModelProto:
    """A head whose input is the logits."""
    node = onnx.helper.make_node("Identity", [entry], [value])
    output = onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, ["batch", classes])
    graph = onnx.helper.make_graph([node], "head", [float_input(entry, [classes])], [output])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)


def run_diagnostics(logits: NDArray[np.float32]) -> Outputs:
    return Runner(with_diagnostics(logits_graph(logits.shape[1]), logits.shape[1]))(logits)


def ranked(scores: NDArray[np.float32], calibration: NDArray[np.float32], alpha: float) -> Outputs:
    """Ranks of scores by the graph; the score is the largest logit, so each row repeats it."""
    model = finished(logits_graph(2), 2, np.sort(calibration), alpha, score="max_logit:high")
    return Runner(model)(np.repeat(scores[:, None], 2, axis=1))


@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 50_000])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_diagnostics_are_those_of_the_reference(classes: int, scale: float) -> None:
    logits = np.random.default_rng(classes).normal(size=(5, classes)).astype(np.float32) * np.float32(scale)
    outputs = run_diagnostics(logits)
    for name, expected in diagnose(logits).items():
        np.testing.assert_allclose(outputs[name], expected, rtol=2e-5, atol=5e-7, err_msg=name)
    np.testing.assert_allclose(outputs["probabilities"], softmax(logits), rtol=2e-5, atol=1e-7)
    np.testing.assert_array_equal(outputs["label"], logits.argmax(axis=1))
    np.testing.assert_array_equal(outputs["logits"], logits)


@given(
    st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=9),
)
@settings(deadline=None)
def test_diagnostics_of_any_logits(rows: list[list[float]]) -> None:
    logits = np.array(rows, np.float32)
    outputs = THREE_CLASSES(logits)
    for name, expected in diagnose(logits).items():
        # Where only two classes count, the entropy of the others is a rounded 0 in float32.
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-4, atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(outputs["label"], logits.argmax(axis=1))


THREE_CLASSES = Runner(with_diagnostics(logits_graph(3), 3))


def test_a_certain_prediction_keeps_its_diagnostics() -> None:
    logits = np.array([[40.0, 0.0, -1.0], [60.0, 1.0, 0.5]], np.float32)
    outputs, expected = run_diagnostics(logits), diagnose(logits)
    for name in ("entropy", "softmax_dispersion", "dispersion", "complement_entropy"):
        np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-5, err_msg=name)


def test_equal_logits_choose_the_lowest_label() -> None:
    outputs = run_diagnostics(np.array([[1, 3, 3], [2, 2, 2], [0, 0, 5]], np.float32))
    assert outputs["label"].tolist() == [1, 0, 2]
    assert outputs["logit_gap"].tolist() == [0, 0, 5]


# Few different values make ties; the outer ones lie beyond every calibration score.
SCORES = st.sampled_from([-3.0e38, -2.0, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 1.0000001, 2.0, 3.0e38])


@given(
    calibration=st.lists(SCORES, min_size=1, max_size=40),
    scores=st.lists(SCORES | st.sampled_from([float("inf"), float("-inf")]), min_size=1, max_size=20),
    share=st.floats(0, 1),
)
@settings(deadline=None, max_examples=60)
def test_ranks_are_exact_with_ties(calibration: list[float], scores: list[float], share: float) -> None:
    clean, new = np.array(calibration, np.float32), np.array(scores, np.float32)
    least = smallest_alpha(clean.size)
    check_ranks(new, clean, alpha=min(least + share * (1 - least), 0.999))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 10, 63, 64, 65, 99, 100, 101, 1023, 1024, 1025, 4999, 10_000])
@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05, 0.5])
def test_ranks_are_exact_for_any_size(n: int, alpha: float) -> None:
    generator = np.random.default_rng(n)
    clean = generator.normal(size=n).round(2).astype(np.float32)
    new = np.concatenate([clean[:200], generator.normal(size=200).astype(np.float32), [np.float32(-9), np.float32(9)]])
    check_ranks(new, clean, max(alpha, smallest_alpha(n)))


def check_ranks(new: NDArray[np.float32], clean: NDArray[np.float32], alpha: float) -> None:
    outputs, expected = ranked(new, clean, alpha), ranks(new, clean)
    np.testing.assert_array_equal(outputs["rank"], expected)
    np.testing.assert_array_equal(outputs["flagged"], expected <= rank_limit(alpha, clean.size))
    p_values = expected.astype(np.float32) / np.float32(clean.size + 1)
    np.testing.assert_array_equal(outputs["p_value"], p_values)
    np.testing.assert_array_equal(outputs["risk_score"], np.float32(1) - p_values)


def test_a_score_that_is_no_number_is_the_strangest() -> None:
    outputs = ranked(np.array([np.nan, 0], np.float32), np.arange(99, dtype=np.float32), 0.05)
    assert outputs["rank"].tolist() == [1, 100]
    assert outputs["flagged"].tolist() == [True, False]


@pytest.mark.parametrize("diagnostic", DIAGNOSTICS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_score_is_the_chosen_side_of_the_chosen_diagnostic(diagnostic: str, sign: float) -> None:
    score = f"{diagnostic}:{'high' if sign > 0 else 'low'}"
    model = finished(logits_graph(5), 5, np.arange(20, dtype=np.float32), 0.05, score)
    outputs = Runner(model)(np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32))
    np.testing.assert_array_equal(outputs["nonconformity"], sign * outputs[diagnostic].astype(np.float32))


@pytest.mark.parametrize("version", [13, 17, 18, 21])
def test_outputs_are_those_of_the_format_on_any_opset(version: int) -> None:
    model = finished(logits_graph(4, version), 4, np.arange(50, dtype=np.float32), 0.05)
    onnx.checker.check_model(model, full_check=True)
    assert opset(model) == version
    outputs = Runner(model)(np.zeros((3, 4), np.float32))
    assert tuple(outputs) == OUTPUTS
    types = {name: value.dtype.name for name, value in outputs.items() if value.dtype != np.float32}
    assert types == {"label": "int64", "rank": "int64", "flagged": "bool"}
    shapes = {name: value.shape for name, value in outputs.items() if value.shape != (3,)}
    assert shapes == {"logits": (3, 4), "probabilities": (3, 4)}


@pytest.mark.parametrize("version", [13, 18])
def test_the_file_means_the_same_by_the_standard(version: int) -> None:
    """ONNX's reference implementation knows nothing of onnxruntime: neither its operators nor its liberties."""
    generator = np.random.default_rng(version)
    scores = np.sort(-generator.exponential(2, 700).astype(np.float32))
    model = finished(logits_graph(6, version), 6, scores, 0.05)
    assert {node.domain for node in model.graph.node} == {""}
    logits = generator.normal(0, 3, (20, 6)).astype(np.float32)
    expected = Runner(model)(logits)
    found = ReferenceEvaluator(model).run(None, {"x": logits})
    for (name, values), others in zip(expected.items(), found, strict=True):
        np.testing.assert_allclose(others, values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_tails_come_off_again() -> None:
    diagnosed = with_diagnostics(logits_graph(4), 4)
    head = classifier(finished(logits_graph(4), 4, np.arange(50, dtype=np.float32), 0.05))
    assert [output.name for output in head.graph.output] == ["logits"]
    assert len(head.graph.node) == len(logits_graph(4).graph.node)
    # Put on again, they leave no trace of the first time.
    assert with_diagnostics(head, 4) == diagnosed


@pytest.mark.parametrize("gap", [1e-6, 1e-3, 1.0, 12.0, 27.6, 40.0, 80.0])
def test_diagnostics_keep_their_relative_accuracy(gap: float) -> None:
    # From a hardly decided prediction to one at 1 − 1e-12 and beyond.
    logits = np.array([[gap, 0, -0.5, -3, -1.25]], np.float32)
    outputs, expected = run_diagnostics(logits), diagnose(logits)
    for name in DIAGNOSTICS:
        np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("classes", [3, 10, 1000])
def test_an_outlier_among_the_others_costs_no_accuracy(classes: int) -> None:
    # A second class far above the rest dominates their sums, and must not drown their spread.
    logits = np.random.default_rng(0).normal(size=(8, classes)).astype(np.float32)
    logits[:, 0], logits[:, 1] = 5000, 4990
    outputs, expected = run_diagnostics(logits), diagnose(logits)
    for name in ("dispersion", "softmax_dispersion"):
        np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize(("entry", "value"), [("x", "label"), ("logits", "rank"), ("softrisk", "zero")])
def test_names_of_the_head_do_not_collide_with_ours(entry: str, value: str) -> None:
    head = logits_graph(3, entry=entry, value=value)
    model = finished(head, 3, np.arange(50, dtype=np.float32), 0.05)
    outputs = Runner(model)(np.array([[0, 5, 1]], np.float32))
    assert outputs["label"].tolist() == [1]
    assert outputs["rank"].tolist() == [51]

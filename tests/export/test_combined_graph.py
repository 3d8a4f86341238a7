"""Combinations and probes inside the graph against their float64 reference."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx.checker
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping
from softrisk_core.manifest import OUTPUTS
from softrisk_core.probes import PROBES, Probe, draw_noise, make_probes
from softrisk_core.rows import Inputs, count_rows
from softrisk_core.scores.combined import ALWAYS, Combination, GatedCombination, fit_edges
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_core.scores.features import features
from softrisk_core.scores.score import Score
from softrisk_export.graph import classifier, float_input, with_diagnostics, with_risk, with_score
from softrisk_export.runtime import Runner
from softrisk_export.verify import check_empty_batch, check_parity

Images = NDArray[np.float32]

BATCHES = (1, 2, 7, 64)
CLASSES = 4
SIZE = 6


def network(channels: int, version: int = 17) -> onnx.ModelProto:
    """A small convolutional classifier with random weights."""
    generator = np.random.default_rng(channels)
    text = """
    net (float[N] x) => (float[N] y) {
        seen = Conv <pads = [1, 1, 1, 1]> (x, filters)
        active = Relu (seen)
        flat = Flatten (active)
        y = Gemm (flat, weights, bias)
    }
    """
    graph = onnx.parser.parse_graph(text)
    graph.input[0].CopyFrom(float_input("x", [channels, SIZE, SIZE]))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", CLASSES]))
    shapes = {"filters": (5, channels, 3, 3), "weights": (5 * SIZE * SIZE, CLASSES), "bias": (CLASSES,)}
    for name, shape in shapes.items():
        graph.initializer.append(onnx.numpy_helper.from_array(generator.normal(0, 0.4, shape).astype(np.float32), name))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", version)], ir_version=8)


def images_of(rows: int, channels: int, seed: int = 1) -> Images:
    return np.random.default_rng(seed).random((rows, channels, SIZE, SIZE), dtype=np.float32)


def seen(channels: int, probes: tuple[Probe, ...], inputs: Images) -> Evidence:
    run = Runner(with_diagnostics(network(channels), CLASSES))
    return observe(lambda images: run(images, ["logits"])["logits"], inputs, probes)


def combination(channels: int, names: tuple[str, ...] = ()) -> Combination:
    """Random weights, and edges of clean data."""
    probes = make_probes(names, draw_noise((channels, SIZE, SIZE), 0)) if names else ()
    values = features(seen(channels, probes, images_of(300, channels)))
    weights = np.random.default_rng(len(names)).normal(size=2 * values.shape[1]).astype(np.float32)
    return Combination(fit_edges(values), weights, np.float32(0.3), probes)


def gated(channels: int, names: tuple[str, ...], low: float, high: float) -> GatedCombination:
    """Probes the inputs whose gate scores lie between two quantiles of clean ones; 0 and 1 for always."""
    gate, full = combination(channels), combination(channels, names)
    if (low, high) == (0, 1):
        return GatedCombination(gate, full, ALWAYS)
    scores = np.sort(gate.of(seen(channels, (), images_of(300, channels))))
    # Halfway between two scores, so that rounding decides nothing.
    between = [(scores[int(share * 299)] + scores[int(share * 299) + 1]) / 2 for share in (low, high)]
    return GatedCombination(gate, full, np.array(between, np.float32))


def check(score: Score, channels: int, rows: Images) -> None:
    """At every batch size, for every input."""
    model = with_score(with_diagnostics(network(channels), CLASSES), score)
    onnx.checker.check_model(model, full_check=True)
    run = Runner(model)
    expected = score.of(seen(channels, score.probes, rows))
    for size in BATCHES:
        for start in range(0, len(rows) - size + 1, size):
            found = run(rows[start : start + size], ["nonconformity"])["nonconformity"]
            assert found.shape == (size,)
            np.testing.assert_allclose(found, expected[start : start + size], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_combination_is_that_of_the_reference(channels: int) -> None:
    check(combination(channels), channels, images_of(64, channels, seed=2))


@pytest.mark.parametrize("channels", [1, 3])
def test_black_images_are_no_exception(channels: int) -> None:
    rows = images_of(64, channels, seed=2)
    rows[::3] = 0
    check(combination(channels), channels, rows)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("limits", [(0, 1), (0.5, 0.9)], ids=["always", "auto"])
def test_a_probed_score_is_that_of_the_reference(channels: int, limits: tuple[float, float]) -> None:
    check(gated(channels, PROBES, *limits), channels, images_of(64, channels, seed=2))


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_probe_by_itself(name: str, channels: int) -> None:
    check(gated(channels, (name,), 0.3, 0.9), channels, images_of(64, channels, seed=2))


def undecided(score: GatedCombination, channels: int, rows: Images) -> NDArray[np.bool_]:
    return score.undecided(score.gate.of(seen(channels, (), rows)))


@pytest.mark.parametrize("kind", ["none", "some", "all"])
def test_any_share_of_a_batch_may_be_undecided(kind: str) -> None:
    score = gated(1, PROBES, 0.4, 0.9)
    rows = images_of(200, 1, seed=2)
    which = undecided(score, 1, rows)
    chosen = {"none": rows[~which], "some": rows, "all": rows[which]}[kind][:64]
    assert len(chosen) == 64
    check(score, 1, chosen)


def test_limits_that_nobody_is_between_probe_nobody() -> None:
    score = gated(3, PROBES, 0, 1)
    nobody = GatedCombination(score.gate, score.full, np.array([1e6, 2e6], np.float32))
    check(nobody, 3, images_of(64, 3))
    assert not nobody.was_probed(nobody.of(seen(3, nobody.probes, images_of(64, 3)))).any()


def test_an_input_gets_the_same_answer_in_every_company() -> None:
    score = gated(1, PROBES, 0.4, 0.9)
    run = Runner(with_score(with_diagnostics(network(1), CLASSES), score))
    rows = images_of(64, 1, seed=2)
    together = run(rows, ["nonconformity"])["nonconformity"]
    alone = np.concatenate([run(row[None], ["nonconformity"])["nonconformity"] for row in rows])
    turned = run(rows[::-1].copy(), ["nonconformity"])["nonconformity"][::-1]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(turned, together, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("limits", [(0, 1), (0.5, 0.9)], ids=["always", "auto"])
def test_the_file_means_the_same_by_the_standard(limits: tuple[float, float]) -> None:
    """As ONNX's reference implementation runs it, of any opset from 13 on."""
    score = gated(1, PROBES, *limits)
    rows = images_of(12, 1, seed=2)
    for version in (13, 21):
        model = with_score(with_diagnostics(network(1, version), CLASSES), score)
        assert {node.domain for node in model.graph.node} == {""}
        (found,) = ReferenceEvaluator(model).run(["nonconformity"], {"x": rows})
        expected = Runner(model)(rows)["nonconformity"]
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-4, atol=1e-3)


def test_a_classifier_that_cannot_be_run_on_no_rows_has_no_gate() -> None:
    model = network(1)
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    # As some exporters write it: of no rows the second dimension cannot be inferred.
    flatten.CopyFrom(onnx.helper.make_node("Reshape", ["active", "rows_and_rest"], ["flat"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, -1]), "rows_and_rest"))
    run, rows = Runner(with_diagnostics(model, CLASSES)), images_of(64, 1)
    with pytest.raises(CalibrationError, match=r"cannot be run on no rows.* name --probes always, or off"):
        check_empty_batch(run, rows)
    check_empty_batch(Runner(with_diagnostics(network(1), CLASSES)), rows)
    assert gated(1, PROBES, 0.4, 0.9).decides
    assert not gated(1, PROBES, 0, 1).decides


def test_parity_covers_a_batch_in_which_nothing_is_probed() -> None:
    score, rows = gated(1, PROBES, 0.4, 0.9), images_of(200, 1, seed=2)
    run = Runner(finished(score))
    seen_sizes: list[int] = []

    def source(inputs: Inputs) -> Images:
        seen_sizes.append(count_rows(inputs))
        return run(inputs, ["logits"])["logits"].astype(np.float32)

    check_parity(run, source, score, {"x": rows})
    assert seen_sizes == [*BATCHES, int((~undecided(score, 1, rows[:64])).sum())]


def finished(score: Score) -> onnx.ModelProto:
    scored = with_score(with_diagnostics(network(1), CLASSES), score)
    scores = np.sort(Runner(scored)(images_of(200, 1), ["nonconformity"])["nonconformity"].astype(np.float32))
    return with_risk(scored, scores, Grouping.marginal(200, CLASSES), 0.05)


def names_of(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.output
    for weights in graph.initializer:
        yield weights.name


def test_weights_are_shared_and_the_probes_come_off_again() -> None:
    probed, plain = finished(gated(1, PROBES, 0.5, 0.9)), finished(combination(1))
    assert [output.name for output in probed.graph.output] == list(OUTPUTS)
    names = list(names_of(probed.graph))
    assert len(set(names)) == len(names)
    weights = [each.name for each in probed.graph.initializer if each.name.endswith("weights") and len(each.dims) == 2]
    assert len(weights) == 1
    assert classifier(probed) == classifier(plain)
    again = with_score(with_diagnostics(classifier(probed), CLASSES), combination(1))
    np.testing.assert_array_equal(
        Runner(again)(images_of(9, 1))["nonconformity"], Runner(plain)(images_of(9, 1))["nonconformity"]
    )


def test_a_broken_input_is_the_strangest() -> None:
    rows = images_of(3, 1)
    rows[1] = np.nan
    outputs = Runner(finished(gated(1, PROBES, 0.5, 0.9)))(rows)
    assert outputs["rank"][1] == 1
    assert outputs["flagged"][1]
    clean = Runner(finished(gated(1, PROBES, 0.5, 0.9)))(images_of(3, 1))
    np.testing.assert_array_equal(outputs["rank"][[0, 2]], clean["rank"][[0, 2]])

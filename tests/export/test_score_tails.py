"""Every score inside the graph against its float64 reference."""

import numpy as np
import onnx.checker
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from tests.export.test_graph import logits_graph

from softrisk_core.scores.catalogue import SCORES, find_score
from softrisk_core.scores.score import LogitScore
from softrisk_export.graph import with_diagnostics, with_score
from softrisk_export.runtime import Runner

OF_LOGITS = [name for name in SCORES if find_score(name).needs in ("nothing", "logits")]

# With two classes a single one is beside the label: its spread is always 0, and its entropy always 1.
CONSTANT_OF_TWO = ("dispersion:two-sided", "softmax_dispersion:two-sided", "complement_entropy:two-sided")


def logits_of(rows: int, classes: int, scale: float, seed: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes))
    logits[np.arange(rows), generator.integers(classes, size=rows)] += generator.gamma(4, 1, rows)
    return (scale * logits).astype(np.float32)


def fitted(name: str, logits: NDArray[np.float32]) -> LogitScore:
    recipe = find_score(name)
    score = recipe.load({}, ()) if recipe.fit is None else recipe.fit(logits)
    assert isinstance(score, LogitScore)
    return score


@pytest.mark.parametrize(
    ("name", "classes"),
    [(name, n) for name in OF_LOGITS for n in (2, 3, 10, 2000) if n > 2 or name not in CONSTANT_OF_TWO],
)
def test_scores_are_those_of_the_reference(name: str, classes: int) -> None:
    score = fitted(name, logits_of(500, classes, 1, seed=0))
    run = Runner(with_score(with_diagnostics(logits_graph(classes), classes), score))
    for scale in (1e-2, 1.0, 20.0):
        logits = logits_of(40, classes, scale, seed=1)
        np.testing.assert_allclose(run(logits)["nonconformity"], score(logits), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_the_graph_of_a_score_means_the_same_by_the_standard(name: str) -> None:
    """Of any opset from 13 on, as ONNX's reference implementation runs it."""
    score = fitted(name, logits_of(500, 6, 1, seed=0))
    logits = logits_of(20, 6, 1, seed=1)
    for version in (13, 21):
        model = with_score(with_diagnostics(logits_graph(6, version), 6), score)
        onnx.checker.check_model(model, full_check=True)
        (found,) = ReferenceEvaluator(model).run(["nonconformity"], {"x": logits})
        np.testing.assert_allclose(np.asarray(found), Runner(model)(logits)["nonconformity"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["msp", "doctor"])
def test_no_two_sure_predictions_tie_in_float32(name: str) -> None:
    logits = np.zeros((40, 5), np.float32)
    logits[:, 0] = np.geomspace(5, 5000, 40)
    run = Runner(with_score(with_diagnostics(logits_graph(5), 5), fitted(name, logits)))
    assert (np.diff(run(logits)["nonconformity"]) < 0).all()

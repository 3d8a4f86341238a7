from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle, CalibrationArrays
from softrisk_core.groups import Grouping
from softrisk_core.rows import Inputs
from softrisk_export.errors import ParityError
from softrisk_export.runtime import Outputs, Runner
from softrisk_export.verify import check_calibration, check_parity


class Altered(Runner):
    """A graph one output of which is moved, in batches of at least some size."""

    def __init__(self, model: bytes, output: str, by: float, least: int) -> None:
        super().__init__(model)
        self._output, self._by, self._least = output, by, least

    def __call__(self, inputs: Inputs | NDArray[np.float32], outputs: Iterable[str] | None = None) -> Outputs:
        found = super().__call__(inputs, outputs)
        if len(next(iter(found.values()))) >= self._least and self._output in found:
            moved = found[self._output].copy()
            moved[0] += self._by
            found[self._output] = moved
        return found


def inputs() -> Inputs:
    return {"image": np.random.default_rng(0).random((20, 1, 8, 8), dtype=np.float32)}


def test_a_faithful_graph_passes_with_its_differences(bundle: Bundle) -> None:
    run = Runner(bundle.model_path.read_bytes())
    parity = check_parity(
        run, lambda batch: run(batch)["logits"] + np.float32(1e-5), bundle.score(), inputs(), difference=0.5
    )
    assert parity.source == pytest.approx(0.5 + 1e-5, rel=1e-3)
    assert 0 < parity.reference < 1e-5


@pytest.mark.parametrize(
    ("output", "by"),
    [
        (name, 0.001)
        for name in ("top2_gap", "dispersion", "entropy", "complement_entropy", "probabilities", "nonconformity")
    ],
)
@pytest.mark.parametrize("least", [1, 7, 64])
def test_a_difference_from_the_reference_names_output_and_batch(
    bundle: Bundle, output: str, by: float, least: int
) -> None:
    run = Altered(bundle.model_path.read_bytes(), output, by, least)
    with pytest.raises(ParityError, match=rf"output {output} .* NumPy reference at batch size {least}: .* {by}"):
        check_parity(run, lambda batch: run(batch)["logits"].astype(np.float32), bundle.score(), inputs())


@pytest.mark.parametrize("by", [0.01, np.nan])
def test_a_difference_from_the_source_is_an_error(bundle: Bundle, by: float) -> None:
    run = Runner(bundle.model_path.read_bytes())
    with pytest.raises(ParityError, match="output logits differs from the source model at batch size 1"):
        check_parity(run, lambda batch: run(batch)["logits"] + np.float32(by), bundle.score(), inputs())


def test_another_number_of_classes_is_an_error(bundle: Bundle) -> None:
    run = Runner(bundle.model_path.read_bytes())
    with pytest.raises(ParityError, match=r"shape \(1, 10\) at batch size 1, the source model gives \(1, 9\)"):
        check_parity(run, lambda batch: run(batch)["logits"][:, :9].astype(np.float32), bundle.score(), inputs())


def test_another_label_is_an_error(bundle: Bundle) -> None:
    run = Altered(bundle.model_path.read_bytes(), "label", 1, least=2)
    with pytest.raises(ParityError, match="label differs from the largest logit at batch size 2"):
        check_parity(run, lambda batch: run(batch)["logits"].astype(np.float32), bundle.score(), inputs())


@pytest.mark.parametrize(
    ("output", "said"), [("nonconformity", "bit for bit"), ("rank", "ranks"), ("flagged", "flags")]
)
def test_a_graph_must_repeat_its_calibration_exactly(output: str, said: str) -> None:
    scores = np.arange(40, dtype=np.float32)
    grouping = Grouping.marginal(40, 2)
    rank = 41 - np.arange(40, dtype=np.int64)
    flagged = rank <= 4
    outputs: Outputs = {"nonconformity": scores, "label": rank % 2, "rank": rank, "flagged": flagged}
    arrays = CalibrationArrays(scores=scores, histograms={})
    check_calibration(outputs, arrays, grouping, rank % 2, 0.1)
    wrong: Outputs = {
        "nonconformity": np.nextafter(scores, np.float32(99)),
        "rank": np.roll(rank, 1),
        "flagged": ~flagged,
    }
    with pytest.raises(ParityError, match=said):
        check_calibration({**outputs, output: wrong[output]}, arrays, grouping, rank % 2, 0.1)


def test_ranks_are_checked_among_the_scores_of_the_group() -> None:
    grouping = Grouping((0, 1), (30, 10))
    labels = np.arange(40) % 4 // 3
    scores = np.arange(40, dtype=np.float32)
    arrays = CalibrationArrays(scores=grouping.sort(scores, labels), histograms={})
    rank = grouping.ranks(scores, labels, arrays.scores)
    outputs: Outputs = {"nonconformity": scores, "label": labels, "rank": rank, "flagged": rank <= 3 - 2 * labels}
    check_calibration(outputs, arrays, grouping, labels, 0.1)
    with pytest.raises(ParityError, match="ranks"):
        check_calibration({**outputs, "rank": 41 - np.arange(40)}, arrays, grouping, labels, 0.1)
    with pytest.raises(ParityError, match="flags"):
        check_calibration({**outputs, "flagged": rank <= 3}, arrays, grouping, labels, 0.1)

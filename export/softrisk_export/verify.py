"""Proof, at export time, that the graph computes what its source and the NumPy reference compute."""

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.bundle import CalibrationArrays
from softrisk_core.diagnostics import diagnose, softmax
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping
from softrisk_core.manifest import FEATURES, FULL_PRECISION, Parity, Precision, Tolerance
from softrisk_core.rows import Inputs, count_rows, take_rows
from softrisk_core.scores.combined import GatedCombination
from softrisk_core.scores.evidence import Evidence, observe
from softrisk_core.scores.score import FeatureScore, Score
from softrisk_export.errors import ExportError, ParityError
from softrisk_export.runtime import Outputs, Runner
from softrisk_export.source import Logits

Radii = Callable[[NDArray[np.float64], Inputs], Mapping[str, NDArray[np.float64]]]

BATCH_SIZES: Final = (1, 2, 7, 64)
"""One (where a batch axis may have been frozen or squeezed), two, an odd number, and a full batch."""

TOLERANCE: Final = Tolerance(absolute=1e-4, relative=1e-4)
"""What two correct float32 implementations of one network may differ by.

Another order of summation moves a sum of k terms by about √k · 6e-8 of their size: 6e-6 for k = 10,000, the fan-in of
a large layer. A few dozen layers, each with errors of its own, leave one to two digits more: 1e-4. The relative part
covers large values; the absolute one logits near 0, which are differences of terms as large as the largest logit.
"""

REDUCED: Final[Mapping[Precision, float]] = {"fp16": 0.01, "int8": 0.1}
"""What two correct implementations of a reduced network may differ by, as a share of its largest logit.

fp16: where sums are float32, as usual, each layer rounds its values to 2^-11 of them; the roundings of 50 layers add
up to √50 · 2^-11 = 0.35 %, and a gap has those of two logits. An implementation that computes in float32 between fp16
weights, as onnxruntime does on most CPUs, is one of them. int8: sums of integers are the same everywhere, but a value
on the edge between two of 255 steps falls to either side, as float32 rounds, and its successors follow: logits by
onnxruntime with and without its optimiser, which compute in integers and in float32, were up to 3.6 % apart (ResNet-18,
random weights, 128 images), and equal for small networks. Another model is further away than either.
"""


def replay_tolerance(precision: Precision, logits: NDArray[np.float32]) -> Tolerance:
    """What the golden outputs may differ by wherever a graph is served.

    Args:
        precision: Of the classifier.
        logits: On clean data, shape (n, C): differences of reduced precision are as large as these make them.
    """
    if precision == FULL_PRECISION:
        return TOLERANCE
    return Tolerance(absolute=REDUCED[precision] * float(np.abs(logits).max()), relative=TOLERANCE.relative)


def check_parity(
    run: Runner,
    source: Logits,
    score: Score,
    inputs: Inputs,
    difference: float = 0.0,
    tolerance: Tolerance = TOLERANCE,
    radii: Radii = lambda logits, inputs: {},
) -> Parity:
    """Compare a finished graph with its two references at each of `BATCH_SIZES`, and where a gate decides alone.

    Args:
        run: The graph, with the outputs `OUTPUTS`, `FEATURES` if the score reads them, and radii if they are bounded.
        source: The classifier as it came, whose logits are those to repeat.
        score: The reference of the graph's score.
        inputs: N ≥ 1 rows; repeated where fewer than a batch.
        difference: Largest absolute difference that the logits of `source` have from what it was made from.
        tolerance: For the manifest. Here and now, on the machine that made the graph, it is `TOLERANCE`.
        radii: Their reference: from logits and inputs to each of these outputs.

    Raises:
        ParityError: If a value differs by more than `TOLERANCE`, a score by more than its own tolerance, or a radius is
            larger than its reference; the message names output, batch size and difference.
    """
    source_difference = reference_difference = 0.0
    batches = [take_rows(inputs, np.arange(size) % count_rows(inputs)) for size in BATCH_SIZES]
    if isinstance(score, GatedCombination):
        # One in which nothing is probed.
        decided = ~score.was_probed(run(batches[-1], ["nonconformity"])["nonconformity"])
        batches += [take_rows(batches[-1], decided)] if decided.any() else []
    for batch in batches:
        size = count_rows(batch)
        outputs = run(batch)
        found = _compare("logits", size, outputs, source(batch), "the source model")
        source_difference = max(source_difference, found)
        # From the graph's own logits, so that this measures the diagnosis alone.
        logits = outputs["logits"].astype(np.float64)
        _compare("probabilities", size, outputs, softmax(logits), "the NumPy reference")
        if not np.array_equal(outputs["label"], logits.argmax(axis=1)):
            raise ParityError(f"output label differs from the largest logit at batch size {size}")
        evidence = _evidence(run, score, batch)
        for name, values in diagnose(logits).items():
            found = _compare(name, size, outputs, values, "the NumPy reference")
            reference_difference = max(reference_difference, found)
        _check_shape("nonconformity", size, outputs, (size,), "the NumPy reference")
        apart, allowed = score.compare(outputs["nonconformity"], evidence)
        found = _within("nonconformity", size, apart, allowed, score.tolerance, "the NumPy reference")
        reference_difference = max(reference_difference, found)
        for name, values in radii(logits, batch).items():
            found = _compare(name, size, outputs, values, "the NumPy reference")
            reference_difference = max(reference_difference, found)
            if not np.all(outputs[name] <= values):
                raise ParityError(f"output {name} is larger than its reference at batch size {size}")
    return Parity(
        tolerance=tolerance,
        batch_sizes=BATCH_SIZES,
        source=source_difference + difference,
        reference=reference_difference,
    )


def _evidence(run: Runner, score: Score, batch: Inputs) -> Evidence:
    """What the graph itself answers."""
    entry = next(iter(batch))  # the input that a score changes, if it changes any

    def output(name: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return lambda values: run({**batch, entry: values}, [name])[name]

    features = output(FEATURES) if isinstance(score, FeatureScore) else None
    return observe(output("logits"), batch[entry], score.probes, features)


def check_empty_batch(classifier: Runner, inputs: NDArray[np.float32]) -> None:
    """Check that a classifier runs where a gate leaves nothing to probe.

    Args:
        classifier: Which the score asks.
        inputs: Shape (N, …), of which none is given to it.

    Raises:
        CalibrationError: If it does not.
    """
    try:
        classifier(inputs[:0], ["logits"])
    except ExportError as error:
        raise CalibrationError(
            "the classifier cannot be run on no rows, which is what a batch of inputs leaves to probe if the gate "
            f"decides about all of them: name --probes always, or off ({error})"
        ) from error


def check_calibration(
    outputs: Outputs, calibration: CalibrationArrays, grouping: Grouping, keys: NDArray[np.int64], alpha: float
) -> None:
    """Check a finished graph on its own calibration rows: the same scores bit for bit, and exact ranks and flags.

    Args:
        outputs: Of the finished graph, on the calibration rows.
        calibration: The calibration that is in it.
        grouping: Which of its scores belong together.
        keys: By which they do, one for each of these rows.
        alpha: False-alarm rate of the flag.

    Raises:
        ParityError: If a score, rank or flag is another.
    """
    scores = outputs["nonconformity"].astype(np.float32)
    if grouping.sort(scores, keys).tobytes() != calibration.scores.tobytes():
        raise ParityError("the finished graph does not repeat the calibration scores bit for bit")
    expected = grouping.ranks(scores, keys, calibration.scores)
    if not np.array_equal(outputs["rank"], expected):
        raise ParityError("the finished graph ranks its own calibration rows wrongly")
    if not np.array_equal(outputs["flagged"], expected <= np.array(grouping.rank_limits(alpha))[keys]):
        raise ParityError("the finished graph flags its own calibration rows wrongly")


def _compare(
    name: str,
    size: int,
    outputs: Outputs,
    expected: NDArray[np.floating],
    other: str,
) -> float:
    """Largest absolute difference of an output from what is expected, of which `TOLERANCE` is allowed."""
    _check_shape(name, size, outputs, expected.shape, other)
    reference = expected.astype(np.float64)
    difference = np.abs(outputs[name].astype(np.float64) - reference)
    allowed = TOLERANCE.absolute + TOLERANCE.relative * np.abs(reference)
    return _within(name, size, difference, allowed, TOLERANCE.absolute, other)


def _check_shape(name: str, size: int, outputs: Outputs, shape: tuple[int, ...], other: str) -> None:
    if outputs[name].shape != shape:
        raise ParityError(f"output {name} has shape {outputs[name].shape} at batch size {size}, {other} gives {shape}")


def _within(
    name: str, size: int, difference: NDArray[np.float64], allowed: NDArray[np.float64], tolerance: float, other: str
) -> float:
    """The largest difference, if none is larger than what is allowed there: a tolerance, absolute and relative."""
    # Written so that a NaN fails, too.
    if not np.all(difference <= allowed):
        raise ParityError(
            f"output {name} differs from {other} at batch size {size}: worst difference {difference.max():.3g}, "
            f"allowed {tolerance:g} + {tolerance:g} of the value"
        )
    return float(difference.max())

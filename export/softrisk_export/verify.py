"""Proof, at export time, that the graph computes what its source and the NumPy reference compute."""

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.bundle import CalibrationArrays
from softrisk_core.conformal import ranks
from softrisk_core.diagnostics import diagnose, softmax
from softrisk_core.manifest import FULL_PRECISION, Parity, Precision, Tolerance
from softrisk_core.scores.score import Score
from softrisk_export.errors import ParityError
from softrisk_export.runtime import Outputs, Runner
from softrisk_export.source import Logits

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
    inputs: NDArray[np.float32],
    difference: float = 0.0,
    tolerance: Tolerance = TOLERANCE,
) -> Parity:
    """Compare a finished graph with its two references at each of `BATCH_SIZES`.

    Args:
        run: The graph, with the outputs `OUTPUTS`.
        source: The classifier as it came; its logits are those to repeat.
        score: The reference of the graph's score.
        inputs: Shape (N, …), N ≥ 1; repeated where fewer than a batch.
        difference: Largest absolute difference that the logits of `source` have from what it was made from.
        tolerance: For the manifest. Here and now, on the machine that made the graph, it is `TOLERANCE`.

    Raises:
        ParityError: If a value differs by more than `TOLERANCE`; the message names output, batch size and difference.
    """
    source_difference = reference_difference = 0.0
    for size in BATCH_SIZES:
        batch = inputs[np.arange(size) % len(inputs)]
        outputs = run(batch)
        found = _compare("logits", size, outputs, source(batch), "the source model")
        source_difference = max(source_difference, found)
        # From the graph's own logits, so that this measures the diagnosis alone.
        logits = outputs["logits"].astype(np.float64)
        _compare("probabilities", size, outputs, softmax(logits), "the NumPy reference")
        if not np.array_equal(outputs["label"], logits.argmax(axis=1)):
            raise ParityError(f"output label differs from the largest logit at batch size {size}")
        for name, values in {**diagnose(logits), "nonconformity": score(logits)}.items():
            found = _compare(name, size, outputs, values, "the NumPy reference")
            reference_difference = max(reference_difference, found)
    return Parity(
        tolerance=tolerance,
        batch_sizes=BATCH_SIZES,
        source=source_difference + difference,
        reference=reference_difference,
    )


def check_calibration(outputs: Outputs, calibration: CalibrationArrays, limit: int) -> None:
    """Check a finished graph on its own calibration rows: the same scores bit for bit, and exact ranks and flags.

    Args:
        outputs: Of the finished graph, on the calibration rows.
        calibration: The calibration that is in it.
        limit: Largest rank that is flagged.

    Raises:
        ParityError: If a score, rank or flag is another.
    """
    scores = outputs["nonconformity"].astype(np.float32)
    if np.sort(scores).tobytes() != calibration.scores.tobytes():
        raise ParityError("the finished graph does not repeat the calibration scores bit for bit")
    expected = ranks(scores, calibration.scores)
    if not np.array_equal(outputs["rank"], expected):
        raise ParityError("the finished graph ranks its own calibration rows wrongly")
    if not np.array_equal(outputs["flagged"], expected <= limit):
        raise ParityError("the finished graph flags its own calibration rows wrongly")


def _compare(name: str, size: int, outputs: Outputs, expected: NDArray[np.floating], other: str) -> float:
    """Largest absolute difference of an output from what is expected."""
    if outputs[name].shape != expected.shape:
        raise ParityError(
            f"output {name} has shape {outputs[name].shape} at batch size {size}, {other} gives {expected.shape}"
        )
    reference = expected.astype(np.float64)
    difference = np.abs(outputs[name].astype(np.float64) - reference)
    # Written so that a NaN fails, too.
    if not np.all(difference <= TOLERANCE.absolute + TOLERANCE.relative * np.abs(reference)):
        raise ParityError(
            f"output {name} differs from {other} at batch size {size}: worst difference {difference.max():.3g}, "
            f"allowed {TOLERANCE.absolute:g} + {TOLERANCE.relative:g} of the value"
        )
    return float(difference.max())

"""From the outputs of the exported graph on clean data to a calibration."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.bundle import CalibrationArrays
from softrisk_core.conformal import confident_rank, marginal_rank
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.errors import CalibrationError
from softrisk_core.groups import Grouping
from softrisk_core.manifest import CalibrationFacts, CalibrationGroup, Level
from softrisk_core.rows import count_overlap
from softrisk_core.scores.catalogue import KINDS
from softrisk_export.runtime import Outputs

LEVELS: Final = (0.001, 0.005, 0.01, 0.05, 0.1)
"""False-alarm rates that are always listed in the manifest, where the calibration serves them."""

HISTOGRAM_LEVELS: Final = (0.0, 0.001, 0.005, *(percent / 100 for percent in range(1, 100)), 0.995, 0.999, 1.0)
"""The quantiles that are edges of the reference histograms; closer in the tails, where diagnostics spread out."""


def calibration_arrays(
    outputs: Outputs,
    score: str,
    grouping: Grouping,
    keys: NDArray[np.int64],
    *,
    rows: NDArray[np.uint64],
    fit_rows: NDArray[np.uint64],
    seen_rows: NDArray[np.uint64],
) -> CalibrationArrays:
    """Scores and reference histograms of clean data.

    Args:
        outputs: Of the graph with diagnostics and score, n rows; for several presence cases one after the other, the
            case with all inputs first.
        score: Its name.
        grouping: Which of the scores belong together.
        keys: By which they do, one for each row of the outputs.
        rows: Digests of the n rows.
        fit_rows: Digests of the rows that score or twin were fitted on.
        seen_rows: Digests of the rows that the model has seen in training.

    Raises:
        CalibrationError: If rows were seen in training, logits are not finite, or the score says nothing.
    """
    used = np.concatenate([rows, fit_rows])
    overlap = count_overlap(used, seen_rows)
    if overlap:
        raise CalibrationError(
            f"{overlap} of the {used.size} calibration rows were used to train or select the model; on rows it has "
            "seen a model is surer than on new ones, and the promised false-alarm rate would not hold: give clean "
            "data that it has not seen"
        )
    refuse_broken(outputs["logits"])
    values = outputs["nonconformity"].astype(np.float32)
    if not np.isfinite(values).all():
        raise CalibrationError(f"{score} is not finite on all calibration rows; choose another score")
    if not np.ptp(values) > 0:
        if np.unique(rows).size == 1:
            raise CalibrationError(
                f"all {rows.size} calibration rows have the same content; give clean data as varied as your traffic"
            )
        raise CalibrationError(
            f"{score} has the same value, {values[0]:g}, on all {values.size} calibration rows and can tell nothing "
            f"strange; choose another score: {KINDS}"
        )
    return CalibrationArrays(
        scores=grouping.sort(values, keys),
        histograms={name: _histogram(outputs[name][: rows.size].astype(np.float64)) for name in DIAGNOSTICS},
        training_rows=seen_rows,
        calibration_rows=rows,
        fit_rows=fit_rows,
    )


def refuse_broken(logits: NDArray[Any]) -> None:
    """Refuse logits, shape (n, C), that are not finite.

    Raises:
        CalibrationError: With the number of their rows.
    """
    broken = int((~np.isfinite(logits.astype(np.float64))).any(axis=1).sum())
    if broken:
        raise CalibrationError(
            f"the logits of {broken} of the {len(logits)} calibration rows are not finite; check that the values of "
            "the data are in the range that the model was trained on"
        )


def calibration_facts(arrays: CalibrationArrays, grouping: Grouping, alpha: float, data: str) -> CalibrationFacts:
    """What the manifest says about a calibration.

    Args:
        arrays: The calibration.
        grouping: Which of its scores belong together, by label; presence cases need not be told.
        alpha: The default false-alarm rate, in [1/(n + 1), 1) for each group.
        data: Which clean data, for people.
    """

    def levels(n: int) -> tuple[Level, ...]:
        return tuple(
            Level(alpha=level, marginal_rank=marginal_rank(level, n), confident_rank=confident_rank(level, n))
            for level in sorted({*LEVELS, alpha})
            if marginal_rank(level, n) >= 1
        )

    n = arrays.calibration_rows.size
    if grouping.is_marginal:
        return CalibrationFacts(id=arrays.id, n=n, alpha=alpha, levels=levels(n), data=data)
    groups = tuple(
        CalibrationGroup(labels=grouping.keys(group), n=size, levels=levels(size))
        for group, size in enumerate(grouping.sizes)
    )
    return CalibrationFacts(id=arrays.id, n=n, alpha=alpha, levels=(), data=data, groups=groups)


def _histogram(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Edges and counts of bins that hold about 1 % of the values each, and less in the tails.

    Diagnostics are skewed beyond what bins of equal width can show: where a classifier is sure of most inputs, a
    single bin would hold nearly all of its top-2 gaps. So the edges are quantiles, of which equal ones count once; the
    first is the least and the last the greatest value. Of a constant both are that value.
    """
    edges = np.unique(np.quantile(values, HISTOGRAM_LEVELS))
    if edges.size == 1:
        return edges.repeat(2), np.array([values.size])
    counts, edges = np.histogram(values, bins=edges)
    return edges, counts.astype(np.int64)

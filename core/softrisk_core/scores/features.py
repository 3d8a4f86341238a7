"""The numbers that a combination weighs: of the softmax, of the input, and of what probes move."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.diagnostics import diagnose
from softrisk_core.probes import Probe
from softrisk_core.roughness import roughness, roughness_names
from softrisk_core.scores.evidence import Evidence

WEIGHED: Final = ("logit_gap", "dispersion", "complement_entropy", "max_logit")
"""The diagnostics of a combination; the others are functions of nearly the same, and saturate in float32."""


def feature_names(channels: int, probes: tuple[Probe, ...]) -> tuple[str, ...]:
    """Names of the M features of images with C channels, in their order."""
    moves = [f"{probe.name}:{value}" for probe in probes for value in ("fall", "rise")]
    return (*WEIGHED, *roughness_names(channels), *moves)


def sizes(evidence: Evidence, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How large the numbers are that each feature is computed from: differences of logits are rounded like logits.

    Args:
        evidence: About B images.
        values: Their features, shape (B, M).

    Returns:
        Shape (M,), ≥ 0.
    """
    largest = np.abs(values).max(axis=0)
    of_logits = np.ones(largest.size, np.bool_)
    of_logits[len(WEIGHED) : len(WEIGHED) + len(roughness_names(evidence.inputs.shape[1]))] = False
    of_logits[WEIGHED.index("complement_entropy")] = False
    logits = max(float(np.abs(each).max(initial=0)) for each in (evidence.logits, evidence.probed))
    return np.where(of_logits, logits, largest)


def features(evidence: Evidence) -> NDArray[np.float64]:
    """All features.

    A probe has two: by how much the logit of the predicted class falls, and the most by which another one rises.

    Args:
        evidence: About B images.

    Returns:
        Shape (B, M).
    """
    diagnostics = diagnose(evidence.logits)
    predicted = evidence.logits.argmax(axis=1)
    columns = [np.stack([diagnostics[name] for name in WEIGHED], axis=1), roughness(evidence.inputs)]
    for logits in evidence.probed:
        change = logits - evidence.logits
        fall = -np.take_along_axis(change, predicted[:, None], axis=1)
        np.put_along_axis(change, predicted[:, None], -np.inf, axis=1)
        columns += [fall, change.max(axis=1, keepdims=True)]
    return np.concatenate(columns, axis=1)

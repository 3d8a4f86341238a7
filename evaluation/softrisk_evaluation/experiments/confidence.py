"""Models compared at the same mean confidence: what a loss does beyond a temperature.

Most losses that restrain the softmax lower its confidence, and an attack that follows the gradient of the cross entropy
does worse where the softmax saturates. So every model is attacked once more with its logits divided by the temperature
at which its mean confidence is that of plain cross entropy.
"""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from softrisk_attacks.attack import run_attack
from softrisk_attacks.standard import pgd
from softrisk_core.diagnostics import softmax
from softrisk_evaluation.experiments.arms import CE
from softrisk_evaluation.experiments.study import Kept
from softrisk_evaluation.experiments.task import Arm, Task, Tempered, logits_of, selection_sample, test_sample, trained

STEPS: Final = 20
RANGE: Final = (1e-3, 1e3)


def mean_confidence(logits: NDArray[np.float32], temperature: float = 1.0) -> float:
    """Mean of the largest softmax probability, in (1/classes, 1]."""
    return float(softmax(logits.astype(np.float64) / temperature).max(axis=1).mean())


def matching_temperature(logits: NDArray[np.float32], confidence: float) -> float:
    """The temperature at which the mean confidence of these logits is the given one.

    Args:
        logits: Shape (N, classes).
        confidence: In (1/classes, 1).

    Returns:
        Within `RANGE`; its nearer end if the confidence is out of reach.
    """
    coldest, hottest = RANGE
    if mean_confidence(logits, coldest) <= confidence:
        return coldest
    if mean_confidence(logits, hottest) >= confidence:
        return hottest
    return float(np.exp(brentq(lambda log: mean_confidence(logits, float(np.exp(log))) - confidence, *np.log(RANGE))))


def at_matched_confidence(work: Path, task: Task, arm: Arm, seed: int, images: int) -> Kept:
    """A cell: PGD on the model as it is, and at the mean confidence of CE on selection rows.

    Returns:
        `confidence` on selection rows, `temperature`, and `right` and `right_matched`, shape (images,).
    """
    model = trained(work, task, arm, seed)
    reference = trained(work, task, CE, seed)
    held_out, _ = selection_sample(task, 2000)
    logits = logits_of(model, held_out)
    temperature = matching_temperature(logits, mean_confidence(logits_of(reference, held_out)))
    inputs, labels = test_sample(task, images)
    attack = pgd(task.epsilon, STEPS, restarts=1)
    plain = run_attack(model, inputs, labels, attack, seed=seed)
    matched = run_attack(Tempered(model, temperature), inputs, labels, attack, seed=seed)
    return {
        "confidence": np.array(mean_confidence(logits)),
        "temperature": np.array(temperature),
        "right": ~plain.fooled,
        "right_matched": ~matched.fooled,
    }

"""The losses that are compared, and the weights that are tried for DRSL."""

from typing import Final

from softrisk_evaluation.experiments.task import BATCH_SIZE, Arm
from softrisk_training.losses import DRSLForm, authors_weight

CE: Final = Arm("CE", "ce")
GCE: Final = Arm("GCE q=0.7", "gce", {"q": 0.7})

PUBLISHED: Final = (
    CE,
    Arm("MAE", "mae"),
    GCE,
    Arm("label smoothing 0.1", "label-smoothing", {"smoothing": 0.1}),
    Arm("COT", "cot"),
    Arm("guided complement α=1/3", "guided-complement"),
    Arm("RCE", "rce"),
)
"""Losses with the settings of their papers."""

WEIGHTS: Final[dict[DRSLForm, tuple[float, ...]]] = {
    "logit": (0.01, 0.1, 0.3, 1, 3, 10, 100),
    "authors": (1e-3, 1e-2, 1e-1, 0.3, 1, 3, 10),
    "authors-vectorised": (1e-3, 1e-2, 1e-1, 0.3, 1, 3, 10),
    "conditional": (0.01, 0.1, 1, 10, 100),
    "probability": (0.01, 0.1, 1, 10, 100),
}
"""Weights of DRSL that are tried, each against a mean cross entropy of one sample. For the forms of the authors' code,
which sum over the batch, that is their b times the batch size."""


def drsl(form: DRSLForm, weight: float) -> Arm:
    """DRSL in one form, with the penalty of a sample weighed against its cross entropy."""
    summed = form.startswith("authors")
    tau = authors_weight(weight, BATCH_SIZE) if summed else weight
    return Arm(f"DRSL {form} {'b·B' if summed else 'τ'}={weight:g}", "drsl", {"form": form, "tau": tau})

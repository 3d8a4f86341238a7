"""What the command line says about a new bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from softrisk_core.conformal import calibration_size_for, confident_rank
from softrisk_core.manifest import FULL_PRECISION
from softrisk_export.seal import Sealed

if TYPE_CHECKING:
    from softrisk_export.twin import Change


def print_summary(sealed: Sealed, checkpoint: Path | None = None, change: "Change | None" = None) -> None:
    """Say where a new bundle is, what it is worth, and what to do next.

    Args:
        sealed: The bundle.
        checkpoint: Where it comes from, if it comes from one: evaluation takes its gradients.
        change: What reduced precision changed, if it is a twin that was made.
    """
    manifest = sealed.bundle.manifest
    facts = manifest.calibration
    folder = sealed.bundle.folder
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(f"{folder}: {manifest.name}, version {manifest.version}")
    accuracy = "" if sealed.accuracy is None else f", accuracy there {sealed.accuracy:.2%}"
    console.print(f"  calibrated on {facts.n:,} clean rows ({facts.data}){accuracy}")
    if change is not None:
        before = "" if change.accuracy is None else f", accuracy there {change.accuracy:.2%}"
        console.print(
            f"  {change.precision} twin of the {FULL_PRECISION} version{before}: {change.agreement:.2%} of these rows "
            f"keep their label, logits differ by up to {change.difference:.2g} where the largest is "
            f"{change.largest_logit:.3g}"
        )
    if sealed.repeats:
        console.print(
            f"  {sealed.repeats:,} of these rows repeat the content of another, and count as often as they occur"
        )
    console.print(f"  score {manifest.nonconformity}, false alarms ≤ {facts.alpha:g} on clean traffic like these rows")
    if not confident_rank(facts.alpha, facts.n):
        console.print(
            f"  too few rows for {facts.alpha:g} with 95 % confidence, which needs at least "
            f"{calibration_size_for(facts.alpha, 'confident'):,}: the rate can come out well above it"
        )
    if manifest.model.origin == "onnx":
        console.print("  softrisk cannot check that these rows were not used to train the model")
    console.print(
        f"  largest difference from the source {manifest.parity.source:.2g}, "
        f"from the NumPy reference {manifest.parity.reference:.2g}"
    )
    console.print(f"next: softrisk serve {folder.parent.parent}")
    if checkpoint is not None:
        console.print(f"  or: softrisk evaluate {folder} --checkpoint {checkpoint}")

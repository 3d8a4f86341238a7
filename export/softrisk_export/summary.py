"""What the command line says about a new bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from softrisk_core.conformal import calibration_size_for, confident_rank
from softrisk_core.manifest import FULL_PRECISION
from softrisk_core.score_facts import Nonconformity
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
    _print_choice(console, manifest.nonconformity)
    smallest = min(manifest.grouping.sizes)
    if facts.groups:
        own = sum(len(group.labels) == 1 for group in facts.groups)
        console.print(
            f"  for each of {own} predicted classes by itself, the other {len(manifest.classes) - own} together; "
            f"the smallest of these groups has {smallest:,} rows"
        )
    if len(manifest.cases) > 1:
        console.print(f"  for each presence case by itself: {'; '.join(map(' and '.join, manifest.cases))}")
    if (radius := manifest.radius) is not None:
        spaces = ", ".join(f"{name} in {space}" for name, space in radius.spaces.items())
        console.print(f"  {' and '.join(radius.kinds)} radius of the label, ℓ2: {spaces}")
    if not confident_rank(facts.alpha, smallest):
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


def _print_choice(console: Console, nonconformity: Nonconformity) -> None:
    if nonconformity.choice is not None:
        best, *others = nonconformity.choice.candidates
        second = f"; the next best, {others[0].score}, {others[0].worst:.0%}" if others else ""
        console.print(
            f"  chosen among {1 + len(others)} scores by attacks of {len(nonconformity.choice.families)} families "
            f"({', '.join(nonconformity.choice.families)}), at 5 % false alarms on {nonconformity.choice.rows:,} rows:"
            f"\n  it detects {best.worst:.0%} of the attack that it detects least of, {best.attack}, and "
            f"{best.mean:.0%} on average{second}"
        )
    if nonconformity.families:
        console.print(f"  fitted to attacks of the families {', '.join(nonconformity.families)}")
    if (probes := nonconformity.probes) is not None:
        console.print(
            f"  a clean input takes {probes.passes:.2f} forward passes on average, of up to {1 + len(probes.names)}"
        )

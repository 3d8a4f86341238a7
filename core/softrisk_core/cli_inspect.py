"""`softrisk inspect`: what is in a bundle, for people or as JSON."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from softrisk_core.bundle import REPORT, Bundle, load_bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import FULL_PRECISION, InputSpec, Level
from softrisk_core.repository import resolve
from softrisk_core.score_facts import Choice, GatePoint, Nonconformity

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def inspect(
    bundle: Annotated[
        Path, typer.Argument(help="<repository>/<model>/<version>, or <repository>/<model>: the highest.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as it is.")] = False,
) -> None:
    """Check a bundle's files against their digests and show what is in it."""
    loaded = load_bundle(resolve(bundle))
    console = Console()
    if json:
        console.print_json(loaded.manifest.model_dump_json())
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _facts(loaded):
        table.add_row(name, text)
    console.print(table)
    nonconformity = loaded.manifest.nonconformity
    if nonconformity.choice is not None:
        console.print(_candidates(nonconformity.choice))
    if nonconformity.probes is not None and nonconformity.probes.curve:
        console.print(_curve(nonconformity.probes.curve))
    console.print(_diagnostics(loaded))


def _facts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    manifest = bundle.manifest
    model, calibration, parity = manifest.model, manifest.calibration, manifest.parity
    yield "model", f"{manifest.name}, version {manifest.version}, made {manifest.created_at:%Y-%m-%d %H:%M %Z}"
    for spec in manifest.inputs:
        yield "input", _input(spec)
    shown = ", ".join(manifest.classes[:12]) + (", …" if len(manifest.classes) > 12 else "")
    yield "classes", f"{len(manifest.classes)}: {shown}"
    trained = [model.architecture, model.loss, model.data and f"trained on {model.data}"]
    if model.precision != FULL_PRECISION:
        trained.append(f"in {model.precision}")
    yield "classifier", ", ".join(part for part in trained if part) or f"from {model.origin}, opset {manifest.opset}"
    if model.clean_accuracy is not None:
        yield "clean accuracy", f"{model.clean_accuracy:.2%} on its test rows"
    yield "score", f"{manifest.nonconformity}: large is strange"
    yield from _fit(manifest.nonconformity)
    yield "calibration", f"{calibration.id}, n = {calibration.n} rows of {calibration.data}"
    if len(manifest.cases) > 1:
        yield "  by itself with", "; ".join(" and ".join(case) for case in manifest.cases)
    yield from _levels(calibration.levels, calibration.alpha)
    for group in calibration.groups:
        names = ", ".join(manifest.classes[label] for label in group.labels[:12])
        yield "  predicted as", f"{names}{', …' if len(group.labels) > 12 else ''}: n = {group.n}"
        yield from _levels(group.levels, calibration.alpha)
    if (radius := manifest.radius) is not None:
        spaces = ", ".join(f"{name} in {space}" for name, space in radius.spaces.items())
        yield "radius", f"{' and '.join(radius.kinds)}, ℓ2, of the label: {spaces}"
    yield (
        "parity",
        f"logits within {parity.source:.1e} of the source, diagnostics and score within {parity.reference:.1e} of "
        f"float64 (batches {', '.join(map(str, parity.batch_sizes))})",
    )
    yield "files", ", ".join(f"{name} {entry.bytes:,} B" for name, entry in manifest.files.items())
    missing = "none yet: softrisk evaluate writes it" if len(manifest.inputs) == 1 else "none"
    yield "report", "yes" if (bundle.folder / REPORT).is_dir() else missing
    yield "made with", ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())


def _input(spec: InputSpec) -> str:
    domain = "any finite value" if spec.domain is None else f"values in [{spec.domain[0]:g}, {spec.domain[1]:g}]"
    parts = [f"{spec.name}: {spec.datatype} {list(spec.shape)}", domain]
    if (image := spec.image) is not None:
        parts.append(f"PNG or JPEG as {image.mode} {'×'.join(map(str, image.size))}")
    if (audio := spec.audio) is not None:
        seconds = spec.shape[-1] / audio.sample_rate
        longer = "cut" if audio.longer == "crop" else "refused"
        parts.append(f"WAV, mono, {audio.sample_rate:,} Hz, {seconds:g} s: shorter ones padded, longer ones {longer}")
    if spec.optional:
        parts.append("may be left out")
    return ", ".join(parts)


def _fit(nonconformity: Nonconformity) -> Iterator[tuple[str, str]]:
    """What the score was fitted to and chosen by; nothing for one that was named and needs no fit."""
    if nonconformity.families:
        yield "  fitted to", f"attacks of the families {', '.join(nonconformity.families)}"
    if (choice := nonconformity.choice) is not None:
        yield (
            "  chosen by",
            f"attacks of the families {', '.join(choice.families)}, at 5 % false alarms on {choice.rows:,} clean rows",
        )
    if (probes := nonconformity.probes) is not None:
        yield (
            "  costs",
            f"{probes.passes:.2f} forward passes for a clean input on average, of up to {1 + len(probes.names)}",
        )


def _candidates(choice: Choice) -> Table:
    table = Table(title="Scores that could have been chosen: attacks detected", title_justify="left")
    for heading in ("score", "least of", "there", "on average"):
        table.add_column(heading, justify="left" if heading in ("score", "least of") else "right")
    for each in choice.candidates:
        table.add_row(each.score, each.attack, f"{each.worst:.0%}", f"{each.mean:.0%}")
    return table


def _curve(curve: Sequence[GatePoint]) -> Table:
    table = Table(title="Gates that could have been chosen: attacks detected", title_justify="left")
    for heading in ("passes", "at least", "on average"):
        table.add_column(heading, justify="right")
    for point in curve:
        table.add_row(f"{point.passes:.2f}", f"{point.worst:.0%}", f"{point.mean:.0%}")
    return table


def _levels(levels: Sequence[Level], default_alpha: float) -> Iterator[tuple[str, str]]:
    for level in levels:
        default = " (default)" if level.alpha == default_alpha else ""
        confident = f"rank ≤ {level.confident_rank}" if level.confident_rank else "too few rows"
        yield (
            f"  α = {level.alpha:g}{default}",
            f"flagged: rank ≤ {level.marginal_rank}; with 95 % confidence: {confident}",
        )


def _diagnostics(bundle: Bundle) -> Table:
    table = Table(title="Diagnostics on the clean calibration data", title_justify="left")
    table.add_column("diagnostic")
    for quantile in _QUANTILES:
        table.add_column(f"{quantile:.0%}", justify="right")
    histograms = bundle.calibration().histograms
    for name in DIAGNOSTICS:
        edges, counts = histograms[name]
        cumulative = np.concatenate([[0], np.cumsum(counts)]) / counts.sum()
        table.add_row(name, *(f"{np.interp(quantile, cumulative, edges):.4g}" for quantile in _QUANTILES))
    return table


_QUANTILES = (0.01, 0.05, 0.5, 0.95, 0.99)

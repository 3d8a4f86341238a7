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
from softrisk_core.manifest import FULL_PRECISION, Level
from softrisk_core.repository import resolve

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
    console.print(_diagnostics(loaded))


def _facts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    manifest = bundle.manifest
    model, calibration, parity = manifest.model, manifest.calibration, manifest.parity
    yield "model", f"{manifest.name}, version {manifest.version}, made {manifest.created_at:%Y-%m-%d %H:%M %Z}"
    for spec in manifest.inputs:
        domain = "any finite value" if spec.domain is None else f"values in [{spec.domain[0]:g}, {spec.domain[1]:g}]"
        image = (
            "" if spec.image is None else f", PNG or JPEG as {spec.image.mode} {'×'.join(map(str, spec.image.size))}"
        )
        yield "input", f"{spec.name}: {spec.datatype} {list(spec.shape)}, {domain}{image}"
    shown = ", ".join(manifest.classes[:12]) + (", …" if len(manifest.classes) > 12 else "")
    yield "classes", f"{len(manifest.classes)}: {shown}"
    trained = [model.architecture, model.loss, model.data and f"trained on {model.data}"]
    if model.precision != FULL_PRECISION:
        trained.append(f"in {model.precision}")
    yield "classifier", ", ".join(part for part in trained if part) or f"from {model.origin}, opset {manifest.opset}"
    if model.clean_accuracy is not None:
        yield "clean accuracy", f"{model.clean_accuracy:.2%} on its test rows"
    yield "score", f"{manifest.nonconformity}: large is strange"
    yield "calibration", f"{calibration.id}, n = {calibration.n} rows of {calibration.data}"
    yield from _levels(calibration.levels, calibration.alpha)
    for group in calibration.groups:
        names = ", ".join(manifest.classes[label] for label in group.labels[:12])
        yield "  predicted as", f"{names}{', …' if len(group.labels) > 12 else ''}: n = {group.n}"
        yield from _levels(group.levels, calibration.alpha)
    yield (
        "parity",
        f"logits within {parity.source:.1e} of the source, diagnostics and score within {parity.reference:.1e} of "
        f"float64 (batches {', '.join(map(str, parity.batch_sizes))})",
    )
    yield "files", ", ".join(f"{name} {entry.bytes:,} B" for name, entry in manifest.files.items())
    yield "report", "yes" if (bundle.folder / REPORT).is_dir() else "none yet: softrisk evaluate writes it"
    yield "made with", ", ".join(f"{tool} {version}" for tool, version in manifest.tools.items())


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

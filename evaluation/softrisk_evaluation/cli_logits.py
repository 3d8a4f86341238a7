"""`softrisk visualize logits`: how sure classifiers are, clean and attacked, side by side."""

import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_evaluation.experiments.findings import publish
from softrisk_evaluation.pictures import png_uri
from softrisk_evaluation.rendering import render
from softrisk_evaluation.side_by_side import FEWEST, Settings, compare
from softrisk_evaluation.tables import to_rich
from softrisk_training.checkpoint import tool_versions

PAGE: Final = "logits.html"


def logits(
    checkpoints: Annotated[
        list[Path], typer.Argument(metavar="CHECKPOINT", help="Files that softrisk train wrote, for one task.")
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Test data, as softrisk train accepts them. Default: the first checkpoint's test rows."),
    ] = None,
    epsilon: Annotated[float, typer.Option(min=0, help="ℓ∞ radius of the attack (PGD) on pixels in [0, 1].")] = 0.1,
    images: Annotated[
        int, typer.Option(min=FEWEST, help="Test images, drawn at random; none that any of the models was trained on.")
    ] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of images, attack and map.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder of page, figures and numbers.")] = Path("logits"),
) -> None:
    """Draw how sure classifiers are of clean and of attacked images, which class is second, and where they differ.

    Largest logit, gap, sorted softmax, runner-up by class, a map of the outputs, and the images on whose confidence
    each model differs most from the first.
    """
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        findings = compare(checkpoints, data, Settings(epsilon, images, seed), progress)
    command = shlex.join(["softrisk", "visualize", *sys.argv[2:]])
    versions = {**tool_versions(), "adversarial-robustness-toolbox": version("adversarial-robustness-toolbox")}
    publish(findings, out, command, versions)
    drawn = [((png_uri((out / each.name).read_bytes()), each.name), each) for each in findings.pictures]
    page = render("findings.html.j2", findings=findings, figures=drawn, command=command, versions=versions)
    (out / PAGE).write_text(page, encoding="utf-8")
    console.print(to_rich(findings.tables[0]), "")
    console.print(f"all tables and figures: {out / PAGE}", soft_wrap=True, highlight=False)

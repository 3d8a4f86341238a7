"""What the score of a checkpoint detects, of attacks of families that it never saw.

    python -m benchmarks.detection mnist.pt --out docs/results/detection/mnist

Everything that takes long is kept under --work; the same command goes on after an interruption.
"""

import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from benchmarks.detection.measure import measure
from benchmarks.detection.page import findings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_evaluation.experiments.findings import publish
from softrisk_evaluation.experiments.study import Study
from softrisk_evaluation.tables import to_rich
from softrisk_export.fit import usual_epsilons
from softrisk_training.checkpoint import load_checkpoint, tool_versions

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    checkpoint: Annotated[Path, typer.Argument(help="Of softrisk train; its own data are used.")],
    out: Annotated[Path, typer.Option(help="Folder of page, figures and JSON.")] = Path("results/detection"),
    work: Annotated[Path, typer.Option(help="Folder in which finished pieces are kept.")] = Path("runs"),
    images: Annotated[int, typer.Option(min=100, help="Test images that are attacked.")] = 1000,
    epsilon: Annotated[
        list[float] | None,
        typer.Option(help="ℓ∞ radius; may be repeated. Default: 1, 2, 4, 8/255 for colours; 0.05, 0.1, 0.2 for grey."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 2,
) -> None:
    """Attack test images in every way, and judge scores with and without probes."""
    loaded = load_checkpoint(checkpoint)
    epsilons = sorted(epsilon or usual_epsilons(loaded.input_shape[0]))
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            figures = measure(Study(work, jobs, progress), checkpoint, images, epsilons)
    except KeyboardInterrupt:
        console.print(f"interrupted; what is finished is kept in {work}: the same command goes on", soft_wrap=True)
        raise typer.Exit(130) from None
    settings = ", ".join(f"{name} {value}" for name, value in loaded.loss_settings.items())
    model = f"{loaded.architecture} with {loaded.loss}" + (f" ({settings})" if settings else "")
    page = findings(figures, loaded.data_source, model, epsilons)
    for table in page.tables[:2]:
        console.print(to_rich(table), "")
    versions = {**tool_versions(), "adversarial-robustness-toolbox": version("adversarial-robustness-toolbox")}
    publish(page, out, shlex.join(["python", "-m", "benchmarks.detection", *sys.argv[1:]]), versions)
    console.print(f"all tables and the picture: {out}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    app()

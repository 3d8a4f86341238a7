"""`softrisk experiment-multimodal`: measure how robust classifiers of image and recording are."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_evaluation.experiments.findings import PAGE, publish
from softrisk_evaluation.experiments.study import Study
from softrisk_evaluation.multimodal.experiment import run, setup_of
from softrisk_evaluation.multimodal.task import MultimodalTask
from softrisk_evaluation.tables import to_rich
from softrisk_training.checkpoint import tool_versions

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def experiment_multimodal_command(
    images: Annotated[str, typer.Argument(help="Labelled images: as for softrisk train-multimodal.")],
    audio: Annotated[str, typer.Argument(help="Labelled recordings of the same classes.")],
    out: Annotated[Path, typer.Option(help="Folder of the results; replaces those of an earlier run.")] = Path(
        "results/multimodal"
    ),
    work: Annotated[
        Path, typer.Option(help="Folder in which finished pieces are kept: an interrupted experiment goes on there.")
    ] = Path("runs/multimodal"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Of each training.")] = 10,
    rows: Annotated[int, typer.Option(min=1, help="Test pairs that are attacked.")] = 300,
    speaker_disjoint: Annotated[
        bool, typer.Option("--speaker-disjoint", help="Test on speakers that nothing else hears.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="So few attacks that they only show that the experiment runs.")
    ] = False,
) -> None:
    """Train with and without CRMT, attack both modalities and each, and hold what is proved against the attacks.

    About an hour on real data. Whatever is finished is kept; the same command after an interruption goes on from there.
    """
    console = Console()
    setup = setup_of(MultimodalTask(images, audio, speaker_disjoint, rows), epochs=epochs, seeds=seeds, quick=quick)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=console) as progress:
            findings = run(setup, Study(work, jobs, progress))
    except KeyboardInterrupt:
        console.print(f"interrupted; what is finished is kept in {work}: the same command goes on", soft_wrap=True)
        raise typer.Exit(130) from None
    console.print(to_rich(findings.tables[0]), "")
    command = shlex.join(["softrisk", "experiment-multimodal", *sys.argv[2:]])
    publish(findings, out, command, tool_versions())
    console.print(f"all tables and figures: {out / PAGE}", soft_wrap=True, highlight=False)

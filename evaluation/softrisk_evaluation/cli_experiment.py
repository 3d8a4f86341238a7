"""`softrisk experiment`: measure what the training losses are worth."""

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_evaluation.experiments import (
    activation_maximisation,
    adversarial,
    controls,
    distillation,
    embedding,
    label_noise,
    logits,
    matched,
    prsl,
    runner_up,
)
from softrisk_evaluation.experiments.findings import PAGE, Findings, publish
from softrisk_evaluation.experiments.recipes import SECONDS, recipe
from softrisk_evaluation.experiments.setup import Setup
from softrisk_evaluation.experiments.study import Study
from softrisk_evaluation.experiments.task import rows_of
from softrisk_evaluation.tables import to_rich
from softrisk_training.checkpoint import tool_versions

EXPERIMENTS: Final[dict[str, Callable[[Setup], Findings]]] = {
    "matched": matched.run,
    "runner-up": runner_up.run,
    "label-noise": label_noise.run,
    "embedding": embedding.run,
    "adversarial-training": adversarial.run,
    "logits": logits.run,
    "distillation": distillation.run,
    "controls": controls.run,
    "activation-maximisation": activation_maximisation.run,
    "prsl": prsl.run,
}
"""Every experiment, by the name that the command line knows it by."""

ALL: Final = "all"

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def _known(name: str) -> str:
    if name not in (*EXPERIMENTS, ALL):
        raise typer.BadParameter(f"there is no experiment {name!r}: choose one of {', '.join((*EXPERIMENTS, ALL))}")
    return name


@app.command()
def experiment_command(
    name: Annotated[str, typer.Argument(callback=_known, help=f"{', '.join(EXPERIMENTS)}, or {ALL}.")],
    data: Annotated[
        str, typer.Option(help="digits, or the path of a parquet, IDX or image folder or of a .npz file.")
    ] = "digits",
    out: Annotated[
        Path, typer.Option(help="Folder of the results; each experiment gets one in it, and replaces an earlier one.")
    ] = Path("results"),
    work: Annotated[
        Path, typer.Option(help="Folder in which finished pieces are kept: an interrupted experiment goes on there.")
    ] = Path("runs"),
    jobs: Annotated[int, typer.Option(min=1, help="Processes, each with one thread.")] = 2,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of each arm. Default: 3 for grey images, 2 for coloured ones.")
    ] = None,
    images: Annotated[
        int | None, typer.Option(min=1, help="Test images that are attacked for each arm. Default: 100.")
    ] = None,
    headline_images: Annotated[
        int | None,
        typer.Option(min=1, help="The same for the arms of the headline. Default: 200, or 500 if coloured."),
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Default: what suits the images.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Filters of the first layer. Default: 16.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default: 5 for grey images, 6 for coloured ones.")] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1.0,
            help="ℓ∞ radius of the headline, on pixels in [0, 1]. Default: 0.1 for grey images, else 1/255.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="So little of everything that it only shows that an experiment runs.")
    ] = False,
) -> None:
    """Measure what the training losses are worth: train every arm, attack it, write a page, JSON and figures.

    Hours on real data. Whatever is finished is kept; the same command after an interruption goes on from there.
    """
    console = Console()
    task, budget = recipe(data)
    task = replace(
        task,
        architecture=architecture or task.architecture,
        width=width or task.width,
        epochs=epochs or task.epochs,
        epsilon=epsilon or task.epsilon,
    )
    budget = SECONDS if quick else budget
    budget = replace(
        budget,
        seeds=seeds or budget.seeds,
        images=images or budget.images,
        headline_images=headline_images or budget.headline_images,
    ).within(rows_of(data)[1])
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    for chosen in EXPERIMENTS if name == ALL else (name,):
        try:
            with Progress(*columns, console=console) as progress:
                findings = EXPERIMENTS[chosen](Setup(Study(work, jobs, progress), task, budget))
        except KeyboardInterrupt:
            console.print(f"interrupted; what is finished is kept in {work}: the same command goes on", soft_wrap=True)
            raise typer.Exit(130) from None
        console.print(to_rich(findings.tables[0]), "")
        versions = {**tool_versions(), "adversarial-robustness-toolbox": version("adversarial-robustness-toolbox")}
        publish(findings, out / chosen, shlex.join(["softrisk", "experiment", *sys.argv[2:]]), versions)
        console.print(f"all tables and figures: {out / chosen / PAGE}", soft_wrap=True, highlight=False)

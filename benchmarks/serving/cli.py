"""The command line of the serving benchmark."""

import re
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer
from benchmarks.models import MODELS
from benchmarks.serving import concurrency, growth, memory, overload, report, tables, throughput
from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.load import require_wrk
from benchmarks.serving.machine import describe
from benchmarks.serving.points import Points
from benchmarks.serving.run import Run
from benchmarks.serving.servers import FORMAT_NAMES, choose
from benchmarks.serving.summary import Summary
from benchmarks.serving.targets import judge
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_core.errors import SoftriskError

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Section(StrEnum):
    """Parts of the benchmark."""

    LOAD = "load"
    MEMORY = "memory"
    OVERLOAD = "overload"
    GROWTH = "growth"
    CONCURRENCY = "concurrency"


_MEASURE: Final[dict[Section, Callable[[Run], None]]] = {
    Section.LOAD: throughput.measure,
    Section.MEMORY: memory.measure,
    Section.OVERLOAD: overload.measure,
    Section.GROWTH: growth.measure,
    Section.CONCURRENCY: concurrency.measure,
}


@app.command()
def serving(
    sections: Annotated[list[Section] | None, typer.Argument(help="Parts to measure; by default all.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for page, JSON and picture; without it the tables are only printed.")
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="Folder for the peers' environments, the models and what is measured so far.")
    ] = Path("~/.cache/softrisk-bench"),
    server: Annotated[
        list[str] | None, typer.Option(help="A server to load, with wildcards; repeat it for several. Default: all.")
    ] = None,
    models: Annotated[str, typer.Option(help="Models to load.")] = "S,R",
    formats: Annotated[str | None, typer.Option(help="Formats, such as json,binary. Default: all.")] = None,
    connections: Annotated[str, typer.Option(help="Numbers of connections.")] = "1,32,64",
    seconds: Annotated[int, typer.Option(min=1, help="Of each measurement.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Rotations; medians are reported.")] = 3,
    requests: Annotated[int, typer.Option(min=1000, help="Of the memory section.")] = 1_000_000,
    quick: Annotated[
        bool, typer.Option("--quick", help="One second, one rotation, 100,000 requests: a trial.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was broken off.")] = False,
) -> None:
    """Measure softrisk against bare onnxruntime and against other Python model servers.

    A whole run takes about 20 minutes on two cores, and some minutes more the first time, for the environments.
    """
    require_wrk()
    cache = cache.expanduser().absolute()
    path = cache / ("trial.jsonl" if out is None else "points.jsonl")
    if not resume:
        path.unlink(missing_ok=True)
    console = Console()
    console.width = max(console.width, 150)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, refresh_per_second=2) as progress:
        run = Run(
            cache=cache,
            points=Points(path),
            progress=progress,
            servers=choose(server or ["*"]),
            models=_among(models, tuple(MODELS), "--models"),
            formats=_among(formats, tuple(FORMAT_NAMES), "--formats") if formats else None,
            connections=_counts(connections),
            seconds=1 if quick else seconds,
            repeats=1 if quick else repeats,
            requests=min(requests, 100_000) if quick else requests,
        )
        failed = 0
        for section in sections or list(Section):
            try:
                _MEASURE[section](run)
            except BenchmarkError as error:  # the other sections are worth having
                failed += 1
                console.print(f"error: {section} broke off: {error}", style="red")
    summary = Summary.of(run.points)
    for table in tables.all_tables(summary, judge(summary)):
        console.print(table.for_terminal())
    if out is not None:
        report.write(summary, describe(run), out)
        console.print(f"written: {out / 'README.md'}")
    if failed:
        raise typer.Exit(1)


def _among(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    found = tuple(part for part in known if part in text.split(","))
    if len(found) != len(text.split(",")):
        raise typer.BadParameter(f"{option} takes {', '.join(known)}, several with commas between them; got {text!r}")
    return found


def _counts(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise typer.BadParameter(f"--connections takes positive numbers separated by commas, got {text!r}")
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Run, and tell mistakes in one line."""
    try:
        app()
    except SoftriskError as error:
        Console(stderr=True).print(f"error: {error}", style="red", soft_wrap=True)
        sys.exit(1)

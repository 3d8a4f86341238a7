"""`softrisk evaluate`: attack a bundle and say what its flag is worth."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_core.bundle import REPORT, Bundle, load_bundle
from softrisk_core.repository import resolve
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.evaluate import evaluate
from softrisk_evaluation.publish import check_destination, publish
from softrisk_evaluation.report import Settings
from softrisk_evaluation.soundness import IMAGES
from softrisk_evaluation.tables import on_attacks, sections, to_rich

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def evaluate_command(
    context: typer.Context,
    bundle: Annotated[
        Path, typer.Argument(help="<repository>/<model>/<version>, or <repository>/<model>: the highest.")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint behind the bundle: attacks use its gradients. Without it nothing is attacked."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Test data, as softrisk train accepts them; needed without --checkpoint. Default: the checkpoint's "
            "test rows."
        ),
    ] = None,
    epsilon: Annotated[
        list[float], typer.Option(help="ℓ∞ radius of the attacks on pixels in [0, 1]; may be repeated.")
    ] = [0.1],  # noqa: B006 - typer wants a list, and copies it
    steps: Annotated[int, typer.Option(min=1, help="Steps of PGD, each of 2.5 ε/steps.")] = 20,
    restarts: Annotated[
        int, typer.Option(min=1, help="Random starts of PGD; APGD makes one run of all their steps.")
    ] = 5,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Attack only so many test images, drawn at random. Default: all.")
    ] = None,
    resplits: Annotated[
        int, typer.Option(min=0, help="Random splits on which the false-alarm law is checked, such as 200.")
    ] = 0,
    sanity_images: Annotated[
        int,
        typer.Option(min=0, help="Check the attacks themselves on so many of the attacked images; 0: do not."),
    ] = IMAGES,
    adaptive: Annotated[
        bool,
        typer.Option("--adaptive", help="Attack also as someone who knows the score: evade the flag, flood it."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random in attacks, --limit and --resplits.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report. Default: report/ in the bundle's folder.")
    ] = None,
) -> None:
    """Attack a bundle's classifier and write a report: accuracy, detection, false alarms, red flags.

    Without a checkpoint, as for a bundle from an ONNX file: clean accuracy and false alarms only. A bundle of several
    inputs is not attacked, and no report is written: accuracy, radii and false alarms by the inputs that are there.
    """
    loaded = load_bundle(resolve(bundle))
    if len(loaded.manifest.inputs) > 1:
        _refuse_given(context, besides=("bundle", "checkpoint", "data"))
        _evaluate_cases(loaded, checkpoint, data)
        return
    folder = out or loaded.folder / REPORT
    check_destination(folder)
    settings = Settings(
        command=_command(context),
        epsilons=tuple(sorted(set(epsilon))),
        steps=steps,
        restarts=restarts,
        limit=limit,
        seed=seed,
        resplits=resplits,
        sanity_images=sanity_images,
        adaptive=adaptive,
    )
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        evaluation = evaluate(loaded, checkpoint, data, settings, progress)
    report = evaluation.report
    if report.data.dropped:
        console.print(f"{report.data.dropped} test rows left out: the model or its calibration has seen their content")
    for section in sections(report):
        console.print(to_rich(section), "")
    console.print(on_attacks(report), "", soft_wrap=True, highlight=False)
    publish(evaluation, folder)
    console.print(f"report: {folder}", soft_wrap=True, highlight=False)


def _refuse_given(context: typer.Context, besides: tuple[str, ...]) -> None:
    """Refuse the options of attacks and reports, so that nobody takes them for heeded."""
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if (name := parameter.name or "") not in besides
        and (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise EvaluationError(
            f"a bundle of several inputs is not attacked, and no report is written: leave out {', '.join(given)}"
        )


def _evaluate_cases(bundle: Bundle, checkpoint: Path | None, data: str | None) -> None:
    """Show what a bundle of several inputs is worth on its checkpoint's clean test pairs."""
    if data is not None:
        raise EvaluationError("--data takes images, and this bundle takes several inputs: leave it out")
    from softrisk_evaluation.presence import case_sections, evaluate_cases

    console = Console()
    with console.status("clean test pairs"):
        facts = evaluate_cases(bundle, checkpoint)
    for section in case_sections(facts):
        console.print(to_rich(section), "")


def _command(context: typer.Context) -> str:
    """The command with all its settings, defaults included, so that a later default does not change its meaning."""
    words = ["softrisk", "evaluate"]
    for parameter in context.command.params:
        given = context.params.get(parameter.name or "")
        for value in given if isinstance(given, list | tuple) else [given]:
            if isinstance(value, bool):
                words += [parameter.opts[0]] if value else []
            elif value is not None:
                option = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
                words += [*option, str(value)]
    return shlex.join(words)

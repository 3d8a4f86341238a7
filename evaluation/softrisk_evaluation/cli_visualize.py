"""`softrisk visualize`: pictures of what a network has learnt."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Final

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_evaluation.activations.album import SHEET, Album
from softrisk_evaluation.activations.maximise import Settings, maximise
from softrisk_evaluation.activations.parameterisation import ParameterisationKind
from softrisk_evaluation.activations.quality import measure, transfer
from softrisk_evaluation.activations.targets import class_targets, unit_targets
from softrisk_evaluation.activations.transformations import Transformations
from softrisk_evaluation.cli_logits import logits
from softrisk_evaluation.errors import EvaluationError
from softrisk_training.checkpoint import Checkpoint, build_model, load_checkpoint, tool_versions
from softrisk_training.models import Classifier

_DEFAULT: Final = Settings()

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Show what a network has learnt.",
)


@app.command()
def activations(
    checkpoint: Annotated[Path, typer.Argument(help="A file that softrisk train wrote.")],
    classes: Annotated[
        list[str], typer.Option("--class", help="A class to show; may be repeated. Default: all classes.")
    ] = [],  # noqa: B006 - typer wants a list, and copies it
    units: Annotated[
        list[str],
        typer.Option("--unit", help="A channel inside the network to show, layer:channel; may be repeated."),
    ] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Images of each class or unit.")] = 4,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of their seeds.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the ascent.")] = _DEFAULT.steps,
    parameterisation: Annotated[
        ParameterisationKind, typer.Option(help="What the ascent moves: waves, long ones first, or single pixels.")
    ] = _DEFAULT.parameterisation,
    rotation: Annotated[
        float, typer.Option(min=0, max=180, help="At each step the image is turned by up to so many degrees.")
    ] = _DEFAULT.transformations.rotation,
    scaling: Annotated[
        float, typer.Option(min=0, help="… and enlarged or reduced by a factor of up to 1 + this.")
    ] = _DEFAULT.transformations.scaling,
    jitter: Annotated[
        float, typer.Option(min=0, help="… and shifted by up to so many pixels.")
    ] = _DEFAULT.transformations.jitter,
    l2: Annotated[float, typer.Option(min=0, help="Weight of the mean square of the normalised pixels.")] = _DEFAULT.l2,
    tv: Annotated[float, typer.Option(min=0, help="Weight of the total variation.")] = _DEFAULT.tv,
    held_out: Annotated[
        list[Path],
        typer.Option(help="A checkpoint of another network, to say whether it sees the class, too; may be repeated."),
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder of contact sheet, pixels and figures.")] = Path("activations"),
) -> None:
    """Draw the images that a network answers to most strongly, by ascent from noise, turned and scaled all the while.

    Without --class and --unit: all classes.
    """
    console = Console()
    loaded = load_checkpoint(checkpoint)
    model = _ready(loaded)
    judges = {str(path): _judge(path, loaded, checkpoint) for path in held_out}
    example = torch.zeros((1, *loaded.input_shape), device=model.mean.device)
    wanted = classes or ([] if units else list(loaded.classes))
    targets = class_targets(wanted, loaded.classes) + unit_targets(units, model, example)
    settings = Settings(
        steps=steps,
        parameterisation=parameterisation,
        transformations=Transformations(rotation, scaling, jitter),
        l2=l2,
        tv=tv,
    )
    chosen = range(first_seed, first_seed + seeds)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("ascent", total=steps * len(targets) * seeds)
        images = maximise(
            model, loaded.input_shape, targets, chosen, settings, lambda moved: progress.advance(bar, moved)
        )
    Album(
        checkpoint=checkpoint,
        classes=loaded.classes,
        settings=settings,
        targets=targets,
        seeds=chosen,
        images=images.cpu().numpy(),
        quality=measure(model, images, targets),
        transfer={name: transfer(judge, images, targets) for name, judge in judges.items()},
    ).write(out, shlex.join(["softrisk", "visualize", *sys.argv[2:]]), tool_versions())
    console.print(f"contact sheet: {out / SHEET}", soft_wrap=True, highlight=False)


app.command()(logits)


def _ready(checkpoint: Checkpoint) -> Classifier:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(checkpoint).requires_grad_(False).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    return model


def _judge(path: Path, checkpoint: Checkpoint, of: Path) -> Classifier:
    other = load_checkpoint(path)
    if (other.input_shape, other.classes) != (checkpoint.input_shape, checkpoint.classes):
        raise EvaluationError(
            f"{path} cannot judge images of {of}: it has the input shape {other.input_shape} and the classes "
            f"{', '.join(other.classes)}, not {checkpoint.input_shape} and {', '.join(checkpoint.classes)}; hold out a "
            "network for the same task"
        )
    return _ready(other)

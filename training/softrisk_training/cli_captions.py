"""`softrisk train-captions`."""

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_training.captioning.checkpoint import CaptionCheckpoint
from softrisk_training.captioning.training import CaptionConfig, Schedule, train_captioner
from softrisk_training.data import ImageData, Splits, load_data, split_rows
from softrisk_training.losses import DEFAULT_END, PRSL, PRSLMode
from softrisk_training.trainer import Progress as TrainingProgress

LOSSES: Final = ("ce", PRSL.name)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _known(loss: str) -> str:
    if loss not in LOSSES:
        raise typer.BadParameter(f"unknown loss {loss!r}: choose one of {', '.join(LOSSES)}")
    return loss


@app.command()
def train_captions_command(
    data: Annotated[
        str, typer.Argument(help="digits, or the path of a parquet, IDX or image folder or of a .npz file.")
    ] = "digits",
    out: Annotated[
        Path | None, typer.Option(help="The checkpoint to write. Default: the name of the data, with -captions.pt.")
    ] = None,
    loss: Annotated[
        str, typer.Option(callback=_known, help=f"{' or '.join(LOSSES)}; docs/losses.md explains them.")
    ] = "ce",
    mode: Annotated[
        PRSLMode | None, typer.Option(help="What PRSL restrains. Default: across-tokens, as its authors.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help=f"PRSL restrains the K strongest wrong words. Default: {DEFAULT_END}.")
    ] = None,
    window: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Instead of --top-k: the first rank, from 0, and the rank after the last.", metavar="A B"),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(help="Of PRSL's penalty. Default: 1e-5; within-token 0.1, topk-mass 1."),
    ] = None,
    scenes: Annotated[int, typer.Option(min=1, help="Scenes that are composed of the training images.")] = 20_000,
    width: Annotated[int, typer.Option(min=1, help="Filters of the first convolution.")] = 16,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the scenes.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Scenes in a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak of the one-cycle schedule.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of split, scenes, initialisation and order.")] = 0,
) -> None:
    """Train a small model that describes scenes of two images, such as "a three left of a seven".

    Without arguments the scenes are made of scikit-learn's digits.
    """
    console = Console()
    given = {"mode": mode, "end": top_k, "weight": weight}
    if window is not None:
        if top_k is not None:
            raise typer.BadParameter("--top-k K is short for --window 0 K: give one of the two")
        given |= {"start": window[0], "end": window[1]}
    if loss != PRSL.name and any(value is not None for value in given.values()):
        raise typer.BadParameter(f"--mode, --top-k, --window and --weight are of --loss prsl, and {loss} takes none")
    config = CaptionConfig(
        width=width,
        loss=loss,
        loss_settings={name: value for name, value in given.items() if value is not None},
        scenes=scenes,
        schedule=Schedule(epochs, batch_size, learning_rate, seed=seed),
    )
    images = load_data(data)
    destination = out or Path(f"{Path(data).resolve().stem}-captions.pt")
    try:
        checkpoint = _train_with_bar(config, images, split_rows(images, seed), destination, console)
    except KeyboardInterrupt:
        console.print("interrupted; nothing is kept")
        raise typer.Exit(130) from None
    quality = checkpoint.quality
    console.print(
        f"{quality.exact_match:.1%} of the captions of test scenes are right, {quality.token_accuracy:.2%} of their"
        f" tokens; checkpoint in {destination}",
        soft_wrap=True,
        highlight=False,
    )


def _train_with_bar(
    config: CaptionConfig, data: ImageData, splits: Splits, out: Path, console: Console
) -> CaptionCheckpoint:
    columns = (
        TextColumn("epoch {task.fields[epoch]}/" + str(config.schedule.epochs)),
        BarColumn(bar_width=12),
        TextColumn("loss {task.fields[loss]} tokens {task.fields[accuracy]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", epoch=0, loss="–", accuracy="–", total=None)

        def show(progress: TrainingProgress) -> None:
            bar.update(
                task,
                completed=progress.steps,
                total=progress.total_steps,
                epoch=progress.epoch,
                loss=f"{progress.loss:.4f}",
                accuracy=f"{progress.accuracy:.1%}",
            )

        return train_captioner(config, data, splits, out, show)

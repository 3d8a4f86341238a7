"""`softrisk train-multimodal`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from softrisk_training.multimodal.checkpoint import MultimodalCheckpoint
from softrisk_training.multimodal.config import EPSILON, MultimodalConfig
from softrisk_training.multimodal.encoders import ENCODERS, EncoderName
from softrisk_training.multimodal.fusion import FusionName
from softrisk_training.multimodal.objectives import METHODS, Method
from softrisk_training.multimodal.pairs import PairedData, load_pairs
from softrisk_training.multimodal.trainer import Progress, refuse_existing, train_multimodal

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def train_multimodal_command(
    images: Annotated[str, typer.Argument(help="Labelled images: as for softrisk train.")],
    audio: Annotated[
        str,
        typer.Argument(
            help="Labelled recordings of the same classes, 8 kHz: a folder of parquet files with WAV inside."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The checkpoint to write.")] = Path("multimodal.pt"),
    method: Annotated[
        Method, typer.Option(help=f"One of {', '.join(METHODS)}; docs/multimodal.md explains them.")
    ] = "crmt",
    encoder: Annotated[
        EncoderName,
        typer.Option(help=f"One of {', '.join(ENCODERS)}: the first has useful proved radii, the second loose ones."),
    ] = "lipschitz",
    fusion: Annotated[
        FusionName | None,
        typer.Option(help="linear, orthogonal or transformer. Default: orthogonal for crmt, linear otherwise."),
    ] = None,
    rho: Annotated[
        float | None, typer.Option(help="Weight of each modality's margins, for crmt. Default: 0.5; small-cnn 2.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help=f"ℓ2 radius of the attack in training, for adversarial and crmt-at. Default: {EPSILON}."),
    ] = None,
    rows_only: Annotated[
        bool, typer.Option("--rows-only", help="Rows of heads centred and of norm 1, but not mutually orthogonal.")
    ] = False,
    modality_dropout: Annotated[
        float, typer.Option(help="Share of training rows that lack an image or a recording; makes both optional.")
    ] = 0.0,
    width: Annotated[
        int | None, typer.Option(min=1, help="Filters of the first layer. Default: 8, of small-cnn 4.")
    ] = None,
    features: Annotated[int, typer.Option(min=1, help="Features of each modality.")] = 64,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training pairs.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak of the one-cycle schedule.")] = 3e-3,
    repeats: Annotated[int, typer.Option(min=1, help="Training pairs of each training recording.")] = 3,
    speaker_disjoint: Annotated[
        bool, typer.Option("--speaker-disjoint", help="Test on speakers that nothing else hears.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of splits, pairs, initialisation and all that is random.")] = 0,
) -> None:
    """Train a classifier of an image and a recording whose label has a proved radius.

    Image and recording show and say the same class, such as a digit. Changes are measured in pixels of the image and
    in the log-mel plane of the recording.
    """
    console = Console()
    refuse_existing(out)
    config = MultimodalConfig(
        method=method,
        encoder=encoder,
        fusion=fusion,
        width=width,
        features=features,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        rho=rho,
        epsilon=epsilon,
        rows_only=rows_only,
        modality_dropout=modality_dropout,
        seed=seed,
    )
    data = load_pairs(images, audio, seed=seed, repeats=repeats, speaker_disjoint=speaker_disjoint)
    splits = data.splits
    console.print(
        f"{data.source}: {len(splits.training):,} training, {len(splits.selection):,} selection,"
        f" {len(splits.calibration):,} calibration, {len(splits.test):,} test pairs, {len(data.classes)} classes"
    )
    checkpoint = _train_with_bar(config, data, out, console)
    if checkpoint.lipschitz.certified is None:
        console.print("nothing is proved about radii: with this fusion they are estimates")
    console.print(
        f"accuracy {checkpoint.test_accuracy:.2%} on {len(splits.test):,} test pairs; checkpoint in {out}\n"
        f"next: softrisk export {out}",
        soft_wrap=True,
        highlight=False,
    )


def _train_with_bar(config: MultimodalConfig, data: PairedData, out: Path, console: Console) -> MultimodalCheckpoint:
    columns = (
        TextColumn("epoch {task.fields[epoch]}/" + str(config.epochs)),
        BarColumn(bar_width=12),
        TextColumn("loss {task.fields[loss]} (selection {task.fields[selected]})"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("training", epoch=0, loss="–", selected="–", total=None)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                completed=progress.steps,
                total=progress.total_steps,
                epoch=progress.epoch,
                loss=f"{progress.loss:.4f}",
            )
            if progress.selection_accuracy is not None:
                bar.update(task, selected=f"{progress.selection_accuracy:.1%}")

        return train_multimodal(config, data, out, on_progress=show)

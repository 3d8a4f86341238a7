"""`softrisk train`."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from softrisk_training.adversarial import AdversaryKind, make_adversary
from softrisk_training.augmentation import Augmentation
from softrisk_training.checkpoint import Checkpoint
from softrisk_training.data import ImageData, Splits, load_data, split_rows
from softrisk_training.losses import DEFAULT_FORM, DRSL, LOSSES, DRSLForm, PRSLMode
from softrisk_training.models import Optimizer, architecture
from softrisk_training.trainer import Progress as TrainingProgress
from softrisk_training.trainer import TrainingConfig, finished_epochs, refuse_conflicts, state_path, train

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def train_command(
    data: Annotated[
        str,
        typer.Argument(
            help="digits, or the path of a parquet, IDX or image folder or of a .npz file.", show_default=True
        ),
    ] = "digits",
    out: Annotated[
        Path | None, typer.Option(help="The checkpoint to write. Default: the name of the data, with .pt.")
    ] = None,
    loss: Annotated[str, typer.Option(help=f"One of {', '.join(LOSSES)}; docs/losses.md explains them.")] = "drsl",
    form: Annotated[DRSLForm | None, typer.Option(help="Form of DRSL's penalty. Default: squared.")] = None,
    tau: Annotated[
        float | None,
        typer.Option(help="Weight of DRSL's penalty. Default: 1; squared with the resnet 0.01; authors… 0.001."),
    ] = None,
    tau_warm_up: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the steps over which tau rises from 0.")
    ] = 0.0,
    smoothing: Annotated[
        float | None, typer.Option(help="Share that label-smoothing spreads over all classes. Default: 0.1.")
    ] = None,
    gamma: Annotated[float | None, typer.Option(help="Exponent of focal. Default: 2.")] = None,
    weight: Annotated[
        float | None,
        typer.Option(help="Of the squared norm in logit-squeezing (default: 0.05), or of prsl's penalty (by mode)."),
    ] = None,
    q: Annotated[float | None, typer.Option(help="Exponent of gce. Default: 0.7.")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Weight of CE in symmetric-ce (default: 0.1), or exponent of guided-complement (1/3)."),
    ] = None,
    beta: Annotated[float | None, typer.Option(help="Weight of the reverse CE in symmetric-ce. Default: 1.")] = None,
    log_zero: Annotated[float | None, typer.Option(help="What symmetric-ce takes for log 0. Default: -4.")] = None,
    mode: Annotated[PRSLMode | None, typer.Option(help="What prsl restrains. Default: across-tokens.")] = None,
    start: Annotated[int | None, typer.Option(help="First rank of prsl's window of wrong classes. Default: 0.")] = None,
    end: Annotated[int | None, typer.Option(help="Rank after its last. Default: 6.")] = None,
    adversary: Annotated[
        AdversaryKind,
        typer.Option(help="Train under attack: pgd, fast (one step) or trades, with any loss."),
    ] = "none",
    epsilon: Annotated[float | None, typer.Option(help="How far the adversary may move a pixel of [0, 1].")] = None,
    attack_steps: Annotated[int | None, typer.Option(help="Steps of pgd and trades. Default: 7.")] = None,
    trades_beta: Annotated[float | None, typer.Option(help="Weight of the divergence in trades. Default: 6.")] = None,
    architecture_name: Annotated[
        str, typer.Option("--architecture", help="small-cnn (8×8 to 64×64 pixels) or resnet (made for 32×32).")
    ] = "small-cnn",
    width: Annotated[int | None, typer.Option(help="Filters of the first layer.")] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Default: about 200,000 images seen, 5 to 40 epochs.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a step.")] = 128,
    optimizer: Annotated[Optimizer | None, typer.Option(help="Default: what suits the architecture.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak of the one-cycle schedule.")] = None,
    augmentation: Annotated[
        Augmentation, typer.Option(help="Changes that keep the label: small shifts, and mirroring.")
    ] = "none",
    input_noise: Annotated[
        float, typer.Option(min=0, help="Standard deviation of Gaussian noise on training pixels of [0, 1].")
    ] = 0.0,
    label_noise: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the training labels that are made wrong.")
    ] = 0.0,
    bfloat16: Annotated[
        bool | None, typer.Option(help="Train in bfloat16. Default: for the resnet.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of split, initialisation, row order and all that is random.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
) -> None:
    """Train a classifier whose softmax betrays attacks.

    Without arguments it trains on scikit-learn's digits, in seconds.
    """
    console = Console()
    destination = out or Path(f"{Path(data).resolve().stem}.pt")
    loss_settings: dict[str, float | str] = _given(
        form=form,
        tau=tau,
        smoothing=smoothing,
        gamma=gamma,
        weight=weight,
        q=q,
        alpha=alpha,
        beta=beta,
        log_zero=log_zero,
        mode=mode,
        start=start,
        end=end,
    )
    # Large data take a while to load: what can be refused without them is refused before.
    refuse_conflicts(destination, resume=resume)
    recipe = architecture(architecture_name)
    if loss == DRSL.name and form in (None, DEFAULT_FORM):
        loss_settings.setdefault("tau", recipe.tau)
    config = TrainingConfig(
        architecture=architecture_name,
        width=width or recipe.width,
        loss=loss,
        loss_settings=loss_settings,
        epochs=epochs or 1,
        batch_size=batch_size,
        optimizer=optimizer or recipe.optimizer,
        learning_rate=recipe.learning_rate if learning_rate is None else learning_rate,
        weight_decay=recipe.weight_decay,
        augmentation=augmentation,
        bfloat16=recipe.bfloat16 if bfloat16 is None else bfloat16,
        seed=seed,
        tau_warm_up=tau_warm_up,
        adversary=make_adversary(adversary, **_given(epsilon=epsilon, steps=attack_steps, beta=trades_beta)),
        label_noise=label_noise,
        input_noise=input_noise,
    )
    images = load_data(data)
    splits = split_rows(images, seed)
    if epochs is None:
        config = replace(config, epochs=min(40, max(5, math.ceil(200_000 / len(splits.training)))))
    channels, height, columns = images.input_shape
    console.print(
        f"{images.source}: {len(images.labels):,} images of {channels}×{height}×{columns}, {len(images.classes)}"
        f" classes; {len(splits.training):,} training, {len(splits.selection):,} selection,"
        f" {len(splits.calibration):,} calibration, {len(splits.test):,} test"
    )
    if splits.dropped:
        console.print(f"{splits.dropped:,} rows left out: another row has the same content")
    try:
        checkpoint = _train_with_bar(config, images, splits, destination, resume, console)
    except KeyboardInterrupt:
        console.print(_interrupted(destination, config.epochs), soft_wrap=True, highlight=False)
        raise typer.Exit(130) from None
    if "kept_epoch" in checkpoint.settings:
        console.print(_collapse(checkpoint), soft_wrap=True, highlight=False)
    console.print(
        f"accuracy {checkpoint.test_accuracy:.2%} on {len(splits.test):,} test images;"
        f" checkpoint in {destination}\n"
        f"next: softrisk export {destination}",
        soft_wrap=True,
        highlight=False,
    )


def _given(**options: Any) -> dict[str, Any]:
    """The options that the user gave; the others have their defaults where they belong."""
    return {name: value for name, value in options.items() if value is not None}


def _collapse(checkpoint: Checkpoint) -> str:
    kept, last = int(checkpoint.settings["kept_epoch"]), checkpoint.epochs
    before, after = (checkpoint.history[epoch - 1]["robust_accuracy"] for epoch in (kept, last))
    return (
        f"stopped after epoch {last}: under a short PGD {after:.1%} of the selection rows are right, after epoch {kept}"
        f" it was {before:.1%}; the single step of the adversary no longer teaches anything. The weights are those of"
        f" epoch {kept}. A smaller --epsilon, more --augmentation or --adversary pgd may do better"
    )


def _interrupted(out: Path, epochs: int) -> str:
    state = state_path(out)
    kept = finished_epochs(out)
    if kept:
        return f"interrupted; {kept} of {epochs} epochs are kept in {state}; go on with --resume"
    # Left there, it would be in the way of the next start and save nobody any work.
    state.unlink(missing_ok=True)
    return "interrupted before the first epoch was finished; nothing to resume"


def _train_with_bar(
    config: TrainingConfig, data: ImageData, splits: Splits, out: Path, resume: bool, console: Console
) -> Checkpoint:
    columns = (
        TextColumn("epoch {task.fields[epoch]}/" + str(config.epochs)),
        BarColumn(bar_width=12),
        TextColumn("loss {task.fields[loss]} accuracy {task.fields[accuracy]}"),
        TextColumn("(selection {task.fields[selected]})"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", epoch=0, loss="–", accuracy="–", selected="–", total=None)

        def show(progress: TrainingProgress) -> None:
            bar.update(
                task,
                completed=progress.steps,
                total=progress.total_steps,
                epoch=progress.epoch,
                loss=f"{progress.loss:.4f}",
                accuracy=f"{progress.accuracy:.1%}",
            )
            if progress.selection_accuracy is not None:
                bar.update(task, selected=f"{progress.selection_accuracy:.1%}")

        return train(config, data, splits, out, resume=resume, on_progress=show)

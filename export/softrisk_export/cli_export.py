"""`softrisk export`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from softrisk_core.repository import Repository, check_name
from softrisk_export.errors import ExportError
from softrisk_export.foreign import SAMPLE, Reading, foreign_source
from softrisk_export.score_options import EpsilonOption, ProbeOption, ProbesOption, ScoreOption, wanted_score
from softrisk_export.seal import seal
from softrisk_export.source import CleanRows, Source
from softrisk_export.summary import print_summary
from softrisk_training.data import ImageData, load_images

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def export_command(
    source: Annotated[Path, typer.Argument(help="A checkpoint of softrisk train, or an ONNX classifier (.onnx).")],
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Clean data that the model has not seen: what softrisk train takes as data, or the same without "
            "labels, such as a folder of PNG or JPEG files. An ONNX file needs it. Default: the calibration rows of "
            "the checkpoint's own data."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The model repository.")] = Path("models"),
    name: Annotated[str | None, typer.Option(help="Name of the model. Default: that of SOURCE.")] = None,
    alpha: Annotated[float, typer.Option(help="Default false-alarm rate of the flag.")] = 0.01,
    per_class: Annotated[
        bool,
        typer.Option(
            "--per-class",
            help="Keep the false-alarm rate for each predicted class that has enough calibration rows, not only on "
            "average.",
        ),
    ] = False,
    score: ScoreOption = None,
    probes: ProbesOption = "off",
    probe: ProbeOption = [],  # noqa: B006 - typer wants a list, and copies it
    epsilon: EpsilonOption = [],  # noqa: B006 - the same
    features: Annotated[
        str | None,
        typer.Option(
            help="The tensor of the penultimate features, for mahalanobis and knn, if it is not found: its name in the "
            "ONNX file."
        ),
    ] = None,
    optional: Annotated[
        list[str],
        typer.Option(
            help="Checkpoint of several inputs only: an input that may be left out; may be repeated. What lacks it is "
            "compared with calibration rows that lack it. Default: those that the model was trained to do without."
        ),
    ] = [],  # noqa: B006 - the same
    logits: Annotated[
        str | None, typer.Option(help="ONNX file only: the tensor that holds the logits, if it is not found.")
    ] = None,
    mean: Annotated[
        str, typer.Option(help="ONNX file only: mean that its inputs are normalised by; one value a channel, or one.")
    ] = "0",
    std: Annotated[
        str, typer.Option(help="ONNX file only: standard deviation that its inputs are normalised by, likewise.")
    ] = "1",
    value_range: Annotated[
        str,
        typer.Option("--range", help="ONNX file only: what black and white are for it, before mean and std: 0,255."),
    ] = "0,1",
    classes: Annotated[
        str | None,
        typer.Option(help="ONNX file only: class names by label, as a,b,c or as a file with one on each line."),
    ] = None,
) -> None:
    """Turn a checkpoint or an ONNX classifier into a calibrated bundle."""
    if source.is_dir():
        raise ExportError(
            f"{source} is a folder; SOURCE is a checkpoint (.pt) or an ONNX file; "
            "for images, softrisk train comes first"
        )
    wanted = wanted_score(score, probes, probe, epsilon, features)
    name = check_name(name or re.sub(r"[^A-Za-z0-9._-]+", "-", source.stem).lstrip("._-"))
    if source.suffix.lower() == ".onnx":
        _refuse_optional(optional)
        if calibration is None:
            raise ExportError(f"{source} brings no data of its own: name held-out clean data with --calibration")
        images = load_images(calibration)
        reading = Reading(
            logits=logits,
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            value_range=_numbers("--range", value_range),
            classes=_class_names(classes),
        )
        names = images.classes if isinstance(images, ImageData) else ()
        classifier = foreign_source(source, images.inputs(np.arange(min(SAMPLE, len(images.images)))), names, reading)
        rows = CleanRows.of(images, classifier.input.name)
    else:
        classifier, rows = _from_checkpoint(source, calibration, tuple(optional))
    sealed = seal(Repository(out), name, classifier, rows, wanted, alpha, per_class=per_class)
    print_summary(sealed, checkpoint=source if classifier.facts.origin == "checkpoint" else None)


def _refuse_optional(optional: Sequence[str]) -> None:
    if optional:
        raise ExportError("--optional is for a checkpoint of several inputs, and this model has one: leave it out")


def _from_checkpoint(path: Path, calibration: str | None, optional: tuple[str, ...]) -> tuple[Source, CleanRows]:
    # torch takes seconds, and an ONNX file needs none
    from softrisk_export.checkpoint_source import checkpoint_source
    from softrisk_training.checkpoint import kind_of
    from softrisk_training.multimodal.checkpoint import FORMAT

    if kind_of(path) != FORMAT:
        _refuse_optional(optional)
        return checkpoint_source(path, calibration)
    if calibration is not None:
        raise ExportError(
            "--calibration takes images, and this model takes pairs: leave it out, and the calibration pairs of the "
            "checkpoint's own data are taken"
        )
    from softrisk_export.multimodal_source import multimodal_source

    return multimodal_source(path, optional)


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ExportError(f"{option} takes numbers separated by commas, got {text!r}") from error


def _class_names(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    if Path(text).is_file():
        return tuple(line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip())
    return tuple(part.strip() for part in text.split(","))

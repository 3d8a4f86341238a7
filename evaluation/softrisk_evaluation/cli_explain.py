"""`softrisk explain`: take the answer to an image apart."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import onnxruntime
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from softrisk_core.bundle import load_bundle
from softrisk_core.repository import resolve
from softrisk_evaluation.explain.explanation import explain, references
from softrisk_evaluation.explain.page import PAGE, Album
from softrisk_evaluation.explain.request import image_input, read_request
from softrisk_evaluation.explain.terminal import summarise
from softrisk_training.checkpoint import build_model, load_checkpoint, tool_versions

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def explain_command(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE", help="PNG or JPEG files, or .npy files of the input's shape; several are compared."
        ),
    ],
    bundle: Annotated[
        Path, typer.Argument(help="<repository>/<model>/<version>, or <repository>/<model>: the highest.")
    ],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="The checkpoint behind the bundle: its gradient shows what in the image decides. Without it patches "
            "are covered to find out, which takes more passes."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of page, picture and numbers.")] = Path("explanation"),
) -> None:
    """Explain a bundle's answer to images: where it stands among clean data, and what in the image decides.

    Softmax, p-value and flag, every diagnostic with its place among clean calibration data, what probes change, and
    which pixels hold the label against the second class. The images are read as the service reads them; every figure
    is the bundle's, run by onnxruntime.
    """
    console = Console()
    loaded = load_bundle(resolve(bundle))
    spec = image_input(loaded.manifest)
    requests = [read_request(image, spec) for image in images]
    model = None if checkpoint is None else build_model(load_checkpoint(checkpoint)).requires_grad_(False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        explanations = explain(loaded, model, requests, progress)
    for part in summarise(explanations, loaded.manifest):
        console.print(part, "")
    album = Album(loaded.manifest, explanations, references(loaded), by_gradient=model is not None)
    versions = {**tool_versions(), "onnxruntime": onnxruntime.__version__}
    album.write(out, shlex.join(["softrisk", "explain", *sys.argv[2:]]), versions)
    console.print(f"page: {out / PAGE}", soft_wrap=True, highlight=False)

"""`softrisk predict`: send files to a running service and show what it says about them."""

import json
from math import floor
from pathlib import Path
from typing import Annotated

import stamina.instrumentation
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from softrisk_client.client import Client
from softrisk_client.errors import (
    InvalidArgumentError,
    InvalidInputError,
    RequestTimeoutError,
    SoftriskClientError,
    TransportError,
)
from softrisk_client.types import Decision, PredictResponse

app = typer.Typer(add_completion=False, rich_markup_mode=None)

Instance = dict[str, Path]
"""Files by input name; the name is empty for the only input of a model."""

_COLOUR = {Decision.ACCEPT: "green", Decision.REVIEW: "yellow", Decision.REJECT: "bold red"}
_FLAGGED = 3
_LONG_PATH = 24
"""Characters that a table in 80 columns can spare for a file."""


@app.command()
def predict(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", show_default=False, help="PNG, JPEG or WAV files, each by itself."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=FILE",
            help="In place of FILE, for a model with several inputs: the file of one of them. All that are given are "
            "one instance.",
        ),
    ] = None,
    url: Annotated[str, typer.Option(help="Where the service is.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="Name of the model; needed where several are served.")] = None,
    version: Annotated[int | None, typer.Option(help="Version of the model; the highest by default.")] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            help="Level of the flag: the share of clean inputs that it may wrongly strike. The service's by "
            "default; the decision follows the service's policy either way."
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="SOFTRISK_API_KEY",
            show_default=False,
            help="Key, where the service asks for one. On the command line others may see it: better set the variable.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per instance, in place of the table.")
    ] = False,
) -> None:
    """Classify images and recordings by a running service, and say how strange they are.

    Exit status: 0 if nothing was flagged, 3 if anything was, 1 if anything has no answer or its flag is not disclosed.
    """
    # stamina reports a retry through structlog where that is installed, which writes to standard output.
    stamina.instrumentation.set_on_retry_hooks(())
    err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    instances = _instances(files or [], inputs or [])
    answers: list[tuple[Instance, PredictResponse]] = []
    failed = False
    try:
        with Client(url, api_key=api_key) as client:
            name = model or _only_model(client)
            for instance in track(instances, "Asking", console=err, transient=True, disable=not err.is_terminal):
                sent = instance.get("", instance)
                try:
                    answers.append((instance, client.predict([sent], model=name, version=version, alpha=alpha)))
                except (OSError, InvalidInputError) as error:
                    # The fault of this instance; the others may still be answered.
                    failed = True
                    err.print(_fault(instance, error))
    except SoftriskClientError as error:
        failed = True
        unreachable = isinstance(error, TransportError) and not isinstance(error, RequestTimeoutError)
        err.print(f"{error}: is `softrisk serve` running there? see --url" if unreachable else error)

    if as_json:
        for instance, answer in answers:
            typer.echo(_json_line(instance, answer))
    elif answers:
        Console().print(_table(answers, with_flag=alpha is not None))
    risks = [answer.predictions[0].risk for _, answer in answers]
    if None in risks:
        failed = True
        err.print("the service does not disclose flag and decision to this caller; ask its operator")
    if failed:
        raise typer.Exit(1)
    if any(risk is not None and risk.flagged for risk in risks):
        raise typer.Exit(_FLAGGED)


def _instances(files: list[Path], inputs: list[str]) -> list[Instance]:
    if bool(files) == bool(inputs):
        raise typer.BadParameter("name files, or --input NAME=FILE for each input of the model, and not both")
    if files:
        return [{"": file} for file in files]
    instance: Instance = {}
    for text in inputs:
        name, _, file = text.partition("=")
        if not name or not file:
            raise typer.BadParameter(f"--input {text}: expected NAME=FILE, such as image=seven.png")
        if name in instance:
            raise typer.BadParameter(f"--input {text}: there is a file for {name} already")
        instance[name] = Path(file)
    return [instance]


def _only_model(client: Client) -> str:
    match client.models():
        case (name,):
            return name
        case ():
            raise InvalidArgumentError("the service has no model")
        case names:
            raise InvalidArgumentError(f"the service has several models; choose one with --model: {', '.join(names)}")


def _fault(instance: Instance, error: OSError | InvalidInputError) -> str:
    if not isinstance(error, OSError):
        return f"{_name(instance)}: {error}"
    file = error.filename or _name(instance)
    return f"{file} is a folder: name files" if Path(file).is_dir() else f"{file}: {error.strerror or error}"


def _name(instance: Instance) -> str:
    return ", ".join(map(str, instance.values()))


def _json_line(instance: Instance, answer: PredictResponse) -> str:
    by_input = {name: str(file) for name, file in instance.items()}
    row = {
        **({"file": by_input[""]} if "" in by_input else {"files": by_input}),
        "model_name": answer.model_name,
        "model_version": answer.model_version,
    }
    return json.dumps(row | answer.predictions[0].model_dump(mode="json", exclude_none=True))


def _table(answers: list[tuple[Instance, PredictResponse]], *, with_flag: bool) -> Table:
    predictions = [answer.predictions[0] for _, answer in answers]
    radii = [None if prediction.radius is None else prediction.radius.certified for prediction in predictions]
    with_radius = any(radius is not None for radius in radii)
    table = Table(
        caption="; ".join(sorted({_origin(answer) for _, answer in answers})),
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("file", overflow="fold")
    table.add_column("class", overflow="fold")
    for name in ("confidence", "logit gap", "p-value", *(("certified radius",) if with_radius else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("decision", no_wrap=True)
    if with_flag:
        table.add_column("flagged", no_wrap=True)
    names = _names([instance for instance, _ in answers])
    for file, prediction, radius in zip(names, predictions, radii, strict=True):
        diagnostics, risk = prediction.diagnostics, prediction.risk
        cells = [
            # Text, because a file's or a class's name may hold what rich takes for markup.
            Text(file),
            Text(prediction.class_name),
            _number(prediction.confidence),
            _number(diagnostics.logit_gap if diagnostics else None),
            _number(risk.p_value if risk else None),
            # Rounded down: no more is certified.
            *([_number(None if radius is None else floor(radius * 1e4) / 1e4)] if with_radius else []),
            Text(risk.decision, style=_COLOUR[risk.decision]) if risk else Text("–"),
        ]
        if with_flag:
            cells.append(Text("–" if risk is None else "yes" if risk.flagged else "no"))
        table.add_row(*cells)
    return table


def _origin(answer: PredictResponse) -> str:
    risk = answer.predictions[0].risk
    level = "" if risk is None or risk.alpha is None else f", flag at α = {risk.alpha:g}"
    return f"{answer.model_name} version {answer.model_version}{level}"


def _names(instances: list[Instance]) -> list[str]:
    """Names without folders where paths are long, if the names still tell the files apart."""
    files = [file for instance in instances for file in instance.values()]
    long = max(len(str(file)) for file in files) > _LONG_PATH
    if long and len({file.name for file in files}) == len(set(files)):
        instances = [{name: Path(file.name) for name, file in instance.items()} for instance in instances]
    return [_name(instance) for instance in instances]


def _number(value: float | None) -> Text:
    return Text("–" if value is None else f"{value:.4f}")

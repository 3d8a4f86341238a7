"""The root of the `softrisk` command.

Each room has one subcommand, loaded only when it is called: `softrisk --help` and `softrisk serve` never import
torch, and a room whose extra is not installed answers with the line that installs it.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from softrisk_core import __version__
from softrisk_core.errors import MissingExtraError, SoftriskError


@dataclass(frozen=True)
class Command:
    """A row of the command table.

    Attributes:
        name: What the user types.
        module: Where its `app: typer.Typer` is.
        extra: The extra that brings what the module imports.
        help: One line.
    """

    name: str
    module: str
    extra: str
    help: str


COMMANDS: Final = (
    Command("train", "softrisk_training.cli", "training", "Train a classifier whose softmax betrays attacks."),
    Command(
        "train-multimodal", "softrisk_training.cli_multimodal", "training", "Train a classifier of image and recording."
    ),
    Command(
        "train-captions", "softrisk_training.cli_captions", "training", "Train a model that describes scenes in words."
    ),
    Command("export", "softrisk_export.cli_export", "export", "Turn a checkpoint or an ONNX file into a bundle."),
    Command("calibrate", "softrisk_export.cli_calibrate", "export", "Make a new version from your own clean data."),
    Command("inspect", "softrisk_core.cli_inspect", "", "Show what is in a bundle."),
    Command("evaluate", "softrisk_evaluation.cli", "evaluation", "Attack a bundle and say what its flag is worth."),
    Command("experiment", "softrisk_evaluation.cli_experiment", "evaluation", "Measure what the losses are worth."),
    Command("explain", "softrisk_evaluation.cli_explain", "evaluation", "Take the answer to an image apart."),
    Command(
        "experiment-multimodal",
        "softrisk_evaluation.cli_multimodal",
        "evaluation",
        "Measure classifiers of image and recording.",
    ),
    Command("visualize", "softrisk_evaluation.cli_visualize", "evaluation", "Show what a classifier has learnt."),
    Command("serve", "softrisk_service.cli", "service", "Serve a model repository over HTTP."),
    Command("keys", "softrisk_service.cli_keys", "service", "Make the API keys of a service."),
    Command("predict", "softrisk_client.cli", "client", "Send images to a running service."),
)

app = typer.Typer(
    name="softrisk",
    help="Serve classifiers that say, with every prediction, how strange the input is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"softrisk {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


def _loader(command: Command) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        try:
            module = importlib.import_module(command.module)
            module.app(args=context.args, prog_name=f"softrisk {command.name}")
        except ModuleNotFoundError as error:
            raise _missing(command, error) from error

    return run


def _missing(command: Command, error: ModuleNotFoundError) -> Exception:
    module = (error.name or "").partition(".")[0]
    if module.startswith("softrisk") or not module:
        return error
    if module == "onnxruntime":
        return MissingExtraError(
            f"softrisk {command.name} needs an ONNX runtime: pip install 'softrisk[cpu]', or 'softrisk[gpu]' for CUDA"
        )
    return MissingExtraError(
        f"softrisk {command.name} needs {module}, which is not installed: pip install 'softrisk[{command.extra}]'"
    )


for _command in COMMANDS:
    # The room's own parser sees everything behind its name, --help included.
    app.command(
        _command.name,
        help=_command.help,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(_loader(_command))


def main() -> None:
    """Run the command line; an error of ours becomes one line on standard error and exit status 1."""
    try:
        app()
    except SoftriskError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

"""`softrisk keys`: who may call a service, and what each of them sees."""

from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from softrisk_service.disclosure import Disclosure
from softrisk_service.errors import ConfigurationError
from softrisk_service.keys import Key, digest, new_token, read_keys, write_keys

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Make, list and remove the API keys of a service. It reads them when it starts.",
)

_File = Annotated[Path, typer.Option("--file", help="File of keys; the one that `softrisk serve --keys` gets.")]
_DEFAULT_FILE = Path("keys.json")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whose key it is: letters, digits, `.`, `_` and `-`.")],
    disclosure: Annotated[Disclosure, typer.Option(help="What its holder may see.")] = "coarse",
    file: _File = _DEFAULT_FILE,
) -> None:
    """Make a key and print it, once: the file keeps only its digest."""
    keys = read_keys(file) if file.exists() else ()
    if any(key.name == name for key in keys):
        raise ConfigurationError(f"{file} already holds a key named {name}: choose another name, or remove it first")
    token = new_token()
    try:
        key = Key(name=name, disclosure=disclosure, sha256=digest(token))
    except ValueError as error:
        raise ConfigurationError(
            "a name is up to 64 letters, digits, '.', '_' and '-', and begins with a letter or digit"
        ) from error
    write_keys(file, (*keys, key))
    typer.echo(token)
    typer.echo("This is the only time that it is shown. Restart the service to let it in.", err=True)


@app.command("list")
def list_keys(file: _File = _DEFAULT_FILE) -> None:
    """Show the names of all keys, and what their holders may see."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("name")
    table.add_column("disclosure")
    for key in read_keys(file):
        table.add_row(key.name, key.disclosure)
    Console(highlight=False).print(table)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: _File = _DEFAULT_FILE,
) -> None:
    """Take a key out of the file."""
    keys = read_keys(file)
    left = tuple(key for key in keys if key.name != name)
    if len(left) == len(keys):
        raise ConfigurationError(f"{file} holds no key named {name}")
    write_keys(file, left)
    typer.echo("Restart the service to keep it out.", err=True)

"""The documents keep their word: their examples run, their commands are understood, their links lead somewhere."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from softrisk_core.cli import COMMANDS
from softrisk_core.conformal import confident_rank, marginal_rank
from softrisk_export import cli_export
from softrisk_training import cli as cli_training

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "clients" / "python" / "README.md"]
MODULES = {command.name: command.module for command in COMMANDS}


def blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[str]:
    """Every `softrisk` command with arguments, in blocks and between backticks, without its comment."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"^(?:\$ )?(softrisk [^#\n]*)|`(softrisk [^`]+)`", text, re.MULTILINE)
    lines = [" ".join((block or inline).split()) for block, inline in found]
    return [line for line in lines if line.split()[1] in MODULES and len(line.split()) > 2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/digits/1, as the commands make it."""
    folder = tmp_path_factory.mktemp("home")
    checkpoint = folder / "digits.pt"
    for app, arguments in (
        (cli_training.app, ["digits", "--epochs", "1", "--width", "4", "--out", checkpoint]),
        (cli_export.app, [checkpoint, "--out", folder / "models"]),
    ):
        CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return folder


def test_the_examples_about_the_bundle_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    (block,) = blocks(ROOT / "docs" / "bundle.md")
    names: dict[str, object] = {}
    exec(compile(block, "bundle.md", "exec"), names)
    assert {"rank", "p_value", "flagged"} <= names.keys()


@pytest.mark.parametrize("block", blocks(ROOT / "README.md"))
def test_the_examples_of_the_readme_name_what_exists(block: str) -> None:
    compile(block, "README.md", "exec")
    imports: list[ast.stmt] = [node for node in ast.parse(block).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, type_ignores=[]), "README.md", "exec"), {})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_are_understood(path: Path) -> None:
    for line in commands(path):
        _, name, *arguments = shlex.split(line)
        app = importlib.import_module(MODULES[name]).app
        # Parses arguments and options, and runs nothing.
        typer.main.get_command(app).make_context(f"softrisk {name}", arguments)


def test_commands_are_found() -> None:
    assert {line.split()[1] for line in commands(ROOT / "README.md")} >= {"train", "export", "calibrate", "serve"}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_to_files(path: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", prose)
    missing = [
        link
        for link in links
        if not re.match(r"[a-z]+:|#", link) and not (path.parent / link.partition("#")[0]).exists()
    ]
    assert missing == []


def test_the_table_of_the_guarantee_follows_the_law(repository_root: Path) -> None:
    """Rates that 90 % of calibration sets realise, and the confident ranks with their mean rates, as printed."""
    text = (repository_root / "docs" / "guarantee.md").read_text(encoding="utf-8")
    cell = r"\| ([\d.]+) … ([\d.]+) % \| (\d+) \(([\d.]+) %\) "
    rows = re.findall(rf"^\| ([\d,]+) {cell}{cell}\|$", text, re.MULTILINE)
    assert len(rows) == 5
    for size, *cells in rows:
        n = int(size.replace(",", ""))
        for alpha, (low, high, rank, mean) in zip((0.01, 0.05), (cells[:4], cells[4:]), strict=True):
            limit = marginal_rank(alpha, n)
            law = stats.beta(limit, n + 1 - limit)
            assert int(rank) == confident_rank(alpha, n)
            printed = {low: law.ppf(0.05), high: law.ppf(0.95), mean: int(rank) / (n + 1)}
            for shown, exact in printed.items():
                assert float(shown) == pytest.approx(100 * exact, abs=0.51 * 10 ** -len(shown.partition(".")[2])), n

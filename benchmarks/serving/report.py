"""The results page, the same as JSON, and the picture."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import Any, Final

from benchmarks.serving import tables
from benchmarks.serving.overload import DEADLINE_SECONDS, FACTOR
from benchmarks.serving.plot import draw
from benchmarks.serving.statistics import DIRTY_CORES
from benchmarks.serving.summary import Summary
from benchmarks.serving.targets import judge

_PAGE: Final = Path(__file__).with_name("page.md")
_NOTHING: Final = "Nothing."
_PACKAGES: Final = {
    "softrisk": "onnxruntime",
    "fastapi": "fastapi",
    "mosec": "mosec",
    "litserve": "litserve",
    "bentoml": "bentoml",
    "mlserver": "mlserver",
    "pytriton": "nvidia-pytriton",
}
"""Named on the page, by environment; the others are in the JSON."""


def write(summary: Summary, machine: dict[str, Any], folder: Path) -> None:
    """Write `README.md`, `result.json` and the picture.

    Args:
        summary: What was measured.
        machine: On what, see `machine.describe`.
        folder: Made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(summary, folder)
    document = {**machine, "targets": [asdict(each) for each in judge(summary)], "measured": asdict(summary)}
    (folder / "result.json").write_text(json.dumps(_rounded(document), indent=1, ensure_ascii=False) + "\n")
    (folder / "README.md").write_text(render(summary, machine, pictures[0] if pictures else None))


def render(summary: Summary, machine: dict[str, Any], picture: str | None) -> str:
    """The page."""
    return Template(_PAGE.read_text()).substitute(
        command=machine["command"],
        date=machine["date"],
        picture=f"![Requests a second of each server]({picture})" if picture else "",
        machine=_machine(machine),
        dirty=f"{DIRTY_CORES:g}",
        factor=f"{FACTOR:g}",
        deadline=f"{DEADLINE_SECONDS:g}",
        targets=_one(tables.target_table(judge(summary))),
        bare=_one(tables.bare_table(summary)),
        loads=_many(tables.load_tables(summary)),
        ready=_one(tables.ready_table(summary)),
        memory=_memory(summary),
        overload=_many(tables.overload_tables(summary), titled=False),
        growth=_many(tables.growth_tables(summary)),
        concurrency=_one(tables.concurrency_table(summary)),
        unavailable=_one(tables.unavailable_table(summary)),
    )


def _machine(machine: dict[str, Any]) -> str:
    versions = machine["versions"]
    packages = [
        f"{package} {versions[project][package]}"
        for project, package in _PACKAGES.items()
        if package in versions.get(project, {})
    ]
    hardware = f"{machine['cores']} cores of {machine['processor']}", f"{machine['memory_gib']} GiB"
    return ", ".join([*hardware, machine["kernel"], f"Python {machine['python']}", *packages])


def _memory(summary: Summary) -> str:
    growth = summary.memory_growth()
    if growth is None:
        return _NOTHING
    return (
        f"{growth['requests']:,} requests for S, JSON and binary by turns on 64 connections: "
        f"{growth['ready_mib']:.0f} MiB resident when ready, {growth['last_mib']:.0f} MiB at the end;\n"
        f"over the second half {growth['mib_per_million']:+.2f} MiB a million requests."
    )


def _one(table: tables.Table) -> str:
    return table.for_page() if table.rows else _NOTHING


def _many(found: Iterable[tables.Table], titled: bool = True) -> str:
    parts = [f"### {table.title}\n\n{table.for_page()}" if titled else table.for_page() for table in found]
    return "\n\n".join(parts) or _NOTHING


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list():
            return [_rounded(each) for each in value]
        case float():
            return float(f"{value:.5g}")
        case _:
            return value

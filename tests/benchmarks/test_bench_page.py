"""The results page, its JSON and its picture."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from benchmarks.serving.points import Key, Points
from benchmarks.serving.report import render, write
from benchmarks.serving.summary import Summary

MACHINE: dict[str, Any] = {
    "date": "2026-01-31",
    "command": "scripts/bench serving --out docs",
    "processor": "Some Processor",
    "cores": 2,
    "memory_gib": 24,
    "kernel": "Linux 6",
    "python": "3.11.7",
    "versions": {"mosec": {"mosec": "0.9.8", "numpy": "2.4.6"}},
}


@pytest.fixture
def summary(tmp_path: Path) -> Summary:
    points = Points(tmp_path / "points.jsonl")
    figures = {
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "p99_ms": 3.0,
        "errors": 7,
        "cpu_us": 20.0,
        "other_cores": 0.3,
        "to_bare": 0.61,
    }
    for server, rate in (("softrisk", 61_234.0), ("mosec, orjson", 17_000.0)):
        key: Key = {"server": server, "model": "S", "format": "json", "connections": 64, "repeat": 0}
        points.add("load", key, {**figures, "requests_per_second": rate})
    points.add(
        "bare", {"model": "S", "threads": 2, "batch": 1, "repeat": 0}, {"images_per_second": 1e5, "p50_ms": 0.01}
    )
    points.add("unavailable", {"server": "pytriton", "model": "S", "format": "all formats"}, {"reason": "a | b"})
    for size in (1, 2, 4):
        grown = {**figures, "requests_per_second": 10.0, "alone_ms": 0.1, "cpu_us": 5.0 * size}
        points.add("growth", {"dimension": "classes", "size": size, "format": "json"}, grown)
    return Summary.of(points)


def test_figures_ratios_and_marks_are_on_the_page(summary: Summary) -> None:
    page = render(summary, MACHINE, "throughput.png")
    assert "| softrisk | 64 | 61,234* | 0.61 | 3.60 | 1.00 | 2.00 | 3.00 | 20 | 7 | 0.30 |" in page
    assert "mosec 0.9.8" in page
    assert "exponent: json 1.00" in page
    assert "a \\| b" in page
    assert "$" not in page


def test_every_row_of_a_table_has_the_cells_of_its_head(summary: Summary) -> None:
    page = render(summary, MACHINE, None)
    for block in re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block


def test_a_run_that_measured_nothing_has_a_page_too(tmp_path: Path) -> None:
    page = render(Summary.of(Points(tmp_path / "none.jsonl")), MACHINE, None)
    assert "Nothing." in page


def test_page_json_and_picture_are_written(summary: Summary, tmp_path: Path) -> None:
    write(summary, MACHINE, tmp_path / "page")
    assert sorted(path.name for path in (tmp_path / "page").iterdir()) == [
        "README.md",
        "result.json",
        "throughput.png",
        "throughput.svg",
    ]
    document = json.loads((tmp_path / "page" / "result.json").read_text())
    assert document["processor"] == "Some Processor"
    assert document["measured"]["loads"][0]["requests_per_second"] == 61_234
    assert {target["met"] for target in document["targets"]} <= {True, False}

"""Medians, exponents, ratios and targets: what is made of measurements."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.points import Key, Points
from benchmarks.serving.servers import SERVERS, choose
from benchmarks.serving.statistics import growth_exponent, slope, summarise
from benchmarks.serving.summary import Summary
from benchmarks.serving.targets import judge
from hypothesis import given, settings
from hypothesis import strategies as st

LOAD = {
    "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0, "errors": 0, "cpu_us": 20.0, "server_cores": 1.0, "load_cores": 0.5,
    "other_cores": 0.0, "resident_mib": 100.0, "to_bare": 0.1,
}  # fmt: skip


def add_load(
    points: Points,
    server: str,
    rate: float,
    *,
    model: str = "S",
    connections: int = 64,
    **other: Any,
) -> None:
    repeat = sum(1 for each in points.of("load") if (each["server"], each["connections"]) == (server, connections))
    key: Key = {"server": server, "model": model, "format": "json", "connections": connections, "repeat": repeat}
    points.add("load", key, {**LOAD, "requests_per_second": rate, **other})


def add_bare(points: Points, model: str, batch: int, rate: float) -> None:
    points.add(
        "bare", {"model": model, "threads": 2, "batch": batch, "repeat": 0}, {"images_per_second": rate, "p50_ms": 1.0}
    )


@pytest.fixture
def points(tmp_path: Path) -> Points:
    return Points(tmp_path / "points.jsonl")


def met(points: Points, what: str) -> list[bool]:
    return [target.met for target in judge(Summary.of(points)) if what in target.what]


def test_a_disturbed_repeat_does_not_count_while_a_clean_one_is_left(points: Points) -> None:
    for rate, others in ((100.0, 0.9), (200.0, 0.0), (220.0, 0.05)):
        add_load(points, "mosec", rate, other_cores=others)
    (row,) = Summary.of(points).loads
    assert (row["requests_per_second"], row["repeats"], row["dirty"]) == (210.0, 2, False)


def test_only_disturbed_repeats_make_a_dirty_row(points: Points) -> None:
    add_load(points, "mosec", 100.0, other_cores=0.9)
    (row,) = Summary.of(points).loads
    assert row["dirty"]


def test_errors_of_all_repeats_are_added_up() -> None:
    rows = summarise([{"server": "a", "errors": count, "requests_per_second": 1.0} for count in (1, 0, 3)], ("server",))
    assert rows[0]["errors"] == 4


@settings(deadline=None)
@given(st.floats(-1, 3), st.floats(1e-3, 1e3), st.integers(3, 12))
def test_the_exponent_of_a_power_law_is_found(exponent: float, factor: float, count: int) -> None:
    sizes = np.geomspace(1, 1e4, count)
    assert growth_exponent(sizes.tolist(), (factor * sizes**exponent).tolist()) == pytest.approx(exponent, abs=1e-6)


def test_constant_cost_of_small_sizes_does_not_hide_quadratic_growth() -> None:
    sizes = [1.0, 10.0, 100.0, 1_000.0, 10_000.0]
    assert growth_exponent(sizes, [1e4 + size**2 for size in sizes]) > 1.5


def test_slope_of_a_line() -> None:
    assert slope([0, 1, 2], [5, 3, 1]) == pytest.approx(-2)


def test_points_survive_the_process_and_tell_what_is_missing(tmp_path: Path) -> None:
    key: Key = {"server": "mosec", "repeat": 0}
    Points(tmp_path / "run.jsonl").add("load", key, {"errors": 0})
    again = Points(tmp_path / "run.jsonl")
    assert again.has("load", key)
    assert not again.has("load", {"server": "mosec", "repeat": 1})
    assert not again.has("bare", key)
    assert again.of("load") == [{**key, "errors": 0}]


def test_one_connection_is_compared_with_batch_one_and_many_with_the_best_batch(points: Points) -> None:
    add_bare(points, "R", 1, 200.0)
    add_bare(points, "R", 32, 400.0)
    summary = Summary.of(points)
    assert summary.bare_for("R", 1)["images_per_second"] == 200.0
    assert summary.bare_for("R", 32)["batch"] == summary.bare_for("R", 64)["batch"] == 32
    with pytest.raises(ValueError, match="not been measured with S"):
        summary.bare_for("S", 1)


def test_the_ratio_to_bare_is_the_median_of_those_of_the_rotations(points: Points) -> None:
    # The machine was slow in the second rotation: both were.
    for rate, ratio in ((400.0, 0.96), (200.0, 0.97), (410.0, 0.94)):
        add_load(points, "softrisk", rate, model="R", connections=32, to_bare=ratio)
    (row,) = Summary.of(points).loads
    assert row["to_bare"] == 0.96
    assert met(points, "R, JSON") == [True]


@pytest.mark.parametrize(("rate", "expected"), [(199.0, [False, True, True]), (200.0, [True, True, True])])
def test_the_best_peer_is_the_fastest_whichever_it_is(points: Points, rate: float, expected: list[bool]) -> None:
    add_load(points, "softrisk", 150.0)
    add_load(points, "softrisk, 2 workers", rate, cpu_us=10.0)
    add_load(points, "LitServe", 1.0)
    add_load(points, "mosec", 100.0)
    assert met(points, "S, JSON, 64") == expected


def test_wrong_answers_and_failed_switches_miss_the_target(points: Points) -> None:
    counts = {"right": 10, "wrong": 0, "refused": 0, "lost": 0, "switches": 3, "failed_switches": 1}
    points.add("concurrency", {"server": "softrisk"}, counts)
    assert met(points, "right answers") == [False]


def test_growing_memory_misses_the_target(points: Points) -> None:
    samples = [{"requests": 10_000 * step, "resident_mib": 100.0 + step} for step in range(10)]
    points.add("memory", {}, {"ready_mib": 100.0, "samples": samples, "errors": 0})
    assert met(points, "growth of resident memory") == [False]
    growth = Summary.of(points).memory_growth()
    assert growth is not None
    assert growth["mib_per_million"] == pytest.approx(100.0)


def test_nothing_measured_means_nothing_claimed(points: Points) -> None:
    assert judge(Summary.of(points)) == []


def test_every_server_has_a_name_of_its_own() -> None:
    assert len({server.name for server in SERVERS}) == len(SERVERS)


def test_servers_are_chosen_by_wildcard() -> None:
    assert {server.project for server in choose(["mosec*", "LitServe"])} == {"mosec", "litserve"}
    with pytest.raises(BenchmarkError, match="no server is called nothing"):
        choose(["nothing"])

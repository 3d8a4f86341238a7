"""The metrics of several processes are those that one would show."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from softrisk_service import exposition
from softrisk_service.exposition import OPENMETRICS, merge, render, render_snapshot, snapshot, totals

Pixels = Callable[[int, int], NDArray[np.float32]]

PREDICT = "/v1/models/tiny:predict"


class Process:
    """A registry with one metric of each kind."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seen = Counter("softrisk_seen_total", 'Things "seen".', ["kind"], registry=self.registry)
        self.size = Histogram("softrisk_size", "Their sizes.", ["kind"], registry=self.registry, buckets=(1, 4))
        self.queue = Gauge("softrisk_queue_depth", "Waiting.", registry=self.registry)
        self.ready = Gauge("softrisk_ready", "Ready.", registry=self.registry)

    def see(self, kind: str, size: int) -> None:
        self.seen.labels(kind).inc()
        self.size.labels(kind).observe(size)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def value(taken: list[Any], sample: str) -> float:
    return next(float(line[2]) for family in taken for line in family[4] if line[0] == sample)


def lines(text: bytes) -> set[str]:
    """Without birthdays, which differ, and in no order."""
    return {line for line in text.decode().splitlines() if "_created" not in line}


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 2)), max_size=40))
def test_it_does_not_matter_who_counted(events: list[tuple[str, int, int]]) -> None:
    one, several = Process(), [Process() for _ in range(3)]
    for kind, size, place in events:
        one.see(kind, size)
        several[place].see(kind, size)
    for process in (one, *several):
        process.ready.set(1)
    merged = merge([snapshot(process.registry) for process in several])
    for accept in ("text/plain", f"{OPENMETRICS}; version=1.0.0"):
        expected, content_type = render(one.registry, accept)
        text, merged_type = render_snapshot(merged, accept)
        assert merged_type == content_type
        assert lines(text) == lines(expected)


def test_gauges_have_rules_and_without_one_nothing_is_shown() -> None:
    first, second = Process(), Process()
    first.queue.set(3)
    second.queue.set(4)
    first.ready.set(1)
    merged = merge([snapshot(process.registry) for process in (first, second)])
    assert value(merged, "softrisk_queue_depth") == 7
    assert value(merged, "softrisk_ready") == 0
    Gauge("softrisk_new", "New.", registry=first.registry)
    with pytest.raises(KeyError, match="softrisk_new"):
        merge([snapshot(first.registry)])


async def test_every_gauge_of_the_service_has_a_rule_and_no_rule_is_left_over(service: Any, images: Pixels) -> None:
    await service.post(PREDICT, {"instances": images(1, 1).tolist()})
    taken = snapshot(service.registry)
    assert {family[0] for family in taken if family[2] == "gauge"} == set(exposition._GAUGES)
    assert {family[2] for family in taken} == {"counter", "gauge", "histogram"}


async def test_a_snapshot_shows_what_its_registry_shows(service: Any, images: Pixels) -> None:
    await service.post(PREDICT, {"instances": images(9, 1).tolist()})
    taken = snapshot(service.registry)
    text = (await service.client.get("/metrics")).text
    shown = {line for line in lines(text.encode()) if not line.startswith("process_")}
    assert {line for line in lines(render_snapshot(merge([taken]), "")[0]) if not line.startswith("process_")} == shown


def test_of_one_that_has_ended_the_totals_stay() -> None:
    process = Process()
    process.see("a", 2)
    process.ready.set(1)
    names = {family[0] for family in totals(snapshot(process.registry))}
    assert names == {"softrisk_seen", "softrisk_size"}
    assert merge([]) == []
    assert generate_latest(CollectorRegistry()) == render_snapshot(merge([]), "")[0]

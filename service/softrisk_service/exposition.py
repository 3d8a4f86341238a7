"""The metrics of several processes as those of one service.

Each process keeps its own registry. What it holds travels as a `Snapshot`; snapshots are merged by one rule for
each kind of metric, counters and histograms summed, gauges as `_GAUGES` says, and rendered as any registry is.
"""

import operator
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

Snapshot = list[list[Any]]
"""Families as JSON takes them: [name, help text, type, unit, samples], a sample being [name, labels, value]."""

Scrape = Callable[[str], Awaitable[tuple[bytes, str]]]
"""What answers `/metrics`: from the media types that the caller takes to the text and its media type."""

OPENMETRICS: Final = "application/openmetrics-text"

_TOTALS: Final = frozenset({"counter", "histogram"})

_GAUGES: Final[dict[str, Callable[[float, float], float]]] = {
    "softrisk_queue_depth": operator.add,
    "softrisk_ready": min,  # the next request may reach any of them
    "softrisk_model_ready": min,
    "softrisk_default_version": max,
    "softrisk_model_info": max,
    "softrisk_calibration_info": max,
    "softrisk_calibration_size": max,
    "softrisk_alpha": max,
    "softrisk_build_info": max,
    "process_virtual_memory_bytes": operator.add,
    "process_resident_memory_bytes": operator.add,
    "process_open_fds": operator.add,
    "process_max_fds": min,
    "process_start_time_seconds": min,
}
"""How two workers' values of a gauge become one. Every gauge of `softrisk_service.metrics` stands here."""


def snapshot(registry: CollectorRegistry) -> Snapshot:
    """What a registry holds now."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [[sample.name, sample.labels, sample.value] for sample in family.samples],
        ]
        for family in registry.collect()
    ]


def totals(taken: Snapshot) -> Snapshot:
    """What is left of a process that has ended: its counters and histograms."""
    return [family for family in taken if family[2] in _TOTALS]


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The metrics of several processes as if one had counted everything.

    Raises:
        KeyError: If a gauge has no rule.
    """
    families: dict[str, tuple[list[Any], dict[Any, list[Any]]]] = {}
    for taken in snapshots:
        for name, text, kind, unit, samples in taken:
            join = operator.add if kind in _TOTALS else _GAUGES[name]
            _, merged = families.setdefault(name, ([name, text, kind, unit], {}))
            for sample, labels, value in samples:
                key = (sample, *labels.items())
                if (present := merged.get(key)) is None:
                    merged[key] = [sample, labels, value]
                else:
                    present[2] = join(float(present[2]), float(value))
    return [[*head, list(merged.values())] for head, merged in families.values()]


class _Frozen(Collector):
    def __init__(self, taken: Snapshot) -> None:
        self._taken = taken

    def collect(self) -> Iterator[Metric]:
        for name, text, kind, unit, samples in self._taken:
            family = Metric(name, text, kind, unit)
            family.samples = [Sample(*sample) for sample in samples]
            yield family


def render(registry: Collector, accept: str) -> tuple[bytes, str]:
    """As `Scrape`, of one registry."""
    # Reduced to one of two forms first: the library's negotiation fails on versions that are no numbers.
    encode, content_type = choose_encoder(OPENMETRICS if OPENMETRICS in accept else "")
    return encode(registry), content_type


def render_snapshot(taken: Snapshot, accept: str) -> tuple[bytes, str]:
    """As `Scrape`, of a snapshot."""
    return render(_Frozen(taken), accept)

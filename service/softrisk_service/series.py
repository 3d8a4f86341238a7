"""Prometheus counters and histograms cheap enough to be always on: no locks, and whole arrays in one numpy pass.

Written by the event loop alone, so the locks of prometheus_client's own would guard nothing.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Counts(Collector):
    """Counter.

    Args:
        name: Metric name.
        documentation: Its help text.
        labels: Names of its labels.
        registry: Where to register.

    Attributes:
        values: By label values. Add to them.
    """

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = list(labels)
        self.values: defaultdict[tuple[str, ...], int] = defaultdict(int)
        registry.register(self)

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Name and type, without samples."""
        yield CounterMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """All values, for the exposition."""
        family = next(self.describe())
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        yield family


class Histogram(Collector):
    """Classic cumulative histogram.

    Args:
        name: Metric name.
        documentation: Its help text.
        bounds: Upper bounds, ascending, without +Inf.
        labels: Names of its labels.
        registry: Where to register.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        bounds: Sequence[float],
        labels: Sequence[str],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = [float(bound) for bound in bounds]
        self._labels = list(labels)
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> "Series":
        """The series with these label values."""
        return self._series.setdefault(values, Series(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Name and type, without samples."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series, for the exposition."""
        family = next(self.describe())
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, series in self._series.items():
            family.add_metric(values, list(zip(bounds, accumulate(series.counts), strict=True)), series.sum)
        yield family


class Series:
    """One series of a `Histogram`.

    Attributes:
        counts: Values in each bucket, not cumulated, the last one above every bound.
        sum: Sum of all values.
    """

    __slots__ = ("_array", "_bounds", "counts", "sum")

    def __init__(self, bounds: list[float]) -> None:
        self._bounds = bounds
        self._array = np.asarray(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a finite value; one equal to a bound is below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Count finite values, shape (B,)."""
        if len(values) < _FEW:
            for value in values.tolist():
                self.observe(value)
            return
        places = np.searchsorted(self._array, values, side="left")
        for place, count in enumerate(np.bincount(places, minlength=len(self.counts)).tolist()):
            self.counts[place] += count
        self.sum += float(values.sum())


_FEW = 24
"""Below this many values, numpy's calls cost more than a loop."""

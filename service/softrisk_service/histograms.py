"""A Prometheus histogram that takes whole arrays: one numpy pass a batch instead of one Python call a value."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class ArrayHistogram(Collector):
    """Classic cumulative histogram with labels `model` and `version`.

    Args:
        name: Metric name.
        documentation: Its help text.
        bounds: Upper bounds, ascending, without +Inf.
        registry: Where to register.
    """

    def __init__(self, name: str, documentation: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._series: dict[tuple[str, str], ArraySeries] = {}
        registry.register(self)

    def labels(self, model: str, version: str) -> "ArraySeries":
        """The series of a model version."""
        return self._series.setdefault((model, version), ArraySeries(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Name and type, without samples."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=["model", "version"])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series, for the exposition."""
        family = next(self.describe())
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for labels, series in self._series.items():
            buckets = list(zip(bounds, np.cumsum(series.counts).tolist(), strict=True))
            family.add_metric(labels, buckets, series.sum)
        yield family


class ArraySeries:
    """One series of an `ArrayHistogram`.

    Attributes:
        counts: Values in each bucket, not cumulated, the last one above every bound.
        sum: Sum of all values.
    """

    def __init__(self, bounds: NDArray[np.float64]) -> None:
        self._bounds = bounds
        self.counts = np.zeros(bounds.size + 1, np.int64)
        self.sum = 0.0

    def observe(self, values: NDArray[np.float64]) -> None:
        """Count finite values, shape (B,); a value equal to a bound is below it."""
        places = np.searchsorted(self._bounds, values, side="left")
        self.counts += np.bincount(places, minlength=self.counts.size)
        self.sum += float(values.sum())

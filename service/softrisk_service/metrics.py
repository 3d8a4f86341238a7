"""Every metric of the service, each defined once; `docs/metrics.md` explains them to operators.

Label values come from loaded bundles and from fixed lists only, never from requests, so that no client can make
series. Children are bound once for each model version: looking labels up costs more than counting.
"""

import platform
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, ProcessCollector
from prometheus_client.registry import Collector

from softrisk_core import __version__
from softrisk_core.manifest import Manifest
from softrisk_service.outcome import Outputs
from softrisk_service.policy import Policy
from softrisk_service.series import Counts, Histogram

STAGES: Final = ("decode", "queue", "run", "encode")

_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
)  # fmt: skip
_BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# The usual α are bounds, so that the share of p ≤ α can be read off exactly.
_P_VALUES: Final = (
    0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9,
    0.95, 0.99, 1,
)  # fmt: skip
_TOP2_GAPS: Final = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 0.9999, 1)
_LOGITS: Final = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 50, 100)

_RADII: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)

_MODEL: Final = ("model", "version")

_ENOUGH_ROWS: Final = 512
"""So many predictions are counted together, or fewer when the metrics are read."""


class Queue(Protocol):
    """Where instances wait."""

    @property
    def depth(self) -> int:
        """How many."""


class Metrics:
    """The metrics of one server process.

    Args:
        registry: Where they are registered; private to the process or to a test.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"softrisk_{name}", text, labels, registry=registry)

        def counts(name: str, text: str, *labels: str) -> Counts:
            return Counts(f"softrisk_{name}", text, labels, registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"softrisk_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"softrisk_{name}", text, buckets, labels, registry)

        # First, so that what it counts at the last moment is in the others.
        registry.register(_Pending(self.count_pending))
        ProcessCollector(registry=registry)
        self.requests = counts(
            "inference_requests_total", "Inference requests by outcome.", *_MODEL, "protocol", "code"
        )
        self.internal_errors = counter("internal_errors_total", "Faults of the service itself, on any route.")
        self.duration = histogram(
            "request_duration_seconds", "Time in each stage of inference.", _SECONDS, *_MODEL, "stage"
        )
        self.batch_size = histogram("batch_size", "Instances in one run of a model.", _BATCH_SIZES, *_MODEL)
        self.queue_depth = gauge("queue_depth", "Instances waiting for a run.", *_MODEL)
        self.predictions = counts("predictions_total", "Instances answered by the model.", *_MODEL)
        self.flagged = counts("flagged_total", "Instances not accepted, by the decision.", *_MODEL, "decision")
        self.top2_gap = histogram("top2_gap", "Difference of the two largest probabilities.", _TOP2_GAPS, *_MODEL)
        self.logit_gap = histogram("logit_gap", "Difference of the two largest logits.", _LOGITS, *_MODEL)
        self.dispersion = histogram("dispersion", "Standard deviation of the other classes' logits.", _LOGITS, *_MODEL)
        self.p_value = histogram("p_value", "Conformal p-value; uniform on clean traffic.", _P_VALUES, *_MODEL)
        self.inputs = counts(
            "inputs_total", "Answered instances by presence of an input.", *_MODEL, "input", "presence"
        )
        self.certified_radius = histogram(
            "certified_radius", "Distance within which the label is proved to stay.", _RADII, *_MODEL
        )
        self.model_info = gauge(
            "model_info", "A model version being served.", *_MODEL, "architecture", "loss", "provider"
        )
        self.calibration_info = gauge(
            "calibration_info", "What its p-values compare with.", *_MODEL, "id", "n", "alpha", "nonconformity"
        )
        self.calibration_size = gauge("calibration_size", "Number of its calibration scores.", *_MODEL)
        self.alpha = gauge("alpha", "False-alarm rate of a decision level.", *_MODEL, "level")
        self.model_ready = gauge("model_ready", "1 if the model version answers requests, else 0.", *_MODEL)
        self.default_version = gauge("default_version", "Version that answers requests that name none.", "model")
        self.model_loads = counter("model_loads_total", "Attempts to load a model version.", *_MODEL, "outcome")
        self.ready = gauge("ready", "1 if the service wants traffic, else 0.")
        gauge("build_info", "Versions of what is running.", "version", "python", "onnxruntime").labels(
            __version__, platform.python_version(), onnxruntime.__version__
        ).set(1)
        self._pending: dict[ModelMetrics, None] = {}

    def count_request(self, model: str, version: str, protocol: str, code: int) -> None:
        """Count an inference request; model and version are empty if it named none that exists."""
        self.requests.values[model, version, protocol, str(code)] += 1

    def pend(self, metrics: "ModelMetrics") -> None:
        """Remember who has something to count before the metrics are read."""
        self._pending[metrics] = None

    def count_pending(self) -> None:
        """Let them count it."""
        for metrics in self._pending:
            metrics.count_pending()
        self._pending.clear()


class _Pending(Collector):
    """Has what is pending counted whenever a registry is read."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        self._count()
        return ()


class ModelMetrics:
    """The series of one model version.

    Args:
        metrics: Where they belong.
        manifest: Of the version.
        policy: Its decision levels.
        provider: What runs it.
    """

    def __init__(self, metrics: Metrics, manifest: Manifest, policy: Policy, provider: str) -> None:
        labels = (manifest.name, str(manifest.version))
        self._metrics = metrics
        self._pending: list[Outputs] = []
        self._pending_rows = 0
        self._sizes = np.array(policy.sizes)
        self._review_ranks, self._reject_ranks = np.array(policy.review_ranks), np.array(policy.reject_ranks)
        self.stages = {stage: metrics.duration.labels(*labels, stage) for stage in STAGES}
        self._batch_size = metrics.batch_size.labels(*labels)
        self._labels = labels
        metrics.predictions.values[labels] += 0  # shown from the first scrape on
        for decision in ("review", "reject"):
            metrics.flagged.values[*labels, decision] += 0
        for name in (spec.name for spec in manifest.inputs if spec.optional):
            for presence in ("present", "missing"):
                metrics.inputs.values[*labels, name, presence] += 0
        measured = ["top2_gap", "logit_gap", "dispersion"]
        if manifest.radius is not None and "certified" in manifest.radius.kinds:
            measured.append("certified_radius")
        self._measured = {name: getattr(metrics, name).labels(*labels) for name in measured}
        self._p_value = metrics.p_value.labels(*labels)

        self._gauges: list[tuple[Gauge, tuple[str, ...]]] = []

        def gauge(metric: Gauge, *more: str) -> Gauge:
            self._gauges.append((metric, (*labels, *more)))
            return metric.labels(*labels, *more)

        model, calibration = manifest.model, manifest.calibration
        self._queue_depth = gauge(metrics.queue_depth)
        gauge(metrics.model_ready).set(1)
        gauge(metrics.model_info, model.architecture or "", model.loss or "", provider).set(1)
        gauge(
            metrics.calibration_info,
            calibration.id,
            str(calibration.n),
            f"{calibration.alpha:g}",
            str(manifest.nonconformity),
        ).set(1)
        gauge(metrics.calibration_size).set(calibration.n)
        gauge(metrics.alpha, "review").set(policy.alpha_review)
        gauge(metrics.alpha, "reject").set(policy.alpha_reject)

    def retire(self) -> None:
        """Take down what tells of a version being served; what was counted stays."""
        for metric, values in self._gauges:
            metric.remove(*values)

    def watch_queue(self, queue: Queue) -> None:
        """Ask a queue for its depth whenever the metrics are read; it is not kept alive for that."""
        reference = weakref.ref(queue)

        def depth() -> float:
            watched = reference()
            return 0.0 if watched is None else watched.depth

        self._queue_depth.set_function(depth)

    def count_waits(self, seconds: list[float]) -> None:
        """Count how long the requests of a batch waited for it."""
        observe = self.stages["queue"].observe
        for wait in seconds:
            observe(wait)

    def count_batch(
        self,
        outputs: Outputs,
        finite: NDArray[np.bool_] | None,
        seconds: float,
        present: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        """Count one run of the model.

        Args:
            outputs: Of the whole batch.
            finite: Rows that are answered; None for all.
            seconds: What the run took.
            present: For each input that may be left out the rows that have it.
        """
        rows = len(outputs["rank"])
        self._batch_size.observe(rows)
        self.stages["run"].observe(seconds)
        names = ("rank", "label", *self._measured)
        self._pending.append({name: outputs[name] if finite is None else outputs[name][finite] for name in names})
        self._pending_rows += rows
        if self._pending_rows >= _ENOUGH_ROWS:
            self.count_pending()
        elif len(self._pending) == 1:
            self._metrics.pend(self)
        for name, whose in present.items():
            answered = whose if finite is None else whose[finite]
            there = int(np.count_nonzero(answered))
            self._metrics.inputs.values[*self._labels, name, "present"] += there
            self._metrics.inputs.values[*self._labels, name, "missing"] += len(answered) - there

    def count_pending(self) -> None:
        """Count the predictions of the last batches: numpy's calls cost the same for one as for many."""
        if not self._pending:
            return
        batches, self._pending, self._pending_rows = self._pending, [], 0
        ranks = np.concatenate([batch["rank"] for batch in batches])
        labels = np.concatenate([batch["label"] for batch in batches])
        rejected = int(np.count_nonzero(ranks <= self._reject_ranks[labels]))
        flagged = int(np.count_nonzero(ranks <= self._review_ranks[labels]))
        self._metrics.predictions.values[self._labels] += ranks.size
        self._metrics.flagged.values[*self._labels, "reject"] += rejected
        self._metrics.flagged.values[*self._labels, "review"] += flagged - rejected
        for name, series in self._measured.items():
            series.observe_all(np.concatenate([batch[name] for batch in batches]).astype(np.float64))
        self._p_value.observe_all(ranks / (self._sizes[labels] + 1))

"""onnxruntime alone: the most that any server could reach, and what the diagnosis adds to the graph."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from benchmarks.serving.points import Key
from benchmarks.serving.processes import Others
from benchmarks.serving.servers import CORES
from benchmarks.serving.subjects import Subject

BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
THREADS: Final = tuple(sorted({1, CORES}))
COST_BATCHES: Final = (1, 32)

_LEAST_RUNS: Final = 9


def settings() -> Iterator[Key]:
    """Threads and batch sizes that are tried, with onnxruntime's default of spinning."""
    for threads in THREADS:
        for batch in BATCHES:
            yield {"threads": threads, "batch": batch}


def speed(path: Path, images: "np.ndarray[Any, Any]", threads: int, seconds: float) -> dict[str, float]:
    """Images a second and the median time of a run in milliseconds, of a graph on one batch again and again."""
    session = _session(path, threads)
    feed = {"input": images}
    session.run(None, feed)
    others = Others()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_RUNS or time.perf_counter() < end:
        times.append(_time(session, feed))
    return {
        "images_per_second": len(images) * len(times) / sum(times),
        "p50_ms": 1e3 * float(np.median(times)),
        "other_cores": others.cores(),
    }


def diagnosis_cost(subject: Subject, batch: int, seconds: float) -> dict[str, float]:
    """Time of the plain network and what diagnostics and p-value add, in milliseconds a run.

    The graphs take turns on one thread, so that a machine that becomes slower does so for both; the difference is the
    median of that of neighbours.
    """
    plain, bundle = (_session(path, 1) for path in (subject.onnx_file, subject.bundle_file))
    feed = {"input": subject.images(batch)}
    for session in (plain, bundle):
        session.run(None, feed)
    others = Others()
    pairs: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(pairs) < _LEAST_RUNS or time.perf_counter() < end:
        pairs.append((_time(plain, feed), _time(bundle, feed)))
    times = np.array(pairs)
    return {
        "plain_ms": 1e3 * float(np.median(times[:, 0])),
        "added_ms": 1e3 * float(np.median(times[:, 1] - times[:, 0])),
        "other_cores": others.cores(),
    }


def _time(session: Any, feed: dict[str, Any]) -> float:
    start = time.perf_counter()
    session.run(None, feed)
    return time.perf_counter() - start


def _session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

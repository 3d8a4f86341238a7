"""What the diagnosis inside `model.onnx` costs: time of the finished graph against its logits alone.

    python benchmarks/diagnostics_cost.py [--threads 1] [--seconds 1]

Untrained networks, random images, onnxruntime on the CPU. Each figure is the median of many runs of one batch;
the graphs take turns, so that a machine that becomes slower does so for all of them.
"""

import argparse
import time

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from softrisk_core.manifest import Nonconformity
from softrisk_export.checkpoint_source import export_logits
from softrisk_export.graph import with_diagnostics, with_risk
from softrisk_training.models import ARCHITECTURES, build_classifier

CLASSES = 10
SIZES = (1_000, 10_000, 100_000)
MODELS = (("small-cnn", (1, 28, 28)), ("resnet", (3, 32, 32)))
BATCHES = (1, 32)


def session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """A session as the service has one, with a fixed number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def medians(
    sessions: list[onnxruntime.InferenceSession], images: NDArray[np.float32], seconds: float
) -> NDArray[np.float64]:
    """Median time of each session on one batch, in microseconds."""
    times: list[list[float]] = [[] for _ in sessions]
    for each in sessions:
        for _ in range(20):
            each.run(None, {"image": images})
    end = time.perf_counter() + seconds * len(sessions)
    while time.perf_counter() < end or len(times[0]) < 20:
        for each, found in zip(sessions, times, strict=True):
            start = time.perf_counter()
            each.run(None, {"image": images})
            found.append(time.perf_counter() - start)
    found_medians: NDArray[np.float64] = np.median(np.array(times), axis=1) * 1e6
    return found_medians


def main() -> None:
    """Measure and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--threads", type=int, default=1, help="threads of onnxruntime")
    arguments.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    options = arguments.parse_args()

    table = Table(title=f"median time of a batch in µs, {options.threads} thread(s); in brackets: × logits only")
    for heading in ("model", "batch", "logits only", "+ diagnostics", *(f"+ rank, n = {n:,}" for n in SIZES)):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    generator = np.random.default_rng(0)
    score = Nonconformity(diagnostic="logit_gap", strange="low")
    for name, shape in MODELS:
        channels = shape[0]
        network = build_classifier(
            name,
            input_shape=shape,
            classes=CLASSES,
            width=ARCHITECTURES[name].width,
            mean=[0.5] * channels,
            std=[0.25] * channels,
        )
        logits = export_logits(network, shape)
        diagnosed = with_diagnostics(logits, CLASSES)
        ranked = [with_risk(diagnosed, score, np.sort(-generator.random(n, dtype=np.float32)), n // 100) for n in SIZES]
        sessions = [session(model, options.threads) for model in (logits, diagnosed, *ranked)]
        for batch in BATCHES:
            found = medians(sessions, generator.random((batch, *shape), dtype=np.float32), options.seconds)
            cells = [f"{value:,.0f} ({value / found[0]:.2f})" for value in found[1:]]
            table.add_row(name, str(batch), f"{found[0]:,.0f}", *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

"""What the diagnosis inside `model.onnx` costs: time of the finished graph beyond that of its logits alone.

    python -m benchmarks.diagnostics_cost [--threads 1] [--seconds 1]

Random weights and inputs, onnxruntime on the CPU, all outputs fetched. The graphs take turns, so that a machine that
becomes slower does so for all of them; a cost is the median of the differences within a turn. The network `none` has
its logits as input: the price of the diagnosis by itself, and how it grows with the number of classes. Behind a network
that takes milliseconds, that price drowns in the noise of the machine, so it is given instead, marked with ≈.
"""

import argparse
import time
from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx
import onnxruntime
from benchmarks.models import MODELS, build
from numpy.typing import NDArray
from onnx import helper
from rich.console import Console
from rich.progress import track
from rich.table import Table

from softrisk_core.groups import Grouping
from softrisk_core.scores.catalogue import find_score
from softrisk_export.checkpoint_source import export_logits
from softrisk_export.graph import float_input, with_diagnostics, with_risk, with_score
from softrisk_training.models import ARCHITECTURES, build_classifier

CLASSES: Final = 10
SIZES: Final = (1_000, 10_000, 100_000)
TRAINED: Final = (("small-cnn", (1, 28, 28)), ("resnet", (3, 32, 32)))
BATCHES: Final = (1, 16, 32, 64)
CLASS_COUNTS: Final = (10, 100, 1_000, 10_000, 20_000)
LEAST_TURNS: Final = 10
NOISY: Final = 3_000
"""Microseconds from which a network's own time varies by more than the diagnosis costs."""


def session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    """A session as the service has one, with a fixed number of threads that do not wait busily."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def turns(
    sessions: list[onnxruntime.InferenceSession], batch: NDArray[np.float32], seconds: float
) -> NDArray[np.float64]:
    """Times on one batch in microseconds, shape (turns, sessions)."""
    feed = {sessions[0].get_inputs()[0].name: batch}
    for each in sessions:
        for _ in range(3):
            each.run(None, feed)
    times: list[list[float]] = []
    end = time.perf_counter() + seconds * len(sessions)
    while time.perf_counter() < end or len(times) < LEAST_TURNS:
        times.append([])
        for each in sessions:
            start = time.perf_counter()
            each.run(None, feed)
            times[-1].append((time.perf_counter() - start) * 1e6)
    return np.array(times)


def finished(head: onnx.ModelProto, classes: int, n: int) -> onnx.ModelProto:
    """A graph with a calibration of n random scores."""
    scores = np.sort(-np.random.default_rng(0).exponential(2, n).astype(np.float32))
    score = find_score("logit_gap:low").load({}, ())
    return with_risk(with_score(with_diagnostics(head, classes), score), scores, Grouping.marginal(n, classes), 0.01)


def logits_as_input(classes: int) -> onnx.ModelProto:
    """No network at all."""
    output = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", classes])
    nodes = [helper.make_node("Identity", ["input"], ["logits"])]
    graph = helper.make_graph(nodes, "none", [float_input("input", [classes])], [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def networks() -> Iterator[tuple[str, tuple[int, ...], onnx.ModelProto]]:
    """Name, shape of an input, and logits-only graph of each network."""
    yield "none", (CLASSES,), logits_as_input(CLASSES)
    for name, (shape, _) in MODELS.items():
        yield name, shape, build(name)
    for name, shape in TRAINED:
        channels = shape[0]
        network = build_classifier(
            name,
            input_shape=shape,
            classes=CLASSES,
            width=ARCHITECTURES[name].width,
            mean=[0.5] * channels,
            std=[0.25] * channels,
        )
        yield name, shape, export_logits(network, {"image": shape})


def cost_by_network(threads: int, seconds: float) -> Table:
    """Cost of a batch, of a row and as a share, for each network, batch size and size of calibration."""
    table = Table(title=f"cost of the diagnosis in µs a batch (µs a row, % of the network), {threads} thread(s)")
    for heading in (
        "network",
        "batch",
        "logits only",
        "diagnostics alone",
        *(f"p-value too, n = {n:,}" for n in SIZES),
    ):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    generator = np.random.default_rng(0)
    alone: dict[int, NDArray[np.float64]] = {}
    for name, shape, logits in track(list(networks()), "networks", transient=True):
        graphs = [logits, with_diagnostics(logits, CLASSES), *(finished(logits, CLASSES, n) for n in SIZES)]
        sessions = [session(graph, threads) for graph in graphs]
        for batch in BATCHES:
            times = turns(sessions, generator.random((batch, *shape), dtype=np.float32), seconds)
            base = float(np.median(times[:, 0]))
            costs, sign = np.median(times[:, 1:] - times[:, :1], axis=0), ""
            if name == "none":
                alone[batch] = costs
            elif base > NOISY:
                costs, sign = alone[batch], "≈ "
            share = "" if name == "none" else ", {:.2%}"
            cells = [f"{sign}{cost:,.1f} ({cost / batch:.2f}{share.format(cost / base)})" for cost in costs]
            table.add_row(name, str(batch), f"{base:,.1f}", *cells)
    return table


def cost_by_classes(threads: int, seconds: float) -> Table:
    """Cost of a row for more and more classes."""
    table = Table(title=f"cost of the diagnosis by number of classes, n = {SIZES[1]:,}, {threads} thread(s)")
    for heading in ("classes", "batch", "µs a batch", "µs a row", "ns a row and class"):
        table.add_column(heading, justify="right")
    generator = np.random.default_rng(0)
    for classes in track(CLASS_COUNTS, "classes", transient=True):
        head = logits_as_input(classes)
        sessions = [session(head, threads), session(finished(head, classes, SIZES[1]), threads)]
        for batch in (1, 32):
            times = turns(sessions, generator.normal(0, 4, (batch, classes)).astype(np.float32), seconds)
            cost = float(np.median(times[:, 1] - times[:, 0]))
            table.add_row(
                f"{classes:,}",
                str(batch),
                f"{cost:,.1f}",
                f"{cost / batch:,.2f}",
                f"{cost / batch / classes * 1e3:,.2f}",
            )
    return table


def main() -> None:
    """Measure and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--threads", type=int, default=1, help="threads of onnxruntime")
    arguments.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    options = arguments.parse_args()
    console = Console(width=170)
    console.print(cost_by_network(options.threads, options.seconds))
    console.print(cost_by_classes(options.threads, options.seconds))


if __name__ == "__main__":
    main()

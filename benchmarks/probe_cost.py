"""What the scores inside `model.onnx` cost, probes above all: its time over that of the classifier alone.

    python -m benchmarks.probe_cost models/mnist/1 models/mnist/2 --data data/mnist --out docs/results/probe-cost

On clean rows that neither trained, selected nor fitted anything, so that inputs are probed as often as in clean
traffic; onnxruntime on the CPU, all outputs fetched. The graphs of a version take turns on each batch, so that a
machine that becomes slower does so for all of them. A batch counts with the median over its repeats, and a graph with
the mean over the batches: where a few batches are probed and most are not, a median over batches would hide what the
few cost.
"""

import time
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import onnx
import typer
from benchmarks.clean_rows import CleanData
from benchmarks.diagnostics_cost import session
from benchmarks.probe_cost_page import Cost, Ratio, Record, VersionCost, render, to_rich
from benchmarks.record import Circumstances, Subject
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.repository import resolve
from softrisk_core.scores.combined import GatedCombination
from softrisk_evaluation.errors import EvaluationError
from softrisk_evaluation.report import Proportion
from softrisk_export.graph import classifier, with_diagnostics
from softrisk_export.runtime import Runner

BATCHES: Final = (1, 32)


def main(
    bundles: Annotated[list[Path], typer.Argument(help="Versions: <repository>/<model>/<version>.")],
    data: Annotated[str, typer.Option(help="Clean data, as softrisk calibrate takes them: those of the checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder for README.md and result.json.")],
    rows: Annotated[
        int, typer.Option(min=max(BATCHES), help="Clean rows, drawn at random; more tell better how often is probed.")
    ] = 1024,
    repeats: Annotated[int, typer.Option(min=1, help="Of each batch.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Of onnxruntime.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
) -> None:
    """Time each version's whole graph against its classifier alone, and against that with diagnostics."""
    loaded = [load_bundle(resolve(bundle)) for bundle in bundles]
    clean = CleanData(data)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as progress:
        costs = tuple(
            measure(bundle, _drawn(clean, bundle, rows, seed), repeats, threads, progress) for bundle in loaded
        )
    record = Record(
        circumstances=Circumstances.here("probe_cost"),
        data=data,
        repeats=repeats,
        threads=threads,
        seed=seed,
        costs=costs,
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(record.model_dump_json(indent=2) + "\n")
    (out / "README.md").write_text(render(record))
    Console(width=170).print(to_rich(record))


def measure(bundle: Bundle, inputs: NDArray[np.float32], repeats: int, threads: int, progress: Progress) -> VersionCost:
    """Time one version on clean inputs.

    Args:
        bundle: The version.
        inputs: Shape (N, …), N ≥ 32; of each batch size as many batches as they fill.
        repeats: Of each batch.
        threads: Of onnxruntime.
        progress: Gets a task for each batch size.
    """
    subject, score = Subject.of(bundle), bundle.score()
    model = onnx.load(bundle.model_path)
    head = classifier(model)
    graphs = (head, with_diagnostics(head, len(bundle.manifest.classes)), model)
    sessions = [session(graph, threads) for graph in graphs]
    found = []
    for size in BATCHES:
        batches = [inputs[start : start + size] for start in range(0, len(inputs) - size + 1, size)]
        task = progress.add_task(f"{subject}, batch {size}", total=1 + repeats)
        _turn(sessions, batches)  # the first one is slower
        progress.advance(task)
        turns = []
        for _ in range(repeats):
            turns.append(_turn(sessions, batches))
            progress.advance(task)
        found.append(_cost(size, np.array(turns)))
    probed = None
    if isinstance(score, GatedCombination):
        scores = Runner(model).over(inputs, ["nonconformity"])["nonconformity"]
        probed = Proportion.where(score.was_probed(scores))
    return VersionCost(
        subject=subject,
        rows=len(inputs),
        probed=probed,
        passes=1 + len(score.probes) * (probed.rate if probed else 0),
        costs=tuple(found),
    )


def _drawn(clean: CleanData, bundle: Bundle, rows: int, seed: int) -> NDArray[np.float32]:
    """Some of the rows that a version has not seen, in random order.

    Raises:
        EvaluationError: If they are fewer than a batch.
    """
    unseen = clean.unseen(bundle)
    if len(unseen) < max(BATCHES):
        raise EvaluationError(f"{unseen.data}: {len(unseen)} are too few, {max(BATCHES)} the least")
    return unseen.input[np.random.default_rng(seed).permutation(len(unseen))[:rows]]


def _turn(sessions: list[InferenceSession], batches: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Times of all sessions on all batches in milliseconds, shape (batches, sessions)."""
    name = sessions[0].get_inputs()[0].name
    times = np.empty((len(batches), len(sessions)))
    for row, batch in enumerate(batches):
        for column, each in enumerate(sessions):
            start = time.perf_counter()
            each.run(None, {name: batch})
            times[row, column] = (time.perf_counter() - start) * 1e3
    return times


def _cost(size: int, times: NDArray[np.float64]) -> Cost:
    """From times of shape (repeats, batches, 3): of classifier, diagnostics and the whole."""
    logits, diagnostics, whole = np.median(times, axis=0).mean(axis=0).tolist()
    by_repeat = times.mean(axis=1)
    ratios = by_repeat / by_repeat[:, :1]

    def ratio(to: float, column: int) -> Ratio:
        return Ratio(value=to / logits, low=float(ratios[:, column].min()), high=float(ratios[:, column].max()))

    return Cost(
        batch=size,
        batches=times.shape[1],
        logits_ms=logits,
        diagnostics=ratio(diagnostics, 1),
        whole=ratio(whole, 2),
    )


if __name__ == "__main__":
    typer.run(main)

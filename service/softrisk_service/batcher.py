"""Micro-batching without a timer, for one model version.

A request that finds the model idle runs at once, together with all others that arrived in the same turn of the
event loop; while a batch is running the next one collects. So an idle server adds no wait and a loaded one batches
by itself: there is no window to tune.

All state belongs to the event loop; only `Runtime.run` happens in the worker thread.
"""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from softrisk_service.errors import InvalidInputError, NotReadyError, QueueFullError
from softrisk_service.metrics import ModelMetrics
from softrisk_service.runtime import Inputs, Outputs, Runtime, finite_rows


@dataclass
class _Request:
    """What a caller waits for; larger than a batch, it is run in several parts."""

    future: asyncio.Future[Outputs]
    parts: list[Outputs | None]
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.left = len(self.parts)

    def settle(self, index: int, outcome: Outputs | Exception) -> None:
        if self.future.done():  # the caller went away, or another part failed
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
            return
        self.parts[index] = outcome
        self.left -= 1
        if not self.left:
            parts = [part for part in self.parts if part is not None]
            self.future.set_result(parts[0] if len(parts) == 1 else _joined(parts))


@dataclass(frozen=True)
class _Entry:
    request: _Request
    index: int
    inputs: Inputs
    rows: int
    since: float


@dataclass(frozen=True)
class _Run:
    """What came of running some entries together."""

    batch: list[_Entry]
    outcomes: list[Outputs | Exception]
    outputs: Outputs | None
    finite: NDArray[np.bool_] | None
    seconds: float


class Batcher:
    """Collects requests for a runtime.

    Args:
        runtime: What runs the batches.
        metrics: Where they are counted.
        max_batch_size: Most instances in a run.
        queue_size: Most instances waiting.
    """

    def __init__(self, runtime: Runtime, metrics: ModelMetrics, *, max_batch_size: int, queue_size: int) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._max_batch_size = max_batch_size
        self._queue_size = queue_size
        self._waiting: deque[_Entry] = deque()
        self._rows = 0
        self._running = False
        self._closed = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="softrisk-run")

    def check_room(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            QueueFullError: If the queue is full.
            NotReadyError: If the server is shutting down.
        """
        self._admit(1)

    def submit(self, inputs: Inputs) -> asyncio.Future[Outputs]:
        """Queue a request; cancelling the future withdraws it.

        Args:
            inputs: By name, each (B, …) with the same B ≥ 1, valid for the model.

        Returns:
            Its outputs, B rows each; or `InvalidInputError` if the model answers with NaN or infinity.

        Raises:
            QueueFullError: If B more instances do not fit in the queue.
            NotReadyError: If the server is shutting down.
        """
        rows = len(next(iter(inputs.values())))
        self._admit(rows)
        loop = asyncio.get_running_loop()
        starts = range(0, rows, self._max_batch_size)
        request = _Request(loop.create_future(), [None] * len(starts))
        now = time.perf_counter()
        for index, start in enumerate(starts):
            stop = min(start + self._max_batch_size, rows)
            self._waiting.append(_Entry(request, index, _rows(inputs, start, stop), stop - start, now))
        self._set_rows(self._rows + rows)
        if not self._running:
            self._running = True
            loop.call_soon(self._start)  # not now: others may arrive in this turn of the loop
        return request.future

    async def close(self) -> None:
        """Take no more requests, refuse those that wait, and let the running batch end."""
        self._closed = True
        for entry in self._waiting:
            entry.request.settle(entry.index, NotReadyError("the server is shutting down"))
        self._waiting.clear()
        self._set_rows(0)
        await asyncio.to_thread(self._worker.shutdown)

    def _admit(self, rows: int) -> None:
        if self._closed:
            raise NotReadyError("the server is shutting down")
        if self._rows + rows > self._queue_size:
            self._drop_withdrawn()
        if self._rows + rows > self._queue_size:
            raise QueueFullError(f"{self._rows} instances are waiting, {rows} more do not fit in the queue; try again")

    def _drop_withdrawn(self) -> None:
        self._waiting = deque(entry for entry in self._waiting if not entry.request.future.done())
        self._set_rows(sum(entry.rows for entry in self._waiting))

    def _set_rows(self, rows: int) -> None:
        self._rows = rows
        self._metrics.queue_depth.set(rows)

    def _start(self) -> None:
        batch = self._next_batch()
        self._running = bool(batch)
        if batch:
            future = asyncio.get_running_loop().run_in_executor(self._worker, self._run, batch)
            future.add_done_callback(self._finish)

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        rows = taken = 0
        now = time.perf_counter()
        while self._waiting and rows + self._waiting[0].rows <= self._max_batch_size:
            entry = self._waiting.popleft()
            taken += entry.rows
            if not entry.request.future.done():
                batch.append(entry)
                rows += entry.rows
                self._metrics.stages["queue"].observe(now - entry.since)
        self._set_rows(self._rows - taken)
        return batch

    def _run(self, batch: list[_Entry]) -> list[_Run]:
        start = time.perf_counter()
        try:
            outputs = self._runtime.run(_together(batch))
        except Exception as error:  # whatever onnxruntime raises
            if len(batch) > 1:
                # One of them may be at fault: each for itself, so that only that one fails.
                return [run for entry in batch for run in self._run([entry])]
            return [_Run(batch, [error], None, None, time.perf_counter() - start)]
        finite = finite_rows(outputs)
        return [_Run(batch, _apart(outputs, finite, batch), outputs, finite, time.perf_counter() - start)]

    def _finish(self, future: asyncio.Future[list[_Run]]) -> None:
        self._start()  # first, so that the model works while the answers are encoded
        for run in future.result():
            for entry, outcome in zip(run.batch, run.outcomes, strict=True):
                entry.request.settle(entry.index, outcome)
            if run.outputs is not None:
                self._metrics.count_batch(run.outputs, run.finite, run.seconds)


def _rows(inputs: Inputs, start: int, stop: int) -> Inputs:
    return {name: array[start:stop] for name, array in inputs.items()}


def _together(batch: list[_Entry]) -> Inputs:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([entry.inputs[name] for entry in batch]) for name in batch[0].inputs}


def _apart(outputs: Outputs, finite: NDArray[np.bool_] | None, batch: list[_Entry]) -> list[Outputs | Exception]:
    outcomes: list[Outputs | Exception] = []
    start = 0
    for entry in batch:
        stop = start + entry.rows
        if finite is not None and not finite[start:stop].all():
            outcomes.append(InvalidInputError("the model answers this input with values that are not finite"))
        else:
            outcomes.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return outcomes


def _joined(parts: list[Outputs]) -> Outputs:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

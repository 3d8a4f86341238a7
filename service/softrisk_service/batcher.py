"""Micro-batching without a timer, for one model version.

A request that finds the model idle runs at once, together with all others that arrived in the same turn of the
event loop; while a batch is running the next one collects. So an idle server adds no wait and a loaded one batches
by itself: there is no window to tune.

Runs that are short enough happen in the event loop, since handing them to a thread would take as long; all others go
to the `Lane`, where they overlap with the reading and writing of other requests. How short, and how large batches
become, was measured when the model was loaded (`Plan`).

All state belongs to the event loop; only `_run` happens in the lane's thread.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from softrisk_core.manifest import InputSpec
from softrisk_service.errors import DeadlineError, InvalidInputError, NotReadyError, QueueFullError
from softrisk_service.lane import Done, Lane
from softrisk_service.metrics import ModelMetrics
from softrisk_service.outcome import Batch, Inputs, Outputs, Rows
from softrisk_service.runtime import Runtime, finite_rows
from softrisk_service.values import check_values, valid

Outcome = Rows | Exception


class _Queue(Protocol):
    """Where a ticket waits."""

    def free(self, ticket: "Ticket") -> None:
        """Give its places back."""


class Ticket:
    """A request in the queue; subclasses say what becomes of its outcome.

    Attributes:
        inputs: By name, each (B, …) with the same B ≥ 1, of the model's shapes.
        rows: B.
        since: When it was queued, on the clock of `time.perf_counter`.
        deadline: When an outcome is too late.
        queue: Where it waits; None as soon as it does not.
        is_open: Whether somebody waits for the outcome.
    """

    __slots__ = ("deadline", "inputs", "is_open", "queue", "rows", "since")

    def enter(self, queue: _Queue, inputs: Inputs, rows: int, since: float, deadline: float) -> None:
        """Begin to wait."""
        self.queue: _Queue | None = queue
        self.inputs = inputs
        self.rows = rows
        self.since = since
        self.deadline = deadline
        self.is_open = True

    def deliver(self, outcome: Outcome) -> None:
        """Take the outcome, once, in the event loop.

        Args:
            outcome: The request's rows of a batch; or an `InvalidInputError` if its values are not valid for the
                model, or the model answers them with NaN or infinity, a `DeadlineError`, a `NotReadyError`, or what
                running the model raised.
        """
        raise NotImplementedError

    def settle(self, outcome: Outcome) -> None:
        """Deliver the outcome, unless one was delivered before or nobody waits."""
        if self.is_open:
            self.withdraw()
            self.deliver(outcome)

    def withdraw(self) -> None:
        """Tell that nobody waits any more; nothing will be delivered."""
        self.is_open = False
        if self.queue is not None:
            self.queue.free(self)


class _Part(Ticket):
    """A piece of a request that is larger than a batch."""

    __slots__ = ("_index", "_whole")

    def __init__(self, whole: "_Whole", index: int) -> None:
        self._whole = whole
        self._index = index

    def deliver(self, outcome: Outcome) -> None:
        self._whole.collect(self._index, outcome)


class _Whole:
    """Puts the pieces of a request together."""

    def __init__(self, ticket: Ticket, count: int) -> None:
        self._ticket = ticket
        self._rows: list[Rows | None] = [None] * count
        self.parts = [_Part(self, index) for index in range(count)]

    def collect(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of a piece."""
        if isinstance(outcome, Exception):
            self.withdraw()
            self._ticket.settle(outcome)
            return
        self._rows[index] = outcome
        found = [rows for rows in self._rows if rows is not None]
        if len(found) == len(self._rows):
            self._ticket.settle(_joined(found))

    def free(self, ticket: Ticket) -> None:
        """Withdraw what is left if the whole request is, as its queue."""
        ticket.queue = None
        self.withdraw()

    def withdraw(self) -> None:
        """Run none of the pieces that are left."""
        for part in self.parts:
            part.withdraw()


@dataclass(frozen=True)
class _Run:
    """What came of running some requests together."""

    tickets: Sequence[Ticket]
    outcomes: Sequence[Outcome]
    outputs: Outputs | None
    finite: NDArray[np.bool_] | None
    seconds: float


class Batcher:
    """Collects requests for a runtime.

    Args:
        runtime: What runs the batches.
        metrics: Where they are counted.
        specs: The model's inputs.
        lane: Where it runs if its runs are long.
        queue_size: Most instances waiting or running.
    """

    def __init__(
        self, runtime: Runtime, metrics: ModelMetrics, *, specs: Sequence[InputSpec], lane: Lane, queue_size: int
    ) -> None:
        self.spent = 0.0
        self._runtime = runtime
        self._metrics = metrics
        self._specs = specs
        self._lane = lane
        self._batch_size = runtime.plan.batch_size
        self._inline_size = runtime.plan.inline_size
        self._queue_size = queue_size
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Ticket] = deque()
        self._running: set[Ticket] = set()
        self._rows = 0
        self._scheduled = False
        self._in_lane = 0
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None
        metrics.watch_queue(self)

    @property
    def depth(self) -> int:
        """Instances waiting."""
        return self._rows

    def check_room(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            QueueFullError: If the queue is full.
            NotReadyError: If the server is shutting down.
        """
        self._admit(1)

    def submit(self, ticket: Ticket, inputs: Inputs, deadline: float) -> None:
        """Queue a request.

        Args:
            ticket: Who takes the outcome.
            inputs: By name, each (B, …) with the same B ≥ 1, of the model's shapes.
            deadline: When an outcome is too late, on the clock of `time.perf_counter`.

        Raises:
            QueueFullError: If B more instances do not fit in the queue.
            NotReadyError: If the server is shutting down.
        """
        rows = len(next(iter(inputs.values())))
        self._admit(rows)
        self._rows += rows
        now = time.perf_counter()
        if rows <= self._batch_size:
            ticket.enter(self, inputs, rows, now, deadline)
            self._waiting.append(ticket)
        else:
            self._cut(ticket, inputs, rows, now, deadline)
        if self._alarm is None:
            self._alarm = self._loop.call_later(deadline - now, self._expire)
        if not self._in_lane or (self._in_lane == 1 and self._rows >= self._batch_size):
            self._schedule()

    def _cut(self, ticket: Ticket, inputs: Inputs, rows: int, now: float, deadline: float) -> None:
        size = self._batch_size
        whole = _Whole(ticket, -(-rows // size))
        ticket.enter(whole, inputs, rows, now, deadline)
        for index, part in enumerate(whole.parts):
            start, stop = index * size, min((index + 1) * size, rows)
            piece = {name: array[start:stop] for name, array in inputs.items()}
            part.enter(self, piece, stop - start, now, deadline)
        self._waiting.extend(whole.parts)

    def close(self) -> None:
        """Take no more requests, and refuse those that wait."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        while self._waiting:
            self._waiting.popleft().settle(NotReadyError("the server is shutting down"))

    def free(self, ticket: Ticket) -> None:
        """Give a ticket's places back."""
        ticket.queue = None
        self._rows -= ticket.rows

    def waits(self) -> bool:
        """Whether requests wait."""
        while self._waiting and not self._waiting[0].is_open:
            self._waiting.popleft()
        return bool(self._waiting)

    def fills_a_batch(self) -> bool:
        """Whether as many instances wait as a batch may have."""
        return self._rows >= self._batch_size

    def take(self) -> Callable[[], Done]:
        """The next batch, for the lane."""
        batch = self._next_batch()
        self._in_lane += 1

        def finish(runs: list[_Run]) -> None:
            self._in_lane -= 1
            self._finish(runs)
            self._schedule()

        def run() -> Done:
            return partial(finish, self._run(batch))

        return run

    def _admit(self, rows: int) -> None:
        if self._closed:
            raise NotReadyError("the server is shutting down")
        if self._rows + rows > self._queue_size:
            raise QueueFullError(f"{self._rows} instances are waiting, {rows} more do not fit in the queue; try again")

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._start)  # not now: others may arrive in this turn of the loop

    def _start(self) -> None:
        self._scheduled = False
        if self._rows > self._inline_size or self._in_lane:
            self._lane.enter(self)
        elif self.waits():
            self._finish(self._run(self._next_batch()))
            self._schedule()

    def _next_batch(self) -> list[Ticket]:
        batch: list[Ticket] = []
        waiting, size, rows = self._waiting, self._batch_size, 0
        while waiting and rows + waiting[0].rows <= size:
            ticket = waiting.popleft()
            if ticket.is_open:
                batch.append(ticket)
                rows += ticket.rows
                self.free(ticket)
        now = time.perf_counter()
        self._metrics.count_waits([now - ticket.since for ticket in batch])
        self._running.update(batch)
        return batch

    def _run(self, batch: Sequence[Ticket]) -> list[_Run]:
        start = time.perf_counter()
        inputs = _together(batch)
        try:
            if not all(valid(inputs[spec.name], spec) for spec in self._specs):
                return self._run_valid(batch)
            outputs = self._runtime.run(inputs)
        except Exception as error:  # whatever onnxruntime raises
            if len(batch) > 1:
                # One of them may be at fault: each for itself, so that only that one fails.
                return [run for ticket in batch for run in self._run([ticket])]
            return [_Run(batch, [error], None, None, time.perf_counter() - start)]
        finite = finite_rows(outputs)
        return [_Run(batch, _apart(outputs, finite, batch), outputs, finite, time.perf_counter() - start)]

    def _run_valid(self, batch: Sequence[Ticket]) -> list[_Run]:
        """Run those that the model was made for."""
        faults = [_fault(ticket.inputs, self._specs) for ticket in batch]
        refused = [(ticket, fault) for ticket, fault in zip(batch, faults, strict=True) if fault is not None]
        good = [ticket for ticket, fault in zip(batch, faults, strict=True) if fault is None]
        runs = [_Run([ticket for ticket, _ in refused], [fault for _, fault in refused], None, None, 0.0)]
        return runs + self._run(good) if good else runs

    def _finish(self, runs: list[_Run]) -> None:
        for run in runs:
            self.spent += run.seconds
            self._running.difference_update(run.tickets)
            for ticket, outcome in zip(run.tickets, run.outcomes, strict=True):
                ticket.settle(outcome)
            if run.outputs is not None:
                self._metrics.count_batch(run.outputs, run.finite, run.seconds)

    def _expire(self) -> None:
        """Answer what is overdue, and set the alarm for what will be next."""
        now = time.perf_counter()
        for ticket in [*self._waiting, *self._running]:
            if ticket.deadline <= now:
                ticket.settle(DeadlineError("the server is overloaded, the answer was not there in time; try again"))
        left = [ticket.deadline for ticket in (*self._waiting, *self._running) if ticket.is_open]
        self._alarm = self._loop.call_later(min(left) - now, self._expire) if left else None


def _together(batch: Sequence[Ticket]) -> Inputs:
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([ticket.inputs[name] for ticket in batch]) for name in batch[0].inputs}


def _fault(inputs: Inputs, specs: Sequence[InputSpec]) -> InvalidInputError | None:
    try:
        for spec in specs:
            check_values(inputs[spec.name], spec)
    except InvalidInputError as error:
        return error
    return None


def _apart(outputs: Outputs, finite: NDArray[np.bool_] | None, batch: Sequence[Ticket]) -> list[Outcome]:
    whole = Batch(outputs, outputs["rank"].tolist())
    outcomes: list[Outcome] = []
    start = 0
    for ticket in batch:
        stop = start + ticket.rows
        if finite is not None and not finite[start:stop].all():
            outcomes.append(InvalidInputError("the model answers this input with values that are not finite"))
        else:
            outcomes.append(Rows(whole, start, stop))
        start = stop
    return outcomes


def _joined(parts: list[Rows]) -> Rows:
    pieces = [part.outputs for part in parts]
    outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    ranks = [rank for part in parts for rank in part.ranks]
    return Rows(Batch(outputs, ranks), 0, len(ranks))

"""Micro-batching without a timer, for one model version.

A request that finds the model idle runs at once, together with all others that arrived in the same turn of the
event loop; while a batch is running the next one collects. So an idle server adds no wait and a loaded one batches
by itself: there is no window to tune.

Runs that are short enough happen in the event loop, since handing them to a thread would take as long; all others go
to the `Lane`, where they overlap with the reading and writing of other requests. While requests come one after
another, each alone, there are no others, and longer runs stay in the event loop too. How short, and how large batches
become, was measured when the model was loaded (`Plan`).

All state belongs to the event loop; only `_run` happens in the lane's thread.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from softrisk_core.manifest import InputSpec
from softrisk_service.errors import DeadlineError, InvalidInputError, NotReadyError, QueueFullError
from softrisk_service.lane import Done, Lane
from softrisk_service.metrics import ModelMetrics
from softrisk_service.outcome import Batch, Inputs, Outputs, Rows, present
from softrisk_service.runtime import Runtime, finite_rows
from softrisk_service.tickets import Outcome, Ticket, Whole
from softrisk_service.values import check_values, valid

_TOO_LATE: Final = "the server is overloaded, the answer was not there in time; try again"

_MEMORY: Final = 0.8
"""Weight of the pace so far when a batch shows another one."""

_LONG_RUN: Final = 2e-3
"""After longer runs the next one begins at once, with whatever waits by then, or cores would be idle for a turn of the
event loop; after shorter ones a turn is better spent collecting, since larger batches cost less."""

_WORTH: Final = 0.5
"""Share of the deadline for which instances may have to wait; the rest is for what the measured times do not know."""


@dataclass(frozen=True)
class _Run:
    """What came of running some requests together."""

    tickets: Sequence[Ticket]
    outcomes: Sequence[Outcome]
    outputs: Outputs | None
    answered: NDArray[np.bool_] | None
    seconds: float
    present: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait for a model.

    Attributes:
        instances: Most of them.
        bytes: Most bytes of their inputs.
        deadline_seconds: Time that requests usually have: more than can be run in half of it are not let wait.
    """

    instances: int
    bytes: int
    deadline_seconds: float


class Batcher:
    """Collects requests for a runtime.

    Args:
        runtime: What runs the batches.
        metrics: Where they are counted.
        specs: The model's inputs.
        lane: Where it runs if its runs are long.
        limits: How much may wait.

    Attributes:
        spent: Seconds of the lane that its batches took.
        usual: Seconds that its last batch took there.
    """

    def __init__(
        self, runtime: Runtime, metrics: ModelMetrics, *, specs: Sequence[InputSpec], lane: Lane, limits: QueueLimits
    ) -> None:
        self.spent = 0.0
        self.usual = 0.0
        self._runtime = runtime
        self._metrics = metrics
        self._specs = specs
        self._optional = [spec.name for spec in specs if spec.optional]
        self._lane = lane
        self._batch_size = runtime.plan.batch_size
        self._inline_size = runtime.plan.inline_size
        self._lone_size = runtime.plan.lone_size
        self._is_lone = False
        self._most = limits.instances
        row_bytes = sum(4 * math.prod(spec.instance_shape) for spec in specs)
        self._fits = max(1, min(limits.instances, limits.bytes // row_bytes))
        self._patience = _WORTH * limits.deadline_seconds
        self._set_pace(runtime.plan.row_seconds)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Ticket] = deque()
        self._running: set[Ticket] = set()
        self._rows = 0
        self._scheduled = False
        self._in_lane = 0
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
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
        if self._closed or self._rows >= self._room:
            self._refuse(1)

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
        # An empty queue takes a request of any size.
        if self._closed or self._rows + rows > (self._room if self._rows else self._most):
            self._refuse(rows)
        self._rows += rows
        now = time.perf_counter()
        if rows <= self._batch_size:
            ticket.enter(self, inputs, rows, now, deadline)
            self._waiting.append(ticket)
        else:
            self._cut(ticket, inputs, rows, now, deadline)
        if self._alarm is None or deadline < self._alarm_at:
            self._set_alarm(deadline, now)
        if self._rows >= self._batch_size > self._inline_size:
            self._lane.enter(self)  # at once: more would not make the batch better
        elif not self._in_lane:
            self._schedule()
        elif len(self._waiting) == 1 and self.usual > _LONG_RUN:
            self._lane.enter(self)  # as soon as the running batch ends

    def _cut(self, ticket: Ticket, inputs: Inputs, rows: int, now: float, deadline: float) -> None:
        size = self._batch_size
        whole = Whole(ticket, -(-rows // size))
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
        """Whether requests wait; those that are, or would be, too late are told so and do not."""
        now = time.perf_counter()
        while self._waiting and not self._is_in_time(self._waiting[0], now):
            self._waiting.popleft().settle(DeadlineError(_TOO_LATE))
        return bool(self._waiting)

    def _is_in_time(self, ticket: Ticket, now: float) -> bool:
        # Not what is left of a short deadline, but of one that is mostly used up.
        needed = min(2 * self.usual, (ticket.deadline - ticket.since) / 2)
        return ticket.is_open and ticket.deadline - now > needed

    def fills_a_batch(self) -> bool:
        """Whether as many instances wait as a batch may have."""
        return self._rows >= self._batch_size

    def take(self) -> Callable[[], Done]:
        """The next batch, for the lane."""
        batch = self._next_batch()
        self._in_lane += 1

        def finish(runs: list[_Run]) -> None:
            self._in_lane -= 1
            rows = sum(ticket.rows for ticket in batch)
            self._set_pace(_MEMORY * self._pace + (1 - _MEMORY) * sum(run.seconds for run in runs) / rows)
            self._finish(runs)
            self._schedule()

        def run() -> Done:
            return partial(finish, self._run(batch))

        return run

    def _set_pace(self, row_seconds: float) -> None:
        """Let no more wait than can be run in time at this pace: other work on the machine slows it down."""
        self._pace = row_seconds
        self._room = max(1, min(self._fits, int(self._patience / row_seconds)))

    def _refuse(self, rows: int) -> NoReturn:
        if self._closed:
            raise NotReadyError("the server is shutting down")
        raise QueueFullError(f"{self._rows} instances are waiting, {rows} more do not fit in the queue; try again")

    def _schedule(self) -> None:
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._start)  # not now: others may arrive in this turn of the loop

    def _start(self) -> None:
        self._scheduled = False
        inline_size = self._lone_size if self._is_lone and self._lane.is_idle else self._inline_size
        if self._rows > inline_size or self._in_lane:
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
        self._is_lone = len(batch) == 1 and not waiting
        now = time.perf_counter()
        self._metrics.count_waits([now - ticket.since for ticket in batch])
        self._running.update(batch)
        return batch

    def _run(self, batch: Sequence[Ticket]) -> list[_Run]:
        start = time.perf_counter()
        try:
            inputs = _together(batch)
            if not all(valid(inputs[spec.name], spec) for spec in self._specs):
                return self._run_valid(batch)
            outputs = self._runtime.run(inputs)
            outcomes, answered = _apart(outputs, finite_rows(outputs), batch)
            seconds = time.perf_counter() - start
            return [_Run(batch, outcomes, outputs, answered, seconds, {n: present(inputs[n]) for n in self._optional})]
        except Exception as error:  # whatever onnxruntime raises, or no memory
            if len(batch) > 1:
                # One of them may be at fault: each for itself, so that only that one fails.
                return [run for ticket in batch for run in self._run([ticket])]
            return [_Run(batch, [error], None, None, time.perf_counter() - start, {})]

    def _run_valid(self, batch: Sequence[Ticket]) -> list[_Run]:
        """Run those that the model was made for."""
        faults = [_fault(ticket.inputs, self._specs) for ticket in batch]
        refused = [(ticket, fault) for ticket, fault in zip(batch, faults, strict=True) if fault is not None]
        good = [ticket for ticket, fault in zip(batch, faults, strict=True) if fault is None]
        runs = [_Run([ticket for ticket, _ in refused], [fault for _, fault in refused], None, None, 0.0, {})]
        return runs + self._run(good) if good else runs

    def _finish(self, runs: list[_Run]) -> None:
        for run in runs:
            self._running.difference_update(run.tickets)
            for ticket, outcome in zip(run.tickets, run.outcomes, strict=True):
                self._settle(ticket, outcome)
            if run.outputs is not None:
                self._metrics.count_batch(run.outputs, run.answered, run.seconds, run.present)

    def _settle(self, ticket: Ticket, outcome: Outcome) -> None:
        try:
            ticket.settle(outcome)
        except Exception as error:  # of one caller must not cost the others their answers
            self._loop.call_exception_handler({"message": "an outcome could not be delivered", "exception": error})

    def _set_alarm(self, deadline: float, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = deadline
        self._alarm = self._loop.call_later(deadline - now, self._expire)

    def _expire(self) -> None:
        """Answer what is overdue, and set the alarm for what will be next."""
        self._alarm = None
        now = time.perf_counter()
        for ticket in [*self._waiting, *self._running]:
            if ticket.deadline <= now:
                self._settle(ticket, DeadlineError(_TOO_LATE))
        if left := [ticket.deadline for ticket in (*self._waiting, *self._running) if ticket.is_open]:
            self._set_alarm(min(left), now)


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


def _apart(
    outputs: Outputs, finite: NDArray[np.bool_] | None, batch: Sequence[Ticket]
) -> tuple[list[Outcome], NDArray[np.bool_] | None]:
    """The outcomes of the requests, and which rows are answered; None for all."""
    whole = Batch(outputs, outputs["rank"].tolist(), outputs["label"].tolist())
    outcomes: list[Outcome] = []
    start = 0
    for ticket in batch:
        stop = start + ticket.rows
        if finite is not None and not finite[start:stop].all():
            finite[start:stop] = False
            outcomes.append(InvalidInputError("the model answers this input with values that are not finite"))
        else:
            outcomes.append(Rows(whole, start, stop))
        start = stop
    return outcomes, finite

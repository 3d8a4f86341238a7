"""The micro-batcher and the lane, with a runtime whose runs the test opens and closes."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.manifest import OUTPUTS, InputSpec
from softrisk_service import batcher as batcher_module
from softrisk_service.batcher import Batcher, QueueLimits
from softrisk_service.errors import DeadlineError, InvalidInputError, NotReadyError, QueueFullError
from softrisk_service.lane import Lane
from softrisk_service.outcome import Rows
from softrisk_service.plan import Plan
from softrisk_service.tickets import Outcome, Ticket

Numbers = NDArray[np.float32]

SPEC = InputSpec(name="x", shape=(-1, 1), domain=None)
LATER = 60.0


class GatedRuntime:
    """Echoes its input as the label; each run waits for the gate. A row of −1 fails the run, of −2 is not finite."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.sizes: list[int] = []
        self.threads: set[str] = set()
        self.plan = Plan(batch_size=8, inline_size=0, lone_size=0, row_seconds=1e-9)

    def run(self, inputs: dict[str, Numbers]) -> dict[str, NDArray[Any]]:
        self.threads.add(threading.current_thread().name)
        self.started.release()
        assert self.gate.wait(10)
        values = inputs["x"][:, 0]
        self.sizes.append(len(values))
        if (values == -1).any():
            raise RuntimeError("a run failed")
        finite = np.where(values == -2, np.nan, values).astype(np.float32)
        outputs: dict[str, NDArray[Any]] = dict.fromkeys(OUTPUTS, finite)
        return outputs | {"label": values.astype(np.int64), "rank": np.ones(len(values), np.int64)}


class CountingMetrics:
    """Stands in for `ModelMetrics`."""

    def __init__(self) -> None:
        self.rows = 0
        self.waits = 0

    def watch_queue(self, queue: Batcher) -> None:
        self.queue = queue

    def count_waits(self, seconds: list[float]) -> None:
        assert min(seconds) >= 0
        self.waits += len(seconds)

    def count_batch(
        self,
        outputs: dict[str, NDArray[Any]],
        finite: NDArray[np.bool_] | None,
        seconds: float,
        present: Mapping[str, NDArray[np.bool_]],
    ) -> None:
        self.rows += len(outputs["rank"]) if finite is None else int(finite.sum())


class FutureTicket(Ticket):
    def __init__(self) -> None:
        super().__init__()
        self.answer: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()

    def deliver(self, outcome: Outcome) -> None:
        assert not self.answer.done()
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


class Submitter:
    """A batcher whose outcomes can be awaited; cancelling one withdraws the request."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher

    def submit(self, inputs: dict[str, Numbers], seconds: float = LATER) -> asyncio.Future[Rows]:
        ticket = FutureTicket()
        self.batcher.submit(ticket, inputs, time.perf_counter() + seconds)
        ticket.answer.add_done_callback(lambda done: ticket.withdraw() if done.cancelled() else None)
        return ticket.answer


@pytest.fixture
def runtime() -> Iterator[GatedRuntime]:
    gated = GatedRuntime()
    yield gated
    gated.gate.set()


@pytest.fixture
def metrics() -> CountingMetrics:
    return CountingMetrics()


@pytest.fixture
async def lane(runtime: GatedRuntime) -> AsyncIterator[Lane]:
    lane = Lane()
    yield lane
    runtime.gate.set()
    await asyncio.to_thread(lane.close)
    await asyncio.sleep(0)  # what the last run delivers to the loop


@pytest.fixture
async def make(lane: Lane, runtime: GatedRuntime, metrics: CountingMetrics) -> Any:
    def build(
        batch_size: int = 8,
        queue_size: int = 16,
        inline_size: int = 0,
        lone_size: int = 0,
        by: Any = runtime,
        row_seconds: float = 1e-9,
        queue_bytes: int = 10**9,
    ) -> Submitter:
        by.plan = Plan(batch_size, inline_size, max(inline_size, lone_size), row_seconds)
        limits = QueueLimits(queue_size, queue_bytes, LATER)
        # Stand-ins with the same methods, and nothing else in common.
        stand_ins: Any = (by, metrics)
        return Submitter(Batcher(*stand_ins, specs=[SPEC], lane=lane, limits=limits))

    return build


def x(*values: float) -> dict[str, Numbers]:
    return {"x": np.array(values, np.float32)[:, None]}


def labels(rows: object) -> list[int]:
    assert isinstance(rows, Rows)
    return [int(label) for label in rows.outputs["label"]]


async def started(runtime: GatedRuntime) -> None:
    assert await asyncio.to_thread(runtime.started.acquire, timeout=10)


Make = Any


async def test_an_idle_model_runs_at_once_and_the_next_batch_collects_meanwhile(
    make: Make, runtime: GatedRuntime, metrics: CountingMetrics
) -> None:
    batcher = make()
    first = batcher.submit(x(1))
    await started(runtime)
    later = [batcher.submit(x(value)) for value in (2, 3, 4)]
    assert batcher.batcher.depth == 3
    runtime.gate.set()
    assert [labels(await future) for future in (first, *later)] == [[1], [2], [3], [4]]
    assert runtime.sizes == [1, 3]
    assert (batcher.batcher.depth, metrics.rows, metrics.waits) == (0, 4, 4)


async def test_requests_of_the_same_turn_of_the_loop_share_a_batch(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    batcher = make()
    futures = [batcher.submit(x(value, value + 10)) for value in (1, 2, 3)]
    assert [labels(await future) for future in futures] == [[1, 11], [2, 12], [3, 13]]
    assert runtime.sizes == [6]


async def test_batches_stay_within_their_limit_and_large_requests_are_cut(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    batcher = make(batch_size=4)
    futures = [batcher.submit(x(*range(start, start + size))) for start, size in ((0, 3), (10, 3), (20, 9))]
    answers = [labels(await future) for future in futures]
    assert answers == [[0, 1, 2], [10, 11, 12], list(range(20, 29))]
    assert max(runtime.sizes) <= 4
    assert sum(runtime.sizes) == 15


async def test_a_full_queue_refuses_and_takes_again(make: Make, runtime: GatedRuntime) -> None:
    batcher = make(queue_size=4)
    running = batcher.submit(x(0))
    await started(runtime)
    waiting = batcher.submit(x(1, 2, 3, 4))
    for refuse in (batcher.batcher.check_room, lambda: batcher.submit(x(5))):
        with pytest.raises(QueueFullError, match="4 instances are waiting"):
            refuse()
    runtime.gate.set()
    await asyncio.gather(running, waiting)
    assert labels(await batcher.submit(x(5))) == [5]


async def test_withdrawn_requests_are_not_run_and_free_their_place(make: Make, runtime: GatedRuntime) -> None:
    batcher = make(queue_size=4)
    running = batcher.submit(x(0))
    await started(runtime)
    withdrawn = batcher.submit(x(1, 2, 3, 4))
    withdrawn.cancel()
    await asyncio.sleep(0)  # its callback withdraws the request
    kept = batcher.submit(x(5))
    running.cancel()
    runtime.gate.set()
    assert labels(await kept) == [5]
    assert runtime.sizes == [1, 1]


async def test_a_failing_request_fails_alone(make: Make, runtime: GatedRuntime, metrics: CountingMetrics) -> None:
    runtime.gate.set()
    batcher = make()
    results = await asyncio.gather(*(batcher.submit(x(value)) for value in (1, -1, 3)), return_exceptions=True)
    assert isinstance(results[1], RuntimeError)
    assert [labels(results[0]), labels(results[2])] == [[1], [3]]
    assert metrics.rows == 2


async def test_an_infinite_answer_fails_alone(make: Make, runtime: GatedRuntime, metrics: CountingMetrics) -> None:
    runtime.gate.set()
    batcher = make()
    results = await asyncio.gather(*(batcher.submit(x(value, 7)) for value in (1, -2, 3)), return_exceptions=True)
    assert isinstance(results[1], InvalidInputError)
    assert [labels(results[0]), labels(results[2])] == [[1, 7], [3, 7]]
    assert runtime.sizes == [6]
    assert metrics.rows == 4  # those of the requests that got an answer


async def test_closing_ends_the_running_batch_and_refuses_the_rest(make: Make, runtime: GatedRuntime) -> None:
    batcher = make()
    running = batcher.submit(x(1))
    await started(runtime)
    waiting = batcher.submit(x(2))
    batcher.batcher.close()
    with pytest.raises(NotReadyError):
        await waiting
    runtime.gate.set()
    assert labels(await running) == [1]
    with pytest.raises(NotReadyError):
        batcher.submit(x(3))


async def test_short_runs_happen_in_the_event_loop_and_long_ones_in_the_lane(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    assert labels(await make(inline_size=1).submit(x(1))) == [1]
    assert runtime.threads == {threading.current_thread().name}
    assert labels(await make().submit(x(2))) == [2]
    assert len(runtime.threads) == 2


async def test_longer_runs_stay_in_the_event_loop_while_requests_come_alone(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    batcher = make(lone_size=1)

    async def threads(*values: float) -> set[bool]:
        """Whether the event loop ran what was asked at once."""
        runtime.threads.clear()
        await asyncio.gather(*(batcher.submit(x(value)) for value in values))
        return {name == threading.current_thread().name for name in runtime.threads}

    assert await threads(1) == {False}  # whether others come is not known yet
    assert await threads(2) == {True}
    assert await threads(3, 4) == {False}
    assert await threads(5) == {False}  # the last one had company
    assert await threads(6) == {True}


async def test_a_lone_request_does_not_run_beside_the_batch_of_another_model(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    lone, other = make(lone_size=1), make()
    assert labels(await lone.submit(x(1))) == [1]
    runtime.gate.clear()
    before = other.submit(x(2))
    await started(runtime)
    await started(runtime)
    runtime.threads.clear()
    after = lone.submit(x(3))
    runtime.gate.set()
    assert [labels(await future) for future in (before, after)] == [[2], [3]]
    assert threading.current_thread().name not in runtime.threads


async def test_a_full_batch_is_ready_behind_the_running_one(make: Make, runtime: GatedRuntime) -> None:
    batcher = make(batch_size=2)
    futures = [batcher.submit(x(value)) for value in range(6)]
    await started(runtime)
    assert batcher.batcher.depth == 2  # two run, two are handed over, two can still become more
    runtime.gate.set()
    assert [labels(await future) for future in futures] == [[value] for value in range(6)]
    assert runtime.sizes == [2, 2, 2]


async def test_what_is_too_late_is_told_so_and_not_run(make: Make, runtime: GatedRuntime) -> None:
    batcher = make(queue_size=4)
    running = batcher.submit(x(0), 0.05)
    await started(runtime)
    waiting = [batcher.submit(x(1), 0.01), batcher.submit(x(2), LATER), batcher.submit(x(3, 4), 0.02)]
    for late in (running, waiting[0], waiting[2]):
        with pytest.raises(DeadlineError, match="overloaded"):
            await late
    assert batcher.batcher.depth == 1
    runtime.gate.set()
    assert labels(await waiting[1]) == [2]
    assert runtime.sizes == [1, 1]


async def test_values_outside_the_domain_are_refused_alone(
    lane: Lane, runtime: GatedRuntime, metrics: CountingMetrics
) -> None:
    runtime.gate.set()
    stand_ins: Any = (runtime, metrics)
    spec = InputSpec(name="x", shape=(-1, 1), domain=(0, 10))
    batcher = Submitter(Batcher(*stand_ins, specs=[spec], lane=lane, limits=QueueLimits(16, 10**9, LATER)))
    futures = [batcher.submit(x(*values)) for values in ((1,), (2, 11), (np.nan,), (3,))]
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [labels(results[0]), labels(results[3])] == [[1], [3]]
    assert "got 11 at [1, 0]" in str(results[1])
    assert "not finite" in str(results[2])
    assert metrics.rows == 2


@pytest.mark.parametrize("bound", [{"queue_size": 2}, {"row_seconds": LATER / 4}, {"queue_bytes": 11}])
async def test_no_more_may_wait_than_has_room_time_and_memory(
    make: Make, runtime: GatedRuntime, bound: dict[str, Any]
) -> None:
    batcher = make(**{"queue_size": 16, **bound})
    running = batcher.submit(x(0))
    await started(runtime)
    waiting = [batcher.submit(x(1)), batcher.submit(x(2))]
    with pytest.raises(QueueFullError):
        batcher.submit(x(3))
    with pytest.raises(QueueFullError):
        batcher.batcher.check_room()
    runtime.gate.set()
    await asyncio.gather(running, *waiting)
    if "queue_size" not in bound:  # an empty queue takes what no other could wait behind
        assert labels(await batcher.submit(x(1, 2, 3, 4))) == [1, 2, 3, 4]


async def test_a_model_that_became_slow_lets_fewer_wait(make: Make, runtime: GatedRuntime) -> None:
    class Slow(GatedRuntime):
        def run(self, inputs: dict[str, Numbers]) -> dict[str, NDArray[Any]]:
            outputs = super().run(inputs)
            time.sleep(LATER / 1000)
            return outputs

    slow = Slow()
    slow.gate.set()
    batcher = make(batch_size=1, queue_size=1000, by=slow)  # loaded as if it took no time
    await asyncio.gather(*(batcher.submit(x(value)) for value in range(12)))
    slow.gate.clear()
    waiting = [batcher.submit(x(value)) for value in range(100)]
    with suppress(QueueFullError):
        while len(waiting) < 1000:
            waiting.append(batcher.submit(x(len(waiting))))
    assert len(waiting) < 900  # half of the deadline is worth 500
    for answer in waiting:
        answer.cancel()
    slow.gate.set()


async def test_what_would_come_too_late_is_not_run(
    make: Make, runtime: GatedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = make()
    first = batcher.submit(x(0))
    await started(runtime)
    late, in_time = batcher.submit(x(1), 30), batcher.submit(x(2), LATER)
    clock = time.perf_counter
    monkeypatch.setattr(
        "softrisk_service.batcher.time.perf_counter", lambda: clock() + 20
    )  # more than half of its time
    finish = batcher.batcher._lane._finish
    monkeypatch.setattr(
        batcher.batcher._lane, "_finish", lambda model, charged, _, done: finish(model, charged, 8.0, done)
    )  # as if the last batch had taken so long
    runtime.gate.set()
    assert labels(await first) == [0]
    with pytest.raises(DeadlineError):
        await late
    assert labels(await in_time) == [2]
    assert runtime.sizes == [1, 1]


async def test_an_outcome_that_cannot_be_delivered_costs_the_others_nothing(make: Make, runtime: GatedRuntime) -> None:
    class Broken(Ticket):
        def deliver(self, outcome: Outcome) -> None:
            raise OSError("nobody reads the log")

    runtime.gate.set()
    batcher = make()
    seen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
    batcher.batcher.submit(Broken(), x(1), time.perf_counter() + LATER)
    assert labels(await batcher.submit(x(2))) == [2]
    assert [str(error) for error in seen] == ["nobody reads the log"]
    assert labels(await batcher.submit(x(3))) == [3]


async def test_the_lane_outlives_every_fault(
    make: Make, runtime: GatedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: Any) -> Any:
        raise MemoryError

    runtime.gate.set()
    batcher = make()
    with monkeypatch.context() as patched:
        patched.setattr(batcher_module, "_apart", no_memory)
        with pytest.raises(MemoryError):
            await batcher.submit(x(1))
    assert labels(await batcher.submit(x(2))) == [2]


async def test_large_and_withdrawn_requests_leave_nothing_behind(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    batcher = make(batch_size=2)
    array = np.zeros((5, 1), np.float32)
    watched = weakref.ref(array)
    gc.disable()  # memory that only the collector frees piles up
    try:
        assert len(labels(await batcher.submit({"x": array}))) == 5
        del array
        await asyncio.sleep(0)
        assert watched() is None
        runtime.gate.clear()
        running = batcher.submit(x(0))
        await asyncio.sleep(0)
        array = np.zeros((1, 1), np.float32)
        watched = weakref.ref(array)
        batcher.submit({"x": array}).cancel()
        del array
        await asyncio.sleep(0)
        assert watched() is None
        runtime.gate.set()
        await running
    finally:
        gc.enable()


class Named(GatedRuntime):
    """Notes whose turn it is."""

    def __init__(self, name: str, order: list[str], gate: threading.Event) -> None:
        super().__init__()
        self.name = name
        self.order = order
        self.gate = gate

    def run(self, inputs: dict[str, Numbers]) -> dict[str, NDArray[Any]]:
        outputs = super().run(inputs)
        self.order.append(self.name)
        time.sleep(0.002)
        return outputs


async def test_models_take_turns(make: Make, runtime: GatedRuntime) -> None:
    order: list[str] = []
    busy, quick = (
        make(batch_size=1, queue_size=100, by=Named(name, order, runtime.gate)) for name in ("busy", "quick")
    )
    futures = [busy.submit(x(value)) for value in range(20)]
    futures += [quick.submit(x(value)) for value in range(3)]
    runtime.gate.set()
    await asyncio.gather(*futures)
    assert max(index for index, name in enumerate(order) if name == "quick") < 10


async def test_what_a_model_ran_inline_is_not_held_against_it(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    order: list[str] = []
    inline = make(batch_size=4, inline_size=1, queue_size=100, by=Named("inline", order, runtime.gate))
    for value in range(20):
        assert labels(await inline.submit(x(value))) == [value]
    order.clear()
    busy = make(batch_size=1, queue_size=100, by=Named("busy", order, runtime.gate))
    futures = [busy.submit(x(value)) for value in range(10)]
    futures += [inline.submit(x(value)) for value in range(2)]  # too many to run inline
    await asyncio.gather(*futures)
    assert order.index("inline") < 5


async def test_nothing_is_mixed_up_under_load(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    batcher = make(batch_size=7, queue_size=10_000)
    rng = np.random.default_rng(0)

    async def caller(name: int) -> None:
        for turn in range(20):
            values = [float(name * 1000 + turn * 10 + i) for i in range(int(rng.integers(1, 6)))]
            assert labels(await batcher.submit(x(*values))) == values

    await asyncio.gather(*(caller(name) for name in range(30)))

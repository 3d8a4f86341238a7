"""The micro-batcher, with a runtime whose runs the test opens and closes."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_core.manifest import OUTPUTS
from softrisk_service.batcher import Batcher
from softrisk_service.errors import InvalidInputError, NotReadyError, QueueFullError

Numbers = NDArray[np.float32]


class GatedRuntime:
    """Echoes its input as the label; each run waits for the gate. A row of −1 fails the run, of −2 is not finite."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.sizes: list[int] = []

    def run(self, inputs: dict[str, Numbers]) -> dict[str, NDArray[Any]]:
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
        self.depth = 0
        self.rows = 0
        self.queue_depth = self
        self.stages = {"queue": self}

    def set(self, value: int) -> None:
        self.depth = value

    def observe(self, value: float) -> None:
        assert value >= 0

    def count_batch(self, outputs: dict[str, NDArray[Any]], finite: NDArray[np.bool_] | None, seconds: float) -> None:
        self.rows += len(outputs["rank"]) if finite is None else int(finite.sum())


@pytest.fixture
def runtime() -> Iterator[GatedRuntime]:
    gated = GatedRuntime()
    yield gated
    gated.gate.set()


@pytest.fixture
def metrics() -> CountingMetrics:
    return CountingMetrics()


@pytest.fixture
async def make(runtime: GatedRuntime, metrics: CountingMetrics) -> Any:
    batchers: list[Batcher] = []

    def build(max_batch_size: int = 8, queue_size: int = 16) -> Batcher:
        # Stand-ins with the same methods, and nothing else in common.
        stand_ins: Any = (runtime, metrics)
        batchers.append(Batcher(*stand_ins, max_batch_size=max_batch_size, queue_size=queue_size))
        return batchers[-1]

    yield build
    runtime.gate.set()
    for batcher in batchers:
        await batcher.close()


def x(*values: float) -> dict[str, Numbers]:
    return {"x": np.array(values, np.float32)[:, None]}


def labels(outputs: Any) -> list[int]:
    return [int(label) for label in outputs["label"]]


async def started(runtime: GatedRuntime) -> None:
    assert await asyncio.to_thread(runtime.started.acquire, timeout=10)


Make = Callable[..., Batcher]


async def test_an_idle_model_runs_at_once_and_the_next_batch_collects_meanwhile(
    make: Make, runtime: GatedRuntime, metrics: CountingMetrics
) -> None:
    batcher = make()
    first = batcher.submit(x(1))
    await started(runtime)
    later = [batcher.submit(x(value)) for value in (2, 3, 4)]
    assert metrics.depth == 3
    runtime.gate.set()
    assert [labels(await future) for future in (first, *later)] == [[1], [2], [3], [4]]
    assert runtime.sizes == [1, 3]
    assert (metrics.depth, metrics.rows) == (0, 4)


async def test_requests_of_the_same_turn_of_the_loop_share_a_batch(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    batcher = make()
    futures = [batcher.submit(x(value, value + 10)) for value in (1, 2, 3)]
    assert [labels(await future) for future in futures] == [[1, 11], [2, 12], [3, 13]]
    assert runtime.sizes == [6]


async def test_batches_stay_within_their_limit_and_large_requests_are_cut(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    batcher = make(max_batch_size=4)
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
    for refuse in (batcher.check_room, lambda: batcher.submit(x(5))):
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
    assert metrics.rows == 5


async def test_closing_ends_the_running_batch_and_refuses_the_rest(make: Make, runtime: GatedRuntime) -> None:
    batcher = make()
    running = batcher.submit(x(1))
    await started(runtime)
    waiting = batcher.submit(x(2))
    closing = asyncio.create_task(batcher.close())
    with pytest.raises(NotReadyError):
        await waiting
    runtime.gate.set()
    assert labels(await running) == [1]
    await closing
    with pytest.raises(NotReadyError):
        batcher.submit(x(3))


async def test_nothing_is_mixed_up_under_load(make: Make, runtime: GatedRuntime) -> None:
    runtime.gate.set()
    batcher = make(max_batch_size=7, queue_size=10_000)
    rng = np.random.default_rng(0)

    async def caller(name: int) -> None:
        for turn in range(20):
            values = [float(name * 1000 + turn * 10 + i) for i in range(int(rng.integers(1, 6)))]
            assert labels(await batcher.submit(x(*values))) == values

    await asyncio.gather(*(caller(name) for name in range(30)))

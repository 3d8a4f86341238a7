"""The thread in which models run, one batch at a time, fair between the models of the process.

One batch uses all cores that onnxruntime may use; two at the same time would only take them from each other. So the
models take turns: next is the one that has had the least of the lane's time (start-time fair queueing, Goyal et al.,
SIGCOMM 1996). A model that was idle starts level with the others, it saves nothing up.
"""

import asyncio
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Final, NamedTuple, Protocol

Done = Callable[[], None]

_AHEAD: Final = 2
"""Batches handed to the thread: the running one, and one behind it, so that it need not wait for the event loop."""


class Model(Protocol):
    """Who brings batches to the lane."""

    spent: float
    """Seconds of the lane that its batches took."""
    usual: float
    """Seconds that its last batch took there."""

    def waits(self) -> bool:
        """Whether requests wait."""

    def fills_a_batch(self) -> bool:
        """Whether waiting longer could not make its next batch larger."""

    def take(self) -> Callable[[], Done]:
        """Its next batch: a function for the thread, which raises nothing and returns one for the event loop."""


class Lane:
    """See the module."""

    def __init__(self) -> None:
        # A thread and a queue of our own, without an executor's two futures for each batch.
        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="softrisk-run", daemon=True)
        self._thread.start()
        self._models: set[Model] = set()
        self._handed = 0
        self._clock = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no batch runs or waits here."""
        return not self._handed

    def enter(self, model: Model) -> None:
        """Give a model with waiting requests its turns."""
        if model not in self._models:
            self._models.add(model)
            model.spent = max(model.spent, self._clock)
        self._hand_over()

    def close(self) -> None:
        """Let what was handed over end; blocks until then."""
        self._batches.put(None)
        self._thread.join()

    def _hand_over(self) -> None:
        while self._handed < _AHEAD and self._models:
            model = min(self._models, key=lambda candidate: candidate.spent)
            if not model.waits():
                self._models.discard(model)
                continue
            # Behind a running batch, a batch that could still grow is better left to grow.
            if self._handed and not model.fills_a_batch():
                return
            run = model.take()
            self._clock = model.spent
            # Charged at once with what it will probably take, or it would be its turn again.
            batch = _Batch(asyncio.get_running_loop(), model, model.usual, run)
            model.spent += batch.charged
            self._handed += 1
            self._batches.put(batch)

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            start = time.perf_counter()
            done = batch.run()
            seconds = time.perf_counter() - start
            batch.loop.call_soon_threadsafe(self._finish, batch.model, batch.charged, seconds, done)
            del batch, done  # the model may have been unloaded

    def _finish(self, model: Model, charged: float, seconds: float, done: Done) -> None:
        self._handed -= 1
        model.spent += seconds - charged
        model.usual = seconds
        self._hand_over()  # first, so that the next batch runs while these answers are written
        done()


class _Batch(NamedTuple):
    """What is handed to the thread."""

    loop: asyncio.AbstractEventLoop
    model: Model
    charged: float
    run: Callable[[], Done]

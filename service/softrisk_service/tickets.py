"""Requests on their way through a batcher, and what becomes of them."""

from typing import Protocol

import numpy as np

from softrisk_service.outcome import Batch, Inputs, Rows

Outcome = Rows | Exception
"""The rows of a request in a batch; or an `InvalidInputError` if its values are not valid for the model, or the model
answers them with NaN or infinity, a `DeadlineError`, a `NotReadyError`, or what running the model raised."""


class Queue(Protocol):
    """Where a ticket waits."""

    def free(self, ticket: "Ticket") -> None:
        """Give its places back."""


class Ticket:
    """A request in a queue; subclasses say what becomes of its outcome.

    Attributes:
        inputs: By name, each (B, …) with the same B ≥ 1, of the model's shapes.
        rows: B.
        since: When it was queued, on the clock of `time.perf_counter`.
        deadline: When an outcome is too late.
        queue: Where it waits; None before and after.
        is_open: Whether somebody waits for the outcome.
    """

    def __init__(self) -> None:
        self.queue: Queue | None = None
        self.is_open = False

    def enter(self, queue: Queue, inputs: Inputs, rows: int, since: float, deadline: float) -> None:
        """Begin to wait."""
        self.queue = queue
        self.inputs = inputs
        self.rows = rows
        self.since = since
        self.deadline = deadline
        self.is_open = True

    def deliver(self, outcome: Outcome) -> None:
        """Take the outcome, once, in the event loop."""
        raise NotImplementedError

    def settle(self, outcome: Outcome) -> None:
        """Deliver the outcome, unless one was delivered before or nobody waits."""
        if self.is_open:
            self.is_open = False
            if self.queue is not None:
                self._leave(self.queue)
            self.deliver(outcome)

    def withdraw(self) -> None:
        """Tell that nobody waits any more; nothing will be delivered."""
        self.is_open = False
        if self.queue is not None:
            self._leave(self.queue)

    def _leave(self, queue: Queue) -> None:
        queue.free(self)
        self.inputs = {}  # the batcher may come across it much later


class Part(Ticket):
    """A piece of a request that is larger than a batch."""

    def __init__(self, whole: "Whole", index: int) -> None:
        super().__init__()
        self._whole = whole
        self._index = index

    def deliver(self, outcome: Outcome) -> None:
        """Hand it to the whole."""
        self._whole.collect(self._index, outcome)


class Whole:
    """Puts the pieces of a request together; the queue of its ticket.

    Args:
        ticket: The request.
        count: Number of pieces.

    Attributes:
        parts: The pieces, until the outcome is known.
    """

    def __init__(self, ticket: Ticket, count: int) -> None:
        self._ticket = ticket
        self._rows: list[Rows | None] = [None] * count
        self.parts = [Part(self, index) for index in range(count)]

    def collect(self, index: int, outcome: Outcome) -> None:
        """Take the outcome of a piece."""
        if isinstance(outcome, Exception):
            self._ticket.settle(outcome)
            return
        self._rows[index] = outcome
        found = [rows for rows in self._rows if rows is not None]
        if len(found) == len(self._rows):
            self._ticket.settle(_joined(found))

    def free(self, ticket: Ticket) -> None:
        """Withdraw what is left, for the request has its outcome or needs none."""
        ticket.queue = None
        parts, self.parts = self.parts, []  # parts and whole hold each other
        for part in parts:
            part.withdraw()


def _joined(parts: list[Rows]) -> Rows:
    pieces = [part.outputs for part in parts]
    outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    ranks = [rank for part in parts for rank in part.ranks]
    labels = [label for part in parts for label in part.labels]
    return Rows(Batch(outputs, ranks, labels), 0, len(ranks))

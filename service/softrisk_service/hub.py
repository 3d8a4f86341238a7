"""What the supervisor does for its workers when one of them asks: numbers of all, orders to all."""

import asyncio
import subprocess
from dataclasses import dataclass, field
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, ProcessCollector, disable_created_metrics

from softrisk_service.channel import Channel
from softrisk_service.errors import ChannelClosedError, ChannelError
from softrisk_service.exposition import Snapshot, merge, render_snapshot, snapshot, totals

ANSWER_SECONDS = 1.0
"""Longest wait for a worker's numbers; those it gave before are shown instead."""

log = structlog.get_logger()


@dataclass(eq=False)
class Member:
    """A worker process.

    Attributes:
        process: It.
        channel: To it.
        late: Whether it takes no connection before its models are loaded.
        listens: Whether it takes connections.
        loaded: Whether its models are loaded, some of them at least.
        settled: Set when they are, or when it is gone.
        taken: What it had counted when it was last asked.
    """

    process: "subprocess.Popen[bytes]"
    channel: Channel
    late: bool = False
    listens: bool = False
    loaded: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    taken: Snapshot = field(default_factory=list)

    async def ask(self, seconds: float) -> bool:
        """Bring its numbers up to date; false if it does not give them in time."""
        try:
            async with asyncio.timeout(seconds):
                self.taken = await self.channel.call("snapshot")
        except TimeoutError:
            return False
        except ChannelClosedError:  # it has ended, which is seen elsewhere
            pass
        except ChannelError as error:  # it does not hang, so it goes on serving
            log.error("worker cannot give its numbers", pid=self.process.pid, reason=str(error))
        return True


class Hub:
    """The workers that there are, and what is left of those that were.

    No total ever falls: a worker that is silent or gone counts with what it gave last.

    Attributes:
        members: The workers.
        unloaded: Models that were unloaded on request, and not loaded again since.
        served: Whether any worker ever had its models loaded.
        lost: How many died.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # not annotated by the library
        self.members: list[Member] = []
        self.unloaded: set[str] = set()
        self.served = False
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.lost = Counter("softrisk_workers_lost_total", "Worker processes that died.", registry=self._registry)
        self._ended: Snapshot = []

    def add(self, member: Member) -> None:
        """Take a worker in."""
        self.members.append(member)
        member.channel.offer("scrape", self._scrape)
        member.channel.offer("order", self._order)

    def remove(self, member: Member) -> None:
        """Let go of one that has ended, and keep what it had counted."""
        self.members.remove(member)
        member.settled.set()
        self._ended = merge([self._ended, totals(member.taken)])

    async def settle(self, member: Member) -> None:
        """Take note that one has its models loaded, and wait for those that take connections without."""
        self.served = member.loaded = True
        member.settled.set()
        for other in list(self.members):
            if not other.late:
                await other.settled.wait()

    async def _scrape(self, accept: str) -> tuple[str, str]:
        asked = [member for member in self.members if member.listens]
        answers = await asyncio.gather(*(member.ask(ANSWER_SECONDS) for member in asked))
        for member, answered in zip(asked, answers, strict=True):
            if not answered:
                log.warning("worker gives no numbers, those it gave before are shown", pid=member.process.pid)
        taken = [member.taken for member in self.members]
        text, content_type = render_snapshot(merge([snapshot(self._registry), self._ended, *taken]), accept)
        return text.decode(), content_type

    async def _order(self, order: list[Any]) -> Any:
        """Have all do something to their models; the answer is the first refusal, if there is one."""
        method, name, *_ = order
        # Before they are asked: a worker that is started meanwhile is told of it, and not asked.
        if method == "load_model":
            self.unloaded.discard(name)
        else:
            self.unloaded.add(name)
        obeying = (member.channel.call("obey", order) for member in self.members)
        refusals = []
        for answer in await asyncio.gather(*obeying, return_exceptions=True):
            if isinstance(answer, BaseException):
                # One that is gone refuses nothing: who takes its place begins with what the repository holds.
                if not isinstance(answer, ChannelClosedError):
                    raise answer
            elif answer is not None:
                refusals.append(answer)
        if refusals:
            self.unloaded.discard(name)
        return refusals[0] if refusals else None

"""What the supervisor knows of its workers, whatever they are doing at that moment."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any, cast

import pytest

from softrisk_service import supervisor
from softrisk_service.channel import Channel
from softrisk_service.hub import Hub, Member

Join = Callable[..., tuple[Member, Channel]]


class Process:
    """Stands for a worker's process."""

    pid = 1

    def __init__(self) -> None:
        self.killed = asyncio.Event()

    def kill(self) -> None:
        self.killed.set()


@pytest.fixture
async def join() -> AsyncIterator[Join]:
    """Makes a member, and the end of its channel that the worker has."""
    async with AsyncExitStack() as closing:

        def make(late: bool = False) -> tuple[Member, Channel]:
            ours, theirs = (Channel(end) for end in socket.socketpair())
            for end in (ours, theirs):
                closing.push_async_callback(stop, asyncio.create_task(end.run()))
            return Member(cast("Any", Process()), ours, late), theirs

        yield make


async def stop(running: asyncio.Task[None]) -> None:
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_who_takes_connections_late_waits_for_who_takes_them_already(join: Join) -> None:
    hub = Hub()
    (early, _), (late, _), (later, _) = join(), join(late=True), join(late=True)
    for member in (early, late, later):
        hub.add(member)
    waiting = asyncio.create_task(hub.settle(late))
    await asyncio.sleep(0)
    assert hub.served
    assert late.loaded
    assert not waiting.done()
    await hub.settle(early)
    await waiting
    await hub.settle(later)


async def test_nobody_waits_for_a_worker_that_is_gone(join: Join) -> None:
    hub = Hub()
    (early, _), (late, _) = join(), join(late=True)
    hub.add(early)
    hub.add(late)
    waiting = asyncio.create_task(hub.settle(late))
    await asyncio.sleep(0)
    assert not waiting.done()
    hub.remove(early)
    await waiting


@pytest.mark.parametrize("refusal", [None, ["UnknownModelError", "no model"]])
async def test_a_worker_that_starts_during_an_unload_is_told(join: Join, refusal: list[str] | None) -> None:
    hub = Hub()
    member, worker = join()
    hub.add(member)
    asked, told = asyncio.Event(), asyncio.Event()

    async def obey(_: Any) -> list[str] | None:
        asked.set()
        await told.wait()
        return refusal

    worker.offer("obey", obey)
    unloading = asyncio.create_task(worker.call("order", ["unload_model", "tiny"]))
    await asked.wait()
    assert hub.unloaded == {"tiny"}  # what a worker is told at its start
    told.set()
    assert await unloading == refusal
    assert hub.unloaded == (set() if refusal else {"tiny"})
    loading = asyncio.create_task(worker.call("order", ["load_model", "tiny"]))
    await loading
    assert not hub.unloaded


async def test_a_worker_that_fails_to_count_is_shown_with_what_it_gave_before(join: Join) -> None:
    hub = Hub()
    member, worker = join()
    hub.add(member)
    member.listens = True

    async def fail(_: Any) -> Any:
        raise ValueError("no numbers")

    worker.offer("snapshot", fail)
    assert await member.ask(10)
    text, _ = await worker.call("scrape", "")
    assert "softrisk_workers_lost_total 0.0" in text


async def test_a_worker_that_hangs_at_its_start_is_killed(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PULSE_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "START_SECONDS", 0.01)
    member, worker = join(late=True)

    async def hang(_: Any) -> Any:
        await asyncio.Event().wait()

    worker.offer("snapshot", hang)
    watching = asyncio.create_task(supervisor._watch(member))
    async with asyncio.timeout(10):
        await cast("Any", member.process).killed.wait()
    await stop(watching)

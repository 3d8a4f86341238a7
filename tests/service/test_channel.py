"""Calls between processes, here between two ends in one."""

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from softrisk_service.channel import Channel
from softrisk_service.errors import ChannelClosedError, ChannelError


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair()
    channels = Channel(left), Channel(right)
    running = [asyncio.create_task(channel.run()) for channel in channels]
    yield channels
    for task in running:
        task.cancel()
    await asyncio.wait(running)


async def echo(content: Any) -> Any:
    return content


async def test_both_ends_call_at_once_and_each_gets_its_own_answer(ends: tuple[Channel, Channel]) -> None:
    released = asyncio.Event()

    async def slow(content: Any) -> Any:
        await released.wait()
        return content

    for end in ends:
        end.offer("echo", echo)
        end.offer("slow", slow)
    left, right = ends
    waiting = [asyncio.create_task(end.call("slow", f"{number} ü")) for number in range(20) for end in ends]
    assert await left.call("echo", {"a": [1.5, None]}) == {"a": [1.5, None]}
    assert await right.call("echo", "x" * 1_000_000) == "x" * 1_000_000
    assert not any(call.done() for call in waiting)
    released.set()
    assert await asyncio.gather(*waiting) == [f"{number} ü" for number in range(20) for _ in ends]


async def test_a_call_that_fails_says_so_and_the_channel_goes_on(ends: tuple[Channel, Channel]) -> None:
    async def fail(_: Any) -> None:
        raise KeyError("no rule")

    left, right = ends
    right.offer("fail", fail)
    right.offer("echo", echo)
    with pytest.raises(ChannelError, match=r"fail: KeyError.*no rule"):
        await left.call("fail")
    with pytest.raises(ChannelError, match="unheard"):
        await left.call("unheard")
    assert await left.call("echo", 1) == 1


async def test_an_answer_that_comes_too_late_is_dropped(ends: tuple[Channel, Channel]) -> None:
    released = asyncio.Event()

    async def slow(_: Any) -> None:
        await released.wait()

    left, right = ends
    right.offer("slow", slow)
    right.offer("echo", echo)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(left.call("slow"), 0.01)
    released.set()
    assert await left.call("echo", 2) == 2


async def test_the_end_is_noticed_while_an_answer_is_being_worked_out() -> None:
    left, right = socket.socketpair()
    caller, callee = Channel(left), Channel(right)
    calling, serving = asyncio.create_task(caller.run()), asyncio.create_task(callee.run())
    asked, released, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_: Any) -> None:
        asked.set()
        await released.wait()
        done.set()

    callee.offer("slow", slow)
    waiting = asyncio.create_task(caller.call("slow"))
    await asked.wait()
    calling.cancel()
    with pytest.raises(ChannelClosedError):
        await waiting
    await serving
    released.set()
    await done.wait()


@pytest.mark.parametrize("sent", [b"", b"\x00\x00", b"\x00\x00\x00\x09[0,"])
async def test_callers_learn_that_the_other_end_is_gone(sent: bytes) -> None:
    left, other = socket.socketpair()
    channel = Channel(left)
    running = asyncio.create_task(channel.run())
    waiting = asyncio.create_task(channel.call("anything"))
    loop = asyncio.get_running_loop()
    other.setblocking(False)
    await loop.sock_recv(other, 1)  # the call is out
    await loop.sock_sendall(other, sent)
    other.close()
    with pytest.raises(ChannelClosedError):
        await waiting
    await running
    with pytest.raises(ChannelClosedError):
        await channel.call("anything")

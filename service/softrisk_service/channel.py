"""Calls between two processes over a socket, in both directions at once.

A frame is four bytes with the length of what follows, big-endian, then JSON: `[id, method, content]` for a call,
`[id, null, content]` for its answer, `[id, null, null, error]` for its failure.
"""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import orjson

from softrisk_service.errors import ChannelClosedError, ChannelError

Handler = Callable[[Any], Awaitable[Any]]

_LENGTH_BYTES: Final = 4


class Channel:
    """One end of a connected stream socket.

    Args:
        connection: The socket; the channel closes it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._handlers: dict[str, Handler] = {}
        self._opened = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._ids = itertools.count()

    def offer(self, method: str, handler: Handler) -> None:
        """Let the other end call something here, which takes and returns what JSON can say."""
        self._handlers[method] = handler

    async def run(self) -> None:
        """Answer calls, and take answers in, until the other end is gone."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._connection)
        self._opened.set()
        try:
            while frame := await _next_frame(reader):
                number, method, content, *error = frame
                if method is not None:
                    answering = asyncio.create_task(self._answer(number, method, content))
                    self._answering.add(answering)
                    answering.add_done_callback(self._answering.discard)
                elif (waiting := self._waiting.get(number)) is not None and not waiting.done():
                    if error:
                        waiting.set_exception(ChannelError(error[0]))
                    else:
                        waiting.set_result(content)
        finally:
            self._writer.close()
            self._writer = None
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ChannelClosedError("the other end is gone"))

    async def call(self, method: str, content: Any = None) -> Any:
        """Ask the other end to do something.

        Args:
            method: One of its handlers.
            content: What that takes.

        Returns:
            What it returned.

        Raises:
            ChannelError: If it failed.
            ChannelClosedError: If it is gone.
        """
        await self._opened.wait()
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(number, method, content)
            return await answer
        finally:
            del self._waiting[number]

    async def _answer(self, number: int, method: str, content: Any) -> None:
        try:
            answer = [await self._handlers[method](content)]
        except Exception as error:
            answer = [None, f"{method}: {error!r}"]
        with suppress(ChannelClosedError):  # then nobody waits for it
            self._send(number, None, *answer)

    def _send(self, *frame: Any) -> None:
        if self._writer is None:
            raise ChannelClosedError("there is nobody at the other end")
        content = orjson.dumps(frame)
        self._writer.write(len(content).to_bytes(_LENGTH_BYTES, "big") + content)


async def _next_frame(reader: asyncio.StreamReader) -> list[Any] | None:
    try:
        length = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        frame: list[Any] = orjson.loads(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, OSError):  # killed, perhaps in the middle of a frame
        return None
    return frame

"""uvicorn as `softrisk serve` runs it: how it drains, and when it gives up."""

import asyncio
import signal
import socket
from types import FrameType

import structlog
import uvicorn

from softrisk_service.engine import Engine
from softrisk_service.sockets import url

log = structlog.get_logger()


class Server(uvicorn.Server):
    """uvicorn, but on SIGTERM readiness goes off some time before the sockets close.

    It ends by itself if there turns out to be nothing to serve.

    Args:
        config: Of uvicorn.
        engine: The models that its app serves.
        drain_seconds: Time from SIGTERM to closing the sockets.
        announce: Whether to tell where it runs.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float, announce: bool = True) -> None:
        super().__init__(config)
        self._announce = announce
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell where, which uvicorn leaves to those who bring sockets of their own."""
        await super().startup(sockets)
        for listener in (sockets or ()) if self._announce else ():
            log.info(f"Uvicorn running on {url(listener)} (Press CTRL+C to quit)")

    async def on_tick(self, counter: int) -> bool:
        """Tell whether to end."""
        return await super().on_tick(counter) or self._engine.has_nothing_to_serve

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first SIGTERM; any other signal, or a second one, stops at once."""
        if sig == signal.SIGTERM and not self._draining:
            self._draining = True
            loop = asyncio.get_running_loop()
            loop.call_soon_threadsafe(self._engine.drain)
            loop.call_soon_threadsafe(loop.call_later, self._drain_seconds, super().handle_exit, sig, frame)
        else:
            super().handle_exit(sig, frame)

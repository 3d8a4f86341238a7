"""uvicorn as `softrisk serve` runs it: its sockets, how it drains, and when it gives up."""

import asyncio
import errno
import os
import signal
import socket
from contextlib import ExitStack
from types import FrameType
from typing import Any, Final

import structlog
import uvicorn

from softrisk_service.engine import Engine
from softrisk_service.errors import ConfigurationError

_NOT_HERE: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

log = structlog.get_logger()


class Server(uvicorn.Server):
    """uvicorn, but on SIGTERM readiness goes off some time before the sockets close.

    It ends by itself if there turns out to be nothing to serve.

    Args:
        config: Of uvicorn.
        engine: The models that its app serves.
        drain_seconds: Time from SIGTERM to closing the sockets.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, drain_seconds: float) -> None:
        super().__init__(config)
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._draining = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell where, which uvicorn leaves to those who bring sockets of their own."""
        await super().startup(sockets)
        for listener in sockets or ():
            log.info(f"Uvicorn running on {_url(listener)} (Press CTRL+C to quit)")

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


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen on every address of a host.

    Args:
        host: Name or address; empty for all interfaces.
        port: 0 for any free one, the same on every address.

    Raises:
        ConfigurationError: If the host has no address on this machine, or the port cannot be had.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"no host is called {host}: choose an address of this machine with --host") from error
    absent: OSError | None = None
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, address in dict.fromkeys((family, address) for family, *_, address in found):
            taken = sockets[0].getsockname()[1] if sockets else port
            try:
                listener = socket.create_server((address[0], taken, *address[2:]), family=family)
            except OSError as error:
                # localhost has an IPv6 address by name even on machines without IPv6.
                if error.errno not in _NOT_HERE:
                    raise ConfigurationError(_explained(error, host, port)) from error
                absent = error
            else:
                sockets.append(opened.enter_context(listener))
        if absent is not None and not sockets:
            raise ConfigurationError(_explained(absent, host, port)) from absent
        opened.pop_all()
    return sockets


def _explained(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} on {host} is taken: choose another with --port"
        case errno.EACCES | errno.EPERM:
            return f"port {port} on {host} is not permitted to this user: choose one above 1023 with --port"
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return f"{host} is no address of this machine: choose one with --host"
        case code:
            return f"cannot listen on port {port} of {host}: {os.strerror(code or 0)}"


def _url(listener: socket.socket) -> str:
    address: Any = listener.getsockname()
    host = f"[{address[0]}]" if listener.family == socket.AF_INET6 else address[0]
    return f"http://{host}:{address[1]}"

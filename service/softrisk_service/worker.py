"""A process that serves: the only one, or a worker of a `Supervisor`."""

import asyncio
import gc
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, disable_created_metrics

from softrisk_service.app import create_app
from softrisk_service.channel import Channel
from softrisk_service.engine import Engine
from softrisk_service.errors import ChannelClosedError, NothingToServeError
from softrisk_service.logs import configure_logs
from softrisk_service.metrics import Metrics
from softrisk_service.server import Server
from softrisk_service.settings import Settings
from softrisk_service.shortcut import ShortcutProtocol
from softrisk_service.siblings import Siblings
from softrisk_service.supervisor import Assignment


def serve(settings: Settings, sockets: list[socket.socket]) -> None:
    """Serve from this process until a signal ends it.

    Raises:
        ConfigurationError: If there is nothing to serve.
    """
    registry, engine = _engine(settings)
    app = create_app(settings, registry=registry, engine=engine)
    _beside(app, lambda: _freeze(engine), wait=False)
    Server(_config(settings, app), engine, settings.drain_seconds).run(sockets)
    if engine.has_nothing_to_serve:
        raise NothingToServeError(settings.repository, engine.faults)


class Worker(Server):
    """A server with siblings.

    Signals are blocked in its process, from its first moment on: the supervisor has them and passes them on. So it
    does not matter whether a terminal or systemd signals all processes or only the first.

    Args:
        config: Of uvicorn.
        engine: The models that its app serves.
        assignment: What the process was told.
        channel: To the supervisor.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine, assignment: Assignment, channel: Channel) -> None:
        super().__init__(config, engine, assignment.settings.drain_seconds, announce=not assignment.late)
        self._channel = channel
        channel.offer("signal", self._signal)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell the supervisor."""
        self._line = asyncio.create_task(self._listen())
        await super().startup(sockets)
        with suppress(ChannelClosedError):
            await self._channel.call("listens")

    async def _listen(self) -> None:
        await self._channel.run()
        self.handle_exit(signal.SIGINT, None)  # without a supervisor there is nobody to end it later

    async def _signal(self, number: int) -> None:
        self.handle_exit(number, None)


def main() -> None:
    """Run a worker process."""
    assignment = Assignment.model_validate_json(sys.stdin.buffer.read())
    settings = assignment.settings
    configure_logs(settings)
    registry, engine = _engine(settings)
    channel = Channel(socket.socket(fileno=assignment.channel))
    siblings = Siblings(channel, registry, engine)
    app = create_app(settings, registry=registry, engine=engine, siblings=siblings)
    _beside(app, lambda: _prepare(siblings, engine, assignment), wait=assignment.late)
    listeners = [socket.socket(fileno=listener) for listener in assignment.listeners]
    Worker(_config(settings, app), engine, assignment, channel).run(listeners)


def _engine(settings: Settings) -> tuple[CollectorRegistry, Engine]:
    # Every series would bring a second one with its birthday, which no rule or panel reads.
    disable_created_metrics()  # type: ignore[no-untyped-call] # not annotated by the library
    registry = CollectorRegistry()
    return registry, Engine(settings, Metrics(registry))


def _config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="auto",  # uvloop, where there is one
        http=ShortcutProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        # They would let callers choose the address by which they are judged.
        proxy_headers=False,
        timeout_graceful_shutdown=math.ceil(settings.shutdown_seconds),
    )


async def _prepare(siblings: Siblings, engine: Engine, assignment: Assignment) -> None:
    await _freeze(engine)
    await siblings.prepare(assignment.unloaded)


async def _freeze(engine: Engine) -> None:
    await engine.loaded.wait()
    # What is there now stays: without this the collector would look through all of it again and again.
    gc.collect()
    gc.freeze()


def _beside(app: FastAPI, job: Callable[[], Coroutine[Any, Any, None]], wait: bool) -> None:
    """Have something done when the app starts: before it takes connections, or beside that."""
    lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def extended(served: Any) -> AsyncIterator[Any]:
        async with lifespan(served) as state:
            doing = asyncio.create_task(job())
            if wait:
                await doing
            yield state

    app.router.lifespan_context = extended


if __name__ == "__main__":
    main()

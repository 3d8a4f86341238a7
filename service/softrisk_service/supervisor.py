"""Several processes that serve together, on one port.

The supervisor starts the workers, replaces those that die, passes signals on, and is the hub by which they know of
each other. It is connected with each of them by a pair of sockets, whose end also tells the death of either side: so
workers never outlive it.
"""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final

import structlog
from pydantic import BaseModel

from softrisk_service.channel import Channel
from softrisk_service.errors import ChannelClosedError, NothingToServeError, ServiceError, WorkerError
from softrisk_service.hub import Hub, Member
from softrisk_service.settings import Settings
from softrisk_service.sockets import share

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

PULSE_SECONDS = 5.0
"""Time from one look at a worker to the next. A crash loses no more of its counts than this."""
SILENCE_SECONDS = 30.0
"""A worker that says nothing for so long is killed: the kernel would go on giving it its share of connections."""
START_SECONDS = 120.0
"""The same while it is being started: modules may come from a slow disk."""
RETRY_SECONDS = 1.0
"""Time before a worker that did not come up is started again."""
EXIT_SECONDS = 10.0
"""Longest time from a worker's last word to its end, and to the end of all beyond that of the settings."""

log = structlog.get_logger()


class Assignment(BaseModel):
    """What a worker process is told on its standard input.

    Attributes:
        settings: Of the service.
        channel: File descriptor of the connection to the supervisor.
        listeners: File descriptors of its own sockets, bound.
        late: Whether there are others: then it takes no connection before its models are loaded, and theirs.
        unloaded: Models that were unloaded on request, and so are not served here either.
    """

    settings: Settings
    channel: int
    listeners: list[int]
    late: bool
    unloaded: list[str]


class Supervisor:
    """The processes of `softrisk serve --workers N`.

    Args:
        settings: Of the service.
        listeners: Sockets of `listen`, which tell the addresses; each worker gets sockets of its own there.
    """

    def __init__(self, settings: Settings, listeners: list[socket.socket]) -> None:
        self._settings = settings
        # Bound and never listening, these keep the port for us while a worker is replaced.
        self._places = [share(listener) for listener in listeners]
        for listener in listeners:
            listener.close()
        self._hub = Hub()
        self._stopping = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()
        self._signal: int | None = None
        self._fault: ServiceError | None = None

    def run(self) -> None:
        """Serve until a signal ends it, and end by that signal, as a single process does.

        Raises:
            NothingToServeError: If there is nothing to serve.
            WorkerError: If no worker comes up.
        """
        asyncio.run(self._run())
        if self._fault is not None:
            raise self._fault
        if self._signal is not None:
            signal.raise_signal(self._signal)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._take, number)
        try:
            async with asyncio.TaskGroup() as keeping:
                for _ in range(self._settings.workers):
                    keeping.create_task(self._keep())
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
            for place in self._places:
                place.close()

    async def _keep(self) -> None:
        """Have one worker running, whichever it is."""
        while not self._stopping.is_set():
            try:
                member = self._start()
            except OSError as error:  # no process, memory or file descriptor is left for it
                if not self._hub.served:
                    self._end(WorkerError(f"no worker can be started: {error}"))
                log.error("worker not started", reason=str(error))
                await self._pause()
                continue
            watching = asyncio.create_task(_watch(member))
            try:
                await member.channel.run()
                status = await _reap(member.process)
            finally:
                watching.cancel()
                self._hub.remove(member)
            if self._stopping.is_set():
                return
            self._hub.lost.inc()
            log.error("worker died", pid=member.process.pid, status=status)
            if not member.loaded:
                if not self._hub.served:
                    self._end(WorkerError(f"a worker process ended at its start, with status {status}"))
                await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), RETRY_SECONDS)

    def _start(self) -> Member:
        late = bool(self._hub.members)
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = self._spawn(theirs, late)
            except OSError:
                ours.close()
                raise
        member = Member(process, Channel(ours), late)

        async def listens(_: None) -> None:
            member.listens = True
            report()

        async def loaded(_: None) -> None:
            # From those that listen and are not loaded the next request could get 503, after a 200 from this one.
            await self._hub.settle(member)
            report()

        def report() -> None:
            if member.listens and member.loaded:
                log.info("worker up", pid=process.pid)

        async def find_nothing(faults: list[str]) -> None:
            process.kill()
            if not self._hub.served:
                self._end(NothingToServeError(self._settings.repository, faults))

        member.channel.offer("listens", listens)
        member.channel.offer("loaded", loaded)
        member.channel.offer("nothing to serve", find_nothing)
        self._hub.add(member)
        return member

    def _spawn(self, connection: socket.socket, late: bool) -> "subprocess.Popen[bytes]":
        with ExitStack() as opened:
            listeners = [opened.enter_context(share(place)).fileno() for place in self._places]
            with _signals_blocked():
                process = subprocess.Popen(
                    # -P, so that no module is taken from the folder where the command is given.
                    [sys.executable, "-P", "-m", "softrisk_service.worker"],
                    stdin=subprocess.PIPE,
                    pass_fds=(connection.fileno(), *listeners),
                )
        assignment = Assignment(
            settings=self._settings,
            channel=connection.fileno(),
            listeners=listeners,
            late=late,
            unloaded=sorted(self._hub.unloaded),
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin as told:  # broken if it has died
            told.write(assignment.model_dump_json().encode())
        return process

    def _end(self, fault: ServiceError) -> None:
        self._fault = self._fault or fault
        self._stop(signal.SIGINT)

    def _take(self, number: int) -> None:
        self._signal = self._signal or number
        self._stop(number)

    def _stop(self, number: int) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            patience = self._settings.drain_seconds + self._settings.shutdown_seconds + EXIT_SECONDS
            asyncio.get_running_loop().call_later(patience, self._kill)
        for member in self._hub.members:
            telling = asyncio.create_task(_tell(member, number))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    def _kill(self) -> None:
        for member in self._hub.members:
            member.process.kill()


async def _watch(member: Member) -> None:
    while True:
        await asyncio.sleep(PULSE_SECONDS)
        if not await member.ask(SILENCE_SECONDS if member.listens else START_SECONDS):
            log.error("worker hangs", pid=member.process.pid)
            member.process.kill()


async def _tell(member: Member, number: int) -> None:
    with suppress(ChannelClosedError):
        await member.channel.call("signal", number)


async def _reap(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end of a process; not in a thread, which there may be none left of either."""
    loop = asyncio.get_running_loop()
    end = loop.time() + EXIT_SECONDS
    while (status := process.poll()) is None:
        if loop.time() > end:
            process.kill()
        await asyncio.sleep(0.02)
    return status


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block them in processes started meanwhile, for good: they inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

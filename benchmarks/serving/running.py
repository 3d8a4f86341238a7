"""A server from its start to its end, with all its processes."""

import http.client
import os
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.serving.codecs import Request
from benchmarks.serving.environments import environment
from benchmarks.serving.errors import UnavailableError
from benchmarks.serving.processes import Family
from benchmarks.serving.servers import Server
from benchmarks.serving.subjects import ROOT, Subject

PATIENCE: Final = 30.0
"""Seconds given to a server to become ready."""
_CONNECTIONS: Final = 20
"""New connections that must be answered in a row before a server counts as started."""
_MARK: Final = "BENCH_MARK"
"""Variable that all processes of a server carry."""


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        server: Its configuration.
        subject: The model it serves.
        port: On 127.0.0.1.
        family: Its processes.
        ready_seconds: From its start to its first answer to a predict request.
    """

    server: Server
    subject: Subject
    port: int
    family: Family
    ready_seconds: float


@contextmanager
def running(server: Server, subject: Subject, cache: Path) -> Iterator[Running]:
    """Start a server, wait for its first answer, and end it with all its processes at the end.

    Raises:
        UnavailableError: If it cannot be installed, or does not become ready.
    """
    programs = environment(server, cache)
    port = free_port()
    mark = uuid.uuid4().hex
    family = Family(f"{_MARK}={mark}")
    variables = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "BENCH_MODEL": str(subject.onnx_file),
        "BENCH_SHAPE": ",".join(str(size) for size in subject.network.shape),
        "BENCH_PORT": str(port),
        "BENCH_THREADS": str(subject.network.threads),
        **server.variables,
    }
    variables[_MARK] = mark
    if not server.is_ours:
        variables["PYTHONPATH"] = str(ROOT)
    fill = {"port": str(port), "repository": str(subject.repository)}
    program, *arguments = (part.format(**fill) for part in server.command)
    request = next(iter(server.codecs.values())).encode(subject.images(1))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            [programs / program, *arguments],
            env=variables,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await_answer(process, port, request)
            ready_seconds = time.perf_counter() - start
            for _ in range(_CONNECTIONS):  # the other processes of a server may take longer
                _await_answer(process, port, request)
            yield Running(server, subject, port, family, ready_seconds)
        except UnavailableError as error:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            raise UnavailableError(
                f"{server.name}: {error}: {lines[-1][:200] if lines else 'it wrote nothing'}"
            ) from error
        finally:
            family.end()
            process.wait()


def free_port() -> int:
    """A port with two free ones after it, which some peers take as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        try:
            for neighbour in (port + 1, port + 2):
                socket.create_server(("127.0.0.1", neighbour)).close()
        except (OSError, OverflowError):
            continue
        return port


def send(connection: http.client.HTTPConnection, request: Request) -> tuple[int, dict[str, str], bytes]:
    """Status, headers with names in lower case, and body of the answer to a request."""
    connection.request("POST", request.path, request.body, request.headers)
    response = connection.getresponse()
    return response.status, {name.lower(): value for name, value in response.headers.items()}, response.read()


def _await_answer(process: "subprocess.Popen[bytes]", port: int, request: Request) -> None:
    problem = "no connection"
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        try:
            problem = _ask_once(port, request)
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        if not problem:
            return
        if process.poll() is not None:
            raise UnavailableError(f"it ended with status {process.returncode}")
        time.sleep(0.01)
    raise UnavailableError(f"not ready within {PATIENCE:g} s ({problem})")


def _ask_once(port: int, request: Request) -> str:
    """What is wrong with the answer on a new connection; empty if nothing is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        status, _, body = send(connection, request)
    finally:
        connection.close()
    return "" if status == http.client.OK else f"status {status}, {body[:120].decode(errors='replace')}"

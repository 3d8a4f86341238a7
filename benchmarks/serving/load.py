"""Closed-loop load by wrk, and what it costs the server."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.serving.codecs import Request
from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.processes import Others
from benchmarks.serving.running import Running

_SCRIPT: Final = Path(__file__).with_name("post.lua")
_PREFIX: Final = "RESULT "


@dataclass(frozen=True)
class Load:
    """One measurement."""

    requests_per_second: float
    """Answered with status 2xx or 3xx."""
    p50_ms: float
    p95_ms: float
    p99_ms: float
    errors: int
    """Answers of another status, timeouts and broken connections."""
    cpu_us: float
    """Processor time of all processes of the server for a request."""
    server_cores: float
    load_cores: float
    other_cores: float
    """Cores kept busy by the server, by wrk, and by anybody else: with much of the last a figure is worth little."""
    resident_mib: float
    """Of all processes of the server, after the load."""

    def stored(self) -> dict[str, Any]:
        """As a dictionary."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def require_wrk() -> None:
    """Raise an error that says how to get wrk, if it is missing."""
    if shutil.which("wrk") is None:
        raise BenchmarkError("wrk, the load generator, is missing: apt-get install wrk (Debian, Ubuntu)")


def wrk(running: Running, request: Request, connections: int, seconds: int) -> Load:
    """Send one request over and over on some connections, each waiting for its answer.

    Raises:
        BenchmarkError: If wrk fails.
    """
    with tempfile.NamedTemporaryFile() as body:
        body.write(request.body)
        body.flush()
        headers = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
        command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
        command += ["--timeout", "10s", "--script", str(_SCRIPT), f"http://127.0.0.1:{running.port}{request.path}"]
        environment = {**os.environ, "BENCH_BODY": body.name, "BENCH_HEADERS": headers}
        others, server_before = Others(), running.family.cpu_seconds()
        children_before, start = _children_seconds(), time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        elapsed = time.perf_counter() - start
        server = running.family.cpu_seconds() - server_before
        generator, other_cores = _children_seconds() - children_before, others.cores(known=server)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_PREFIX)]
    if done.returncode or not lines:
        raise BenchmarkError(f"wrk failed: {(done.stderr or done.stdout).strip()}")
    result = json.loads(lines[0].removeprefix(_PREFIX))
    return Load(
        requests_per_second=(result["requests"] - result["error_answers"]) / result["seconds"],
        p50_ms=result["p50_ms"],
        p95_ms=result["p95_ms"],
        p99_ms=result["p99_ms"],
        errors=result["error_answers"] + result["broken"],
        cpu_us=1e6 * server / max(result["requests"], 1),
        server_cores=server / elapsed,
        load_cores=generator / elapsed,
        other_cores=other_cores,
        resident_mib=running.family.resident_mib(),
    )


def _children_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system

"""More than a server can do: requests come whether or not earlier ones are answered."""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import Any, Final

from benchmarks.serving.errors import BenchmarkError
from benchmarks.serving.load import wrk
from benchmarks.serving.open_loop import Plan
from benchmarks.serving.points import Key
from benchmarks.serving.processes import Others
from benchmarks.serving.run import Run
from benchmarks.serving.servers import OURS, Server, softrisk
from benchmarks.serving.subjects import ROOT

DEADLINE_SECONDS: Final = 1.0
FACTOR: Final = 3.0
"""Offered load over capacity."""

_MODEL: Final = "R"
_FORMAT: Final = "binary"
_CONNECTIONS: Final = 64
_SPARE_CONNECTIONS: Final = 300
"""Beyond those that wait in the queue: for requests that run or are being rejected."""


def measure(run: Run) -> None:
    """Measure capacity in a closed loop, then offer three times that: points `overload`."""
    steps = run.steps(f"overload, {_MODEL}", run.repeats)
    subject = run.subject(_MODEL)
    request = OURS[_FORMAT].encode(subject.images(1))
    for repeat in range(run.repeats):
        key: Key = {"model": _MODEL, "repeat": repeat}
        if not run.points.has("overload", key):
            with run.running(softrisk("softrisk"), subject) as found:
                wrk(found, request, _CONNECTIONS, 1)
                closed = wrk(found, request, _CONNECTIONS, run.seconds)
            server, queue = _limited(closed.requests_per_second)
            with run.running(server, subject) as found, tempfile.NamedTemporaryFile() as body:
                body.write(request.body)
                body.flush()
                plan = Plan(
                    port=found.port,
                    path=request.path,
                    headers=request.headers,
                    body=body.name,
                    connections=queue + _SPARE_CONNECTIONS,
                    rate=FACTOR * closed.requests_per_second,
                    seconds=3.0 * run.seconds,
                )
                wrk(found, request, _CONNECTIONS, 1)
                others, before = Others(), found.family.cpu_seconds()
                point = _offer(plan)
                other_cores = others.cores(known=found.family.cpu_seconds() - before)
            known = {"capacity": closed.requests_per_second, "queue": queue}
            run.points.add("overload", key, {**known, **point, "other_cores": max(closed.other_cores, other_cores)})
        steps.done()


def _limited(capacity: float) -> tuple[Server, int]:
    """Our service with a queue that is emptied in half of the deadline."""
    queue = max(_CONNECTIONS, round(capacity * DEADLINE_SECONDS / 2))
    options = {"--queue-size": queue, "--max-instances": _CONNECTIONS, "--deadline-seconds": DEADLINE_SECONDS}
    return softrisk("softrisk", *(str(part) for option in options.items() for part in option)), queue


def _offer(plan: Plan) -> dict[str, Any]:
    """Run the generator in a process of its own, where nothing else keeps it waiting."""
    command = [sys.executable, "-m", "benchmarks.serving.open_loop", json.dumps(asdict(plan))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"the load generator failed: {done.stderr.strip()}")
    point: dict[str, Any] = json.loads(done.stdout)
    return point

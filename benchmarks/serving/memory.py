"""Resident memory over many requests."""

from typing import Final

from benchmarks.serving.load import wrk
from benchmarks.serving.run import Run
from benchmarks.serving.servers import COMPARED, softrisk

_CONNECTIONS: Final = 64
_ROUND_SECONDS: Final = 2


def measure(run: Run) -> None:
    """Load our service with S in both formats by turns until enough requests are answered: the point `memory`."""
    steps = run.steps("memory", run.requests)
    if run.points.has("memory", {}):
        steps.done(run.requests)
        return
    server, subject = softrisk("softrisk"), run.subject("S")
    requests = [server.codecs[format_].encode(subject.images(1)) for format_ in COMPARED]
    answered, errors, samples = 0, 0, []
    with run.running(server, subject) as found:
        ready = found.family.resident_mib()
        rounds = 0
        while answered < run.requests:
            load = wrk(found, requests[rounds % 2], _CONNECTIONS, _ROUND_SECONDS)
            count = round(load.requests_per_second * _ROUND_SECONDS)
            answered, errors, rounds = answered + count, errors + load.errors, rounds + 1
            samples.append({"requests": answered, "resident_mib": load.resident_mib})
            steps.done(count)
    run.points.add("memory", {}, {"ready_mib": ready, "samples": samples, "errors": errors})

"""How the cost of a request grows with connections, images a request, size of an image and number of classes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from benchmarks.models import build_for
from benchmarks.serving import bare
from benchmarks.serving.load import wrk
from benchmarks.serving.points import Key
from benchmarks.serving.run import Run
from benchmarks.serving.running import Running
from benchmarks.serving.servers import COMPARED, softrisk
from benchmarks.serving.subjects import Network, Subject, prepare

CONNECTIONS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SIDES: Final = (28, 56, 112, 224)
CLASSES: Final = (10, 100, 1_000, 10_000, 20_000)

_SECONDS: Final = 1
_FEW: Final = 8
"""Connections where they are not what grows."""
_ROWS: Final = 200
"""Of calibration."""


@dataclass(frozen=True)
class _Case:
    dimension: str
    size: int
    subject: Subject
    images: int = 1
    connections: int = _FEW


def measure(run: Run) -> None:
    """Load our service at each size: points `growth`, with what `session.run` takes for such a request alone."""
    total = len(COMPARED) * (len(CONNECTIONS) + len(BATCHES) + len(SIDES) + len(CLASSES))
    steps = run.steps("growth", total)
    server = softrisk("softrisk")
    for subject, cases in _groups(run):
        keys: list[tuple[_Case, Key]] = [
            (case, {"dimension": case.dimension, "size": case.size, "format": format_})
            for case in cases
            for format_ in COMPARED
        ]
        missing = [(case, key) for case, key in keys if not run.points.has("growth", key)]
        if missing:
            with run.running(server, subject) as found:
                for case, key in missing:
                    steps.to(f"growth, {case.dimension}: {case.size:,}")
                    run.points.add("growth", key, _cost(found, case, str(key["format"])))
                    steps.done()
        steps.done(len(keys) - len(missing))


def _groups(run: Run) -> Iterator[tuple[Subject, list[_Case]]]:
    """Cases by the model they need, so that each is served once."""
    small = run.subject("S")
    yield (
        small,
        [
            *(_Case("connections", count, small, connections=count) for count in CONNECTIONS),
            *(_Case("images a request", count, small, images=count) for count in BATCHES),
        ],
    )
    for side in SIDES:
        subject = _subject(run, (3, side, side), 10)
        yield subject, [_Case("pixels", side * side, subject)]
    for classes in CLASSES:
        subject = _subject(run, (1, 28, 28), classes)
        yield subject, [_Case("classes", classes, subject)]


def _subject(run: Run, shape: tuple[int, int, int], classes: int) -> Subject:
    network = Network(f"{shape[0]}x{shape[1]}x{shape[2]}-{classes}", build_for(shape, classes), shape, _ROWS)
    return prepare(network, run.cache)


def _cost(found: Running, case: _Case, format_: str) -> dict[str, float]:
    request = found.server.codecs[format_].encode(case.subject.images(case.images))
    load = wrk(found, request, case.connections, _SECONDS)
    alone = bare.speed(case.subject.bundle_file, case.subject.images(case.images), 1, 0.1)
    return {**load.stored(), "alone_ms": alone["p50_ms"]}

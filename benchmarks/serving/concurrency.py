"""Is every answer right while many clients send everything at once and versions switch under them?"""

import http.client
import json
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.models import build_for
from benchmarks.serving.checks import compare, read
from benchmarks.serving.codecs import Answer, Codec, Images, Npy, Png, Request, V1Json, V2Binary, V2Json, model_version
from benchmarks.serving.errors import BenchmarkError, WrongAnswerError
from benchmarks.serving.points import Key
from benchmarks.serving.run import Run, Steps
from benchmarks.serving.running import PATIENCE, Running, send
from benchmarks.serving.servers import softrisk
from benchmarks.serving.subjects import Network, Subject, export, random_images, reference

CLIENTS: Final = 64
SECONDS: Final = 10
_IMAGES: Final = 32
_ROWS: Final = 500
_SWITCHED: Final = "grey"
"""The model whose versions switch; the last one appears in the repository during the run."""
_VERSIONS: Final = (1, 2, 3)
_MODELS: Final = {_SWITCHED: ((1, 28, 28), 10), "colour": ((3, 32, 32), 100), "wide": ((3, 16, 48), 1_000)}
_SERVERS: Final[dict[str, tuple[str, ...]]] = {"softrisk": (), "softrisk, 2 workers": ("--workers", "2")}
_FIRST: Final[dict[str, Codec]] = {"json": V2Json(f"/v2/models/{_SWITCHED}/infer")}
_FORMATS: Final[dict[str, tuple[Callable[[str], Codec], str]]] = {
    "V1 JSON": (V1Json, "/v1/models/{}:predict"),
    "V2 JSON": (V2Json, "/v2/models/{}/infer"),
    "V2 binary": (V2Binary, "/v2/models/{}/infer"),
    "npy": (Npy, "/v1/models/{}:predict"),
    "PNG": (Png, "/v1/models/{}:predict"),
}


@dataclass(frozen=True)
class _Question:
    """A request, and what is right by the version that answers."""

    format: str
    codec: Codec
    request: Request
    right: dict[int, Answer]


@dataclass
class _Tally:
    """What came of all requests."""

    counts: Counter[str] = field(default_factory=Counter)
    by_format: Counter[str] = field(default_factory=Counter)
    by_version: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, question: _Question, outcome: str, version: int | None = None, problem: str = "") -> None:
        with self.lock:
            self.counts[outcome] += 1
            self.by_format[question.format] += 1
            if version is not None and len(question.right) > 1:
                self.by_version[str(version)] += 1
            if problem and len(self.examples) < 5:
                self.examples.append(f"{question.format}: {problem}")


def measure(run: Run) -> None:
    """Send mixed requests on many connections while the default version switches: points `concurrency`."""
    seconds = max(SECONDS * run.seconds // 2, 3)
    steps = run.steps("concurrency", seconds * len(_SERVERS))
    missing = {name: arguments for name, arguments in _SERVERS.items() if not run.points.has("concurrency", _key(name))}
    steps.done(seconds * (len(_SERVERS) - len(missing)))
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        steps.to("concurrency: models")
        questions = list(_prepare(Path(folder, "made")))
        for name, arguments in missing.items():
            steps.to(f"concurrency: {name}")
            repository, waiting = Path(folder, name, "models"), Path(folder, name, "waiting")
            shutil.copytree(Path(folder, "made"), repository)
            # A version must be absent at first to appear by one rename later.
            (repository / _SWITCHED / str(_VERSIONS[-1])).rename(waiting)
            server = softrisk(name, "--repository-mode", "explicit", *arguments, codecs=_FIRST)
            with run.running(server, Subject(_network(_SWITCHED, 1), waiting, repository)) as found:
                _await_all_models(found)
                run.points.add("concurrency", _key(name), _ask_and_switch(found, questions, waiting, seconds, steps))


def _key(server: str) -> Key:
    return {"server": server}


def _ask_and_switch(
    found: Running, questions: list[_Question], waiting: Path, seconds: int, steps: Steps
) -> dict[str, object]:
    tally, switches = _Tally(), Counter[str]()
    choose = random.Random(0)
    begin = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(_client, found, questions, tally, begin + seconds, seed) for seed in range(CLIENTS)]
        versions: tuple[int, ...] = _VERSIONS[:-1]
        for second in range(seconds):
            if second == seconds // 3:
                waiting.rename(found.subject.repository / _SWITCHED / str(_VERSIONS[-1]))
                versions = _VERSIONS
            while time.monotonic() < begin + second + 1:
                _switch(found, choose.choice(versions), switches)
                time.sleep(0.1)
            steps.done()
        for client in clients:
            client.result()
    return {
        **{outcome: tally.counts[outcome] for outcome in ("right", "wrong", "refused", "lost")},
        "switches": switches["done"],
        "failed_switches": switches["failed"],
        "by_format": dict(tally.by_format),
        "by_version": dict(tally.by_version),
        "examples": tally.examples,
    }


def _network(name: str, version: int) -> Network:
    shape, classes = _MODELS[name]
    return Network(name, build_for(shape, classes, seed=version), shape, _ROWS)


def _prepare(repository: Path) -> Iterator[_Question]:
    for name, (shape, _) in _MODELS.items():
        versions = _VERSIONS if name == _SWITCHED else _VERSIONS[:1]
        images = random_images(shape, _IMAGES, seed=7)
        right: dict[int, Answer] = {}
        for version in versions:
            export(_network(name, version), repository, name)
            right[version] = reference(repository / name / str(version) / "model.onnx", images)
        for format_, (codec_of, path) in _FORMATS.items():
            paths = [path.format(name)]
            if name == _SWITCHED:
                paths.append(path.format(f"{name}/versions/1"))
            for each in paths:
                allowed = right if each == paths[0] else {1: right[1]}
                yield from _questions(format_, codec_of(each), images, allowed)


def _questions(format_: str, codec: Codec, images: Images, right: dict[int, Answer]) -> Iterator[_Question]:
    for row in range(len(images)):
        rows = slice(row, row + 1)
        answers = {version: {name: values[rows] for name, values in all_.items()} for version, all_ in right.items()}
        yield _Question(format_, codec, codec.encode(images[rows]), answers)


def _client(found: Running, questions: list[_Question], tally: _Tally, end: float, seed: int) -> None:
    choose = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", found.port, timeout=30)
    while time.monotonic() < end:
        question = choose.choice(questions)
        try:
            status, headers, body = send(connection, question.request)
        except (OSError, http.client.HTTPException) as error:
            tally.count(question, "lost", problem=repr(error))
            connection.close()
            continue
        if status != http.client.OK:
            tally.count(question, "refused", problem=f"{status} {body[:200].decode(errors='replace')}")
            continue
        try:
            answer = read(question.codec, headers, body)
            version = model_version(headers, body)
            if version not in question.right:
                raise WrongAnswerError(f"version {version} answered")
            compare(answer, question.right[version])
            tally.count(question, "right", version)
        except WrongAnswerError as error:
            tally.count(question, "wrong", problem=str(error))
    connection.close()


def _await_all_models(found: Running) -> None:
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        connection = http.client.HTTPConnection("127.0.0.1", found.port, timeout=30)
        connection.request("GET", "/v2/health/ready")
        status = connection.getresponse().status
        connection.close()
        if status == http.client.OK:
            return
        time.sleep(0.05)
    raise BenchmarkError(f"the models were not ready within {PATIENCE:g} s")


def _switch(found: Running, version: int, switches: Counter[str]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", found.port, timeout=30)
    body = json.dumps({"parameters": {"version": version}}).encode()
    request = Request(f"/v2/repository/models/{_SWITCHED}/load", {"Content-Type": "application/json"}, body)
    status, _, _ = send(connection, request)
    switches["done" if status == http.client.OK else "failed"] += 1
    connection.close()

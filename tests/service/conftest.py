"""Bundles of a tiny linear classifier, built without torch, and the app that serves them.

Weights and inputs are multiples of 1/8 and 1/16, so that logits, gaps and ranks are exact in float32 wherever the
tests run.
"""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import httpx2
import numpy as np
import onnx
import onnxruntime
import pytest
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from softrisk_core.bundle import CALIBRATION, GOLDEN, MODEL, Bundle, CalibrationArrays, load_bundle, write_golden
from softrisk_core.conformal import confident_rank, marginal_rank
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import (
    OUTPUTS,
    CalibrationFacts,
    ImageInput,
    InputSpec,
    Level,
    Manifest,
    ModelFacts,
    Parity,
    Tolerance,
)
from softrisk_core.repository import Repository
from softrisk_core.score_facts import Nonconformity
from softrisk_service.app import create_app
from softrisk_service.engine import Engine
from softrisk_service.metrics import Metrics
from softrisk_service.settings import Settings
from softrisk_service.shortcut import ShortcutProtocol

CLASSES = ("ant", "bee", "cat", "dog")
SHAPE = (1, 4, 4)

GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
linear (INPUTS) => (
  float[N,4] logits, float[N,4] probabilities, int64[N] label, float[N] top2_gap, float[N] logit_gap,
  float[N] dispersion, float[N] softmax_dispersion, float[N] complement_entropy, float[N] max_logit, float[N] energy,
  float[N] entropy, float[N] nonconformity, int64[N] rank, float[N] p_value, float[N] risk_score, bool[N] flagged
) <int64[1] last = {1}, int64[1] one = {1}, int64[1] four = {4}, int64[1] zero = {0}, int64[1] two = {2},
   float unit = {1.0}, float log3 = {1.0986123}>
{
  FLAT
  logits = MatMul(flat, weights)
  probabilities = Softmax<axis = 1>(logits)
  label = ArgMax<axis = 1, keepdims = 0>(logits)
  z, z_places = TopK<axis = 1>(logits, four)
  p, p_places = TopK<axis = 1>(probabilities, four)
  z1 = Slice(z, zero, one, last)
  z2 = Slice(z, one, two, last)
  p1 = Slice(p, zero, one, last)
  p2 = Slice(p, one, two, last)
  top2 = Sub(p1, p2)
  top2_gap = Squeeze(top2, last)
  gap = Sub(z1, z2)
  logit_gap = Squeeze(gap, last)
  rest = Slice(z, one, four, last)
  rest_mean = ReduceMean<keepdims = 1>(rest, last)
  spread = Sub(rest, rest_mean)
  square = Mul(spread, spread)
  variance = ReduceMean<keepdims = 0>(square, last)
  dispersion = Sqrt(variance)
  p_rest = Slice(p, one, four, last)
  p_mean = ReduceMean<keepdims = 1>(p_rest, last)
  p_spread = Sub(p_rest, p_mean)
  p_square = ReduceSumSquare<keepdims = 0>(p_spread, last)
  softmax_dispersion = Sqrt(p_square)
  q_log = LogSoftmax<axis = 1>(rest)
  q = Exp(q_log)
  q_terms = Mul(q, q_log)
  q_sum = ReduceSum<keepdims = 0>(q_terms, last)
  q_entropy = Neg(q_sum)
  complement_entropy = Div(q_entropy, log3)
  max_logit = Squeeze(z1, last)
  energy = ReduceLogSumExp<keepdims = 0>(logits, last)
  p_log = LogSoftmax<axis = 1>(logits)
  p_terms = Mul(probabilities, p_log)
  p_sum = ReduceSum<keepdims = 0>(p_terms, last)
  entropy = Neg(p_sum)
  nonconformity = Neg(logit_gap)
  score = Unsqueeze(nonconformity, last)
  above = GreaterOrEqual(calibration, score)
  counted = Cast<to = 7>(above)
  count = ReduceSum<keepdims = 0>(counted, last)
  rank = Add(count, one)
  rank_float = Cast<to = 1>(rank)
  p_value = Div(rank_float, size)
  risk_score = Sub(unit, p_value)
  flagged = LessOrEqual(rank, limit)
}
"""


class MakeBundle(Protocol):
    def __call__(
        self,
        repository: Path,
        name: str = "tiny",
        *,
        n: int = 199,
        alpha: float = 0.05,
        seed: int = 1,
        domain: tuple[float, float] | None = (0.0, 1.0),
        two_inputs: bool = False,
        tamper: Callable[[dict[str, NDArray[Any]]], None] | None = None,
    ) -> Bundle: ...


def pixels(rows: int, seed: int) -> NDArray[np.float32]:
    """Inputs of shape (rows, 1, 4, 4), multiples of 1/16 in [0, 1]."""
    return (np.random.default_rng(seed).integers(0, 17, (rows, *SHAPE)) / 16).astype(np.float32)


def _graph(weights: NDArray[np.float32], calibration: NDArray[np.float32], limit: int, two_inputs: bool) -> bytes:
    inputs, flat = "float[N,1,4,4] image", "flat = Flatten(image)"
    if two_inputs:
        inputs += ", float[N,2] sound"
        flat = "pixels = Flatten(image) flat = Concat<axis = 1>(pixels, sound)"
    model = onnx.parser.parse_model(GRAPH.replace("INPUTS", inputs).replace("FLAT", flat))
    for name, array in {
        "weights": weights,
        "calibration": calibration[None],
        "size": np.float32(calibration.size + 1),
        "limit": np.int64(limit),
    }.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    content: bytes = model.SerializeToString()
    return content


def _run(graph: bytes, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return dict(zip(OUTPUTS, session.run(OUTPUTS, inputs), strict=True))


def _make_bundle(
    repository: Path,
    name: str = "tiny",
    *,
    n: int = 199,
    alpha: float = 0.05,
    seed: int = 1,
    domain: tuple[float, float] | None = (0.0, 1.0),
    two_inputs: bool = False,
    tamper: Callable[[dict[str, NDArray[Any]]], None] | None = None,
    score: str = "logit_gap:low",
) -> Bundle:
    def inputs(rows: int, seed: int) -> dict[str, NDArray[Any]]:
        image = pixels(rows, seed)
        return {"image": image, "sound": image.reshape(rows, -1)[:, :2]} if two_inputs else {"image": image}

    rng = np.random.default_rng(seed)
    weights = (rng.integers(-16, 17, (18 if two_inputs else 16, len(CLASSES))) / 8).astype(np.float32)
    unranked = _graph(weights, np.zeros(1, np.float32), 0, two_inputs)
    scores = np.sort(_run(unranked, inputs(n, seed + 1))["nonconformity"])
    graph = _graph(weights, scores, marginal_rank(alpha, n), two_inputs)
    golden = inputs(64, seed + 2)
    outputs = _run(graph, golden)
    if tamper is not None:
        tamper(outputs)
    calibration = CalibrationArrays(
        scores=scores,
        histograms={d: (np.linspace(0, 1, 3), np.array([1, n - 1], np.int64)) for d in DIAGNOSTICS},
    )
    specs = [InputSpec(name="image", shape=(-1, *SHAPE), domain=domain, image=ImageInput(mode="L", size=(4, 4)))]
    if two_inputs:
        specs.append(InputSpec(name="sound", shape=(-1, 2), domain=domain))
    with Repository(repository).new_version(name) as draft:
        (draft.folder / MODEL).write_bytes(graph)
        calibration.write(draft.folder / CALIBRATION)
        write_golden(draft.folder / GOLDEN, golden, outputs)
        level = Level(alpha=alpha, marginal_rank=marginal_rank(alpha, n), confident_rank=confident_rank(alpha, n))
        return draft.seal(
            Manifest(
                format_version=1,
                name=name,
                version=draft.version,
                created_at=datetime(2026, 1, 1, tzinfo=UTC),
                inputs=tuple(specs),
                classes=CLASSES,
                opset=18,
                model=ModelFacts(origin="onnx", architecture="linear"),
                nonconformity=Nonconformity(score=score),
                calibration=CalibrationFacts(id=calibration.id, n=n, alpha=alpha, levels=(level,), data="tests"),
                parity=Parity(
                    tolerance=Tolerance(absolute=1e-4, relative=1e-3), batch_sizes=(1, 64), source=0.0, reference=0.0
                ),
                files={},
                tools={"softrisk": "test"},
            )
        )


@dataclass(frozen=True)
class Service:
    """A running app and its parts."""

    app: FastAPI
    client: httpx2.AsyncClient
    engine: Engine
    registry: CollectorRegistry

    async def post(self, path: str, body: object, **headers: str) -> httpx2.Response:
        """POST a JSON document."""
        return await self.client.post(path, json=body, headers=headers)

    def value(self, metric: str, **labels: str) -> float | None:
        """A sample of the registry."""
        return self.registry.get_sample_value(metric, labels)


class Serve(Protocol):
    def __call__(
        self, repository: Path, *, wait: bool = True, sockets: bool = False, keep_alive: int = 5, **settings: Any
    ) -> AbstractAsyncContextManager[Service]: ...


@asynccontextmanager
async def _without_sockets(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://service") as client,
    ):
        yield client


@asynccontextmanager
async def _over_a_socket(app: FastAPI, keep_alive: int) -> AsyncIterator[httpx2.AsyncClient]:
    config = uvicorn.Config(
        app,
        http=ShortcutProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        timeout_keep_alive=keep_alive,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    # As uvloop does; asyncio looks at the protocol number, which is 0 here, and leaves it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # What `serve` does but for the signals, which belong to the test run.
    serving = asyncio.create_task(server._serve([listener]))
    try:
        address, port = listener.getsockname()
        async with httpx2.AsyncClient(base_url=f"http://{address}:{port}", timeout=30) as client:
            while not server.started and not serving.done():  # noqa: ASYNC110 # uvicorn offers no event
                await asyncio.sleep(0.01)
            yield client
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def _serve(
    repository: Path, *, wait: bool = True, sockets: bool = False, keep_alive: int = 5, **settings: Any
) -> AsyncIterator[Service]:
    chosen = Settings(repository=repository, threads=1, access_log=False, **settings)
    registry = CollectorRegistry()
    engine = Engine(chosen, Metrics(registry))
    app = create_app(chosen, registry=registry, engine=engine)
    async with _over_a_socket(app, keep_alive) if sockets else _without_sockets(app) as client:
        if wait:
            await engine.loaded.wait()
        yield Service(app, client, engine, registry)


@pytest.fixture(scope="session")
def make_bundle() -> MakeBundle:
    """Builds a bundle of the tiny classifier into a repository."""
    return _make_bundle


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Runs the app over a repository, in this process, with or without sockets; waits until all is loaded."""
    return _serve


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, make_bundle: MakeBundle) -> Path:
    """Models `tiny` (versions 1 and 2), `both` (two inputs) and `open` (no declared domain). Read only."""
    folder = tmp_path_factory.mktemp("repository")
    make_bundle(folder)
    make_bundle(folder, seed=7)
    make_bundle(folder, "both", two_inputs=True)
    make_bundle(folder, "open", domain=None)
    return folder


@pytest.fixture(scope="session")
def senses(tmp_path_factory: pytest.TempPathFactory, make_senses: Any) -> Path:
    """Models `senses` (image and recording, either may be missing), `needed` (neither may), `spoken` (a recording) and
    `long` (of which it takes the beginning). Read only."""
    folder = tmp_path_factory.mktemp("senses")
    make_senses(folder)
    make_senses(folder, "needed", optional=False, bounded=False)
    make_senses(folder, "spoken", inputs=("audio",), optional=False)
    make_senses(folder, "long", inputs=("audio",), optional=False, bounded=False, longer="crop")
    return folder


@pytest.fixture(scope="session")
def reference(senses: Path) -> Callable[[dict[str, NDArray[np.float32]]], dict[str, NDArray[Any]]]:
    """What the graph of `senses` answers by itself; inputs that are left out are zero."""
    bundle = load_bundle(senses / "senses" / "1")
    session = onnxruntime.InferenceSession(bundle.model_path, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
        rows = len(next(iter(inputs.values())))
        zeros = {s.name: np.zeros((rows, *s.instance_shape), np.float32) for s in bundle.manifest.inputs}
        outputs = bundle.manifest.outputs
        return dict(zip(outputs, session.run(outputs, zeros | inputs), strict=True))

    return run


@pytest.fixture(params=["ordinary way", "shortcut"])
async def service(request: pytest.FixtureRequest, repository: Path, serve: Serve) -> AsyncIterator[Service]:
    """The app over `repository`: without sockets all requests go the ordinary way, over one most take the short."""
    async with serve(repository, sockets=request.param == "shortcut") as running:
        yield running


class Post(Protocol):
    def __call__(self, path: str, body: bytes, **headers: str) -> httpx2.Response: ...


@pytest.fixture(scope="module", params=["ordinary way", "shortcut"])
def post(request: pytest.FixtureRequest, repository: Path, serve: Serve) -> Iterator[Post]:
    """Posts to one long-running app from synchronous code: for hypothesis, and for tests that are many."""
    with asyncio.Runner() as runner:
        context = serve(repository, sockets=request.param == "shortcut")
        running = runner.run(context.__aenter__())

        def send(path: str, body: bytes, **headers: str) -> httpx2.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return runner.run(running.client.post(path, content=body, headers=named))

        yield send
        runner.run(context.__aexit__(None, None, None))


@pytest.fixture(scope="session")
def images() -> Callable[[int, int], NDArray[np.float32]]:
    """`pixels`."""
    return pixels


PROGRAM = "from softrisk_core.cli import main; main()"


class Command:
    """`softrisk serve` in a process of its own, with its log lines, read as they come.

    Attributes:
        process: The one that was started.
        lines: Read so far.
        url: Where it serves.
        workers: Process ids of its workers, where it has any, as they came up.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.url = ""
        self.workers: list[int] = []

    def read_until(self, event: str) -> dict[str, Any]:
        """Read log lines up to the next one of an event."""
        assert self.process.stdout is not None
        for text in self.process.stdout:
            line: dict[str, Any] = json.loads(text)
            self.lines.append(line)
            if "running on" in line["event"]:
                self.url = line["event"].split()[3]
            if line["event"] == "worker up":
                self.workers.append(line["pid"])
            if line["event"] == event:
                return line
        raise AssertionError(f"the server ended without {event!r}: {self.lines}")


class Run(Protocol):
    def __call__(
        self, repository: Path, *flags: str, workers: int = 1, program: str = PROGRAM
    ) -> AbstractContextManager[Command]: ...


@contextmanager
def _running(repository: Path, *flags: str, workers: int = 1, program: str = PROGRAM) -> Iterator[Command]:
    with subprocess.Popen(
        [sys.executable, "-c", program, "serve", str(repository), "--port", "0", "--workers", str(workers), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        server = Command(process)
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        try:
            if workers == 1:
                server.read_until("loaded")
            while len(server.workers) < workers > 1:
                server.read_until("worker up")
            yield server
        finally:
            watchdog.cancel()
            process.kill()


def _refused(repository: Path, *flags: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, "serve", str(repository), *flags],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 1
    assert "version ready" not in result.stdout
    return result.stderr


@pytest.fixture(scope="session")
def running() -> Run:
    """Runs `softrisk serve` and waits until all is loaded."""
    return _running


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """What `softrisk serve` says before it ends with status 1."""
    return _refused

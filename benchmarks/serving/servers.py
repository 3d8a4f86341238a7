"""The servers that are compared, and how each is run: one row here is one bar in the picture."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

from benchmarks.serving.codecs import (
    BatchJson,
    Codec,
    FlatJson,
    NestedJson,
    RawBytes,
    V1Json,
    V2Binary,
    V2Json,
)
from benchmarks.serving.errors import BenchmarkError

SOFTRISK: Final = "softrisk"
CORES: Final = len(os.sched_getaffinity(0))
COMPARED: Final = ("json", "binary")
"""Formats that are compared between servers."""
FORMAT_NAMES: Final = {
    "json": "JSON",
    "binary": "binary",
    "json-v1": "JSON by V1",
    "binary-logits": "binary, logits only",
}
"""As they stand in titles."""
_PEERS: Final = "benchmarks.serving.peers"


@dataclass(frozen=True)
class Server:
    """A server in one configuration.

    Attributes:
        name: As it stands in tables.
        project: softrisk, or the peer whose environment `peers/<project>.txt` describes.
        command: Program of that environment and its arguments; `{port}` and `{repository}` are filled in.
        codecs: What it understands, by format.
        variables: Environment variables besides those that every peer gets.
        models: Those it is measured with.
        python: Interpreter that its environment is made with, by default the one that runs this.
    """

    name: str
    project: str
    command: tuple[str, ...]
    codecs: Mapping[str, Codec]
    variables: Mapping[str, str] = field(default_factory=dict)
    models: frozenset[str] = frozenset({"S", "R"})
    python: Path = Path(sys.executable)

    @property
    def is_ours(self) -> bool:
        """Whether it is softrisk."""
        return self.project == SOFTRISK


OURS: Final[dict[str, Codec]] = {
    "json": V2Json("/v2/models/model/infer"),
    "binary": V2Binary("/v2/models/model/infer"),
    "json-v1": V1Json("/v1/models/model:predict"),
    "binary-logits": V2Binary("/v2/models/model/infer", outputs=("logits",)),
}
"""All outputs are asked for but in the last, which shows what the rest of the answer costs."""


def softrisk(name: str, *arguments: str, codecs: Mapping[str, Codec] = OURS) -> Server:
    """Our own service; its access log is off as that of the peers is."""
    command = ("softrisk", "serve", "{repository}", "--port", "{port}", "--no-access-log", *arguments)
    return Server(name, SOFTRISK, command, codecs)


def _mosec(name: str, codec: str, decoder: str, workers: int, batch: int, models: frozenset[str]) -> Server:
    path = "/inference"
    return Server(
        name,
        "mosec",
        ("python", "-m", f"{_PEERS}.mosec_server", "--address", "127.0.0.1", "--port", "{port}"),
        {codec: NestedJson(path) if codec == "json" else RawBytes(path)},
        {"BENCH_DECODER": decoder, "BENCH_WORKERS": str(workers), "BENCH_BATCH": str(batch)},
        models,
    )


_S: Final = frozenset({"S"})
_BOTH: Final = frozenset({"S", "R"})

SERVERS: Final = (
    softrisk("softrisk"),
    softrisk("softrisk, 2 workers", "--workers", "2", codecs={name: OURS[name] for name in COMPARED}),
    _mosec("mosec", "json", "its own", 1, 64, _BOTH),
    _mosec("mosec, orjson", "json", "orjson", 1, 64, _BOTH),
    _mosec("mosec, orjson, 2 workers", "json", "orjson", 2, 8, _S),
    _mosec("mosec, raw", "binary", "raw", 1, 64, _BOTH),
    _mosec("mosec, raw, 2 workers", "binary", "raw", 2, 8, _S),
    Server("LitServe", "litserve", ("python", "-m", f"{_PEERS}.litserve_server"), {"json": NestedJson("/predict")}),
    Server(
        "BentoML",
        "bentoml",
        ("bentoml", "serve", f"{_PEERS}.bentoml_service:Classifier", "--host", "127.0.0.1", "--port", "{port}"),
        {"json": BatchJson("/predict")},
        {"BENTOML_DO_NOT_TRACK": "True"},
    ),
    Server(
        "MLServer",
        "mlserver",
        ("python", "-m", f"{_PEERS}.mlserver_model"),
        {"json": V2Json("/v2/models/model/infer")},
    ),
    Server(
        "pytriton",
        "pytriton",
        ("python", "-m", f"{_PEERS}.pytriton_server"),
        {"json": V2Json("/v2/models/model/infer"), "binary": V2Binary("/v2/models/model/infer")},
        # Its Triton holds an interpreter of its own and works with the Python of the system only.
        python=Path("/usr/bin/python3"),
    ),
    Server(
        "FastAPI + onnxruntime",
        "fastapi",
        ("uvicorn", f"{_PEERS}.fastapi_app:app", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log"),
        {"json": FlatJson("/predict")},
    ),
)


def choose(patterns: list[str]) -> tuple[Server, ...]:
    """Servers whose names match any of some patterns with wildcards.

    Raises:
        BenchmarkError: If there is none.
    """
    found = tuple(server for server in SERVERS if any(fnmatch(server.name, pattern) for pattern in patterns))
    if not found:
        known = "; ".join(server.name for server in SERVERS)
        raise BenchmarkError(f"no server is called {' or '.join(patterns)}; there are: {known}")
    return found

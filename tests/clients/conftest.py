"""A small service that answers as the contract says, in place of the network."""

from __future__ import annotations

import json
from base64 import b64decode
from collections import deque
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import stamina

PNG = b"\x89PNG\r\n\x1a\n" + b"pixels"
ODD_PNG = b"\x89PNG\r\n\x1a\n" + b"odd pixels"
JPEG = b"\xff\xd8\xff\xe0" + b"pixels"
WAV = b"RIFF\x00\x00\x00\x00WAVE" + b"samples"
RADIUS = {
    "certified": 0.50009,
    "norm": "l2",
    "space": {"image": "pixels", "audio": "log-mel"},
    "inputs": {"image": {"certified": 0.625}, "audio": {"certified": 2.5}},
}


def prediction(decision: str = "accept", p_value: float = 0.69, rank: int = 690, **changes: Any) -> dict[str, Any]:
    answer = {
        "label": 7,
        "class_name": "seven",
        "confidence": 0.9987,
        "diagnostics": {
            "top2_gap": 0.998,
            "logit_gap": 8.1,
            "dispersion": 0.91,
            "softmax_dispersion": 0.0004,
            "complement_entropy": 0.88,
            "max_logit": 9.7,
            "energy": 9.7,
            "entropy": 0.011,
        },
        "risk": {
            "decision": decision,
            "flagged": decision != "accept",
            "alpha": 0.01,
            "p_value": p_value,
            "score": 1 - p_value,
            "rank": rank,
            "nonconformity": -8.1,
        },
    }
    return answer | changes


def problem(status: int, detail: str) -> httpx2.Response:
    body = {"title": "Refused", "status": status, "detail": detail, "error": detail}
    return httpx2.Response(status, json=body, headers={"content-type": "application/problem+json"})


class FakeService:
    """Records what it is sent; answers with what is scripted first, then as the contract says."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []
        self.script: deque[httpx2.Response | Exception] = deque()
        self.models = ["mnist"]
        self.odd = prediction("reject", p_value=0.001, rank=1)

    @property
    def body(self) -> Any:
        return json.loads(self.requests[-1].content)

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.script:
            scripted = self.script.popleft()
            if isinstance(scripted, Exception):
                raise scripted
            return scripted
        match request.method, request.url.path:
            case "GET", "/v1/models":
                return httpx2.Response(200, json={"models": self.models})
            case "GET", "/v2/models/mnist":
                image = {"name": "image", "datatype": "FP32", "shape": [-1, 1, 28, 28]}
                p_value = {"name": "p_value", "datatype": "FP64", "shape": [-1]}
                metadata = {"name": "mnist", "versions": ["1"], "platform": "onnx"}
                return httpx2.Response(200, json=metadata | {"inputs": [image], "outputs": [p_value]})
            case "GET", "/v2/health/live" | "/v2/health/ready":
                return httpx2.Response(200)
            case "POST", "/v1/models/mnist:predict" | "/v1/models/mnist/versions/3:predict":
                return self._predict(request)
            case "POST", "/v1/models/digits:predict":
                return self._hear(request)
            case "POST", "/v2/models/mnist/infer" | "/v2/models/mnist/versions/3/infer":
                outputs = [{"name": "p_value", "datatype": "FP64", "shape": [1], "data": [0.69]}]
                answer = {"model_name": "mnist", "model_version": "1", "parameters": {"alpha": 0.01, "n": 999}}
                return httpx2.Response(200, json=answer | {"outputs": outputs})
        return problem(404, "no such model")

    def _predict(self, request: httpx2.Request) -> httpx2.Response:
        if request.headers["content-type"] == "application/json":
            instances = json.loads(request.content)["instances"]
            images = [b64decode(i["b64"]) if isinstance(i, dict) and "b64" in i else PNG for i in instances]
        else:
            images = [request.content]
        if not all(image.startswith((PNG[:8], JPEG[:3])) for image in images):
            return problem(422, "not an image")
        predictions = [self.odd if image == ODD_PNG else prediction() for image in images]
        answer = {"model_name": "mnist", "model_version": "1", "predictions": predictions}
        return httpx2.Response(200, json=answer)

    def _hear(self, request: httpx2.Request) -> httpx2.Response:
        for instance in json.loads(request.content)["instances"]:
            for name, value in instance.items():
                if not b64decode(value["b64"]).startswith({"image": PNG[:8], "audio": WAV[:4]}[name]):
                    return problem(422, f"input {name!r}: not such a file")
        answer = {"model_name": "digits", "model_version": "1", "predictions": [prediction(radius=RADIUS)]}
        return httpx2.Response(200, json=answer)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def on_the_network(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> FakeService:
    """Answer for every URL, so that code which makes a client of its own meets the fake."""
    transport = httpx2.MockTransport(service)

    def handle(_: object, request: httpx2.Request) -> httpx2.Response:
        return transport.handle_request(request)

    async def handle_async(_: object, request: httpx2.Request) -> httpx2.Response:
        return await transport.handle_async_request(request)

    monkeypatch.setattr(httpx2.HTTPTransport, "handle_request", handle)
    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle_async)
    return service


@pytest.fixture(autouse=True)
def _no_waiting_between_attempts() -> Iterator[None]:
    with stamina.set_testing(True, attempts=100, cap=True):
        yield

"""What is sent, how answers are read and judged, and the generator that keeps to its rate."""

import asyncio
import http
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks.serving.checks import compare
from benchmarks.serving.codecs import (
    Answer,
    Codec,
    FlatJson,
    NestedJson,
    Npy,
    RawBytes,
    V1Json,
    V2Binary,
    V2Json,
    model_version,
)
from benchmarks.serving.errors import WrongAnswerError
from benchmarks.serving.open_loop import Plan, offer, summarise
from benchmarks.serving.processes import Family, Others

IMAGES = np.linspace(0, 1, 8, dtype=np.float32).reshape(1, 2, 2, 2)

REFERENCE: Answer = {
    "logits": np.array([[1.0, -2.0]], np.float32),
    "probabilities": np.array([[0.95257413, 0.04742587]], np.float32),
    "rank": np.array([500]),
    "p_value": np.array([500 / 1001]),
}


def test_json_carries_exactly_the_values() -> None:
    codecs: dict[Codec, str] = {NestedJson("/"): "input", FlatJson("/"): "input", V1Json("/"): "instances"}
    for codec, field in codecs.items():
        sent = np.array(json.loads(codec.encode(IMAGES).body)[field], np.float32)
        np.testing.assert_array_equal(sent.ravel(), IMAGES.ravel())
    assert RawBytes("/").encode(IMAGES).body == IMAGES.tobytes()
    assert Npy("/").encode(IMAGES).body.startswith(b"\x93NUMPY")


def test_binary_tensors_follow_their_header() -> None:
    request = V2Binary("/", outputs=("logits",)).encode(IMAGES)
    length = int(request.headers["Inference-Header-Content-Length"])
    head = json.loads(request.body[:length])
    assert head["outputs"] == [{"name": "logits"}]
    assert head["inputs"][0]["parameters"] == {"binary_data_size": IMAGES.nbytes}
    assert request.body[length:] == IMAGES.tobytes()


def test_binary_answers_are_read_in_the_order_of_their_header() -> None:
    arrays: Answer = {"rank": np.array([3], np.int64), "logits": np.array([[1, 2]], np.float32)}
    outputs = [
        {
            "name": name,
            "shape": list(array.shape),
            "datatype": {"int64": "INT64", "float32": "FP32"}[str(array.dtype)],
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in arrays.items()
    ]
    head = json.dumps({"model_version": "3", "outputs": outputs}).encode()
    body = head + b"".join(array.tobytes() for array in arrays.values())
    headers = {"inference-header-content-length": str(len(head))}
    answer = V2Binary("/").decode(headers, body)
    for name, array in arrays.items():
        np.testing.assert_array_equal(answer[name], array)
    assert model_version(headers, body) == 3


def test_json_answers_take_their_declared_shape() -> None:
    body = json.dumps({"outputs": [{"name": "logits", "shape": [1, 2], "data": [1.0, 2.0]}]}).encode()
    np.testing.assert_array_equal(V2Json("/").decode({}, body)["logits"], [[1.0, 2.0]])


def test_rounding_is_no_wrong_answer() -> None:
    compare({"logits": REFERENCE["logits"] + 1e-5, "rank": REFERENCE["rank"] + 1}, REFERENCE)
    compare({"probabilities": REFERENCE["probabilities"]}, REFERENCE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logits", [[1.0, -2.01]]),
        ("logits", [[1.0, -2.0], [1.0, -2.0]]),
        ("rank", [510]),
        ("p_value", [0.52]),
        ("logits", [[np.nan, -2.0]]),
    ],
)
def test_another_answer_is_noticed(name: str, value: list[object]) -> None:
    with pytest.raises(WrongAnswerError, match=name):
        compare({**REFERENCE, name: np.array(value)}, REFERENCE)


def test_an_answer_without_figures_is_wrong() -> None:
    with pytest.raises(WrongAnswerError, match="neither logits nor probabilities"):
        compare({"rank": REFERENCE["rank"]}, REFERENCE)


def test_accepted_requests_are_timed_from_when_they_were_due() -> None:
    rows = np.array(
        [
            # due, sent, answered, status
            (0.5, 0.5, 0.6, 200),  # in the first second: not judged
            (1.5, 1.6, 1.9, 200),
            (2.0, 2.1, 2.101, 429),
            (2.5, 2.5, 9.0, 200),  # answered after the end: no goodput
            (2.9, 2.9, 2.9, 500),
        ]
    )
    found = summarise(rows, start=0.0, end=3.0)
    assert (found["accepted"], found["rejected"], found["other_answers"]) == (2, 1, 1)
    assert found["goodput"] == pytest.approx(0.5)
    assert found["offered"] == pytest.approx(2.0)
    assert found["accepted_p50_ms"] == pytest.approx((400 + 6500) / 2)
    assert found["rejected_max_ms"] == pytest.approx(1)


async def test_the_generator_counts_what_a_server_accepts_and_rejects(tmp_path: Path) -> None:
    asked = 0

    class HalfWilling(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.WriteTransport)
            self.transport = transport
            self.received = b""

        def data_received(self, data: bytes) -> None:
            nonlocal asked
            self.received += data
            if not self.received.endswith(b"\r\n\r\nbody"):
                return
            assert self.received.startswith(b"POST /path HTTP/1.1\r\n")
            self.received = b""
            asked += 1
            status = http.HTTPStatus.OK if asked % 2 else http.HTTPStatus.TOO_MANY_REQUESTS
            # In two pieces: the end of an answer is found by its length.
            self.transport.write(f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 6\r\n\r\nans".encode())
            self.transport.write(b"wer")

    (tmp_path / "body").write_bytes(b"body")
    async with await asyncio.get_running_loop().create_server(HalfWilling, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        plan = Plan(port, "/path", {"X-Test": "1"}, str(tmp_path / "body"), connections=20, rate=200, seconds=2)
        found = await offer(plan)
    assert found["sent"] + found["not_sent"] == 400
    assert asked == found["sent"]
    assert found["lost"] == 0
    assert min(found["accepted"], found["rejected"]) > 0
    assert found["other_answers"] == 0


def test_a_server_ends_with_all_its_processes() -> None:
    mark = f"of-{os.getpid()}"
    grandchild = "import time\nwhile time.process_time() < 0.1: pass\nprint('up', flush=True)\ninput()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", child],
        env={**os.environ, "BENCH_TEST_MARK": mark},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        family = Family(f"BENCH_TEST_MARK={mark}")
        assert len(family.members()) == 2
        assert family.cpu_seconds() > 0
        assert family.resident_mib() > 1
        family.end()
        assert family.members() == []


def test_work_of_others_is_told_from_our_own() -> None:
    others = Others()
    deadline = time.process_time() + 0.2
    while time.process_time() < deadline:
        pass
    assert others.cores(known=1e9) == 0
    assert others.cores() >= 0

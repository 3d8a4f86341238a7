"""The real server in a process of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_service.sockets import listen

Pixels = Callable[[int, int], NDArray[np.float32]]
Run = Callable[..., AbstractContextManager[Any]]
Refuse = Callable[..., str]

PREDICT = "/v1/models/tiny:predict"
SERVE = (sys.executable, "-c", "from softrisk_core.cli import main; main()", "serve")


def test_it_serves_logs_json_and_holds_no_torch(running: Run, repository: Path, images: Pixels) -> None:
    with running(repository) as server, httpx2.Client(base_url=server.url) as client:
        assert client.get("/readyz").status_code == 200
        response = client.post(PREDICT, json={"instances": images(2, 1).tolist()}, headers={"x-request-id": "me-1"})
        assert len(response.json()["predictions"]) == 2
        line = server.read_until("request")
        assert line["level"] == "info"
        assert (line["model"], line["version"], line["code"], line["request_id"]) == ("tiny", "2", 200, "me-1")
        assert line["milliseconds"] > 0
        text = client.get("/metrics").text
        assert "_created" not in text
        assert "process_resident_memory_bytes" in text or sys.platform != "linux"
        maps = Path(f"/proc/{server.process.pid}/maps")
        assert not maps.exists() or "torch" not in maps.read_text()


def test_what_is_not_http_is_a_problem_document(running: Run, repository: Path) -> None:
    with (
        running(repository) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as raw,
    ):
        raw.sendall(b"BREW / HTTP/1.1\r\n\r\n")
        answer = raw.makefile("rb").read()
    assert b"application/problem+json" in answer


def test_importing_the_service_imports_no_torch() -> None:
    program = """
import sys, softrisk_service.cli, softrisk_service.worker
sys.exit(' '.join({'torch', 'scipy', 'onnx'} & set(sys.modules)) or 0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_supervisor_holds_no_onnxruntime() -> None:
    program = "import softrisk_service.cli, sys; assert 'onnxruntime' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_what_is_loaded_is_left_to_itself_by_the_collector(running: Run, repository: Path) -> None:
    program = """
import gc, json
from softrisk_core.cli import main
gc.freeze = lambda: print(json.dumps({"event": "frozen"}), flush=True)
main()
"""
    with running(repository, program=program) as server:
        server.read_until("frozen")


@pytest.mark.parametrize("console", [True, False])
def test_logs_that_nobody_reads_harm_nobody(console: bool) -> None:
    program = f"""
import os, structlog
from softrisk_service.logs import configure_logs
from softrisk_service.settings import Settings
configure_logs(Settings(console_logs={console}))
for _ in range(1000):
    structlog.get_logger().info("nobody reads this")
os._exit(0)
"""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        subprocess.run([sys.executable, "-c", program], stdout=writer, check=True)
    finally:
        os.close(writer)


def test_sigterm_turns_readiness_off_and_lets_requests_finish(running: Run, repository: Path, images: Pixels) -> None:
    body = json.dumps({"instances": images(1, 1).tolist()}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    with running(repository, "--drain-seconds", "60") as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as slow:
            slow.sendall(head + body[:10])
            with httpx2.Client(base_url=server.url) as client:
                assert client.get("/readyz").status_code == 200
                server.process.send_signal(signal.SIGTERM)
                while client.get("/readyz").status_code == 200:
                    pass
                assert client.post(PREDICT, content=body).status_code == 200
            server.process.send_signal(signal.SIGTERM)  # a second one ends the wait
            server.read_until("Shutting down")
            slow.sendall(body[10:])
            answer = b"".join(iter(lambda: slow.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"predictions"' in answer
        server.read_until("Application shutdown complete.")
        assert server.process.wait(10) in (0, -signal.SIGTERM)


def test_a_caller_that_hangs_up_is_counted_as_gone(running: Run, repository: Path, images: Pixels) -> None:
    with running(repository) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as gone:
            gone.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode() + b'{"inst')
        assert server.read_until("request")["code"] == 499
        with httpx2.Client(base_url=server.url) as client:
            assert client.post(PREDICT, json={"instances": images(1, 1).tolist()}).status_code == 200
            sample = 'softrisk_inference_requests_total{code="499",model="tiny",protocol="v1",version="2"} 1.0'
            assert sample in client.get("/metrics").text


def test_logs_for_people_are_plain_lines(repository: Path) -> None:
    command = [*SERVE, str(repository), "--port", "0", "--console-logs"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            line = next(text for text in process.stdout if "loaded" in text)
            assert "info" in line
            assert not line.startswith("{")
            assert "\x1b" not in line
        finally:
            watchdog.cancel()
            process.kill()


def test_a_taken_port_or_an_unknown_host_is_told_before_anything_is_loaded(refused: Refuse, repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused(repository, "--port", str(port))
    assert said == f"error: port {port} on 127.0.0.1 is taken: choose another with --port\n"
    assert "choose an address of this machine with --host" in refused(repository, "--host", "nowhere.invalid")
    # TEST-NET-1 (RFC 5737), which no machine has.
    assert refused(repository, "--host", "192.0.2.1") == (
        "error: 192.0.2.1 is no address of this machine: choose one with --host\n"
    )


@pytest.mark.parametrize("host", ["localhost", "::1"])
def test_it_serves_by_name_and_by_ipv6(running: Run, repository: Path, host: str) -> None:
    if host == "::1":
        try:
            socket.create_server((host, 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    with running(repository, "--host", host) as server, httpx2.Client(base_url=server.url) as client:
        assert client.get("/readyz").status_code == 200
        assert server.url.startswith("http://[::1]:") or host == "localhost"


def test_all_addresses_of_a_host_share_one_free_port() -> None:
    sockets = listen("localhost", 0)
    with contextlib.ExitStack() as opened:
        ports = {opened.enter_context(listener).getsockname()[1] for listener in sockets}
    assert len(ports) == 1
    assert 0 not in ports


def test_with_no_model_that_can_be_served_it_ends_with_the_reasons(refused: Refuse, repository: Path) -> None:
    first, *reasons = refused(repository, "--port", "0", "--alpha-review", "0.0001").splitlines()
    assert first == f"error: nothing in {repository} can be served:"
    assert [reason.split(":")[0].strip() for reason in reasons] == [
        "both version 1",
        "open version 1",
        "tiny version 1",
        "tiny version 2",
    ]
    assert all("it needs at least 9999" in reason for reason in reasons)


def test_a_terminal_gets_lines_for_people(repository: Path) -> None:
    master, terminal = os.openpty()
    with open(master) as shown, subprocess.Popen([*SERVE, str(repository), "--port", "0"], stdout=terminal) as process:
        os.close(terminal)
        watchdog = threading.Timer(30, process.kill)
        watchdog.start()
        try:
            line = next(text for text in shown if "loaded" in text)
            assert "\x1b[" in line
            assert not line.startswith("{")
        finally:
            watchdog.cancel()
            process.kill()

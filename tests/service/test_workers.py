"""Several worker processes behind one port: they share the load, and are one service to whoever looks at it."""

import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from softrisk_service import supervisor
from softrisk_service.errors import WorkerError
from softrisk_service.settings import Settings
from softrisk_service.sockets import listen

Pixels = Callable[[int, int], NDArray[np.float32]]
Run = Callable[..., AbstractContextManager[Any]]
Refuse = Callable[..., str]

PREDICT = "/v1/models/tiny:predict"
REQUESTS = 'softrisk_inference_requests_total{code="200",model="tiny",protocol="v1",version="2"}'

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")


@pytest.fixture(scope="module")
def body() -> bytes:
    return json.dumps({"instances": np.zeros((1, 1, 4, 4)).tolist()}).encode()


@pytest.fixture
def gone() -> Iterator[Callable[[int], None]]:
    """Waits for the end of processes that are no children of the test."""
    with ExitStack() as opened:

        def wait(pid: int) -> None:
            with suppress(ProcessLookupError):
                end = os.fdopen(os.pidfd_open(pid))
                opened.enter_context(end)
                assert select.select([end], [], [], 20)[0], f"process {pid} is still there"

        yield wait


def post(url: str, body: bytes) -> int:
    return httpx2.post(f"{url}{PREDICT}", content=body).status_code


def scrape(url: str) -> dict[str, float]:
    """Counts and other samples, from whichever worker gets this connection."""
    text = httpx2.get(f"{url}/metrics").raise_for_status().text
    return {key: float(value) for key, value in re.findall(r"^([^#\s].*) (\S+)$", text, re.M)}


def check_no_total_fell(before: dict[str, float], after: dict[str, float]) -> None:
    totals = [name for name in before if re.search("_(total|count|sum|bucket)({|$)", name)]
    assert REQUESTS in totals
    assert {name: value for name, value in after.items() if value < before.get(name, 0)}.keys().isdisjoint(totals)
    assert set(totals) <= set(after)


def connect(url: str) -> HTTPConnection:
    host, port = url.removeprefix("http://").split(":")
    return HTTPConnection(host, int(port), timeout=10)


def worker_of(connection: HTTPConnection, pids: list[int]) -> int:
    """Which process is at the other end."""
    # Ports as the kernel writes them: of that end, and of ours.
    ports = [f"{port:04X}" for port in (connection.port, connection.sock.getsockname()[1])]
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    inode = next(row[9] for row in rows if [place[-4:] for place in row[1:3]] == ports)
    (owner,) = (
        pid for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir() if os.readlink(file) == f"socket:[{inode}]"
    )
    return owner


def test_workers_share_the_connections_and_count_as_one(
    running: Run, refused: Refuse, repository: Path, body: bytes, gone: Callable[[int], None]
) -> None:
    with running(repository, "--drain-seconds", "60", workers=2) as server, ExitStack() as opened:
        connections = [connect(server.url) for _ in range(64)]
        for connection in connections:
            opened.callback(connection.close)
            connection.request("POST", PREDICT, body)
            assert connection.getresponse().read()
        owners = [worker_of(connection, server.workers) for connection in connections]
        for pid in server.workers:
            assert owners.count(pid) > 8  # by chance not so about once in 10^10 runs

        shown = [scrape(server.url) for _ in range(16)]
        for sample, value in {
            REQUESTS: 64,
            'softrisk_predictions_total{model="tiny",version="2"}': 64,
            'softrisk_p_value_bucket{le="+Inf",model="tiny",version="2"}': 64,
            'softrisk_model_ready{model="tiny",version="2"}': 1,
            "softrisk_ready": 1,
            "softrisk_workers_lost_total": 0,
        }.items():
            assert {scraped[sample] for scraped in shown} == {value}
        text = httpx2.get(f"{server.url}/metrics", headers={"accept": "application/openmetrics-text"}).text
        assert text.endswith("# EOF\n")

        assert "is taken" in refused(repository, "--port", str(connections[0].port), "--workers", "2")

        server.process.send_signal(signal.SIGTERM)
        off = 0
        while off < 16:  # in a row, so both of them
            off = off + 1 if httpx2.get(f"{server.url}/readyz").status_code == 503 else 0
        assert post(server.url, body) == 200
        assert scrape(server.url)[REQUESTS] == 65
        assert scrape(server.url)["softrisk_ready"] == 0
        server.process.send_signal(signal.SIGTERM)  # a second one ends the wait
        assert server.process.wait(20) == -signal.SIGTERM
        for pid in server.workers:
            gone(pid)


def test_a_killed_worker_is_replaced_and_no_total_falls(
    running: Run, repository: Path, body: bytes, tmp_path: Path
) -> None:
    # Where the flag lies, the next worker ends at its start.
    flag, python = tmp_path / "fail", tmp_path / "python"
    python.write_text(f'#!/bin/sh\nrm "{flag}" 2>/dev/null && exit 7\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o700)
    program = f"""
import sys
from softrisk_service import supervisor
from softrisk_core.cli import main
sys.executable = {str(python)!r}
supervisor.RETRY_SECONDS = 0.01
main()
"""
    with running(repository, "--no-access-log", workers=2, program=program) as server:
        for _ in range(8):
            assert post(server.url, body) == 200
        scrapes = [scrape(server.url)]
        assert scrapes[0][REQUESTS] == 8
        stopping = threading.Event()
        answered = []

        def load() -> None:
            while not stopping.is_set():
                with suppress(httpx2.TransportError):  # of the one that is killed
                    answered.append(post(server.url, body))

        loading = [threading.Thread(target=load) for _ in range(4)]
        for thread in loading:
            thread.start()
        try:
            flag.touch()
            os.kill(server.workers[0], signal.SIGKILL)
            up = threading.Thread(target=server.read_until, args=("worker up",))
            up.start()
            while up.is_alive():
                with suppress(httpx2.TransportError):
                    scrapes.append(scrape(server.url))
        finally:
            stopping.set()
            for thread in loading:
                thread.join()
        scrapes += [scrape(server.url), scrape(server.url)]
        for before, after in itertools.pairwise(scrapes):
            check_no_total_fell(before, after)
        assert set(answered) == {200}  # the new one takes nothing before its models are loaded
        assert len(server.workers) == 3
        died = [(line["pid"], line["status"]) for line in server.lines if line["event"] == "worker died"]
        assert died[0] == (server.workers[0], -signal.SIGKILL)
        assert died[1][1] == 7
        assert not flag.exists()

        last = scrapes[-1]
        assert last["softrisk_workers_lost_total"] == 2
        for _ in range(8):
            assert post(server.url, body) == 200
        assert scrape(server.url)[REQUESTS] == last[REQUESTS] + 8


def test_a_hanging_worker_still_counts_until_it_is_replaced(running: Run, repository: Path, body: bytes) -> None:
    program = """
from softrisk_service import hub, supervisor
from softrisk_core.cli import main
hub.ANSWER_SECONDS, supervisor.PULSE_SECONDS, supervisor.SILENCE_SECONDS = 0.1, 0.1, 3
main()
"""
    with running(repository, "--no-access-log", workers=2, program=program) as server:
        for _ in range(16):
            assert post(server.url, body) == 200
        before = scrape(server.url)
        with closing(connect(server.url)) as connection:
            connection.request("GET", "/livez")
            connection.getresponse().read()
            (other,) = set(server.workers) - {worker_of(connection, server.workers)}
            os.kill(other, signal.SIGSTOP)
            connection.request("GET", "/metrics")
            assert f"{REQUESTS} 16.0".encode() in connection.getresponse().read()
        server.read_until("worker hangs")
        server.read_until("worker up")
        check_no_total_fell(before, scrape(server.url))
        assert scrape(server.url)[REQUESTS] == 16
    assert any(line["event"].startswith("worker gives no numbers") for line in server.lines)


def test_orders_reach_all_workers_also_those_that_come_later(running: Run, repository: Path, body: bytes) -> None:
    with running(repository, "--repository-mode", "explicit", "--no-access-log", workers=2) as server:

        def order(what: str) -> httpx2.Response:
            return httpx2.post(f"{server.url}/v2/repository/models/{what}", json={})

        def answers() -> set[int]:
            return {post(server.url, body) for _ in range(12)}

        assert answers() == {200}
        assert order("tiny/unload").status_code == 200
        assert answers() == {503}
        os.kill(server.workers[0], signal.SIGKILL)
        server.read_until("worker up")
        assert answers() == {503}
        assert order("tiny/load").status_code == 200
        assert answers() == {200}
        refusal = order("nobody/load")
        assert refusal.status_code == 404
        assert "nobody" in refusal.json()["error"]


def test_with_nothing_to_serve_the_whole_ends_with_the_reasons(refused: Refuse, repository: Path) -> None:
    said = refused(repository, "--port", "0", "--alpha-review", "0.0001", "--workers", "2")
    first, *reasons = said.splitlines()
    assert first == f"error: nothing in {repository} can be served:"
    assert len(reasons) == 4


def test_ctrl_c_ends_all_without_a_word_on_standard_error(
    running: Run, repository: Path, gone: Callable[[int], None]
) -> None:
    ends = []
    for workers in (1, 2):
        with running(repository, workers=workers) as server:
            os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does
            _, errors = server.process.communicate(timeout=20)
            ends.append((server.process.returncode, errors))
            for pid in server.workers:
                gone(pid)
    assert ends[0] == ends[1]
    assert "Traceback" not in ends[1][1]


def test_workers_do_not_outlive_their_supervisor(running: Run, repository: Path, gone: Callable[[int], None]) -> None:
    with running(repository, workers=2) as server:
        server.process.kill()
        for pid in server.workers:
            gone(pid)


def test_elsewhere_several_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Settings(workers=1).workers == 1
    with pytest.raises(ValueError, match="on Linux only"):
        Settings(workers=2)


def test_a_worker_that_cannot_be_started_is_tried_again(running: Run, repository: Path, body: bytes) -> None:
    program = """
import itertools, subprocess
from softrisk_service import supervisor
from softrisk_core.cli import main
supervisor.RETRY_SECONDS = 0.01
calls, start = itertools.count(1), subprocess.Popen
def limited(*args, **options):
    if next(calls) == 3:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return start(*args, **options)
subprocess.Popen = limited
main()
"""
    with running(repository, "--no-access-log", workers=2, program=program) as server:
        os.kill(server.workers[0], signal.SIGKILL)
        assert "temporarily unavailable" in server.read_until("worker not started")["reason"]
        server.read_until("worker up")
        assert post(server.url, body) == 200


def test_if_no_worker_can_be_started_the_service_ends(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    settings = Settings(repository=repository, workers=2)
    with pytest.raises(WorkerError, match=r"no worker can be started: .*temporarily unavailable"):
        supervisor.Supervisor(settings, listen("127.0.0.1", 0)).run()


def test_workers_that_never_start_end_the_service(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    settings = Settings(repository=repository, workers=2)
    with pytest.raises(WorkerError, match="ended at its start, with status 1"):
        supervisor.Supervisor(settings, listen("127.0.0.1", 0)).run()

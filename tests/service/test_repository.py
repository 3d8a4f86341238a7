"""What is served follows the repository: versions come and go, roll back and break, without a restart."""

import asyncio
import gc
import os
import shutil
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from softrisk_core.bundle import MANIFEST, MODEL
from softrisk_core.repository import Repository
from softrisk_service.engine import Engine
from softrisk_service.errors import NotReadyError, RepositoryError, UnknownModelError
from softrisk_service.listing import look, write_default
from softrisk_service.metrics import Metrics
from softrisk_service.runtime import Runtime
from softrisk_service.settings import Settings


@asynccontextmanager
async def run(repository: Path, **settings: Any) -> AsyncIterator[Engine]:
    """An engine that looks at the repository when it is told to."""
    chosen = Settings(repository=repository, threads=1, **{"repository_mode": "explicit"} | settings)
    engine = Engine(chosen, Metrics(CollectorRegistry()))
    await engine.load()
    try:
        yield engine
    finally:
        await engine.close()


def events(logs: Any, event: str) -> list[dict[str, Any]]:
    return [line for line in logs if line["event"] == event]


def states(engine: Engine) -> dict[tuple[str, str], str]:
    return {(status.name, status.version): status.state for status in engine.statuses()}


def gauges(engine: Engine, model: str, version: str) -> set[str]:
    """Names of all gauges that have a series of a version."""
    registry = CollectorRegistry()
    families = [metric for metric in vars(engine.metrics).values() if hasattr(metric, "collect")]
    for family in families:
        registry.register(family)
    return {
        family.name
        for family in registry.collect()
        if family.type == "gauge"
        for sample in family.samples
        if (sample.labels.get("model"), sample.labels.get("version")) == (model, version)
    }


def damage(folder: Path) -> bytes:
    """Cut off the graph's last byte; returns what it was."""
    content = (folder / MODEL).read_bytes()
    (folder / MODEL).write_bytes(content[:-1])
    return content


async def test_a_new_version_becomes_the_default_and_the_old_one_stays_reachable(
    tmp_path: Path, make_bundle: Any
) -> None:
    make_bundle(tmp_path)
    async with run(tmp_path) as engine:
        first = engine.find("tiny")
        make_bundle(tmp_path, seed=7)
        await engine.refresh()
        assert engine.find("tiny").version == "2"
        assert engine.find("tiny", "2") is engine.find("tiny")
        assert engine.find("tiny", "1") is first


async def test_while_something_new_is_loaded_the_old_answers(
    tmp_path: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path)
    async with run(tmp_path) as engine:
        gate, started, replay = threading.Semaphore(0), threading.Semaphore(0), Runtime._replay

        def slowly(self: Runtime, bundle: Any) -> None:
            started.release()
            assert gate.acquire(timeout=10)
            replay(self, bundle)

        monkeypatch.setattr(Runtime, "_replay", slowly)
        make_bundle(tmp_path, seed=7)
        make_bundle(tmp_path, "new")
        loading = asyncio.create_task(engine.refresh())
        await asyncio.to_thread(started.acquire, timeout=10)
        with pytest.raises(NotReadyError, match="'new' is not ready: it is still being loaded"):
            engine.find("new")
        gate.release()
        await asyncio.to_thread(started.acquire, timeout=10)
        assert engine.find("new").version == "1"
        assert engine.find("tiny").version == "1"
        with pytest.raises(NotReadyError, match="still being loaded"):
            engine.find("tiny", "2")
        assert states(engine) == {("new", "1"): "READY", ("tiny", "1"): "READY", ("tiny", "2"): "LOADING"}
        gate.release()
        await loading
        assert engine.find("tiny").version == "2"
        assert set(states(engine).values()) == {"READY"}


async def test_a_broken_version_is_told_once_and_tried_again_when_it_changes(tmp_path: Path, make_bundle: Any) -> None:
    make_bundle(tmp_path)
    async with run(tmp_path) as engine:
        broken = make_bundle(tmp_path, seed=7)
        content = damage(broken.folder)
        with capture_logs() as logs:
            for _ in range(3):
                await engine.refresh()
        assert len(events(logs, "version not ready")) == 1
        assert engine.find("tiny").version == "1"
        assert states(engine) == {("tiny", "1"): "READY", ("tiny", "2"): "UNAVAILABLE"}
        with pytest.raises(NotReadyError, match="damaged"):
            engine.find("tiny", "2")
        assert engine.metrics.model_loads.labels("tiny", "2", "failed")._value.get() == 1
        assert engine.metrics.model_ready.labels("tiny", "2")._value.get() == 0
        (broken.folder / MODEL).write_bytes(content)
        await engine.refresh()
        assert engine.find("tiny").version == "2"
        assert engine.metrics.model_ready.labels("tiny", "2")._value.get() == 1


async def test_what_vanishes_is_retired_with_its_gauges(tmp_path: Path, make_bundle: Any) -> None:
    make_bundle(tmp_path)
    make_bundle(tmp_path, seed=7)
    make_bundle(tmp_path, "other")
    async with run(tmp_path) as engine:
        assert {"softrisk_queue_depth", "softrisk_model_info", "softrisk_model_ready"} < gauges(engine, "tiny", "2")
        shutil.rmtree(tmp_path / "tiny/2")
        shutil.rmtree(tmp_path / "other")
        await engine.refresh()
        assert engine.find("tiny").version == "1"
        with pytest.raises(UnknownModelError, match="versions: 1"):
            engine.find("tiny", "2")
        with pytest.raises(UnknownModelError, match="models: tiny"):
            engine.find("other")
        assert engine.names() == ["tiny"]
        assert gauges(engine, "tiny", "2") | gauges(engine, "other", "1") == set()
        assert gauges(engine, "tiny", "1")
        make_bundle(tmp_path, seed=8)
        await engine.refresh()
        assert engine.find("tiny").version == "2"
        assert "softrisk_model_info" in gauges(engine, "tiny", "2")


async def test_an_empty_repository_is_taken_for_an_unmounted_one(tmp_path: Path, make_bundle: Any) -> None:
    make_bundle(tmp_path / "models")
    async with run(tmp_path / "models") as engine:
        with capture_logs() as logs:
            (tmp_path / "models").rename(tmp_path / "away")
            await engine.refresh()
            (tmp_path / "models").mkdir()
            await engine.refresh()
        assert len(events(logs, "repository not usable")) == 1
        assert engine.find("tiny").version == "1"
        assert engine.ready


async def test_a_rollback_is_a_file_that_outlasts_a_restart(tmp_path: Path, make_bundle: Any) -> None:
    for seed in (1, 2, 3):
        make_bundle(tmp_path, seed=seed)
    default = tmp_path / "tiny/default"
    async with run(tmp_path) as engine:
        default.write_text("2\n")
        await engine.refresh()
        assert engine.find("tiny").version == "2"
        assert engine.find("tiny", "3").version == "3"
        assert engine.metrics.default_version.labels("tiny")._value.get() == 2
        make_bundle(tmp_path, seed=4)
        await engine.refresh()
        assert engine.find("tiny").version == "2"
    async with run(tmp_path) as engine:
        assert engine.find("tiny").version == "2"
        assert [status.version for status in engine.statuses() if status.default] == ["2"]
        default.unlink()
        await engine.refresh()
        assert engine.find("tiny").version == "4"


async def test_a_default_that_is_gone_or_broken_falls_back_to_an_older_version_never_to_a_newer(
    tmp_path: Path, make_bundle: Any
) -> None:
    for seed in (1, 2, 3):
        make_bundle(tmp_path, seed=seed)
    write_default(Repository(tmp_path), "tiny", 2)
    damage(tmp_path / "tiny/2")
    async with run(tmp_path) as engine:
        assert engine.find("tiny").version == "1"
        shutil.rmtree(tmp_path / "tiny/2")
        with capture_logs() as logs:
            await engine.refresh()
            await engine.refresh()
        (line,) = events(logs, "default not usable")
        assert "names version 2, which is not there" in line["reason"]
        assert engine.find("tiny").version == "1"
        shutil.rmtree(tmp_path / "tiny/1")
        await engine.refresh()
        with pytest.raises(NotReadyError, match="names version 2, which is not there"):
            engine.find("tiny")
        assert engine.find("tiny", "3").version == "3"


@pytest.mark.parametrize("text", ["", "latest", "0", "-1", "2.0", "²", "\xff", "1\n2"])
async def test_a_default_that_is_no_version_changes_nothing(tmp_path: Path, make_bundle: Any, text: str) -> None:
    make_bundle(tmp_path)
    make_bundle(tmp_path, seed=7)
    default = tmp_path / "tiny/default"
    default.write_text("1")
    async with run(tmp_path) as engine:
        default.write_text(text, encoding="latin-1")  # an empty file is what a poll sees while `echo 1 >` is writing
        await engine.refresh()
        assert engine.find("tiny").version == "1"
    async with run(tmp_path) as engine:  # nobody knows any more which version was rolled back
        with pytest.raises(NotReadyError, match="must hold the number of a version"):
            engine.find("tiny")
        assert engine.find("tiny", "1").version == "1"


async def test_a_replaced_folder_is_loaded_anew_and_a_touched_one_is_not(tmp_path: Path, make_bundle: Any) -> None:
    make_bundle(tmp_path / "models")
    bundle = make_bundle(tmp_path / "elsewhere", seed=7)
    folder = tmp_path / "models/tiny/1"
    async with run(tmp_path / "models") as engine:
        first = engine.find("tiny")
        os.utime(folder / MANIFEST)
        await engine.refresh()
        assert engine.find("tiny") is first
        shutil.rmtree(folder)
        shutil.copytree(bundle.folder, folder)
        await engine.refresh()
        second = engine.find("tiny")
        assert second.manifest.calibration.id == bundle.manifest.calibration.id != first.manifest.calibration.id
        (info,) = engine.metrics.calibration_info.collect()
        assert [sample.labels["id"] for sample in info.samples] == [bundle.manifest.calibration.id]


async def test_a_served_folder_that_breaks_is_told_and_goes_on_answering(tmp_path: Path, make_bundle: Any) -> None:
    bundle = make_bundle(tmp_path)
    async with run(tmp_path) as engine:
        first = engine.find("tiny")
        content = damage(bundle.folder)
        with capture_logs() as logs:
            await engine.refresh()
            await engine.refresh()
        assert len(events(logs, "version not ready")) == 1
        assert engine.find("tiny") is first
        (status,) = engine.statuses()
        assert status.ready
        assert "what is there now is not served" in (status.reason or "")
        bundle.model_path.write_bytes(content)
        await engine.refresh()
        assert engine.find("tiny") is first
        assert engine.statuses()[0].reason is None


async def test_a_retired_version_is_freed_when_the_last_request_lets_go(
    tmp_path: Path, make_bundle: Any, serve: Any, images: Any
) -> None:
    make_bundle(tmp_path)
    make_bundle(tmp_path, seed=7)
    async with serve(tmp_path, repository_mode="explicit", deadline_seconds=0.5) as service:
        answer = await service.post("/v1/models/tiny/versions/1:predict", {"instances": images(1, 1).tolist()})
        assert answer.status_code == 200
        held, freed = service.engine.find("tiny", "1"), asyncio.Event()
        weakref.finalize(held.batcher._runtime._session, freed.set)
        shutil.rmtree(tmp_path / "tiny/1")
        await service.engine.refresh()
        gc.collect()
        assert not freed.is_set()
        del held
        gc.collect()
        # At the latest when the deadline of its last request, which its batcher watches for, is over.
        async with asyncio.timeout(10):
            await freed.wait()


def test_a_model_deleted_between_two_looks_hides_no_other(
    tmp_path: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path)
    versions = Repository.versions

    def vanishing(repository: Repository, name: str) -> list[int]:
        if name == "going":
            raise FileNotFoundError(2, "No such file or directory")
        return versions(repository, name)

    monkeypatch.setattr(Repository, "models", lambda _: ["going", "gone", "tiny"])
    monkeypatch.setattr(Repository, "versions", vanishing)
    assert list(look(Repository(tmp_path))) == ["tiny"]


async def test_loading_and_unloading_on_request(tmp_path: Path, make_bundle: Any) -> None:
    make_bundle(tmp_path)
    make_bundle(tmp_path, "other")
    async with run(tmp_path) as engine:
        make_bundle(tmp_path, seed=7)
        make_bundle(tmp_path, "third")
        await engine.load_model("tiny")
        assert engine.find("tiny").version == "2"
        assert engine.names() == ["other", "tiny"]
        await engine.unload_model("tiny")
        for version in (None, "1", "2"):
            with pytest.raises(NotReadyError, match="it was unloaded"):
                engine.find("tiny", version)
        assert gauges(engine, "tiny", "2") == set()
        assert engine.ready
        await engine.unload_model("other")
        assert not engine.ready
        assert not engine.has_nothing_to_serve
        await engine.load_model("tiny")
        assert engine.find("tiny").version == "2"
        await engine.load_model("third")
        assert engine.find("third").version == "1"
        for change in (engine.load_model, engine.unload_model):
            with pytest.raises(UnknownModelError):
                await change("nobody")


async def test_loading_a_version_makes_it_the_default_for_good(tmp_path: Path, make_bundle: Any) -> None:
    for seed in (1, 2, 3):
        make_bundle(tmp_path, seed=seed)
    damage(tmp_path / "tiny/3")
    async with run(tmp_path) as engine:
        await engine.load_model("tiny", 1)
        await engine.load_model("tiny")
        assert engine.find("tiny").version == "1"
        with pytest.raises(RepositoryError, match=r"version 3 cannot be served: .*; version 1 still answers"):
            await engine.load_model("tiny", 3)
        with pytest.raises(RepositoryError, match="version 3 cannot be served"):
            await engine.load_model("tiny", "latest")
        with pytest.raises(UnknownModelError, match="no version '4'; versions: 1, 2, 3"):
            await engine.load_model("tiny", 4)
        assert engine.find("tiny").version == "1"
        assert look(Repository(tmp_path))["tiny"].default == 1
    async with run(tmp_path) as engine:
        assert engine.find("tiny").version == "1"
        shutil.rmtree(tmp_path / "tiny/3")
        await engine.load_model("tiny", "latest")
        assert engine.find("tiny").version == "2"
        assert look(Repository(tmp_path))["tiny"].default is None
        damage(make_bundle(tmp_path).folder)
        with pytest.raises(RepositoryError, match=r"tiny version 3 cannot be served: .*; version 2 still answers"):
            await engine.load_model("tiny")


async def test_in_a_repository_that_cannot_be_written_a_rollback_is_refused_and_changes_nothing(
    tmp_path: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path)
    make_bundle(tmp_path, seed=7)

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    async with run(tmp_path) as engine:
        monkeypatch.setattr("softrisk_service.listing.tempfile.mkstemp", read_only)
        with pytest.raises(RepositoryError, match=r"Read-only file system\): write 1 into tiny/default"):
            await engine.load_model("tiny", 1)
        assert engine.find("tiny").version == "2"


async def test_a_repository_that_cannot_be_read_changes_nothing(
    tmp_path: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path)

    def unreadable(_: Repository) -> list[str]:
        raise PermissionError(13, "Permission denied", "/secret")

    async with run(tmp_path) as engine:
        monkeypatch.setattr(Repository, "models", unreadable)
        await engine.refresh()
        assert engine.faults == ["the repository cannot be read: Permission denied"]
        with pytest.raises(RepositoryError, match="cannot be read: Permission denied"):
            await engine.load_model("tiny")
        assert engine.find("tiny").version == "1"


def test_the_default_is_written_whole_or_not_at_all(
    tmp_path: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle(tmp_path)
    repository = Repository(tmp_path)
    write_default(repository, "tiny", 1)
    before = sorted(path.name for path in (tmp_path / "tiny").iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("softrisk_service.listing.os.replace", full)
    with pytest.raises(RepositoryError, match="No space left"):
        write_default(repository, "tiny", 2)
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir()) == before == ["1", "default"]
    assert look(repository)["tiny"].default == 1


async def test_polling_goes_on_after_a_fault(tmp_path: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path)
    failures = [RepositoryError("a network file system hiccup"), RuntimeError("a fault of ours")]
    new, followed = threading.Event(), threading.Event()

    def failing(repository: Repository) -> Any:
        if new.is_set():
            if failures:
                raise failures.pop()
            if engine.find("tiny").version == "2":
                followed.set()
        return look(repository)

    monkeypatch.setattr("softrisk_service.engine.look", failing)
    async with run(tmp_path, repository_mode="poll", poll_seconds=0.01) as engine:
        make_bundle(tmp_path, seed=7)
        new.set()
        assert await asyncio.to_thread(followed.wait, 20)
        assert engine.metrics.internal_errors._value.get() == 1


@pytest.mark.parametrize("mode", ["explicit", "none"])
async def test_without_polling_nothing_changes_by_itself(tmp_path: Path, make_bundle: Any, mode: str) -> None:
    make_bundle(tmp_path)
    tasks = asyncio.all_tasks()
    async with run(tmp_path, repository_mode=mode):
        assert asyncio.all_tasks() == tasks

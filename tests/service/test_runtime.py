"""Sessions of onnxruntime and how models are run: what was measured decides, and what was optimised is kept."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from softrisk_core.bundle import Bundle, load_bundle
from softrisk_core.manifest import OUTPUTS
from softrisk_core.repository import Repository
from softrisk_service import runtime as runtime_module
from softrisk_service.errors import NotServableError
from softrisk_service.plan import INLINE_SECONDS, LONE_SECONDS, Plan, measure
from softrisk_service.runtime import Runtime
from softrisk_service.sessions import CACHE, Opened, open_session, usable_cores
from softrisk_service.settings import Device, Settings


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Any) -> Bundle:
    made: Bundle = make_bundle(tmp_path)
    return made


def kept(bundle: Bundle) -> list[Path]:
    return sorted((bundle.folder.parent.parent / CACHE).glob("*"))


def settings(**changes: Any) -> Settings:
    return Settings(threads=1, **changes)


def answers(runtime: Runtime, bundle: Bundle) -> dict[str, Any]:
    inputs, _ = bundle.golden()
    return runtime.run(inputs)


def test_the_optimised_graph_is_kept_and_gives_the_same_answers(bundle: Bundle) -> None:
    first = Runtime(bundle, settings())
    (graph,) = kept(bundle)
    written = graph.stat().st_mtime_ns
    second = Runtime(bundle, settings())
    assert kept(bundle) == [graph]
    assert graph.stat().st_mtime_ns == written
    for name in OUTPUTS:
        np.testing.assert_array_equal(answers(first, bundle)[name], answers(second, bundle)[name])


def test_a_damaged_optimised_graph_is_made_anew(bundle: Bundle) -> None:
    Runtime(bundle, settings())
    (graph,) = kept(bundle)
    graph.write_bytes(b"not a graph")
    Runtime(bundle, settings())
    assert kept(bundle) == [graph]
    onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


def test_an_optimised_graph_that_computes_something_else_is_made_anew(bundle: Bundle) -> None:
    first = Runtime(bundle, settings())
    (graph,) = kept(bundle)
    model = onnx.load(graph)
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "weights")
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) + 3, "weights"))
    onnx.save(model, graph)
    damaged = graph.read_bytes()
    second = Runtime(bundle, settings())
    np.testing.assert_array_equal(answers(first, bundle)["rank"], answers(second, bundle)["rank"])
    assert kept(bundle) == [graph]
    assert graph.read_bytes() != damaged


def test_a_kept_graph_is_for_all_users_and_drafts_that_were_left_go(bundle: Bundle) -> None:
    folder = bundle.folder.parent.parent / CACHE
    folder.mkdir()
    recent, old = folder / "draft-1.onnx", folder / "draft-2.onnx"
    recent.touch()
    old.touch()
    os.utime(old, (0, 0))
    Runtime(bundle, settings())
    (graph,) = set(kept(bundle)) - {recent}
    assert graph.stat().st_mode & 0o777 == 0o644
    assert recent.exists()


def test_a_repository_that_cannot_be_written_is_served(bundle: Bundle) -> None:
    # A file in place of the folder stops even a superuser, whom permissions do not.
    (bundle.folder.parent.parent / CACHE).write_text("")
    assert len(answers(Runtime(bundle, settings()), bundle)["rank"]) == 64


def test_the_cache_is_no_model(bundle: Bundle, tmp_path: Path) -> None:
    Runtime(bundle, settings())
    assert Repository(tmp_path).models() == ["tiny"]
    load_bundle(bundle.folder)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_this_onnxruntime_lacks_is_named(bundle: Bundle, device: str) -> None:
    if any(device in provider.lower() for provider in onnxruntime.get_available_providers()):
        pytest.skip(f"this onnxruntime has {device}")
    with pytest.raises(NotServableError, match=r"only .*CPUExecutionProvider.*softrisk\[gpu\]"):
        Runtime(bundle, settings(device=device))


def test_a_device_that_this_machine_lacks_is_named_and_auto_takes_the_cpu(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = onnxruntime.InferenceSession

    def without_cuda(*args: Any, providers: list[Any], **options: Any) -> onnxruntime.InferenceSession:
        # As a build with CUDA does where its libraries or the driver are missing.
        return start(*args, providers=["CPUExecutionProvider"], **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    with pytest.raises(NotServableError, match="on CPUExecutionProvider in place of CUDAExecutionProvider"):
        Runtime(bundle, settings(device="cuda"))
    with structlog.testing.capture_logs() as lines:
        assert Runtime(bundle, settings(device="auto")).provider == "CPUExecutionProvider"
    assert "in place of CUDAExecutionProvider" in lines[0]["reason"]


def test_long_runs_get_all_cores_and_short_ones_a_single_thread(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def noted(bundle: Bundle, device: Device, threads: int, *, reuse: bool = True) -> Opened:
        opened.append(threads)
        return open_session(bundle, device, threads, reuse=reuse)

    monkeypatch.setattr(runtime_module, "open_session", noted)
    monkeypatch.setattr(runtime_module, "usable_cores", lambda: 2)
    Runtime(bundle, Settings())
    assert opened == [1]
    opened.clear()
    monkeypatch.setattr(Runtime, "_seconds", lambda *_: 1e-3)
    Runtime(bundle, Settings())
    assert opened == [1, 2]
    opened.clear()
    Runtime(bundle, Settings(workers=2))  # each has its share
    assert opened == [1]


def test_cores_are_at_least_one() -> None:
    assert usable_cores() >= 1


SECONDS = st.lists(st.floats(1e-6, 1), min_size=1, max_size=8).map(
    lambda times: {2**index: taken for index, taken in enumerate(times)}
)


@given(SECONDS)
def test_a_plan_keeps_nearly_all_the_throughput(seconds: dict[int, float]) -> None:
    plan = Plan.of(seconds, INLINE_SECONDS, LONE_SECONDS)
    rates = {size: size / (taken + 60e-6) for size, taken in seconds.items()}
    assert rates[plan.batch_size] >= 0.95 * max(rates.values())
    assert all(rates[size] < 0.985 * max(rates.values()) for size in seconds if size < plan.batch_size)
    assert plan.inline_size == 0 or seconds[plan.inline_size] <= INLINE_SECONDS
    assert plan.lone_size == 0 or seconds[plan.lone_size] <= LONE_SECONDS
    assert plan.inline_size <= plan.lone_size


def test_models_of_microseconds_run_inline_and_models_of_milliseconds_do_not() -> None:
    small = measure(lambda size: 10e-6 + 11e-6 * size, 64, INLINE_SECONDS, LONE_SECONDS)
    assert (small.inline_size, small.batch_size) == (8, 64)
    large = measure(lambda size: 3e-3 + 2.2e-3 * (size - 1), 64, INLINE_SECONDS, LONE_SECONDS)
    assert (large.inline_size, large.lone_size, large.batch_size) == (0, 1, 32)
    # Batching does not pay, so nobody waits for company.
    assert measure(lambda size: 6e-3 * size, 64, INLINE_SECONDS, LONE_SECONDS) == Plan(1, 0, 0, 6e-3)


def test_sizes_that_would_take_too_long_are_not_tried() -> None:
    tried: list[int] = []

    def seconds(size: int) -> float:
        tried.append(size)
        return 0.1 * size

    assert measure(seconds, 64, INLINE_SECONDS, LONE_SECONDS).batch_size == 1
    assert tried == [1, 2, 4]

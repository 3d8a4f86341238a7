"""Sessions of onnxruntime: where they run, with which options, and their optimised graphs kept for the next start."""

import hashlib
import os
import platform
import time
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final, Literal, NamedTuple

import onnxruntime
import structlog

from softrisk_core.bundle import MODEL, Bundle
from softrisk_service.errors import NotServableError
from softrisk_service.settings import Device

CPU: Final = "CPUExecutionProvider"
_CUDA: Final = "CUDAExecutionProvider"
_TENSORRT: Final = "TensorrtExecutionProvider"

CACHE: Final = ".optimized"
"""Folder beside the models of a repository. May be deleted at any time; where it cannot be written, nothing is kept."""

_CGROUP_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")
_CPU_FACTS: Final = Path("/proc/cpuinfo")

_DRAFT: Final = "draft-"
_STALE_SECONDS: Final = 3600.0
"""A draft so old was left by a process that was killed."""

log = structlog.get_logger()


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut down to the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # not Linux, or no quota: the file says "max"
        return cores


class Opened(NamedTuple):
    """A session, and whether it came from a kept graph, of which only the replay tells whether it is still sound."""

    session: onnxruntime.InferenceSession
    reused: bool


def open_session(bundle: Bundle, device: Device, threads: int, *, reuse: bool = True) -> Opened:
    """Load a bundle's graph.

    Args:
        bundle: Whose.
        device: Where it runs; `auto` for CUDA where this build of onnxruntime and this machine have it, else the CPU.
        threads: Of onnxruntime, on the CPU.
        reuse: Whether a kept graph may be used; else it is made anew.

    Raises:
        NotServableError: If onnxruntime cannot load it, or not on that device.
    """
    available = onnxruntime.get_available_providers()
    if device == "auto" and _CUDA in available:
        try:
            return Opened(_open(bundle.model_path, _options(threads), _providers("cuda", bundle)), reused=False)
        except NotServableError as error:
            log.warning("CUDA cannot be used, the model runs on the CPU", reason=str(error))
    elif device == "cuda" or device == "tensorrt":  # `in` would not narrow the type
        return Opened(_open(bundle.model_path, _options(threads), _providers(device, bundle)), reused=False)
    kept = _kept_graph(bundle)
    if kept is None:
        return Opened(_open(bundle.model_path, _options(threads), [CPU]), reused=False)
    if reuse and kept.exists():
        options = _options(threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it has them behind it
        try:
            return Opened(_open(kept, options, [CPU]), reused=True)
        except NotServableError:
            log.warning("an optimised graph is damaged, it is made anew", path=str(kept))
    session = _open_and_keep(bundle.model_path, _options(threads), kept)
    return Opened(session or _open(bundle.model_path, _options(threads), [CPU]), reused=False)


def _open(path: Path, options: onnxruntime.SessionOptions, providers: list[Any]) -> onnxruntime.InferenceSession:
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    try:
        # Else it goes over to other providers by itself, also later, and prints that to standard output.
        session = onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions have no common root
        raise NotServableError(f"onnxruntime cannot load {path}: {error}") from error
    if (found := session.get_providers()[0]) != wanted:  # what it needs on the machine is missing
        raise NotServableError(
            f"onnxruntime runs {path} on {found} in place of {wanted}: install the driver and libraries that {wanted} "
            "needs, or choose another --device"
        )
    return session


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # Left alone, onnxruntime takes one thread for each core of the host, whatever the container may use.
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Threads that spin between the operators of a run make it faster; between runs they would only take the cores
    # from the event loop.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # warnings go to stderr and are not JSON
    return options


def _providers(device: Literal["cuda", "tensorrt"], bundle: Bundle) -> list[Any]:
    wanted = {"cuda": _CUDA, "tensorrt": _TENSORRT}[device]
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise NotServableError(
            f"this build of onnxruntime has no {wanted}, only {', '.join(available)}: install the extra softrisk[gpu] "
            "in place of softrisk[cpu]"
        )
    # TF32 would round factors to 10 bits: not the function whose scores were calibrated.
    cuda = (_CUDA, {"use_tf32": "0"})
    if device == "cuda":
        return [cuda, CPU]
    # Building its engines takes minutes, so they are kept.
    cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(_cache(bundle))}
    return [(_TENSORRT, cache), cuda, CPU]


def _cache(bundle: Bundle) -> Path:
    return bundle.folder.parent.parent / CACHE


def _kept_graph(bundle: Bundle) -> Path | None:
    """Where the optimised graph is kept: for this graph, this onnxruntime, and this kind of processor."""
    try:
        facts = _CPU_FACTS.read_text().splitlines()
    except OSError:
        return None
    features = next((line for line in facts if line.startswith(("flags", "Features"))), "")
    key = f"{bundle.manifest.files[MODEL].sha256} {onnxruntime.__version__} {platform.machine()} {features}"
    return _cache(bundle) / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.onnx"


def _open_and_keep(path: Path, options: onnxruntime.SessionOptions, kept: Path) -> onnxruntime.InferenceSession | None:
    """Load a graph and keep its optimised form; None if that cannot be written."""
    draft: Path | None = None
    try:
        kept.parent.mkdir(exist_ok=True)
        for left in kept.parent.glob(f"{_DRAFT}*"):
            if left.stat().st_mtime < time.time() - _STALE_SECONDS:
                left.unlink()
        with NamedTemporaryFile(dir=kept.parent, prefix=_DRAFT, suffix=".onnx", delete=False) as file:
            draft = Path(file.name)
        options.optimized_model_filepath = str(draft)
        session = _open(path, options, [CPU])
        draft.chmod(0o644)  # other users may serve the same repository
        draft.replace(kept)
        return session
    # No permission, no space: whether the graph itself is at fault shows without keeping it.
    except (OSError, NotServableError):
        return None
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)

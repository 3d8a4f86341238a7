"""One `model.onnx` in onnxruntime: the provider chosen from what is installed, and proof that it repeats the bundle."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import OUTPUTS
from softrisk_service.errors import NotServableError

Inputs = Mapping[str, NDArray[np.float32]]
Outputs = dict[str, NDArray[Any]]

CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"

_COMPARED: Final = ("logits", "probabilities", *DIAGNOSTICS, "nonconformity")
_RANKED: Final = ("rank", "flagged")
_FLOATS: Final = (*_COMPARED, "p_value", "risk_score")
_CGROUP_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may use: its affinity, cut down to the container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_QUOTA.read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # not Linux, or no quota: the file says "max"
        return cores


def _providers() -> list[Any]:
    if CUDA in onnxruntime.get_available_providers():
        # TF32 would round factors to 10 bits: not the function whose scores were calibrated.
        return [(CUDA, {"use_tf32": "0"}), CPU]
    return [CPU]


class Runtime:
    """A loaded graph.

    Args:
        bundle: Whose graph.
        threads: Threads of onnxruntime; None for `usable_cores()`.

    Attributes:
        provider: The execution provider that runs it.

    Raises:
        NotServableError: If onnxruntime does not load it, or its inputs and outputs are not those of the manifest.
    """

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        # Left alone, onnxruntime takes one thread for each core of the host, whatever the container may use.
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Idle workers would otherwise spin on the cores that the event loop needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # warnings go to stderr and are not JSON
        try:
            self._session = onnxruntime.InferenceSession(bundle.model_path, options, providers=_providers())
        except Exception as error:  # onnxruntime's exceptions have no common root
            raise NotServableError(f"onnxruntime cannot load {bundle.model_path}: {error}") from error
        self.provider: str = self._session.get_providers()[0]
        wanted = {spec.name for spec in bundle.manifest.inputs}
        found = {node.name for node in self._session.get_inputs()}
        if wanted != found:
            raise NotServableError(f"the graph's inputs are {sorted(found)}, the manifest's {sorted(wanted)}")
        if missing := set(OUTPUTS) - {node.name for node in self._session.get_outputs()}:
            raise NotServableError(f"the graph lacks the outputs {sorted(missing)}")

    def run(self, inputs: Inputs) -> Outputs:
        """Run one batch; onnxruntime releases the interpreter lock meanwhile.

        Args:
            inputs: By name, each (B, …) float32.

        Returns:
            Every one of `OUTPUTS` by name, each (B,) or (B, C).
        """
        return dict(zip(OUTPUTS, self._session.run(OUTPUTS, inputs), strict=True))

    def replay(self, bundle: Bundle) -> None:
        """Warm up with the bundle's golden inputs and compare what comes out with what the bundle recorded.

        Floats must agree within the manifest's tolerance. Ranks and flags must be the same wherever the score is
        the same to the last bit; elsewhere the rank may differ as the score does.

        Raises:
            NotServableError: If they do not agree, naming the output and the distance.
            BundleError: If `golden.npz` cannot be read.
        """
        inputs, expected = bundle.golden()
        tolerance = bundle.manifest.parity.tolerance
        if missing := ({spec.name for spec in bundle.manifest.inputs} - set(inputs)) | (set(OUTPUTS) - set(expected)):
            raise NotServableError(f"golden.npz lacks {sorted(missing)}")
        try:
            actual = self.run(inputs)
            self.run({name: rows[:1] for name, rows in inputs.items()})  # the commonest batch, planned in advance
        except Exception as error:
            raise NotServableError(f"the graph fails on its golden inputs on {self.provider}: {error}") from error
        for name in OUTPUTS:
            if actual[name].shape != expected[name].shape:
                raise NotServableError(f"output {name} has shape {actual[name].shape}, not {expected[name].shape}")
        for name in _COMPARED:
            difference = np.abs(actual[name].astype(np.float64) - expected[name])
            allowed = tolerance.absolute + tolerance.relative * np.abs(expected[name])
            if not (difference <= allowed).all():
                raise NotServableError(
                    f"golden replay on {self.provider}: {name} differs by up to {difference.max():.3g}, more "
                    f"than {tolerance.absolute:g} + {tolerance.relative:g}·|value|; export the model again, or "
                    "calibrate it on this provider"
                )
        same_logits = (actual["logits"] == expected["logits"]).all(axis=1)
        same_score = actual["nonconformity"] == expected["nonconformity"]
        for names, rows in ((("label",), same_logits), (_RANKED, same_score)):
            for name in names:
                if not np.array_equal(actual[name][rows], expected[name][rows]):
                    raise NotServableError(f"golden replay on {self.provider}: {name} is not the one recorded")


def finite_rows(outputs: Outputs) -> NDArray[np.bool_] | None:
    """Which rows hold no NaN or infinity; None if all are finite, the usual case, found in one pass.

    Args:
        outputs: As from `Runtime.run`.

    Returns:
        Shape (B,), or None.
    """
    rows = len(outputs["logits"])
    if np.isfinite(np.concatenate([outputs[name].ravel() for name in _FLOATS])).all():
        return None
    finite = np.ones(rows, np.bool_)
    for name in _FLOATS:
        finite &= np.isfinite(outputs[name].reshape(rows, -1)).all(axis=1)
    return finite

"""Running a graph with onnxruntime, on the CPU: what a calibration score is measured with."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from softrisk_export.errors import ExportError

BATCH_SIZE: Final = 256

Outputs = dict[str, NDArray[Any]]


class Runner:
    """A graph with one input, loaded by onnxruntime.

    Args:
        model: The graph, serialised or not.

    Raises:
        ExportError: If onnxruntime does not load it.
    """

    def __init__(self, model: onnx.ModelProto | bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its complaints come as exceptions, too
        content = model if isinstance(model, bytes) else model.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no narrower base
            raise ExportError(
                f"onnxruntime {onnxruntime.__version__} does not load the graph: {_line(error)}"
            ) from error
        self.input: str = self._session.get_inputs()[0].name
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def __call__(self, inputs: NDArray[np.float32], outputs: Iterable[str] | None = None) -> Outputs:
        """Run one batch.

        Args:
            inputs: Shape (B, …).
            outputs: Names of the wanted outputs; None for all.

        Raises:
            ExportError: If onnxruntime cannot run it.
        """
        names = self.outputs if outputs is None else tuple(outputs)
        try:
            return dict(zip(names, self._session.run(list(names), {self.input: inputs}), strict=True))
        except Exception as error:
            raise ExportError(f"the graph fails on a batch of shape {inputs.shape}: {_line(error)}") from error

    def over(self, inputs: NDArray[np.float32], doing: str) -> Outputs:
        """Run any number of rows in batches of `BATCH_SIZE`, with a progress bar.

        Args:
            inputs: Shape (N, …), N ≥ 1.
            doing: What the bar says.

        Raises:
            ExportError: If onnxruntime cannot run it.
        """
        starts = range(0, len(inputs), BATCH_SIZE)
        console = Console(stderr=True)
        bar = track(starts, doing, console=console, transient=True, disable=not console.is_terminal)
        batches = [self(inputs[start : start + BATCH_SIZE]) for start in bar]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in self.outputs}


def _line(error: Exception) -> str:
    return " ".join(str(error).split())

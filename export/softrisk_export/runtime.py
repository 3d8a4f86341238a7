"""Running a graph with onnxruntime, on the CPU: what scores are measured with."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from softrisk_core.rows import Inputs, count_rows, take_rows
from softrisk_export.errors import ExportError

BATCH_SIZE: Final = 256

Outputs = dict[str, NDArray[Any]]


class Runner:
    """A graph, loaded by onnxruntime.

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
        self._entry: str = self._session.get_inputs()[0].name
        self.outputs: tuple[str, ...] = tuple(output.name for output in self._session.get_outputs())

    def __call__(self, inputs: Inputs | NDArray[np.float32], outputs: Iterable[str] | None = None) -> Outputs:
        """Run one batch.

        Args:
            inputs: By name, each (B, …); of a graph with one input also that one alone.
            outputs: Names of the wanted outputs; None for all.

        Raises:
            ExportError: If onnxruntime cannot run it.
        """
        names = self.outputs if outputs is None else tuple(outputs)
        feed = self._by_name(inputs)
        try:
            return dict(zip(names, self._session.run(list(names), feed), strict=True))
        except Exception as error:
            shapes = ", ".join(str(values.shape) for values in feed.values())
            raise ExportError(f"the graph fails on a batch of shape {shapes}: {_line(error)}") from error

    def over(
        self,
        inputs: Inputs | NDArray[np.float32],
        outputs: Iterable[str] | None = None,
        *,
        advance: Callable[[int], None] = lambda rows: None,
    ) -> Outputs:
        """Run any number of rows in batches of `BATCH_SIZE`.

        Args:
            inputs: N ≥ 1 rows, as for a batch.
            outputs: Names of the wanted outputs; None for all.
            advance: Called after each batch with the number of its rows.

        Raises:
            ExportError: If onnxruntime cannot run it.
        """
        names = self.outputs if outputs is None else tuple(outputs)
        rows = self._by_name(inputs)
        batches = []
        for start in range(0, count_rows(rows), BATCH_SIZE):
            batch = take_rows(rows, slice(start, start + BATCH_SIZE))
            batches.append(self(batch, names))
            advance(count_rows(batch))
        return {name: np.concatenate([batch[name] for batch in batches]) for name in names}

    def _by_name(self, inputs: Inputs | NDArray[np.float32]) -> Inputs:
        return {self._entry: inputs} if isinstance(inputs, np.ndarray) else inputs


def _line(error: Exception) -> str:
    return " ".join(str(error).split())

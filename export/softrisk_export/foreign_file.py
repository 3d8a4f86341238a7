"""An ONNX file as it came: loaded, checked for what can be taken over, and run row by row."""

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from softrisk_export.errors import ExportError, ForeignModelError
from softrisk_export.graph import opset
from softrisk_export.onnx_edit import exposing
from softrisk_export.runtime import Runner

OLDEST_FOREIGN_OPSET: Final = 11

OLDEST_IR: Final = 8
"""Of 2021. Files older than IR version 4 list their weights as inputs, which nothing here needs."""

_KNOWN_DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml")


@dataclass(frozen=True)
class ForeignFile:
    """An ONNX file with one float input.

    Attributes:
        path: Where it is.
        model: Its content, weights inline.
        input: Name of its input.
        batch: The batch size that it was made for; None if that is open.
        sizes: Of the input's other axes; None where open.
    """

    path: Path
    model: onnx.ModelProto
    input: str
    batch: int | None
    sizes: tuple[int | None, ...]

    @classmethod
    def load(cls, path: Path) -> "ForeignFile":
        """Read a file and the weights beside it.

        Raises:
            ForeignModelError: If it is missing, damaged, older than opset 11, or has not exactly one float input.
        """
        try:
            model = onnx.load(path)
        except Exception as error:  # protobuf, onnx and the file system each raise their own
            raise ForeignModelError(
                f"{path} cannot be read as ONNX, with the weights that belong to it: {error}"
            ) from error
        if not model.graph.node or not any(entry.domain in _KNOWN_DOMAINS[:2] for entry in model.opset_import):
            raise ForeignModelError(f"{path} is not an ONNX model, or it is empty")
        if opset(model) < OLDEST_FOREIGN_OPSET:
            raise ForeignModelError(
                f"{path} has opset {opset(model)}, softrisk takes {OLDEST_FOREIGN_OPSET} and later; export it "
                "again, or convert it with onnx.version_converter"
            )
        for number, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"  # so that an error can name it
        weights = {initializer.name for initializer in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        if len(inputs) != 1:
            names = ", ".join(value.name for value in inputs) or "none"
            raise ForeignModelError(f"{path} has {len(inputs)} inputs ({names}); softrisk takes models with one")
        model.ir_version = max(model.ir_version, OLDEST_IR)
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        tensor = inputs[0].type.tensor_type
        if tensor.elem_type != TensorProto.FLOAT:
            kind = TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type else "no tensor"
            raise ForeignModelError(
                f"the input {inputs[0].name} of {path} is {kind}; softrisk takes FLOAT tensors: export the model with "
                "float32 inputs"
            )
        dims = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]
        if not dims:
            raise ForeignModelError(f"the input {inputs[0].name} of {path} does not say its shape")
        return cls(path=path, model=model, input=inputs[0].name, batch=dims[0], sizes=tuple(dims[1:]))

    def outputs(self, row: NDArray[np.float32]) -> dict[str, Any]:
        """What the file answers to a row, shape (1, …)."""
        return dict(self._runner()(self.batch_of(row)))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of its outputs."""
        return tuple(value.name for value in self.model.graph.output)

    def tensor(self, name: str) -> "RowByRow":
        """A tensor inside the file as a function of rows.

        Raises:
            ForeignModelError: If there is none of that name.
        """
        names = [output for node in self.model.graph.node for output in node.output]
        if name not in names:
            near = get_close_matches(name, names, n=3, cutoff=0.3) or names[-3:]
            raise ForeignModelError(f"{self.path} has no tensor {name!r}; it has, among others, {', '.join(near)}")
        return RowByRow(self, name, self._runner([name]))

    def _runner(self, names: Iterable[str] = ()) -> Runner:
        try:
            return Runner(exposing(self.model, names))
        except ExportError as error:
            custom = sorted({node.domain for node in self.model.graph.node} - set(_KNOWN_DOMAINS))
            hint = f"; it uses operators of {', '.join(custom)}, which are not part of ONNX" if custom else ""
            raise ForeignModelError(f"{self.path} cannot be run{hint}: {error}") from error

    def batch_of(self, row: NDArray[np.float32]) -> NDArray[np.float32]:
        """A row, shape (1, …), repeated to the batch that the file takes."""
        return np.repeat(row, self.batch or 1, axis=0)


class RowByRow:
    """A tensor of a file, computed for one row at a time, so that no row can touch another.

    Args:
        file: The file.
        name: Of the tensor.
        runner: The file with that tensor among its outputs.
    """

    def __init__(self, file: ForeignFile, name: str, runner: Runner) -> None:
        self._file, self._name, self._runner = file, name, runner

    def one(self, row: NDArray[np.float32]) -> NDArray[np.generic]:
        """The tensor as it is, for a row of shape (1, …).

        Raises:
            ForeignModelError: If it is not one row of class scores for each row of the input.
        """
        value = self._runner(self._file.batch_of(row), [self._name])[self._name]
        batch = self._file.batch or 1
        if (
            not np.issubdtype(value.dtype, np.floating)
            or value.shape[:1] != (batch,)
            or value[:1].size != max(value.shape[1:2], default=1)
        ):
            raise ForeignModelError(
                f"{self._name} is {value.dtype} of shape {value.shape} for a batch of {batch}; logits are float of "
                "shape (batch, classes): name their tensor with --logits"
            )
        return value[:1]

    def __call__(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape (N, K) for rows of shape (N, …)."""
        return np.concatenate([self.one(row[None]).reshape(1, -1).astype(np.float32) for row in rows])

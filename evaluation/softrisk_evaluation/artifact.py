"""The artifact under test: `model.onnx` as it is served, run by onnxruntime."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_export.runtime import Runner


@dataclass(frozen=True)
class Answers:
    """What the artifact says about N inputs.

    Attributes:
        label: Predicted classes, int64, shape (N,).
        rank: Conformal ranks, int64, in 1 … n + 1.
        nonconformity: Scores behind the ranks, float32.
        diagnostics: For each diagnostic its values, float32, shape (N,).
    """

    label: NDArray[np.int64]
    rank: NDArray[np.int64]
    nonconformity: NDArray[np.float32]
    diagnostics: dict[str, NDArray[np.float32]]

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Answers":
        """The answers about some of the inputs."""
        return Answers(
            label=self.label[chosen],
            rank=self.rank[chosen],
            nonconformity=self.nonconformity[chosen],
            diagnostics={name: values[chosen] for name, values in self.diagnostics.items()},
        )


class Artifact:
    """A bundle's model, ready to run on the CPU.

    Args:
        bundle: A bundle with one input.

    Raises:
        ExportError: If onnxruntime does not load it.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._run = Runner(bundle.model_path.read_bytes())

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, shape (N, C), of inputs (N, …)."""
        logits: NDArray[np.float32] = self._run.over(inputs, ["logits"])["logits"]
        return logits

    def answer(self, inputs: NDArray[np.float32], advance: Callable[[int], None] = lambda rows: None) -> Answers:
        """Everything a report needs.

        Args:
            inputs: Shape (N, …), in the model's domain.
            advance: Called after each batch with the number of its inputs.
        """
        outputs = self._run.over(inputs, ["label", "rank", "nonconformity", *DIAGNOSTICS], advance=advance)
        return Answers(
            label=outputs["label"],
            rank=outputs["rank"],
            nonconformity=outputs["nonconformity"],
            diagnostics={name: outputs[name] for name in DIAGNOSTICS},
        )

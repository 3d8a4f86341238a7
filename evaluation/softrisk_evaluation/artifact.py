"""The artifact under test: `model.onnx` as it is served, run by onnxruntime."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle
from softrisk_core.diagnostics import DIAGNOSTICS

BATCH: Final = 256


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
    """

    def __init__(self, bundle: Bundle) -> None:
        self._session = onnxruntime.InferenceSession(str(bundle.model_path), providers=["CPUExecutionProvider"])
        self._input = bundle.manifest.inputs[0].name

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, shape (N, C), of inputs (N, …)."""
        logits: NDArray[np.float32] = self._run(["logits"], inputs, lambda _: None)["logits"]
        return logits

    def answer(self, inputs: NDArray[np.float32], advance: Callable[[int], None]) -> Answers:
        """Everything a report needs.

        Args:
            inputs: Shape (N, …), in the model's domain.
            advance: Called with the number of inputs done after each batch.
        """
        outputs = self._run(["label", "rank", "nonconformity", *DIAGNOSTICS], inputs, advance)
        return Answers(
            label=outputs["label"],
            rank=outputs["rank"],
            nonconformity=outputs["nonconformity"],
            diagnostics={name: outputs[name] for name in DIAGNOSTICS},
        )

    def _run(
        self, names: list[str], inputs: NDArray[np.float32], advance: Callable[[int], None]
    ) -> dict[str, NDArray[Any]]:
        batches = []
        for start in range(0, len(inputs), BATCH):
            batch = inputs[start : start + BATCH]
            batches.append(self._session.run(names, {self._input: batch}))
            advance(len(batch))
        return {name: np.concatenate(parts) for name, parts in zip(names, zip(*batches, strict=True), strict=True)}

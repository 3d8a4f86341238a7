"""The artifact under test: `model.onnx` as it is served, run by onnxruntime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.scores.score import LogitScore
from softrisk_export.runtime import Runner


@dataclass(frozen=True)
class Answers:
    """What the artifact says about N inputs.

    Attributes:
        label: Predicted classes, int64, shape (N,).
        rank: Conformal ranks, int64, in 1 … n + 1.
        nonconformity: Scores behind the ranks, float32.
        diagnostics: For each diagnostic its values, float32, shape (N,).
        published: For each published score its values, float64, shape (N,); larger is stranger.
    """

    label: NDArray[np.int64]
    rank: NDArray[np.int64]
    nonconformity: NDArray[np.float32]
    diagnostics: dict[str, NDArray[np.float32]]
    published: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Answers":
        """The answers about some of the inputs."""
        return Answers(
            label=self.label[chosen],
            rank=self.rank[chosen],
            nonconformity=self.nonconformity[chosen],
            diagnostics={name: values[chosen] for name, values in self.diagnostics.items()},
            published={name: values[chosen] for name, values in self.published.items()},
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

    def answer(
        self,
        inputs: NDArray[np.float32],
        published: Sequence[LogitScore] = (),
        advance: Callable[[int], None] = lambda rows: None,
    ) -> Answers:
        """Everything a report needs.

        Args:
            inputs: Shape (N, …), in the model's domain.
            published: Scores to compare with, made from the artifact's logits.
            advance: Called after each batch with the number of its inputs.
        """
        names = ["logits", "label", "rank", "nonconformity", *DIAGNOSTICS]
        outputs = self._run.over(inputs, names, advance=advance)
        return Answers(
            label=outputs["label"],
            rank=outputs["rank"],
            nonconformity=outputs["nonconformity"],
            diagnostics={name: outputs[name] for name in DIAGNOSTICS},
            published={score.name: score(outputs["logits"]) for score in published},
        )

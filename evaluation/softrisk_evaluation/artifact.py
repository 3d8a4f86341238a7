"""The artifact under test: `model.onnx` as it is served, run by onnxruntime."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from softrisk_core.bundle import Bundle
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.rows import Inputs
from softrisk_core.scores.score import LogitScore
from softrisk_evaluation.logit_pictures.shape import Shape, largest
from softrisk_export.runtime import Outputs, Runner


@dataclass(frozen=True)
class Answers:
    """What the artifact says about N inputs.

    Attributes:
        label: Predicted classes, int64, shape (N,).
        rank: Conformal ranks, int64, in 1 … n + 1.
        nonconformity: Scores behind the ranks, float32.
        diagnostics: For each diagnostic its values, float32, shape (N,).
        runner_up: Second most likely classes, int64, shape (N,).
        profile: The largest softmax probabilities in descending order, float32, shape (N, K), K ≤ `LENGTH`.
        published: For each published score its values, float64, shape (N,); larger is stranger.
    """

    label: NDArray[np.int64]
    rank: NDArray[np.int64]
    nonconformity: NDArray[np.float32]
    diagnostics: dict[str, NDArray[np.float32]]
    runner_up: NDArray[np.int64]
    profile: NDArray[np.float32]
    published: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Answers":
        """The answers about some of the inputs."""
        return Answers(
            label=self.label[chosen],
            rank=self.rank[chosen],
            nonconformity=self.nonconformity[chosen],
            diagnostics={name: values[chosen] for name, values in self.diagnostics.items()},
            runner_up=self.runner_up[chosen],
            profile=self.profile[chosen],
            published={name: values[chosen] for name, values in self.published.items()},
        )

    @property
    def shape(self) -> Shape:
        """For pictures."""
        max_logit, logit_gap = (self.diagnostics[name] for name in ("max_logit", "logit_gap"))
        return Shape(max_logit, logit_gap, self.label, self.runner_up, self.profile)


class Artifact:
    """A bundle's model, ready to run on the CPU.

    Args:
        bundle: A bundle; what takes inputs takes one array for a single input, and arrays by name for several.

    Raises:
        ExportError: If onnxruntime does not load it.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._run = Runner(bundle.model_path.read_bytes())

    def logits(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits, shape (N, C), of inputs (N, …)."""
        logits: NDArray[np.float32] = self._run.over(inputs, ["logits"])["logits"]
        return logits

    def outputs(self, inputs: Inputs | NDArray[np.float32], names: Sequence[str]) -> Outputs:
        """Outputs of the graph by name, as they are, for inputs (N, …)."""
        return self._run.over(inputs, names)

    def answer(
        self,
        inputs: Inputs | NDArray[np.float32],
        published: Sequence[LogitScore] = (),
        advance: Callable[[int], None] = lambda rows: None,
    ) -> Answers:
        """Everything a report needs.

        Args:
            inputs: N rows, in the model's domain.
            published: Scores to compare with, made from the artifact's logits.
            advance: Called after each batch with the number of its inputs.
        """
        names = ["logits", "label", "rank", "nonconformity", *DIAGNOSTICS]
        outputs = self._run.over(inputs, names, advance=advance)
        _, runner_up, profile = largest(outputs["logits"])
        return Answers(
            label=outputs["label"],
            rank=outputs["rank"],
            nonconformity=outputs["nonconformity"],
            diagnostics={name: outputs[name] for name in DIAGNOSTICS},
            runner_up=runner_up,
            profile=profile,
            published={score.name: score(outputs["logits"]) for score in published},
        )

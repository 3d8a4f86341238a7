"""What an attack is, how it is run, and what comes of it.

Every attack searches in the ℓ∞ ball around an input, cut with the range [0, 1] of pixels. Whatever it finds is judged
here, by one forward pass over the points that are returned.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from softrisk_attacks.errors import AttackError
from softrisk_attacks.victim import Victim, margin

Family = Literal[
    "single-step", "iterative", "targeted", "minimum-norm", "score-based", "decision-based", "transfer", "adaptive"
]


@dataclass(frozen=True)
class Outcome:
    """What one attack made of N inputs, in their order.

    Attributes:
        inputs: Shape (N, C, H, W), in [0, 1] and within ε (ℓ∞) of the originals.
        fooled: The model's prediction on `inputs` is not the label, shape (N,). An input that is wrong without an
            attack stays wrong.
        margin: Largest logit of a wrong class minus the logit of the label, on `inputs`, shape (N,).
        trace: The best objective so far after each step of the last run, larger is better for the attacker, shape
            (steps, N); NaN from the step that fooled the model on, and where that run attacked nothing. None for
            attacks that take no gradient steps, or do not tell.
    """

    inputs: NDArray[np.float32]
    fooled: NDArray[np.bool_]
    margin: NDArray[np.float32]
    trace: NDArray[np.float32] | None

    def distance(self, originals: NDArray[np.float32]) -> NDArray[np.float32]:
        """ℓ∞ distance between original and returned input, ∞ where the model is not fooled, shape (N,)."""
        moved = np.abs(self.inputs - originals).reshape(len(originals), -1).max(axis=1, initial=0)
        return np.where(self.fooled, moved, np.float32(np.inf))


@dataclass(frozen=True)
class Found:
    """What an attack hands over for judgement.

    Attributes:
        points: One for each input, shape (B, C, H, W).
        trace: As in `Outcome`, shape (steps, B).
    """

    points: Tensor
    trace: Tensor | None = None


@dataclass(frozen=True)
class Attack(ABC):
    """An attack with all its settings.

    Attributes:
        epsilon: Radius of the ℓ∞ ball around the input, in units of [0, 1] pixels.
        subset: Attack only the first so many inputs and leave the others as they are, for attacks that are too slow
            for all; None for all inputs.
    """

    family: ClassVar[Family]

    epsilon: float
    subset: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise AttackError(f"epsilon must be in (0, 1], in units of [0, 1] pixels, got {self.epsilon:g}")
        if self.subset is not None and self.subset < 1:
            raise AttackError(f"subset must be at least 1, or None for all inputs, got {self.subset}")

    @property
    @abstractmethod
    def name(self) -> str:
        """Such as `PGD`; a class variable where no setting decides it."""

    @property
    def label(self) -> str:
        """For tables: `FGSM ε=0.1`, `PGD-20 ε=0.1 ×5`, `HopSkipJump-20 ε=0.1 (first 100)`."""
        length, more = self._size()
        name = self.name if length is None else f"{self.name}-{length}"
        first = "" if self.subset is None else f"(first {self.subset})"
        return " ".join(part for part in (name, f"ε={self.epsilon:.4g}", more, first) if part)

    @property
    def settings(self) -> dict[str, float | int | str]:
        """The fields that are set and can be written down: all but a model."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        return {name: value for name, value in values.items() if value is not None}

    def _size(self) -> tuple[int | None, str]:
        """Number of steps or queries behind the name, and what else belongs into the label."""
        return None, ""

    @abstractmethod
    def perturb(self, victim: Victim, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Found:
        """Search for points that fool the model.

        Args:
            victim: What is attacked.
            inputs: Shape (B, C, H, W), float32 in [0, 1], on the model's device.
            labels: True classes, shape (B,), int64.
            generator: Source of all randomness, on the CPU.
        """

    def box(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest allowed value of every pixel: the ball, cut with [0, 1]."""
        return (inputs - self.epsilon).clamp(min=0), (inputs + self.epsilon).clamp(max=1)


def require_positive(**settings: float) -> None:
    """Refuse a setting below 1.

    Raises:
        AttackError: With the name of the setting.
    """
    for name, value in settings.items():
        if value < 1:
            raise AttackError(f"{name} must be at least 1, got {value}")


def run_attack(
    model: nn.Module,
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    attack: Attack,
    *,
    seed: int,
    batch_size: int = 256,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcome:
    """Attack inputs.

    The model is attacked by its logits in float32 and eval mode, on a copy: the caller's model is not touched. The
    result depends on model, inputs, batch size and seed alone.

    Args:
        model: Maps (B, C, H, W) in [0, 1] to logits (B, classes).
        inputs: Shape (N, C, H, W), in [0, 1].
        labels: True classes, shape (N,).
        attack: What to run.
        seed: Decides everything random.
        batch_size: Inputs attacked at a time.
        on_progress: Called with the numbers of finished inputs and of all inputs, after every batch.

    Returns:
        The attacked inputs, and what the model makes of them.

    Raises:
        AttackError: If inputs, labels and model do not match, inputs are not in [0, 1] or logits are not finite.
    """
    if inputs.ndim != 4 or labels.shape != inputs.shape[:1] or batch_size < 1:
        raise AttackError(
            f"an attack needs inputs (N, C, H, W) with labels (N,) and a batch size of 1 or more,"
            f" got {inputs.shape}, {labels.shape} and {batch_size}"
        )
    if len(inputs) == 0:
        return Outcome(inputs.copy(), np.zeros(0, dtype=np.bool_), np.zeros(0, dtype=np.float32), None)
    if not (inputs.min() >= 0 and inputs.max() <= 1):
        raise AttackError("an attack needs inputs in [0, 1]; normalisation belongs into the model")
    victim = Victim(model, inputs[:1].astype(np.float32))
    if not (labels.min() >= 0 and labels.max() < victim.classes):
        raise AttackError(
            f"labels must be in 0 … {victim.classes - 1}, as the model has {victim.classes} classes,"
            f" got {labels.min()} … {labels.max()}"
        )

    generator = torch.Generator().manual_seed(seed)
    limit = len(inputs) if attack.subset is None else min(attack.subset, len(inputs))
    parts = []
    for start in range(0, len(inputs), batch_size):
        rows = slice(start, start + batch_size)
        originals = victim.tensor(inputs[rows].astype(np.float32))
        truth = victim.tensor(labels[rows].astype(np.int64))
        attacked = max(0, min(limit - start, len(originals)))
        parts.append(_judged(victim, originals, truth, attacked, attack, generator))
        on_progress(min(start + batch_size, len(inputs)), len(inputs))
    points, fooled, margins = (np.concatenate([part[index] for part in parts]) for index in range(3))
    return Outcome(points, fooled, margins, _joined([part[3] for part in parts], [len(part[0]) for part in parts]))


_Part = tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32] | None]


def _judged(
    victim: Victim, originals: Tensor, labels: Tensor, attacked: int, attack: Attack, generator: torch.Generator
) -> _Part:
    points, trace = originals.clone(), None
    clean = victim.logits(originals)
    if attacked > 0:
        found = attack.perturb(victim, originals[:attacked], labels[:attacked], generator)
        # Some attacks leave the ball, on purpose (minimum norm) or by one float (rounding).
        points[:attacked] = found.points.detach().float().clamp(*attack.box(originals[:attacked]))
        if found.trace is not None:
            trace = torch.full((len(found.trace), len(originals)), torch.nan)
            trace[:, :attacked] = found.trace
    logits = victim.logits(points)
    undone = (clean.argmax(dim=1) != labels) & (margin(logits, labels) < margin(clean, labels))
    points[undone], logits[undone] = originals[undone], clean[undone]
    return (
        points.cpu().contiguous().numpy(),
        (logits.argmax(dim=1) != labels).cpu().numpy(),
        margin(logits, labels).cpu().numpy(),
        None if trace is None else trace.numpy(),
    )


def _joined(traces: list[NDArray[np.float32] | None], counts: list[int]) -> NDArray[np.float32] | None:
    steps = next((len(trace) for trace in traces if trace is not None), None)
    if steps is None:
        return None
    absent = np.float32(np.nan)
    return np.concatenate(
        [
            np.full((steps, count), absent) if trace is None else trace
            for trace, count in zip(traces, counts, strict=True)
        ],
        axis=1,
    )

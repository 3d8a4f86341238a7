"""What an export starts from, whoever made the model: a graph with diagnostics, and what is known about it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from numpy.typing import NDArray

from softrisk_core.errors import CalibrationError
from softrisk_core.manifest import ImageInput, InputSpec, ModelFacts
from softrisk_core.presence import find_cases
from softrisk_core.rows import Inputs, count_rows, digest_rows, take_rows
from softrisk_export.bound import Bound
from softrisk_training.data import ImageData, Images
from softrisk_training.data.images import same_classes

if TYPE_CHECKING:
    from softrisk_export.attackers import Attacker

Logits = Callable[[Inputs], NDArray[np.float32]]

Answers = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From values of the first input, by which scores know an instance, to an output of the classifier."""


@dataclass(frozen=True)
class Source:
    """A classifier on its way into a bundle.

    Attributes:
        model: Graph with the outputs `DIAGNOSTICS_OUTPUTS`, not yet calibrated.
        logits: The same classifier as it came: inputs by name, (B, …) each → logits (B, C).
        inputs: The graph's inputs, in its order.
        classes: Class names by label.
        facts: For the manifest.
        seen_rows: Digests of the rows that the model has seen in training, if known.
        tools: Versions of what made the model what it is here.
        difference: How far the logits of `logits` are already known to be from the model that was first exported.
        bound: On its slopes, if one is known.
        attacker: Makes the attacker that has the classifier's gradients; None where nobody has them.
        mirrors: Whether mirror images are known to keep their labels.
    """

    model: onnx.ModelProto
    logits: Logits
    inputs: tuple[InputSpec, ...]
    classes: tuple[str, ...]
    facts: ModelFacts
    seen_rows: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    tools: Mapping[str, str] = field(default_factory=dict)
    difference: float = 0.0
    bound: Bound | None = None
    attacker: "Callable[[], Attacker] | None" = None
    mirrors: bool = False

    @property
    def input(self) -> InputSpec:
        """The first input, of a classifier of images the only one."""
        return self.inputs[0]

    @property
    def optional(self) -> dict[str, bool]:
        """For each input whether it may be left out."""
        return {spec.name: spec.optional for spec in self.inputs}

    def radii(self, logits: NDArray[np.float64], inputs: Inputs) -> dict[str, NDArray[np.float64]]:
        """The radii of instances with these logits and inputs, by output; none without a bound."""
        return {} if self.bound is None else self.bound.radii(logits, inputs, self.optional)


@dataclass(frozen=True)
class CleanRows:
    """Held-out clean data: n rows.

    Attributes:
        inputs: As the model receives them.
        data: Which data, for people.
        labels: Shape (n,), indices into `classes`; None where the data have none: a calibration needs no labels.
        classes: Class names of the data; empty without labels.
        apart: Digests of rows that were set apart, shape (k,).
    """

    inputs: Inputs
    data: str
    labels: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    apart: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))

    @classmethod
    def of(cls, data: Images, name: str, rows: NDArray[np.int64] | None = None, part: str = "all rows") -> "CleanRows":
        """Some rows of a data set of images, by default all, and what to call this part of it.

        Args:
            data: The images.
            name: Of the input that takes them.
            rows: Which of them.
            part: For people.
        """
        chosen = np.arange(len(data.images)) if rows is None else rows
        clean = cls(inputs={name: data.inputs(chosen)}, data=f"{data.source}, {part}")
        return (
            replace(clean, labels=data.labels[chosen], classes=data.classes) if isinstance(data, ImageData) else clean
        )

    def __len__(self) -> int:
        return count_rows(self.inputs)

    @property
    def input(self) -> NDArray[np.float32]:
        """Values of the first input, of images the only one."""
        return next(iter(self.inputs.values()))

    @property
    def digests(self) -> NDArray[np.uint64]:
        """Digests of the rows, shape (n,)."""
        return digest_rows(*self.inputs.values())

    def at(self, rows: NDArray[np.int64]) -> "CleanRows":
        """Some of the rows."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, inputs=take_rows(self.inputs, rows), labels=labels)

    def set_apart(self, count: int, purpose: str) -> tuple["CleanRows", "CleanRows"]:
        """Rows from all over the data for something else than calibration, and the rest.

        The rest keeps rows that repeat the content of one that was set apart: contents that come again and again in the
        traffic must be as frequent among the calibration rows, or each of them is taken for strange.

        Args:
            count: How many; at least one is taken.
            purpose: What they do, for people: `fit the ranges of int8`.

        Returns:
            The rows that were set apart, and the rest, which knows their digests.

        Raises:
            CalibrationError: If no row is left.
        """
        n = len(self)
        chosen = np.unique(np.linspace(0, n - 1, max(1, count)).astype(np.int64))
        shown = self.at(chosen)
        left = self.at(np.setdiff1d(np.arange(n), chosen))
        if not len(left):
            raise CalibrationError(
                f"{self.data} leave no row to calibrate on beside those that {purpose}; give more clean data"
            )
        data = f"{self.data} but {n - len(left)} that {purpose}"
        return shown, replace(left, data=data, apart=np.concatenate([self.apart, shown.digests]))

    def without(self, digests: NDArray[np.uint64], purpose: str) -> "CleanRows":
        """The rest, where rows were set apart from the same data before.

        Args:
            digests: Of those rows, shape (k,). Of each only as many rows leave as are given here, for the reason of
                `set_apart`.
            purpose: What they did, for people.

        Returns:
            The rest, which knows all the digests: what these rows did is not undone by data without them.
        """
        wanted, counts = np.unique(digests, return_counts=True)
        left = dict(zip(wanted.tolist(), counts.tolist(), strict=True))
        keep = np.ones(len(self), np.bool_)
        for row, digest in enumerate(self.digests.tolist()):
            if left.get(digest, 0):
                left[digest] -= 1
                keep[row] = False
        gone = int((~keep).sum())
        data = f"{self.data} but {gone} that {purpose}" if gone else self.data
        return replace(self.at(np.flatnonzero(keep)), data=data, apart=np.concatenate([self.apart, digests]))

    def accuracy(self, predicted: NDArray[np.int64], classes: tuple[str, ...]) -> float | None:
        """Share of right predictions, in [0, 1].

        Args:
            predicted: Labels, shape (n,).
            classes: What they mean.

        Returns:
            None where it cannot be said: without labels, or if the labels of the data mean other classes.
        """
        if self.labels is None or not same_classes(self.classes, classes):
            return None
        return float((predicted == self.labels).mean())


def image_input(name: str, shape: tuple[int, int, int]) -> InputSpec:
    """An input that takes images.

    Args:
        name: Of the input.
        shape: (channels, height, width), one channel or three.
    """
    channels, height, width = shape
    return InputSpec(
        name=name,
        shape=(-1, channels, height, width),
        domain=(0.0, 1.0),
        image=ImageInput(mode="L" if channels == 1 else "RGB", size=(height, width)),
    )


def check_shape(rows: CleanRows, inputs: Sequence[InputSpec]) -> None:
    """Refuse clean data that the model cannot take, or that lack inputs.

    Raises:
        CalibrationError: If the inputs are others than those of the model, a row has another shape than an instance, or
            an input that may be left out is zero in some rows: every presence case is calibrated on all of them.
    """
    if list(rows.inputs) != (names := [spec.name for spec in inputs]):
        raise CalibrationError(
            f"the model takes {' and '.join(names)}, but the rows of {rows.data} have {' and '.join(rows.inputs)}; "
            "calibrate on data of the same inputs"
        )
    for spec in inputs:
        if (shape := rows.inputs[spec.name].shape[1:]) != spec.instance_shape:
            raise CalibrationError(
                f"the model takes inputs of shape {spec.instance_shape}, but the rows of {rows.data} have {shape}; "
                "calibrate on data of the same shape"
            )
    lacking = int((find_cases(rows.inputs, {spec.name: spec.optional for spec in inputs}) > 0).sum())
    if lacking:
        raise CalibrationError(
            f"{lacking} of the {len(rows)} rows of {rows.data} have an input that is all zero, which means missing: "
            "give complete rows, from which those with missing inputs are made"
        )

"""The answers of the service, typed: frozen, and tolerant of fields that a newer service adds.

What the operator does not disclose to a caller is None: with `coarse` disclosure there are label, class name,
flag, decision and decile, with `none` label and class name only.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from softrisk_client.errors import InvalidArgumentError


class Decision(StrEnum):
    """What to do with an input: use the answer, let someone look at it first, or turn it away."""

    ACCEPT = "accept"
    REVIEW = "review"
    REJECT = "reject"


class _Answer(BaseModel):
    # "allow": what a newer service adds is not lost when an answer is stored with `model_dump_json`.
    model_config = ConfigDict(frozen=True, extra="allow")


class Diagnostics(_Answer):
    """What the logits of one input say; each is computed inside the served ONNX graph.

    Attributes:
        top2_gap: Largest minus second largest probability, in [0, 1].
        logit_gap: Largest minus second largest logit.
        dispersion: Standard deviation of the logits other than the largest.
        softmax_dispersion: Euclidean distance of the probabilities other than the largest from their mean.
        complement_entropy: Entropy of the same probabilities, renormalised, over its maximum, in [0, 1].
        max_logit: Largest logit.
        energy: logsumexp of the logits.
        entropy: Entropy of the probabilities, in nats.
    """

    top2_gap: float
    logit_gap: float
    dispersion: float
    softmax_dispersion: float
    complement_entropy: float
    max_logit: float
    energy: float
    entropy: float


class Risk(_Answer):
    """How strange the input is, compared with the clean inputs of the calibration.

    Attributes:
        decision: The service's policy at its own two levels, whatever alpha the request asked for.
        flagged: Whether the input is among the strangest share `alpha` of clean traffic.
        decile: Tenth of the range of scores, from 0 to 9, the strangest; only where the score is not disclosed.
        alpha: The level of `flagged`: its promised rate of false alarms on clean traffic.
        p_value: rank / (n + 1) with n calibration inputs; small is strange.
        score: 1 − p-value; half of all clean inputs are above 0.5.
        rank: 1 + the number of calibration inputs at least as strange.
        nonconformity: The score that is ranked; larger is stranger.
    """

    decision: Decision
    flagged: bool
    decile: int | None = None
    alpha: float | None = None
    # A NaN compares false with every level and would pass a gate; the bounds keep it out.
    p_value: Annotated[float, Field(gt=0, le=1)] | None = None
    score: float | None = None
    rank: int | None = None
    nonconformity: float | None = None


class InputRadius(_Answer):
    """How far one input alone may be changed, in the norm of the radius, before the label changes.

    Attributes:
        certified: Proved by a Lipschitz bound.
        estimated: From the largest slopes that were seen; proves nothing.
    """

    certified: float | None = None
    estimated: float | None = None


class Radius(InputRadius):
    """How far the inputs may be changed, all at once, before the label changes. The flag can change earlier.

    Attributes:
        certified: Proved by a Lipschitz bound.
        estimated: From the largest slopes that were seen; proves nothing.
        norm: In which changes are measured, `l2`.
        space: For each input what is changed, such as `pixels`; `log-mel` is what a front end makes of a recording.
        inputs: The radius where one input alone is changed, 0 for one that is missing; None for models with one input.
    """

    norm: str
    space: dict[str, str]
    inputs: dict[str, InputRadius] | None = None


class Prediction(_Answer):
    """The answer for one instance.

    Attributes:
        label: Index of the predicted class.
        class_name: Its name.
        confidence: Its probability.
        probabilities: Of all classes, where the request asked for them.
        diagnostics: What the logits say.
        risk: How strange the input is; None where the operator does not disclose it.
        radius: How far it may be changed before the label changes; None where the operator does not disclose it, or the
            model has no Lipschitz bound.
    """

    label: int
    class_name: str
    confidence: float | None = None
    probabilities: tuple[float, ...] | None = None
    diagnostics: Diagnostics | None = None
    risk: Risk | None = None
    radius: Radius | None = None


class PredictResponse(_Answer):
    """The answer to `predict`: one prediction per input, in the order of the inputs."""

    model_name: str
    model_version: str
    predictions: Annotated[tuple[Prediction, ...], Field(min_length=1)]


class TensorMetadata(_Answer):
    """Name, datatype and shape of a model's input or output; −1 is a free axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ModelMetadata(_Answer):
    """What the Open Inference Protocol says about a model."""

    name: str
    versions: tuple[str, ...] = ()
    platform: str = ""
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class SupportsToList(Protocol):
    """Anything with `.tolist()`: arrays of NumPy, JAX or CuPy, tensors of torch."""

    def tolist(self) -> Any:
        """Return the values as nested lists."""


Instances = Sequence[object] | Mapping[str, object] | Path | SupportsToList
"""Several inputs to predict, or a single one: see `Client.predict`."""


class Array(SupportsToList, Protocol):
    """An array or tensor that knows its shape and element type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> Any:
        """Element type, `str()` of which names it as NumPy or torch do."""


_DATATYPES = {
    "bool": "BOOL",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}


class Tensor(_Answer):
    """A named tensor of the Open Inference Protocol.

    Attributes:
        name: Name of the model's input or output.
        datatype: `FP32`, `INT64`, `BOOL`, …
        shape: Length of each axis.
        data: The values, flat, in row-major order (nested lists are flattened).
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: tuple[Any, ...]

    @classmethod
    def of(cls, name: str, array: Array) -> Self:
        """Name an array or tensor; the datatype follows from its `dtype`.

        Raises:
            InvalidArgumentError: No datatype of the protocol holds this element type.
        """
        dtype = str(array.dtype).removeprefix("torch.")
        if dtype not in _DATATYPES:
            known = ", ".join(_DATATYPES)
            raise InvalidArgumentError(f"tensor {name!r} has elements of type {dtype}; expected one of {known}")
        return cls(name=name, datatype=_DATATYPES[dtype], shape=tuple(array.shape), data=array.tolist())

    def tolist(self) -> Any:
        """Return the values as nested lists, one level per axis."""
        values = list(self.data)
        for axis in range(len(self.shape) - 1, 0, -1):
            length = self.shape[axis]
            values = [values[i * length : (i + 1) * length] for i in range(prod(self.shape[:axis]))]
        return values if self.shape else values[0]

    @field_validator("data", mode="before")
    @classmethod
    def _flatten(cls, data: Any) -> tuple[Any, ...]:
        return tuple(_leaves(data))

    @model_validator(mode="after")
    def _data_fill_the_shape(self) -> Self:
        if len(self.data) != prod(self.shape):
            raise ValueError(f"tensor {self.name!r} of shape {self.shape} has {len(self.data)} values")
        return self


def _leaves(data: Any) -> list[Any]:
    if not isinstance(data, list | tuple):
        return [data]
    if not any(isinstance(item, list | tuple) for item in data):
        return list(data)
    return [leaf for item in data for leaf in _leaves(item)]


class InferResponse(_Answer):
    """The answer to `infer`: the graph's outputs by name; `parameters` carry the calibration's id, n and alpha."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: tuple[Tensor, ...]

    def __getitem__(self, name: str) -> Tensor:
        for output in self.outputs:
            if output.name == name:
                return output
        raise KeyError(f"no output {name!r}; the answer has {', '.join(o.name for o in self.outputs)}")

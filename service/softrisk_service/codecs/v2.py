"""Open Inference Protocol (KServe V2), JSON: named tensors in, the graph's outputs out."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from softrisk_core.manifest import OUTPUTS, InputSpec
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.body import JSON, not_accepted, parse_object
from softrisk_service.codecs.parameters import read_limit, read_parameters
from softrisk_service.codecs.tensors import check_values, shown, to_array
from softrisk_service.engine import ServedVersion
from softrisk_service.errors import InvalidInputError, TooLargeError
from softrisk_service.runtime import Inputs, Outputs

PROTOCOL: Final = "v2"
PLATFORM: Final = "onnx_onnxv1"

_PARAMETERS: Final = ("alpha", "guarantee")
# What the clients of Triton and MLServer send unasked; none of it changes an answer of ours.
_IGNORED: Final = (
    "binary_data_output", "content_type", "priority", "sequence_end", "sequence_id", "sequence_start", "timeout",
)  # fmt: skip
_IGNORED_OF_INPUTS: Final = ("content_type",)
_IGNORED_OF_OUTPUTS: Final = ("binary_data", "content_type")

_DATATYPES: Final = {"label": "INT64", "rank": "INT64", "flagged": "BOOL"}


def output_datatype(name: str) -> str:
    """Datatype of a graph output."""
    return _DATATYPES.get(name, "FP32")


def output_shape(name: str, classes: int) -> list[int]:
    """Shape of a graph output, −1 for the batch."""
    return [-1, classes] if name in ("logits", "probabilities") else [-1]


@dataclass(frozen=True)
class Call:
    """An infer request, decoded.

    Attributes:
        inputs: Valid inputs of the model.
        alpha: False-alarm rate of the flag.
        limit: Largest flagged rank at that α.
        outputs: Names of the wanted outputs.
        id: The caller's name for the request, echoed.
    """

    inputs: Inputs
    alpha: float
    limit: int
    outputs: tuple[str, ...]
    id: str | None


def decode(media: str, body: bytes, served: ServedVersion, allowance: Allowance) -> Call:
    """Read a request.

    Args:
        media: Its media type.
        body: Its body.
        served: The model that it is for.
        allowance: What it may cost.

    Raises:
        RequestError: Whatever is wrong with it.
        ClientGoneError: If nobody waits for it any more.
    """
    if media != JSON:
        raise not_accepted(media, (JSON,))
    document = parse_object(body)
    name = document.get("id")
    if name is not None and not isinstance(name, str):
        raise InvalidInputError(f"id: expected a string, got {shown(name)}")
    alpha, limit = read_limit(read_parameters(document, _PARAMETERS, _IGNORED), served.policy)
    outputs = _wanted(document.get("outputs"))
    return Call(_inputs(document.get("inputs"), served.manifest.inputs, allowance), alpha, limit, outputs, name)


def _wanted(outputs: object) -> tuple[str, ...]:
    if outputs is None or outputs == []:
        return OUTPUTS
    if not isinstance(outputs, list):
        raise InvalidInputError("outputs: expected a list of objects with a name")
    names: list[str] = []
    for index, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, dict) else None
        if name not in OUTPUTS:
            raise InvalidInputError(f"outputs[{index}]: {shown(name)} is not an output; outputs: {', '.join(OUTPUTS)}")
        read_parameters(output, (), _IGNORED_OF_OUTPUTS, f"outputs[{index}].")
        if name in names:
            raise InvalidInputError(f"outputs[{index}]: {name!r} is asked for twice")
        names.append(name)
    return tuple(names)


def _inputs(tensors: object, specs: tuple[InputSpec, ...], allowance: Allowance) -> Inputs:
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise InvalidInputError('the body must have a list "inputs" of objects with name, shape, datatype and data')
    named = {spec.name: spec for spec in specs}
    inputs: dict[str, NDArray[np.float32]] = {}
    for index, tensor in enumerate(tensors):
        name = tensor.get("name")
        spec = named.get(name) if isinstance(name, str) else None
        if spec is None or spec.name in inputs:
            raise InvalidInputError(
                f"inputs[{index}]: {shown(name)} is not an input, or came before; inputs: {', '.join(named)}"
            )
        allowance.check()
        read_parameters(tensor, (), _IGNORED_OF_INPUTS, f"inputs[{index}].")
        inputs[spec.name] = _tensor(tensor, spec, allowance.max_instances)
    if missing := [name for name in named if name not in inputs]:
        raise InvalidInputError(f"inputs: {missing[0]!r} is missing")
    if len({len(array) for array in inputs.values()}) > 1:
        raise InvalidInputError("inputs: all must have the same number of instances")
    return inputs


def _tensor(tensor: dict[str, Any], spec: InputSpec, max_instances: int) -> NDArray[np.float32]:
    where = f"input {spec.name!r}"
    datatype, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    if datatype != spec.datatype:
        raise InvalidInputError(f"{where}: expected datatype {spec.datatype}, got {shown(datatype)}")
    if (
        not isinstance(shape, list)
        or set(map(type, shape)) != {int}
        or len(shape) != len(spec.shape)
        or tuple(shape[1:]) != spec.instance_shape
    ):
        raise InvalidInputError(f"{where}: expected shape {list(spec.shape)}, got {shown(shape)}")
    if shape[0] < 1:
        raise InvalidInputError(f"{where}: expected at least one instance, got shape {shown(shape)}")
    if shape[0] > max_instances:
        raise TooLargeError(f"{where}: at most {max_instances} instances are accepted in one request, got {shape[0]}")
    if not isinstance(data, list):
        raise InvalidInputError(f"{where}: expected a list as data")
    nested = bool(data) and isinstance(data[0], list)
    array = to_array(data, tuple(shape) if nested else (math.prod(shape),), f"{where}: data").reshape(shape)
    check_values(array, spec)
    return array


def encode(call: Call, outputs: Outputs, served: ServedVersion) -> bytes:
    """The answer: the wanted outputs, `flagged` at the request's α."""
    calibration = served.manifest.calibration
    tensors = dict(outputs, flagged=outputs["rank"] <= call.limit)
    answer = {
        "model_name": served.name,
        "model_version": served.version,
        **({} if call.id is None else {"id": call.id}),
        "parameters": {"calibration_id": calibration.id, "n": calibration.n, "alpha": call.alpha},
        "outputs": [
            {
                "name": name,
                "datatype": output_datatype(name),
                "shape": tensors[name].shape,
                "data": _written(tensors[name]),
            }
            for name in call.outputs
        ],
    }
    return orjson.dumps(answer)


def _written(array: NDArray[Any]) -> orjson.Fragment:
    # One by one: in one piece the interpreter would be held until the last is done.
    return orjson.Fragment(orjson.dumps(np.ascontiguousarray(array).ravel(), option=orjson.OPT_SERIALIZE_NUMPY))

"""Open Inference Protocol (KServe V2): what the JSON of an infer request says, apart from the numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from softrisk_core.manifest import InputSpec
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs.parameters import read_limits, read_parameters
from softrisk_service.codecs.tensors import shown
from softrisk_service.codecs.v2_answer import Form, form_for
from softrisk_service.disclosure import Disclosure, check_output, check_parameters, visible
from softrisk_service.errors import InvalidInputError, TooLargeError

_PARAMETERS: Final = ("alpha", "guarantee", "binary_data_output")
# What the clients of Triton and MLServer send unasked; none of it changes an answer of ours.
_IGNORED: Final = ("content_type", "priority", "sequence_end", "sequence_id", "sequence_start", "timeout")

_FLOAT32_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input as a request declares it.

    Attributes:
        spec: Which.
        shape: With the batch first.
        count: Number of values.
        data: Its values in JSON, not yet looked at; None if they are binary.
        offset: Where they begin in the binary part of the body.
    """

    spec: InputSpec
    shape: tuple[int, ...]
    count: int
    data: list[Any] | None
    offset: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request declares; requests that declare the same share it.

    Attributes:
        tensors: The inputs that come, in the order of the request.
        binary_bytes: Length of the binary part of the body.
        alpha: False-alarm rate of the flag.
        limits: For each label the largest flagged rank at that α.
        id: The caller's name for the request; of those that share the plan, the first one's.
        form: How its answers look.
    """

    tensors: tuple[Tensor, ...]
    binary_bytes: int
    alpha: float
    limits: tuple[int, ...]
    id: str | None
    form: Form


def read_plan(document: dict[str, Any], served: ServedVersion, max_instances: int, disclosure: Disclosure) -> Plan:
    """Read all but the numbers.

    Args:
        document: The JSON of the request.
        served: The model that it is for.
        max_instances: Most instances.
        disclosure: What its caller may see.

    Raises:
        ForbiddenError: If it asks for more than that.
        InvalidInputError: Whatever is wrong with it.
        TooLargeError: If it has more instances.
    """
    name = document.get("id")
    if name is not None and not isinstance(name, str):
        raise InvalidInputError(f"id: expected a string, got {shown(name)}")
    parameters = read_parameters(document, _PARAMETERS, _IGNORED)
    check_parameters(parameters, disclosure)
    alpha, limits = read_limits(parameters, served.policy)
    binary = _flag(parameters, "binary_data_output", default=False, where="")
    wanted = tuple(_wanted(document.get("outputs"), served.manifest.outputs, binary, disclosure))
    tensors = tuple(_tensors(document.get("inputs"), served.manifest.inputs, max_instances))
    rows = tensors[0].shape[0]
    if any(tensor.shape[0] != rows for tensor in tensors):
        counts = ", ".join(f"{tensor.spec.name!r} has {tensor.shape[0]}" for tensor in tensors)
        raise InvalidInputError(f"inputs: expected the same number of instances in all of them, but {counts}")
    size = sum(_size(tensor) for tensor in tensors if tensor.data is None)
    # Below full disclosure no α, which the answer would tell.
    told_alpha = alpha if disclosure == "full" else None
    return Plan(tensors, size, alpha, limits, name, form_for(served, wanted, told_alpha, rows, name is not None))


def _flag(parameters: dict[str, Any], name: str, *, default: bool, where: str) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidInputError(f"{where}parameters.{name}: expected true or false, got {shown(value)}")
    return value


def _wanted(
    wanted: object, outputs: tuple[str, ...], binary: bool, disclosure: Disclosure
) -> Iterator[tuple[str, bool]]:
    """Names of the wanted outputs, and whether they are wanted binary."""
    if wanted is None or wanted == []:
        yield from ((name, binary) for name in visible(outputs, disclosure))
        return
    if not isinstance(wanted, list):
        raise InvalidInputError("outputs: expected a list of objects with a name")
    names: set[str] = set()
    for index, output in enumerate(wanted):
        name = output.get("name") if isinstance(output, dict) else None
        if name not in outputs:
            raise InvalidInputError(f"outputs[{index}]: {shown(name)} is not an output; outputs: {', '.join(outputs)}")
        check_output(name, disclosure)
        where = f"outputs[{index}]."
        parameters = read_parameters(output, ("binary_data",), ("content_type",), where)
        if name in names:
            raise InvalidInputError(f"outputs[{index}]: {name!r} is asked for twice")
        names.add(name)
        yield name, _flag(parameters, "binary_data", default=binary, where=where)


def _tensors(tensors: object, specs: tuple[InputSpec, ...], max_instances: int) -> Iterator[Tensor]:
    if not isinstance(tensors, list) or not all(isinstance(tensor, dict) for tensor in tensors):
        raise InvalidInputError('the body must have a list "inputs" of objects with name, shape, datatype and data')
    missing = {spec.name: spec for spec in specs}
    offset = 0
    for index, tensor in enumerate(tensors):
        name = tensor.get("name")
        spec = missing.pop(name, None) if isinstance(name, str) else None
        if spec is None:
            names = ", ".join(spec.name for spec in specs)
            raise InvalidInputError(f"inputs[{index}]: {shown(name)} is not an input, or came before; inputs: {names}")
        parameters = read_parameters(tensor, ("binary_data_size",), ("content_type",), f"inputs[{index}].")
        declared = _tensor(tensor, parameters.get("binary_data_size"), spec, offset)
        if (rows := declared.shape[0]) > max_instances:
            raise TooLargeError(
                f"input {name!r}: at most {max_instances} instances are accepted in one request, got {rows}"
            )
        yield declared
        if declared.data is None:
            offset += _size(declared)
    for name, spec in missing.items():
        if not spec.optional:
            raise InvalidInputError(
                f"inputs: {name!r} is missing, and the model was not made to go without it: expected "
                f"{spec.datatype} of shape {list(spec.shape)}"
            )
    if len(missing) == len(specs):
        raise InvalidInputError(f"inputs: expected at least one of {', '.join(missing)}, got none")


def _tensor(tensor: dict[str, Any], size: object, spec: InputSpec, offset: int) -> Tensor:
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
    if size is None:
        if not isinstance(data, list):
            raise InvalidInputError(f"{where}: expected a list as data, or parameters.binary_data_size")
        return Tensor(spec, tuple(shape), math.prod(shape), data, offset)
    if data is not None:
        raise InvalidInputError(f"{where}: data and parameters.binary_data_size exclude each other")
    declared = Tensor(spec, tuple(shape), math.prod(shape), None, offset)
    if type(size) is not int or size != _size(declared):
        raise InvalidInputError(
            f"{where}: expected parameters.binary_data_size {_size(declared)} for shape {shown(shape)} of "
            f"{spec.datatype}, got {shown(size)}"
        )
    return declared


def _size(tensor: Tensor) -> int:
    return tensor.count * _FLOAT32_BYTES

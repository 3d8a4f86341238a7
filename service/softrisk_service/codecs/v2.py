"""Open Inference Protocol (KServe V2): named tensors in, the graph's outputs out.

With Triton's binary tensor extension: tensors may follow the JSON as they lie in memory, in requests and answers.
"""

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs import v2_answer
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.body import JSON, OCTETS, not_accepted, parse_object
from softrisk_service.codecs.envelope import Answer, Envelope
from softrisk_service.codecs.quick import MAX_SKELETON, Member, numbers, without_id
from softrisk_service.codecs.tensors import to_array
from softrisk_service.codecs.v2_plan import Plan, Tensor, read_plan
from softrisk_service.disclosure import Disclosure
from softrisk_service.errors import InvalidInputError, MalformedError, RequestError, TooLargeError
from softrisk_service.outcome import Inputs, Rows, with_missing

PROTOCOL: Final = "v2"
TAKES_FILES: Final = False
PLATFORM: Final = "onnx_onnxv1"

_DATA: Final = Member("data")
_FLOAT32: Final = np.dtype("<f4")


class Call(NamedTuple):
    """An infer request, decoded.

    Attributes:
        inputs: Inputs of the model's shapes; values not yet checked.
        limits: For each label the largest flagged rank.
        plan: What else it declares.
        id: The caller's name for the request, echoed.
    """

    inputs: Inputs
    limits: tuple[int, ...]
    plan: Plan
    id: str | None


def decode(
    envelope: Envelope, body: bytes, served: ServedVersion, allowance: Allowance, disclosure: Disclosure
) -> Call:
    """Read a request.

    Args:
        envelope: What its headers say about the body.
        body: Its body, unpacked.
        served: The model that it is for.
        allowance: What it may cost.
        disclosure: What its caller may see.

    Returns:
        Binary tensors are views of the body where it is aligned for float32, else copies.

    Raises:
        RequestError: Whatever is wrong with it.
        ClientGoneError: If nobody waits for it any more.
    """
    length = envelope.header_length
    if length is None:
        if envelope.media != JSON:
            raise not_accepted(envelope.media, (JSON, f"{OCTETS} with Inference-Header-Content-Length"))
        return _quick(body, served, allowance, disclosure) or _strict(body, len(body), served, allowance, disclosure)
    if envelope.media not in (JSON, OCTETS):
        raise not_accepted(envelope.media, (JSON, OCTETS))
    if length > len(body):
        raise MalformedError(f"Inference-Header-Content-Length is {length}, the body has only {len(body)} bytes")
    if length == 0:
        return _call(_raw_plan(len(body), served, allowance, disclosure), None, body, length, served, allowance)
    if length > allowance.max_json_bytes:
        raise TooLargeError(
            f"Inference-Header-Content-Length is {length}, more than the {allowance.max_json_bytes} bytes of JSON that "
            "are accepted"
        )
    return _strict(body, length, served, allowance, disclosure)


def _quick(body: bytes, served: ServedVersion, allowance: Allowance, disclosure: Disclosure) -> Call | None:
    """Read JSON that declares what an earlier request did, of a model with one input; None for the strict way."""
    parts = _DATA.cut(body) if len(served.manifest.inputs) == 1 else None
    if parts is None:
        return None
    try:
        plan, name = _plan(parts[0], served, allowance, disclosure)
    except RequestError:  # the strict way will say so
        return None
    tensor = plan.tensors[0]
    if tensor.data is None:
        return None
    array = numbers(parts[1], tensor.shape)
    return None if array is None else Call({tensor.spec.name: array}, plan.limits, plan, name)


def _strict(body: bytes, length: int, served: ServedVersion, allowance: Allowance, disclosure: Disclosure) -> Call:
    """Read JSON of a length, and the binary tensors behind it."""
    plan, name = _plan(body[:length], served, allowance, disclosure)
    return _call(plan, name, body, length, served, allowance)


def _call(plan: Plan, name: str | None, body: bytes, length: int, served: ServedVersion, allowance: Allowance) -> Call:
    """Read the tensors."""
    if plan.binary_bytes != len(body) - length:
        raise MalformedError(
            f"the inputs declare {plan.binary_bytes} bytes of binary data, {len(body) - length} follow the JSON "
            "(as long as Inference-Header-Content-Length says)"
        )
    inputs = {}
    for tensor in plan.tensors:
        allowance.check()
        inputs[tensor.spec.name] = _array(tensor, body, length)
    return Call(with_missing(inputs, served.manifest.inputs), plan.limits, plan, name)


def _plan(text: bytes, served: ServedVersion, allowance: Allowance, disclosure: Disclosure) -> tuple[Plan, str | None]:
    """What JSON declares, and the id in it, for which alone it is not read again."""
    alike, name = without_id(text)
    key = (PROTOCOL, alike, disclosure)
    plan: Plan | None = served.memory.get(key)
    if plan is None:
        plan = read_plan(parse_object(text), served, allowance.max_instances, disclosure)
        if len(text) <= MAX_SKELETON and not any(tensor.data for tensor in plan.tensors):
            served.memory.put(key, plan)
    # What was taken out is the request's id if it has one: there is only one member of this name.
    return plan, plan.id if name is None or plan.id is None else name


def _raw_plan(size: int, served: ServedVersion, allowance: Allowance, disclosure: Disclosure) -> Plan:
    """What Triton's raw binary request means: all of the body is the only input, all outputs are wanted binary."""
    specs = served.manifest.inputs
    if len(specs) > 1:
        raise InvalidInputError(f"a model with {len(specs)} inputs takes no raw binary request, which names none")
    spec, width = specs[0], math.prod(specs[0].instance_shape) * _FLOAT32.itemsize
    if size % width:
        raise InvalidInputError(f"input {spec.name!r}: expected {width} bytes for each instance, got {size} bytes")
    tensor = {
        "name": spec.name,
        "datatype": spec.datatype,
        "shape": [size // width, *spec.instance_shape],
        "parameters": {"binary_data_size": size},
    }
    document = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    return read_plan(document, served, allowance.max_instances, disclosure)


def _array(tensor: Tensor, body: bytes, start: int) -> NDArray[np.float32]:
    shape = tensor.shape
    if tensor.data is None:
        array = np.frombuffer(body, _FLOAT32, tensor.count, start + tensor.offset).reshape(shape)
        return array if array.flags.aligned else array.copy()
    nested = bool(tensor.data) and isinstance(tensor.data[0], list)
    where = f"input {tensor.spec.name!r}: data"
    return to_array(tensor.data, shape if nested else (tensor.count,), where).reshape(shape)


def encode(call: Call, rows: Rows, served: ServedVersion) -> Answer:
    """The answer: the wanted outputs, `flagged` at the request's α."""
    return v2_answer.write(call.plan.form, call.id, call.limits, rows)

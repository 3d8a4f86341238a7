"""KServe V1: `{"instances": […]}` in, one rich prediction an instance out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from softrisk_core.conformal import p_value
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import InputSpec
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.body import JSON, not_accepted, parse_object
from softrisk_service.codecs.envelope import Answer, Envelope
from softrisk_service.codecs.media import IMAGE_TYPES, NPY_TYPE, base64_file, image_cost, image_input, npy_input
from softrisk_service.codecs.parameters import read_limits, read_parameters
from softrisk_service.codecs.quick import Member, nested_numbers
from softrisk_service.codecs.tensors import shown, to_array
from softrisk_service.disclosure import Disclosure, check_parameters
from softrisk_service.errors import InvalidInputError, MediaTypeError, RequestError, TooLargeError
from softrisk_service.outcome import Inputs, Rows
from softrisk_service.policy import risk_decile, risk_score

PROTOCOL: Final = "v1"
TAKES_FILES: Final = True

_PARAMETERS: Final = ("alpha", "guarantee", "probabilities")
_INSTANCES: Final = Member("instances")


class Wishes(NamedTuple):
    """What the parameters of a request ask for.

    Attributes:
        alpha: False-alarm rate of the flag.
        limits: For each label the largest flagged rank at that α.
        probabilities: Whether the answer lists all of them.
        disclosure: What the caller may see, whatever it asks for.
    """

    alpha: float
    limits: tuple[int, ...]
    probabilities: bool
    disclosure: Disclosure


class Call(NamedTuple):
    """A predict request, decoded.

    Attributes:
        inputs: Inputs of the model's shapes; values not yet checked.
        limits: For each label the largest flagged rank.
        wishes: What else it asks for.
    """

    inputs: Inputs
    limits: tuple[int, ...]
    wishes: Wishes


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

    Raises:
        RequestError: Whatever is wrong with it.
        ClientGoneError: If nobody waits for it any more.
    """
    if envelope.header_length is not None:
        raise MediaTypeError(
            "Inference-Header-Content-Length is of the Open Inference Protocol: leave it out, or use V2"
        )
    specs, media = served.manifest.inputs, envelope.media
    if media == JSON:
        return _quick(body, served, allowance, disclosure) or _strict(body, served, allowance, disclosure)
    if media in IMAGE_TYPES:
        spec = _only_input(specs, media)
        allowance.take_pixels(image_cost(body, spec))
        array = image_input(body, spec)
    elif media == NPY_TYPE:
        spec = _only_input(specs, media)
        array = npy_input(body, spec)
        _check_count(len(array), allowance)
    else:
        raise not_accepted(media, (JSON, *IMAGE_TYPES, NPY_TYPE))
    return _call({spec.name: array}, _wishes({}, served, disclosure))


def _quick(body: bytes, served: ServedVersion, allowance: Allowance, disclosure: Disclosure) -> Call | None:
    """Read JSON that asks what an earlier request did, of a model with one input; None for the strict way."""
    specs = served.manifest.inputs
    parts = _INSTANCES.cut(body) if len(specs) == 1 else None
    if parts is None:
        return None
    skeleton, text = parts
    key = (PROTOCOL, skeleton, disclosure)
    wishes = served.memory.get(key)
    if wishes is None:
        try:
            document = parse_object(skeleton)
            if document.get("instances") != []:
                return None
            wishes = _wishes(read_parameters(document, _PARAMETERS), served, disclosure)
        except RequestError:  # the strict way will say so
            return None
        served.memory.put(key, wishes)
    array = nested_numbers(text, specs[0].instance_shape, allowance.max_instances)
    return None if array is None else _call({specs[0].name: array}, wishes)


def _strict(body: bytes, served: ServedVersion, allowance: Allowance, disclosure: Disclosure) -> Call:
    document = parse_object(body)
    parameters = read_parameters(document, _PARAMETERS)
    inputs = _instances(document.get("instances"), served.manifest.inputs, allowance)
    return _call(inputs, _wishes(parameters, served, disclosure))


def _wishes(parameters: dict[str, Any], served: ServedVersion, disclosure: Disclosure) -> Wishes:
    check_parameters(parameters, disclosure)
    alpha, limits = read_limits(parameters, served.policy)
    probabilities = parameters.get("probabilities", True)
    if not isinstance(probabilities, bool):
        raise InvalidInputError(f"parameters.probabilities: expected true or false, got {shown(probabilities)}")
    return Wishes(alpha, limits, probabilities, disclosure)


def _call(inputs: Inputs, wishes: Wishes) -> Call:
    return Call(inputs, wishes.limits, wishes)


def _only_input(specs: tuple[InputSpec, ...], media: str) -> InputSpec:
    if len(specs) > 1:
        raise MediaTypeError(f"a model with {len(specs)} inputs takes {JSON}, not {media}")
    return specs[0]


def _check_count(count: int, allowance: Allowance) -> None:
    if not count:
        raise InvalidInputError("instances: expected at least one, got none")
    if count > allowance.max_instances:
        raise TooLargeError(f"instances: at most {allowance.max_instances} are accepted in one request, got {count}")


def _instances(instances: object, specs: tuple[InputSpec, ...], allowance: Allowance) -> Inputs:
    if not isinstance(instances, list):
        raise InvalidInputError('the body must have a list "instances"')
    _check_count(len(instances), allowance)
    if len(specs) == 1:
        return {specs[0].name: _column(instances, specs[0], "", allowance)}
    names = {spec.name for spec in specs}
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict) or set(instance) != names:
            raise InvalidInputError(f"instances[{index}]: expected an object with the inputs {sorted(names)}")
    return {
        spec.name: _column([instance[spec.name] for instance in instances], spec, f".{spec.name}", allowance)
        for spec in specs
    }


def _column(values: list[Any], spec: InputSpec, member: str, allowance: Allowance) -> NDArray[np.float32]:
    """All instances of one input."""
    files: dict[int, bytes] = {}
    for index, value in enumerate(values):
        if isinstance(value, dict):
            with _at(f"instances[{index}]{member}"):
                files[index] = base64_file(value, spec)
                allowance.take_pixels(image_cost(files[index], spec))
    rows = []
    for index, value in enumerate(values):
        allowance.check()
        if index in files:
            with _at(f"instances[{index}]{member}"):
                rows.append(image_input(files.pop(index), spec))
        else:
            place = f"input {spec.name!r}: instances[{index}]{member}"
            rows.append(to_array(value, spec.instance_shape, place)[None])
    return np.concatenate(rows)


@contextmanager
def _at(where: str) -> Iterator[None]:
    """Say where a fault is."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{where}: {error}") from error


def encode(call: Call, rows: Rows, served: ServedVersion) -> Answer:
    """The answer: for each instance label, diagnostics and risk, as far as the caller may see them."""
    # One by one: in one piece the interpreter would be held until the last is done.
    predictions = [
        orjson.Fragment(orjson.dumps(_prediction(row, call.wishes, rows, served), option=orjson.OPT_SERIALIZE_NUMPY))
        for row in range(rows.start, rows.stop)
    ]
    answer = {"model_name": served.name, "model_version": served.version, "predictions": predictions}
    return Answer(orjson.dumps(answer))


def _prediction(row: int, wishes: Wishes, rows: Rows, served: ServedVersion) -> dict[str, Any]:
    # numpy's float32 scalars stay as they are: orjson writes them with the digits that float32 has.
    outputs, policy = rows.batch.outputs, served.policy
    rank, label = rows.batch.ranks[row], rows.batch.labels[row]
    n, flagged = policy.sizes[label], rank <= wishes.limits[label]
    prediction: dict[str, Any] = {"label": label, "class_name": served.manifest.classes[label]}
    if wishes.disclosure == "none":
        return prediction
    if wishes.disclosure == "coarse":
        prediction["risk"] = {
            "decision": policy.decide(rank, label),
            "flagged": flagged,
            "decile": risk_decile(rank, n),
        }
        return prediction
    probabilities = outputs["probabilities"][row]
    prediction["confidence"] = probabilities[label]
    if wishes.probabilities:
        prediction["probabilities"] = np.ascontiguousarray(probabilities)
    prediction["diagnostics"] = {name: outputs[name][row] for name in DIAGNOSTICS}
    prediction["risk"] = {
        "decision": policy.decide(rank, label),
        "flagged": flagged,
        "alpha": wishes.alpha,
        "p_value": p_value(rank, n),
        "score": risk_score(rank, n),
        "rank": rank,
        "nonconformity": outputs["nonconformity"][row],
    }
    return prediction

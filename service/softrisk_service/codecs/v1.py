"""KServe V1: `{"instances": […]}` in, one rich prediction an instance out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from softrisk_core.conformal import p_value
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.manifest import InputSpec
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.body import JSON, not_accepted, parse_object
from softrisk_service.codecs.media import IMAGE_TYPES, NPY_TYPE, base64_file, image_cost, image_input, npy_input
from softrisk_service.codecs.parameters import read_limit, read_parameters
from softrisk_service.codecs.tensors import check_values, shown, to_array
from softrisk_service.engine import ServedVersion
from softrisk_service.errors import InvalidInputError, MediaTypeError, TooLargeError
from softrisk_service.policy import risk_score
from softrisk_service.runtime import Inputs, Outputs

PROTOCOL: Final = "v1"

_PARAMETERS: Final = ("alpha", "guarantee", "probabilities")


@dataclass(frozen=True)
class Call:
    """A predict request, decoded.

    Attributes:
        inputs: Valid inputs of the model.
        alpha: False-alarm rate of the flag.
        limit: Largest flagged rank at that α.
        probabilities: Whether the answer lists all of them.
    """

    inputs: Inputs
    alpha: float
    limit: int
    probabilities: bool


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
    specs = served.manifest.inputs
    parameters: dict[str, Any] = {}
    if media == JSON:
        document = parse_object(body)
        parameters = read_parameters(document, _PARAMETERS)
        inputs = _instances(document.get("instances"), specs, allowance)
    elif media in IMAGE_TYPES:
        spec = _only_input(specs, media)
        allowance.take_pixels(image_cost(body, spec))
        inputs = {spec.name: image_input(body, spec)}
    elif media == NPY_TYPE:
        spec = _only_input(specs, media)
        inputs = {spec.name: npy_input(body, spec)}
        _check_count(len(inputs[spec.name]), allowance)
    else:
        raise not_accepted(media, (JSON, *IMAGE_TYPES, NPY_TYPE))
    for spec in specs:
        check_values(inputs[spec.name], spec)
    alpha, limit = read_limit(parameters, served.policy)
    probabilities = parameters.get("probabilities", True)
    if not isinstance(probabilities, bool):
        raise InvalidInputError(f"parameters.probabilities: expected true or false, got {shown(probabilities)}")
    return Call(inputs, alpha, limit, probabilities)


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


def encode(call: Call, outputs: Outputs, served: ServedVersion) -> bytes:
    """The answer: for each instance label, diagnostics and risk."""
    classes, policy = served.manifest.classes, served.policy
    labels: list[int] = outputs["label"].tolist()
    ranks: list[int] = outputs["rank"].tolist()
    # numpy's float32 scalars stay as they are: orjson writes them with the digits that float32 has.
    probabilities, diagnostics = outputs["probabilities"], {name: outputs[name] for name in DIAGNOSTICS}
    nonconformity = outputs["nonconformity"]
    predictions = []
    for row, (label, rank) in enumerate(zip(labels, ranks, strict=True)):
        prediction: dict[str, Any] = {
            "label": label,
            "class_name": classes[label],
            "confidence": probabilities[row, label],
        }
        if call.probabilities:
            prediction["probabilities"] = np.ascontiguousarray(probabilities[row])
        prediction["diagnostics"] = {name: values[row] for name, values in diagnostics.items()}
        prediction["risk"] = {
            "decision": policy.decide(rank),
            "flagged": rank <= call.limit,
            "alpha": call.alpha,
            "p_value": p_value(rank, policy.n),
            "score": risk_score(rank, policy.n),
            "rank": rank,
            "nonconformity": nonconformity[row],
        }
        # Written one by one: in one piece the interpreter would be held until the last is done.
        predictions.append(orjson.Fragment(orjson.dumps(prediction, option=orjson.OPT_SERIALIZE_NUMPY)))
    answer = {"model_name": served.name, "model_version": served.version, "predictions": predictions}
    return orjson.dumps(answer)

"""KServe V1: `{"instances": […]}` in, one rich prediction an instance out."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from softrisk_core.conformal import Guarantee, p_value
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.errors import CalibrationError
from softrisk_core.manifest import InputSpec
from softrisk_service.codecs.body import JSON, parse_object, read_alpha, read_parameters
from softrisk_service.codecs.media import IMAGE_TYPES, NPY_TYPE, base64_input, image_input, npy_input
from softrisk_service.codecs.tensors import check_values, shown, to_array
from softrisk_service.engine import ServedVersion
from softrisk_service.errors import InvalidInputError, MediaTypeError, TooLargeError
from softrisk_service.policy import limit_at, risk_score
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


def decode(media: str, body: bytes, served: ServedVersion, max_instances: int) -> Call:
    """Read a request.

    Args:
        media: Its media type.
        body: Its body.
        served: The model that it is for.
        max_instances: Most instances accepted.

    Raises:
        RequestError: Whatever is wrong with it.
    """
    specs = served.manifest.inputs
    parameters: dict[str, Any] = {}
    if media == JSON:
        document = parse_object(body)
        parameters = read_parameters(document)
        inputs = _instances(document.get("instances"), specs, max_instances)
    elif media in IMAGE_TYPES:
        spec = _only_input(specs, media)
        inputs = {spec.name: image_input(body, spec)}
    elif media == NPY_TYPE:
        spec = _only_input(specs, media)
        inputs = {spec.name: npy_input(body, spec)}
        _check_count(len(inputs[spec.name]), max_instances)
    else:
        accepted = ", ".join((JSON, *IMAGE_TYPES, NPY_TYPE))
        raise MediaTypeError(f"the media type {shown(media)} is not accepted here; accepted: {accepted}")
    for spec in specs:
        check_values(inputs[spec.name], spec)
    return _call(inputs, parameters, served)


def _call(inputs: Inputs, parameters: dict[str, Any], served: ServedVersion) -> Call:
    if unknown := [name for name in parameters if name not in _PARAMETERS]:
        raise InvalidInputError(f"parameters: {shown(unknown[0])} is not known; known: {', '.join(_PARAMETERS)}")
    alpha = read_alpha(parameters, served.policy.alpha_review)
    guarantee: Guarantee = parameters.get("guarantee", "marginal")
    if guarantee not in ("marginal", "confident"):
        raise InvalidInputError(f"parameters.guarantee: expected marginal or confident, got {shown(guarantee)}")
    probabilities = parameters.get("probabilities", True)
    if not isinstance(probabilities, bool):
        raise InvalidInputError(f"parameters.probabilities: expected true or false, got {shown(probabilities)}")
    try:
        limit = limit_at(alpha, served.policy.n, guarantee)
    except CalibrationError as error:
        raise InvalidInputError(f"parameters.alpha: {error}") from error
    return Call(inputs, alpha, limit, probabilities)


def _only_input(specs: tuple[InputSpec, ...], media: str) -> InputSpec:
    if len(specs) > 1:
        raise MediaTypeError(f"a model with {len(specs)} inputs takes {JSON}, not {media}")
    return specs[0]


def _check_count(count: int, max_instances: int) -> None:
    if not count:
        raise InvalidInputError("instances: expected at least one, got none")
    if count > max_instances:
        raise TooLargeError(f"instances: at most {max_instances} are accepted in one request, got {count}")


def _instances(instances: object, specs: tuple[InputSpec, ...], max_instances: int) -> Inputs:
    if not isinstance(instances, list):
        raise InvalidInputError('the body must have a list "instances"')
    _check_count(len(instances), max_instances)
    if len(specs) == 1:
        return {specs[0].name: _column(instances, specs[0], "instances", "")}
    names = {spec.name for spec in specs}
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict) or set(instance) != names:
            raise InvalidInputError(f"instances[{index}]: expected an object with the inputs {sorted(names)}")
    return {spec.name: _column([i[spec.name] for i in instances], spec, "instances", f".{spec.name}") for spec in specs}


def _column(values: list[Any], spec: InputSpec, where: str, member: str) -> NDArray[np.float32]:
    """All instances of one input."""
    if not any(isinstance(value, dict) for value in values):
        place = f"input {spec.name!r}: {where}"
        return to_array(values, (len(values), *spec.instance_shape), place)
    rows = [
        base64_input(value, spec, f"{where}[{index}]{member}")
        if isinstance(value, dict)
        else to_array([value], (1, *spec.instance_shape), f"input {spec.name!r}: {where}[{index}]{member}")
        for index, value in enumerate(values)
    ]
    return np.concatenate(rows)


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
        predictions.append(prediction)
    answer = {"model_name": served.name, "model_version": served.version, "predictions": predictions}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)

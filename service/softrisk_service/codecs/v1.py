"""KServe V1: `{"instances": […]}` in, one rich prediction an instance out."""

from typing import Any, Final, NamedTuple

from softrisk_core.manifest import InputSpec
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs import v1_answer
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.body import JSON, not_accepted, parse_object
from softrisk_service.codecs.envelope import Answer, Envelope
from softrisk_service.codecs.media import FILE_TYPES, NPY_TYPE, claim_file, file_input, file_types, npy_input
from softrisk_service.codecs.parameters import read_limits, read_parameters
from softrisk_service.codecs.quick import Member, nested_numbers
from softrisk_service.codecs.tensors import shown
from softrisk_service.codecs.v1_answer import Wishes
from softrisk_service.codecs.v1_instances import check_count, read_instances
from softrisk_service.disclosure import Disclosure, check_parameters
from softrisk_service.errors import InvalidInputError, MediaTypeError, RequestError
from softrisk_service.outcome import Inputs, Rows, with_missing

PROTOCOL: Final = "v1"
TAKES_FILES: Final = True

_PARAMETERS: Final = ("alpha", "guarantee", "probabilities")
_INSTANCES: Final = Member("instances")


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
    if media in FILE_TYPES:
        spec = _input_of(specs, media)
        claim_file(body, spec, allowance)
        array = file_input(body, spec)[None]
    elif media == NPY_TYPE:
        spec = _only_input(specs, media)
        array = npy_input(body, spec)
        check_count(len(array), allowance)
    else:
        raise not_accepted(media, (JSON, *FILE_TYPES, NPY_TYPE))
    return _call(with_missing({spec.name: array}, specs), _wishes({}, served, disclosure))


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
    inputs = read_instances(document.get("instances"), served.manifest.inputs, allowance)
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


def _input_of(specs: tuple[InputSpec, ...], media: str) -> InputSpec:
    """The input that a file is for: the only one that takes such files, if all others may be left out."""
    takers = [spec for spec in specs if media in file_types(spec)]
    if len(takers) == 1 and all(spec.optional for spec in specs if spec is not takers[0]):
        return takers[0]
    spec = _only_input(specs, media)
    raise not_accepted(media, (JSON, *file_types(spec), NPY_TYPE))


def encode(call: Call, rows: Rows, served: ServedVersion) -> Answer:
    """The answer: a rich prediction for each instance."""
    return v1_answer.write(call.wishes, rows, served)

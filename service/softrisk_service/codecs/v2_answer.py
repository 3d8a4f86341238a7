"""Open Inference Protocol (KServe V2): what an answer looks like."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

import numpy as np
import orjson

from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs.body import OCTETS
from softrisk_service.codecs.envelope import Answer
from softrisk_service.outcome import Batch, Rows
from softrisk_service.policy import flags

_DATATYPES: Final = {"label": "INT64", "rank": "INT64", "flagged": "BOOL"}
_VECTORS: Final = ("logits", "probabilities")
_INTEGERS: Final = ("label", "rank")
# Little-endian and without padding, as the binary tensor extension wants them.
_DTYPES: Final[dict[str, np.dtype[Any]]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "BOOL": np.dtype("?")}

_SHARED_VALUES: Final = 4096
"""Answers to the rows of larger batches are written one by one: all of them in one piece would take too long."""


def output_datatype(name: str) -> str:
    """Datatype of a graph output."""
    return _DATATYPES.get(name, "FP32")


def output_shape(name: str, classes: int) -> list[int]:
    """Shape of a graph output, −1 for the batch."""
    return [-1, classes] if name in _VECTORS else [-1]


def calibration_parameters(served: ServedVersion, alpha: float) -> dict[str, Any]:
    """What p-values and a flag at some α rest on."""
    calibration = served.manifest.calibration
    return {"calibration_id": calibration.id, "n": calibration.n, "alpha": alpha}


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """How the answers to all requests that ask alike look.

    Attributes:
        template: Their JSON, with a `%b` for everything that differs.
        pick: Takes what belongs there, in this order, from the texts of the id, of `flagged`, of the vectors, integers
            and floats; None if nothing differs.
        vectors: Outputs in JSON of many values a row.
        integers: Outputs in JSON of one integer a row.
        floats: Outputs in JSON of one float a row.
        binary: Outputs behind the JSON.
    """

    template: bytes
    pick: Callable[[Sequence[Any]], tuple[Any, ...]] | None
    vectors: tuple[str, ...]
    integers: tuple[str, ...]
    floats: tuple[str, ...]
    binary: tuple[str, ...]


def form_for(
    served: ServedVersion, wanted: tuple[tuple[str, bool], ...], alpha: float | None, rows: int, has_id: bool
) -> Form:
    """The form of the answers to a request.

    Args:
        served: Who answers.
        wanted: Names of outputs, and whether they are wanted binary.
        alpha: False-alarm rate of the flag, which is told with the calibration behind it; None to tell neither.
        rows: Instances in the request.
        has_id: Whether the request has an id.
    """
    key = ("v2 form", wanted, alpha, rows, has_id)
    form: Form | None = served.memory.get(key)
    if form is None:
        form = _form(served, wanted, alpha, rows, has_id)
        served.memory.put(key, form)
    return form


def _form(
    served: ServedVersion, wanted: tuple[tuple[str, bool], ...], alpha: float | None, rows: int, has_id: bool
) -> Form:
    outputs = []
    for name, binary in wanted:
        datatype = output_datatype(name)
        shape = [rows, *output_shape(name, len(served.manifest.classes))[1:]]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            output["parameters"] = {"binary_data_size": math.prod(shape) * _DTYPES[datatype].itemsize}
        else:
            output["data"] = orjson.Fragment(b"[%b]")
        outputs.append(output)
    # Neither names of models nor ids of calibrations have a per cent sign, so all of them are ours.
    answer = {
        "model_name": served.name,
        "model_version": served.version,
        **({"id": orjson.Fragment(b"%b")} if has_id else {}),
        **({} if alpha is None else {"parameters": calibration_parameters(served, alpha)}),
        "outputs": outputs,
    }
    in_json = [name for name, binary in wanted if not binary]
    vectors = tuple(name for name in in_json if name in _VECTORS)
    integers = tuple(name for name in in_json if name in _INTEGERS)
    floats = tuple(name for name in in_json if name not in (*_VECTORS, *_DATATYPES))
    texts = ("id", "flagged", *vectors, *integers, *floats)
    places = [texts.index(field) for field in (*(("id",) if has_id else ()), *in_json)]
    return Form(
        template=orjson.dumps(answer),
        pick=_picker(places) if places else None,
        vectors=vectors,
        integers=integers,
        floats=floats,
        binary=tuple(name for name, binary in wanted if binary),
    )


def write(form: Form, name: str | None, limits: tuple[int, ...], rows: Rows) -> Answer:
    """The answer to a request.

    Args:
        form: How it looks.
        name: The request's id, if it has one.
        limits: For each label the largest flagged rank.
        rows: Its rows of a batch.
    """
    if name is None and rows.stop - rows.start == 1:
        shared = _shared(form, limits, rows.batch)
        if shared is not None:
            return shared[rows.start]
    flagged = flags(rows.ranks, rows.labels, limits)
    head = form.template
    if form.pick is not None:
        head = head % form.pick(_texts(form, name, flagged, rows))
    if not form.binary:
        return Answer(head)
    tensors = [bytes(flagged) if output == "flagged" else _packed(output, rows) for output in form.binary]
    return Answer(b"".join([head, *tensors]), OCTETS, len(head))


def _texts(form: Form, name: str | None, flagged: list[bool], rows: Rows) -> list[bytes]:
    outputs, start, stop = rows.batch.outputs, rows.start, rows.stop
    texts = [b"" if name is None else _written(name), _written(flagged)[1:-1]]
    if stop - start > 1:
        # One by one: in one piece the interpreter would be held until the last is done.
        arrays = (outputs[output][start:stop].ravel() for output in (*form.vectors, *form.integers, *form.floats))
        return texts + [_written(array)[1:-1] for array in arrays]
    texts += [_written(outputs[output][start])[1:-1] for output in form.vectors]
    # orjson knows numpy's scalars, but not the kind of integers that onnxruntime returns.
    integers = [outputs[output].item(start) for output in form.integers]
    # At once: the call costs more than writing a number.
    return texts + _written(integers + [outputs[output][start] for output in form.floats])[1:-1].split(b",")


def _packed(name: str, rows: Rows) -> bytes:
    values = rows.batch.outputs[name][rows.start : rows.stop]
    packed: bytes = values.astype(_DTYPES[output_datatype(name)], copy=False).tobytes()
    return packed


def _shared(form: Form, limits: tuple[int, ...], batch: Batch) -> list[Answer] | None:
    """The answers to each row of a batch, written together, which costs a fraction of writing them one by one.

    Returns:
        None if this is the first request that asks like this: perhaps it is the only one.
    """
    renderings, key = batch.renderings, (form, limits)
    if key not in renderings:
        renderings[key] = None
        return None
    answers: list[Answer] | None = renderings[key]
    if answers is None and sum(values.size for values in batch.outputs.values()) <= _SHARED_VALUES:
        answers = renderings[key] = _write_all(form, limits, batch)
    return answers


def _write_all(form: Form, limits: tuple[int, ...], batch: Batch) -> list[Answer]:
    size, outputs = len(batch.ranks), batch.outputs
    flagged = flags(batch.ranks, batch.labels, limits)
    heads = [form.template] * size
    if form.pick is not None:
        columns = [[b""] * size, [b"true" if flag else b"false" for flag in flagged]]
        columns += [_written(outputs[output])[2:-2].split(b"],[") for output in form.vectors]
        scalars = _written([outputs[output] for output in (*form.integers, *form.floats)])[2:-2].split(b"],[")
        columns += [values.split(b",") for values in scalars]
        heads = [form.template % row for row in zip(*form.pick(columns), strict=True)]
    if not form.binary:
        return [Answer(head) for head in heads]
    everyone = Rows(batch, 0, size)
    blocks = [bytes(flagged) if output == "flagged" else _packed(output, everyone) for output in form.binary]
    tensors = np.concatenate([np.frombuffer(block, np.uint8).reshape(size, -1) for block in blocks], axis=1)
    return [Answer(head + row.tobytes(), OCTETS, len(head)) for head, row in zip(heads, tensors, strict=True)]


def _picker(places: list[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(places) == 1:
        return lambda texts: (texts[places[0]],)
    pick: Callable[[Sequence[Any]], tuple[Any, ...]] = itemgetter(*places)
    return pick


def _written(value: object) -> bytes:
    # numpy's float32 is written with the digits that float32 has.
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)

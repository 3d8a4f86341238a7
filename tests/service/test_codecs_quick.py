"""The short way of decoding gives what the strict way gives: the same arrays to the last bit, or the same refusal."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softrisk_core.groups import Grouping
from softrisk_core.manifest import CalibrationFacts, InputSpec, Manifest
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs import v1, v2
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.envelope import Envelope
from softrisk_service.codecs.memory import Memory
from softrisk_service.codecs.quick import Member, nested_numbers, numbers, without_id
from softrisk_service.errors import RequestError
from softrisk_service.policy import Policy

JSON = Envelope("application/json", "identity", None)
SHAPE = (1, 2, 3)
QUICK = settings(max_examples=200, deadline=None)


def version(name: str = "x") -> Any:
    """As much of a served version as codecs look at."""
    manifest = Manifest.model_construct(
        name="m",
        version=1,
        inputs=(InputSpec(name=name, shape=(-1, *SHAPE), domain=None),),
        classes=("a", "b"),
        calibration=CalibrationFacts.model_construct(id="c", n=199, alpha=0.05),
    )
    return ServedVersion(manifest, Policy.of(Grouping.marginal(199, 3), 0.05, None, None), None, None, "CPU", Memory())  # type: ignore[arg-type] # codecs neither run nor count


def outcome(codec: Any, body: bytes, served: Any) -> Any:
    try:
        call = codec.decode(JSON, body, served, Allowance(5, 100, 100, 10**6), "full")
    except RequestError as error:
        return type(error), str(error)
    arrays = {name: (array.shape, array.dtype, array.tobytes()) for name, array in call.inputs.items()}
    return arrays, call.limits, getattr(call, "id", None)


def same_both_ways(codec: Any, body: bytes, served: Any) -> Any:
    """The outcome, once it is known that the strict way has the same."""
    first, remembered = outcome(codec, body, served), outcome(codec, body, served)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Member, "cut", lambda *_: None)
        patch.setattr(v2, "without_id", lambda text: (text, None))
        strict = outcome(codec, body, version())
    assert first == remembered == strict
    return first


def takes_the_short_way(codec: Any, body: bytes, served: Any) -> bool:
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_: object) -> None:
            raise AssertionError

        patch.setattr(codec, "_strict", refuse)
        try:
            outcome(codec, body, served)
        except AssertionError:
            return False
    return True


NUMBERS = (
    st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**70), 2**70)
).map(json.dumps)
NOT_ALIKE = (
    "-0", "-0.0", "0e1", "1E2", "1e-400", "1e39", "1e308", "1e999", "18446744073709551615", "9" * 50 + ".0", "null",
    "true", '"1"', '"a]"', "[]", "[1]", "{}", '{"b64":""}', "01", "1.", "+1", "NaN", "0x1", "1 2", " ", "",
)  # fmt: skip
ODD = st.sampled_from(NOT_ALIKE)
ROW = st.lists(NUMBERS, min_size=3, max_size=3) | st.lists(NUMBERS | ODD, min_size=2, max_size=4)
SPACE = st.sampled_from(["", " ", "\n\t"])


@st.composite
def nested(draw: st.DrawFn) -> str:
    """Instances of shape (1, 2, 3), now and then of another, or no numbers at all."""
    space = draw(SPACE)
    separator = f"{space},"

    def array(items: list[str]) -> str:
        return f"[{space}{separator.join(items)}{space}]"

    planes = draw(st.lists(st.lists(ROW, min_size=2, max_size=2) | st.lists(ROW, max_size=3), min_size=0, max_size=3))
    return array([array([array([array(row) for row in plane])]) for plane in planes])


@st.composite
def flat(draw: st.DrawFn) -> str:
    count = 6 * draw(st.integers(0, 3))
    items = draw(st.lists(NUMBERS, min_size=count, max_size=count) | st.lists(NUMBERS | ODD, max_size=13))
    return f"[{','.join(items)}]"


@given(nested(), st.sampled_from(["", ', "parameters": {"alpha": 0.1}', ', "parameters": {"alfa": 1}', ', "b": ["]"]']))
@QUICK
def test_v1_is_read_alike_on_both_ways(instances: str, rest: str) -> None:
    served = version()
    same_both_ways(v1, f'{{"instances": {instances}{rest}}}'.encode(), served)
    same_both_ways(v1, f'{{"a": "instances" {rest}, "instances" : {instances}}}'.encode(), served)


@given(flat() | nested(), st.integers(0, 3), st.text(max_size=5), st.booleans())
@QUICK
def test_v2_is_read_alike_on_both_ways(data: str, rows: int, name: str, escaped: bool) -> None:
    served = version()
    shape = json.dumps([rows, *SHAPE])
    written = json.dumps(name, ensure_ascii=escaped)
    tensor = f'{{"name": "x", "shape": {shape}, "datatype": "FP32", "data": {data}}}'
    outputs = '"outputs": [{"name": "rank"}, {"name": "label"}]'
    for body in (
        f'{{"inputs": [{tensor}]}}',
        f'{{"id": {written}, "inputs": [{tensor}], {outputs}}}',
        f'{{{outputs}, "inputs": [{tensor}], "id": {written}}}',
        f'{{"inputs": [{tensor}, {tensor}]}}',
    ):
        same_both_ways(v2, body.encode("utf-8", "surrogatepass"), served)


@given(st.data())
@QUICK
def test_damaged_bodies_are_read_alike_on_both_ways(data: st.DataObject) -> None:
    served = version()
    tensor = {"name": "x", "shape": [2, 1, 2, 3], "datatype": "FP32", "data": [0.5] * 12}
    codec, whole = data.draw(
        st.sampled_from(
            [
                (v1, json.dumps({"instances": [[[[1, 2, 3], [4, 5, 6]]]] * 2, "parameters": {"alpha": 0.1}}).encode()),
                (v2, json.dumps({"id": "a", "inputs": [tensor], "outputs": [{"name": "rank"}]}).encode()),
            ]
        )
    )
    same_both_ways(codec, whole, served)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 4)))
    patch = data.draw(
        st.binary(max_size=3) | st.sampled_from([b'"', b"]", b"[", b",", b"\\", b"}", b'"data":[1]', b'"id"'])
    )
    same_both_ways(codec, whole[:start] + patch + whole[stop:], served)


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "e": {"data": [1,2,3,4,5,6]}}]}',
        b'{"data": [1,2,3,4,5,6], "inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32"}]}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "data": [1,2,3,4,5,6], "data": [0]}]}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "d\\u0061ta": [], "data": [1,2,3,4,5,6]}]}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "data": [1,2,3,4,5,6]}], "id": "\xff"}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "data": [1,2,3,4,5,6], "id": "b"}]}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "data": [1,2,3,4,5,6]}], "id": null}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "data": [1,2,3,4,5,6]}], "id": ""}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "data": [1,2,3,4,5,6]}], "id": "a\\"b"}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "data": [1,2,3,4,5,6]}], "id": "a\nb"}',
        b'{"inputs": [{"name": "x", "shape": [1,1,2,3], "datatype": "FP32", "data":[]}]}',
        b'\xef\xbb\xbf{"inputs": []}',
    ],
)  # fmt: skip
def test_what_looks_like_the_short_way_but_is_not(body: bytes) -> None:
    same_both_ways(v2, body, version())


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": {"instances": [[[[1,2,3],[4,5,6]]]]}}',
        b'{"a": {"instances": [[[[1,2,3],[4,5,6]]]]}, "instances": [[[[1,2,3],[4,5,6]]]]}',
        b'{"instances": [[[[1,2,3],[4,5,6]]]], "instances": [[[[6,5,4],[3,2,1]]]]}',
        b'{"instances": [[[[1,2,3],[4,5,6]]]]]}',
        b'{"instances": [[[[1,2,3],[4,5,6]]]]}}',
        b'{"instances": [[[[1,2,3],[4,5,6,[]]]]]}',
        b'{"instances": [[[[1,2,[3,4]],[5,6,[]]]]]}',
        b'{"instances": [[[[1,2,3],[4,5,6]],7]]}',
        b'{"instances": [[[[1,2,3],[4,5,6]]], 8]}',
        b'{"instances": [[[[1,2,3],[4,5,6]]], "[[[1,2,3],[4,5,6]]]"]}',
        b'{"instances": "data"}',
        b'{"instances": [[[["a","b","c"],["d","e","f"]]]]}',
        b'{"instances": ["abc"]}',
        b'{"instances": ' + b"[" * 2000 + b"]" * 2000 + b"}",
    ],
)
def test_nested_arrays_that_are_not_of_the_shape(body: bytes) -> None:
    same_both_ways(v1, body, version())


def test_the_common_bodies_take_the_short_way() -> None:
    served = version()
    instance = [[[1, 2.5, -3e-5], [0, 0.25, 1e10]]]
    values = np.array(instance).ravel().tolist()
    tensor = {"name": "x", "shape": [1, *SHAPE], "datatype": "FP32", "data": values}
    outputs = [{"name": "rank", "parameters": {"binary_data": True}}]
    predict: list[dict[str, Any]] = [
        {"instances": [instance]},
        {"parameters": {"alpha": 0.5}, "instances": [instance] * 5},
    ]
    infer: list[dict[str, Any]] = [
        {"inputs": [tensor]},
        {"id": "é", "inputs": [tensor], "outputs": outputs},
        {"inputs": [{"data": [instance], "datatype": "FP32", "shape": [1, *SHAPE], "name": "x"}]},
        {"outputs": outputs, "inputs": [tensor], "parameters": {"binary_data_output": True}, "id": "z"},
    ]
    for document in predict:
        assert takes_the_short_way(v1, json.dumps(document).encode(), served)
    for document in infer:
        for form in (json.dumps(document, ensure_ascii=False), json.dumps(document, ensure_ascii=False, indent=1)):
            assert takes_the_short_way(v2, form.encode(), served)
    assert not takes_the_short_way(v1, b'{"instances": [[[[1,2],[3,4,5,6]]]]}', served)


def test_an_input_may_be_called_data() -> None:
    served = version(name="data")
    body = b'{"inputs": [{"name": "data", "shape": [1,1,2,3], "datatype": "FP32", "data": [1,2,3,4,5,6]}]}'
    assert takes_the_short_way(v2, body, served)
    assert list(outcome(v2, body, served)[0]) == ["data"]


def test_numbers_of_another_shape_are_not_taken() -> None:
    assert numbers(b"[1, 2, 3]", (3,)) is not None
    for text in (b"[1, 2]", b"[1, 2, [3]]", b"[1, 2, true]", b"[]", b"{}", b"3", b"", b"[1, 2, 3", b"[1, 2, 3]]"):
        assert numbers(text, (3,)) is None
    assert numbers(b"[[1, 2], [3, 4]]", (2, 2)) is not None
    assert numbers(b"[[1, 2], [3, 4]]", (1, 2)) is None
    assert nested_numbers(b"[[1, 2], [3, 4]]", (2,), most=2) is not None
    assert nested_numbers(b"[[1, 2], [3, 4]]", (2,), most=1) is None


def test_ids_are_taken_out_only_if_that_is_plain() -> None:
    assert without_id(b'{"id" : "a b","x":1}') == (b'{"id" : "","x":1}', "a b")
    for text in (b"{}", b'{"id": 7}', b'{"id": "a", "id": "b"}', b'{"id": "\\n"}', b'{"id": "\xff"}', b'{"x": "id"}'):
        assert without_id(text) == (text, None)


def test_memory_is_bounded_and_forgets_the_oldest() -> None:
    memory = Memory()
    for key in range(1000):
        memory.put(key, key)
    kept = [key for key in range(1000) if memory.get(key) is not None]
    assert kept == list(range(1000 - len(kept), 1000))
    assert 100 < len(kept) < 1000


def test_requests_that_differ_do_not_fill_the_memory() -> None:
    served = version()
    for index in range(50):
        tensor = {"name": "x", "shape": [1, *SHAPE], "datatype": "FP32", "data": [index] * 6}
        outcome(v2, json.dumps({"id": str(index), "inputs": [tensor]}).encode(), served)
        outcome(v2, json.dumps({"inputs": [tensor | {"data": [str(index)] * 6}]}).encode(), served)
        outcome(v1, json.dumps({"instances": [np.full(SHAPE, index).tolist()]}).encode(), served)
    assert len(served.memory._entries) < 10

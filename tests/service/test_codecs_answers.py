"""Answers written from templates and shared texts are, byte for byte, those written value by value."""

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from softrisk_core.conformal import p_value
from softrisk_core.diagnostics import DIAGNOSTICS
from softrisk_core.groups import Grouping
from softrisk_core.manifest import OUTPUTS, CalibrationFacts, InputSpec, Manifest
from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs import v1, v2, v2_answer
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.envelope import Answer, Envelope
from softrisk_service.codecs.memory import Memory
from softrisk_service.codecs.v2_answer import output_datatype
from softrisk_service.outcome import Batch, Outputs, Rows
from softrisk_service.policy import Policy, risk_score

JSON = Envelope("application/json", "identity", None)
GROUPING = Grouping(tuple(label % 2 for label in range(50)), (199, 999))
POLICY = Policy.of(GROUPING, 0.05, 0.1, 0.02)
DTYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT64": np.dtype("<i8"), "BOOL": np.dtype("?")}
ANSWERS = settings(max_examples=80, deadline=None)

# Subnormal, huge, negative zero, exponents both ways, digits of every length.
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [-0.0, 1e-45, 3.4028235e38, -1.1754942e-38, 1e16, 1e-7, 0.1, 1 / 3, 16777216.0]
).map(np.float32)


def version(classes: int) -> Any:
    """As much of a served version as codecs look at."""
    manifest = Manifest.model_construct(
        name="m-1.x",
        version=3,
        inputs=(InputSpec(name="x", shape=(-1, 1), domain=None),),
        classes=tuple(f'class "{index}" 100% ü' for index in range(classes)),
        calibration=CalibrationFacts.model_construct(id="0123abcd", n=1198, alpha=0.05),
    )
    return ServedVersion(manifest, POLICY, None, None, "CPU", Memory())  # type: ignore[arg-type] # codecs neither run nor count


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    size, classes = draw(st.integers(1, 5)), draw(st.integers(2, 50))
    outputs: Outputs = {}
    for name in OUTPUTS:
        if name == "label":  # integers of the kind that onnxruntime returns
            outputs[name] = draw(arrays.arrays(np.longlong, size, elements=st.integers(0, classes - 1)))
        elif name == "rank":
            outputs[name] = draw(arrays.arrays(np.longlong, size, elements=st.integers(1, 200)))
        elif name == "flagged":
            outputs[name] = outputs["rank"] <= 10
        else:
            shape = (size, classes) if name in ("logits", "probabilities") else size
            outputs[name] = draw(arrays.arrays(np.float32, shape, elements=FLOATS))
    return Batch(outputs, outputs["rank"].tolist(), outputs["label"].tolist())


def dumps(document: object) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def predicted(rows: Rows, served: Any, alpha: float, limits: tuple[int, ...], listed: bool) -> bytes:
    """A V1 answer, value by value."""
    outputs = rows.outputs
    predictions = []
    for row, rank in enumerate(rows.ranks):
        label = int(outputs["label"][row])
        predictions.append(
            {
                "label": label,
                "class_name": served.manifest.classes[label],
                "confidence": outputs["probabilities"][row, label],
                **({"probabilities": outputs["probabilities"][row]} if listed else {}),
                "diagnostics": {name: outputs[name][row] for name in DIAGNOSTICS},
                "risk": {
                    "decision": POLICY.decide(rank, label),
                    "flagged": rank <= limits[label],
                    "alpha": alpha,
                    "p_value": p_value(rank, POLICY.sizes[label]),
                    "score": risk_score(rank, POLICY.sizes[label]),
                    "rank": rank,
                    "nonconformity": outputs["nonconformity"][row],
                },
            }
        )
    return dumps({"model_name": "m-1.x", "model_version": "3", "predictions": predictions})


def inferred(rows: Rows, name: str | None, alpha: float, limits: tuple[int, ...], wanted: dict[str, bool]) -> Answer:
    """A V2 answer, value by value."""
    outputs, packed = [], b""
    for output, binary in wanted.items():
        array = rows.outputs[output]
        if output == "flagged":
            array = rows.outputs["rank"] <= np.array(limits)[rows.outputs["label"]]
        datatype = output_datatype(output)
        entry: dict[str, Any] = {"name": output, "datatype": datatype, "shape": list(array.shape)}
        if binary:
            content = array.astype(DTYPES[datatype]).tobytes()
            packed += content
            entry["parameters"] = {"binary_data_size": len(content)}
        else:
            entry["data"] = np.ascontiguousarray(array).ravel()
        outputs.append(entry)
    head = dumps(
        {
            "model_name": "m-1.x",
            "model_version": "3",
            **({} if name is None else {"id": name}),
            "parameters": {"calibration_id": "0123abcd", "n": 1198, "alpha": alpha},
            "outputs": outputs,
        }
    )
    if packed:
        return Answer(head + packed, "application/octet-stream", len(head))
    return Answer(head, "application/json", None)


ALPHAS = st.sampled_from([None, 0.05, 0.3])


@given(batches(), ALPHAS, st.booleans(), st.data())
@ANSWERS
def test_v1(batch: Batch, alpha: float | None, listed: bool, data: st.DataObject) -> None:
    served = version(batch.outputs["logits"].shape[1])
    start = data.draw(st.integers(0, len(batch.ranks) - 1))
    rows = Rows(batch, start, data.draw(st.integers(start + 1, len(batch.ranks))))
    parameters = {"alpha": alpha, "probabilities": listed}
    body = json.dumps({"instances": [[0]] * (rows.stop - rows.start), "parameters": parameters}).encode()
    call = v1.decode(JSON, body, served, Allowance(9, 9, 9, 10**6), "full")
    expected = predicted(rows, served, alpha or POLICY.alpha_review, call.limits, listed)
    assert v1.encode(call, rows, served) == Answer(expected, "application/json", None)


WANTED: st.SearchStrategy[dict[str, bool | None]] = st.just({}) | st.dictionaries(
    st.sampled_from(OUTPUTS), st.none() | st.booleans()
)
NAMES = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


@given(batches(), ALPHAS, WANTED, st.booleans(), NAMES, st.sampled_from([0, 4096]), st.data())
@ANSWERS
def test_v2(
    batch: Batch,
    alpha: float | None,
    flags: dict[str, bool | None],
    by_default: bool,
    name: str | None,
    shared: int,
    data: st.DataObject,
) -> None:
    served = version(batch.outputs["logits"].shape[1])
    everyone = [Rows(batch, row, row + 1) for row in range(len(batch.ranks))]
    start = data.draw(st.integers(0, len(batch.ranks) - 1))
    several = Rows(batch, start, data.draw(st.integers(start + 1, len(batch.ranks))))
    wanted = {output: by_default if flag is None else flag for output, flag in flags.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(v2_answer, "_SHARED_VALUES", shared)
        for rows in (several, *everyone):  # the first alone, the others together
            size = rows.stop - rows.start
            outputs = [
                {"name": output} | ({} if flag is None else {"parameters": {"binary_data": flag}})
                for output, flag in flags.items()
            ]
            tensor = {"name": "x", "shape": [size, 1], "datatype": "FP32", "data": [0] * size}
            parameters = {"alpha": alpha, "binary_data_output": by_default}
            document = {"id": name, "inputs": [tensor], "outputs": outputs, "parameters": parameters}
            call = v2.decode(JSON, orjson.dumps(document), served, Allowance(9, 9, 9, 10**6), "full")
            every = wanted or dict.fromkeys(OUTPUTS, by_default)
            expected = inferred(rows, name, alpha or POLICY.alpha_review, call.limits, every)
            assert v2.encode(call, rows, served) == expected


def test_requests_of_one_batch_that_differ_get_their_own_answers() -> None:
    size, served = 6, version(3)
    outputs: Outputs = {name: np.arange(size, dtype=np.float32) for name in OUTPUTS}
    outputs |= {"rank": np.arange(1, size + 1), "label": np.zeros(size, np.int64), "flagged": np.zeros(size, np.bool_)}
    outputs |= {name: np.zeros((size, 3), np.float32) for name in ("logits", "probabilities")}
    batch = Batch(outputs, outputs["rank"].tolist(), outputs["label"].tolist())
    asked = [(0.01, False), (0.02, True), (0.01, False), (0.02, True), (0.02, False), (0.01, False)]
    for row, (alpha, binary) in enumerate(asked):
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0]}
        document = {"inputs": [tensor], "parameters": {"alpha": alpha, "binary_data_output": binary}}
        call = v2.decode(JSON, orjson.dumps(document), served, Allowance(9, 9, 9, 10**6), "full")
        rows = Rows(batch, row, row + 1)
        expected = inferred(rows, None, alpha, GROUPING.rank_limits(alpha), dict.fromkeys(OUTPUTS, binary))
        assert v2.encode(call, rows, served) == expected

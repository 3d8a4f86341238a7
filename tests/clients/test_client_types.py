"""Typed answers: tolerant of more and of less, and tensors that keep their shape."""

import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import ValidationError

from softrisk_client import Decision, InvalidArgumentError, Prediction, PredictResponse, Tensor


def test_coarse_and_no_disclosure_are_answers_too() -> None:
    coarse = Prediction.model_validate_json(
        '{"label": 7, "class_name": "7", "risk": {"decision": "review", "flagged": true, "decile": 9}}'
    )
    assert coarse.risk is not None
    assert coarse.risk.decision is Decision.REVIEW
    assert (coarse.risk.decile, coarse.risk.p_value) == (9, None)
    none = Prediction.model_validate_json('{"label": 7, "class_name": "7"}')
    assert (none.risk, none.diagnostics, none.confidence) == (None, None, None)


def test_what_a_newer_service_adds_is_kept() -> None:
    text = '{"label": 7, "class_name": "7", "saliency": [1, 2]}'
    prediction = Prediction.model_validate_json(text)
    assert prediction.model_dump(exclude_none=True) == json.loads(text)


def test_answers_are_frozen_and_travel_between_processes() -> None:
    prediction = Prediction(label=7, class_name="7")
    with pytest.raises(ValidationError, match="frozen"):
        prediction.label = 8
    assert pickle.loads(pickle.dumps(prediction)) == prediction


@pytest.mark.parametrize("p_value", ["NaN", "0", "-1", "1.5"])
def test_an_impossible_p_value_is_refused(p_value: str) -> None:
    risk = f'{{"decision": "accept", "flagged": false, "p_value": {p_value}}}'
    with pytest.raises(ValidationError, match="p_value"):
        Prediction.model_validate_json(f'{{"label": 7, "class_name": "7", "risk": {risk}}}')


def test_an_answer_without_predictions_is_none() -> None:
    with pytest.raises(ValidationError, match="predictions"):
        PredictResponse(model_name="m", model_version="1", predictions=())


arrays = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_]),
    shape=hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
    elements={"min_value": 0, "max_value": 100},
)


@given(arrays)
def test_a_tensor_keeps_values_shape_and_type(array: NDArray[np.generic]) -> None:
    tensor = Tensor.model_validate_json(Tensor.of("x", array).model_dump_json())
    again = np.array(tensor.tolist(), dtype=array.dtype)
    assert again.shape == array.shape or 0 in array.shape
    assert np.array_equal(again.reshape(array.shape), array)


def test_datatypes_of_numpy_and_torch() -> None:
    class FakeTorch:
        dtype = type("dtype", (), {"__str__": lambda self: "torch.float16"})()
        shape = (2,)

        def tolist(self) -> list[float]:
            return [0.0, 1.0]

    assert Tensor.of("x", FakeTorch()).datatype == "FP16"
    assert Tensor.of("x", np.zeros(1, np.uint16)).datatype == "UINT16"
    with pytest.raises(InvalidArgumentError, match="tensor 'x' has elements of type complex128"):
        Tensor.of("x", np.zeros(1, complex))


def test_nested_data_are_flattened_and_counted() -> None:
    tensor = Tensor.model_validate({"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [[1.0], [2.0]]})
    assert tensor.data == (1.0, 2.0)
    assert tensor.tolist() == [[1.0], [2.0]]
    with pytest.raises(ValidationError, match=r"shape \(3,\) has 2 values"):
        Tensor(name="x", datatype="FP32", shape=(3,), data=(1, 2))

"""What is sent to models of an image and a recording, and what must come back."""

import base64
import io
import wave
from typing import Any

import numpy as np
import orjson
import pytest
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Senses = dict[str, Floats]

PREDICT, INFER = "/v1/models/senses:predict", "/v2/models/senses/infer"
RADII = [f"{kind}_radius{of}" for kind in ("certified", "estimated") for of in ("", "_image", "_audio")]


def png(image: Floats) -> bytes:
    """A (1, 8, 8) input as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(np.rint(image[0] * 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def wav(samples: Floats, rate: int = 8000, channels: int = 1) -> bytes:
    """An (n,) input as a recording."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.repeat(np.rint(samples * 32768).astype("<i2"), channels).tobytes())
    return buffer.getvalue()


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def instances(seed: int, rows: int) -> Senses:
    """Inputs that files hold exactly: images of 8 bits, recordings of 16."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, 1, 8, 8)).astype(np.float32) / np.float32(255),
        "audio": (rng.integers(-30000, 30000, (rows, 80)) / 32768).astype(np.float32),
    }


def predict_body(sent: object) -> bytes:
    return orjson.dumps({"instances": sent})


def infer_body(inputs: Senses, **members: Any) -> bytes:
    tensors = [
        {"name": name, "shape": values.shape, "datatype": "FP32", "data": values.ravel().tolist()}
        for name, values in inputs.items()
    ]
    return orjson.dumps({"inputs": tensors, **members})


def infer_binary(inputs: Senses) -> tuple[bytes, dict[str, str]]:
    tensors = [
        {"name": n, "shape": v.shape, "datatype": "FP32", "parameters": {"binary_data_size": v.nbytes}}
        for n, v in inputs.items()
    ]
    head = orjson.dumps({"inputs": tensors})
    headers = {"inference_header_content_length": str(len(head)), "content_type": "application/octet-stream"}
    return head + b"".join(values.tobytes() for values in inputs.values()), headers


def check(prediction: dict[str, Any], expected: dict[str, NDArray[Any]], row: int) -> None:
    """A V1 answer for a row of what the graph answers."""
    assert prediction["label"] == expected["label"][row]
    assert prediction["risk"]["rank"] == expected["rank"][row]
    assert prediction["risk"]["p_value"] == pytest.approx(expected["p_value"][row], rel=1e-6)
    radius = prediction["radius"]
    assert (radius["norm"], radius["space"]) == ("l2", {"image": "pixels", "audio": "samples"})
    for kind in ("certified", "estimated"):
        assert radius[kind] == pytest.approx(expected[f"{kind}_radius"][row], rel=1e-4, abs=1e-6)
        for name in ("image", "audio"):
            assert radius["inputs"][name][kind] == pytest.approx(
                expected[f"{kind}_radius_{name}"][row], rel=1e-4, abs=1e-6
            )

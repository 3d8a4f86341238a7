"""How a batch of images travels to each kind of server and back: bodies, headers, and answers as arrays by name."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Images = NDArray[np.float32]
"""(N, C, H, W)."""
Answer = dict[str, NDArray[Any]]
"""Outputs by name, each with a row for each image."""

_JSON: Final = {"Content-Type": "application/json"}
_BYTES: Final = {"Content-Type": "application/octet-stream"}
_HEADER_LENGTH: Final = "Inference-Header-Content-Length"
_TYPES: Final = {"FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}


@dataclass(frozen=True)
class Request:
    """What is sent."""

    path: str
    headers: dict[str, str]
    body: bytes


class Codec(Protocol):
    """One server's form of requests and answers."""

    def encode(self, images: Images) -> Request:
        """Make the request for a batch."""

    def decode(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Read the answer to it; names of headers are in lower case."""


@dataclass(frozen=True)
class NestedJson:
    """`{"input": […]}` with one image as nested lists, answered by `{"output": […]}`."""

    path: str

    def encode(self, images: Images) -> Request:
        """Make the request for one image."""
        (image,) = images
        return Request(self.path, _JSON, _json({"input": image.tolist()}))

    def decode(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Read the logits."""
        return {"logits": np.array([json.loads(body)["output"]])}


@dataclass(frozen=True)
class RawBytes(NestedJson):
    """One image as its float32 values alone, answered as `NestedJson` is."""

    def encode(self, images: Images) -> Request:
        """Make the request for one image."""
        (image,) = images
        return Request(self.path, _BYTES, image.tobytes())


@dataclass(frozen=True)
class FlatJson:
    """`{"input": […]}` with one image as a flat list, answered by probabilities."""

    path: str

    def encode(self, images: Images) -> Request:
        """Make the request for one image."""
        (image,) = images
        return Request(self.path, _JSON, _json({"input": image.ravel().tolist()}))

    def decode(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Read the probabilities."""
        return {"probabilities": np.array([json.loads(body)["probabilities"]])}


@dataclass(frozen=True)
class BatchJson:
    """`{"input": […]}` with a batch as nested lists, answered by a list of logits."""

    path: str

    def encode(self, images: Images) -> Request:
        """Make the request."""
        return Request(self.path, _JSON, _json({"input": images.tolist()}))

    def decode(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Read the logits."""
        return {"logits": np.array(json.loads(body))}


@dataclass(frozen=True)
class V1Json:
    """KServe's V1 protocol as softrisk answers it."""

    path: str

    def encode(self, images: Images) -> Request:
        """Make the request."""
        return Request(self.path, _JSON, _json({"instances": images.tolist()}))

    def decode(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Read probabilities and risk."""
        predictions = json.loads(body)["predictions"]
        return {
            "probabilities": np.array([prediction["probabilities"] for prediction in predictions]),
            "rank": np.array([prediction["risk"]["rank"] for prediction in predictions]),
            "p_value": np.array([prediction["risk"]["p_value"] for prediction in predictions]),
        }


@dataclass(frozen=True)
class Npy(V1Json):
    """A `.npy` file, answered by V1."""

    def encode(self, images: Images) -> Request:
        """Make the request."""
        buffer = BytesIO()
        np.save(buffer, images)
        return Request(self.path, {"Content-Type": "application/x-npy"}, buffer.getvalue())


@dataclass(frozen=True)
class Png(V1Json):
    """One image as a PNG file, answered by V1."""

    def encode(self, images: Images) -> Request:
        """Make the request for one image of values in 256 levels."""
        (image,) = images
        pixels = (image * 255).round().astype(np.uint8)
        buffer = BytesIO()
        Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(buffer, "PNG")
        return Request(self.path, {"Content-Type": "image/png"}, buffer.getvalue())


@dataclass(frozen=True)
class V2Json:
    """Open Inference Protocol in JSON."""

    path: str
    outputs: tuple[str, ...] = ()
    """Those asked for; none for all."""

    def encode(self, images: Images) -> Request:
        """Make the request."""
        return Request(self.path, _JSON, _json(self._head(images, {"data": images.ravel().tolist()})))

    def decode(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Read all outputs."""
        return {
            output["name"]: np.array(output["data"]).reshape(output["shape"]) for output in json.loads(body)["outputs"]
        }

    def _head(self, images: Images, payload: dict[str, Any]) -> dict[str, Any]:
        head: dict[str, Any] = {
            "inputs": [{"name": "input", "shape": list(images.shape), "datatype": "FP32", **payload}]
        }
        if self.outputs:
            head["outputs"] = [{"name": name} for name in self.outputs]
        return head


@dataclass(frozen=True)
class V2Binary(V2Json):
    """Open Inference Protocol with Triton's binary tensors, in and out."""

    def encode(self, images: Images) -> Request:
        """Make the request."""
        head = self._head(images, {"parameters": {"binary_data_size": images.nbytes}})
        encoded = _json({**head, "parameters": {"binary_data_output": True}})
        return Request(self.path, {**_BYTES, _HEADER_LENGTH: str(len(encoded))}, encoded + images.tobytes())

    def decode(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """Read all outputs."""
        length = headers.get(_HEADER_LENGTH.lower())
        if length is None:
            return super().decode(headers, body)
        answer, start = {}, int(length)
        for output in json.loads(body[:start])["outputs"]:
            end = start + output["parameters"]["binary_data_size"]
            values: NDArray[Any] = np.frombuffer(body[start:end], _TYPES[output["datatype"]])
            answer[output["name"]] = values.reshape(output["shape"])
            start = end
        return answer


def model_version(headers: Mapping[str, str], body: bytes) -> int:
    """Version of the model that gave an answer by V1 or V2."""
    length = headers.get(_HEADER_LENGTH.lower())
    return int(json.loads(body[: int(length)] if length else body)["model_version"])


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()

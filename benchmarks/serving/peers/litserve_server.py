"""LitServe with batches, ZeroMQ between its processes, and no waiting window: the faster settings."""

from typing import Any

import litserve
import numpy as np
from benchmarks.serving.peers.session import PORT, open_session
from fastapi import Request


class Classifier(litserve.LitAPI):
    """Runs the model on the batches that LitServe makes."""

    def setup(self, device: str) -> None:
        """Open the model in the worker."""
        self._session = open_session()

    def decode_request(self, request: Request) -> Any:
        """Decode one image; by the annotation LitServe knows that JSON comes, and passes what it holds."""
        return np.asarray(request["input"], dtype=np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """Put images together."""
        return np.stack(inputs)

    def predict(self, images: Any) -> Any:
        """Classify a batch."""
        return self._session.run(None, {"input": images})[0]

    def unbatch(self, logits: Any) -> list[Any]:
        """Take a batch apart."""
        return list(logits)

    def encode_response(self, logits: Any) -> Any:
        """Encode one answer."""
        return {"output": logits.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Classifier(max_batch_size=64, batch_timeout=0), accelerator="cpu", workers_per_device=1, fast_queue=True
    )
    server.run(host="127.0.0.1", port=PORT, log_level="warning", access_log=False, generate_client_file=False)

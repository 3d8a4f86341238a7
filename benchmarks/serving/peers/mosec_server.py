"""mosec: its own JSON decoder, orjson in its place, or raw float32, by BENCH_DECODER."""

import os
from typing import Any

import numpy as np
import orjson
from benchmarks.serving.peers.session import SHAPE, open_session
from mosec import Server, Worker


class Classifier(Worker):
    """Runs the model on the batches that mosec makes."""

    def __init__(self) -> None:
        self._session = open_session()

    def deserialize(self, data: bytes) -> Any:
        """Decode one image."""
        match os.environ["BENCH_DECODER"]:
            case "raw":
                return np.frombuffer(data, np.float32).reshape(SHAPE)
            case "orjson":
                return np.array(orjson.loads(data)["input"], dtype=np.float32)
            case _:
                return np.asarray(super().deserialize(data)["input"], dtype=np.float32)

    def forward(self, data: list[Any]) -> list[Any]:
        """Classify a batch."""
        return [{"output": logits} for logits in self._session.run(None, {"input": np.stack(data)})[0].tolist()]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Classifier,
        num=int(os.environ["BENCH_WORKERS"]),
        max_batch_size=int(os.environ["BENCH_BATCH"]),
        max_wait_time=1,
    )
    server.run()

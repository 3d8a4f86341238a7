"""pytriton: Triton's HTTP front end and dynamic batching with a Python function behind them."""

from typing import Any

import numpy as np
from benchmarks.serving.peers.session import PORT, SHAPE, open_session
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

session = open_session()


@batch
def classify(input: Any) -> Any:
    """Classify a batch."""
    return {"logits": session.run(None, {"input": input})[0]}


if __name__ == "__main__":
    config = TritonConfig(http_address="127.0.0.1", http_port=PORT, grpc_port=PORT + 1, metrics_port=PORT + 2)
    with Triton(config=config) as triton:
        triton.bind(
            model_name="model",
            infer_func=classify,
            inputs=[Tensor(name="input", dtype=np.float32, shape=SHAPE)],
            outputs=[Tensor(name="logits", dtype=np.float32, shape=(10,))],
            config=ModelConfig(max_batch_size=64, batcher=DynamicBatcher(max_queue_delay_microseconds=100)),
            strict=False,
        )
        triton.serve()

"""What all peers share: the session, and where they are told to find the model and the port."""

import os
from typing import Any, Final

import numpy as np
import onnxruntime

SHAPE: Final = tuple(int(size) for size in os.environ["BENCH_SHAPE"].split(","))
"""Of one image."""
PORT: Final = int(os.environ["BENCH_PORT"])
MODEL: Final = os.environ["BENCH_MODEL"]
"""Path of the ONNX file."""


def open_session() -> Any:
    """A warm session, with the threads that suit the model and without spinning: both are faster than the defaults."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    session.run(None, {"input": np.zeros((1, *SHAPE), np.float32)})
    return session

"""BentoML with adaptive batching; its access log is off, as that of all servers here."""

import bentoml
import numpy as np
from benchmarks.serving.peers.session import open_session


@bentoml.service(workers=1, traffic={"timeout": 30, "max_concurrency": 1000}, logging={"access": {"enabled": False}})
class Classifier:
    """Runs the model on the batches that BentoML makes."""

    def __init__(self) -> None:
        self._session = open_session()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    def predict(self, input: np.ndarray) -> np.ndarray:
        """Classify a batch."""
        return self._session.run(None, {"input": np.asarray(input, dtype=np.float32)})[0]

"""MLServer with adaptive batching, in one process: its faster mode for small models."""

import asyncio

import numpy as np
from benchmarks.serving.peers.session import PORT, open_session
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Classifier(MLModel):
    """Runs the model on the batches that MLServer makes."""

    async def load(self) -> bool:
        """Open the model."""
        self._session = open_session()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classify a batch."""
        images = np.ascontiguousarray(NumpyCodec.decode_input(payload.inputs[0]), dtype=np.float32)
        logits = self._session.run(None, {"input": images})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", logits)])


async def main() -> None:
    """Serve on the free ports that follow the one that is asked for."""
    server = MLServer(
        Settings(
            host="127.0.0.1", http_port=PORT, grpc_port=PORT + 1, metrics_port=PORT + 2, parallel_workers=0, debug=False
        )
    )
    model = ModelSettings(name="model", implementation=Classifier, max_batch_size=64, max_batch_time=0.002)
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())

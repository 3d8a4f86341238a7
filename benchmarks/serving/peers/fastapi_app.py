"""FastAPI and onnxruntime as tutorials show them: a list of floats in, default options, no batching."""

import numpy as np
import onnxruntime
from benchmarks.serving.peers.session import MODEL, SHAPE
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])


class Image(BaseModel):
    """The request."""

    input: list[float]


class Prediction(BaseModel):
    """The answer."""

    label: int
    probabilities: list[float]


@app.post("/predict")
def predict(image: Image) -> Prediction:
    """Classify one image."""
    values = np.array(image.input, dtype=np.float32).reshape(1, *SHAPE)
    logits = session.run(None, {"input": values})[0][0]
    odds = np.exp(logits - logits.max())
    probabilities = odds / odds.sum()
    return Prediction(label=int(probabilities.argmax()), probabilities=probabilities.tolist())

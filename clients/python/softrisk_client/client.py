"""The synchronous client."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx2
import stamina

from softrisk_client import _requests, _responses, _retries
from softrisk_client.errors import TransportError
from softrisk_client.types import InferResponse, Instances, ModelMetadata, PredictResponse, Tensor


class Client:
    """Call a softrisk service; connections are kept and reused until the client is closed.

    ```python
    with Client("http://127.0.0.1:8000", model="mnist") as client:
        answer = client.predict([Path("seven.png")])
    ```

    Every method raises `SoftriskClientError`; the tree is in `softrisk_client.errors`.

    Args:
        base_url: Where the service is, path prefix included.
        model: The model that calls mean when they name none.
        timeout: Seconds that one attempt may wait to connect, to send, and for each part of the answer.
        attempts: How often a call is sent at most; 1 turns retries off.
        total_timeout: Seconds after which no further attempt begins.
        api_key: The caller's key, where the service asks for one; it decides what the answers disclose.
        headers: Sent with every request, such as a trace.
        transport: In place of the network, for tests.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        model: str | None = None,
        *,
        timeout: float = 10.0,
        attempts: int = 4,
        total_timeout: float = 45.0,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._model = model
        self._total_timeout = total_timeout
        self._retrying = stamina.RetryingCaller(attempts=attempts, timeout=total_timeout)
        sent = _requests.headers(api_key, headers)
        with _responses.translated(base_url):
            self._http = httpx2.Client(base_url=base_url, timeout=timeout, headers=sent, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(
        self,
        instances: Instances,
        *,
        model: str | None = None,
        version: int | None = None,
        alpha: float | None = None,
        guarantee: Literal["marginal", "confident"] | None = None,
        probabilities: bool | None = None,
    ) -> PredictResponse:
        """Classify one or several instances.

        Args:
            instances: One item per instance: an array or nested list in the model's input shape, an encoded file
                (PNG, JPEG, WAV) as bytes or by its path, or, for a model with several inputs, a dict of these by
                input name, such as `{"image": "7.png", "audio": "seven.wav"}`, without those that may be left out
                and are missing. A single file or dict will do too, and an array whose first axis is the batch.
            model: Name of the model, in place of the client's.
            version: Version of the model, in place of the highest.
            alpha: Level of `risk.flagged`, 1/(n+1) ≤ alpha < 1, in place of the service's.
            guarantee: Whether alpha bounds the expected rate of false alarms (`marginal`), or the rate itself
                with 95 % confidence over the draw of the calibration set (`confident`).
            probabilities: Whether the answer carries the probabilities of all classes.
        """
        return self._send(
            _requests.predict(
                instances,
                model=model or self._model,
                version=version,
                alpha=alpha,
                guarantee=guarantee,
                probabilities=probabilities,
            )
        )

    def predict_image(
        self, image: bytes | Path, *, model: str | None = None, version: int | None = None
    ) -> PredictResponse:
        """Classify one PNG or JPEG image, sent as it is; for several, or with parameters, see `predict`."""
        return self._send(_requests.predict_image(image, model=model or self._model, version=version))

    def infer(
        self,
        inputs: Sequence[Tensor],
        *,
        outputs: Sequence[str] | None = None,
        model: str | None = None,
        version: int | None = None,
        alpha: float | None = None,
    ) -> InferResponse:
        """Run the model's graph by the Open Inference Protocol (KServe V2).

        Args:
            inputs: The graph's inputs, batch axis first; `Tensor.of(name, array)` names an array.
            outputs: Names of the outputs wanted; all, where None.
            model: Name of the model, in place of the client's.
            version: Version of the model, in place of the highest.
            alpha: Level of the output `flagged`, in place of the service's.
        """
        return self._send(
            _requests.infer(inputs, outputs=outputs, model=model or self._model, version=version, alpha=alpha)
        )

    def models(self) -> tuple[str, ...]:
        """Return the names of the models served."""
        return self._send(_requests.models())

    def model(self, name: str | None = None) -> ModelMetadata:
        """Return the versions, inputs and outputs of a model."""
        return self._send(_requests.model(name or self._model))

    def ready(self) -> bool:
        """Ask once whether the service takes requests; False where it cannot be reached."""
        return self._probe("/v2/health/ready")

    def live(self) -> bool:
        """Ask once whether the process runs; False where it cannot be reached."""
        return self._probe("/v2/health/live")

    def _send(self, call: _requests.Call[_requests.Answer]) -> _requests.Answer:
        return self._retrying(_retries.backoff(self._total_timeout), self._attempt, call)

    def _attempt(self, call: _requests.Call[_requests.Answer]) -> _requests.Answer:
        with _responses.translated(self._http.base_url):
            # Not streamed: the body is read and the connection free again before an error can start a retry.
            response = self._http.request(call.method, call.path, content=call.content, headers=call.headers)
        return call.read(response)

    def _probe(self, path: str) -> bool:
        try:
            with _responses.translated(self._http.base_url):
                return self._http.get(path).status_code == httpx2.codes.OK
        except TransportError:
            return False

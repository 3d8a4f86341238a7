"""The asynchronous client: `Client` with `await`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx2
import stamina

from softrisk_client import _requests, _responses, _retries
from softrisk_client.errors import TransportError
from softrisk_client.types import InferResponse, Instances, ModelMetadata, PredictResponse, Tensor


class AsyncClient:
    """Call a softrisk service from asyncio or trio; arguments and methods are those of `Client`.

    ```python
    async with AsyncClient("http://127.0.0.1:8000", model="mnist") as client:
        answer = await client.predict([Path("seven.png")])
    ```
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
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._model = model
        self._total_timeout = total_timeout
        self._retrying = stamina.AsyncRetryingCaller(attempts=attempts, timeout=total_timeout)
        sent = _requests.headers(api_key, headers)
        with _responses.translated(base_url):
            self._http = httpx2.AsyncClient(base_url=base_url, timeout=timeout, headers=sent, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def predict(
        self,
        instances: Instances,
        *,
        model: str | None = None,
        version: int | None = None,
        alpha: float | None = None,
        guarantee: Literal["marginal", "confident"] | None = None,
        probabilities: bool | None = None,
    ) -> PredictResponse:
        """Classify one or several instances; see `Client.predict`."""
        return await self._send(
            _requests.predict(
                instances,
                model=model or self._model,
                version=version,
                alpha=alpha,
                guarantee=guarantee,
                probabilities=probabilities,
            )
        )

    async def predict_image(
        self, image: bytes | Path, *, model: str | None = None, version: int | None = None
    ) -> PredictResponse:
        """Classify one PNG or JPEG image, sent as it is; for several, or with parameters, see `predict`."""
        return await self._send(_requests.predict_image(image, model=model or self._model, version=version))

    async def infer(
        self,
        inputs: Sequence[Tensor],
        *,
        outputs: Sequence[str] | None = None,
        model: str | None = None,
        version: int | None = None,
        alpha: float | None = None,
    ) -> InferResponse:
        """Run the model's graph by the Open Inference Protocol; see `Client.infer`."""
        return await self._send(
            _requests.infer(inputs, outputs=outputs, model=model or self._model, version=version, alpha=alpha)
        )

    async def models(self) -> tuple[str, ...]:
        """Return the names of the models served."""
        return await self._send(_requests.models())

    async def model(self, name: str | None = None) -> ModelMetadata:
        """Return the versions, inputs and outputs of a model."""
        return await self._send(_requests.model(name or self._model))

    async def ready(self) -> bool:
        """Ask once whether the service takes requests; False where it cannot be reached."""
        return await self._probe("/v2/health/ready")

    async def live(self) -> bool:
        """Ask once whether the process runs; False where it cannot be reached."""
        return await self._probe("/v2/health/live")

    async def _send(self, call: _requests.Call[_requests.Answer]) -> _requests.Answer:
        return await self._retrying(_retries.backoff(self._total_timeout), self._attempt, call)

    async def _attempt(self, call: _requests.Call[_requests.Answer]) -> _requests.Answer:
        with _responses.translated(self._http.base_url):
            # Not streamed: the body is read and the connection free again before an error can start a retry.
            response = await self._http.request(call.method, call.path, content=call.content, headers=call.headers)
        return call.read(response)

    async def _probe(self, path: str) -> bool:
        try:
            with _responses.translated(self._http.base_url):
                return (await self._http.get(path)).status_code == httpx2.codes.OK
        except TransportError:
            return False

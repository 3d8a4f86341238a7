"""What both protocols do with an inference request: admit, read, decode, run, encode."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from softrisk_service.codecs.body import JSON, media_type, read_body
from softrisk_service.engine import Engine, ServedVersion
from softrisk_service.errors import ClientGoneError, DeadlineError
from softrisk_service.policy import risk_header
from softrisk_service.runtime import Inputs, Outputs
from softrisk_service.settings import Settings

RISK_HEADER: Final = "X-Adversarial-Risk"

# Longer JSON is decoded beside the event loop. (The parser holds the interpreter lock, numpy and Pillow do not.)
_INLINE_BYTES: Final = 64 * 1024


class Call(Protocol):
    """A decoded request, of either protocol."""

    @property
    def inputs(self) -> Inputs:
        """Valid inputs of the model."""

    @property
    def limit(self) -> int:
        """Largest flagged rank."""


C = TypeVar("C", bound=Call)


class Codec(Protocol[C]):
    """A module of `softrisk_service.codecs` that speaks a protocol."""

    @property
    def PROTOCOL(self) -> str:  # noqa: N802, RUF100 - modules spell constants so
        """Label in the metrics."""

    def decode(self, media: str, body: bytes, served: ServedVersion, max_instances: int) -> C:
        """From a body to a call."""

    def encode(self, call: C, outputs: Outputs, served: ServedVersion) -> bytes:
        """From the outputs to an answer."""


class Inference:
    """The way of every inference request through the service.

    Args:
        settings: Limits and deadline.
        engine: The models.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._settings = settings
        self._engine = engine
        # Few, so that images made to decode to a great size cannot fill the memory together.
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="softrisk-decode")

    def close(self) -> None:
        """Let go of the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request, codec: Codec[C], name: str, version: str | None = None) -> Response:
        """Answer an inference request.

        Args:
            request: With its body unread.
            codec: The protocol.
            name: Model name in the path.
            version: Version in the path, if there is one.

        Raises:
            RequestError: Whatever is wrong with the request, or with the moment.
            ClientGoneError: If the caller closed the connection while it waited.
        """
        record = request.state.record
        record.protocol = codec.PROTOCOL
        record.served = served = self._engine.find(name, version)
        served.batcher.check_room()
        stages = served.metrics.stages
        try:
            async with asyncio.timeout(self._settings.deadline_seconds):
                media = media_type(request)
                body = await read_body(request, self._settings.max_body_bytes)
                start = time.perf_counter()
                call = await self._decode(codec, media, body, served)
                stages["decode"].observe(time.perf_counter() - start)
                outputs = await _unless_gone(served.batcher.submit(call.inputs), request.receive)
        except TimeoutError as error:
            seconds = self._settings.deadline_seconds
            raise DeadlineError(f"no answer within {seconds:g} s, the server is overloaded; try again") from error
        start = time.perf_counter()
        content = codec.encode(call, outputs, served)
        risk = risk_header(outputs["rank"].tolist(), call.limit, served.policy.n)
        stages["encode"].observe(time.perf_counter() - start)
        return Response(content, headers={RISK_HEADER: risk}, media_type=JSON)

    async def _decode(self, codec: Codec[C], media: str, body: bytes, served: ServedVersion) -> C:
        arguments = (media, body, served, self._settings.max_instances)
        # A backslash could hide the letters b64, and with them an image.
        if media == JSON and len(body) <= _INLINE_BYTES and b"b64" not in body and b"\\" not in body:
            return codec.decode(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, codec.decode, *arguments)


async def _unless_gone(answer: asyncio.Future[Outputs], receive: Receive) -> Outputs:
    """Wait for an answer; withdraw the request if its caller hangs up, or if this task is cancelled."""
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGoneError
        return answer.result()
    finally:
        gone.cancel()
        answer.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

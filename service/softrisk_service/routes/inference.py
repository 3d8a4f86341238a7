"""What both protocols do with an inference request: admit, read, decode, run, encode."""

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.body import JSON, BodyBudget, media_type, read_body
from softrisk_service.engine import Engine, ServedVersion
from softrisk_service.errors import ClientGoneError, DeadlineError, SlowBodyError
from softrisk_service.policy import risk_header
from softrisk_service.runtime import Inputs, Outputs
from softrisk_service.settings import Settings

RISK_HEADER: Final = "X-Adversarial-Risk"

# Longer JSON is decoded beside the event loop. (The parser holds the interpreter lock, numpy and Pillow do not.)
_INLINE_BYTES: Final = 64 * 1024
# Answers of more values are written beside it, too.
_INLINE_VALUES: Final = 4096


class Call(Protocol):
    """A decoded request, of either protocol."""

    @property
    def inputs(self) -> Inputs:
        """Valid inputs of the model."""

    @property
    def limit(self) -> int:
        """Largest flagged rank."""


C = TypeVar("C", bound=Call)
T = TypeVar("T")


class Codec(Protocol[C]):
    """A module of `softrisk_service.codecs` that speaks a protocol."""

    @property
    def PROTOCOL(self) -> str:
        """Label in the metrics."""

    def decode(self, media: str, body: bytes, served: ServedVersion, allowance: Allowance) -> C:
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
        self._bodies = BodyBudget(settings.max_bodies_bytes)
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
        media = media_type(request)
        body = await self._read(request, media)
        allowance = Allowance(self._settings.max_instances, self._settings.max_pixels)
        seconds = self._settings.deadline_seconds
        try:
            async with asyncio.timeout(seconds):
                with _timed(served, "decode"):
                    call = await self._decode(request, codec, media, body, served, allowance)
                del body  # long, perhaps, and counted no more
                outputs = await _run(served, call.inputs, request.receive)
                with _timed(served, "encode"):
                    content = await _encode(codec, call, outputs, served)
        except TimeoutError as error:
            raise DeadlineError(f"no answer within {seconds:g} s, the server is overloaded; try again") from error
        finally:
            allowance.withdraw()
        risk = risk_header(outputs["rank"].tolist(), call.limit, served.policy.n)
        return Response(content, headers={RISK_HEADER: risk}, media_type=JSON)

    async def _read(self, request: Request, media: str) -> bytes:
        limit, seconds = self._settings.max_body_bytes, self._settings.deadline_seconds
        if media == JSON:
            limit = min(limit, self._settings.max_json_bytes)
        try:
            async with asyncio.timeout(seconds):
                return await read_body(request, limit, self._bodies)
        except TimeoutError as error:
            raise SlowBodyError(f"the body was not there within {seconds:g} s of the head") from error

    async def _decode(
        self, request: Request, codec: Codec[C], media: str, body: bytes, served: ServedVersion, allowance: Allowance
    ) -> C:
        def decode() -> C:
            try:
                allowance.check()
                return codec.decode(media, body, served, allowance)
            finally:
                self._bodies.give_back(len(body))

        # A backslash could hide the letters b64, and with them an image.
        if media == JSON and len(body) <= _INLINE_BYTES and b"b64" not in body and b"\\" not in body:
            return decode()
        decoding = asyncio.get_running_loop().run_in_executor(self._decoders, decode)
        # Never cancelled, since its end gives the body back; so its exception may find nobody who asks for it.
        decoding.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await _unless_gone(decoding, request.receive)


async def _run(served: ServedVersion, inputs: Inputs, receive: Receive) -> Outputs:
    answer = served.batcher.submit(inputs)
    try:
        return await _unless_gone(answer, receive)
    finally:
        answer.cancel()  # withdraws it from the queue


async def _encode(codec: Codec[C], call: C, outputs: Outputs, served: ServedVersion) -> bytes:
    if sum(array.size for array in outputs.values()) <= _INLINE_VALUES:
        return codec.encode(call, outputs, served)
    return await asyncio.to_thread(codec.encode, call, outputs, served)


@contextmanager
def _timed(served: ServedVersion, stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    served.metrics.stages[stage].observe(time.perf_counter() - start)


async def _unless_gone(answer: asyncio.Future[T], receive: Receive) -> T:
    """Wait for something as long as the caller is there."""
    gone = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGoneError
        return answer.result()
    finally:
        gone.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

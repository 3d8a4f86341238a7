"""The ordinary way of an inference request, through the ASGI application."""

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from softrisk_service.catalogue import ServedVersion
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.body import JSON, inflate, read_body
from softrisk_service.codecs.envelope import Envelope, read_envelope
from softrisk_service.errors import ClientGoneError, DeadlineError, SlowBodyError
from softrisk_service.inference import (
    HEADER_LENGTH,
    RISK_HEADER,
    Call,
    Inference,
    Target,
    decode,
    encode,
    is_quick,
    is_short,
)
from softrisk_service.outcome import Inputs, Rows
from softrisk_service.tickets import Outcome, Ticket

T = TypeVar("T")


class InferenceRoute:
    """Answers inference requests.

    Args:
        inference: The steps.
    """

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        # Few, so that images made to decode to a great size cannot fill the memory together.
        self._decoders = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="softrisk-decode")

    def close(self) -> None:
        """Let go of the threads."""
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def answer(self, request: Request, target: Target) -> Response:
        """Answer an inference request.

        Args:
            request: With its body unread.
            target: What its path asks for, and what its caller may see.

        Raises:
            RequestError: Whatever is wrong with the request, or with the moment.
            ClientGoneError: If the caller closed the connection while it waited.
        """
        served = self._inference.admit(target, request.state.record)
        headers = request.headers
        envelope = read_envelope(
            headers.get("content-type"), headers.get("content-encoding"), headers.get(HEADER_LENGTH)
        )
        body = await self._read(request, envelope)
        arrived = time.perf_counter()
        deadline = arrived + self._inference.settings.deadline_seconds
        allowance = self._inference.allowance()
        try:
            async with asyncio.timeout(deadline - time.perf_counter()):
                call = await self._decode(request, target, envelope, body, served, allowance)
        except TimeoutError as error:
            raise DeadlineError("the server is overloaded, the body was not decoded in time; try again") from error
        finally:
            allowance.withdraw()
        del body  # long, perhaps, and counted no more
        rows = await _run(served, call.inputs, deadline, request.receive)
        if is_short(call.inputs, served):
            answer, risk = encode(target, call, rows, served)
        else:
            answer, risk = await asyncio.to_thread(encode, target, call, rows, served)
        answer_headers = {"content-type": answer.media}
        if risk is not None:
            answer_headers[RISK_HEADER] = risk
        if answer.header_length is not None:
            answer_headers[HEADER_LENGTH] = str(answer.header_length)
        return Response(answer.content, headers=answer_headers)

    async def _read(self, request: Request, envelope: Envelope) -> bytes:
        settings = self._inference.settings
        seconds = settings.deadline_seconds
        try:
            async with asyncio.timeout(seconds):
                return await read_body(request, self._limit(envelope), self._inference.bodies)
        except TimeoutError as error:
            raise SlowBodyError(f"the body was not there within {seconds:g} s of the head") from error

    def _limit(self, envelope: Envelope) -> int:
        settings = self._inference.settings
        if envelope.media == JSON and envelope.header_length is None:
            return min(settings.max_body_bytes, settings.max_json_bytes)
        return settings.max_body_bytes

    async def _decode(
        self,
        request: Request,
        target: Target,
        envelope: Envelope,
        body: bytes,
        served: ServedVersion,
        allowance: Allowance,
    ) -> Call:
        def decode_body() -> Call:
            try:
                allowance.check()
                content = inflate(body, envelope.encoding, self._limit(envelope))
                return decode(target, envelope, content, served, allowance)
            finally:
                self._inference.bodies.give_back(len(body))

        if is_quick(target, envelope, body):
            return decode_body()
        decoding = asyncio.get_running_loop().run_in_executor(self._decoders, decode_body)
        # Never cancelled, since its end gives the body back; so its exception may find nobody who asks for it.
        decoding.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await _unless_gone(decoding, request.receive)


async def _run(served: ServedVersion, inputs: Inputs, deadline: float, receive: Receive) -> Rows:
    ticket = _FutureTicket()
    served.batcher.submit(ticket, inputs, deadline)
    try:
        return await _unless_gone(ticket.answer, receive)
    finally:
        ticket.withdraw()


class _FutureTicket(Ticket):
    """A ticket whose outcome can be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: asyncio.Future[Rows] = asyncio.get_running_loop().create_future()

    def deliver(self, outcome: Outcome) -> None:
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
        else:
            self.answer.set_result(outcome)


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

"""The body of a request: its bytes, never too many of them, unpacked, and its JSON."""

import asyncio
import gc
import threading
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import orjson
from starlette.requests import Request

from softrisk_service.errors import (
    BodiesFullError,
    InvalidInputError,
    MalformedError,
    MediaTypeError,
    RequestError,
    TooLargeError,
)

JSON: Final = "application/json"
OCTETS: Final = "application/octet-stream"

_DISCARDED_LIMITS: Final = 4
"""How much of a refused body is read and thrown away, in multiples of the limit."""
_DISCARDING_SECONDS: Final = 2.0
"""And for how long."""


def not_accepted(media: str, accepted: Iterable[str]) -> MediaTypeError:
    """The refusal of a media type.

    Args:
        media: As the request named it.
        accepted: What it could have been.
    """
    # What curl -d sends unless told otherwise.
    hint = f"; for JSON, curl needs -H 'Content-Type: {JSON}'" if media == "application/x-www-form-urlencoded" else ""
    return MediaTypeError(f"the media type {media[:100]!r} is not accepted here; accepted: {', '.join(accepted)}{hint}")


class BodyBudget:
    """Bytes of bodies held at a time by all requests together, from arrival until they are decoded.

    Bodies are given back by the threads that decode them, hence the lock.

    Args:
        limit: Most bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._lock = threading.Lock()

    def check(self, size: int) -> None:
        """Refuse early a body that would not fit now.

        Raises:
            BodiesFullError: If it would not.
        """
        if self._held + size > self._limit:
            raise BodiesFullError(f"{self._held} bytes of other requests are being received and decoded; try again")

    def take(self, size: int) -> None:
        """Hold more bytes.

        Raises:
            BodiesFullError: If they do not fit.
        """
        with self._lock:
            self.check(size)
            self._held += size

    def give_back(self, size: int) -> None:
        """Hold fewer."""
        with self._lock:
            self._held -= size


async def read_body(request: Request, limit: int, budget: BodyBudget) -> bytes:
    """The whole body, never holding more than a limit; its length has been taken from the budget.

    Raises:
        TooLargeError: If it is longer than `limit` bytes, announced or not.
        BodiesFullError: If the budget is used up.
    """
    chunks = request.stream()
    try:
        _check_announced(request, limit, budget)
        return await _collected(chunks, limit, budget)
    except RequestError:
        if "expect" not in request.headers:  # else the caller sends nothing before it is told to go on
            await _discard(chunks, _DISCARDED_LIMITS * limit)
        raise


def _check_announced(request: Request, limit: int, budget: BodyBudget) -> None:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal():
        if len(announced) > 18 or int(announced) > limit:
            raise TooLargeError(f"the body has {announced[:18]} bytes, more than the {limit} that are accepted")
        # Not taken yet: those who announce much and send nothing would lock the others out for nothing.
        budget.check(int(announced))


async def _collected(chunks: AsyncIterator[bytes], limit: int, budget: BodyBudget) -> bytes:
    body = bytearray()
    try:
        async for chunk in chunks:
            if len(body) + len(chunk) > limit:
                raise TooLargeError(f"the body is longer than the {limit} bytes that are accepted")
            budget.take(len(chunk))
            body += chunk
        return bytes(body)
    except BaseException:
        budget.give_back(len(body))
        body.clear()  # which the exception, holding this frame, would keep
        raise


async def _discard(chunks: AsyncIterator[bytes], size: int) -> None:
    """Read on: most callers look for an answer when all is sent, and would find the connection reset instead."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DISCARDING_SECONDS):
            async for chunk in chunks:
                size -= len(chunk)
                if size < 0:
                    return


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The body that was packed; small bodies can unpack to great ones, so never more than a limit.

    Args:
        body: As it came.
        encoding: `identity`, `gzip`, or `deflate`: in a zlib wrapper (RFC 9110), or bare, as some clients send it.
        limit: Most bytes of the result.

    Raises:
        TooLargeError: If it is longer.
        MalformedError: If it is packed in another way, damaged, cut off, or followed by something else.
    """
    if encoding == "identity":
        return body
    if encoding == "gzip":
        window = 16 + zlib.MAX_WBITS
    else:
        # A zlib wrapper names the method 8 in its first byte, and its first two bytes are a multiple of 31 (RFC 1950).
        wrapped = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2]) % 31 == 0
        window = zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS
    unpacking = zlib.decompressobj(window)
    try:
        # One more than the limit tells a body of exactly that length from a longer one.
        unpacked = unpacking.decompress(body, limit + 1)
    except zlib.error as error:
        raise MalformedError(f"the body is not valid {encoding}: {error}") from error
    if len(unpacked) > limit:
        raise TooLargeError(f"the body unpacks to more than the {limit} bytes that are accepted")
    if not unpacking.eof:
        raise MalformedError(f"the body is not valid {encoding}: it is cut off")
    if unpacking.unused_data:
        raise MalformedError(f"{len(unpacking.unused_data)} bytes follow the end of the {encoding} body")
    return unpacked


def parse_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        MalformedError: If it is not JSON (which has no NaN and no Infinity), or nested too deeply.
        InvalidInputError: If it is JSON but no object, or holds a number beyond float64.
    """
    try:
        with _no_garbage_collection():
            document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("number is infinity"):  # such as 1e999: JSON, but no number a tensor can hold
            raise InvalidInputError("the body holds a number that overflows") from error
        raise MalformedError(f"the body is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidInputError("the body must be a JSON object")
    return document


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of small lists make the collector run again and again, which stops all threads four times as long."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

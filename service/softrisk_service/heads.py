"""Heads of inference requests that can go the short way."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from softrisk_service.codecs import v1, v2
from softrisk_service.codecs.body import JSON
from softrisk_service.codecs.envelope import Envelope, read_envelope
from softrisk_service.disclosure import Disclosure
from softrisk_service.errors import RequestError
from softrisk_service.inference import HEADER_LENGTH, Codec, Target, is_quick

_LONGEST_VALUE: Final = 512
"""Of what is remembered between requests."""

_V1: Final = re.compile(rb"/v1/models/([A-Za-z0-9._-]+)(?:/versions/([0-9]+))?:predict")
_V2: Final = re.compile(rb"/v2/models/([A-Za-z0-9._-]+)(?:/versions/([0-9]+))?/infer")

_LENGTH: Final = b"content-length"
_TYPE: Final = b"content-type"
_BINARY: Final = HEADER_LENGTH.lower().encode()
_REQUEST_ID: Final = b"x-request-id"
_AUTHORIZATION: Final = b"authorization"
_READ: Final = frozenset((_LENGTH, _TYPE, _BINARY, _REQUEST_ID, _AUTHORIZATION))
# These ask for something beyond a body of known length, read at once and answered at once.
_NOT_PLAIN: Final = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))


@dataclass(frozen=True, slots=True)
class Head:
    """What a plain head says.

    Attributes:
        url: As it came.
        headers: As they came.
        target: What the path asks for, and what the caller may see.
        envelope: How the body is to be read.
        length: Of the body.
        request_id: The caller's.
        is_quick: Whether any body of this length is decoded at once; else it has to be looked at.
    """

    url: bytes
    headers: list[tuple[bytes, bytes]]
    target: Target
    envelope: Envelope
    length: int
    request_id: str | None
    is_quick: bool


def read_head(
    url: bytes,
    headers: list[tuple[bytes, bytes]],
    longest_json: int,
    longest_binary: int,
    disclosure: Callable[[str | None], Disclosure],
) -> Head | None:
    """Read a plain head: the path of a model, a body of known and moderate length, and nothing special asked for.

    Args:
        url: The request's target.
        headers: Names in lower case.
        longest_json: Longest body.
        longest_binary: Longest body with binary tensors.
        disclosure: What a caller with some `Authorization` may see; raises `RequestError` if it is refused.

    Returns:
        None if it is not plain; one that is refused is not.
    """
    # Long ones would fill the caches of what was read before.
    if len(url) > _LONGEST_VALUE or (path := _path(url)) is None:
        return None
    read: dict[bytes, str] = {}
    for name, value in headers:
        if name in _READ:
            if name in read or len(value) > _LONGEST_VALUE:
                return None
            read[name] = value.decode("latin-1")
        elif name in _NOT_PLAIN or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
    length = read.get(_LENGTH, "")
    longest = longest_binary if _BINARY in read else longest_json
    if not length.isdecimal() or int(length) > longest:
        return None
    try:
        target = Target(*path, disclosure(read.get(_AUTHORIZATION)))
        envelope = read_envelope(read.get(_TYPE), None, read.get(_BINARY))
    except RequestError:
        return None
    quick = is_quick(target, envelope, b"") and not (target.codec.TAKES_FILES and envelope.media == JSON)
    return Head(url, headers, target, envelope, int(length), read.get(_REQUEST_ID), quick)


@lru_cache(maxsize=1024)
def _path(url: bytes) -> tuple[Codec, str, str | None] | None:
    for pattern, codec in ((_V2, v2), (_V1, v1)):
        if match := pattern.fullmatch(url):
            name, version = match.groups()
            return codec, name.decode(), None if version is None else version.decode()
    return None

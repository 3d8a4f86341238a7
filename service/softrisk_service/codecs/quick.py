"""The short way for the commonest JSON body: small but for one array of numbers.

The array is cut out and parsed straight into a buffer. What is left, the skeleton, is the same for request after
request: a codec validates it once and remembers what it says. Whatever is not plain here is left to the codec's
strict way, so that rules and messages exist once.
"""

import math
import re
from itertools import chain
from typing import Any, Final

import numpy as np
import simdjson
from numpy.typing import NDArray

MAX_SKELETON: Final = 4096
"""Longer ones are not remembered, nor are longer headers of binary tensors."""

_ID: Final = re.compile(rb'"id"\s*:\s*"([^"\\\x00-\x1f]*)"')
_OPENING: Final = ord("[")
# simdjson's own have no common root; an object without length or buffer is no array.
_ERRORS: Final = (ValueError, RuntimeError, TypeError, AttributeError)


class Member:
    """A member of a JSON object whose value is an array of numbers.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        self._name = re.compile(rb'"%b"\s*:' % name.encode())
        self._start = re.compile(rb'"%b"\s*:\s*\[' % name.encode())

    def cut(self, body: bytes) -> tuple[bytes, bytes] | None:
        """Cut the array out of a body.

        If the skeleton is valid JSON, the name in it is that of a member, the only one of this name, and its value is
        what was cut out: without backslashes a quotation mark begins or ends a string, there are no other ways to
        write the name, and a colon follows nothing but the name of a member.

        Returns:
            The skeleton, with an empty array, and the text of the array; or None if this is not so simple.
        """
        found = self._start.search(body)
        if found is None:
            return None
        start = found.end() - 1
        # Neither occurs in an array of numbers, and one of them follows it soon.
        brace, quote = body.find(b"}", start), body.find(b'"', start)
        end = body.rfind(b"]", start, min(brace, quote) if quote >= 0 else brace) + 1
        if not end or start + len(body) - end > MAX_SKELETON:
            return None
        skeleton = body[:start] + b"[]" + body[end:]
        if b"\\" in skeleton or len(self._name.findall(skeleton)) != 1:
            return None
        return skeleton, body[start:end]


def without_id(text: bytes) -> tuple[bytes, str | None]:
    """Empty the member `id`, which may differ from request to request.

    Args:
        text: JSON.

    Returns:
        The text with the empty `id`, and the `id`; or the text as it is and None, if there is no member of that name
        or it cannot be told so simply.
    """
    if len(text) > MAX_SKELETON or text.count(b'"id"') != 1 or b"\\" in text:
        return text, None
    found = _ID.search(text)
    if found is None:
        return text, None
    start, stop = found.span(1)
    try:
        return text[:start] + text[stop:], text[start:stop].decode()
    except UnicodeDecodeError:
        return text, None


def numbers(text: bytes, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """An array of numbers, flat or nested.

    Args:
        text: JSON.
        shape: What it must have, if it is nested, or is to be given.

    Returns:
        Of that shape, values outside float32 as ±∞; or None if it is anything else.
    """
    if text.find(b"[", 1) >= 0:
        array = nested_numbers(text, shape[1:], shape[0])
        return None if array is None or len(array) != shape[0] else array
    try:
        values = _values(simdjson.Parser().parse(text), math.prod(shape))
    except _ERRORS:
        return None
    return None if values is None else values.reshape(shape)


def nested_numbers(text: bytes, instance_shape: tuple[int, ...], most: int) -> NDArray[np.float32] | None:
    """Nested arrays of numbers.

    simdjson's buffer takes nested arrays for one flat array, so they are measured beforehand: all of a level have
    the right length, and there are no more of them than these.

    Args:
        text: JSON.
        instance_shape: What each element of the outermost array must have.
        most: Most elements of the outermost array.

    Returns:
        Shape (B, *instance_shape), B ≥ 1, values outside float32 as ±∞; or None if it is anything else.
    """
    try:
        parsed: Any = simdjson.Parser().parse(text)
        rows = len(parsed)
        if not 0 < rows <= most:
            return None
        arrays, opened = [parsed], 1
        for size in instance_shape:
            arrays = list(chain.from_iterable(arrays))
            if set(map(len, arrays)) != {size}:
                return None
            opened += len(arrays)
        if np.count_nonzero(np.frombuffer(text, np.uint8) == _OPENING) != opened:
            return None
        values = _values(parsed, rows * math.prod(instance_shape))
    except _ERRORS:
        return None
    return None if values is None else values.reshape(rows, *instance_shape)


def _values(parsed: Any, count: int) -> NDArray[np.float32] | None:
    values = np.frombuffer(parsed.as_buffer(of_type="d"))
    if values.size != count:
        return None
    with np.errstate(over="ignore"):
        return values.astype(np.float32)

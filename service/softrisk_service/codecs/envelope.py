"""What the headers of a request say about its body, and those of an answer."""

from typing import Final, NamedTuple

from softrisk_service.codecs.body import JSON
from softrisk_service.errors import MalformedError, MediaTypeError

_ENCODINGS: Final = {
    "": "identity", "identity": "identity", "gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate",
}  # fmt: skip


class Envelope(NamedTuple):
    """Headers that decide how a body is read.

    Attributes:
        media: Media type, lower case, without parameters; JSON if the request names none.
        encoding: `identity`, `gzip` or `deflate`.
        header_length: `Inference-Header-Content-Length`: bytes of JSON before the binary tensors; None without any.
    """

    media: str
    encoding: str
    header_length: int | None


class Answer(NamedTuple):
    """A body and what its headers say.

    Attributes:
        content: The body.
        media: Its media type.
        header_length: Bytes of JSON before the binary tensors; None without any.
    """

    content: bytes
    media: str = JSON
    header_length: int | None = None


def read_envelope(content_type: str | None, content_encoding: str | None, inference_header: str | None) -> Envelope:
    """Read the headers.

    Args:
        content_type: Value of `Content-Type`, None without one: JSON, as the protocols' clients mean it.
        content_encoding: Value of `Content-Encoding`.
        inference_header: Value of `Inference-Header-Content-Length`.

    Raises:
        MediaTypeError: If the encoding is another one, or several on top of each other.
        MalformedError: If the length is no number.
    """
    encoding = _ENCODINGS.get((content_encoding or "").strip().lower())
    if encoding is None:
        raise MediaTypeError(f"the encoding {str(content_encoding)[:100]!r} is not accepted; accepted: gzip, deflate")
    length = None
    if inference_header is not None:
        # Bounded: a length of thousands of digits would take long to convert.
        if not (inference_header.isascii() and inference_header.isdecimal() and len(inference_header) <= 18):
            raise MalformedError(f"Inference-Header-Content-Length: expected a number, got {inference_header[:100]!r}")
        length = int(inference_header)
    media = JSON if content_type is None else content_type.partition(";")[0].strip().lower()
    return Envelope(media, encoding, length)

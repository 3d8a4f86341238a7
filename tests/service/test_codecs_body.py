"""Packed bodies, and what headers say about a body."""

import contextlib
import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softrisk_service.codecs.body import inflate
from softrisk_service.codecs.envelope import Envelope, read_envelope
from softrisk_service.errors import MalformedError, MediaTypeError, TooLargeError


def bare(data: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(data) + packing.flush()


PACKINGS = [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", bare)]


def bomb(encoding: str) -> bytes:
    """A gigabyte of zeros, in a megabyte."""
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = packing.compress(bytes(2**24)) + packing.flush(zlib.Z_FULL_FLUSH)
    return {"gzip": gzip.compress(b"")[:10], "deflate": zlib.compress(b"")[:2]}[encoding] + 64 * block


@given(st.binary(max_size=2000) | st.binary(max_size=20).map(lambda part: part * 500), st.sampled_from(PACKINGS))
def test_what_was_packed_is_unpacked(data: bytes, packing: tuple[str, object]) -> None:
    encoding, pack = packing
    packed = pack(data)  # type: ignore[operator] # one of three functions
    assert inflate(packed, encoding, len(data)) == data
    assert inflate(data, "identity", 0) == data
    if data:
        with pytest.raises(TooLargeError, match=f"more than the {len(data) - 1} bytes"):
            inflate(packed, encoding, len(data) - 1)


@pytest.mark.parametrize(("encoding", "pack"), PACKINGS)
def test_what_is_damaged_or_followed_by_something_is_malformed(encoding: str, pack: object) -> None:
    data = bytes(range(256)) * 20
    packed = pack(data)  # type: ignore[operator] # one of three functions
    for cut in (1, 4, len(packed) // 2):
        with pytest.raises(MalformedError, match=f"not valid {encoding}: it is cut off"):
            inflate(packed[:-cut], encoding, len(data))
    for behind in (b"\0", packed):
        with pytest.raises(MalformedError, match=f"{len(behind)} bytes follow the end of the {encoding} body"):
            inflate(packed + behind, encoding, len(data))
    for other in (b"", b"\xff" * 20, data):
        with pytest.raises(MalformedError, match=f"not valid {encoding}"):
            inflate(other, encoding, len(data))


def test_a_wrong_checksum_is_malformed() -> None:
    for encoding, pack in PACKINGS[:2]:
        packed = bytearray(pack(b"softrisk" * 9))  # type: ignore[operator] # one of two functions
        packed[-6 if encoding == "gzip" else -1] ^= 1
        with pytest.raises(MalformedError, match=f"not valid {encoding}"):
            inflate(bytes(packed), encoding, 100)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]))
def test_anything_is_unpacked_or_refused(data: bytes, encoding: str) -> None:
    with contextlib.suppress(MalformedError, TooLargeError):
        assert len(inflate(data, encoding, 50)) <= 50


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_takes_no_more_memory_than_the_limit(encoding: str) -> None:
    packed = bomb(encoding)
    assert len(packed) < 2**21
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            inflate(packed, encoding, 2**20)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * 2**20


@pytest.mark.parametrize(
    ("headers", "envelope"),
    [
        ((None, None, None), ("application/json", "identity", None)),
        (("Application/JSON; charset=utf-8", "", None), ("application/json", "identity", None)),
        (("application/octet-stream", "GZIP", "0"), ("application/octet-stream", "gzip", 0)),
        (("", " x-gzip ", "007"), ("", "gzip", 7)),
        ((None, "deflate", "9" * 18), ("application/json", "deflate", 10**18 - 1)),
    ],
)
def test_headers_are_read(headers: tuple[str | None, str | None, str | None], envelope: tuple[str, str, int]) -> None:
    assert read_envelope(*headers) == Envelope(*envelope)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "gzip, deflate", "identity, gzip", "zstd" * 99])
def test_other_encodings_are_not_accepted(encoding: str) -> None:
    with pytest.raises(MediaTypeError, match="accepted: gzip, deflate") as caught:
        read_envelope(None, encoding, None)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "length", ["", "-1", "+1", "1.0", " 1", "1 ", "0x10", "1e3", "²", "١", "9" * 19, "9" * 9999, "1, 1"]
)
def test_lengths_are_plain_numbers(length: str) -> None:
    with pytest.raises(MalformedError, match="Inference-Header-Content-Length: expected a number") as caught:
        read_envelope(None, None, length)
    assert len(str(caught.value)) < 200

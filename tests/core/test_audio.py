"""Recordings: what is in a WAV file comes out, and everything else is refused with a reason."""

import io
import struct
import wave

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from softrisk_core.audio import MAX_CHUNKS, decode_audio
from softrisk_core.errors import AudioError

RATE = 8000
LENGTH = 20
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def form(tag: int, bits: int, channels: int = 1, rate: int = RATE) -> bytes:
    width = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate, rate * width, width, bits)


def riff(*chunks: bytes) -> bytes:
    content = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def recording(coded: bytes, tag: int = PCM, bits: int = 16, channels: int = 1, rate: int = RATE) -> bytes:
    return riff(chunk(b"fmt ", form(tag, bits, channels, rate)), chunk(b"data", coded))


def decode(data: bytes, samples: int = LENGTH) -> NDArray[np.float32]:
    return decode_audio(data, sample_rate=RATE, samples=samples)


def by_library(samples: NDArray[np.integer], width: int) -> bytes:
    """The same recording as Python's own library writes it."""
    coded = {
        1: lambda: (samples + 128).astype("<u1"),
        2: lambda: samples.astype("<i2"),
        4: lambda: samples.astype("<i4"),
    }
    content = coded[width]().tobytes() if width != 3 else samples.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(width)
        writer.setframerate(RATE)
        writer.writeframes(bytes(content) if width != 3 else np.ascontiguousarray(content).tobytes())
    return file.getvalue()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@given(data=st.data())
def test_integers_become_their_share_of_the_largest_magnitude(width: int, data: st.DataObject) -> None:
    largest = 2 ** (8 * width - 1)
    values = data.draw(st.lists(st.integers(-largest, largest - 1), min_size=1, max_size=LENGTH).filter(any))
    found = decode(by_library(np.array(values), width))
    np.testing.assert_array_equal(found[: len(values)], (np.array(values) / largest).astype(np.float32))
    np.testing.assert_array_equal(found[len(values) :], 0)
    assert found.dtype == np.float32
    assert found.shape == (LENGTH,)


@pytest.mark.parametrize("bits", [32, 64])
def test_floats_are_taken_as_they_are(bits: int) -> None:
    values = np.linspace(-1, 1, LENGTH).astype(f"<f{bits // 8}")
    np.testing.assert_array_equal(decode(recording(values.tobytes(), FLOAT, bits)), values.astype(np.float32))


def test_the_extensible_format_and_other_chunks_are_understood() -> None:
    values = np.array([-4194304, 8388607], "<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    extension = struct.pack("<HHIH14s", 22, 24, 4, PCM, b"\0" * 14)
    data = riff(
        chunk(b"LIST", b"odd"), chunk(b"fmt ", form(EXTENSIBLE, 24) + extension), chunk(b"data", values), b"trailing"
    )
    np.testing.assert_allclose(decode(data)[:3], [-0.5, 1, 0], atol=1e-6)


def test_a_longer_recording_is_refused_or_cut_as_the_model_says() -> None:
    values = np.arange(1, LENGTH + 11, dtype="<i2")
    data = recording(values.tobytes())
    with pytest.raises(AudioError, match=r"30 samples, 0\.00375 s, and the model takes at most 20, 0\.0025 s"):
        decode(data)
    found = decode_audio(data, sample_rate=RATE, samples=LENGTH, longer="crop")
    np.testing.assert_array_equal(found, values[:LENGTH] / np.float32(32768))


def test_silence_is_a_recording_only_where_none_is_needed() -> None:
    data = recording(b"\0" * 10)
    with pytest.raises(AudioError, match="silent: all samples are zero"):
        decode(data)
    assert not decode_audio(data, sample_rate=RATE, samples=LENGTH, silence=True).any()


GOOD = recording(np.arange(1, 6, dtype="<i2").tobytes())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a WAV file"),
        (b"OggS" + b"\0" * 60, "not a WAV file"),
        (GOOD.replace(b"WAVE", b"AVI "), "not a WAV file"),
        (GOOD[:-3], "truncated: a chunk of 10 bytes has 7 left"),
        (GOOD[:30], "truncated: a chunk of 16 bytes has 10 left"),
        (GOOD.replace(b"data" + (10).to_bytes(4, "little"), b"data" + b"\xff" * 4), "as if written to a pipe"),
        (GOOD[:36], "no samples"),
        (riff(chunk(b"data", b"\1\0")), "samples come before their format"),
        (riff(chunk(b"fmt ", b"\1\0"), chunk(b"data", b"\1\0")), "format is incomplete"),
        (riff(chunk(b"fmt ", form(EXTENSIBLE, 16)), chunk(b"data", b"\1\0")), "format is incomplete"),
        (recording(b""), "empty"),
        (recording(b"\1"), "empty"),
        (recording(b"\1\0\1\0", channels=2), "2 channels, .* mix them to mono"),
        (recording(b"\1\0", channels=0), "0 channels"),
        (recording(b"\1\0", rate=44100), "44100 samples a second, and the model takes 8000: resample"),
        (recording(b"\1\0", bits=12), "format 1 with 12 bits"),
        (recording(b"\1\0", tag=0x55), "format 85 with 16 bits"),
        (recording(b"\1\0", tag=FLOAT), "format 3 with 16 bits"),
        (recording(np.array([1.5], "<f4").tobytes(), FLOAT, 32), r"outside \[-1, 1\]"),
        (recording(np.array([np.nan], "<f4").tobytes(), FLOAT, 32), r"outside \[-1, 1\]"),
        (recording(np.array([1e300], "<f8").tobytes(), FLOAT, 64), r"outside \[-1, 1\]"),
        (recording(b"\1\0\0\0\0\0\xf0\x7f", FLOAT, 64), r"outside \[-1, 1\]"),  # a signalling NaN
        (riff(*[chunk(b"junk", b"")] * MAX_CHUNKS, GOOD[12:]), "behind too many other chunks"),
    ],
)
def test_what_is_no_recording_for_the_model_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(AudioError, match=said):
        decode(data)


@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=8)).map(
        lambda change: GOOD[: change[0]] + change[1] + GOOD[change[0] + len(change[1]) :]
    )
)
def test_no_bytes_provoke_anything_but_a_recording_or_a_reason(data: bytes) -> None:
    try:
        found = decode(data)
    except AudioError:
        return
    assert np.abs(found).max() <= 1


def test_a_header_that_claims_much_costs_nothing() -> None:
    claiming = bytearray(GOOD)
    claiming[40:44] = struct.pack("<I", 2**32 - 2)
    with pytest.raises(AudioError, match="a chunk of 4,294,967,294 bytes has 10 left"):
        decode(bytes(claiming))

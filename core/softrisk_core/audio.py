"""Encoded recordings to samples: the one place where it happens, for training data and for requests alike.

WAV is read here because the standard library's `wave` knows no floats and, before Python 3.12, no extensible format,
which is what most 24-bit files have. Nothing that a header claims is believed further than the bytes that are
there, and no more of them is converted than the model takes.
"""

import struct
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from softrisk_core.errors import AudioError

MAX_CHUNKS: Final = 100
"""Most chunks before the samples. Files have a handful; each one in a file made to be slow costs a look."""

STREAMED: Final = 0xFFFFFFFF
"""What stands in place of a length where a program writes to a pipe, and cannot come back to fill it in."""

_PCM: Final = 1
_FLOAT: Final = 3
_EXTENSIBLE: Final = 0xFFFE
"""Format tags (Multimedia Programming Interface and Data Specifications 1.0; `mmreg.h`). An extensible format has its
real tag in the first two bytes of the 16 that end it."""

_CODINGS: Final = {(_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)}


@dataclass(frozen=True)
class _Format:
    tag: int
    channels: int
    sample_rate: int
    bits: int


def decode_audio(
    data: bytes,
    *,
    sample_rate: int,
    samples: int,
    longer: Literal["refuse", "crop"] = "refuse",
    silence: bool = False,
) -> NDArray[np.float32]:
    """Samples of a WAV file.

    Args:
        data: The whole file: PCM of 8, 16, 24 or 32 bits, or float of 32 or 64.
        sample_rate: Samples a second that it must have; nothing is resampled.
        samples: How many are wanted. A shorter recording is followed by zeros.
        longer: Whether a longer recording is refused, or its beginning is taken.
        silence: Whether a recording of nothing but zeros is accepted. To a model it is the same as no recording, so
            that it makes sense only for an input that may be left out.

    Returns:
        Shape (samples,), values in [−1, 1]: PCM divided by its largest magnitude, 2^(bits − 1).

    Raises:
        AudioError: If the data is no WAV file or a damaged one, is coded otherwise, has several channels or another
            rate, holds no sample, is too long, silent, or has values outside [−1, 1].
    """
    form, content = _chunks(data)
    if (form.tag, form.bits) not in _CODINGS:
        raise AudioError(
            f"the recording is coded as WAV format {form.tag} with {form.bits} bits; convert it to PCM of 8, 16, 24 or "
            "32 bits, or to float of 32 or 64"
        )
    if form.channels != 1:
        raise AudioError(f"the recording has {form.channels} channels, and the model takes one: mix them to mono")
    if form.sample_rate != sample_rate:
        raise AudioError(
            f"the recording has {form.sample_rate} samples a second, and the model takes {sample_rate}: resample it"
        )
    width = form.bits // 8
    if len(content) < width:
        raise AudioError("the recording is empty: it holds no sample")
    found = len(content) // width
    if found > samples and longer == "refuse":
        raise AudioError(
            f"the recording has {found:,} samples, {found / sample_rate:.3g} s, and the model takes at most "
            f"{samples:,}, {samples / sample_rate:.3g} s: cut it"
        )
    recorded = _values(bytes(content[: min(found, samples) * width]), form)
    if not np.abs(recorded).max() <= 1:  # written so that a NaN fails, too
        raise AudioError("the recording has values outside [-1, 1], or that are no numbers: scale it")
    if not silence and not recorded.any():
        raise AudioError("the recording is silent: all samples are zero, which says no more than no recording at all")
    padded = np.zeros(samples, np.float32)
    padded[: len(recorded)] = recorded
    return padded


def _chunks(data: bytes) -> tuple[_Format, memoryview]:
    """The format and the coded samples of a RIFF file."""
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise AudioError("the data is not a WAV file")
    form, start = None, 12
    for _ in range(MAX_CHUNKS):
        if len(data) < start + 8:
            break
        name, size = struct.unpack_from("<4sI", data, start)
        content = memoryview(data)[start + 8 : start + 8 + size]
        if size == STREAMED:
            raise AudioError("the recording has no length, as if written to a pipe: write it to a file")
        if len(content) < size:
            raise AudioError(f"the recording is truncated: a chunk of {size:,} bytes has {len(content):,} left")
        if name == b"fmt ":
            form = _format(content)
        elif name == b"data":
            if form is None:
                raise AudioError("the recording is damaged: its samples come before their format")
            return form, content
        start += 8 + size + size % 2  # chunks begin at even places
    raise AudioError(
        "the recording is truncated or damaged: it has no samples, or they lie behind too many other chunks"
    )


def _format(content: memoryview) -> _Format:
    if len(content) < 16:
        raise AudioError("the recording is damaged: its format is incomplete")
    tag, channels, sample_rate, _, _, bits = struct.unpack_from("<HHIIHH", content)
    if tag == _EXTENSIBLE:
        if len(content) < 40:
            raise AudioError("the recording is damaged: its format is incomplete")
        (tag,) = struct.unpack_from("<H", content, 24)
    return _Format(tag, channels, sample_rate, bits)


def _values(coded: bytes, form: _Format) -> NDArray[np.float32]:
    """Samples, float32."""
    if form.tag == _FLOAT:
        # What float32 cannot hold becomes infinite, a signalling NaN a quiet one, and both are refused.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.frombuffer(coded, f"<f{form.bits // 8}").astype(np.float32)
    if form.bits == 8:
        # The only unsigned one.
        return (np.frombuffer(coded, np.uint8).astype(np.float32) - 128) / np.float32(128)
    if form.bits == 24:
        # Into the upper three bytes of 32-bit integers.
        wide = np.zeros((len(coded) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(coded, np.uint8).reshape(-1, 3)
        return (wide.view("<i4")[:, 0] / np.float64(2**31)).astype(np.float32)
    return (np.frombuffer(coded, f"<i{form.bits // 8}") / np.float64(2 ** (form.bits - 1))).astype(np.float32)

"""Encoded inputs: PNG and JPEG images, WAV recordings, and `.npy` arrays."""

import base64
import math
import re
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.audio import decode_audio
from softrisk_core.errors import AudioError, ImageError
from softrisk_core.images import decode_image, image_size
from softrisk_core.manifest import InputSpec
from softrisk_service.codecs.allowance import Allowance
from softrisk_service.codecs.tensors import shown
from softrisk_service.errors import InvalidInputError, MalformedError

IMAGE_TYPES: Final = ("image/png", "image/jpeg")
AUDIO_TYPES: Final = ("audio/wav", "audio/x-wav")
"""The second is what programs that go by the name of a file call it."""
FILE_TYPES: Final = (*IMAGE_TYPES, *AUDIO_TYPES)
NPY_TYPE: Final = "application/x-npy"

_NPY_MAGIC: Final = b"\x93NUMPY"
# The header is a Python literal; every writer produces this form of it, so nothing of a client's is evaluated.
_NPY_HEADER: Final = re.compile(
    r"\s*\{\s*'descr':\s*'([<>|=])([a-zA-Z])(\d{0,3})'\s*,\s*'fortran_order':\s*(True|False)\s*,"
    r"\s*'shape':\s*\(((?:\d{1,20},\s?)*(?:\d{1,20})?)\)\s*,?\s*\}\s*"
)
_NPY_SIZES: Final = {"f": ("2", "4", "8"), "i": ("1", "2", "4", "8"), "u": ("1", "2", "4", "8")}


def file_types(spec: InputSpec) -> tuple[str, ...]:
    """Media types of the encoded files that an input takes; none if it takes only tensors."""
    if spec.image is not None:
        return IMAGE_TYPES
    return () if spec.audio is None else AUDIO_TYPES


def claim_file(data: bytes, spec: InputSpec, allowance: Allowance) -> None:
    """Spend what decoding a file will take, before it is decoded.

    An image takes the pixels of the file or of the input, whichever are more; a recording the samples of the input,
    since no more of it is converted.

    Args:
        data: The file; of an image only the header is read.
        spec: An input that takes such files.
        allowance: What the request may cost.

    Raises:
        InvalidInputError: If it is no image, or too large to decode.
        TooLargeError: If the request has too many pixels or samples.
    """
    if spec.image is None:
        allowance.take_samples(math.prod(spec.instance_shape))
        return
    try:
        stored = image_size(data)
    except ImageError as error:
        raise InvalidInputError(f"input {spec.name!r}: {error}") from error
    allowance.take_pixels(max(math.prod(stored), math.prod(spec.image.size)))


def file_input(data: bytes, spec: InputSpec) -> NDArray[np.float32]:
    """An encoded image or recording as one instance.

    Args:
        data: The file.
        spec: An input that takes such files.

    Returns:
        Of the input's instance shape: value = pixel / 255 of an image, samples in [−1, 1] of a recording, followed by
        zeros if it is shorter.

    Raises:
        InvalidInputError: If it is no such file, damaged, or not one that the input takes.
    """
    try:
        if spec.image is not None:
            pixels = decode_image(data, mode=spec.image.mode, size=spec.image.size)
            return pixels.astype(np.float32) / np.float32(255)
        assert spec.audio is not None  # or it would take no files
        samples = decode_audio(
            data,
            sample_rate=spec.audio.sample_rate,
            samples=math.prod(spec.instance_shape),
            longer=spec.audio.longer,
            silence=spec.optional,
        )
    except (ImageError, AudioError) as error:
        raise InvalidInputError(f"input {spec.name!r}: {error}") from error
    return samples.reshape(spec.instance_shape)


def base64_file(value: dict[Any, Any], spec: InputSpec) -> bytes:
    """The file in `{"b64": "…"}`.

    Args:
        value: The JSON object.
        spec: The input that it is for.

    Raises:
        InvalidInputError: If it is another object, or no base64, or the input takes no files.
    """
    text = value.get("b64")
    if len(value) != 1 or not isinstance(text, str):
        raise InvalidInputError(f'expected an object {{"b64": "…"}}, got one with {shown(list(value))}')
    if not file_types(spec):
        raise InvalidInputError(f"input {spec.name!r} takes no encoded files, only nested lists")
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise InvalidInputError(f"not base64: {error}") from error


def npy_input(data: bytes, spec: InputSpec) -> NDArray[np.float32]:
    """A `.npy` file as instances.

    Args:
        data: The file, format 1.0 to 3.0; pickles are never read.
        spec: The input.

    Returns:
        Shape (B, …) as the input requires. Values outside float32 become ±∞.

    Raises:
        MalformedError: If it is no `.npy` file, or its length is not the one that its header tells.
        InvalidInputError: If the array is not of real numbers, or of another shape.
    """
    match = None
    start = 0
    if data.startswith(_NPY_MAGIC) and len(data) >= 12 and data[6] in (1, 2, 3):
        width = 2 if data[6] == 1 else 4
        start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
        # Bounded, so that a header which claims to be long is not searched.
        match = _NPY_HEADER.fullmatch(data[8 + width : min(start, 1024)].decode("latin-1"))
    if match is None:
        raise MalformedError("the body is not a .npy file as numpy.save writes it")
    order, kind, size, fortran, axes = match.groups()
    if size not in _NPY_SIZES.get(kind, ()):
        raise InvalidInputError(f"input {spec.name!r}: expected real numbers, got an array of type {order}{kind}{size}")
    shape = tuple(int(axis) for axis in axes.replace(" ", "").split(",") if axis)
    if len(shape) != len(spec.shape) or shape[1:] != spec.instance_shape:
        raise InvalidInputError(f"input {spec.name!r}: expected shape {list(spec.shape)}, got {shown(list(shape))}")
    count = shape[0] * int(np.prod(spec.instance_shape))
    if len(data) - start != count * int(size):
        raise MalformedError(f"the .npy header announces {count * int(size)} bytes of data, {len(data) - start} came")
    dtype = np.dtype(f"{order}{kind}{size}")
    array = np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if fortran == "True" else "C")
    with np.errstate(over="ignore", invalid="ignore"):  # of a signalling NaN, which becomes a quiet one
        return np.ascontiguousarray(array, dtype=np.float32)

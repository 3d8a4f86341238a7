"""Images from files, as the service would read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_core.errors import ImageError
from softrisk_core.images import decode_image, image_size
from softrisk_core.manifest import InputSpec, Manifest
from softrisk_evaluation.errors import EvaluationError

ARRAY: Final = ".npy"
"""What is not to be rounded to 256 levels comes as an array."""


@dataclass(frozen=True)
class Request:
    """An image that a classifier is asked about.

    Attributes:
        name: For people.
        pixels: Shape (C, H, W), float32 in [0, 1].
        size: (height, width) in the file, which may not be those of the pixels.
    """

    name: str
    pixels: NDArray[np.float32]
    size: tuple[int, int]

    @property
    def note(self) -> str:
        """What was done to the image; empty where nothing was."""
        height, width = self.pixels.shape[1:]
        if self.size == (height, width):
            return ""
        return f"resized from {self.size[1]}×{self.size[0]} to {width}×{height} pixels, as the service does"


def image_input(manifest: Manifest) -> InputSpec:
    """The input that takes the image.

    Raises:
        EvaluationError: If the bundle has another input, or one that takes no images in [0, 1].
    """
    if len(manifest.inputs) != 1:
        names = ", ".join(spec.name for spec in manifest.inputs)
        raise EvaluationError(f"only models with one image input can be explained; {manifest.name} has {names}")
    (spec,) = manifest.inputs
    if spec.audio is not None or len(spec.instance_shape) != 3:
        what = "recordings" if spec.audio is not None else f"arrays of shape {spec.instance_shape}"
        raise EvaluationError(
            f"only answers about images can be explained; the input {spec.name} of {manifest.name} takes {what}"
        )
    if spec.domain != (0.0, 1.0):
        raise EvaluationError(
            f"the input {spec.name} of {manifest.name} has the domain {spec.domain}; images to be explained lie in "
            "[0, 1], with normalisation inside the model"
        )
    return spec


def read_request(path: Path, spec: InputSpec) -> Request:
    """Read a PNG, JPEG or `.npy` file.

    Args:
        path: The file. An array has the shape of the input, float in [0, 1], or uint8, where 255 means 1.
        spec: From `image_input`.

    Raises:
        EvaluationError: If there is no such file, or it holds no such image.
    """
    if path.is_dir():
        raise EvaluationError(f"{path} is a folder: name image files")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror or error}") from error
    if path.suffix == ARRAY:
        pixels = _array(path, spec)
        return Request(path.name, pixels, (pixels.shape[1], pixels.shape[2]))
    if spec.image is None:
        raise EvaluationError(
            f"{path}: the input {spec.name} takes no encoded images; give a {ARRAY} file of shape {spec.instance_shape}"
        )
    try:
        size = image_size(content)
        pixels = _scaled(decode_image(content, mode=spec.image.mode, size=spec.image.size))
    except ImageError as error:
        raise EvaluationError(f"{path}: {error}; give PNG, JPEG or {ARRAY} files") from error
    return Request(path.name, pixels, size)


def _array(path: Path, spec: InputSpec) -> NDArray[np.float32]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise EvaluationError(f"{path} is not an array that NumPy has saved, or it is damaged: {error}") from error
    if not isinstance(values, np.ndarray) or values.shape != spec.instance_shape:
        shape = values.shape if isinstance(values, np.ndarray) else "no"
        raise EvaluationError(f"{path} has {shape} shape, and the input {spec.name} takes {spec.instance_shape}")
    if values.dtype == np.uint8:
        return _scaled(values)
    if values.dtype.kind != "f" or not (values.min() >= 0 and values.max() <= 1):
        raise EvaluationError(
            f"{path} holds {values.dtype} from {values.min()} to {values.max()}; give float in [0, 1], or uint8, where "
            "255 means 1"
        )
    return values.astype(np.float32)


def _scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.divide(pixels, np.float32(255), dtype=np.float32)

"""What every loader returns: images of one shape, with labels where the source has them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from softrisk_core.rows import digest_rows
from softrisk_training.errors import DataError


@dataclass(frozen=True)
class Images:
    """Images of one shape: all that a calibration needs.

    Attributes:
        images: Shape (N, C, H, W): uint8, where 255 means 1, or float32 in [0, 1].
        source: What the data are, for people.
        location: What `load_images` was called with.
    """

    images: NDArray[np.uint8] | NDArray[np.float32]
    source: str
    location: str

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] not in (1, 3):
            raise DataError(
                f"{self.location}: images must have shape (N, channels, height, width) with 1 or 3 channels,"
                f" got {self.images.shape}"
            )
        if len(self.images) == 0:
            raise DataError(f"{self.location}: there are no images")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def inputs(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Model inputs: shape (len(rows), C, H, W), float32 in [0, 1]."""
        chosen = self.images[rows]
        scale = np.float32(255 if chosen.dtype == np.uint8 else 1)
        return np.divide(chosen, scale, dtype=np.float32)

    def digests(self, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Content digests of the model inputs, shape (len(rows),)."""
        # In chunks: as float32 the rows take four times the memory of the images.
        chunks = [digest_rows(self.inputs(rows[start : start + 4096])) for start in range(0, len(rows), 4096)]
        return np.concatenate(chunks) if chunks else np.empty(0, dtype=np.uint64)


@dataclass(frozen=True)
class ImageData(Images):
    """Labelled images of one shape.

    Attributes:
        labels: Shape (N,), int64, indices into `classes`.
        classes: Names of the classes.
        test_rows: Rows of the test split that the source publishes; None if it publishes none.
    """

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    test_rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels.shape != self.images.shape[:1]:
            raise DataError(
                f"{self.location}: {len(self.images)} images but labels of shape {self.labels.shape};"
                " there must be one label for each image"
            )
        if len(self.classes) < 2:
            raise DataError(f"{self.location}: a classifier needs at least 2 classes, found {len(self.classes)}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(f"{self.location}: labels go from {low} to {high}, but must be 0 … {len(self.classes) - 1}")


def class_names(labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Names for a source that has none: "0", "1", … up to the largest label."""
    return tuple(str(label) for label in range(int(labels.max(initial=-1)) + 1))


def same_classes(found: tuple[str, ...], expected: tuple[str, ...]) -> bool:
    """Whether labels of one source mean the classes of another.

    Args:
        found: Class names of a source; one without names numbers its classes, and only their number can be checked.
        expected: Class names of the other.
    """
    numbers = tuple(str(label) for label in range(len(found)))
    return found == expected or (found == numbers and len(found) <= len(expected))

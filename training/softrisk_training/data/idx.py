"""IDX files, the format in which MNIST and its relatives were published (LeCun, Cortes & Burges)."""

import gzip
import zlib
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from softrisk_training.data.images import ImageData, class_names
from softrisk_training.errors import DataError

UNSIGNED_BYTE: Final = 0x08
TRAIN, TEST = "train", "t10k"


def is_idx_folder(folder: Path) -> bool:
    """Whether the folder holds the IDX file of training images."""
    return _find(folder, TRAIN, "images-idx3") is not None


def load_idx(folder: Path, location: str) -> ImageData:
    """A folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same for `t10k`, or gzipped.

    Args:
        folder: The folder; the test files may be absent.
        location: What the user called it.

    Raises:
        DataError: If a labels file is absent, or a file is damaged.
    """
    images, labels = _split(folder, TRAIN)
    test_rows = None
    if _find(folder, TEST, "images-idx3") is not None:
        test_images, test_labels = _split(folder, TEST)
        if test_images.shape[1:] != images.shape[1:]:
            raise DataError(f"{location}: training and test images differ in size")
        test_rows = np.arange(len(images), len(images) + len(test_images), dtype=np.int64)
        images = np.concatenate([images, test_images])
        labels = np.concatenate([labels, test_labels])
    return ImageData(
        images=images[:, None],
        labels=labels.astype(np.int64),
        classes=class_names(labels.astype(np.int64)),
        test_rows=test_rows,
        source=folder.resolve().name,
        location=location,
    )


def _split(folder: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        file = _find(folder, split, kind)
        if file is None:
            raise DataError(f"{folder} has no {split}-{kind}-ubyte or {split}-{kind}-ubyte.gz")
        arrays.append(_read(file, dimensions=int(kind[-1])))
    return arrays[0], arrays[1]


def _find(folder: Path, split: str, kind: str) -> Path | None:
    # Unpacking the published files has long turned "images-idx3" into "images.idx3".
    names = [f"{split}-{name}-ubyte{end}" for name in (kind, kind.replace("-", ".")) for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read(file: Path, dimensions: int) -> NDArray[np.uint8]:
    content = file.read_bytes()
    if file.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file} is not a readable gzip file: {error}") from error
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]):
        raise DataError(f"{file} is not an IDX file of unsigned bytes with {dimensions} dimension(s)")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=dimensions, offset=4))
    values = np.frombuffer(content, np.uint8, offset=header)
    if len(values) != np.prod(shape):
        raise DataError(f"{file} announces {shape} values but holds {len(values)}: it is truncated or damaged")
    return values.reshape(shape)

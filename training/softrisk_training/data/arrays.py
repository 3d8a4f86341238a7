"""Images that are arrays already: scikit-learn's digits and `.npz` files."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_training.data.images import ImageData, Images, class_names
from softrisk_training.errors import DataError

NAMES: Final = (("images", "labels"), ("x", "y"))
SPLIT_NAMES: Final = ("x_train", "y_train", "x_test", "y_test")


def load_digits() -> ImageData:
    """The 1,797 handwritten digits, 8×8, that scikit-learn carries.

    Their 17 grey levels become bytes, so that a PNG of a row is exactly that row.
    """
    import sklearn.datasets

    digits = sklearn.datasets.load_digits()
    levels: NDArray[np.float64] = digits.images
    return ImageData(
        images=np.round(levels / 16 * 255).astype(np.uint8)[:, None],
        labels=digits.target.astype(np.int64),
        classes=tuple(str(digit) for digit in range(10)),
        test_rows=None,
        source="scikit-learn digits",
        location="digits",
    )


def load_npz(path: Path, location: str) -> Images:
    """A `.npz` file with `images` and `labels` (or `x`, `y`), or Keras's `x_train`, `y_train`, `x_test`, `y_test`.

    Without `labels` or `y` the images are unlabelled.

    Args:
        path: The file. Images are (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or float in [0, 1].
        location: What the user called it.

    Raises:
        DataError: If the file is damaged, or its arrays are not named, typed or shaped like that.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, NDArray[Any]] = {name.lower(): archive[name] for name in archive.files}
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, AttributeError) as error:
        raise DataError(f"{location} is not a readable .npz file without pickled objects: {error}") from error

    test_rows = None
    if all(name in arrays for name in SPLIT_NAMES):
        train, train_labels, test, test_labels = (arrays[name] for name in SPLIT_NAMES)
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            raise DataError(
                f"{location}: x_train is {train.dtype} {train.shape} and x_test is {test.dtype} {test.shape};"
                " apart from the number of rows they must agree"
            )
        images = np.concatenate([train, test])
        labels = np.concatenate([_labels(train_labels, location), _labels(test_labels, location)])
        test_rows = np.arange(len(train), len(images), dtype=np.int64)
    else:
        images_name, labels_name = _names(arrays, location)
        images = arrays[images_name]
        if labels_name not in arrays:
            return Images(_images(images, location), path.name, location)
        labels = _labels(arrays[labels_name], location)
    return ImageData(
        images=_images(images, location),
        labels=labels,
        classes=class_names(labels),
        test_rows=test_rows,
        source=path.name,
        location=location,
    )


def _names(arrays: Mapping[str, object], location: str) -> tuple[str, str]:
    for names in NAMES:
        if names[0] in arrays:
            return names
    raise DataError(
        f"{location} holds the arrays {', '.join(sorted(arrays)) or '(none)'};"
        " expected images and labels, x and y, or x_train, y_train, x_test and y_test"
    )


def _labels(labels: NDArray[Any], location: str) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{location}: labels must be integers of shape (N,), got {labels.dtype} of shape {labels.shape}"
        )
    return labels.astype(np.int64)


def _images(images: NDArray[Any], location: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.dtype == np.uint8:
        return images
    if np.issubdtype(images.dtype, np.floating):
        low, high = float(images.min(initial=0)), float(images.max(initial=0))
        if low >= 0 and high <= 1:
            return images.astype(np.float32)
        raise DataError(
            f"{location}: float images must be finite and in [0, 1], these go from {low:g} to {high:g};"
            " divide them by 255, or store them as uint8"
        )
    raise DataError(f"{location}: images must be uint8 or float in [0, 1], got {images.dtype}")

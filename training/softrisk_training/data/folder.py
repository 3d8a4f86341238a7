"""Image folders: one folder of PNG or JPEG files for each class, or one folder of unlabelled ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from softrisk_training.data.encoded import decode_images
from softrisk_training.data.images import ImageData, Images
from softrisk_training.errors import DataError

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg"})


def is_image_folder(folder: Path) -> bool:
    """Whether some subfolder, or subfolder of `train`, holds an image."""
    return bool(_class_files(folder)) or bool(_class_files(folder / "train"))


def is_flat_folder(folder: Path) -> bool:
    """Whether the folder itself holds an image."""
    return bool(_image_files(folder))


def load_flat_folder(folder: Path, location: str) -> Images:
    """`folder/*.png`: unlabelled images, in the order of their file names.

    Args:
        folder: The folder.
        location: What the user called it.

    Raises:
        DataError: If an image is damaged or has another size than the first.
    """
    images = decode_images((str(file), file.read_bytes()) for file in _image_files(folder))
    return Images(images, folder.resolve().name, location)


def load_image_folder(folder: Path, location: str) -> ImageData:
    """`folder/<class>/*.png`, or `folder/train/<class>/*.png` with `folder/test/<class>/*.png`.

    Args:
        folder: The folder. Classes are numbered in the order of their names, rows follow the order of file names.
        location: What the user called it.

    Raises:
        DataError: If an image is damaged or has another size than the first, or a test class is not in training.
    """
    train = _class_files(folder / "train")
    test = _class_files(folder / "test") if train else {}
    train = train or _class_files(folder)
    classes = tuple(train)
    unknown = sorted(set(test) - set(classes))
    if unknown:
        raise DataError(f"{location}: the test folder has classes that training has not: {', '.join(unknown)}")
    files = [(classes.index(name), file) for split in (train, test) for name in split for file in split[name]]

    def contents() -> Iterator[tuple[str, bytes]]:
        for _, file in files:
            yield str(file), file.read_bytes()

    training_count = sum(len(group) for group in train.values())
    return ImageData(
        images=decode_images(contents()),
        labels=np.array([label for label, _ in files], dtype=np.int64),
        classes=classes,
        test_rows=np.arange(training_count, len(files), dtype=np.int64) if test else None,
        source=folder.resolve().name,
        location=location,
    )


def _class_files(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        return {}
    groups = {entry.name: _image_files(entry) for entry in sorted(folder.iterdir()) if entry.is_dir()}
    return {name: files for name, files in groups.items() if files}


def _image_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)

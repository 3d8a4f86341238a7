"""From a location that a user types to images: which loader reads it."""

from pathlib import Path
from typing import Final

from softrisk_training.data.arrays import load_digits, load_npz
from softrisk_training.data.folder import is_flat_folder, is_image_folder, load_flat_folder, load_image_folder
from softrisk_training.data.idx import is_idx_folder, load_idx
from softrisk_training.data.images import ImageData, Images
from softrisk_training.data.parquet import is_parquet_folder, load_parquet
from softrisk_training.errors import DataError

DIGITS: Final = "digits"

LABELLED: Final = (
    f"'{DIGITS}' (the 8×8 digits of scikit-learn)",
    "a folder with train-*.parquet and test-*.parquet, as Hugging Face writes them, with the columns image and label",
    "a folder with IDX files such as train-images-idx3-ubyte[.gz]",
    "a folder with one folder of PNG or JPEG files for each class, also below train/ and test/",
    "a .npz file with images and labels",
)

UNLABELLED: Final = (
    "where labels are not needed, also a folder of PNG or JPEG files, and parquet or .npz files without labels",
)


def load_data(location: str) -> ImageData:
    """Labelled images from any source that softrisk knows; what is there decides which.

    Args:
        location: `digits`, or the path of a folder or a `.npz` file.

    Raises:
        DataError: If the location is not one of these, what is there cannot be read, or it has no labels.
    """
    data = load_images(location)
    if not isinstance(data, ImageData):
        problem = f"{location} holds images without labels, and here they are needed"
        folder = Path(location).expanduser()
        if folder.is_dir() and is_flat_folder(folder):
            problem += ": put them in one folder for each class"
        raise DataError(_with_forms(problem, LABELLED))
    return data


def load_images(location: str) -> Images:
    """Images from any source that softrisk knows: `ImageData` where the source has labels.

    Args:
        location: As for `load_data`, or a folder of PNG or JPEG files.

    Raises:
        DataError: If the location is not one of these, or what is there cannot be read.
    """
    if location == DIGITS:
        return load_digits()
    path = Path(location).expanduser()
    if path.is_dir():
        if is_parquet_folder(path):
            return load_parquet(path, location)
        if is_idx_folder(path):
            return load_idx(path, location)
        if is_image_folder(path):
            return load_image_folder(path, location)
        if is_flat_folder(path):
            return load_flat_folder(path, location)
    elif path.is_file() and path.suffix == ".npz":
        return load_npz(path, location)
    problem = "holds no data that softrisk can read" if path.exists() else "does not exist"
    raise DataError(_with_forms(f"{location} {problem}", LABELLED + UNLABELLED))


def _with_forms(problem: str, forms: tuple[str, ...]) -> str:
    return "\n".join([problem, "data are given as", *(f"  - {form}" for form in forms)])


def absolute_location(location: str) -> str:
    """The same location, readable from every working folder."""
    return location if location == DIGITS else str(Path(location).expanduser().resolve())

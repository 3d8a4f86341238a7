"""Parquet folders in the layout of Hugging Face image data sets."""

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from softrisk_training.data.encoded import decode_images
from softrisk_training.data.images import ImageData, Images, class_names
from softrisk_training.errors import DataError

SPLITS: Final = ("train", "validation", "test")
IMAGE_COLUMNS: Final = ("image", "img")
LABEL_COLUMNS: Final = ("label", "labels", "fine_label")


def is_parquet_folder(folder: Path) -> bool:
    """Whether the folder, or its subfolder `data`, holds parquet files."""
    return bool(_files(folder))


def load_parquet(folder: Path, location: str) -> Images:
    """A folder with `train-*.parquet`, `test-*.parquet` and the like, several shards each, also below `data/`.

    Columns are `image: {bytes, path}` and `label`; class names come from the metadata that Hugging Face writes, if
    they are there. Rows of a validation split join the training rows: softrisk makes its own. If a file has no label
    column, all images are unlabelled.

    Args:
        folder: The folder.
        location: What the user called it.

    Raises:
        DataError: If a file is damaged, or has other columns or an unreadable image.
    """
    files = _files(folder)
    images, labels, counts = [], [], dict.fromkeys(SPLITS, 0)
    names: tuple[str, ...] | None = None
    for split in SPLITS:
        for file in (file for file in files if _split(file) == split):
            shard_images, shard_labels, shard_names = _read(file)
            images.append(shard_images)
            labels.append(shard_labels)
            counts[split] += len(shard_images)
            names = names or shard_names
    if not images:
        raise DataError(
            f"{location} holds parquet files, but none that is called {', '.join(f'{s}-*' for s in SPLITS)}"
        )
    if len({shard.shape[1:] for shard in images}) > 1:
        raise DataError(f"{location}: the shards hold images of different sizes or channels; bring all to one")
    all_images, source = np.concatenate(images), folder.resolve().name
    known = [shard for shard in labels if shard is not None]
    if len(known) < len(labels):
        return Images(all_images, source, location)
    all_labels, total = np.concatenate(known), len(all_images)
    return ImageData(
        images=all_images,
        labels=all_labels,
        classes=names or class_names(all_labels),
        test_rows=np.arange(total - counts["test"], total, dtype=np.int64) if counts["test"] else None,
        source=source,
        location=location,
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def _split(file: Path) -> str:
    # "train-00000-of-00002.parquet", "train.parquet" and "train_0.parquet" all belong to "train".
    return next((split for split in SPLITS if file.name.startswith(split)), "")


def _read(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None, tuple[str, ...] | None]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from error
    image_column, label_column = _column(table, IMAGE_COLUMNS), _column(table, LABEL_COLUMNS)
    if image_column is None:
        raise DataError(f"{file} has the columns {', '.join(table.column_names)}; expected one called 'image'")
    encoded = table.column(image_column).to_pylist()

    def contents() -> Any:
        for row, image in enumerate(encoded):
            content = image.get("bytes") if isinstance(image, dict) else image
            if not isinstance(content, bytes):
                raise DataError(
                    f"{file}: the column {image_column!r} has no encoded image in row {row};"
                    " expected {bytes, path} with the bytes filled in"
                )
            yield f"{file}, row {row}", content

    if not encoded:
        raise DataError(f"{file} has no rows")
    images = decode_images(contents())
    if label_column is None:
        return images, None, None
    labels = table.column(label_column)
    if not pyarrow.types.is_integer(labels.type) or labels.null_count:
        raise DataError(f"{file}: the column {label_column!r} must hold an integer for every row")
    return images, labels.to_numpy().astype(np.int64), _names(table, label_column)


def _column(table: Any, accepted: tuple[str, ...]) -> str | None:
    return next((name for name in accepted if name in table.column_names), None)


def _names(table: Any, label_column: str) -> tuple[str, ...] | None:
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    try:
        names = json.loads(metadata)["info"]["features"][label_column]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(str(name) for name in names)

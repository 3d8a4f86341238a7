"""Parquet folders in the layout of Hugging Face image and audio data sets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Shard:
    """One parquet file.

    Attributes:
        split: One of `SPLITS`.
        contents: For each row a name, for messages, and the encoded content.
        paths: The file names that the rows had before; empty where none is recorded.
        labels: Shape (rows,); None if the file has no labels.
        names: Names of the classes, if Hugging Face's metadata are there.
    """

    split: str
    contents: list[tuple[str, bytes]]
    paths: list[str]
    labels: NDArray[np.int64] | None
    names: tuple[str, ...] | None


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
    shards = read_shards(folder, location, IMAGE_COLUMNS)
    images = [decode_images(shard.contents) for shard in shards]
    if len({shard.shape[1:] for shard in images}) > 1:
        raise DataError(f"{location}: the shards hold images of different sizes or channels; bring all to one")
    all_images, source = np.concatenate(images), folder.resolve().name
    known = [shard.labels for shard in shards if shard.labels is not None]
    if len(known) < len(shards):
        return Images(all_images, source, location)
    labels = np.concatenate(known)
    return ImageData(
        images=all_images,
        labels=labels,
        classes=shard_names(shards) or class_names(labels),
        test_rows=published_test_rows(shards),
        source=source,
        location=location,
    )


def read_shards(folder: Path, location: str, columns: Sequence[str]) -> list[Shard]:
    """All files of a folder, training rows before those of a published test split.

    Args:
        folder: Accepted by `is_parquet_folder`.
        location: What the user called it.
        columns: Names that the column of encoded contents may have; the first is the usual one.

    Raises:
        DataError: If a file is damaged or has other columns, or none has the name of a split.
    """
    files = _files(folder)
    shards = [_read(file, split, columns) for split in SPLITS for file in files if _split(file) == split]
    if not shards:
        raise DataError(
            f"{location} holds parquet files, but none that is called {', '.join(f'{s}-*' for s in SPLITS)}"
        )
    return shards


def shard_names(shards: Sequence[Shard]) -> tuple[str, ...] | None:
    """Class names of the first shard that has them."""
    return next((shard.names for shard in shards if shard.names), None)


def published_test_rows(shards: Sequence[Shard]) -> NDArray[np.int64] | None:
    """Rows of the published test split, in all shards one after the other; None if there is none."""
    total = sum(len(shard.contents) for shard in shards)
    test = sum(len(shard.contents) for shard in shards if shard.split == "test")
    return np.arange(total - test, total, dtype=np.int64) if test else None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def _split(file: Path) -> str:
    # "train-00000-of-00002.parquet", "train.parquet" and "train_0.parquet" all belong to "train".
    return next((split for split in SPLITS if file.name.startswith(split)), "")


def _read(file: Path, split: str, columns: Sequence[str]) -> Shard:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from error
    column, label_column = _column(table, columns), _column(table, LABEL_COLUMNS)
    if column is None:
        raise DataError(f"{file} has the columns {', '.join(table.column_names)}; expected one called '{columns[0]}'")
    contents, paths = [], []
    for row, encoded in enumerate(table.column(column).to_pylist()):
        content = encoded.get("bytes") if isinstance(encoded, dict) else encoded
        if not isinstance(content, bytes):
            raise DataError(
                f"{file}: the column {column!r} has no encoded {columns[0]} in row {row};"
                " expected {bytes, path} with the bytes filled in"
            )
        contents.append((f"{file}, row {row}", content))
        paths.append(encoded.get("path") or "" if isinstance(encoded, dict) else "")
    if not contents:
        raise DataError(f"{file} has no rows")
    if label_column is None:
        return Shard(split, contents, paths, None, None)
    labels = table.column(label_column)
    if not pyarrow.types.is_integer(labels.type) or labels.null_count:
        raise DataError(f"{file}: the column {label_column!r} must hold an integer for every row")
    return Shard(split, contents, paths, labels.to_numpy().astype(np.int64), _names(table, label_column))


def _column(table: Any, accepted: Sequence[str]) -> str | None:
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

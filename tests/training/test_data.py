"""Every kind of source gives the same images, and every wrong one an error that says what is wrong."""

import gzip
import io
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from softrisk_core.rows import digest_rows
from softrisk_training.data import ImageData, absolute_location, load_data, load_images
from softrisk_training.errors import DataError

Pixels = NDArray[np.uint8]


@pytest.fixture
def pixels() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (12, 9, 10), dtype=np.uint8)


LABELS = np.arange(12, dtype=np.int64) % 3


def png(image: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(file: Path, pixels: Pixels, labels: Any, metadata: dict[str, str] | None = None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": [{"bytes": png(image), "path": None} for image in pixels], "label": labels})
    pq.write_table(table.replace_schema_metadata(metadata), file)


def write_idx(file: Path, array: Pixels) -> None:
    content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


def test_digits_are_bytes_so_that_a_png_of_a_row_is_the_row() -> None:
    data = load_data("digits")
    assert data.images.dtype == np.uint8
    assert data.input_shape == (1, 8, 8)
    assert (len(data.labels), data.classes, data.test_rows) == (1797, tuple("0123456789"), None)
    row = data.inputs(np.array([5]))
    assert row.dtype == np.float32
    assert 0 <= row.min() < row.max() <= 1
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(data.images[5, 0])))), data.images[5, 0])


def test_digests_are_those_of_the_model_inputs() -> None:
    data = load_data("digits")
    rows = np.array([3, 1, 3])
    np.testing.assert_array_equal(data.digests(rows), digest_rows(data.inputs(rows)))
    assert len(data.digests(rows[:0])) == 0


@pytest.mark.parametrize("subfolder", ["", "data"])
def test_parquet_shards_with_class_names(tmp_path: Path, pixels: Pixels, subfolder: str) -> None:
    names = '{"info": {"features": {"label": {"names": ["ant", "bee", "cow"], "_type": "ClassLabel"}}}}'
    folder = tmp_path / subfolder
    write_parquet(folder / "test-00000-of-00001.parquet", pixels[8:], LABELS[8:])
    write_parquet(folder / "train-00001-of-00002.parquet", pixels[3:6], LABELS[3:6], {"huggingface": names})
    write_parquet(folder / "train-00000-of-00002.parquet", pixels[:3], LABELS[:3], {"huggingface": names})
    write_parquet(folder / "validation-00000-of-00001.parquet", pixels[6:8], LABELS[6:8])
    data = load_data(str(tmp_path))
    np.testing.assert_array_equal(data.images[:, 0], pixels)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.test_rows is not None
    assert data.test_rows.tolist() == [8, 9, 10, 11]
    assert data.classes == ("ant", "bee", "cow")
    assert data.location == str(tmp_path)


def test_parquet_without_metadata_numbers_its_classes(tmp_path: Path, pixels: Pixels) -> None:
    write_parquet(tmp_path / "train.parquet", pixels, LABELS)
    data = load_data(str(tmp_path))
    assert data.classes == ("0", "1", "2")
    assert data.test_rows is None


def test_unlabelled_images_are_read_from_a_flat_folder_an_npz_file_and_parquet(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "flat").mkdir()
    for row, image in enumerate(pixels):
        (tmp_path / "flat" / f"{row:02}.png").write_bytes(png(image))
    np.savez(tmp_path / "some.npz", images=pixels)
    (tmp_path / "parquet").mkdir()
    table = pa.table({"image": [{"bytes": png(image), "path": None} for image in pixels]})
    pq.write_table(table, tmp_path / "parquet" / "train.parquet")
    for name in ("flat", "some.npz", "parquet"):
        location = str(tmp_path / name)
        data = load_images(location)
        assert not isinstance(data, ImageData)
        assert (data.source, data.location) == (name, location)
        np.testing.assert_array_equal(data.images[:, 0], pixels)
        with pytest.raises(DataError, match="holds images without labels, and here they are needed") as error:
            load_data(location)
        assert ("one folder for each class\n" in str(error.value)) == (name == "flat")


def test_labelled_images_keep_their_labels_where_none_are_needed(tmp_path: Path, pixels: Pixels) -> None:
    write_parquet(tmp_path / "train.parquet", pixels, LABELS)
    data = load_images(str(tmp_path))
    assert isinstance(data, ImageData)
    np.testing.assert_array_equal(data.labels, LABELS)


def test_parquet_with_labels_in_some_files_only_is_unlabelled(tmp_path: Path, pixels: Pixels) -> None:
    write_parquet(tmp_path / "train.parquet", pixels[:6], LABELS[:6])
    table = pa.table({"image": [{"bytes": png(image), "path": None} for image in pixels[6:]]})
    pq.write_table(table, tmp_path / "test.parquet")
    data = load_images(str(tmp_path))
    assert not isinstance(data, ImageData)
    assert len(data.images) == 12


def test_an_absolute_location_is_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_location("digits") == "digits"
    assert absolute_location("some/../own.npz") == str(tmp_path.resolve() / "own.npz")


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files(tmp_path: Path, pixels: Pixels, end: str) -> None:
    for split, rows in (("train", slice(0, 8)), ("t10k", slice(8, 12))):
        write_idx(tmp_path / f"{split}-images-idx3-ubyte{end}", pixels[rows])
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte{end}", LABELS[rows].astype(np.uint8))
    data = load_data(str(tmp_path))
    np.testing.assert_array_equal(data.images[:, 0], pixels)
    np.testing.assert_array_equal(data.labels, LABELS)
    assert data.test_rows is not None
    assert data.test_rows.tolist() == [8, 9, 10, 11]


def test_image_folder_with_and_without_a_test_split(tmp_path: Path, pixels: Pixels) -> None:
    for row, name in enumerate(["b", "a", "b"]):
        for split in ("flat", "split/train", "split/test"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{row}.png").write_bytes(png(pixels[row]))
    flat = load_data(str(tmp_path / "flat"))
    assert flat.classes == ("a", "b")
    assert flat.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(flat.images[:, 0], pixels[[1, 0, 2]])
    assert flat.test_rows is None
    split_data = load_data(str(tmp_path / "split"))
    assert split_data.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert split_data.test_rows is not None
    assert split_data.test_rows.tolist() == [3, 4, 5]


def test_colour_images_have_three_channels(tmp_path: Path, pixels: Pixels) -> None:
    colour = np.stack([pixels, pixels // 2, 255 - pixels], axis=-1)
    for row, name in enumerate("abab"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{row}.png").write_bytes(png(colour[row]))
    data = load_data(str(tmp_path))
    assert data.input_shape == (3, 9, 10)
    np.testing.assert_array_equal(data.images[1], colour[2].transpose(2, 0, 1))


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y")])
@pytest.mark.parametrize("layout", ["NHW", "NCHW", "NHWC"])
def test_npz_layouts(tmp_path: Path, pixels: Pixels, names: tuple[str, str], layout: str) -> None:
    axis = {"NHW": None, "NCHW": 1, "NHWC": 3}[layout]
    images = pixels if axis is None else np.expand_dims(pixels, axis)
    arrays: dict[str, Any] = {names[0]: images, names[1]: LABELS}
    np.savez(tmp_path / "some.npz", **arrays)
    data = load_data(str(tmp_path / "some.npz"))
    np.testing.assert_array_equal(data.images[:, 0], pixels)
    assert data.images.dtype == np.uint8


def test_npz_of_keras_with_float_images(tmp_path: Path, pixels: Pixels) -> None:
    scaled = pixels / 255
    np.savez(tmp_path / "some.npz", x_train=scaled[:8], y_train=LABELS[:8, None], x_test=scaled[8:], y_test=LABELS[8:])
    data = load_data(str(tmp_path / "some.npz"))
    assert data.images.dtype == np.float32
    np.testing.assert_allclose(data.inputs(np.arange(12))[:, 0], scaled, rtol=1e-6)
    assert data.test_rows is not None
    assert data.test_rows.tolist() == [8, 9, 10, 11]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros(3)}, "holds the arrays pictures; expected images and labels"),
        ({"images": np.zeros((3, 8, 8)) + 255.0, "labels": [0, 1, 2]}, "divide them by 255"),
        ({"images": np.full((3, 8, 8), np.nan), "labels": [0, 1, 2]}, "must be finite"),
        ({"images": np.zeros((3, 8, 8), np.int32), "labels": [0, 1, 2]}, "got int32"),
        ({"images": np.zeros((3, 8, 8)), "labels": [0.5, 1, 2]}, "labels must be integers"),
        ({"images": np.zeros((3, 8, 8)), "labels": [0, 1]}, "one label for each image"),
        ({"images": np.zeros((3, 8, 8)), "labels": [0, -1, 2]}, "labels go from -1 to 2"),
        ({"images": np.zeros((3, 8, 8)), "labels": [0, 0, 0]}, "at least 2 classes"),
        ({"images": np.zeros((3, 5, 8, 8)), "labels": [0, 1, 2]}, "with 1 or 3 channels"),
        ({"images": np.zeros((0, 8, 8)), "labels": np.zeros(0, np.int64)}, "there are no images"),
    ],
)
def test_wrong_npz_files_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path / "some.npz"))


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.npz").write_bytes(b"PK but not really")
    with pytest.raises(DataError, match=r"not a readable \.npz file"):
        load_data(str(tmp_path / "some.npz"))


@pytest.mark.parametrize("name", ["nowhere", "empty", "notes.txt"])
def test_an_unknown_location_is_answered_with_what_is_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(
        DataError, match=r"^\S+ (does not exist|holds no .*)\n.*\n  - 'digits' [\s\S]*parquet[\s\S]*IDX "
    ):
        load_data(str(tmp_path / name))


def test_the_first_image_of_another_size_is_named(tmp_path: Path, pixels: Pixels) -> None:
    for name, image in (("a/1.png", pixels[0]), ("b/2.png", pixels[1, :7])):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(png(image))
    with pytest.raises(DataError, match=r"2\.png is 7×10 pixels, but the images before it are 9×10; resize"):
        load_data(str(tmp_path))


def test_a_damaged_image_is_named(tmp_path: Path, pixels: Pixels) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(png(pixels[0])[:40])
    with pytest.raises(DataError, match=r"broken\.png: "):
        load_data(str(tmp_path))


def test_damaged_and_foreign_parquet_files_are_refused(tmp_path: Path, pixels: Pixels) -> None:
    file = tmp_path / "train-00000-of-00001.parquet"
    file.write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DataError, match="not a readable parquet file"):
        load_data(str(tmp_path))
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), file)
    with pytest.raises(DataError, match="has the columns text, label; expected one called 'image'"):
        load_data(str(tmp_path))
    write_parquet(file, pixels[:2], [0, None])
    with pytest.raises(DataError, match="must hold an integer for every row"):
        load_data(str(tmp_path))
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "x.png"}], "label": [0]}), file)
    with pytest.raises(DataError, match="no encoded image in row 0"):
        load_data(str(tmp_path))
    file.rename(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="none that is called"):
        load_data(str(tmp_path))


def test_a_truncated_idx_file_and_missing_labels_are_refused(tmp_path: Path, pixels: Pixels) -> None:
    images = tmp_path / "train-images-idx3-ubyte"
    write_idx(images, pixels)
    with pytest.raises(DataError, match="has no train-labels-idx1-ubyte"):
        load_data(str(tmp_path))
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated or damaged"):
        load_data(str(tmp_path))
    images.write_bytes(b"\0\0\x0d\3" + bytes(12))
    with pytest.raises(DataError, match="not an IDX file of unsigned bytes with 3"):
        load_data(str(tmp_path))


def test_data_are_read_without_torch() -> None:
    program = (
        "import sys; from softrisk_training.data import load_data; load_data('digits'); print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_mnist_as_published(real_data: Path) -> None:
    data = load_data(str(real_data / "mnist"))
    assert data.images.shape == (70_000, 1, 28, 28)
    assert data.test_rows is not None
    assert data.test_rows.tolist() == list(range(60_000, 70_000))
    # The digits that the published files begin with.
    assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.labels[60_000:60_005].tolist() == [7, 2, 1, 0, 4]

"""The four row lists: disjoint by row and by content, stratified, and the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from softrisk_core.conformal import marginal_rank, ranks
from softrisk_training.data import ImageData, Splits, load_data, split_rows
from softrisk_training.errors import DataError

LISTS = ("training", "selection", "calibration", "test")


def made(count: int, repeats: int = 0, test_rows: NDArray[np.int64] | None = None) -> ImageData:
    images = np.random.default_rng(1).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    images = np.concatenate([images, images[:repeats]])
    labels = (np.arange(len(images)) % 3).astype(np.int64)
    return ImageData(images, "made", "made", labels, ("a", "b", "c"), test_rows)


def lists(splits: Splits) -> list[NDArray[np.int64]]:
    return [getattr(splits, name) for name in LISTS]


@given(seed=st.integers(0, 2**32), repeats=st.integers(0, 60), published=st.booleans())
@settings(max_examples=20)
def test_no_row_and_no_content_is_in_two_lists(seed: int, repeats: int, published: bool) -> None:
    test_rows = np.arange(100, 130, dtype=np.int64) if published else None
    data = made(200, repeats, test_rows)
    splits = split_rows(data, seed)
    contents = [set(data.digests(rows).tolist()) for rows in lists(splits)]
    assert len(set.union(*contents)) == sum(len(content) for content in contents)
    rows = np.concatenate(lists(splits))
    assert len(np.unique(rows)) == len(rows) == 200 + repeats - splits.dropped
    if test_rows is not None:
        np.testing.assert_array_equal(splits.test, test_rows)


def test_shares_are_kept_in_every_class() -> None:
    data = made(900)
    splits = split_rows(data, seed=3)
    assert [len(rows) for rows in lists(splits)] == [540, 60, 120, 180]
    for rows in lists(splits):
        counts = np.bincount(data.labels[rows])
        assert counts.max() - counts.min() <= 1


def test_the_seed_decides() -> None:
    data = load_data("digits")
    for first, again in zip(lists(split_rows(data, 5)), lists(split_rows(data, 5)), strict=True):
        np.testing.assert_array_equal(first, again)
    assert not np.array_equal(split_rows(data, 5).test, split_rows(data, 6).test)


def test_repeated_content_stays_in_the_test_rows_and_is_counted() -> None:
    data = made(200, repeats=60, test_rows=np.arange(200, 260, dtype=np.int64))
    splits = split_rows(data, seed=0)
    assert splits.dropped == 60
    assert splits.test.tolist() == list(range(200, 260))
    assert min(rows.min() for rows in lists(splits)[:3]) >= 60


def test_of_repeated_contents_one_row_is_kept_before_the_split() -> None:
    splits = split_rows(made(200, repeats=60), seed=0)
    assert splits.dropped == 60
    assert max(rows.max() for rows in lists(splits)) < 200


def test_contents_that_repeat_leave_the_false_alarm_rate_alone() -> None:
    """A pool in which strange contents repeat: split, calibrate and judge it many times."""
    images = np.random.default_rng(7).integers(0, 200, (600, 1, 4, 4), dtype=np.uint8)
    strange = images[:12] // 4 + 200  # the brightest of all
    images = np.concatenate([images, *[strange] * 20])
    data = ImageData(images, "made", "made", (np.arange(len(images)) % 2).astype(np.int64), ("a", "b"))
    scores = data.images.mean(axis=(1, 2, 3))
    rates, expected = [], []
    for seed in range(40):
        splits = split_rows(data, seed)
        found = ranks(scores[splits.test], scores[splits.calibration])
        limit = marginal_rank(0.02, len(splits.calibration))
        rates.append((found <= limit).mean())
        expected.append(limit / (len(splits.calibration) + 1))
    assert np.mean(rates) == pytest.approx(np.mean(expected), abs=0.006)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"too few rows \(6\)"):
        split_rows(made(6), seed=0)

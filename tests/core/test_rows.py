"""Row digests: equal contents are found, different ones are told apart."""

import numpy as np

from softrisk_core.rows import count_overlap, digest_rows

ROWS = np.random.default_rng(0).random((50, 1, 4, 4), dtype=np.float32)


def test_digests_depend_on_content_only() -> None:
    digests = digest_rows(ROWS)
    assert len(set(digests.tolist())) == 50
    assert np.array_equal(digest_rows(ROWS[::-1])[::-1], digests)
    assert np.array_equal(digest_rows(np.asfortranarray(ROWS)), digests)
    assert digest_rows(ROWS[:0]).shape == (0,)


def test_the_shape_of_a_row_counts() -> None:
    assert not np.array_equal(digest_rows(ROWS), digest_rows(ROWS.reshape(50, 16)))


def test_digests_are_the_same_on_every_machine() -> None:
    assert digest_rows(np.arange(4, dtype=np.float32).reshape(1, 4)).tolist() == [0xCA9D50D3B8200AE3]


def test_all_inputs_of_a_row_count_in_their_order() -> None:
    sounds = np.random.default_rng(1).random((50, 7), dtype=np.float32)
    digests = digest_rows(ROWS, sounds)
    assert len(set(digests.tolist())) == 50
    assert not np.isin(
        digests, np.concatenate([digest_rows(ROWS), digest_rows(sounds), digest_rows(sounds, ROWS)])
    ).any()
    other = sounds.copy()
    other[7, 3] += 1
    assert (digest_rows(ROWS, other) != digests).nonzero()[0].tolist() == [7]


def test_overlap_counts_rows_of_the_first_set() -> None:
    digests = digest_rows(ROWS)
    assert count_overlap(digests[:10], digests[5:]) == 5
    assert count_overlap(np.repeat(digests[:1], 3), digests) == 3
    assert count_overlap(digests, digests[:0]) == 0

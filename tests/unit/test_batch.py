"""The batch: cutting, and naming what is wrong with one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from screc.data import Batch

SIZES = (10, 5)


def make(**changes: Any) -> Batch:
    """Three samples of two tables; the second sample's bags are empty."""
    fields = {
        "dense": np.zeros((3, 2), np.float32),
        "ids": np.array([9, 0, 3, 4, 4, 0], np.int64),
        "offsets": np.array([0, 1, 1, 3, 5, 5, 6], np.int64),
        "labels": np.array([0, 1, 0], np.float32),
    }
    return Batch(**fields | changes)


def test_a_good_batch() -> None:
    batch = make()
    batch.validate(SIZES, 2)
    make(labels=None).validate(SIZES, 2)
    assert (batch.batch_size, batch.num_tables) == (3, 2)
    np.testing.assert_array_equal(batch.table_ids(1), [4, 4, 0])
    np.testing.assert_array_equal(batch.table_offsets(1), [0, 2, 2, 3])


def test_an_empty_batch() -> None:
    empty = make().rows(1, 1)
    assert (empty.batch_size, empty.num_tables, empty.ids.size) == (0, 0, 0)
    empty.validate(SIZES, 2)


def test_rows_cut_every_table() -> None:
    middle = make().rows(1, 3)
    middle.validate(SIZES, 2)
    np.testing.assert_array_equal(middle.ids, [0, 3, 0])
    np.testing.assert_array_equal(middle.offsets, [0, 0, 2, 2, 3])
    np.testing.assert_array_equal(middle.labels, [1, 0])
    clipped = make().rows(-5, 50)
    np.testing.assert_array_equal(clipped.ids, make().ids)


def dense_with(value: float) -> np.ndarray:
    dense = np.zeros((3, 2), np.float32)
    dense[2, 1] = value
    return dense


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dense": np.zeros((3, 2))}, TypeError, "dense: expected float32, got float64; convert"),
        ({"ids": np.zeros(6, np.int32)}, TypeError, "ids: expected int64, got int32; convert"),
        ({"offsets": np.zeros(7, np.uint64)}, TypeError, "offsets: expected int64, got uint64"),
        ({"labels": np.zeros(3)}, TypeError, "labels: expected float32, got float64"),
        (
            {"dense": np.zeros(3, np.float32)},
            ValueError,
            r"dense: expected 2 dimension\(s\), got shape \[3\]",
        ),
        ({"ids": np.zeros((6, 1), np.int64)}, ValueError, r"ids: expected 1 dimension\(s\), got shape"),
        ({"dense": np.zeros((3, 4), np.float32)}, ValueError, "dense: expected 2 columns, got 4"),
        ({"dense": dense_with(np.nan)}, ValueError, r"dense\[2, 1\] is nan; fill or drop"),
        ({"dense": dense_with(-np.inf)}, ValueError, r"dense\[2, 1\] is -inf; fill or drop"),
        (
            {"offsets": np.zeros(4, np.int64)},
            ValueError,
            r"offsets: expected 2 tables x 3 samples \+ 1 = 7 entries, got 4",
        ),
        (
            {"offsets": np.array([0, 1, 1, 3, 5, 5, 5])},
            ValueError,
            r"offsets: must run from 0 to the number of ids \(6\), got 0 to 5",
        ),
        (
            {"offsets": np.array([0, 3, 1, 3, 5, 5, 6])},
            ValueError,
            r"offsets\[2\] = 1 is below offsets\[1\] = 3; offsets must not decrease",
        ),
        ({"ids": np.array([9, 0, 3, 4, 5, 0])}, ValueError, "ids: 5 is out of range for table 1 with 5 rows"),
        ({"ids": np.array([9, -1, 3, 4, 4, 0])}, ValueError, "ids: -1 is out of range for table 0 with 10"),
        ({"labels": np.zeros(2, np.float32)}, ValueError, r"labels: expected shape \[3\], got \[2\]"),
        ({"labels": np.array([0, 2, 1], np.float32)}, ValueError, r"labels\[1\] = 2.0 is neither 0 nor 1"),
        ({"labels": np.array([0, 1, np.nan], np.float32)}, ValueError, r"labels\[2\] = nan is neither 0 nor"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**changes).validate(SIZES, 2)

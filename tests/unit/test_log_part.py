"""A part of a log gives the samples that the whole one gives there."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_log import TinyLog

from screc.data.log import concatenate
from screc.data.part import LogPart


def test_a_part_is_a_slice_whatever_the_batches() -> None:
    log = TinyLog(num_samples=100)
    whole = concatenate(list(log.batches(100)))
    for first, count, size, skip in ((0, 100, 7, 0), (13, 50, 7, 0), (13, 50, 7, 21), (90, None, 64, 3)):
        part = LogPart(log, first, count)
        assert part.num_samples == (count or 100 - first)
        found = concatenate(list(part.batches(size, skip=skip)))
        expected = whole.rows(first + skip, first + (count or 100 - first))
        np.testing.assert_array_equal(found.ids, expected.ids)
        np.testing.assert_array_equal(found.offsets, expected.offsets)
        np.testing.assert_array_equal(found.labels, expected.labels)
    assert not list(LogPart(log, 13, 50).batches(7, skip=50))


def test_names_what_is_not_there() -> None:
    log = TinyLog(num_samples=100)
    with pytest.raises(ValueError, match="the log has 100 samples; 20 from 90 on are not there"):
        LogPart(log, 90, 20)
    with pytest.raises(ValueError, match="those from 100 on"):
        LogPart(log, 100)
    with pytest.raises(ValueError, match="count at least 1"):
        LogPart(log, 0, 0)

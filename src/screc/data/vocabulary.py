"""Vocabularies: the values of a column, counted in one pass and numbered from 1; id 0 is for all others."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from screc.data.hashing import hash_bytes

UNKNOWN = 0
_MISSING = b""


class ValueCounter:
    """Counts values of one column over a log; memory grows with the distinct values only."""

    def __init__(self) -> None:
        self._counted = _table(pa.array([], type=pa.large_binary()), np.zeros(0, dtype=np.int64))
        self._pending: list[pa.Table] = []
        self._pending_rows = 0

    def add(self, values: pa.Array, counts: np.ndarray) -> None:
        """Add distinct large_binary values and how often each occurs."""
        self._pending.append(_table(values, counts))
        self._pending_rows += len(values)
        # Merging only when the pending values outnumber the counted ones keeps the total work linear.
        if self._pending_rows > max(1 << 16, self._counted.num_rows):
            self._merge()

    def _merge(self) -> None:
        table = pa.concat_tables([self._counted, *self._pending])
        grouped = table.group_by("value", use_threads=False).aggregate([("count", "sum")])
        self._counted = _table(grouped.column("value"), grouped.column("count_sum"))
        self._pending, self._pending_rows = [], 0

    def vocabulary(self, *, min_count: int = 1, max_rows: int | None = None) -> Vocabulary:
        """The values seen at least ``min_count`` times, the most frequent first (ties in byte order).

        With ``max_rows`` the table, row 0 included, has at most that many rows. Within them, missing values
        have an id of their own, however few were seen.
        """
        self._merge()
        table = self._counted
        keep = pc.or_(
            pc.greater_equal(table.column("count"), min_count),
            pc.equal(table.column("value"), pa.scalar(_MISSING, pa.large_binary())),
        )
        table = table.filter(keep)
        order = pc.sort_indices(table, sort_keys=[("count", "descending"), ("value", "ascending")])
        if max_rows is not None:
            order = order[: max_rows - 1]
        return Vocabulary(_one_chunk(table.column("value").take(order)))


class Vocabulary:
    """Distinct values with ids 1, 2, ... in the order given; every other value has id 0.

    Look-ups go through sorted 64-bit hashes and compare the bytes, so that they are exact.
    """

    def __init__(self, values: pa.Array) -> None:
        self.values = values.cast(pa.large_binary())
        salt = 0
        while True:
            hashes = hash_bytes(self.values, salt)
            order = np.argsort(hashes, kind="stable")
            hashes = hashes[order]
            if (hashes[1:] != hashes[:-1]).all():
                break
            if salt == 0 and len(pc.unique(self.values)) != len(self.values):
                raise ValueError("vocabulary: a value is listed twice; the file is damaged")
            salt += 1
        self._salt = salt
        self._hashes = hashes
        self._places = order

    @property
    def num_rows(self) -> int:
        """Rows of the table: the values and row 0."""
        return len(self.values) + 1

    def lookup(self, values: pa.Array) -> np.ndarray:
        """int64 ids of large_binary values (no nulls)."""
        if not len(self.values) or not len(values):
            return np.zeros(len(values), dtype=np.int64)
        hashes = hash_bytes(values, self._salt)
        slots = np.minimum(np.searchsorted(self._hashes, hashes), self._hashes.size - 1)
        places = self._places[slots]
        same = pc.equal(self.values.take(pa.array(places)), values).to_numpy(zero_copy_only=False)
        return np.where(same, places + 1, UNKNOWN)


def _table(values: pa.Array | pa.ChunkedArray, counts: np.ndarray | pa.ChunkedArray) -> pa.Table:
    return pa.table({"value": values, "count": counts})


def _one_chunk(values: pa.ChunkedArray) -> pa.Array:
    combined = values.combine_chunks()
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined

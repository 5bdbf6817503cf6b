"""Exact counters of row ids: an array for most tables, merged sorted runs for giant ones."""

from __future__ import annotations

from typing import Protocol

import numpy as np

# Above this many rows an int64 per row (512 MB) costs more than keeping only the rows that occur.
DENSE_ROWS = 64 * 2**20
# Ids that a sparse counter gathers before it sorts and merges them (32 MB).
_BUFFERED_IDS = 4 * 2**20


class Counter(Protocol):
    """Counts ids of one table."""

    def add(self, ids: np.ndarray) -> None:
        """Count ids, int64 [n]; ValueError for one outside the table."""
        ...

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids that occurred, ascending int64 [seen], and their counts, int64 [seen]."""
        ...


def make_counter(table: str, num_embeddings: int, *, dense_rows: int = DENSE_ROWS) -> Counter:
    """The counter that suits a table of this size."""
    return (DenseCounter if num_embeddings <= dense_rows else SparseCounter)(table, num_embeddings)


def _check(table: str, num_embeddings: int, ids: np.ndarray) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= num_embeddings):
        wrong = ids[(ids < 0) | (ids >= num_embeddings)][0]
        raise ValueError(f"table {table}: id {wrong} is out of range for {num_embeddings} rows")


class DenseCounter:
    """One int64 per row of the table."""

    def __init__(self, table: str, num_embeddings: int) -> None:
        self._table = table
        self._counts = np.zeros(num_embeddings, dtype=np.int64)

    def add(self, ids: np.ndarray) -> None:
        """Count ids, int64 [n]."""
        _check(self._table, self._counts.size, ids)
        # bincount walks the whole table, add.at only the ids, but at several times the cost of each.
        if self._counts.size <= 4 * ids.size:
            self._counts += np.bincount(ids, minlength=self._counts.size)
        else:
            np.add.at(self._counts, ids, 1)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids that occurred and their counts."""
        ids = np.flatnonzero(self._counts)
        return ids, self._counts[ids]


class SparseCounter:
    """16 bytes per row that occurred, plus a buffer of ids not yet merged."""

    def __init__(self, table: str, num_embeddings: int, *, buffered_ids: int = _BUFFERED_IDS) -> None:
        self._table = table
        self._num_embeddings = num_embeddings
        self._limit = buffered_ids
        self._ids = np.zeros(0, dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int64)
        self._buffer: list[np.ndarray] = []
        self._buffered = 0

    def add(self, ids: np.ndarray) -> None:
        """Count ids, int64 [n]."""
        _check(self._table, self._num_embeddings, ids)
        self._buffer.append(ids.copy())  # ids may be a view of a batch that should not be kept alive
        self._buffered += ids.size
        # Merging costs a pass over all that is known: let the buffer grow along, so that passes stay few.
        if self._buffered >= max(self._limit, self._ids.size // 4):
            self._merge()

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids that occurred and their counts."""
        self._merge()
        return self._ids, self._counts

    def _merge(self) -> None:
        if not self._buffer:
            return
        fresh, counts = np.unique(np.concatenate(self._buffer), return_counts=True)
        self._buffer, self._buffered = [], 0
        place = np.searchsorted(self._ids, fresh)
        known = np.zeros(fresh.size, dtype=bool)
        inside = place < self._ids.size
        known[inside] = self._ids[place[inside]] == fresh[inside]
        self._counts[place[known]] += counts[known]
        self._ids = np.insert(self._ids, place[~known], fresh[~known])
        self._counts = np.insert(self._counts, place[~known], counts[~known])

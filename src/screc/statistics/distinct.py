"""Different rows per batch: what is left of a batch's look-ups where each row is fetched once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from screc import _native
from screc.data import Batch

BATCH_SIZES = (64, 256, 1024, 4096, 16384, 65536)
# Batches of the log that are measured at most, half as many at least once there are so many; and one in so
# many of the smaller batches that each can be cut into. A mean over so many look-ups hardly varies.
_MOST_BATCHES, _EVERY = 8, 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DistinctRows:
    """Different rows that a batch looks up in one table.

    Attributes:
        batch_size: samples of a batch.
        batches: batches measured, spread evenly over the log.
        lookups: look-ups of a batch, mean.
        rows: different rows of a batch, mean.
    """

    batch_size: int
    batches: int
    lookups: float
    rows: float

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batches < 1 or not 0 <= self.rows <= self.lookups:
            raise ValueError(
                f"distinct rows: {self.rows} of {self.lookups} look-ups in {self.batches} batches of "
                f"{self.batch_size} samples"
            )

    @property
    def share(self) -> float:
        """Different rows / look-ups; 1 without look-ups."""
        return self.rows / self.lookups if self.lookups else 1.0


class DistinctSampler:
    """Measures some batches of a log, spread evenly over it, cut into batches of each size."""

    def __init__(self, num_tables: int, batch_sizes: tuple[int, ...] = BATCH_SIZES) -> None:
        self._num_tables = num_tables
        self._sizes = batch_sizes
        self._stride = 1  # every stride-th batch is measured
        self._seen = 0
        self._measured: list[list[tuple[int, np.ndarray, np.ndarray]]] = []

    def add(self, batch: Batch, pool: _native.ThreadPool | None = None) -> None:
        """Takes note of the next batch of the log; it must have been checked."""
        number = self._seen
        self._seen += 1
        if number % self._stride:
            return
        found = []
        for size in self._sizes:
            starts = np.arange(0, batch.batch_size - size + 1, size)[::_EVERY]
            if not starts.size:
                break
            edges = batch.batch_size * np.arange(self._num_tables)[:, None] + starts
            lookups = (batch.offsets[edges + size] - batch.offsets[edges]).sum(axis=1)
            distinct = _native.count_distinct(batch.ids, batch.offsets, batch.batch_size, size, _EVERY, pool)
            found.append((starts.size, lookups, distinct.sum(axis=1)))
        self._measured.append(found)
        if len(self._measured) == _MOST_BATCHES:
            self._measured = self._measured[::2]
            self._stride *= 2

    def result(self, table: int) -> tuple[DistinctRows, ...]:
        """What a table's batches looked up, for each size that the log has a batch of."""
        results = []
        for place, size in enumerate(self._sizes):
            found = [batch[place] for batch in self._measured if len(batch) > place]
            if not found:
                break
            batches = sum(windows for windows, _, _ in found)
            lookups = sum(int(lookups[table]) for _, lookups, _ in found) / batches
            rows = sum(int(distinct[table]) for _, _, distinct in found) / batches
            results.append(DistinctRows(batch_size=size, batches=batches, lookups=lookups, rows=rows))
        return tuple(results)

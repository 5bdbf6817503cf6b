"""Which rows a cache that the hardware manages is taken to hold: those that are looked up most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from screc.statistics.curve import AccessCurve


class Hottest:
    """All rows of all tables in the order of their look-ups per batch.

    Args:
        curves: access curve of each table.
        lookups: look-ups per batch of each table, float64 [tables].
    """

    def __init__(self, curves: Sequence[AccessCurve], lookups: np.ndarray) -> None:
        self._num_tables = len(curves)
        table = np.repeat(np.arange(len(curves)), [curve.probabilities.size for curve in curves])
        rows = np.concatenate([np.diff(curve.boundaries) for curve in curves])
        rate = lookups[table] * np.concatenate([curve.probabilities for curve in curves])
        # Of a table that is never looked up nothing is held.
        order = np.argsort(-rate, kind="stable")[: np.count_nonzero(rate > 0)]
        self._table, self._rows = table[order], rows[order].astype(np.float64)

    def held(self, row_bytes: np.ndarray, capacity: float) -> np.ndarray:
        """Rows of each table that a memory of ``capacity`` bytes holds, int64 [tables].

        A memory of the hottest rows answers most look-ups; hardware's replacement comes near it. Of rows
        equally hot as many are held as fit.

        Args:
            row_bytes: bytes that a row of each table takes, [tables].
            capacity: of the memory.
        """
        sizes = self._rows * row_bytes[self._table]
        end = np.cumsum(sizes)
        part = np.clip((capacity - (end - sizes)) / np.maximum(sizes, 1.0), 0.0, 1.0)
        held = np.bincount(self._table, weights=np.floor(part * self._rows), minlength=self._num_tables)
        return held.astype(np.int64)

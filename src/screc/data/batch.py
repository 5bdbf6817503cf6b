"""The batch: what flows from a click log into training, statistics and serving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Batch:
    """B samples of dense features, bags of row ids for T tables, and labels.

    Attributes:
        dense: float32 [B, num_dense].
        ids: int64 [nnz], the row ids of all bags, table by table.
        offsets: int64 [T * B + 1], table-major: the bag of sample b in table t is
            ``ids[offsets[t * B + b] : offsets[t * B + b + 1]]``. An empty bag is allowed and pools to zero.
        labels: float32 [B] of 0 and 1, or None where they are unknown.
    """

    dense: np.ndarray
    ids: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray | None = None

    @property
    def batch_size(self) -> int:
        """B, the number of samples."""
        return self.dense.shape[0]

    @property
    def num_tables(self) -> int:
        """T, the number of embedding tables."""
        return (self.offsets.size - 1) // self.batch_size if self.batch_size else 0

    def table_ids(self, table: int) -> np.ndarray:
        """All ids of one table, int64 [nnz_t]; a view."""
        start, stop = table * self.batch_size, (table + 1) * self.batch_size
        return self.ids[self.offsets[start] : self.offsets[stop]]

    def table_offsets(self, table: int) -> np.ndarray:
        """Offsets of one table into :meth:`table_ids`, int64 [B + 1]; a copy that starts at 0."""
        start, stop = table * self.batch_size, (table + 1) * self.batch_size
        own = self.offsets[start : stop + 1]
        return own - own[0]

    def rows(self, start: int, stop: int) -> Batch:
        """Samples ``start`` to ``stop`` (exclusive, clipped to B) as a batch of their own."""
        size = self.batch_size
        start, stop = max(0, start), min(size, stop)
        begins = self.offsets[:-1].reshape(self.num_tables, size)[:, start:stop]
        ends = self.offsets[1:].reshape(self.num_tables, size)[:, start:stop]
        lengths = (ends - begins).ravel()
        offsets = np.zeros(lengths.size + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        pieces = [self.ids[b[0] : e[-1]] for b, e in zip(begins, ends, strict=True) if b.size]
        return Batch(
            dense=self.dense[start:stop],
            ids=np.concatenate(pieces) if pieces else self.ids[:0],
            offsets=offsets,
            labels=None if self.labels is None else self.labels[start:stop],
        )

    def validate(self, num_embeddings: Sequence[int], num_dense: int) -> None:
        """Raise unless the batch fits tables of these sizes.

        Raises:
            TypeError: an array has the wrong dtype.
            ValueError: a shape, an offset, an id, a dense value or a label is wrong; the message names the
                field, the value and where it stands.
        """
        for name, dtype, ndim in (("dense", np.float32, 2), ("ids", np.int64, 1), ("offsets", np.int64, 1)):
            array = getattr(self, name)
            if array.dtype != dtype:
                raise TypeError(
                    f"{name}: expected {np.dtype(dtype)}, got {array.dtype}; convert it with astype"
                )
            if array.ndim != ndim:
                raise ValueError(f"{name}: expected {ndim} dimension(s), got shape {list(array.shape)}")
        size, tables = self.batch_size, len(num_embeddings)
        if self.dense.shape[1] != num_dense:
            raise ValueError(f"dense: expected {num_dense} columns, got {self.dense.shape[1]}")
        if not np.isfinite(self.dense).all():
            row, column = np.argwhere(~np.isfinite(self.dense))[0]
            raise ValueError(
                f"dense[{row}, {column}] is {self.dense[row, column]}; fill or drop missing values first"
            )
        if self.offsets.size != tables * size + 1:
            raise ValueError(
                f"offsets: expected {tables} tables x {size} samples + 1 = {tables * size + 1} entries, "
                f"got {self.offsets.size}"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != self.ids.size:
            raise ValueError(
                f"offsets: must run from 0 to the number of ids ({self.ids.size}), "
                f"got {self.offsets[0]} to {self.offsets[-1]}"
            )
        steps = np.diff(self.offsets)
        if (steps < 0).any():
            where = int(np.argmax(steps < 0))
            raise ValueError(
                f"offsets[{where + 1}] = {self.offsets[where + 1]} is below offsets[{where}] = "
                f"{self.offsets[where]}; offsets must not decrease"
            )
        for table, rows in enumerate(num_embeddings):
            ids = self.table_ids(table)
            if ids.size and (ids.min() < 0 or ids.max() >= rows):
                wrong = ids[(ids < 0) | (ids >= rows)][0]
                raise ValueError(f"ids: {wrong} is out of range for table {table} with {rows} rows")
        if self.labels is not None:
            if self.labels.dtype != np.float32:
                raise TypeError(f"labels: expected float32, got {self.labels.dtype}; convert it with astype")
            if self.labels.shape != (size,):
                raise ValueError(f"labels: expected shape [{size}], got {list(self.labels.shape)}")
            strange = (self.labels != 0) & (self.labels != 1)
            if strange.any():
                where = int(np.argmax(strange))
                raise ValueError(f"labels[{where}] = {self.labels[where]} is neither 0 nor 1")

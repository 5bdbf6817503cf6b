"""The rows of a tensor-train band and what each counts, in the pieces that a fit passes through.

Slots that share all digits but the last are a prefix; a prefix is a number m of the digits before, its left,
and the last but one digit i, its middle. Passes run over blocks of middles: within one, all lefts in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from screc import _native

from .layout import TtShape

# Gives the rows float32 [n, dim] of slots int64 [n].
RowSource = Callable[[np.ndarray], np.ndarray]
# Gives what slots int64 [n] count, numbers [n].
WeightSource = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole prefixes of a band: of lefts from ``left`` on, the middles from ``middle`` on, ``middles`` each.

    Attributes:
        rows: float32 [slots, dim]; what rows of weight 0 hold is undefined.
        weights: float32 [slots].
    """

    left: int
    middle: int
    middles: int
    rows: np.ndarray
    weights: np.ndarray


class TtBand:
    """A band of a given shape behind one face, whatever holds its rows.

    Args:
        rows: float32 [num_rows, dim], which is read where it lies, or a function that gives rows of slots.
        weights: numbers [num_rows] or a function that gives them; 1 for every slot when None.
        num_rows: slots of the band; those that ``shape`` addresses beyond them have weight 0.
        shape: of the band's cores.
        chunk_bytes: rows asked for at a time, one prefix at least.
        kept_bytes: of rows that come from a function, how much is kept for the next pass.

    Raises:
        TypeError: rows or weights of a wrong type.
        ValueError: ``shape`` addresses fewer rows, or the arrays do not fit it.
    """

    def __init__(
        self,
        rows: RowSource | np.ndarray,
        weights: WeightSource | np.ndarray | None,
        num_rows: int,
        shape: TtShape,
        *,
        chunk_bytes: int,
        kept_bytes: int = 0,
    ) -> None:
        if shape.num_rows < num_rows:
            raise ValueError(f"shape: row_factors address {shape.num_rows} rows, the band has {num_rows}")
        if num_rows < 1:
            raise ValueError(f"num_rows: a band has at least 1 row, got {num_rows}")
        self.num_rows, self.shape, self.dim = num_rows, shape, shape.embedding_dim
        self.lefts = math.prod(shape.row_factors[:-2])
        self.middles, self.slices = shape.row_factors[-2:]
        self._rows, self._weights = rows, weights
        if isinstance(rows, np.ndarray):
            _check_rows(rows, num_rows, self.dim)
        if isinstance(weights, np.ndarray) and weights.shape != (num_rows,):
            raise ValueError(f"weights: expected shape [{num_rows}], got {list(weights.shape)}")
        self._chunk_bytes, self._room = chunk_bytes, kept_bytes
        self._kept: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def chunks(self, first: int, stop: int) -> Iterator[Chunk]:
        """All lefts of middles [first, stop).

        Raises:
            ValueError: rows of another shape, or a weight that is negative or not finite.
        """
        own = stop - first
        most = max(1, self._chunk_bytes // (4 * self.dim * self.slices))  # prefixes of a chunk
        for left in range(0, self.lefts, max(1, most // own) if own == self.middles else 1):
            if own == self.middles and most >= own:
                yield self._chunk(left, 0, own, min(max(1, most // own), self.lefts - left))
                continue
            for middle in range(first, stop, most):
                yield self._chunk(left, middle, min(most, stop - middle), 1)

    def middle_weights(self) -> np.ndarray:
        """The sum of the weights of each middle, float64 [middles].

        Raises:
            ValueError: a weight is negative or not finite.
        """
        sums = np.zeros(self.middles)
        own = self.middles * self.slices
        for left in range(self.lefts):
            weights = self._weights_of(left * own, (left + 1) * own)
            sums += weights.reshape(self.middles, self.slices).sum(axis=1, dtype=np.float64)
        return sums

    def sample(self, middles: Sequence[int]) -> TtBand:
        """The band of some middles, ascending, copied into memory."""
        factors = (*self.shape.row_factors[:-2], len(middles), self.slices)
        shape = TtShape(row_factors=factors, col_factors=self.shape.col_factors, ranks=self.shape.ranks)
        rows = _empty(self.lefts, len(middles), self.slices, self.dim)
        weights = np.empty((self.lefts, len(middles), self.slices), np.float32)
        for left in range(self.lefts):
            for place, middle in enumerate(middles):
                start = (left * self.middles + middle) * self.slices
                rows[left, place], weights[left, place] = self._read(start, start + self.slices)
        flat = rows.reshape(-1, self.dim)
        return TtBand(flat, weights.reshape(-1), len(flat), shape, chunk_bytes=self._chunk_bytes)

    def unweighted(self) -> TtBand:
        """The same rows, each with weight 1 if it had any."""

        def ones(slots: np.ndarray) -> np.ndarray:
            return self._weights_of(int(slots[0]), int(slots[-1]) + 1) > 0

        return TtBand(self._rows, ones, self.num_rows, self.shape, chunk_bytes=self._chunk_bytes)

    def _chunk(self, left: int, middle: int, middles: int, lefts: int) -> Chunk:
        start = (left * self.middles + middle) * self.slices
        stop = start + lefts * middles * self.slices
        if (start, stop) not in self._kept:
            rows, weights = self._read(start, stop)
            if isinstance(self._rows, np.ndarray) or rows.nbytes + weights.nbytes > self._room:
                return Chunk(left, middle, middles, rows, weights)
            self._room -= rows.nbytes + weights.nbytes
            self._kept[start, stop] = rows, weights
        return Chunk(left, middle, middles, *self._kept[start, stop])

    def _read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and weights of slots [start, stop)."""
        weights = self._weights_of(start, stop)
        if isinstance(self._rows, np.ndarray):
            rows = self._rows[start:stop]
            if len(rows) < stop - start:
                rows = np.concatenate((rows, np.zeros((stop - start - len(rows), self.dim), np.float32)))
            return rows, weights
        rows = np.zeros((stop - start, self.dim), np.float32)
        wanted = np.flatnonzero(weights)
        if wanted.size:
            found = self._rows(start + wanted)
            _check_rows(found, wanted.size, self.dim)
            rows[wanted] = found
        return rows, weights

    def _weights_of(self, start: int, stop: int) -> np.ndarray:
        """Weights of slots [start, stop), float32; 0 beyond the band."""
        end = min(stop, self.num_rows)
        if start >= end:
            return np.zeros(stop - start, np.float32)
        if self._weights is None:
            found = np.ones(end - start, np.float32)
        elif isinstance(self._weights, np.ndarray):
            found = self._weights[start:end]
        else:
            found = np.asarray(self._weights(np.arange(start, end)))
            if found.shape != (end - start,):
                raise ValueError(f"weights: expected shape [{end - start}], got {list(found.shape)}")
        weights = found.astype(np.float32, copy=False)
        if not (weights.min() >= 0 and weights.max() < np.inf):
            where = int(np.argmin(np.isfinite(weights) & (weights >= 0)))
            raise ValueError(
                f"weights: slot {start + where} has {found[where]}; weights must be finite and not negative"
            )
        if end < stop:
            weights = np.concatenate((weights, np.zeros(stop - end, np.float32)))
        return weights


def _empty(*shape: int) -> np.ndarray:
    """Float32 on huge pages, which are far quicker to get."""
    return _native.empty(4 * math.prod(shape)).view(np.float32).reshape(shape)


def _check_rows(rows: np.ndarray, count: int, dim: int) -> None:
    if rows.shape != (count, dim):
        raise ValueError(f"rows: expected [{count}, {dim}], got {list(rows.shape)}")
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise TypeError(f"rows: expected a C-contiguous float32 array, got {rows.dtype}; convert it first")

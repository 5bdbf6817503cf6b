"""The rows of a tensor-train band and what each counts, in the pieces that a fit passes through.

Slots that share all digits but the last are a prefix, numbered by those digits: m * middles + i, where i is
the last but one digit, its middle, and m the number of the digits before, its left. Passes run over blocks of
middles: within one, all lefts in order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np

from .layout import TtShape

# Gives the rows float32 [n, dim] of slots int64 [n].
RowSource = Callable[[np.ndarray], np.ndarray]
# Gives what slots int64 [n] count, numbers [n].
WeightSource = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole prefixes of a band: of lefts from ``left`` on, the middles from ``middle`` on, ``middles`` each.

    Attributes:
        rows: float32 [.., dim]; rows of weight 0 are undefined and may lie beyond its end.
        places: int64 [n], where in ``rows`` those of each prefix lie, counted in prefixes.
        weights: float32 [n * slices].
    """

    left: int
    middle: int
    middles: int
    rows: np.ndarray
    places: np.ndarray
    weights: np.ndarray


class TtRows(ABC):
    """Rows and weights that make up a tensor of a given shape.

    Attributes:
        shape: of the tensor train to fit.
        lefts, middles, slices: numbers of the digits before the last two, of the last but one and the last.
    """

    def __init__(self, shape: TtShape, chunk_bytes: int) -> None:
        self.shape, self.dim = shape, shape.embedding_dim
        self.lefts = math.prod(shape.row_factors[:-2])
        self.middles, self.slices = shape.row_factors[-2:]
        self._prefixes_per_chunk = max(1, chunk_bytes // (4 * self.dim * self.slices))

    def chunks(self, first: int, stop: int) -> Iterator[Chunk]:
        """All lefts of middles [first, stop).

        Raises:
            ValueError: rows of another shape.
        """
        own, most = stop - first, self._prefixes_per_chunk
        lefts = max(1, most // own)
        for left in range(0, self.lefts, lefts):
            for middle in range(first, stop, min(most, own)):
                middles = min(most, stop - middle)
                prefixes = self._prefixes(left, min(left + lefts, self.lefts), middle, middle + middles)
                yield Chunk(left, middle, middles, *self._read(prefixes))

    def slots(self, chunk: Chunk) -> np.ndarray:
        """The slots that a chunk's weights are of, int64 [n * slices]."""
        stop = chunk.left + len(chunk.places) // chunk.middles
        prefixes = self._prefixes(chunk.left, stop, chunk.middle, chunk.middle + chunk.middles)
        return slots_of(self._originals(prefixes), self.slices)

    def rows(self, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a chunk that have a weight, float32 [m, dim], and which of its slots those are."""
        used = np.flatnonzero(chunk.weights)
        return chunk.rows[slots_of(chunk.places, self.slices)[used]], used

    def _prefixes(self, left: int, left_stop: int, middle: int, middle_stop: int) -> np.ndarray:
        starts = np.arange(left, left_stop)[:, None] * self.middles
        return (starts + np.arange(middle, middle_stop)).reshape(-1)

    @abstractmethod
    def _read(self, prefixes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, places and weights of ascending prefixes."""

    @abstractmethod
    def _originals(self, prefixes: np.ndarray) -> np.ndarray:
        """The numbers of prefixes in the band that is fitted."""


class TtBand(TtRows):
    """A band, whatever holds its rows.

    Args:
        rows: float32 [num_rows, dim], which is read where it lies, or a function that gives rows of slots.
        weights: numbers [num_rows] or a function that gives them; 1 for every slot when None.
        num_rows: slots of the band; those that ``shape`` addresses beyond them have weight 0.
        shape: of the band's cores.
        chunk_bytes: rows asked for at a time, one prefix at least.
        kept_bytes: of rows that come from a function, how much is kept for the next pass.

    Raises:
        TypeError: rows of a wrong type.
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
        super().__init__(shape, chunk_bytes)
        if shape.num_rows < num_rows:
            raise ValueError(f"shape: row_factors address {shape.num_rows} rows, the band has {num_rows}")
        if num_rows < 1:
            raise ValueError(f"num_rows: a band has at least 1 row, got {num_rows}")
        if isinstance(rows, np.ndarray):
            _check_rows(rows, num_rows, self.dim)
        if isinstance(weights, np.ndarray) and weights.shape != (num_rows,):
            raise ValueError(f"weights: expected shape [{num_rows}], got {list(weights.shape)}")
        self.num_rows, self._rows, self._weights = num_rows, rows, weights
        self._chunk_bytes, self._room = chunk_bytes, kept_bytes
        self._kept: dict[tuple[int, int], np.ndarray] = {}

    def without(self, weights: np.ndarray) -> TtBand:
        """The same band with weights float32 [num_rows] that are 0 for more of its rows."""
        band = copy(self)
        band._weights = weights
        return band

    def middle_weights(self) -> np.ndarray:
        """The sum of the weights of each middle, float64 [middles].

        Raises:
            ValueError: a weight is negative or not finite.
        """
        sums = np.zeros(self.middles)
        for left in range(self.lefts):
            prefixes = self._prefixes(left, left + 1, 0, self.middles)
            weights = self._weights_of(prefixes)
            if not (weights.min() >= 0 and weights.max() < np.inf):
                where = int(np.argmin(np.isfinite(weights) & (weights >= 0)))
                slot = slots_of(prefixes, self.slices)[where]
                raise ValueError(
                    f"weights: slot {slot} has {weights[where]}; weights must be finite and not negative"
                )
            sums += weights.reshape(self.middles, self.slices).sum(axis=1, dtype=np.float64)
        return sums

    def sample(self, middles: np.ndarray) -> TtSample:
        """The tensor of some of the middles, int64 [n], ascending. Rows from a function are copied."""
        prefixes = (np.arange(self.lefts)[:, None] * self.middles + middles).reshape(-1)
        factors = (*self.shape.row_factors[:-2], len(middles), self.slices)
        shape = self.shape.model_copy(update={"row_factors": factors})
        if isinstance(self._rows, np.ndarray):
            weights = self._weights_of(prefixes)
            return TtSample(self._rows, prefixes, weights, prefixes, shape, self._chunk_bytes)
        rows = np.empty((prefixes.size * self.slices, self.dim), np.float32)
        weights = np.empty(prefixes.size * self.slices, np.float32)
        for first in range(0, prefixes.size, self._prefixes_per_chunk):
            some = prefixes[first : first + self._prefixes_per_chunk]
            slots = slice(first * self.slices, (first + some.size) * self.slices)
            weights[slots] = self._weights_of(some)
            rows[slots] = self._fetch(some, weights[slots])
        return TtSample(rows, np.arange(prefixes.size), weights, prefixes, shape, self._chunk_bytes)

    def _read(self, prefixes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if isinstance(self._rows, np.ndarray):
            return self._rows, prefixes, self._weights_of(prefixes)
        key = int(prefixes[0]), int(prefixes[-1])
        weights = self._weights_of(prefixes)
        rows = self._kept.get(key)
        if rows is None:
            rows = self._fetch(prefixes, weights)
            if rows.nbytes <= self._room:
                self._room -= rows.nbytes
                self._kept[key] = rows
        return rows, np.arange(prefixes.size), weights

    def _originals(self, prefixes: np.ndarray) -> np.ndarray:
        return prefixes

    def _fetch(self, prefixes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The rows of prefixes from the function, those without a weight left out and undefined."""
        assert not isinstance(self._rows, np.ndarray)
        wanted = np.flatnonzero(weights)
        if wanted.size == 0:
            return np.empty((weights.size, self.dim), np.float32)
        found = self._rows(slots_of(prefixes, self.slices)[wanted])
        _check_rows(found, wanted.size, self.dim)
        if wanted.size == weights.size:
            return found
        rows = np.empty((weights.size, self.dim), np.float32)
        rows[wanted] = found
        return rows

    def _weights_of(self, prefixes: np.ndarray) -> np.ndarray:
        """Weights of the slots of ascending prefixes, float32 [n * slices]; 0 beyond the band."""
        cuts = np.flatnonzero(np.diff(prefixes) != 1) + 1
        starts = prefixes[np.concatenate(([0], cuts))] * self.slices
        stops = (prefixes[np.concatenate((cuts - 1, [-1]))] + 1) * self.slices
        runs = [self._weight_run(*run) for run in zip(starts.tolist(), stops.tolist(), strict=True)]
        return runs[0] if len(runs) == 1 else np.concatenate(runs)

    def _weight_run(self, start: int, stop: int) -> np.ndarray:
        """Weights of slots [start, stop)."""
        there = min(stop, self.num_rows) - start
        if there <= 0:
            return np.zeros(stop - start, np.float32)
        if self._weights is None:
            found = np.ones(there, np.float32)
        elif isinstance(self._weights, np.ndarray):
            found = self._weights[start : start + there].astype(np.float32, copy=False)
        else:
            found = np.asarray(self._weights(np.arange(start, start + there)), np.float32)
            if found.shape != (there,):
                raise ValueError(f"weights: expected shape [{there}], got {list(found.shape)}")
        return found if there == stop - start else np.pad(found, (0, stop - start - there))


class TtSample(TtRows):
    """Some middles of a band, their weights in memory.

    Args:
        rows: float32 [.., dim].
        places: int64 [prefixes], where in ``rows`` those of each prefix lie, counted in prefixes.
        weights: float32 [prefixes * slices].
        originals: int64 [prefixes], their numbers in the band.
        shape: of the sample's tensor train.
        chunk_bytes: of rows at a time.
    """

    def __init__(
        self,
        rows: np.ndarray,
        places: np.ndarray,
        weights: np.ndarray,
        originals: np.ndarray,
        shape: TtShape,
        chunk_bytes: int,
    ) -> None:
        super().__init__(shape, chunk_bytes)
        self._rows, self._places, self._weights = rows, places, weights
        self._original_numbers, self._chunk_bytes = originals, chunk_bytes

    def unweighted(self) -> TtSample:
        """The same rows, each with weight 1 if it had any."""
        ones = (self._weights > 0).astype(np.float32)
        return TtSample(self._rows, self._places, ones, self._original_numbers, self.shape, self._chunk_bytes)

    def _read(self, prefixes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weights = self._weights.reshape(-1, self.slices)
        if prefixes[-1] - prefixes[0] == prefixes.size - 1:
            weights = weights[prefixes[0] : prefixes[-1] + 1]
        else:
            weights = weights[prefixes]
        return self._rows, self._places[prefixes], weights.reshape(-1)

    def _originals(self, prefixes: np.ndarray) -> np.ndarray:
        return self._original_numbers[prefixes]


def slots_of(prefixes: np.ndarray, slices: int) -> np.ndarray:
    """The slots of prefixes, int64 [n * slices]."""
    return (prefixes[:, None] * slices + np.arange(slices)).reshape(-1)


def _check_rows(rows: np.ndarray, count: int, dim: int) -> None:
    if rows.shape != (count, dim):
        raise ValueError(f"rows: expected [{count}, {dim}], got {list(rows.shape)}")
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        raise TypeError(f"rows: expected a C-contiguous float32 array, got {rows.dtype}; convert it first")

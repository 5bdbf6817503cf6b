"""Which rows of which table deserve how many bits: the planning of the mixed method.

Every table's ids, hottest first, are cut into bands: own rows of 8, 4, 3 or 2 bits a number, then ids that
share rows by hash. What a band is worth follows from the look-ups of its ids alone:

- a row that is looked up c times is learned to the share ``c / (c + half_learned)``, and one seen not more
  than ``seldom`` times is noise rather than knowledge: its own row is worth ``c (c - seldom) / (c +
  half_learned)``;
- b bits keep ``1 - LOSS[b]`` of that;
- of a bucket of the hash, an id keeps the share that its look-ups are of the bucket's.

Bytes are those of the rows, their scales, and the index from ids to rows as the store holds it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from screc.embeddings.budget import BudgetError
from screc.storage.layout import index_bytes

#: Of what rows are worth, the share that rounding to so many bits loses: AUC lost by rounding trained rows,
#: over what all tables together are worth, on recipe G, Frappe and MovieLens-1M (docs/guide/recipe-g.md).
LOSS = {8: 0.0001, 4: 0.001, 3: 0.005, 2: 0.025}
SCALE_BYTES = 4
_FIRST_GROUP, _GROWTH = 64, 4
_ENTRY_BYTES = 16  # of a hash index, for a row
_ROUNDS = 48


def packed_row(embedding_dim: int, bits: int) -> int:
    """Bytes of a row of so many bits a number."""
    return -(-embedding_dim * bits // 8)


def scale_groups(rows: int) -> list[int]:
    """Sizes of the groups of a band's rows that share a scale, hottest first: each four times the last."""
    groups, size = [], _FIRST_GROUP
    while rows > 0:
        groups.append(min(size, rows))
        rows -= groups[-1]
        size *= _GROWTH
    return groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """How a table's ids are held, from the hottest on.

    Attributes:
        num_embeddings: ids.
        own: (bits, rows) of the bands with a row for each id.
        shared: rows that all other ids share by hash; 0 if there are none.
        shared_bits: of these.
    """

    num_embeddings: int
    own: tuple[tuple[int, int], ...] = ()
    shared: int = 0
    shared_bits: int = 4

    @property
    def num_own(self) -> int:
        """Ids with a row of their own."""
        return sum(rows for _, rows in self.own)

    def remap_bytes(self) -> int:
        """Bytes of the indices from ids to bands, which the last band goes without."""
        indexed = self.own if self.shared else self.own[:-1]
        return sum(index_bytes(self.num_embeddings, rows) for _, rows in indexed)

    def row_bytes(self, embedding_dim: int) -> int:
        """Bytes of the rows and their scales."""
        every = [*self.own, (self.shared_bits, self.shared)]
        return sum(
            rows * packed_row(embedding_dim, bits) + SCALE_BYTES * len(scale_groups(rows))
            for bits, rows in every
        )

    def total_bytes(self, embedding_dim: int) -> int:
        """All of it."""
        return self.row_bytes(embedding_dim) + self.remap_bytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """The two numbers that say how much is learned from look-ups.

    Attributes:
        half_learned: look-ups after which half of a row is learned.
        seldom: look-ups below which an own row does harm.
    """

    half_learned: float = 100.0
    seldom: float = 1.5

    def __post_init__(self) -> None:
        if not (self.half_learned >= 0 and self.seldom >= 0):
            raise ValueError(
                f"half_learned and seldom must not be negative, got {self.half_learned} and {self.seldom}"
            )

    def of(self, counts: np.ndarray) -> np.ndarray:
        """Of an own row for ids with these look-ups, float64."""
        counts = counts.astype(np.float64)
        return counts * (counts - self.seldom) / np.maximum(counts + self.half_learned, 1e-9)


class _Table:
    """A table's ids by look-ups, and what bands of them are worth."""

    def __init__(self, counts: np.ndarray, worth: Worth, embedding_dim: int) -> None:
        ordered = np.sort(counts)[::-1]
        self.size, self.dim = len(ordered), embedding_dim
        self._each = worth.of(ordered)
        # Worth rises with the look-ups; below `seldom` it is negative, which must not break the order.
        self._rising = np.maximum.accumulate(self._each[::-1])
        self._sums = np.concatenate([[0.0], np.cumsum(self._each)])
        self._counts, self._worth = ordered.astype(np.float64), worth
        self._looked_up = np.concatenate([[0.0], np.cumsum(self._counts)])
        self._shares: dict[tuple[int, int], float] = {}

    def above(self, least: float) -> int:
        """How many ids are worth more than ``least``."""
        return self.size - int(np.searchsorted(self._rising, least, side="right"))

    def value(self, bands: Bands) -> float:
        """What bands are worth."""
        total, first = 0.0, 0
        for bits, rows in bands.own:
            total += (1 - LOSS[bits]) * (self._sums[first + rows] - self._sums[first])
            first += rows
        if bands.shared:
            total += (1 - LOSS[bands.shared_bits]) * self._shared_value(first, bands.shared)
        return total

    def _shared_value(self, first: int, rows: int) -> float:
        """Of ids from a place on that share so many rows: the part of its bucket that each is."""
        key = (first, rows)
        if key not in self._shares:
            counts, number = np.unique(self._counts[first:], return_counts=True)
            others = (self._looked_up[-1] - self._looked_up[first] - counts) / rows
            part = counts / np.maximum(counts + np.maximum(others, 0.0), 1e-9)
            self._shares[key] = float((number * part * np.maximum(self._worth.of(counts), 0.0)).sum())
        return self._shares[key]

    def best(self, price: float, formats: Sequence[int]) -> Bands:
        """The bands of most worth less the price of their bytes."""
        candidates = list(self._candidates(price, formats))
        nets = [self.value(one) - price * one.total_bytes(self.dim) for one in candidates]
        best = candidates[int(np.argmax(nets))]
        if not best.shared:
            return best
        return self._with_shared(best, price)

    def _candidates(self, price: float, formats: Sequence[int]) -> Iterator[Bands]:
        yield Bands(num_embeddings=self.size, shared=1)
        for bits in formats:
            yield Bands(num_embeddings=self.size, own=((bits, self.size),))
        for bits, entry in itertools.product(formats, (0, _ENTRY_BYTES)):
            cost = packed_row(self.dim, bits) + entry
            rows = self.above(price * cost / (1 - LOSS[bits]))
            if 0 < rows < self.size:
                yield Bands(num_embeddings=self.size, own=((bits, rows),), shared=1)
        for high, low in itertools.combinations(formats, 2):
            more = packed_row(self.dim, high) - packed_row(self.dim, low)
            for first, second in itertools.product((0, _ENTRY_BYTES), repeat=2):
                hot = self.above(price * (more + first - second) / (LOSS[low] - LOSS[high]))
                warm = self.above(price * (packed_row(self.dim, low) + second) / (1 - LOSS[low]))
                if 0 < hot < warm < self.size:
                    own = ((high, hot), (low, warm - hot))
                    yield Bands(num_embeddings=self.size, own=own, shared=1)
                hot = self.above(price * (more + first) / (LOSS[low] - LOSS[high]))
                if 0 < hot < self.size:
                    yield Bands(num_embeddings=self.size, own=((high, hot), (low, self.size - hot)))

    def _with_shared(self, bands: Bands, price: float) -> Bands:
        """The same with the best number of shared rows."""
        left = self.size - bands.num_own
        numbers = [1 << power for power in range(left.bit_length())]
        candidates = [
            Bands(num_embeddings=self.size, own=bands.own, shared=rows, shared_bits=bands.shared_bits)
            for rows in numbers
        ]
        nets = [self.value(one) - price * one.total_bytes(self.dim) for one in candidates]
        return candidates[int(np.argmax(nets))]


def plan_bands(
    counts: Sequence[np.ndarray],
    embedding_dim: int,
    budget: int,
    *,
    worth: Worth | None = None,
    formats: Sequence[int] = (8, 4, 3, 2),
    method: str = "mixed",
) -> list[Bands]:
    """The bands of every table that are worth most within a budget.

    A price per byte is raised until what every table then chooses for itself fits: the best plan of its size
    (of those whose worth is not below a line between two others).

    Args:
        counts: look-ups of each id of each table.
        embedding_dim: length of a row.
        budget: bytes of all tables together.
        worth: how look-ups become worth.
        formats: bits that own rows may have.
        method: named in the error.

    Raises:
        BudgetError: not even one shared row of 2 bits a table fits.
        ValueError: a format is not known.
    """
    formats = sorted(set(formats), reverse=True)
    if not formats or not set(formats) <= LOSS.keys():
        raise ValueError(f"formats must be of {', '.join(map(str, LOSS))} bits, got {formats}")
    smallest = [Bands(num_embeddings=len(one), shared=1, shared_bits=2) for one in counts]
    least = sum(bands.total_bytes(embedding_dim) for bands in smallest)
    if least > budget:
        raise BudgetError.below(method, budget, least)
    tables = [_Table(one, worth or Worth(), embedding_dim) for one in counts]

    def at(price: float) -> list[Bands]:
        return [table.best(price, formats) for table in tables]

    def size(plan: Sequence[Bands]) -> int:
        return sum(bands.total_bytes(embedding_dim) for bands in plan)

    richest = at(0.0)
    if size(richest) <= budget:
        return richest
    best, best_value = smallest, -np.inf
    low, high = 1e-9, 1e9
    for _ in range(_ROUNDS):
        price = (low * high) ** 0.5
        plan = at(price)
        if size(plan) <= budget:
            value = sum(table.value(bands) for table, bands in zip(tables, plan, strict=True))
            if value >= best_value:
                best, best_value = plan, value
            high = price
        else:
            low = price
    return best

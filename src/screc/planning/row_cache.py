"""How many rows are still read from SSD when there is a cache of such rows in DRAM.

Look-ups are taken as independent, as everywhere in the cost model, and the cache as warm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screc.statistics.curve import AccessCurve
from screc.storage.row_store import CachePolicy

# What the store keeps beside each row (native/store/lru_cache.h, sketch_cache.h).
BESIDE_BYTES: dict[CachePolicy, int] = {"lru": 22, "sketch": 16}
_BISECTIONS = 60
_MOST_BATCHES = 1e18


@dataclass(frozen=True, eq=False)
class ColdBand:
    """The ranks of a table that stand on SSD.

    Attributes:
        curve: the table's access curve.
        lookups: of the table, per batch.
        start, stop: the ranks on SSD.
        row_bytes: of an encoded row.
    """

    curve: AccessCurve
    lookups: float
    start: int
    stop: int
    row_bytes: int

    @property
    def num_rows(self) -> int:
        """Rows on SSD."""
        return self.stop - self.start

    def wanted(self, batches: float = 1.0) -> float:
        """Expected number of different rows of the band that so many batches ask for."""
        ranks = np.array([self.start, self.stop])
        return float(np.diff(self.curve.distinct(batches * self.lookups, ranks))[0])


def missed_rows(bands: Sequence[ColdBand], cache_bytes: int, policy: CachePolicy) -> list[float]:
    """Expected number of different rows of each band that a batch reads from SSD.

    Bands whose rows are of one length share their part of the cache, in proportion to their bytes, as in the
    store (native/store/row_cache.h).
    """
    total = sum(band.num_rows * band.row_bytes for band in bands)
    missed = [band.wanted() for band in bands]
    for row_bytes in {band.row_bytes for band in bands}:
        members = [number for number, band in enumerate(bands) if band.row_bytes == row_bytes]
        own = sum(bands[number].num_rows for number in members) * row_bytes
        entries = own / total * cache_bytes / (row_bytes + BESIDE_BYTES[policy])
        part = [bands[number] for number in members]
        found = _missed_by_lru(part, entries) if policy == "lru" else _missed_by_best_set(part, entries)
        for number, rows in zip(members, found, strict=True):
            missed[number] = rows
    return missed


def _missed_by_lru(bands: Sequence[ColdBand], entries: float) -> list[float]:
    """Che, Tung and Wang's approximation (IEEE JSAC 20(7), 2002), for batches in place of single requests.

    The cache holds what the last so many batches asked for, as many as fill it; a batch misses the rows that
    it adds to those. Of caches that hold less than a batch asks for it expects a little too much.
    """
    if entries <= 0:
        return [band.wanted() for band in bands]
    batches = batches_held(bands, entries)
    if batches == np.inf:
        return [0.0] * len(bands)
    return [band.wanted(batches + 1) - band.wanted(batches) for band in bands]


def batches_held(bands: Sequence[ColdBand], entries: float) -> float:
    """How many batches it takes to ask for ``entries`` different rows: how far back a cache of so many rows
    in least-recently-used order remembers. Infinite where there are not so many."""
    if entries >= sum(band.num_rows for band in bands):
        return np.inf
    low, high = 0.0, 1.0
    while sum(band.wanted(high) for band in bands) < entries:
        low, high = high, 2 * high
        if high > _MOST_BATCHES:
            return np.inf
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if sum(band.wanted(middle) for band in bands) < entries:
            low = middle
        else:
            high = middle
    return high


def _missed_by_best_set(bands: Sequence[ColdBand], entries: float) -> list[float]:
    """The cache holds the rows that are wanted most, as the sketch comes near to."""
    rates, counts, owner = [], [], []
    for number, band in enumerate(bands):
        inside = np.clip(band.curve.boundaries, band.start, band.stop)
        rates.append(band.lookups * band.curve.probabilities)
        counts.append(np.diff(inside))
        owner.append(np.full(len(rates[-1]), number))
    rate, count, band_of = (np.concatenate(parts) for parts in (rates, counts, owner))
    order = np.argsort(-rate, kind="stable")
    before = np.cumsum(count[order]) - count[order]
    held = np.zeros(len(rate))
    held[order] = np.clip(entries - before, 0, count[order])
    missed = (count - held) * -np.expm1(-rate)
    return np.bincount(band_of, weights=missed, minlength=len(bands)).tolist()

"""How far back a cache reaches that the hardware manages, and how many samples one call looks up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from screc.statistics.curve import AccessCurve

_BISECTIONS = 60
_MOST_BATCHES = 1e12
# Rows of all tables are counted together by the logarithm of how often they are asked for.
_BINS_PER_OCTAVE = 8
# native/store/row_store.cc: working memory of a call; larger ones are served in parts.
_SCRATCH_BYTES = 64 << 20
# native/store/lookup.cc: of a look-up that ends on SSD, besides its row in fp32: a pointer, two entries in
# lists of wanted rows, and its page's.
_LOOKUP_BYTES = 104
# native/engine/engine.h: most samples of a segment, most bytes of its features, and what both are cut to.
_MOST_SAMPLES, _FEATURE_BYTES, _BLOCK = 24 * 96, 16 << 20, 96


class Traffic:
    """What all tables together ask memory for in a batch.

    A cache that replaces what was used longest ago holds what was asked for since some time: so many batches
    back that the different rows, and all that passes by besides them, fill it (Che's approximation, for
    independent look-ups).

    Args:
        curves: access curve of each table.
        lookups: look-ups per batch of each table, float64 [tables].
        passing_bytes: of a batch that are used once: ids, features.
    """

    def __init__(
        self, curves: Sequence[AccessCurve], lookups: np.ndarray, passing_bytes: float = 0.0
    ) -> None:
        self._table = np.repeat(np.arange(len(curves)), [curve.probabilities.size for curve in curves])
        self._rows = np.concatenate([np.diff(curve.boundaries) for curve in curves]).astype(np.float64)
        rate = lookups[self._table] * np.concatenate([curve.probabilities for curve in curves])
        asked = rate > 0
        self._table, self._rows, rate = self._table[asked], self._rows[asked], rate[asked]
        step = np.floor(_BINS_PER_OCTAVE * np.log2(rate)) if rate.size else np.zeros(0)
        self._rate, self._bin = np.unique(step, return_inverse=True)
        self._rate = 2.0 ** ((self._rate + 0.5) / _BINS_PER_OCTAVE)
        self._passing = passing_bytes

    def reach(self, row_bytes: np.ndarray, capacity: float) -> float:
        """Batches after which a row that was not asked for again has left a cache; infinite where it holds
        all rows that are ever asked for.

        Args:
            row_bytes: that a row of each table takes, [tables].
            capacity: bytes of the cache.
        """
        if capacity <= 0:
            return 0.0
        sizes = np.bincount(self._bin, weights=self._rows * row_bytes[self._table], minlength=self._rate.size)

        def filled(batches: float) -> float:
            return float(sizes @ -np.expm1(-batches * self._rate)) + batches * self._passing

        if filled(_MOST_BATCHES) <= capacity:
            return math.inf
        low, high = 0.0, 1.0
        while filled(high) < capacity:
            low, high = high, 2 * high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if filled(middle) < capacity else (low, middle)
        return high


def calls_per_batch(batch_size: int, lookups: np.ndarray, dims: np.ndarray) -> int:
    """Look-ups of how many calls a batch is served by, each of which reads its pages by itself.

    The engine cuts batches into segments, and the store halves a call until its working memory is bounded;
    every look-up counts as one that ends on SSD.

    Args:
        batch_size: samples.
        lookups: per batch of each table, [tables].
        dims: embedding dimension of each table, [tables].
    """
    segment = _FEATURE_BYTES // max(1, 4 * int(dims.sum())) // _BLOCK * _BLOCK
    samples = min(batch_size, max(_BLOCK, min(segment, _MOST_SAMPLES)))
    bytes_each = float((lookups * (_LOOKUP_BYTES + 4 * dims)).sum()) / batch_size
    while samples > 1 and samples * bytes_each > _SCRATCH_BYTES:
        samples = -(-samples // 2)
    return -(-batch_size // samples)

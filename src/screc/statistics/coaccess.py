"""Co-access: which rows of a table are read together, and an order of its rows in which those share pages.

The rows that one sample looks up (or, in a table with one look-up per sample, that one call of many samples
looks up) form a group. Placing rows in blocks by such groups is Bandana's idea (arXiv 1811.05922, section 4),
reordering by global and local frequency EL-Rec's (SC 2022); the order is found by recursive bisection
(Dhulipala et al., KDD 2016, arXiv 1602.08820) in ``native/store/page_order.h``.
"""

from __future__ import annotations

import numpy as np

from screc import _native

# A table whose samples ask for at least this many different rows is grouped by sample, else by call.
_ROWS_PER_BAG = 2.0


class CoAccessSample:
    """A bounded, even sample of the look-ups of one table: whole calls, thinned as the log goes on.

    Args:
        samples_per_call: samples that are served as one call.
        max_lookups: look-ups kept at most; 12 bytes each. A call that alone has more is not kept.
    """

    def __init__(self, samples_per_call: int, max_lookups: int) -> None:
        self.samples_per_call = samples_per_call
        self._max = max_lookups
        self._stride = 1  # every stride-th call is kept
        self._ids: list[np.ndarray] = []
        self._samples: list[np.ndarray] = []
        self._kept = 0

    def add(self, ids: np.ndarray, samples: np.ndarray) -> None:
        """Adds look-ups: ids int64 [n] below 2^32, and the sample of each, int64 [n]."""
        kept = self._chosen(samples)
        self._ids.append(ids[kept].astype(np.uint32))
        self._samples.append(samples[kept])
        self._kept += self._ids[-1].size
        while self._kept > self._max:
            self._stride *= 2
            chosen = [self._chosen(samples) for samples in self._samples]
            self._ids = [ids[kept] for ids, kept in zip(self._ids, chosen, strict=True)]
            self._samples = [samples[kept] for samples, kept in zip(self._samples, chosen, strict=True)]
            self._kept = sum(ids.size for ids in self._ids)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """The kept look-ups: ids uint32 [n] and their samples int64 [n]; the sample is empty afterwards."""
        ids = np.concatenate([np.zeros(0, np.uint32), *self._ids])
        self._ids = []
        samples = np.concatenate([np.zeros(0, np.int64), *self._samples])
        self._samples, self._kept = [], 0
        return ids, samples

    def _chosen(self, samples: np.ndarray) -> np.ndarray:
        return samples // self.samples_per_call % self._stride == 0


def co_access_order(
    ids: np.ndarray,
    samples: np.ndarray,
    first_order: np.ndarray,
    rows_per_page: int,
    *,
    hot_rows: int = 0,
    samples_per_call: int = 256,
    iterations: int = 10,
    threads: int = 0,
) -> np.ndarray:
    """An order of all rows of a table in which rows that are read together share pages.

    The hottest rows may be kept in front (EL-Rec: hot rows by popularity, the others by communities). Rows
    that were read with others follow, by recursive bisection: its parts are communities, communities of
    communities and so on. The rest come last, as in ``first_order``. The answer depends on the arguments
    alone, not on ``threads``.

    Args:
        ids: uint32 [n], the look-ups that count; a row may come often.
        samples: int64 [n], the sample of each.
        first_order: uint32 [num_embeddings], every id once, by descending frequency; where groups do not
            decide, this order stays.
        rows_per_page: rows that share a page.
        hot_rows: the first rows of ``first_order`` that keep their places.
        samples_per_call: samples that form a group in a table with about one look-up per sample.
        iterations: rounds of exchanges at each cut, at most.
        threads: 0 means one per core.

    Returns:
        uint32 [num_embeddings], the id at each slot: a permutation.
    """
    hot, cold = first_order[:hot_rows], first_order[hot_rows:]
    if hot_rows:
        kept = np.zeros(first_order.size, bool)
        kept[hot] = True
        kept = ~kept[ids]
        ids, samples = ids[kept], samples[kept]
    rows, groups = _groups(ids, samples, samples_per_call)
    together = np.zeros(first_order.size, bool)
    together[rows] = True
    candidates, rest = cold[together[cold]], cold[~together[cold]]
    local = np.empty(first_order.size, np.uint32)
    local[candidates] = np.arange(candidates.size, dtype=np.uint32)
    rows = local[rows]
    del local, together
    num_groups = int(groups[-1]) + 1 if groups.size else 0
    order = np.arange(candidates.size, dtype=np.uint32)
    pool = _native.ThreadPool(threads)
    _native.order_by_co_access(rows, groups, num_groups, rows_per_page, iterations, order, pool)
    result = np.concatenate((hot, candidates[order], rest))
    assert (np.bincount(result, minlength=first_order.size) == 1).all()  # every id once
    return result


def _groups(ids: np.ndarray, samples: np.ndarray, samples_per_call: int) -> tuple[np.ndarray, np.ndarray]:
    """Different (row, group) pairs ordered by group, both uint32 [n]; groups of one row tell nothing."""
    keys, num_groups = _different(ids, samples)
    if keys.size < _ROWS_PER_BAG * num_groups:
        keys, _ = _different(ids, samples // samples_per_call)
    groups = keys >> np.uint64(32)
    first = np.ones(keys.size + 1, bool)  # of a group; the end counts as one
    first[1:-1] = groups[1:] != groups[:-1]
    alone = first[:-1] & first[1:]
    rows = keys[~alone].astype(np.uint32)  # the low half
    numbers = np.cumsum(first[:-1] & ~alone, dtype=np.uint32)[~alone]
    return rows, numbers - np.uint32(1)


def _different(ids: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, int]:
    """Different (group, id) pairs as ascending group * 2^32 + id, uint64 [n], and the number of groups."""
    keys = groups.astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= ids
    keys.sort()
    fresh = np.ones(keys.size, bool)
    fresh[1:] = keys[1:] != keys[:-1]
    keys = keys[fresh]
    numbers = keys >> np.uint64(32)
    return keys, int(np.count_nonzero(numbers[1:] != numbers[:-1])) + (keys.size > 0)

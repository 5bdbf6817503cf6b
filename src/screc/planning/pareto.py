"""Exact pruning of alternatives that another one beats or equals in everything."""

from __future__ import annotations

import numpy as np

_BLOCK = 512


def pareto_front(values: np.ndarray) -> np.ndarray:
    """Numbers of the rows of ``values`` [n, k] that no other row is <= in every column; one of equal rows."""
    order = np.lexsort(values.T[::-1])  # a row that dominates another comes before it
    front = np.zeros((0, values.shape[1]))
    kept = []
    for start in range(0, order.size, _BLOCK):
        block = values[order[start : start + _BLOCK]]
        beaten = _dominated(front, block).any(axis=0)
        within = _dominated(block, block)
        beaten |= np.triu(within, k=1).any(axis=0)
        kept.append(order[start : start + _BLOCK][~beaten])
        front = np.concatenate((front, block[~beaten]))
    return np.sort(np.concatenate(kept)) if kept else np.zeros(0, dtype=np.int64)


def _dominated(by: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """bool [len(by), len(rows)]: by[i] <= rows[j] in every column."""
    result = np.ones((len(by), len(rows)), dtype=bool)
    for column in range(rows.shape[1]):
        result &= by[:, column, None] <= rows[None, :, column]
    return result

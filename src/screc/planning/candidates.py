"""Candidate layouts of one table, and the exact pruning of those that cannot be part of a best plan."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screc.planning.costs import RESOURCES, Placement, TableCosts
from screc.storage.layout import TableLayout

# Cut points: geometric up to this share of the rows, then linear (planning by access share alone would leave
# most bytes in the last step).
_GEOMETRIC_UNTIL = 0.07
_GEOMETRIC_FROM = 8
_GEOMETRIC_RATIO = 1.45
_BLOCK = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Layouts of one table and what they use up: the columns that the solver chooses from.

    Attributes:
        model: the cost model that made them.
        bands: int64 [n, 3, 3], for each layout up to three bands as (placement, start, stop); empty ones have
            start == stop.
        placements: what the numbers in ``bands`` stand for.
        usage: float64 [n, 7] in the order of :data:`screc.planning.costs.RESOURCES`.
    """

    model: TableCosts
    bands: np.ndarray
    placements: Sequence[Placement]
    usage: np.ndarray

    def __len__(self) -> int:
        return len(self.bands)

    def layout(self, number: int) -> TableLayout:
        """One of the layouts."""
        bands = self.bands[number].tolist()
        return self.model.layout(
            [(self.placements[p], start, stop) for p, start, stop in bands if stop > start]
        )


def cut_points(num_embeddings: int, num_ranked: int) -> np.ndarray:
    """Ranks to cut a table at: int64, ascending, strictly between 0 and its rows.

    Geometric from 8 rows to 7 % of the rows, then every 10 %, and the end of the ranked rows.
    """
    steps = max(0.0, np.log(max(1.0, _GEOMETRIC_UNTIL * num_embeddings / _GEOMETRIC_FROM)))
    geometric = _GEOMETRIC_FROM * _GEOMETRIC_RATIO ** np.arange(int(steps / np.log(_GEOMETRIC_RATIO)) + 1)
    linear = num_embeddings * np.arange(1, 10) / 10
    points = np.unique(np.concatenate((geometric, linear, [num_ranked])).round().astype(np.int64))
    return points[(points > 0) & (points < num_embeddings)]


def enumerate_candidates(
    model: TableCosts, placements: Sequence[Placement], *, prune: bool = True
) -> Candidates:
    """Every layout on the table's grid of cut points: rows in DRAM, then TT, then rows on SSD, any left out.

    Args:
        model: the table's cost model.
        placements: what a band may be.
        prune: keep only layouts that no other beats or equals in everything used. This keeps an optimal plan:
            replacing a layout by one that dominates it changes no plan for the worse.
    """
    rows = model.num_embeddings
    cuts = np.concatenate(([0], cut_points(rows, model.statistics.num_ranked), [rows]))
    kinds: dict[str, list[int]] = {"dram": [], "tt": [], "ssd": []}
    for number, placement in enumerate(placements):
        kinds["tt" if placement.format == "tt" else placement.memory].append(number)
    hot, stop = (ranks.reshape(-1) for ranks in np.meshgrid(cuts, cuts, indexing="ij"))
    parts = []
    for dram, tt, ssd in itertools.product(*(numbers or [-1] for numbers in kinds.values())):
        chosen = np.stack((np.full(hot.size, dram), np.full(hot.size, tt), np.full(hot.size, ssd)), axis=1)
        edges = np.stack((np.zeros_like(hot), hot, stop, np.full(hot.size, rows)), axis=1)
        bands = np.stack((chosen, edges[:, :-1], edges[:, 1:]), axis=2)
        possible = (bands[:, :, 2] >= bands[:, :, 1]).all(axis=1)
        possible &= ((chosen >= 0) | (bands[:, :, 1] == bands[:, :, 2])).all(axis=1)
        parts.append(bands[possible])
    bands = np.concatenate(parts)
    bands[bands[:, :, 1] == bands[:, :, 2]] = 0
    bands = np.unique(bands, axis=0)
    usage = np.zeros((len(bands), len(RESOURCES)))
    possible = np.ones(len(bands), dtype=bool)
    for position in range(3):
        for number, placement in enumerate(placements):
            some = np.flatnonzero(
                (bands[:, position, 0] == number) & (bands[:, position, 2] > bands[:, position, 1])
            )
            if some.size:
                start, end = bands[some, position, 1], bands[some, position, 2]
                usage[some] += model.evaluate(placement, start, end).usage
                possible[some] &= model.possible(placement, start, end)
    bands, usage = bands[possible], usage[possible]
    if prune:
        kept = pareto_front(usage)
        bands, usage = bands[kept], usage[kept]
    return Candidates(model=model, bands=bands, placements=placements, usage=usage)


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

"""Candidate layouts of one table, and the exact pruning of those that cannot be part of a best plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screc.planning.costs import Costs, TableCosts
from screc.storage.layout import TableLayout

# Cut points: geometric up to this share of the rows, then linear (planning by access share alone would leave
# most bytes in the last step).
_GEOMETRIC_UNTIL = 0.07
_GEOMETRIC_FROM = 8
_GEOMETRIC_RATIO = 1.45
_BLOCK = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Layouts of one table and their costs: the columns that the solver chooses from.

    Attributes:
        model: the cost model that made them.
        hot, stop, tt_rank: int64 [n], the layouts as :mod:`screc.planning.costs` writes them.
        costs: arrays [n].
    """

    model: TableCosts
    hot: np.ndarray
    stop: np.ndarray
    tt_rank: np.ndarray
    costs: Costs

    def __len__(self) -> int:
        return self.hot.size

    def layout(self, number: int) -> TableLayout:
        """One of the layouts."""
        return self.model.layout(int(self.hot[number]), int(self.stop[number]), int(self.tt_rank[number]))


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
    model: TableCosts, *, tt_ranks: Sequence[int], ssd: bool, prune: bool = True
) -> Candidates:
    """Every layout on the table's grid of cut points: DRAM, then TT, then SSD, any of them left out.

    All in DRAM, TT only and SSD only are among them.

    Args:
        model: the table's cost model.
        tt_ranks: TT ranks to try; empty for no TT.
        ssd: whether rows may live on SSD.
        prune: keep only layouts that no other beats or equals in seconds, DRAM, SSD and TT share. This
            keeps an optimal plan: replacing a layout by one that dominates it changes no plan for the worse.
    """
    rows = model.num_embeddings
    cuts = np.concatenate(([0], cut_points(rows, model.statistics.num_ranked)))
    hot, stop, rank = [np.array([rows])], [np.array([rows])], [np.array([0])]

    def add(more_hot: np.ndarray, more_stop: np.ndarray, tt_rank: int) -> None:
        hot.append(more_hot)
        stop.append(more_stop)
        rank.append(np.full(more_hot.size, tt_rank))

    if ssd:
        add(cuts, cuts, 0)
    for tt_rank in tt_ranks:
        add(cuts, np.full(cuts.size, rows), tt_rank)
        if ssd:
            first, second = np.triu_indices(cuts.size, k=1)
            add(cuts[first], cuts[second], tt_rank)
    layouts = [np.concatenate(parts).astype(np.int64) for parts in (hot, stop, rank)]
    costs = model.evaluate(*layouts)
    if prune:
        kept = pareto_front(
            np.stack((costs.seconds, costs.dram_bytes, costs.ssd_bytes, costs.tt_share), axis=1)
        )
        layouts = [part[kept] for part in layouts]
        costs = Costs(**{name: getattr(costs, name)[kept] for name in Costs.__dataclass_fields__})
    return Candidates(model=model, hot=layouts[0], stop=layouts[1], tt_rank=layouts[2], costs=costs)


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

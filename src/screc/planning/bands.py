"""The bands that a table's layout can be made of: each goes from one cut point of its ranks to a later one.

A layout is a path over the cut points, and costs the sum over its bands (:mod:`screc.planning.costs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screc.planning.costs import RESOURCES, Placement, TableCosts
from screc.storage.layout import TableLayout

# The most bands that the store opens a table with (native/store/row_store.cc).
MOST_BANDS = 16
# Cut points: geometric up to this share of the rows, then linear (planning by access share alone would leave
# most bytes in the last step).
_GEOMETRIC_UNTIL = 0.07
_GEOMETRIC_FROM = 8


@dataclass(frozen=True, slots=True)
class GridSteps:
    """How finely tables are cut: the ratio of hot cut points, and the number of equal parts of the rest."""

    ratio: float = 1.45
    parts: int = 10


#: Up to this many tables the fine grid is used, beyond it the coarse one: bands grow with its square.
FINE_TABLES = 64
FINE, COARSE = GridSteps(), GridSteps(2.2, 5)


def cut_points(num_embeddings: int, num_ranked: int, steps: GridSteps = FINE) -> np.ndarray:
    """Ranks to cut a table at: int64, ascending, strictly between 0 and its rows.

    Geometric from 8 rows to 7 % of the rows, then in equal steps (of 10 %), and the end of the ranked rows.
    """
    octaves = max(0.0, np.log(max(1.0, _GEOMETRIC_UNTIL * num_embeddings / _GEOMETRIC_FROM)))
    geometric = _GEOMETRIC_FROM * steps.ratio ** np.arange(int(octaves / np.log(steps.ratio)) + 1)
    linear = num_embeddings * np.arange(1, steps.parts) / steps.parts
    points = np.unique(np.concatenate((geometric, linear, [num_ranked])).round().astype(np.int64))
    return points[(points > 0) & (points < num_embeddings)]


@dataclass(frozen=True, kw_only=True, eq=False)
class TableBands:
    """All bands of one table over its cut points.

    Bands are numbered by placement and then by span: band ``p * spans + s`` holds the ranks from
    ``cuts[first[s]]`` to ``cuts[last[s]]`` in placement p.

    Attributes:
        model: the cost model.
        placements: what a band may be.
        cuts: int64 [points], from 0 to the table's rows.
        first, last: int64 [spans], numbers of the cut points of each span, ascending in ``last``.
        usage: float64 [placements * spans, 7] in the order of :data:`screc.planning.costs.RESOURCES`.
        possible: bool [placements * spans].
    """

    model: TableCosts
    placements: Sequence[Placement]
    cuts: np.ndarray
    first: np.ndarray
    last: np.ndarray
    usage: np.ndarray
    possible: np.ndarray

    @classmethod
    def of(cls, model: TableCosts, placements: Sequence[Placement], *, steps: GridSteps = FINE) -> TableBands:
        """Cost every band of a table.

        Args:
            model: the table's cost model.
            placements: what a band may be.
            steps: of the cut points.
        """
        rows = model.num_embeddings
        cuts = np.concatenate(([0], cut_points(rows, model.num_seen, steps), [rows]))
        first, last = spans(cuts.size)
        start, stop = cuts[first], cuts[last]
        usage = np.zeros((len(placements), first.size, len(RESOURCES)))
        possible = np.ones((len(placements), first.size), dtype=bool)
        for number, placement in enumerate(placements):
            possible[number] = model.possible(placement, start, stop)
            some = possible[number]
            if some.any():
                usage[number, some] = model.evaluate(placement, start[some], stop[some]).usage
        return cls(
            model=model,
            placements=placements,
            cuts=cuts,
            first=first,
            last=last,
            usage=usage.reshape(-1, len(RESOURCES)),
            possible=possible.reshape(-1),
        )

    def layout(self, path: Sequence[int]) -> TableLayout:
        """The layout made of these bands, given by their numbers from the hottest to the coldest."""
        bands = []
        for number in path:
            placement, span = divmod(int(number), self.first.size)
            start, stop = (int(self.cuts[point[span]]) for point in (self.first, self.last))
            bands.append((self.placements[placement], start, stop))
        return self.model.layout(bands)


def spans(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the first and last cut point of every span over so many cut points, by the last."""
    last, first = np.nonzero(np.tri(points, k=-1, dtype=bool))
    return first, last

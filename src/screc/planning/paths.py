"""Layouts as paths over a table's cut points: the cheapest at given prices, and all within reach of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screc.planning.bands import MOST_BANDS, TableBands
from screc.planning.pareto import pareto_front


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A layout of one table: the numbers of its bands, and what they use up together (float64 [7])."""

    path: tuple[int, ...]
    usage: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Cheapest:
    """The cheapest layout of every table at given prices.

    Attributes:
        cost: float64 [tables]; infinite where a table has no possible layout.
        columns: the layouts; None likewise.
    """

    cost: np.ndarray
    columns: list[Column | None]


class Paths:
    """The paths of many tables. Bands are independent, so that for any prices of what is used up the best of
    all layouts of a table is a shortest path."""

    def __init__(self, tables: Sequence[TableBands]) -> None:
        self.tables = list(tables)
        # Tables of as many cut points are priced together.
        groups: dict[tuple[int, int], list[int]] = {}
        for number, table in enumerate(self.tables):
            groups.setdefault((table.cuts.size, len(table.placements)), []).append(number)
        self._groups = [
            _Group(np.array(numbers), [self.tables[number] for number in numbers])
            for numbers in groups.values()
        ]

    def cheapest(self, prices: np.ndarray) -> Cheapest:
        """The cheapest layout of every table.

        Args:
            prices: float64 [tables, 7], not negative, of what bands use up.
        """
        cost = np.zeros(len(self.tables))
        columns: list[Column | None] = [None] * len(self.tables)
        for group in self._groups:
            least, paths = group.cheapest(prices[group.numbers])
            cost[group.numbers] = least
            for number, path in zip(group.numbers.tolist(), paths, strict=True):
                if path is not None:
                    usage = self.tables[number].usage[list(path)].sum(axis=0)
                    columns[number] = Column(path, usage)
        return Cheapest(cost, columns)

    def most(self, coefficients: np.ndarray) -> np.ndarray:
        """The most that any layout of each table uses of something, float64 [tables].

        Args:
            coefficients: float64 [7], not negative, of what bands use up.
        """
        most = np.zeros(len(self.tables))
        for group in self._groups:
            prices = np.broadcast_to(-coefficients, (group.numbers.size, coefficients.size))
            most[group.numbers] = -group.cheapest(prices)[0]
        return most


class _Group:
    """Tables of as many cut points."""

    def __init__(self, numbers: np.ndarray, tables: Sequence[TableBands]) -> None:
        self.numbers = numbers
        self.first, self.last, self.points = tables[0].first, tables[0].last, tables[0].cuts.size
        self._usage = np.stack([table.usage for table in tables])
        self._impossible = ~np.stack([table.possible for table in tables])
        self._none = not self._impossible.any()

    def cheapest(self, prices: np.ndarray) -> tuple[np.ndarray, list[tuple[int, ...] | None]]:
        """Cost and path of the cheapest layout of each table."""
        count, num_spans = self.numbers.size, self.first.size
        costs = (self._usage @ prices[:, :, None])[:, :, 0]
        if not self._none:
            costs[self._impossible] = np.inf
        costs = costs.reshape(count, -1, num_spans)
        placement = costs.argmin(axis=1)
        best = np.take_along_axis(costs, placement[:, None], axis=1)[:, 0]
        reached = np.full((count, self.points), np.inf)
        reached[:, 0] = 0.0
        came = np.zeros((count, self.points), dtype=np.int64)
        begin = 0
        for point in range(1, self.points):
            end = begin + point  # spans are in the order of their last cut points
            ways = reached[:, :point] + best[:, begin:end]
            came[:, point] = ways.argmin(axis=1)
            reached[:, point] = np.take_along_axis(ways, came[:, point, None], axis=1)[:, 0]
            begin = end
        paths: list[tuple[int, ...] | None] = []
        for row in range(count):
            if not np.isfinite(reached[row, -1]):
                paths.append(None)
                continue
            point, path = self.points - 1, []
            while point:
                before = int(came[row, point])
                span = point * (point - 1) // 2 + before
                path.append(int(placement[row, span]) * num_spans + span)
                point = before
            paths.append(tuple(reversed(path)))
        return reached[:, -1], paths


@dataclass(frozen=True, slots=True, eq=False)
class Reachable:
    """Layouts of one table.

    Attributes:
        columns: those that were found.
        complete: whether every other layout costs more than asked for, or uses no less of anything that
            counts than one that was found.
    """

    columns: list[Column]
    complete: bool


def within(
    table: TableBands, prices: np.ndarray, slack: float, counts: np.ndarray, *, most: int = 5000
) -> Reachable:
    """All layouts whose cost at these prices is at most ``slack`` above the cheapest, less those that another
    one beats or equals in everything that counts: extending both by the same bands keeps their order, so that
    beginnings of layouts can be compared as soon as they reach the same cut point.

    Args:
        table: its bands.
        prices: float64 [7], not negative.
        slack: not negative; infinite for all layouts.
        counts: float64 [rows, 7], not negative: what is compared, as sums of what bands use up.
        most: beginnings that are kept at a cut point; past it the cheapest are.
    """
    num_spans = table.first.size
    costs = np.where(table.possible, table.usage @ prices, np.inf).reshape(-1, num_spans)
    best = costs.min(axis=0)
    points = table.cuts.size
    rest = np.full(points, np.inf)  # least cost from a cut point to the end
    rest[-1] = 0.0
    for point in range(points - 2, -1, -1):
        later = np.arange(point + 1, points)
        rest[point] = (best[later * (later - 1) // 2 + point] + rest[later]).min()
    if not np.isfinite(rest[0]):
        return Reachable([], True)
    limit = rest[0] + slack
    if np.isfinite(limit):
        limit += 1e-9 * abs(limit)
    complete = True
    usage: list[np.ndarray] = [np.zeros((1, table.usage.shape[1]))]
    cost: list[np.ndarray] = [np.zeros(1)]
    depth: list[np.ndarray] = [np.zeros(1, dtype=np.int64)]
    # Where each beginning came from: its cut point, its number there, and the band that followed.
    origin: list[np.ndarray] = [np.zeros((1, 3), dtype=np.int64)]
    for point in range(1, points):
        found_usage, found_cost, found_depth, found_origin = [], [], [], []
        for before in range(point):
            span = point * (point - 1) // 2 + before
            total = cost[before][:, None] + costs[:, span][None]
            label, placement = np.nonzero(
                (total + rest[point] <= limit) & np.isfinite(total) & (depth[before] < MOST_BANDS)[:, None]
            )
            if label.size == 0:
                continue
            band = placement * num_spans + span
            found_usage.append(usage[before][label] + table.usage[band])
            found_cost.append(total[label, placement])
            found_depth.append(depth[before][label] + 1)
            found_origin.append(np.stack((np.full(label.size, before), label, band), axis=1))
        if not found_cost:
            usage.append(np.zeros((0, table.usage.shape[1])))
            cost.append(np.zeros(0))
            depth.append(np.zeros(0, dtype=np.int64))
            origin.append(np.zeros((0, 3), dtype=np.int64))
            continue
        parts = [np.concatenate(part) for part in (found_usage, found_cost, found_depth, found_origin)]
        if parts[1].size > 20 * most:
            # Comparing takes time with the square of their number.
            complete = False
            cheap = np.argsort(parts[1], kind="stable")[: 20 * most]
            parts = [part[cheap] for part in parts]
        kept = pareto_front(parts[0] @ counts.T)
        if kept.size > most:
            complete = False
            kept = kept[np.argsort(parts[1][kept], kind="stable")[:most]]
        for known, part in zip((usage, cost, depth, origin), parts, strict=True):
            known.append(part[kept])
    columns = []
    for number in range(cost[-1].size):
        point, label, path = points - 1, number, []
        while point:
            before, previous, band = origin[point][label].tolist()
            path.append(band)
            point, label = before, previous
        columns.append(Column(tuple(reversed(path)), usage[-1][number]))
    return Reachable(columns, complete)

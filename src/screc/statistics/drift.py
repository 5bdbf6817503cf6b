"""Drift: what the access statistics of one day still say about the look-ups of another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from screc.statistics.access import AccessStatistics
from screc.statistics.table import TableStatistics

HOT_SHARES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Sizes of hot sets, as shares of a table's rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HotSet:
    """The share of the later look-ups that a hot set answers.

    Attributes:
        share: rows of the set / rows of the table, as asked for.
        rows: its rows; no more than the earlier statistics rank.
        predicted: what the earlier smoothed curve says of its own hottest rows.
        found: what these rows answer. With a tail in the later statistics, at least this.
        found_error: what it may be more than that; 0 where the later counts are exact.
        own: what the hottest rows of the later day answer.
    """

    share: float
    rows: int
    predicted: float
    found: float
    found_error: float
    own: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TableDrift:
    """Drift of one table.

    Attributes:
        table: its name.
        hot: one hot set for each of HOT_SHARES; none where one of the days has no look-ups.
        distance: total variation distance of the two days' look-ups, 0 (alike) to 1 (no row in common). With
            a tail, rows that are not ranked on both days are taken as one, which can only bring it down.
        by_chance: the same between two days that draw the same look-ups at random: what lies below it tells
            nothing. NaN, as ``distance``, where one of the days has no look-ups.
    """

    table: str
    hot: tuple[HotSet, ...]
    distance: float
    by_chance: float


def measure_drift(
    earlier: AccessStatistics, later: AccessStatistics, *, seed: int = 0
) -> tuple[TableDrift, ...]:
    """Drift of every table between two logs.

    Memory: about 80 bytes for each row that was ranked on either day, one table at a time.

    Args:
        earlier: what a plan would be made from.
        later: what would then be served.
        seed: of the draw behind ``by_chance``.

    Raises:
        ValueError: the statistics are of different tables.
    """
    earlier.check_tables([(table.name, table.num_embeddings) for table in later.tables])
    random = np.random.default_rng(seed)
    return tuple(_drift(*pair, random) for pair in zip(earlier.tables, later.tables, strict=True))


def _drift(earlier: TableStatistics, later: TableStatistics, random: np.random.Generator) -> TableDrift:
    if not earlier.num_lookups or not later.num_lookups:
        return TableDrift(table=earlier.name, hot=(), distance=math.nan, by_chance=math.nan)
    place = later.ranks_of(earlier.ids)
    common = place < later.num_ranked
    place = np.minimum(place, later.num_ranked - 1)
    counts = np.where(common, later.counts[place], 0)
    first, second = _paired(earlier, later, common, place)
    pooled = first + second
    drawn = random.binomial(pooled, first.sum() / pooled.sum())
    return TableDrift(
        table=earlier.name,
        hot=_hot_sets(earlier, later, counts, _count_errors(later, common, place)),
        distance=_total_variation(first, second),
        by_chance=_total_variation(drawn, pooled - drawn),
    )


def _count_errors(later: TableStatistics, common: np.ndarray, place: np.ndarray) -> np.ndarray | None:
    if later.count_errors is None:
        return None
    return np.where(common, later.count_errors[place], later.max_count_error)


def _hot_sets(
    earlier: TableStatistics, later: TableStatistics, counts: np.ndarray, errors: np.ndarray | None
) -> tuple[HotSet, ...]:
    """``counts`` and ``errors`` are those of the later day, in the earlier day's rank order."""
    answered = np.cumsum(counts)
    missing = None if errors is None else np.cumsum(errors, dtype=np.float64)
    sets = []
    for share in HOT_SHARES:
        rows = min(math.ceil(share * earlier.num_embeddings), earlier.num_ranked)
        lookups = int(answered[rows - 1])
        most = 0.0 if missing is None else min(float(missing[rows - 1]), later.num_lookups - lookups)
        sets.append(
            HotSet(
                share=share,
                rows=rows,
                predicted=float(earlier.smoothed_curve.share(rows)),
                found=lookups / later.num_lookups,
                found_error=most / later.num_lookups,
                own=float(later.share(rows)),
            )
        )
    return tuple(sets)


def _paired(
    earlier: TableStatistics, later: TableStatistics, common: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Look-ups of the same rows on both days, int64 [n] both; they sum to the days' look-ups."""
    first, second = earlier.counts[common], later.counts[place[common]]
    if earlier.exact and later.exact:
        new = np.ones(later.num_ranked, bool)
        new[place[common]] = False
        only = earlier.counts[~common], later.counts[new]
        first = np.concatenate((first, only[0], np.zeros(only[1].size, np.int64)))
        second = np.concatenate((second, np.zeros(only[0].size, np.int64), only[1]))
        return first, second
    rest = earlier.num_lookups - first.sum(), later.num_lookups - second.sum()
    return np.append(first, rest[0]), np.append(second, rest[1])


def _total_variation(first: np.ndarray, second: np.ndarray) -> float:
    if not first.sum() or not second.sum():  # a draw of a few look-ups may leave none to one of the days
        return 1.0
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)

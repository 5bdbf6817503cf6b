"""Planners of the literature, to measure ours against: each gives layouts of all tables, by its own rules.

What they share with the mixed-integer program of :mod:`screc.planning.planner` is the machine, the statistics
and the budget that they are given, and the cost model by which all plans are predicted afterwards; not the
costs by which they choose. Every one but ``tt-only`` and ``three-tier`` places rows of one format, whatever
that is: fp32 as published, or int8 or int4 for a comparison at equal formats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Literal, get_args

import numpy as np

from screc.planning.costs import tt_sizes
from screc.planning.mip import Infeasible, choose
from screc.planning.pareto import pareto_front
from screc.planning.sensitivity import Sensitivity
from screc.planning.system import SystemSpec
from screc.statistics.access import AccessStatistics, TableStatistics
from screc.storage.layout import (
    SHARED_SCALE_BYTES,
    Band,
    Memory,
    PageGeometry,
    TableLayout,
    TtShape,
    index_sizes,
)
from screc.storage.row_format import RowFormat, ScaleOf, row_bytes

Baseline = Literal["greedy-size", "greedy-lookups", "recshard", "three-tier", "tt-only", "lru"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

# RecShard's steps of the inverse access curve.
_STEPS = 100
# Three tiers have two cuts a table: half the steps, and every tenth of the rows, for the last steps of access
# hold most rows.
_TIER_STEPS = 50
_TT_OVER_DRAM = 1.01
# Room for the rounding of a sum of losses; 0 stays exact.
_LOSS_ROUNDING = 1e-9


class DoesNotFit(ValueError):
    """A planner's rules give no layouts within the budget.

    Attributes:
        smallest_dram_bytes: the smallest DRAM budget with which they do; None where no DRAM is enough.
    """

    def __init__(self, message: str, smallest_dram_bytes: int | None) -> None:
        super().__init__(message)
        self.smallest_dram_bytes = smallest_dram_bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What a baseline planner is given.

    Attributes:
        statistics: access counts of every table.
        dims: embedding dimension of each.
        system: rates of the host that will serve.
        dram_bytes: for rows, cores, indices, shared scales and the row cache.
        ssd_bytes: 0 where there is no SSD.
        batch_size: samples per batch.
        queue_depth: SSD reads in flight.
        row_format, row_scale: of rows in DRAM and on SSD.
        tt_ranks: TT ranks to choose from.
        max_loss: most that TT bands may cost in all (``three-tier`` only): rise of the log-loss by
            ``sensitivity``, or without one share of all look-ups that they answer.
        sensitivity: what each table loses in each format.
        time_limit: seconds for the solver.
    """

    statistics: AccessStatistics
    dims: Sequence[int]
    system: SystemSpec
    dram_bytes: int
    ssd_bytes: int
    batch_size: int = 1024
    queue_depth: int = 256
    row_format: RowFormat = "fp32"
    row_scale: ScaleOf = "row"
    tt_ranks: tuple[int, ...] = (8, 16, 32)
    max_loss: float = 0.05
    sensitivity: Sensitivity | None = None
    time_limit: float = 60.0

    @property
    def tables(self) -> list[_Table]:
        """The tables with what a layout of them costs."""
        return [
            _Table(table, dim, self) for table, dim in zip(self.statistics.tables, self.dims, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class _Table:
    """One table of a task: layouts, and what RecShard's and SCRec's cost models say of them."""

    statistics: TableStatistics
    dim: int
    task: Task

    @property
    def rows(self) -> int:
        return self.statistics.num_embeddings

    @property
    def row_bytes(self) -> int:
        return row_bytes(self.task.row_format, self.dim, self.task.row_scale)

    @property
    def lookups(self) -> float:
        """Per batch: coverage times look-ups of a sample that has any."""
        table = self.statistics
        pooling = table.num_lookups / table.num_nonempty if table.num_nonempty else 0.0
        return self.task.batch_size * table.coverage * pooling

    def layout(self, hot: int, stop: int | None = None, tt_rank: int = 0) -> TableLayout:
        """Ranks [0, hot) in DRAM, [hot, stop) as a tensor train (none by default), the others on SSD."""
        stop = hot if stop is None else stop
        bands = []
        if hot:
            bands.append(self._rows(0, hot, "dram"))
        if stop > hot:
            slots = self.rows if stop == self.rows else stop - hot
            shape = TtShape.balanced(slots, self.dim, tt_rank)
            bands.append(Band(start=hot, stop=stop, format="tt", memory="dram", tt=shape))
        if stop < self.rows:
            bands.append(self._rows(stop, self.rows, "ssd"))
        return TableLayout(
            table=self.statistics.name, num_embeddings=self.rows, embedding_dim=self.dim, bands=tuple(bands)
        )

    # Of layouts (hot, stop, tt_rank), int64 [n] each.

    def possible(self, columns: np.ndarray) -> np.ndarray:
        """Those whose tensor trains have rows enough for their TT rank and a known loss; int64 [n, 3]."""
        hot, stop, tt_rank = columns.T
        slots = np.where(stop == self.rows, self.rows, stop - hot)
        kept = np.ones(len(columns), dtype=bool)
        sensitivity = self.task.sensitivity
        for rank in np.unique(tt_rank[stop > hot]).tolist():
            own = tt_rank == rank
            kept[own] = tt_sizes(slots[own], self.dim, rank)[2] == rank
            if sensitivity is not None and not sensitivity.table(self.statistics.name).knows("tt", rank):
                kept[own] = False
        return columns[kept]

    def dram_bytes(self, hot: np.ndarray, stop: np.ndarray, tt_rank: np.ndarray) -> np.ndarray:
        """As the layouts count them: rows, cores, indices and shared scales."""
        train = stop > hot
        slots = np.where(stop == self.rows, self.rows, stop - hot)
        cores = np.zeros(len(hot), dtype=np.int64)
        for rank in np.unique(tt_rank[train]).tolist():
            own = train & (tt_rank == rank)
            cores[own] = 4 * tt_sizes(slots[own], self.dim, rank)[0]
        indices = np.where((hot > 0) & (hot < self.rows), index_sizes(self.rows, hot), 0)
        indices += np.where(train & (stop < self.rows), index_sizes(self.rows, stop - hot), 0)
        shared = SHARED_SCALE_BYTES if self.task.row_scale == "table" else 0
        return hot * self.row_bytes + cores + indices + shared * ((hot > 0).astype(int) + (stop < self.rows))

    def ssd_bytes(self, stop: np.ndarray) -> np.ndarray:
        """Pages of all rows, unless none is on SSD."""
        return np.where(stop < self.rows, PageGeometry.of(self.row_bytes).file_bytes(self.rows), 0)

    def seconds(self, hot: np.ndarray, stop: np.ndarray, tt_rank: np.ndarray) -> np.ndarray:
        """Per batch, every look-up at the time that one takes on a busy host: of a row in DRAM, of a row
        rebuilt, of a random read."""
        system, task = self.task.system, self.task
        in_dram, before_ssd = self.statistics.smoothed_curve.share(np.stack((hot, stop)))
        row = 1e-9 * system.row_ns(task.row_format, self.dim, task.row_scale) / system.devices.count
        rebuilt = np.zeros(len(hot))
        for rank in np.unique(tt_rank[stop > hot]).tolist():
            shape = TtShape.balanced(self.rows, self.dim, rank)
            # Never less than a row in DRAM takes: accuracy is not to be spent for nanoseconds.
            ns = 1e-9 * system.tt_ns(shape) / system.devices.count
            rebuilt[tt_rank == rank] = max(ns, _TT_OVER_DRAM * row)
        pages = PageGeometry.of(self.row_bytes).pages_per_row
        read = pages / system.pages_per_second(task.queue_depth) if system.ssd is not None else 0.0
        return self.lookups * (in_dram * row + (before_ssd - in_dram) * rebuilt + (1.0 - before_ssd) * read)

    def tt_loss(self, hot: np.ndarray, stop: np.ndarray, tt_rank: np.ndarray) -> np.ndarray:
        """What the tensor trains cost in accuracy, in the unit of :attr:`Task.max_loss`."""
        lost = np.zeros(len(hot))
        if self.task.sensitivity is None:
            in_dram, before_ssd = self.statistics.smoothed_curve.share(np.stack((hot, stop)))
            whole = self.task.statistics.num_lookups
            weight = self.statistics.num_lookups / whole if whole else 0.0
            return np.where(stop > hot, weight * (before_ssd - in_dram), 0.0)
        own = self.task.sensitivity.table(self.statistics.name)
        for rank in np.unique(tt_rank[stop > hot]).tolist():
            these = tt_rank == rank
            lost[these] = own.loss("tt", rank, hot[these], stop[these])
        return lost

    def ranks_at(self, shares: np.ndarray) -> np.ndarray:
        """RecShard's inverse access curve: the fewest rows that answer these shares of counted look-ups."""
        curve = self.statistics.curve
        reached = curve.share(curve.boundaries)
        run = np.maximum(np.searchsorted(reached, shares, side="left"), 1)
        low, high = curve.boundaries[run - 1], curve.boundaries[run]
        part = (shares - reached[run - 1]) / (reached[run] - reached[run - 1])
        return low + np.ceil(part * (high - low) - 1e-6).astype(np.int64)

    def _rows(self, start: int, stop: int, memory: Memory) -> Band:
        return Band(
            start=start,
            stop=stop,
            format=self.task.row_format,
            memory=memory,
            scale=self.task.row_scale,
        )


# ----------------------------------------------------------------------------------------------------------
# whole tables


def greedy_by_size(task: Task) -> list[TableLayout]:
    """Whole tables to DRAM, smallest first, as many as fit; the others to SSD.

    Sharders that balance GPUs take the largest first (RecShard's size-based baseline); where DRAM is a small
    part of the bytes that would spend it on the rows that are wanted least.
    """
    tables = task.tables
    return _greedy(task, tables, [(table.layout(table.rows).dram_bytes, 0.0) for table in tables])


def greedy_by_lookups(task: Task) -> list[TableLayout]:
    """Whole tables to DRAM, those with most look-ups a sample first, of equal ones the smallest; the others
    to SSD (RecShard's look-up-based baseline)."""
    tables = task.tables
    return _greedy(
        task, tables, [(-table.lookups, float(table.layout(table.rows).dram_bytes)) for table in tables]
    )


def _greedy(task: Task, tables: list[_Table], keys: list[tuple[float, float]]) -> list[TableLayout]:
    """The tables in the order of their keys, each to DRAM if it still fits, else to SSD."""
    order = sorted(range(len(tables)), key=keys.__getitem__)
    layouts = [table.layout(0) for table in tables]
    left = task.dram_bytes - sum(layout.dram_bytes for layout in layouts)  # shared scales of rows on SSD
    for number in order:
        whole = tables[number].layout(tables[number].rows)
        more = whole.dram_bytes - layouts[number].dram_bytes
        if more <= left:
            layouts[number], left = whole, left - more
    if left >= 0 and sum(layout.ssd_bytes for layout in layouts) <= task.ssd_bytes:
        return layouts
    # As many tables in that order as leave what the SSD can hold: with just their bytes it would work.
    layouts = [table.layout(0) for table in tables]
    for number in (*order, None):
        if sum(layout.ssd_bytes for layout in layouts) <= task.ssd_bytes:
            break
        if number is not None:
            layouts[number] = tables[number].layout(tables[number].rows)
    raise DoesNotFit(
        "the whole tables that do not fit into DRAM do not fit onto the SSD",
        sum(layout.dram_bytes for layout in layouts),
    )


def tt_only(task: Task) -> list[TableLayout]:
    """The largest tables whole as tensor trains, all others whole as rows in DRAM (TT-Rec, arXiv 2101.11714).

    As few tables as the budget allows become tensor trains, of the largest TT rank that then fits. Accuracy
    has no say in it.
    """
    tables = task.tables
    order = sorted(range(len(tables)), key=lambda number: -tables[number].rows)
    layouts = [table.layout(table.rows) for table in tables]
    smallest = sum(layout.dram_bytes for layout in layouts)
    if smallest <= task.dram_bytes:
        return layouts
    best = {rank: list(layouts) for rank in sorted(task.tt_ranks, reverse=True)}
    for number in order:
        for rank, chosen in best.items():
            table = tables[number]
            train = table.layout(0, table.rows, rank)
            shape = train.bands[0].tt
            assert shape is not None
            if max(shape.ranks) == rank and train.dram_bytes < chosen[number].dram_bytes:
                chosen[number] = train
            taken = sum(layout.dram_bytes for layout in chosen)
            if taken <= task.dram_bytes:
                return chosen
            smallest = min(smallest, taken)
    raise DoesNotFit("tensor trains of all tables do not fit", smallest)


def all_on_ssd(task: Task) -> list[TableLayout]:
    """Every row on SSD; DRAM is for a cache of rows in least-recently-used order."""
    layouts = [table.layout(0) for table in task.tables]
    needed = sum(layout.ssd_bytes for layout in layouts)
    if needed > task.ssd_bytes:
        raise DoesNotFit(f"all rows take {needed} bytes of SSD, there are {task.ssd_bytes}", None)
    scales = sum(layout.dram_bytes for layout in layouts)
    if scales > task.dram_bytes:
        raise DoesNotFit("the scales of the rows on SSD do not fit into DRAM", scales)
    return layouts


# ----------------------------------------------------------------------------------------------------------
# tables cut by rank


def recshard(task: Task) -> list[TableLayout]:
    """Each table's hottest rows in DRAM, the others on SSD: RecShard's program (arXiv 2201.10095), one host.

    One binary per table and step of the inverse access curve, 100 uniform steps; the time of a table is
    coverage x pooling x batch x bytes of a row x (share / bandwidth of DRAM + (1 - share) / bandwidth of the
    SSD), both for rows at random; all tables' time is minimised under the bytes of DRAM and SSD. Ours are
    one more step, the whole table, which needs no index, and the estimated share of rows never counted.
    """
    columns = []
    for table in task.tables:
        cuts = np.unique(np.append(table.ranks_at(np.arange(_STEPS + 1) / _STEPS), table.rows))
        columns.append(np.stack((cuts, cuts, np.zeros_like(cuts)), axis=1))
    return _least_seconds(task, columns, tensor_trains=False)


def three_tier(task: Task) -> list[TableLayout]:
    """Each table's hottest rows in DRAM, the next as a tensor train, the coldest on SSD, any of them left
    out: three-level sharding in the order that SCRec (arXiv 2504.00520) is taken to have.

    The paper's program is not public. This one is RecShard's with a second cut and a TT rank for each table:
    the share that tensor trains answer takes the time of rebuilding its rows, and what that costs in accuracy
    is limited for all tables together.
    """
    columns = []
    for table in task.tables:
        shares = np.arange(_TIER_STEPS + 1) / _TIER_STEPS
        cuts = np.unique(np.append(table.ranks_at(shares), np.arange(1, 11) * table.rows // 10))
        tiers = [
            (hot, stop, rank)
            for hot, stop in combinations_with_replacement(cuts.tolist(), 2)
            for rank in (task.tt_ranks if stop > hot else (0,))
        ]
        columns.append(table.possible(np.array(tiers)))
    return _least_seconds(task, columns, tensor_trains=True)


def _least_seconds(task: Task, columns: Sequence[np.ndarray], *, tensor_trains: bool) -> list[TableLayout]:
    """A layout of each table from its columns int64 [n, 3] of (hot, stop, tt_rank): least time in all, within
    the bytes of DRAM and SSD and what tensor trains may cost in accuracy."""
    values, kept = [], []
    for table, column in zip(task.tables, columns, strict=True):
        layout = column.T
        parts = [table.seconds(*layout), table.dram_bytes(*layout), table.ssd_bytes(layout[1])]
        if tensor_trains:
            parts.append(table.tt_loss(*layout))
        own = np.stack(parts, axis=1).astype(np.float64)
        front = pareto_front(own)
        values.append(own[front])
        kept.append(column[front])
    limits = [float(task.dram_bytes), float(task.ssd_bytes)]
    if tensor_trains:
        limits.append(task.max_loss + _LOSS_ROUNDING if task.max_loss > 0 else 0.0)
    try:
        chosen = choose(
            [own[:, 0] for own in values],
            [own[:, 1:] for own in values],
            np.array(limits),
            time_limit=task.time_limit,
        )
    except Infeasible as error:
        raise DoesNotFit("no choice of cuts fits", _least_dram(task, values, limits)) from error
    return [
        table.layout(*rows[number].tolist())
        for table, rows, number in zip(task.tables, kept, chosen.columns, strict=True)
    ]


def _least_dram(task: Task, values: Sequence[np.ndarray], limits: Sequence[float]) -> int | None:
    """The least DRAM of any choice within the other limits."""
    try:
        least = choose(
            [own[:, 1] for own in values],
            [own[:, 2:] for own in values],
            np.array(limits[1:]),
            gap=0.0,
            time_limit=task.time_limit,
        )
    except Infeasible:
        return None
    return round(least.cost)


PLANNERS: dict[Baseline, Callable[[Task], list[TableLayout]]] = {
    "greedy-size": greedy_by_size,
    "greedy-lookups": greedy_by_lookups,
    "recshard": recshard,
    "three-tier": three_tier,
    "tt-only": tt_only,
    "lru": all_on_ssd,
}

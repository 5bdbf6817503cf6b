"""Planners of the literature, to measure ours against: each gives layouts of all tables, by its own rules.

What they share with the mixed-integer program of :mod:`screc.planning.planner` is the machine, the statistics
and the budget that they are given, and the cost model by which all plans are predicted afterwards; not the
costs by which they choose. Every one but ``tt-only`` and ``three-tier`` places rows of one format, whatever
that is: fp32 as published, or int8 or int4 for a comparison at equal formats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np

from screc.planning.mip import Infeasible, choose
from screc.planning.sensitivity import Sensitivity
from screc.planning.system import SystemSpec
from screc.statistics.access import AccessStatistics, TableStatistics
from screc.storage.layout import Band, Memory, PageGeometry, TableLayout, TtShape, index_bytes
from screc.storage.row_format import RowFormat, ScaleOf, row_bytes

Baseline = Literal["greedy-size", "greedy-lookups", "recshard", "three-tier", "tt-only", "lru"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

# RecShard's steps of the inverse access curve.
_STEPS = 100
# Three tiers have two cuts a table: half the steps, and every tenth of the rows, for the last steps of access
# hold most rows.
_TIER_STEPS = 50
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
    def lookups(self) -> float:
        """Per batch: coverage times look-ups of a sample that has any."""
        table = self.statistics
        pooling = table.num_lookups / table.num_nonempty if table.num_nonempty else 0.0
        return self.task.batch_size * table.coverage * pooling

    def layout(self, hot: int, stop: int | None = None, tt_rank: int = 0) -> TableLayout:
        """Ranks [0, hot) in DRAM, [hot, stop) as a tensor train, the others on SSD."""
        stop = hot if stop is None else stop
        bands = []
        if hot:
            bands.append(self._rows(0, hot, "dram"))
        if stop > hot:
            bands.append(
                Band(start=hot, stop=stop, format="tt", memory="dram", tt=self.shape(hot, stop, tt_rank))
            )
        if stop < self.rows:
            bands.append(self._rows(stop, self.rows, "ssd"))
        return TableLayout(
            table=self.statistics.name, num_embeddings=self.rows, embedding_dim=self.dim, bands=tuple(bands)
        )

    def shape(self, hot: int, stop: int, tt_rank: int) -> TtShape:
        """Of the tensor train: a last band has room for every id."""
        return _balanced(self.rows if stop == self.rows else stop - hot, self.dim, tt_rank)

    def row_seconds(self) -> float:
        """On the clock, for one look-up of a row in DRAM while all devices do the same."""
        system, task = self.task.system, self.task
        return 1e-9 * system.row_ns(task.row_format, self.dim, task.row_scale) / system.devices.count

    def tt_seconds(self, shape: TtShape) -> float:
        """The same for a row rebuilt from cores."""
        return 1e-9 * self.task.system.tt_ns(shape) / self.task.system.devices.count

    def read_seconds(self) -> float:
        """The same for a row on SSD, one page or more; infinite without an SSD."""
        rate = self.task.system.pages_per_second(self.task.queue_depth)
        size = row_bytes(self.task.row_format, self.dim, self.task.row_scale)
        return PageGeometry.of(size).pages_per_row / rate if rate else np.inf

    def ranks_at(self, shares: np.ndarray) -> np.ndarray:
        """RecShard's inverse access curve: the fewest rows that answer these shares of the look-ups counted."""
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


@cache
def _balanced(rows: int, dim: int, tt_rank: int) -> TtShape:
    return TtShape.balanced(rows, dim, tt_rank)


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
            if train.dram_bytes < chosen[number].dram_bytes:
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
    """Each table's hottest rows in DRAM, the others on SSD: RecShard's program (arXiv 2201.10095), for one host.

    One binary per table and step of the inverse access curve, 100 uniform steps; the time of a table is
    coverage x pooling x batch x bytes of a row x (share / bandwidth of DRAM + (1 - share) / bandwidth of the
    SSD), both for rows at random; all tables' time is minimised under the bytes of DRAM and SSD. Two steps
    are ours: all rows ever seen, and the whole table, which needs no index.
    """
    columns, costs, resources = [], [], []
    for table in task.tables:
        cuts = np.unique(np.append(table.ranks_at(np.arange(_STEPS + 1) / _STEPS), table.rows))
        share = table.statistics.share(cuts)
        layouts = [table.layout(int(cut)) for cut in cuts]
        columns.append(layouts)
        costs.append(table.seconds((share, table.row_seconds), (1.0 - share, table.read_seconds)))
        resources.append(np.array([(layout.dram_bytes, layout.ssd_bytes) for layout in layouts]))
    chosen = _solve(task, costs, resources, [task.dram_bytes, task.ssd_bytes])
    return [layouts[number] for layouts, number in zip(columns, chosen, strict=True)]


def three_tier(task: Task) -> list[TableLayout]:
    """Each table's hottest rows in DRAM, the next as a tensor train, the coldest on SSD, any of the three left
    out: three-level sharding in the order that SCRec (arXiv 2504.00520) is taken to have.

    The paper's program is not public. This one is RecShard's with a second cut and a TT rank for each table:
    the share that tensor trains answer takes the time of rebuilding its rows, and what that costs in accuracy
    is limited for all tables together.
    """
    columns, costs, resources = [], [], []
    for table in task.tables:
        cuts = np.unique(
            np.concatenate(
                (
                    table.ranks_at(np.arange(_TIER_STEPS + 1) / _TIER_STEPS),
                    np.arange(1, 11) * table.rows // 10,
                )
            )
        )
        pairs = [
            (hot, stop, rank)
            for hot, stop in combinations_with_replacement(cuts.tolist(), 2)
            for rank in (task.tt_ranks if stop > hot else (0,))
        ]
        hot, stop, rank = np.array(pairs).T
        shapes = [table.shape(*pair) if pair[1] > pair[0] else None for pair in pairs]
        share_hot, share_stop = table.statistics.share(np.array((hot, stop)))
        middle = share_stop - share_hot
        own = np.stack(
            (
                table.seconds(
                    (share_hot, table.row_seconds),
                    (middle, np.array([table.tt_seconds(shape) if shape else 0.0 for shape in shapes])),
                    (1.0 - share_stop, table.read_seconds),
                ),
                table.dram_bytes(hot, stop, shapes),
                table.ssd_bytes(stop),
                table.tt_loss(hot, stop, rank, middle),
            ),
            axis=1,
        )
        kept = pareto_front(own)
        columns.append([pairs[number] for number in kept])
        costs.append(own[kept, 0])
        resources.append(own[kept, 1:])
    loss = task.max_loss + _LOSS_ROUNDING if task.max_loss > 0 else 0.0
    chosen = _solve(task, costs, resources, [task.dram_bytes, task.ssd_bytes, loss])
    return [
        table.layout(*pairs[number])
        for table, pairs, number in zip(task.tables, columns, chosen, strict=True)
    ]


def _solve(
    task: Task, costs: list[np.ndarray], resources: list[np.ndarray], limits: list[float]
) -> tuple[int, ...]:
    """The column of each table, of least cost within the limits, of which the first is DRAM."""
    ...

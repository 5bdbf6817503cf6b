"""What look-ups cost each core in the symmetric and in the asymmetric data flow (arXiv 2507.01676), modelled.

In the symmetric flow every core answers a part of the samples from all tables, so that its private cache
would have to hold what is hot of all of them. In the asymmetric flow a core answers all samples from its own
tables. The model follows a core through batch after batch, table by table: a row costs what it costs from the
nearest cache that still holds it, and pooled rows are handed to the core that computes their sample.

A cache of C bytes holds what was last used (least recently used goes first). Look-ups of a table are taken as
independent draws from its access curve (Che's approximation): over x draws D(x) different rows come, and
the cache reaches back over so many batches b that the rows of b batches of all tables fill it. From b = 1 on
a batch misses D(n (b + 1)) - D(n b) of a table's n look-ups, those that ask for a row not drawn in the last b
batches. Below, nothing of a table is left when its turn comes again: D(n), and where one table alone
overflows the cache, it misses within the batch too. Around b = 1 the two are blended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from screc.planning.system import SystemSpec
from screc.statistics.curve import AccessCurve
from screc.storage.mapping import TableCores
from screc.storage.row_format import RowFormat, ScaleOf, row_bytes

LINE_BYTES = 64
# What a core's first-level data cache is taken to hold.
_NEAR_BYTES = 32 * 2**10
# Part of a private cache that a working set may fill before it misses much more than the model says: its
# replacement is not strictly by age, and lines of a set displace each other. Measured on 2 MiB second-level
# caches (benchmarks/jobs/asymmetric.py), where 1.3 MB of tables stay and 1.6 MB do not.
_USABLE = 0.7
# Sets of a cache fill unevenly: some reach back over a whole batch when others do not.
_NONE_KEPT, _ALL_KEPT = 0.75, 1.5
_MOST_RUNS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowTable:
    """A table whose rows are one array in DRAM.

    Attributes:
        name: of the table.
        curve: its access curve.
        pooling: mean look-ups per sample.
        embedding_dim, row_format, row_scale: of its rows.
    """

    name: str
    curve: AccessCurve
    pooling: float
    embedding_dim: int
    row_format: RowFormat = "fp32"
    row_scale: ScaleOf = "row"

    @property
    def num_embeddings(self) -> int:
        """Rows."""
        return self.curve.num_embeddings

    def row_bytes(self, columns: int) -> int:
        """Bytes of so many columns of a row in a cache."""
        return row_bytes(self.row_format, columns, self.row_scale)

    @cached_property
    def _coarse(self) -> AccessCurve:
        """The curve in few runs, each with the mean probability of its rows: these sums are made often."""
        curve = self.curve
        if curve.probabilities.size <= _MOST_RUNS:
            return curve
        marks = np.unique(np.geomspace(1, curve.probabilities.size, _MOST_RUNS).astype(np.int64))
        boundaries = curve.boundaries[np.concatenate(([0], marks))]
        return AccessCurve(boundaries, np.diff(curve.share(boundaries)) / np.diff(boundaries))

    def distinct(self, draws: float) -> float:
        """Different rows of so many look-ups."""
        curve = self._coarse
        return float(-np.expm1(-draws * curve.probabilities) @ np.diff(curve.boundaries))

    def new_share(self, draws: float) -> float:
        """Chance that a look-up asks for a row that the last ``draws`` look-ups did not."""
        curve = self._coarse
        return float((curve.probabilities * np.exp(-draws * curve.probabilities)) @ np.diff(curve.boundaries))


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """What a core does of a table in a batch: ``lookups`` of ``columns`` columns each, by a strategy that
    takes ``factor`` times what gathering takes."""

    table: FlowTable
    lookups: float
    columns: int
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FlowPrediction:
    """Look-ups of one batch.

    Attributes:
        core_seconds: for each core, its look-ups.
        handed_seconds: each core's share of the time to take over pooled rows that others wrote.
        private_share: share of the look-ups that private caches answer.
    """

    core_seconds: tuple[float, ...]
    handed_seconds: float
    private_share: float

    @property
    def seconds(self) -> float:
        """Until the slowest core is done."""
        return max(self.core_seconds) + self.handed_seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowModel:
    """A machine and a batch size.

    Attributes:
        system: the rates. A rate that holds for all of its cores at once is taken to hold for ``cores``.
        batch_size: samples.
        cores: cores that look up.
        reserved_bytes: of each private cache, for what passes through it beside the tables: ids, pooled rows,
            weights.
        handed_ns: device-ns for each cache line that another core has written.
    """

    system: SystemSpec
    batch_size: int
    cores: int
    reserved_bytes: int = 0
    handed_ns: float = 0.0

    @cached_property
    def private_bytes(self) -> int:
        """Of a core's private cache, for tables."""
        return max(0, int(_USABLE * self.system.devices.private.llc_bytes) - self.reserved_bytes)

    def row_ns(self, table: FlowTable, columns: int) -> tuple[float, float, float, float]:
        """Device-ns of a look-up of so many columns: from the first level, a private cache, the shared one,
        DRAM. None is less than the one before."""
        key = (table.row_format, columns, table.row_scale)
        if key not in self._row_ns:
            own, llc, dram = (self.system.row_ns(*key, where=where) for where in ("private", "llc", "dram"))
            llc = max(own, llc)
            self._row_ns[key] = min(own, self._near_ns(table, columns)), own, llc, max(llc, dram)
        return self._row_ns[key]

    @cached_property
    def _row_ns(self) -> dict[tuple[RowFormat, int, ScaleOf], tuple[float, float, float, float]]:
        return {}

    def _near_ns(self, table: FlowTable, columns: int) -> float:
        """From look-ups in tables so small that the first level holds them; infinite if not measured."""
        if table.row_format != "fp32":
            return math.inf
        fits = [
            rate
            for rate in self.system.strategies
            if rate.strategy == "gather" and 4 * rate.rows * rate.embedding_dim <= _NEAR_BYTES
        ]
        if not fits:
            return math.inf
        pooled = max(rate.pooling for rate in fits)
        times: dict[int, float] = {}
        for rate in fits:
            if rate.pooling == pooled:
                times[rate.embedding_dim] = min(times.get(rate.embedding_dim, math.inf), rate.ns)
        dims = sorted(times)
        if columns > dims[-1]:
            return times[dims[-1]] * columns / dims[-1]
        return float(np.interp(columns, dims, [times[dim] for dim in dims]))

    def strategy_factors(self, table: FlowTable) -> dict[str, float]:
        """Time of other strategies / that of gathering, as measured on tables like this; of small ones only.

        ``private`` is left out: what it gains, a private cache, is modelled here.
        """
        if table.row_format != "fp32" or table.pooling <= 0:
            return {}
        found = self.system.strategy_ns(table.num_embeddings, table.embedding_dim, table.pooling)
        return {name: ns / found["gather"] for name, ns in found.items() if name not in ("gather", "private")}

    def near_misses(self, visit: Visit) -> float:
        """Look-ups of a visit that the first level does not answer."""
        known, key = self._near_misses, (visit.table, visit.lookups, visit.columns)
        if key not in known:
            rows = _NEAR_BYTES / visit.table.row_bytes(visit.columns)
            known[key] = _within_visit(visit.table, visit.lookups, rows)
        return known[key]

    @cached_property
    def _near_misses(self) -> dict[tuple[FlowTable, float, int], float]:
        return {}

    def visits_ns(self, visits: Sequence[Visit], share: float = 1.0) -> tuple[float, float]:
        """Device-ns of a core's visits in a batch, and how many of its look-ups a private cache answers.

        Args:
            visits: in their order.
            share: of the shared cache that these visits may fill.
        """
        private = _misses(visits, self.private_bytes)
        shared = _misses(visits, self.system.shared.llc_bytes * share)
        total, answered = 0.0, 0.0
        for visit, missed, far in zip(visits, private, shared, strict=True):
            near, own, llc, dram = self.row_ns(visit.table, visit.columns)
            first = self.near_misses(visit)
            missed = min(missed, first)
            far = min(far, missed)
            ns = visit.lookups * near + first * (own - near) + missed * (llc - own) + far * (dram - llc)
            bags = visit.lookups / max(visit.table.pooling, 1.0)
            total += visit.factor * ns + bags * self.system.bag_ns(visit.columns)
            answered += visit.lookups - missed
        return total, answered

    def symmetric(self, tables: Sequence[FlowTable]) -> FlowPrediction:
        """Every core a part of the samples, in all tables, each by its fastest strategy."""
        visits = [
            Visit(
                table=table,
                lookups=self.batch_size * table.pooling / self.cores,
                columns=table.embedding_dim,
                factor=min((1.0, *self.strategy_factors(table).values())),
            )
            for table in tables
        ]
        ns, answered = self.visits_ns(visits)
        total = sum(visit.lookups for visit in visits)
        return FlowPrediction(
            core_seconds=(1e-9 * ns,) * self.cores,
            handed_seconds=0.0,
            private_share=answered / total if total else 1.0,
        )

    def asymmetric(self, tables: Sequence[FlowTable], mapping: Sequence[TableCores]) -> FlowPrediction:
        """Every core its own tables, as the mapping says; tables of nobody are shared out in equal parts."""
        by_name = {entry.table: entry for entry in mapping}
        own: list[list[Visit]] = [[] for _ in range(self.cores)]
        lines = 0.0  # of pooled rows of a sample
        for table in tables:
            entry = by_name[table.name]
            lookups = self.batch_size * table.pooling
            holders = entry.cores or tuple(range(self.cores))
            by_columns = bool(entry.cores) and len(holders) > 1 and entry.split == "columns"
            for core in holders:
                visit = Visit(
                    table=table,
                    lookups=lookups if by_columns else lookups / len(holders),
                    columns=table.embedding_dim // len(holders) if by_columns else table.embedding_dim,
                    factor=self.strategy_factors(table).get(entry.strategy, 1.0),
                )
                own[core].append(visit)
            lines += 4 * table.embedding_dim / LINE_BYTES
        found = [self.visits_ns(visits, 1 / self.cores) for visits in own]
        total = sum(visit.lookups for visits in own for visit in visits)
        away = (self.cores - 1) / self.cores
        handed = self.batch_size * lines * away * self.handed_ns / self.cores
        return FlowPrediction(
            core_seconds=tuple(1e-9 * ns for ns, _ in found),
            handed_seconds=1e-9 * handed,
            private_share=sum(answered for _, answered in found) / total if total else 1.0,
        )


def _misses(visits: Sequence[Visit], capacity: float) -> list[float]:
    """Look-ups of each visit in a batch that a cache of ``capacity`` bytes does not answer."""
    sizes = [visit.table.row_bytes(visit.columns) for visit in visits]

    def filled(batches: float) -> float:
        return sum(
            size * visit.table.distinct(batches * visit.lookups)
            for size, visit in zip(sizes, visits, strict=True)
        )

    forever = 1e12
    if not visits or filled(forever) <= capacity:
        return [0.0] * len(visits)
    low, high = 1e-9, forever
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if filled(middle) <= capacity else (low, middle)
    reach = low
    kept = min(1.0, max(0.0, (reach - _NONE_KEPT) / (_ALL_KEPT - _NONE_KEPT)))
    missed = []
    for size, visit in zip(sizes, visits, strict=True):
        table, lookups = visit.table, visit.lookups
        cold = _within_visit(table, lookups, capacity / size)
        warm = table.distinct(lookups * (reach + 1)) - table.distinct(lookups * reach)
        missed.append(kept * min(warm, cold) + (1 - kept) * cold)
    return missed


def _within_visit(table: FlowTable, lookups: float, rows: float) -> float:
    """Look-ups of a visit that a cache of so many rows does not answer, which holds none of them before."""
    if table.distinct(lookups) <= rows:
        return table.distinct(lookups)
    low, high = 0.0, lookups
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if table.distinct(middle) <= rows else (low, middle)
    return table.distinct(low) + (lookups - low) * table.new_share(low)

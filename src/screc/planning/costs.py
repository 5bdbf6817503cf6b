"""What a band is predicted to cost per batch, from the table's access curve and the machine's rates.

A layout costs the sum over its bands, and a band depends on no other: its rows or cores, its index (every
band but the last has one) and asking that index about every look-up that the bands before it did not answer.
Times are device-seconds: how long one device is busy. The formulas are in docs/guide/planning.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np

from screc.planning.sensitivity import TableSensitivity
from screc.planning.system import SystemSpec, Where
from screc.statistics.curve import AccessCurve
from screc.statistics.table import TableStatistics
from screc.storage.layout import (
    PAGE_BYTES,
    SHARED_SCALE_BYTES,
    Band,
    Format,
    IndexKind,
    Memory,
    PageGeometry,
    TableLayout,
    TtShape,
    index_bytes,
    index_sizes,
)
from screc.storage.row_format import RowFormat, ScaleOf, row_bytes

LINE_BYTES = 64
# Without a sensitivity a TT look-up is never predicted faster than a row from DRAM, but a little slower:
# accuracy that nobody measured is not to be spent for nanoseconds, and where both fit the exact rows win.
_TT_OVER_DRAM = 1.01
# Caches that the hardware manages, nearest first: (place, batches that it reaches back).
Reaches = Sequence[tuple[Where, float]]

#: What bands use up, in the order of :attr:`BandCosts.usage`.
RESOURCES = ("seconds", "reads", "traffic", "llc", "dram", "ssd", "loss")


@dataclass(frozen=True, slots=True)
class Placement:
    """What the rows of a band become and where they live; the device is chosen for whole tables."""

    format: Format
    memory: Memory
    tt_rank: int | None = None
    scale: ScaleOf = "row"

    def band(self, start: int, stop: int, num_embeddings: int, embedding_dim: int) -> Band:
        """The band of these ranks of a table."""
        shape = None
        if self.tt_rank is not None:
            slots = num_embeddings if stop == num_embeddings else stop - start
            shape = TtShape.balanced(slots, embedding_dim, self.tt_rank)
        return Band(
            start=start, stop=stop, format=self.format, memory=self.memory, scale=self.scale, tt=shape
        )

    @classmethod
    def of(cls, band: Band) -> Placement:
        """That of a band; a tensor train's TT rank is its largest."""
        return cls(band.format, band.memory, max(band.tt.ranks) if band.tt else None, band.scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class BandCosts:
    """Costs of n bands of one table, arrays [n], per batch.

    Attributes:
        lookups: that end in the band.
        row_seconds: device-seconds to fetch, decode or rebuild its rows; the last band's also those of the
            bags.
        index_seconds: device-seconds to ask its index.
        pages: of 4 KiB that are read.
        reads: of single pages that take the drive as long: pages side by side are read together.
        traffic: bytes that come from DRAM.
        num_bytes: of rows, cores or pages in the band's memory.
        index_bytes: of its index.
        llc, dram, ssd: bytes of each memory, all of the above and shared scales.
        loss: rise of the log-loss; without a sensitivity, share of all look-ups that TT answers.
    """

    lookups: np.ndarray
    row_seconds: np.ndarray
    index_seconds: np.ndarray
    pages: np.ndarray
    reads: np.ndarray
    traffic: np.ndarray
    num_bytes: np.ndarray
    index_bytes: np.ndarray
    llc: np.ndarray
    dram: np.ndarray
    ssd: np.ndarray
    loss: np.ndarray

    @property
    def seconds(self) -> np.ndarray:
        """Device-seconds in all."""
        return self.row_seconds + self.index_seconds

    @property
    def usage(self) -> np.ndarray:
        """float64 [n, 7] in the order of :data:`RESOURCES`."""
        return np.stack([getattr(self, name) for name in RESOURCES], axis=1).astype(np.float64)

    def take(self, numbers: np.ndarray) -> BandCosts:
        """Some of the bands."""
        return BandCosts(**{one.name: getattr(self, one.name)[numbers] for one in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[BandCosts]) -> BandCosts:
        """The bands of all parts, in order."""
        return cls(
            **{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)}
        )


class Rates:
    """The rates of a machine, each worked out once.

    Attributes:
        system: the machine.
        busy: devices that look rows up at once; None for all.
    """

    def __init__(self, system: SystemSpec, busy: int | None = None) -> None:
        self.system, self.busy = system, busy
        self._known: dict[tuple[object, ...], float] = {}

    def row_ns(self, row_format: RowFormat, embedding_dim: int, scale: ScaleOf, where: Where) -> float:
        """As :meth:`SystemSpec.row_ns`."""
        key = (row_format, embedding_dim, scale, where)
        if key not in self._known:
            self._known[key] = self.system.row_ns(*key, busy=self.busy)
        return self._known[key]

    def index_ns(self, kind: IndexKind, where: Where) -> float:
        """As :meth:`SystemSpec.index_ns`."""
        key = (kind, where)
        if key not in self._known:
            self._known[key] = self.system.index_ns(*key)
        return self._known[key]

    def tt_ns(self, shape: TtShape) -> float:
        """As :meth:`SystemSpec.tt_ns`."""
        key = ("tt", shape.embedding_dim, shape.flops_per_row)
        if key not in self._known:
            self._known[key] = self.system.tt_ns(shape)
        return self._known[key]


@dataclass(frozen=True, kw_only=True, eq=False)
class TableCosts:
    """Cost model of one table, or of one row-shard of it.

    Attributes:
        statistics: access counts of the table.
        embedding_dim: length of a row.
        rates: the machine's.
        batch_size: samples per batch.
        weight: the table's part of all look-ups.
        reaches: by bytes of a row, how far back the caches reach that the hardware manages.
        calls: that serve a batch; each reads its pages by itself.
        index_part: bytes of the shared cache that one index may fill and stay there.
        sensitivity: what the table loses in each format; None: only TT bands cost accuracy, as their share of
            the look-ups.
        parts, part: of a table whose ranks are dealt out to ``parts`` shards in turn, ``part`` is this one.
    """

    statistics: TableStatistics
    embedding_dim: int
    rates: Rates
    batch_size: int
    weight: float = 1.0
    reaches: Mapping[int, Reaches] = field(default_factory=dict)
    calls: int = 1
    index_part: float = 0.0
    sensitivity: TableSensitivity | None = None
    parts: int = 1
    part: int = 0

    @cached_property
    def _mass(self) -> float:
        """Part of the table's look-ups that the shard answers."""
        return float((self._dealt[1] * np.diff(self._dealt[0])).sum()) if self.parts > 1 else 1.0

    @cached_property
    def curve(self) -> AccessCurve:
        """The smoothed access curve of the table or shard."""
        if self.parts == 1:
            return self.statistics.smoothed_curve
        boundaries, probabilities = self._dealt
        return AccessCurve(boundaries, probabilities / self._mass)

    @cached_property
    def _dealt(self) -> tuple[np.ndarray, np.ndarray]:
        """Boundaries and probabilities of the runs of the table's curve, of the shard's ranks only."""
        whole = self.statistics.smoothed_curve
        boundaries = np.maximum(0, -(-(whole.boundaries - self.part) // self.parts))
        kept = np.diff(boundaries) > 0
        return np.append(boundaries[:-1][kept], boundaries[-1]), whole.probabilities[kept]

    @property
    def num_embeddings(self) -> int:
        """Rows of the table or shard."""
        return self.curve.num_embeddings

    @property
    def num_seen(self) -> int:
        """Rows of the table or shard that were looked up at least once."""
        return max(0, -(-(self.statistics.num_ranked - self.part) // self.parts))

    @property
    def lookups(self) -> float:
        """Look-ups per batch."""
        return self.batch_size * self.statistics.mean_pooling * self._mass

    def evaluate(
        self, placement: Placement, start: np.ndarray, stop: np.ndarray, tt: TtShape | None = None
    ) -> BandCosts:
        """Costs of the bands of ranks [start, stop), int64 [n] each, start < stop, held as ``placement``;
        tensor trains in the shape ``tt``, else balanced ones."""
        rows = self.num_embeddings
        last = stop == rows
        # The last band is addressed by id: its rows, cores or pages have room for every id of the table.
        slots = np.where(last, rows, stop - start)
        share_start, share_stop = self.curve.share(start), self.curve.share(stop)
        lookups = self.lookups * (share_stop - share_start)
        pages, reads, traffic = (np.zeros(len(start)) for _ in range(3))
        if placement.tt_rank is not None:
            num_bytes, ns = self._tt(slots, placement.tt_rank, tt)
            row_seconds = 1e-9 * lookups * ns
        elif placement.memory == "ssd":
            num_bytes, pages, reads = self._pages(placement, start, stop, slots)
            row_seconds = self._read_seconds(placement, lookups, pages)
            traffic = pages * PAGE_BYTES
        else:
            num_bytes = self._row_bytes(placement) * slots
            row_seconds, traffic = self._row_seconds(placement, start, stop)
        row_seconds = row_seconds + np.where(last, self._bag_seconds, 0.0)
        indexed = np.where(last, 0, index_sizes(rows, stop - start))
        index_seconds, index_traffic = self._index_seconds(placement, start, stop, indexed)
        beside = indexed + (SHARED_SCALE_BYTES if placement.scale == "table" else 0)
        in_memory = {"llc": 0, "dram": 0, "ssd": 0, placement.memory: num_bytes}
        beside_in = "llc" if placement.memory == "llc" else "dram"
        in_memory[beside_in] = in_memory[beside_in] + beside
        zeros = np.zeros(len(start), dtype=np.int64)
        return BandCosts(
            lookups=lookups,
            row_seconds=row_seconds,
            index_seconds=index_seconds,
            pages=pages,
            reads=reads,
            traffic=traffic + index_traffic,
            num_bytes=num_bytes,
            index_bytes=indexed,
            loss=self._loss(placement, start, stop, share_stop - share_start),
            **{memory: zeros + size for memory, size in in_memory.items()},
        )

    @cached_property
    def _bag_seconds(self) -> float:
        """Device-seconds of the table's bags besides the look-ups in them, in whatever bands these end."""
        return 1e-9 * self.batch_size * self.rates.system.bag_ns(self.embedding_dim)

    def of_layout(self, layout: TableLayout) -> BandCosts:
        """Costs of each band of any layout of this table."""
        parts = []
        for band in layout.bands:
            start, stop = np.array([band.start]), np.array([band.stop])
            parts.append(self.evaluate(Placement.of(band), start, stop, band.tt))
        return BandCosts.joined(parts)

    def with_reads(self, costs: BandCosts, layout: TableLayout, band: int, rows: float) -> BandCosts:
        """The costs of the layout's bands, if a batch reads only so many different rows of one on SSD."""
        placement, slots = Placement.of(layout.bands[band]), np.array([layout.slots(band)])
        names = ("pages", "reads", "row_seconds", "traffic")
        changed = {name: getattr(costs, name).copy() for name in names}
        pages, reads = self._reads(placement, slots, np.array([rows]))
        before, after = (
            self._read_seconds(placement, costs.lookups[[band]], one)[0]
            for one in (costs.pages[[band]], pages)
        )
        changed["traffic"][band] += (pages[0] - costs.pages[band]) * PAGE_BYTES
        changed["row_seconds"][band] += after - before
        changed["pages"][band], changed["reads"][band] = pages[0], reads[0]
        return replace(costs, **changed)

    def possible(self, placement: Placement, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Which of the bands make sense, bool [n]: those with enough rows for their TT rank."""
        if placement.tt_rank is None:
            return np.ones(len(start), dtype=bool)
        slots = np.where(stop == self.num_embeddings, self.num_embeddings, stop - start)
        return tt_sizes(slots, self.embedding_dim, placement.tt_rank)[2] == placement.tt_rank

    def layout(self, bands: Sequence[tuple[Placement, int, int]]) -> TableLayout:
        """The layout with these bands as the other rooms read it."""
        rows, dim = self.num_embeddings, self.embedding_dim
        return TableLayout(
            table=self.statistics.name,
            num_embeddings=rows,
            embedding_dim=dim,
            bands=tuple(placement.band(start, stop, rows, dim) for placement, start, stop in bands),
        )

    def _row_bytes(self, placement: Placement) -> int:
        assert placement.format != "tt"
        return row_bytes(placement.format, self.embedding_dim, placement.scale)

    def _row_ns(self, placement: Placement, where: Where) -> float:
        assert placement.format != "tt"
        return self.rates.row_ns(placement.format, self.embedding_dim, placement.scale, where)

    def _row_seconds(
        self, placement: Placement, start: np.ndarray, stop: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Device-seconds, and bytes from DRAM, of look-ups of rows in DRAM or llc."""
        size = self._row_bytes(placement)
        if placement.memory == "llc":
            found: list[tuple[Where, np.ndarray]] = [("private", self._missed(0.0, start, stop))]
        else:
            found = self._found(self.reaches.get(size, ()), start, stop)
        seconds, traffic = np.zeros(len(start)), np.zeros(len(start))
        for where, here in found:
            seconds += 1e-9 * self._row_ns(placement, where) * here
            if where == "dram":
                traffic += -(-size // LINE_BYTES) * LINE_BYTES * here
        return seconds, traffic

    def _found(self, reaches: Reaches, start: np.ndarray, stop: np.ndarray) -> list[tuple[Where, np.ndarray]]:
        """Look-ups of ranks [start, stop) that find their row in each place."""
        left = self._missed(0.0, start, stop)
        found: list[tuple[Where, np.ndarray]] = []
        for where, batches in reaches:
            beyond = np.minimum(left, self._missed(batches, start, stop))
            found.append((where, left - beyond))
            left = beyond
        return [*found, ("dram", left)]

    def _missed(self, batches: float, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Look-ups of ranks [start, stop) whose row was not asked for in so many batches before."""
        before = batches * self.lookups if self.lookups else 0.0
        return self.lookups * (self.curve.missed(before, stop) - self.curve.missed(before, start))

    def _index_seconds(
        self, placement: Placement, start: np.ndarray, stop: np.ndarray, size: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Device-seconds, and bytes from DRAM, to ask indices of ``size`` bytes (0 = none) about every
        look-up of a rank >= start."""
        rows = np.full(len(start), self.num_embeddings)
        asked = self.lookups * (1.0 - self.curve.share(start))
        if placement.memory == "llc":
            seconds = 1e-9 * self._index_ns(stop - start, "private") * asked
            return np.where(size > 0, seconds, 0.0), np.zeros(len(start))
        # A small index stays in the cache; of a large one the lines of the ids that are asked for again.
        beyond = self._found(self.reaches.get(LINE_BYTES, ()), start, rows)[-1][1]
        far = np.where(size > self.index_part, beyond, 0.0)
        near = asked - far
        seconds = 1e-9 * (
            self._index_ns(stop - start, "llc") * near + self._index_ns(stop - start, "dram") * far
        )
        return np.where(size > 0, seconds, 0.0), np.where(size > 0, LINE_BYTES * far, 0.0)

    def _index_ns(self, band_rows: np.ndarray, where: Where) -> np.ndarray:
        bitmap_bytes = index_bytes(self.num_embeddings, self.num_embeddings)
        bitmap = index_sizes(self.num_embeddings, band_rows) == bitmap_bytes
        return np.where(bitmap, self.rates.index_ns("bitmap", where), self.rates.index_ns("hash", where))

    def _pages(
        self, placement: Placement, start: np.ndarray, stop: np.ndarray, slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Bytes of the page files, pages read per batch, each once, and reads that take as long.

        The different rows that are asked for (exact by the access curve) are taken to lie scattered over all
        pages of the band, for rows on SSD are addressed by their own id.
        """
        geometry = PageGeometry.of(self._row_bytes(placement))
        touched = np.maximum(
            self.curve.distinct(self.lookups / self.calls, stop)
            - self.curve.distinct(self.lookups / self.calls, start),
            0.0,
        )
        groups = -(-slots // geometry.rows_per_page)
        num_bytes = groups * geometry.pages_per_row * PAGE_BYTES
        return num_bytes, *self._reads(placement, slots, touched)

    def _reads(
        self, placement: Placement, slots: np.ndarray, touched: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pages per batch where each call asks for so many different rows of a band, and reads of lone pages
        that take as long."""
        geometry = PageGeometry.of(self._row_bytes(placement))
        groups = -(-slots // geometry.rows_per_page)
        read = groups * -np.expm1(-touched / groups)
        reads = self.rates.system.lone_reads(read, groups, geometry.pages_per_row)
        return self.calls * read * geometry.pages_per_row, self.calls * reads

    def _read_seconds(self, placement: Placement, lookups: np.ndarray, pages: np.ndarray) -> np.ndarray:
        """Device-seconds of look-ups on SSD: of each page, which brings one row, and of each further row."""
        further = np.maximum(lookups - pages, 0.0)
        return 1e-9 * (pages * self.rates.system.page_ns + further * self._row_ns(placement, "llc"))

    def _tt(self, slots: np.ndarray, tt_rank: int, shape: TtShape | None) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of the cores, and device-ns per rebuilt row."""
        if shape is not None:
            num_bytes = np.full(len(slots), 4 * shape.num_parameters)
            times = np.full(len(slots), self.rates.tt_ns(shape))
        else:
            parameters, flops, _ = tt_sizes(slots, self.embedding_dim, tt_rank)
            _, first, place = np.unique(flops, return_index=True, return_inverse=True)
            shapes = [TtShape.balanced(int(slots[i]), self.embedding_dim, tt_rank) for i in first]
            num_bytes = 4 * parameters
            times = np.array([self.rates.tt_ns(one) for one in shapes])[place.reshape(-1)]
        if self.sensitivity is None:
            times = np.maximum(times, _TT_OVER_DRAM * self._row_ns(Placement("fp32", "dram"), "dram"))
        return num_bytes, times

    def _loss(
        self, placement: Placement, start: np.ndarray, stop: np.ndarray, share: np.ndarray
    ) -> np.ndarray:
        if self.sensitivity is None:
            return self.weight * self._mass * share if placement.format == "tt" else np.zeros(len(start))
        # A shard's ranks stand for as many times their number of the table's.
        most = self.statistics.num_embeddings
        ranks = (np.minimum(ranks * self.parts, most) for ranks in (start, stop))
        return (
            self.sensitivity.loss(placement.format, placement.tt_rank, *ranks, placement.scale) / self.parts
        )


def tt_sizes(
    num_rows: np.ndarray, embedding_dim: int, tt_rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parameters, flops per row and largest TT rank of ``TtShape.balanced(rows, embedding_dim, tt_rank)`` for
    each of ``num_rows``, int64 [n]."""
    rows = np.maximum(num_rows, 1)
    first = np.maximum(1, np.floor(rows ** (1 / 3) + 1e-9).astype(np.int64))
    rest = -(-rows // first)
    second = np.maximum(1, np.floor(rest**0.5 + 1e-9).astype(np.int64))
    p = np.sort(np.stack((first, second, -(-rest // second))), axis=0)
    q = TtShape.balanced(1, embedding_dim, 1).col_factors
    left = np.minimum(tt_rank, np.minimum(p[0] * q[0], p[1] * p[2] * (q[1] * q[2])))
    right = np.minimum(tt_rank, np.minimum(p[0] * p[1] * (q[0] * q[1]), p[2] * q[2]))
    parameters = p[0] * q[0] * left + left * p[1] * q[1] * right + right * p[2] * q[2]
    flops = 2 * q[0] * left * q[1] * right + 2 * q[0] * q[1] * right * q[2]
    return parameters, flops, np.maximum(left, right)

"""What a layout is predicted to cost per batch, from the table's access curve and the host's rates.

Every function is vectorised over candidate layouts of one table, each written as three numbers: ranks
``[0, hot)`` are rows in DRAM, ``[hot, stop)`` a tensor-train band, ``[stop, N)`` rows on SSD; any of the
three may be empty. Rows in DRAM and on SSD have one row format, with a scale a row or a band. The formulas
are in docs/guide/planning.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from screc.planning.system import SystemSpec, Where
from screc.statistics.access import TableStatistics
from screc.storage.layout import (
    PAGE_BYTES,
    SHARED_SCALE_BYTES,
    Band,
    Memory,
    PageGeometry,
    TableLayout,
    TtShape,
    index_bytes,
)
from screc.storage.row_format import RowFormat, ScaleOf, row_bytes

_LINE_BYTES = 64
# A TT look-up is never predicted faster than a row from DRAM, but a little slower: accuracy is not to
# be spent for nanoseconds, and where both fit the exact rows win.
_TT_OVER_DRAM = 1.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Costs:
    """Costs of n candidate layouts of one table, arrays [n].

    Seconds are wall-clock per batch. ``pages`` are 4 KiB reads per batch. ``tt_share`` is the share of the
    *table's* look-ups that a TT band answers.
    """

    dram_seconds: np.ndarray
    tt_seconds: np.ndarray
    ssd_seconds: np.ndarray
    index_seconds: np.ndarray
    pages: np.ndarray
    dram_bytes: np.ndarray
    index_bytes: np.ndarray
    tt_bytes: np.ndarray
    ssd_bytes: np.ndarray
    tt_share: np.ndarray

    @property
    def seconds(self) -> np.ndarray:
        """Seconds per batch of the table, float64 [n]."""
        return self.dram_seconds + self.tt_seconds + self.ssd_seconds + self.index_seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class TableCosts:
    """Cost model of one table.

    Attributes:
        statistics: its access counts.
        embedding_dim: length of a row.
        system: the host's rates.
        batch_size: samples per batch.
        llc_bytes: the part of the last-level cache that this table's hottest rows are taken to fill.
        queue_depth: SSD reads kept in flight.
        row_format: of the rows in DRAM and on SSD.
        row_scale: whether each int8 or int4 row has its own scale, or all of a band share one ("table").
    """

    statistics: TableStatistics
    embedding_dim: int
    system: SystemSpec
    batch_size: int
    llc_bytes: float
    queue_depth: int = 256
    row_format: RowFormat = "fp32"
    row_scale: ScaleOf = "row"

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.statistics.num_embeddings

    @property
    def lookups(self) -> float:
        """Look-ups per batch."""
        return self.batch_size * self.statistics.mean_pooling

    def tt_shape(self, rows: int, tt_rank: int) -> TtShape:
        """The shape a TT band of this table gets."""
        return TtShape.balanced(rows, self.embedding_dim, tt_rank)

    def evaluate(self, hot: np.ndarray, stop: np.ndarray, tt_rank: np.ndarray) -> Costs:
        """Costs of the layouts (hot, stop, tt_rank), int64 [n] each; tt_rank is 0 where hot == stop."""
        rows = self.num_embeddings
        has_tt = stop > hot
        # The last band is addressed by id: its cores or pages have room for every id of the table.
        tt_rows = np.where(stop == rows, rows, stop - hot)
        tt_bytes, tt_ns = self._tt(np.where(has_tt, tt_rows, 0), tt_rank)
        hot_index = self._index_bytes(np.where((hot > 0) & (hot < rows), hot, 0))
        tt_index = self._index_bytes(np.where(has_tt & (stop < rows), stop - hot, 0))
        share_hot, share_stop = self._share(hot), self._share(stop)
        pages = self._pages(stop)
        ssd_bytes = np.where(stop < rows, self._pages_of.file_bytes(rows), 0)
        per_page = 1.0 / self.system.pages_per_second(self.queue_depth) if self.system.ssd else np.inf
        copied = self.lookups * (1.0 - share_stop) * self._row_ns(cached=True) * 1e-9
        with np.errstate(invalid="ignore"):  # no SSD: inf seconds where pages are needed, 0 * inf elsewhere
            ssd_seconds = np.where(stop < rows, pages * per_page + copied, 0.0)
        return Costs(
            dram_seconds=self._dram_seconds(hot),
            tt_seconds=np.where(has_tt, self.lookups * (share_stop - share_hot) * tt_ns * 1e-9, 0.0),
            ssd_seconds=ssd_seconds,
            index_seconds=self._probe_seconds(np.zeros_like(hot), hot_index)
            + self._probe_seconds(hot, tt_index),
            pages=pages,
            dram_bytes=self._row_bytes * hot + tt_bytes + hot_index + tt_index + self._scale_bytes(hot, stop),
            index_bytes=hot_index + tt_index,
            tt_bytes=tt_bytes,
            ssd_bytes=ssd_bytes,
            tt_share=np.where(has_tt, share_stop - share_hot, 0.0),
        )

    def layout(self, hot: int, stop: int, tt_rank: int) -> TableLayout:
        """The layout (hot, stop, tt_rank) as the other rooms read it."""
        rows, bands = self.num_embeddings, []
        if hot:
            bands.append(self._rows_band(0, hot, "dram"))
        if stop > hot:
            shape = self.tt_shape(rows if stop == rows else stop - hot, tt_rank)
            bands.append(Band(start=hot, stop=stop, format="tt", memory="dram", tt=shape))
        if stop < rows:
            bands.append(self._rows_band(stop, rows, "ssd"))
        return TableLayout(
            table=self.statistics.name,
            num_embeddings=rows,
            embedding_dim=self.embedding_dim,
            bands=tuple(bands),
        )

    def _rows_band(self, start: int, stop: int, memory: Memory) -> Band:
        return Band(start=start, stop=stop, format=self.row_format, memory=memory, scale=self.row_scale)

    def _scale_bytes(self, hot: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """DRAM bytes of the scales that bands of rows share, also those on SSD."""
        if self.row_scale == "row":
            return np.zeros_like(hot)
        bands = (hot > 0).astype(np.int64) + (stop < self.num_embeddings)
        return SHARED_SCALE_BYTES * bands

    @cached_property
    def _row_bytes(self) -> int:
        return row_bytes(self.row_format, self.embedding_dim, self.row_scale)

    @cached_property
    def _pages_of(self) -> PageGeometry:
        return PageGeometry.of(self._row_bytes)

    @cached_property
    def _cached_rows(self) -> int:
        # The hottest rows that the cache holds; the same rows whichever way the table is cut.
        line_bytes = max(_LINE_BYTES, self._row_bytes)
        return min(self.num_embeddings, int(self.llc_bytes // line_bytes))

    def _share(self, ranks: np.ndarray) -> np.ndarray:
        return self.statistics.smoothed_curve.share(ranks)

    def _row_ns(self, *, cached: bool) -> float:
        where: Where = "llc" if cached else "dram"
        device_ns = self.system.row_ns(self.row_format, self.embedding_dim, self.row_scale, where)
        return device_ns / self.system.devices.count

    def _dram_seconds(self, hot: np.ndarray) -> np.ndarray:
        cached = self._share(np.minimum(hot, self._cached_rows))
        missed = self._share(hot) - cached
        return (
            self.lookups * 1e-9 * (cached * self._row_ns(cached=True) + missed * self._row_ns(cached=False))
        )

    def _probe_seconds(self, start: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Seconds to ask an index of ``size`` bytes (0 = none) for every look-up of a rank >= start."""
        count = self.system.devices.count
        all_ns = self.system.row_ns("fp32", _LINE_BYTES // 4, "row", "llc") / count
        line_ns = self.system.row_ns("fp32", _LINE_BYTES // 4, "row", "dram") / count
        miss_ns = np.where(size > self.llc_bytes, line_ns, all_ns)
        beyond = self._share(np.maximum(start, self._cached_rows))
        hits, misses = beyond - self._share(start), 1.0 - beyond
        return np.where(size > 0, self.lookups * 1e-9 * (hits * all_ns + misses * miss_ns), 0.0)

    def _pages(self, stop: np.ndarray) -> np.ndarray:
        """Expected 4 KiB reads per batch for the ranks from ``stop`` on, each page read once per batch.

        The different rows that are asked for (exact by the access curve) are taken to lie scattered over
        all the pages of the table, for rows on SSD are addressed by their own id.
        """
        curve = self.statistics.smoothed_curve
        rows = self.num_embeddings
        touched = np.maximum(curve.distinct(self.lookups, rows) - curve.distinct(self.lookups, stop), 0.0)
        groups = self._pages_of.num_pages(rows) // self._pages_of.pages_per_row
        return groups * -np.expm1(-touched / groups) * self._pages_of.pages_per_row

    def _index_bytes(self, band_rows: np.ndarray) -> np.ndarray:
        sizes, place = np.unique(band_rows, return_inverse=True)
        known = [index_bytes(self.num_embeddings, int(size)) if size else 0 for size in sizes]
        return np.array(known, dtype=np.int64)[place]

    def _tt(self, tt_rows: np.ndarray, tt_rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bytes of the cores and ns per rebuilt row; zeros where tt_rows is 0."""
        pairs, place = np.unique(np.stack((tt_rows, tt_rank), axis=1), axis=0, return_inverse=True)
        num_bytes, ns = np.zeros(len(pairs), dtype=np.int64), np.zeros(len(pairs))
        floor = _TT_OVER_DRAM * self._row_ns(cached=False)
        times: dict[int, float] = {}
        for i, (rows, rank) in enumerate(pairs.tolist()):
            if rows:
                shape = self.tt_shape(rows, rank)
                num_bytes[i] = 4 * shape.num_parameters
                flops = shape.flops_per_row
                if flops not in times:
                    times[flops] = max(self.system.tt_ns(shape) / self.system.devices.count, floor)
                ns[i] = times[flops]
        place = place.reshape(-1)
        return num_bytes[place], ns[place]


def dense_seconds(system: SystemSpec, batch_size: int, flops_per_sample: int) -> float:
    """Seconds per batch of the dense part, shared by all devices; the same for every plan."""
    return 1e-9 * system.dense_ns(batch_size, flops_per_sample) / system.devices.count


assert PAGE_BYTES == 4096  # the system spec's read rates are of 4 KiB pages

"""The order of a table's rows in their pages on SSD, and how many pages a call reads under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from screc import _native
from screc.statistics.access import AccessStatistics, TableStatistics
from screc.statistics.coaccess import CoAccessSample, co_access_order
from screc.storage import PageGeometry, PageOrder, TableLayout

if TYPE_CHECKING:
    from screc.data.log import ClickLog, Progress
    from screc.storage.layout import PageOrderKind

_SAMPLES_PER_STEP = 65536
# More look-ups than these teach next to nothing about a table, and its order is made the sooner.
_LOOKUPS_PER_ROW, _LEAST_LOOKUPS = 64, 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class PageOrderConfig:
    """How page orders are made and judged.

    Attributes:
        samples_per_call: samples that are served as one call; page reads are counted per call.
        held_out_share: the last share of the log, which is not counted but measured on.
        min_saving: a table keeps the order of its ids, which costs nothing, unless its calls read fewer pages
            by at least this share of them.
        max_lookups: look-ups kept in memory, 12 bytes each, of all tables together; calls are thinned evenly.
            While an order is made, those of its table take about 60 bytes each.
        iterations: see :func:`~screc.statistics.coaccess.co_access_order`.
        threads: 0 means one per core.
    """

    samples_per_call: int = 256
    held_out_share: float = 0.1
    min_saving: float = 0.05
    max_lookups: int = 1 << 24
    iterations: int = 10
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("samples_per_call", "max_lookups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share: must be between 0 and 1, got {self.held_out_share}")
        if not 0 <= self.min_saving < 1:
            raise ValueError(f"min_saving: must be at least 0 and below 1, got {self.min_saving}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageReads:
    """Pages that a call reads of one table's last band, each page once, without a cache.

    Attributes:
        table: its name.
        calls: calls measured, all from the held-out part of the log.
        rows: different rows of the band per call, mean.
        fewest: pages that these rows would fill, per call: no order can read fewer.
        by_id: pages per call with rows in the order of their ids.
        by_frequency: the same with rows by descending frequency.
        by_co_access: the same with rows by co-access; None where that was not asked for.
        chosen: the order that the table gets.
        index_bytes: DRAM that this order takes.
    """

    table: str
    calls: int
    rows: float
    fewest: float
    by_id: float
    by_frequency: float
    by_co_access: float | None
    chosen: PageOrderKind
    index_bytes: int

    @property
    def pages(self) -> float:
        """Pages per call with the chosen order."""
        found = {"id": self.by_id, "frequency": self.by_frequency, "co-access": self.by_co_access}[
            self.chosen
        ]
        assert found is not None
        return found


@dataclass(frozen=True, eq=False, slots=True)
class PageOrders:
    """The orders of those tables that get one, and what was measured of all that could."""

    orders: tuple[PageOrder, ...]
    reads: tuple[PageReads, ...]


def make_page_orders(
    kind: PageOrderKind,
    layouts: Sequence[TableLayout],
    statistics: AccessStatistics | None,
    log: ClickLog | None = None,
    config: PageOrderConfig | None = None,
    *,
    progress: Progress | None = None,
) -> PageOrders:
    """Orders the pages of every table whose last band is on SSD with several rows to a page.

    Rows of earlier bands have slots at the end, which nobody reads. With a log, all orders up to the kind
    asked for are made from its first part and measured on its last, and each table gets the one that reads
    the fewest pages, or none if the saving is below ``config.min_saving``. Without a log, every such table is
    ordered by the frequency that the statistics know.

    Memory: 13 bytes per row of these tables with a log, 21 for co-access, and 16 more for the one whose order
    is made, besides ``config.max_lookups``.

    Args:
        kind: "id" (no orders), "frequency" or "co-access".
        layouts: where the rows live, in the order of the log's tables.
        statistics: what cut the layouts' bands; may be None with a log where no table has several bands.
        log: the log to count from; "frequency" works without.
        config: see :class:`PageOrderConfig`.
        progress: called with (samples done, samples in all), pass after pass over the log.

    Raises:
        ValueError: the statistics or the log are of other tables, or the log is missing or too short.
    """
    config = config or PageOrderConfig()
    if kind == "id":
        return PageOrders((), ())
    if log is None and kind == "co-access":
        raise ValueError("log: co-access is counted from a log; give one, or order by frequency")
    ours = [(layout.table, layout.num_embeddings) for layout in layouts]
    if statistics is not None and [(t.name, t.num_embeddings) for t in statistics.tables] != ours:
        raise ValueError("statistics: they are of other tables than the layouts; collect them from this log")
    chosen = [number for number, layout in enumerate(layouts) if _orderable(layout)]
    if statistics is None and (log is None or any(len(layouts[number].bands) > 1 for number in chosen)):
        raise ValueError("statistics: needed to know the rows of a table's first bands, or their frequency")
    tables = [_Table(n, layouts[n], None if statistics is None else statistics.tables[n]) for n in chosen]
    if log is None:
        orders = [PageOrder(table.layout.table, "frequency", table.ranked_order()) for table in tables]
        return PageOrders(tuple(orders), ())
    if [table.num_embeddings for table in log.tables] != [rows for _, rows in ours]:
        raise ValueError("log: its tables are not those of the layouts; give the log that was profiled")
    counted, total = _split(log, config)
    _count(tables, log, counted, kind, config, progress)
    _measure(tables, log, counted, total, config, progress)
    orders, reads = [], []
    for table in tables:
        reads.append(table.page_reads(config.min_saving))
        if (chosen := reads[-1].chosen) != "id":
            orders.append(PageOrder(table.layout.table, chosen, table.orders[chosen]))
    return PageOrders(tuple(orders), tuple(reads))


class _Table:
    """One table while its order is made and measured."""

    def __init__(self, number: int, layout: TableLayout, ranks: TableStatistics | None) -> None:
        self.number, self.layout, self._ranks = number, layout, ranks
        self.rows_per_page = _rows_per_page(layout)
        self._hot = None  # bool [num_embeddings]: rows of earlier bands
        if first := layout.bands[-1].start:
            assert ranks is not None
            self._hot = np.zeros(layout.num_embeddings, bool)
            self._hot[ranks.ids_in_ranks(0, first)] = True
        self.orders: dict[PageOrderKind, np.ndarray] = {}  # id at each slot
        self.pages: dict[PageOrderKind, int] = {"id": 0}
        self.calls = self.rows = self.fewest = 0

    def ranked_order(self) -> np.ndarray:
        """By the frequency that the statistics know, rows of earlier bands last."""
        assert self._ranks is not None
        first, rows = self.layout.bands[-1].start, self.layout.num_embeddings
        bands = (self._ranks.ids_in_ranks(first, rows), self._ranks.ids_in_ranks(0, first))
        return np.concatenate(bands).astype(np.uint32)

    def counted_order(self, ranked: np.ndarray) -> np.ndarray:
        """Cold rows by descending count, then those that were not counted, then rows of earlier bands."""
        counted = np.zeros(self.layout.num_embeddings, np.uint8)
        if self._hot is not None:
            counted[self._hot] = 2
        counted[ranked] = 1
        parts = (ranked, np.flatnonzero(counted == 0), np.flatnonzero(counted == 2))
        return np.concatenate([part.astype(np.uint32) for part in parts])

    def cold(self, ids: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The look-ups that end in the last band."""
        if self._hot is None:
            return ids, samples
        cold = ~self._hot[ids]
        return ids[cold], samples[cold]

    def count_pages(self, ids: np.ndarray, calls: np.ndarray, slots: dict[str, np.ndarray]) -> None:
        """Adds the pages of look-ups ``ids`` in ``calls``, both int64 [n]."""
        keys = np.unique(calls * self.layout.num_embeddings + ids)
        calls, ids = np.divmod(keys, self.layout.num_embeddings)
        self.rows += ids.size
        if ids.size:
            self.fewest += int(np.sum(-(-np.unique(calls, return_counts=True)[1] // self.rows_per_page)))
        num_pages = -(-self.layout.num_embeddings // self.rows_per_page)
        for kind in ("id", *self.orders):
            places = slots[kind][ids] if kind in slots else ids
            pages = np.unique(calls * num_pages + places // self.rows_per_page)
            self.pages[kind] = self.pages.get(kind, 0) + pages.size

    def page_reads(self, min_saving: float) -> PageReads:
        """What was measured, and the order that follows from it."""
        best = min(self.orders, key=lambda kind: self.pages[kind])
        chosen = best if self.pages[best] < self.pages["id"] * (1 - min_saving) else "id"
        calls = max(self.calls, 1)
        return PageReads(
            table=self.layout.table,
            calls=self.calls,
            rows=self.rows / calls,
            fewest=self.fewest / calls,
            by_id=self.pages["id"] / calls,
            by_frequency=self.pages["frequency"] / calls,
            by_co_access=self.pages["co-access"] / calls if "co-access" in self.pages else None,
            chosen=chosen,
            index_bytes=0 if chosen == "id" else 4 * self.layout.num_embeddings,
        )


def _orderable(layout: TableLayout) -> bool:
    if layout.bands[-1].memory != "ssd" or layout.num_embeddings >= 1 << 32:  # slots are 32 bits wide
        return False
    return _rows_per_page(layout) > 1


def _rows_per_page(layout: TableLayout) -> int:
    return PageGeometry.of(layout.row_bytes(len(layout.bands) - 1)).rows_per_page


def _split(log: ClickLog, config: PageOrderConfig) -> tuple[int, int]:
    """Samples that are counted, a whole number of calls, and samples in all."""
    total = log.num_samples
    if total is None:
        total = sum(batch.batch_size for batch in log.batches(_SAMPLES_PER_STEP))
    size = config.samples_per_call
    counted = int(total * (1 - config.held_out_share)) // size * size
    if counted == 0 or total - counted < size:
        raise ValueError(
            f"log: {total} samples are too few to count calls of {size} and to hold out "
            f"{config.held_out_share:.0%} of them; give a longer log or smaller calls"
        )
    return counted, total


def _lookups(
    tables: Sequence[_Table], log: ClickLog, first: int, last: int, config: PageOrderConfig
) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray]]]]:
    """Samples done after each step, and each table's cold look-ups: ids and samples, int64 [n] both."""
    size = config.samples_per_call
    step = max(1, _SAMPLES_PER_STEP // size) * size  # whole calls
    for batch in log.batches(step, skip=first):
        batch = batch if first + batch.batch_size <= last else batch.rows(0, last - first)
        numbers = np.arange(first, first + batch.batch_size)
        found = []
        for table in tables:
            lengths = np.diff(batch.table_offsets(table.number))
            found.append(table.cold(batch.table_ids(table.number), np.repeat(numbers, lengths)))
        first += batch.batch_size
        yield first, found
        if first >= last:
            return


def _count(
    tables: Sequence[_Table],
    log: ClickLog,
    counted: int,
    kind: PageOrderKind,
    config: PageOrderConfig,
    progress: Progress | None,
) -> None:
    """Makes the orders of every table, up to the kind asked for, from the first samples of the log."""
    together = kind == "co-access"
    share = config.max_lookups // max(len(tables), 1)
    needed = [max(_LOOKUPS_PER_ROW * table.layout.num_embeddings, _LEAST_LOOKUPS) for table in tables]
    kept = [CoAccessSample(config.samples_per_call, min(share, enough)) for enough in needed]
    # Exact: an order takes 4 bytes a row anyway.
    counters: list[_native.RowCounter | None] = [
        _native.RowCounter(table.layout.table, rows := table.layout.num_embeddings, max(16 * rows, 2048))
        for table in tables
    ]
    for done, found in _lookups(tables, log, 0, counted, config):
        for counter, sample, (ids, samples) in zip(counters, kept, found, strict=True):
            counter.add(ids)
            if together:
                sample.add(ids, samples)
        if progress is not None:
            progress(done, counted)
    for number, (table, sample) in enumerate(zip(tables, kept, strict=True)):
        table.orders["frequency"] = table.counted_order(counters[number].finish().ids)
        counters[number] = None  # frees its memory before the next order is made
        if not together:
            continue
        table.orders["co-access"] = co_access_order(
            *sample.result(),
            table.orders["frequency"],
            table.rows_per_page,
            samples_per_call=config.samples_per_call,
            iterations=config.iterations,
            threads=config.threads,
        )


def _measure(
    tables: Sequence[_Table],
    log: ClickLog,
    counted: int,
    total: int,
    config: PageOrderConfig,
    progress: Progress | None,
) -> None:
    last = counted + (total - counted) // config.samples_per_call * config.samples_per_call
    slots = [
        {kind: PageOrder(t.layout.table, kind, order).slots() for kind, order in t.orders.items()}
        for t in tables
    ]
    for done, found in _lookups(tables, log, counted, last, config):
        for table, places, (ids, samples) in zip(tables, slots, found, strict=True):
            table.count_pages(ids, samples // config.samples_per_call, places)
            table.calls = (done - counted) // config.samples_per_call
        if progress is not None:
            progress(done - counted, last - counted)

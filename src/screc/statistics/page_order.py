"""The order of a table's rows in their pages on SSD, and how many pages a call reads under it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from screc.statistics.access import AccessStatistics
from screc.statistics.block_order import (
    MOST_ROWS,
    OrderedTable,
    PageOrderConfig,
    make_orders,
    measure_orders,
    split_log,
)
from screc.statistics.table import TableStatistics
from screc.storage import PageGeometry, PageOrder, TableLayout

if TYPE_CHECKING:
    from screc.data.log import ClickLog, Progress
    from screc.storage.layout import PageOrderKind


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
    ranks = {number: None if statistics is None else statistics.tables[number] for number in chosen}
    if log is None:
        orders = [_ranked_order(layouts[number], found) for number, found in ranks.items()]
        return PageOrders(tuple(orders), ())
    if [table.num_embeddings for table in log.tables] != [rows for _, rows in ours]:
        raise ValueError("log: its tables are not those of the layouts; give the log that was profiled")
    tables = [_ordered_table(number, layouts[number], found) for number, found in ranks.items()]
    counted, total = split_log(log, config)
    make_orders(tables, log, counted, config, co_access=kind == "co-access", progress=progress)
    measure_orders(tables, log, counted, total, config, progress=progress)
    orders, reads = [], []
    for table in tables:
        reads.append(_page_reads(table, config.min_saving))
        if (best := reads[-1].chosen) != "id":
            orders.append(PageOrder(table.name, best, table.orders[best]))
    return PageOrders(tuple(orders), tuple(reads))


def _ordered_table(number: int, layout: TableLayout, ranks: TableStatistics | None) -> OrderedTable:
    left_out = None
    if first := layout.bands[-1].start:  # rows of earlier bands
        assert ranks is not None
        left_out = np.zeros(layout.num_embeddings, bool)
        left_out[ranks.ids_in_ranks(0, first)] = True
    return OrderedTable(number, layout.table, layout.num_embeddings, (_rows_per_page(layout),), left_out)


def _ranked_order(layout: TableLayout, ranks: TableStatistics | None) -> PageOrder:
    """By the frequency that the statistics know, rows of earlier bands last."""
    assert ranks is not None
    first, rows = layout.bands[-1].start, layout.num_embeddings
    ids = np.concatenate((ranks.ids_in_ranks(first, rows), ranks.ids_in_ranks(0, first)))
    return PageOrder(layout.table, "frequency", ids.astype(np.uint32))


def _page_reads(table: OrderedTable, min_saving: float) -> PageReads:
    """What was measured, and the order that follows from it."""
    (pages,), (fewest,) = table.blocks, table.fewest
    best = min(table.orders, key=lambda kind: pages[kind])
    chosen = best if pages[best] < pages["id"] * (1 - min_saving) else "id"
    return PageReads(
        table=table.name,
        calls=table.calls,
        rows=table.rows / table.calls,
        fewest=fewest / table.calls,
        by_id=pages["id"] / table.calls,
        by_frequency=pages["frequency"] / table.calls,
        by_co_access=pages["co-access"] / table.calls if "co-access" in pages else None,
        chosen=chosen,
        index_bytes=0 if chosen == "id" else 4 * table.num_embeddings,
    )


def _orderable(layout: TableLayout) -> bool:
    if layout.bands[-1].memory != "ssd" or layout.num_embeddings >= MOST_ROWS:
        return False
    return _rows_per_page(layout) > 1


def _rows_per_page(layout: TableLayout) -> int:
    return PageGeometry.of(layout.row_bytes(len(layout.bands) - 1)).rows_per_page

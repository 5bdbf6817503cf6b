"""Access statistics and page orders for people: one line per table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from screc.statistics.access import AccessStatistics
from screc.statistics.page_order import PageOrders

if TYPE_CHECKING:
    from rich.console import Console


def statistics_summary(statistics: AccessStatistics, console: Console) -> None:
    """Print rows, look-ups and how few rows answer most of them, table by table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{statistics.num_samples:,} samples; share of look-ups of the top 1 % and 10 % of rows"
    view = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    view.add_column("table", overflow="fold")
    for heading in ("rows", "seen", "pooling", "coverage", "top 1 %", "top 10 %"):
        view.add_column(heading, justify="right")
    for table in statistics.tables:
        ranks = np.ceil(np.array([0.01, 0.1]) * table.num_embeddings).astype(np.int64)
        shares = table.share(ranks)
        view.add_row(
            table.name,
            f"{table.num_embeddings:,}",
            f"{table.num_seen:,}",
            f"{table.mean_pooling:.2f}",
            f"{table.coverage:.0%}",
            *(f"{share:.1%}" for share in shares),
        )
    console.print(view)


def page_order_summary(orders: PageOrders, console: Console) -> None:
    """Print the pages that a call reads under each order, table by table, and what the chosen one costs."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    if not orders.reads:
        console.print(f"page order: {len(orders.orders)} tables ordered, nothing measured")
        return
    title = f"SSD pages per call, mean of {orders.reads[0].calls:,} calls held out, each page once, no cache"
    view = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    view.add_column("table", overflow="fold")
    for heading in ("rows", "fewest", "id", "frequency", "co-access", "DRAM MB"):
        view.add_column(heading, justify="right")
    view.add_column("chosen")
    for reads in orders.reads:
        view.add_row(
            reads.table,
            *(f"{number:,.1f}" for number in (reads.rows, reads.fewest, reads.by_id, reads.by_frequency)),
            "" if reads.by_co_access is None else f"{reads.by_co_access:,.1f}",
            f"{reads.index_bytes / 1e6:,.1f}",
            reads.chosen,
        )
    console.print(view)
    before, after = sum(reads.by_id for reads in orders.reads), sum(reads.pages for reads in orders.reads)
    saved = f", {1 - after / before:.1%} fewer" if before else ""
    megabytes = sum(reads.index_bytes for reads in orders.reads) / 1e6
    console.print(
        f"pages per call: {before:,.1f} by id, {after:,.1f} as chosen{saved}, for {megabytes:,.1f} MB of DRAM"
    )

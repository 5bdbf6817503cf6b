"""Access statistics, drift and page orders for people: one line per table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from screc.statistics.access import AccessStatistics
from screc.statistics.block_order import CoAccess
from screc.statistics.drift import HotSet, TableDrift
from screc.statistics.page_order import PageOrders

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def statistics_summary(statistics: AccessStatistics, console: Console) -> None:
    """Print rows, look-ups, how few rows answer most of them and how many a batch asks for, by table."""
    view = _view(
        f"{statistics.num_samples:,} samples; share of look-ups of the top 1 % and 10 % of rows; "
        "different rows per look-up of a batch"
    )
    measured = {one.batch_size for table in statistics.tables for one in table.distinct}
    sizes = sorted(measured & {256, 4096})
    for heading in ("rows", "seen", "pooling", "cover", "top 1%", "10%", *(f"B={size}" for size in sizes)):
        view.add_column(heading, justify="right")
    for table in statistics.tables:
        ranks = np.ceil(np.array([0.01, 0.1]) * table.num_embeddings).astype(np.int64)
        distinct = {one.batch_size: f"{one.share:.1%}" for one in table.distinct}
        view.add_row(
            table.name,
            _short(table.num_embeddings),
            f"{'' if table.exact else '~'}{_short(table.num_seen)}",
            f"{table.mean_pooling:.2f}",
            f"{table.coverage:.0%}",
            *(f"{share:.1%}" for share in table.share(ranks)),
            *(distinct.get(size, "") for size in sizes),
        )
    console.print(view)
    for table in statistics.tables:
        if table.tail:
            console.print(
                f"{table.name}: more rows than the memory held. The {table.num_ranked:,} hottest are ranked, "
                f"counts exact to {table.max_count_error:,} look-ups; the others are estimated from a sample "
                f"of {table.tail.sample_rows:,} rows (rows to {table.tail.rows_error:.1%}, look-ups to "
                f"{table.tail.lookups_error:.1%}, one standard error)"
            )


def drift_summary(drift: Sequence[TableDrift], console: Console) -> None:
    """Print how well the earlier hottest rows still do, and the distance of the two days, by table."""
    view = _view("look-ups that the earlier hottest rows answer / look-ups that the hottest do now")
    shown = (0.001, 0.01, 0.1)
    for heading in (*(f"top {share * 100:g}%" for share in shown), "distance", "by chance"):
        view.add_column(heading, justify="right")
    for table in drift:
        sets = {one.share: one for one in table.hot}
        view.add_row(
            table.table,
            *(_answered(sets[share]) if share in sets else "" for share in shown),
            *("" if math.isnan(value) else f"{value:.3f}" for value in (table.distance, table.by_chance)),
        )
    console.print(view)


def _answered(hot: HotSet) -> str:
    # Look-ups that a tail may hide are told where they would show.
    return f"{'≥ ' if hot.found_error >= 0.001 else ''}{hot.found / hot.own:.1%}"


def co_access_summary(found: Sequence[CoAccess], console: Console) -> None:
    """Print what a call wants of each table under each order, for every size of block, by table."""
    if not found:
        console.print("co-access: no table has 1,000 to 2^32 rows, nothing measured")
        return
    calls = found[0].calls
    view = _view(f"blocks that a call of 256 samples wants, mean of {calls:,} calls held out")
    for heading in ("a block holds", "fewest", "id", "frequency", "co-access"):
        view.add_column(heading, justify="right")
    for table in found:
        for position, reads in enumerate(table.reads):
            numbers = (reads.fewest, reads.by_id, reads.by_frequency, reads.by_co_access)
            view.add_row(
                "" if position else table.table,
                f"{reads.block_rows} ({reads.block})",
                *(f"{number:,.1f}" for number in numbers),
            )
    console.print(view)


def page_order_summary(orders: PageOrders, console: Console) -> None:
    """Print the pages that a call reads under each order, table by table, and what the chosen one costs."""
    if not orders.reads:
        console.print(f"page order: {len(orders.orders)} tables ordered, nothing measured")
        return
    calls = orders.reads[0].calls
    view = _view(f"SSD pages per call, mean of {calls:,} calls held out, each page once, no cache")
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


def _short(number: int) -> str:
    """A number of rows in at most six characters."""
    if number < 100_000:
        return f"{number:,}"
    power = 1 if number < 999_500 else 2 if number < 999_500_000 else 3
    return f"{number / 1000**power:.3g} {'KMG'[power - 1]}"


def _view(title: str) -> Table:
    """A table to print, whose first column holds names."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    view = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    view.add_column("table", overflow="fold")
    return view

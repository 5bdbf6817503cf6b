"""Plans on the terminal: a whole plan, one table of it, two plans side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from screc.planning.alternatives import Alternative, numbers_of
from screc.planning.budget import format_bytes
from screc.planning.compare import Comparison
from screc.planning.places import band_name
from screc.planning.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console


def plan_summary(plan: Plan, console: Console) -> None:
    """Print where every table's rows are, what each memory holds, and what is predicted."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    predicted = plan.predicted
    table = Table(title="Plan", title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("table", no_wrap=True, max_width=16)
    table.add_column("rows", justify="right", no_wrap=True)
    table.add_column("band", no_wrap=True)
    for heading in ("rows", "look-ups", "bytes", "device-us"):
        table.add_column(heading, justify="right", no_wrap=True)
    for layout, costs in zip(plan.layouts, predicted.tables, strict=True):
        for number, (band, size) in enumerate(zip(layout.bands, costs.bands, strict=True)):
            name = band_name(band)
            first = number == 0
            table.add_row(
                layout.table if first else "",
                f"{layout.num_embeddings:,}" if first else "",
                name,
                f"{size.rows / layout.num_embeddings:.2%}",
                f"{size.lookup_share:.2%}",
                format_bytes(size.num_bytes + size.index_bytes),
                f"{1e6 * costs.device_seconds:.1f}" if first else "",
            )
    console.print(table)
    used = predicted.dram_bytes / plan.budget.dram_bytes if plan.budget.dram_bytes else 0.0
    cache = plan.options.row_cache_bytes
    rows = predicted.dram_bytes - predicted.tt_bytes - predicted.index_bytes
    console.print(
        f"DRAM {format_bytes(predicted.dram_bytes)} of {format_bytes(plan.budget.dram_bytes)} ({used:.1%}): "
        f"rows {format_bytes(rows)}, TT cores {format_bytes(predicted.tt_bytes)}, "
        f"indices {format_bytes(predicted.index_bytes)}"
        + (f"; {format_bytes(cache)} more for the row cache" if cache else ""),
        highlight=False,
    )
    console.print(
        f"SSD {format_bytes(predicted.ssd_bytes)} of {format_bytes(plan.budget.ssd_bytes)}; "
        f"TT bands answer {predicted.tt_share:.2%} of the look-ups"
        + (f" (at most {plan.budget.max_tt_share:.2%})" if plan.budget.max_tt_share is not None else "")
        + (
            f"; the log-loss rises by {predicted.loss:.2e} (at most {plan.budget.max_loss:.2e})"
            if predicted.loss is not None and plan.budget.max_loss is not None
            else ""
        ),
        highlight=False,
    )
    console.print(
        f"Predicted {1e3 * predicted.seconds_per_batch:.3f} ms per batch of {plan.options.batch_size}: "
        f"look-ups {1e3 * predicted.lookup_seconds:.3f} ms, "
        f"MLPs {1e3 * predicted.dense_seconds:.3f} ms, "
        f"SSD {1e3 * predicted.ssd_seconds:.3f} ms; alone {1e3 * predicted.latency_seconds:.3f} ms; "
        f"{predicted.lookups_per_batch:,.0f} look-ups, {predicted.pages_per_batch:.1f} pages",
        highlight=False,
    )
    console.print(
        f"Optimality gap {plan.gap:.3%} over {plan.solver.candidates:,} candidate layouts "
        f"({plan.solver.status}); statistics of {plan.statistics_samples:,} samples",
        highlight=False,
    )


def table_summary(plan: Plan, table: str, console: Console, alternatives: Sequence[Alternative] = ()) -> None:
    """Print one table of a plan: its bands, what each costs, and what the table could have become instead.

    Raises:
        KeyError: the plan has no such table; names those it has.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    for number in numbers_of(plan, table):
        layout, costs = plan.layouts[number], plan.predicted.tables[number]
        assigned = plan.assignment.tables[number]
        part = f", part {assigned.part + 1} of {assigned.parts}" if assigned.parts > 1 else ""
        where = "all devices that look up" if assigned.device is None else f"device {assigned.device}"
        console.print(
            f"[bold]{table}[/]{part}: {layout.num_embeddings:,} rows x {layout.embedding_dim}, "
            f"{costs.lookups:,.0f} look-ups a batch, on {where}, strategy {assigned.strategy}",
            highlight=False,
        )
        view = Table(box=SIMPLE_HEAD, pad_edge=False)
        for heading in (
            "ranks",
            "band",
            "look-ups",
            "bytes",
            "index",
            "rows us",
            "index us",
            "pages",
            "loss",
        ):
            view.add_column(heading, justify="left" if heading == "band" else "right", no_wrap=True)
        for band, one in zip(layout.bands, costs.bands, strict=True):
            view.add_row(
                f"{band.start:,}-{band.stop - 1:,}",
                band_name(band),
                f"{one.lookup_share:.2%}",
                format_bytes(one.num_bytes),
                format_bytes(one.index_bytes) if one.index_bytes else "-",
                f"{1e6 * one.row_seconds:.2f}",
                f"{1e6 * one.index_seconds:.2f}",
                f"{one.pages:.2f}",
                "-" if one.loss is None else f"{one.loss:.1e}",
            )
        console.print(view)
    if not alternatives:
        return
    planned = alternatives[0]
    view = Table(
        title="What it could have become (the other tables as planned)",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("", "device-us", "DRAM", "SSD", "pages", "loss", "against the plan"):
        view.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for one in alternatives:
        view.add_row(
            one.name,
            f"{1e6 * one.device_seconds:.2f}",
            format_bytes(one.dram_bytes),
            format_bytes(one.ssd_bytes) if one.ssd_bytes else "-",
            f"{one.pages:.2f}",
            "-" if one.loss is None else f"{one.loss:.1e}",
            "" if one is planned else _against(planned, one),
        )
    console.print(view)


def _against(planned: Alternative, other: Alternative) -> str:
    seconds, size = other.device_seconds - planned.device_seconds, other.dram_bytes - planned.dram_bytes
    return f"{1e6 * seconds:+.2f} us, {'+' if size >= 0 else '-'}{format_bytes(abs(size))} DRAM"


def comparison_summary(comparison: Comparison, names: tuple[str, str], console: Console) -> None:
    """Print two plans side by side: their numbers, and the tables that they lay out differently."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    view = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("", *names, "ratio"):
        view.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for one in comparison.numbers:
        if not one.first and not one.second:
            continue
        ratio = "" if one.ratio is None else f"{one.ratio:.3f}"
        view.add_row(one.label, _written(one.kind, one.first), _written(one.kind, one.second), ratio)
    console.print(view)
    if not comparison.same_statistics:
        console.print("The plans are of different statistics: their look-ups are not the same.")
    if not comparison.same_system:
        console.print("The plans are for different machines.")
    if not comparison.tables:
        console.print("Every table is laid out the same.")
        return
    view = Table(
        title=f"{len(comparison.tables)} tables are laid out differently",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("table", *names):
        view.add_column(heading)
    for change in comparison.tables:
        view.add_row(change.table, change.first or "-", change.second or "-")
    console.print(view)


def _written(kind: str, value: float | None) -> str:
    if value is None:
        return "-"
    if kind == "bytes":
        return format_bytes(int(value))
    if kind == "seconds":
        return f"{1e3 * value:.3f} ms"
    return f"{value:,.0f}" if kind == "rate" else f"{value:.4g}"

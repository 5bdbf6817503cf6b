"""Plans for people: tables on the terminal, a picture of where every table's rows went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from screc.planning.budget import format_bytes
from screc.planning.plan import Plan
from screc.storage.layout import Band

if TYPE_CHECKING:
    from rich.console import Console

# Colours of formats in fast memory, in DRAM and on SSD; bands are stacked in this order.
_COLOURS = {
    "fp32": ("#0b3c5d", "#1b6ca8", "#5c677d"),
    "fp16": ("#14746f", "#2a9d8f", "#748094"),
    "bf16": ("#14746f", "#52b69a", "#7d8aa0"),
    "int8": ("#2d6a4f", "#6aab73", "#8d99ae"),
    "int4": ("#55751f", "#a7c957", "#b4bdcc"),
    "tt": ("#b06f00", "#f0a202", "#f0a202"),
}
_MEMORIES = ("llc", "dram", "ssd")
Place = tuple[str, str]


def _place(band: Band) -> Place:
    return band.memory, band.format


def _name(place: Place) -> str:
    memory, row_format = place
    return f"{'fast' if memory == 'llc' else memory.upper()} {'TT' if row_format == 'tt' else row_format}"


def _places(plan: Plan) -> list[Place]:
    """Where the plan's bands are, from the fastest memory to the slowest."""
    found = {_place(band) for layout in plan.layouts for band in layout.bands}
    return [
        (memory, row_format)
        for memory in _MEMORIES
        for row_format in _COLOURS
        if (memory, row_format) in found
    ]


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
            name = _name(_place(band))
            if band.tt is not None:
                name += f" r{max(band.tt.ranks)}"
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


def plot_plan(plan: Plan, path: str | Path) -> None:
    """Draw where every table's rows went: per table, shares of rows and look-ups, and bytes, by memory.

    Args:
        plan: the plan.
        path: the picture, ``.png`` or ``.svg``.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"path: the picture must end with .png or .svg, got {path.name!r}")
    # Largest table on top.
    order = sorted(range(len(plan.layouts)), key=lambda t: plan.layouts[t].num_embeddings)
    places = _places(plan)
    colours = [_COLOURS[row_format][_MEMORIES.index(memory)] for memory, row_format in places]
    rows, lookups, sizes = (np.zeros((len(order), len(places))) for _ in range(3))
    indices = np.zeros(len(order))
    names = []
    for y, number in enumerate(order):
        layout, costs = plan.layouts[number], plan.predicted.tables[number]
        names.append(f"{layout.table}  ({layout.num_embeddings:,})")
        for band, size in zip(layout.bands, costs.bands, strict=True):
            place = places.index(_place(band))
            rows[y, place] += size.rows / layout.num_embeddings
            lookups[y, place] += size.lookup_share
            sizes[y, place] += size.num_bytes
            indices[y] += size.index_bytes

    figure = Figure(figsize=(13, max(3.2, 0.26 * len(order) + 1.6)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1.3))
    ys = np.arange(len(order))
    for axis, shares, title in (
        (axes[0], rows, "share of the table's rows"),
        (axes[1], lookups, "share of the table's look-ups"),
    ):
        left = np.zeros(len(order))
        for number, (place, colour) in enumerate(zip(places, colours, strict=True)):
            axis.barh(ys, shares[:, number], left=left, color=colour, label=_name(place), height=0.8)
            left += shares[:, number]
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axis.get_xticklabels()[-1].set_horizontalalignment("right")
        axis.set_xlabel(title)
    # Bytes span many decades, where stacked bars would lie: one thin bar per memory, side by side.
    kinds = [
        (sizes[:, number], _name(place), colour)
        for number, (place, colour) in enumerate(zip(places, colours, strict=True))
    ]
    kinds.append((indices, "index (DRAM)", "#c1121f"))
    thickness = 0.8 / len(kinds)
    for number, (values, name, colour) in enumerate(kinds):
        shown = values > 0
        offset = ((len(kinds) - 1) / 2 - number) * thickness
        axes[2].barh(ys[shown] + offset, values[shown], color=colour, height=thickness, label=name)
    axes[2].set_xscale("log")
    axes[2].set_xlabel("bytes")
    axes[2].grid(axis="x", alpha=0.3)
    axes[0].set_yticks(ys, names, fontsize=8)
    axes[0].set_ylim(-0.6, len(order) - 0.4)
    handles, labels = axes[2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=4, fontsize=9)
    predicted = plan.predicted
    figure.suptitle(
        f"DRAM {format_bytes(predicted.dram_bytes)} of {format_bytes(plan.budget.dram_bytes)}, "
        f"SSD {format_bytes(predicted.ssd_bytes)}; "
        f"{1e3 * predicted.seconds_per_batch:.2f} ms per batch of {plan.options.batch_size} predicted",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)

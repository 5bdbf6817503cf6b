"""The picture of access statistics: access curves, different rows per batch, and drift."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from screc.statistics.access import AccessStatistics
from screc.statistics.drift import TableDrift
from screc.statistics.table import TableStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED_TABLES = 6
_MOST_HIDDEN = 0.01
_DASHES = ("-", "--", "-.", ":")


def plot_statistics(
    statistics: AccessStatistics, path: str | Path, *, drift: Sequence[TableDrift] = ()
) -> None:
    """Draw, for every table: its access CDF, its different rows per look-up by batch size, and its drift.

    Lines are coloured by the number of rows of the table; the largest tables are named in a legend. The
    marker on a curve shows where its seen rows end, a cross where its ranked rows do if more were seen.
    Tables that were never looked up are left out.

    Args:
        statistics: at least one table.
        path: the picture, ``.png`` or ``.svg``.
        drift: of the same tables, since an earlier day; drawn where it is given.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"path: the picture must end with .png or .svg, got {path.name!r}")
    if not statistics.tables:
        raise ValueError("statistics hold no tables; there is nothing to draw")
    counted = sorted((t for t in statistics.tables if t.num_lookups), key=lambda t: -t.num_embeddings)
    smallest = min(table.num_embeddings for table in statistics.tables)
    largest = max(table.num_embeddings for table in statistics.tables)
    colours = ScalarMappable(LogNorm(smallest, max(largest, smallest * 10)), cmap="viridis_r")

    def style(position: int, table: TableStatistics) -> dict[str, Any]:
        named = position < _NAMED_TABLES
        return {
            "color": colours.to_rgba(table.num_embeddings),
            "linewidth": 2.2 if named else 0.9,
            "alpha": 1.0 if named else 0.75,
            "linestyle": _DASHES[position % 4] if named else "-",
            "label": f"{table.name}: {table.num_embeddings:,} rows, "
            f"{table.num_seen / table.num_embeddings:.2g} of them seen"
            if named
            else None,
        }

    figure = Figure(figsize=(13, 5.8), layout="constrained")
    panels = figure.subplot_mosaic(
        [["curve", "distinct"], ["curve", "drift"]] if drift else [["curve", "distinct"]],
        width_ratios=(1.45, 1),
    )
    for axes in panels.values():
        axes.grid(alpha=0.25)
    _draw_curves(panels["curve"], statistics, counted, style)
    _draw_distinct(panels["distinct"], counted, style)
    if drift:
        _draw_drift(panels["drift"], counted, {one.table: one for one in drift}, style)
    figure.colorbar(colours, ax=list(panels.values()), label="rows of the table", aspect=35)
    figure.savefig(path, dpi=150)


def _draw_curves(
    axes: Axes, statistics: AccessStatistics, counted: Sequence[TableStatistics], style: Any
) -> None:
    for position, table in enumerate(counted):
        rows = table.num_embeddings
        ranks = np.append(np.geomspace(1, rows, 300).round(), (table.num_seen, table.num_ranked))
        ranks = np.unique(ranks.astype(np.int64))
        seen = int(np.searchsorted(ranks, table.num_seen))
        shares = table.share(ranks)
        line = style(position, table)
        axes.plot(ranks / rows, shares, marker="o", markevery=[seen], markersize=4, **line)
        if not table.exact:
            axes.plot(
                table.num_ranked / rows, table.share(table.num_ranked), "x", color=line["color"], markersize=7
            )
    never = len(statistics.tables) - len(counted)
    axes.set_xscale("log")
    axes.set_xlim(right=1.15)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("share of the table's rows, hottest first")
    axes.set_ylabel("share of the table's look-ups")
    axes.set_title(
        f"Access curves of {len(counted)} tables over {statistics.num_samples:,} samples"
        + (f" ({never} never looked up)" if never else ""),
        loc="left",
    )
    if counted:
        title = "largest tables (dot: end of the seen rows)"
        if not all(table.exact for table in counted):
            title = "largest tables (dot: end of the seen rows, cross: of those with a rank)"
        axes.legend(title=title, fontsize=8, title_fontsize=8, handlelength=4)


def _draw_distinct(axes: Axes, counted: Sequence[TableStatistics], style: Any) -> None:
    sizes = sorted({one.batch_size for table in counted for one in table.distinct})
    for position, table in enumerate(counted):
        if table.distinct:
            batches = [one.batch_size for one in table.distinct]
            line = style(position, table) | {"label": None}
            axes.plot(batches, [one.share for one in table.distinct], marker=".", **line)
    axes.set_xscale("log", base=4)
    axes.set_yscale("log")
    if sizes:
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
    axes.set_xlabel("samples per batch")
    axes.set_title("Different rows per look-up", loc="left")


def _draw_drift(
    axes: Axes, counted: Sequence[TableStatistics], drift: dict[str, TableDrift], style: Any
) -> None:
    for position, table in enumerate(counted):
        found = drift.get(table.name)
        # A line ends where a tail would hide what is left of it.
        hot = [one for one in found.hot if one.found_error < _MOST_HIDDEN] if found else []
        if hot:
            shares = [one.share for one in hot]
            kept = [one.found / one.own for one in hot]
            axes.plot(shares, kept, marker=".", **(style(position, table) | {"label": None}))
    axes.set_xscale("log")
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("share of the table's rows, hottest of the earlier day")
    axes.set_title("Look-ups they answer / look-ups that today's hottest do", loc="left", fontsize=10)

"""The picture of access statistics: which share of the look-ups the hottest rows of each table answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from screc.statistics.access import AccessStatistics

_NAMED_TABLES = 6


def plot_statistics(statistics: AccessStatistics, path: str | Path) -> None:
    """Draw the access CDF of every table: share of rows (logarithmic) against share of look-ups.

    Lines are coloured by the number of rows of the table; the largest tables are named in a legend. The
    marker on a curve shows where its seen rows end. Tables that were never looked up are left out.

    Args:
        statistics: at least one table.
        path: the picture, ``.png`` or ``.svg``.
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
    norm = LogNorm(smallest, max(largest, smallest * 10))
    colours = ScalarMappable(norm, cmap="viridis_r")

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    for position, table in enumerate(counted):
        rows = table.num_embeddings
        ranks = np.unique(np.append(np.geomspace(1, rows, 300).round(), table.num_seen))
        named = position < _NAMED_TABLES
        axes.plot(
            ranks / rows,
            table.share(ranks),
            color=colours.to_rgba(rows),
            linewidth=2.2 if named else 0.9,
            alpha=1.0 if named else 0.75,
            linestyle=("-", "--", "-.", ":")[position % 4] if named else "-",
            marker="o",
            markevery=[int(np.searchsorted(ranks, table.num_seen))],
            markersize=4,
            label=f"{table.name}: {rows:,} rows, {table.num_seen / rows:.0%} seen" if named else None,
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
    axes.grid(alpha=0.25)
    if counted:
        axes.legend(
            title="largest tables (dot: end of the seen rows)", fontsize=8, title_fontsize=8, handlelength=4
        )
    figure.colorbar(colours, ax=axes, label="rows of the table")
    figure.savefig(path, dpi=150)

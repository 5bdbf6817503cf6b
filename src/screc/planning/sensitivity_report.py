"""Sensitivities for people: a table on the terminal, a picture of what each format costs each table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from screc.planning.sensitivity import Effect, Sensitivity, TableSensitivity

if TYPE_CHECKING:
    from rich.console import Console

# Losses are told in millionths of a nat a sample.
_UNIT = 1e6
_COLOURS = (
    *("#8d99ae", "#5c677d", "#2a9d8f", "#c1121f", "#1b6ca8", "#6a4c93"),
    *("#f0a202", "#e76f51", "#9c6644", "#4f772d", "#001219", "#e5989b"),
)


def sensitivity_summary(sensitivity: Sensitivity, console: Console) -> None:
    """Print what every table loses when all of it is held in a format, and how well such losses add up."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    names = _names(sensitivity)
    view = Table(
        title="Rise of the log-loss, 1e-6 nats, when a whole table is held in one format (/t: one scale for "
        f"all its rows), on {sensitivity.samples:,} samples of log-loss {sensitivity.base_log_loss:.4f} and "
        f"AUC {sensitivity.base_auc:.4f} in float32",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    view.add_column("table", no_wrap=True, max_width=12)
    view.add_column("rows", justify="right", no_wrap=True)
    for name in names:
        view.add_column(name, justify="right", no_wrap=True)
    for table in sensitivity.tables:
        whole = {_name(effect): effect.whole for effect in table.effects}
        view.add_row(
            table.table,
            f"{table.num_embeddings:,}",
            *(_millionths(whole[name]) if name in whole else "" for name in names),
        )
    total = {name: sum(_whole(table, name) for table in sensitivity.tables) for name in names}
    view.add_row("all", "", *(_millionths(total[name]) for name in names), style="bold")
    console.print(view)
    if (checked := sensitivity.additivity) is None:
        return
    ratios = checked.ratios
    correlation = "not defined" if checked.correlation is None else f"{checked.correlation:.4f}"
    text = f"Sums over bands against {len(checked.checked)} random plans measured whole: "
    text += f"correlation {correlation}"
    if ratios.size:
        text += f", measured / predicted {ratios.min():.2f} to {ratios.max():.2f}"
        text += f" (median {np.median(ratios):.2f})"
    console.print(text, highlight=False)


def plot_sensitivity(sensitivity: Sensitivity, path: str | Path) -> None:
    """Draw what replacing the cold end of each table costs, format by format, and predicted against measured.

    Args:
        sensitivity: what was measured.
        path: the picture, ``.png`` or ``.svg``.
    """
    import matplotlib
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"path: the picture must end with .png or .svg, got {path.name!r}")
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(_names(sensitivity))}
    largest = sorted(sensitivity.tables, key=lambda table: -table.num_embeddings)[:3]
    figure = Figure(figsize=(13, 8.5), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, table in zip(axes[0], largest, strict=False):
        _plot_table(axis, table, colours)
    for axis in axes[0][len(largest) :]:
        axis.set_axis_off()
    grid = axes[1][0].get_gridspec()
    for axis in axes[1]:
        axis.remove()
    _plot_whole_tables(figure.add_subplot(grid[1, :2]), sensitivity, colours)
    _plot_additivity(figure.add_subplot(grid[1, 2]), sensitivity)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), fontsize=9)
    figure.suptitle(f"Rise of log-loss on {sensitivity.samples:,} samples", x=0.01, ha="left", fontsize=11)
    with matplotlib.rc_context({"svg.hashsalt": "sensitivity"}):  # the same figures, the same file
        figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)


def _plot_table(axis, table: TableSensitivity, colours: dict[str, str]) -> None:
    """Losses of bands to the table's end by their first rank, with what was measured where it is clear."""
    for effect in table.effects:
        name, cuts = _name(effect), np.array(effect.cuts[:-1])
        places = np.maximum(cuts, 1)  # a logarithmic axis has no 0
        loss = np.array([row[-1] for row in effect.loss])
        axis.plot(places, np.where(loss > 0, loss, np.nan), color=colours[name], linewidth=1.3, label=name)
        rises = np.array([row[-1].rise for row in effect.measured])
        errors = np.array([row[-1].standard_error for row in effect.measured])
        clear = rises > 2 * errors
        axis.errorbar(
            places[clear],
            rises[clear],
            errors[clear],
            fmt="o",
            markersize=3,
            linewidth=0.8,
            color=colours[name],
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("first rank replaced (the first: all)")
    axis.set_title(f"{table.table}, {table.num_embeddings:,} rows", loc="left", fontsize=10)
    axis.grid(alpha=0.25)
    axis.set_ylabel("nats a sample")


def _plot_whole_tables(axis, sensitivity: Sensitivity, colours: dict[str, str]) -> None:
    order = sorted(sensitivity.tables, key=lambda table: -table.num_embeddings)
    for name, colour in colours.items():
        losses = np.array([_whole(table, name) for table in order])
        shown = losses > 0
        axis.plot(np.flatnonzero(shown), losses[shown], "o", markersize=4, color=colour)
    axis.set_yscale("log")
    axis.set_xticks(range(len(order)), [table.table for table in order], rotation=90, fontsize=7)
    axis.set_title("whole tables in one format, largest table first", loc="left", fontsize=10)
    axis.set_ylabel("nats a sample")
    axis.grid(alpha=0.25)


def _plot_additivity(axis, sensitivity: Sensitivity) -> None:
    axis.set_title("random plans", loc="left", fontsize=10)
    if sensitivity.additivity is None:
        axis.set_axis_off()
        return
    checked = sensitivity.additivity.checked
    predicted = np.array([one.predicted for one in checked])
    measured = np.array([one.measured.without_chance for one in checked])
    shown = (predicted > 0) & (measured > 0)
    axis.plot(predicted[shown], measured[shown], "o", markersize=5, color=_COLOURS[0])
    if shown.any():
        ends = np.array([predicted[shown].min(), predicted[shown].max()])
        axis.plot(ends, ends, color="0.5", linewidth=0.9, linestyle="--")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("predicted: sum over bands, nats a sample")
    axis.set_ylabel("measured whole")
    axis.grid(alpha=0.25)


def _name(effect: Effect) -> str:
    if effect.tt_rank is not None:
        return f"tt{effect.tt_rank}"
    return effect.format + ("/t" if effect.scale == "table" else "")


def _names(sensitivity: Sensitivity) -> list[str]:
    """Names of all effects, those of the first table that has most first."""
    return list(dict.fromkeys(_name(effect) for table in sensitivity.tables for effect in table.effects))


def _whole(table: TableSensitivity, name: str) -> float:
    return sum(effect.whole for effect in table.effects if _name(effect) == name)


def _millionths(loss: float) -> str:
    """A loss in units of 1e-6, short."""
    value = _UNIT * loss
    if value == 0:
        return "0"
    return "<.001" if value < 1e-3 else f"{value:.3f}"[1:5] if value < 1 else f"{value:.{int(value < 10)}f}"

"""Runs of a load generator as a table and as a picture of latencies over load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from screc.serving.load.capacity import Capacity, Sla
from screc.serving.load.trace import QUANTILES, Summary

if TYPE_CHECKING:
    from rich.table import Table

_DRAWN = ("p50", "p95", "p99", "p99.9")
_DASHES = ("-", "--", "-.", ":")


def table(runs: Sequence[Summary]) -> Table:
    """A row for each run."""
    from rich.table import Table

    view = Table("offered/s", "answered/s", "samples/s", *QUANTILES, "refused", "failed", "late")
    view.title = "latency in ms, counted from when requests were due"
    for run in runs:
        view.add_row(
            f"{run.offered_rate:,.0f}",
            f"{run.answered_rate:,.0f}",
            f"{run.samples_rate:,.0f}",
            *(f"{run.latency_ms[name]:.2f}" if run.latency_ms else "-" for name in QUANTILES),
            *(f"{run.outcomes[name]:,}" for name in ("refused", "failed", "late")),
        )
    return view


def plot(
    runs: Sequence[Summary],
    path: str | Path,
    *,
    title: str = "",
    sla: Sla | None = None,
    capacity: Capacity | None = None,
) -> None:
    """Draw latencies over the offered load, and below them what was answered, refused, failed and late.

    Args:
        runs: one or more, at different loads.
        path: the picture, ``.svg`` or ``.png``.
        title: above it.
        sla: drawn as a line across.
        capacity: drawn as a line upwards.

    Raises:
        ValueError: there is no run, or the picture has another ending.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"path: the picture must end with .png or .svg, got {path.name!r}")
    if not runs:
        raise ValueError("there are no runs to draw")
    runs = sorted(runs, key=lambda run: run.offered_rate)
    offered = np.array([run.offered_rate for run in runs])
    figure = Figure(figsize=(7.5, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1.3))
    for name, dashes, shade in zip(_DRAWN, _DASHES, ("0.0", "C0", "C3", "C1"), strict=True):
        values = [run.latency_ms.get(name, np.nan) for run in runs]
        above.plot(offered, values, dashes, color=shade, marker="o", markersize=3.5, label=name)
    above.set_yscale("log")
    above.set_ylabel("latency of answered requests [ms]")
    above.grid(True, which="both", alpha=0.25)
    if sla is not None:
        limit = 1e3 * sla.latency_s
        above.axhline(limit, color="0.4", linewidth=1)
        text = f"p{sla.percentile:g} within {limit:g} ms"
        place = {"xycoords": above.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
        above.annotate(text, (1, limit), (-4, 3), fontsize=8, **place)
    if capacity is not None and capacity.rate:
        for axes in (above, below):
            axes.axvline(capacity.rate, color="0.4", linewidth=1)
        text = f"{capacity.rate:,.0f}/s "
        place = (capacity.rate, 1e3 * min(run.latency_at(0.5) for run in runs))
        above.annotate(text, place, ha="right", fontsize=8)
    above.legend(fontsize=8, loc="best")
    above.set_title(title, fontsize=10)
    shares = {
        name: np.array([run.outcomes[name] / run.requests for run in runs])
        for name in ("ok", "refused", "late", "failed")
    }
    colours = ("C2", "C0", "C1", "C3")
    below.stackplot(offered, *(100 * share for share in shares.values()), labels=shares, colors=colours)
    below.set_ylabel("requests [%]")
    below.set_ylim(0, 100)
    below.set_xlim(offered[0], max(offered[-1], offered[0] * 1.001))
    below.set_xlabel("offered load [requests/s]")
    below.legend(fontsize=8, loc="lower left", ncols=4)
    figure.savefig(path)

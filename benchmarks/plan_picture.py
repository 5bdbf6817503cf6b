"""The picture of job ``plans``: samples per second of every planner's plan, budget by budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_OURS_COLOUR, _OTHERS_COLOUR = "#1b6ca8", "#b8c4cf"


def draw_plans(
    results: dict[str, dict[str, dict[str, Any]]], titles: dict[str, str], ours: str, path: Path
) -> None:
    """One panel a budget: measured throughput as bars, predicted as marks, log scale.

    Args:
        results: by budget and planner: ``rounds_ms``, ``samples_per_s``, ``predicted_ms``, ``median_ms``.
        titles: of the budgets.
        ours: the planner that others are compared with.
        path: the picture, ``.png`` or ``.svg``.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for entries in results.values() for name in entries))
    figure = Figure(figsize=(14, 0.34 * len(names) + 1.6), layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, sharex=True, squeeze=False)[0]
    for panel, (budget, entries) in zip(panels, results.items(), strict=True):
        for y, name in enumerate(names):
            if name not in entries:
                panel.annotate("refuses", (0.02, y), ("axes fraction", "data"), va="center", fontsize=8)
                continue
            entry = entries[name]
            rate = entry["samples_per_s"]
            colour = _OURS_COLOUR if name == ours else _OTHERS_COLOUR
            panel.barh(y, rate, color=colour, height=0.7)
            rates = rate * entry["median_ms"] / np.array(entry["rounds_ms"])
            panel.hlines(y, rates.min(), rates.max(), color="black", linewidth=1)
            panel.plot(
                rate * entry["median_ms"] / entry["predicted_ms"], y, "D", color="#f0a202", markersize=4
            )
            times = entries[name]["time_over_ours"]
            if name != ours:
                panel.text(rate * 1.1, y, f"{times:.2g}x", va="center", fontsize=8)
        panel.set_xscale("log")
        panel.set_title(titles[budget], fontsize=10)
        panel.set_xlabel("samples/s")
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.suptitle(
        "Measured (bar; line: all rounds) and predicted (diamond) throughput, and the time of a batch / ours",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    figure.savefig(path, dpi=110)

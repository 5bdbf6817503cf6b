"""Plans as pictures: where every table's rows went, and where the time of a batch goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from screc.planning.budget import format_bytes
from screc.planning.places import COLOURS, MEMORIES, Place, name_of, place_of, places_of
from screc.planning.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INDEX_COLOUR = "#c1121f"
_OTHER_COLOURS = {"MLPs": "#6d597a", "waiting for memory": "#343a40", "every batch": "#ced4da"}
_MOST_DEVICES = 16
_MOST_TABLES = 40


def plot_plan(plan: Plan, path: str | Path) -> None:
    """Draw where every table's rows went and where the time of a batch goes.

    Per table: shares of rows and look-ups, and bytes, by memory and format. Per device, or group of devices
    that do the same: seconds of a batch by what they are spent on.

    Args:
        plan: the plan.
        path: the picture, ``.png`` or ``.svg``.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"path: the picture must end with .png or .svg, got {path.name!r}")
    places = places_of(plan)
    colours = [COLOURS[row_format][MEMORIES.index(memory)] for memory, row_format in places]
    order = _shown(plan)
    rows, lookups, sizes = (np.zeros((len(order), len(places))) for _ in range(3))
    indices = np.zeros(len(order))
    names = []
    for y, group in enumerate(order):
        for number in group:
            layout, costs = plan.layouts[number], plan.predicted.tables[number]
            for band, size in zip(layout.bands, costs.bands, strict=True):
                place = places.index(place_of(band))
                rows[y, place] += size.rows
                lookups[y, place] += size.lookup_share * costs.lookups
                sizes[y, place] += size.num_bytes
                indices[y] += size.index_bytes
        total = sum(plan.layouts[number].num_embeddings for number in group)
        what = plan.layouts[group[0]].table if len(group) == 1 else f"{len(group)} more tables"
        names.append(f"{what}  ({total:,})")
    for counts in (rows, lookups):  # as shares; a table that is never looked up has none
        counts /= np.maximum(counts.sum(axis=1, keepdims=True), 1e-300)

    devices = plan.predicted.devices
    heights = (0.26 * len(order) + 0.9, 0.3 * min(len(devices), _MOST_DEVICES) + 0.7)
    figure = Figure(figsize=(13, max(2.4, heights[0]) + heights[1] + 0.7), layout="constrained")
    grid = figure.add_gridspec(2, 3, width_ratios=(1, 1, 1.3), height_ratios=heights)
    axes = [figure.add_subplot(grid[0, 0])]
    axes += [figure.add_subplot(grid[0, column], sharey=axes[0]) for column in (1, 2)]
    for axis in axes[1:]:
        axis.tick_params(labelleft=False)
    ys = np.arange(len(order))
    for axis, shares, title in (
        (axes[0], rows, "share of the table's rows"),
        (axes[1], lookups, "share of the table's look-ups"),
    ):
        left = np.zeros(len(order))
        for number, (place, colour) in enumerate(zip(places, colours, strict=True)):
            axis.barh(ys, shares[:, number], left=left, color=colour, label=name_of(place), height=0.8)
            left += shares[:, number]
        axis.set_xlim(0, 1)
        axis.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        axis.get_xticklabels()[-1].set_horizontalalignment("right")
        axis.set_xlabel(title)
    # Bytes span many decades, where stacked bars would lie: one thin bar per memory, side by side.
    kinds = [
        (sizes[:, number], name_of(place), colour)
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
    axes[2].set_axisbelow(True)
    axes[0].set_yticks(ys, names, fontsize=8)
    axes[0].set_ylim(-0.6, len(order) - 0.4)
    times = figure.add_subplot(grid[1, :])
    _draw_times(plan, times, places, colours)
    labelled = {}
    for axis in (axes[2], times):
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=8, fontsize=9)
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


def _shown(plan: Plan) -> list[list[int]]:
    """Layouts of each bar from the bottom up: the largest tables, on top, and all others together."""
    order = sorted(range(len(plan.layouts)), key=lambda t: plan.layouts[t].num_embeddings)
    if len(order) <= _MOST_TABLES:
        return [[number] for number in order]
    return [order[: 1 - _MOST_TABLES], *([number] for number in order[1 - _MOST_TABLES :])]


def _draw_times(plan: Plan, axis: Axes, places: list[Place], colours: list[str]) -> None:
    """A bar a device of what the seconds of a batch are spent on; the busiest ones where there are many."""
    predicted = plan.predicted
    shown = sorted(predicted.devices, key=lambda device: -device.seconds)[:_MOST_DEVICES]
    lookers = sum(device.count for device in predicted.devices if device.role != "compute")
    labels = []
    for y, device in enumerate(shown):
        spent = dict.fromkeys(places, 0.0)
        index = 0.0
        if device.role != "compute":
            for layout, costs, assigned in zip(
                plan.layouts, predicted.tables, plan.assignment.tables, strict=True
            ):
                part = 1 / lookers if assigned.device is None else float(assigned.device == device.first)
                for band, cost in zip(layout.bands, costs.bands, strict=True):
                    spent[place_of(band)] += part * cost.row_seconds
                    index += part * cost.index_seconds
        hidden = device.lookup_seconds + device.dense_seconds
        parts = [
            *(zip(map(name_of, places), spent.values(), colours, strict=True)),
            ("index (DRAM)", index, _INDEX_COLOUR),
            ("MLPs", device.dense_seconds, _OTHER_COLOURS["MLPs"]),
            ("waiting for memory", device.seconds - hidden, _OTHER_COLOURS["waiting for memory"]),
            ("every batch", predicted.batch_seconds, _OTHER_COLOURS["every batch"]),
        ]
        left = 0.0
        for name, seconds, colour in parts:
            if seconds > 0:
                axis.barh(y, 1e3 * seconds, left=left, color=colour, height=0.7, label=name)
                left += 1e3 * seconds
        last = device.first + device.count - 1
        numbers = f"{device.first}-{last}" if device.count > 1 else f"{device.first}"
        labels.append(f"{plan.system.devices.kind} {numbers}: {device.role}")
    axis.set_yticks(range(len(shown)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(f"ms per batch of {plan.options.batch_size}, by what they are spent on")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)

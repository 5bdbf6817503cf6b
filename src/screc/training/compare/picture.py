"""Pictures of a comparison: AUC, or look-up time, over how much smaller the tables are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from screc.storage.atomic import replace_file
from screc.training.compare.grid import BASELINE
from screc.training.compare.table import Comparison, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Well apart in hue and in lightness; line styles and markers tell methods of one colour apart.
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#b8860b", "#66bbdd", "#aa3377", "#777777", "#000000")
_STYLES = (("-", "o"), ("--", "s"), (":", "^"), ("-.", "D"), ((0, (5, 1, 1, 1)), "v"))


def plot_comparison(comparison: Comparison, model: str, path: Path, *, latency: bool = False) -> None:
    """Draw a model's points; a line joins those of a method, a broad one those of the Pareto front.

    Args:
        comparison: what was measured.
        model: whose points.
        path: of the picture; its ending says of what kind (svg, png).
        latency: look-up times instead of AUCs.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    points = comparison.of_model(model)
    front = comparison.fast_front(model) if latency else comparison.front(model)
    axes.plot(
        [p.ratio for p in front],
        [_height(p, latency) for p in front],
        color="#ffcc66",
        linewidth=7,
        solid_capstyle="round",
        zorder=1,
        label="Pareto front",
    )
    for number, method in enumerate(_by_best(points, latency)):
        _draw(axes, number, method, [p for p in points if p.method == method], latency)
    whole = next((p for p in points if p.method == BASELINE), None)
    if whole is not None:
        axes.axhline(_height(whole, latency), color="#999999", linewidth=0.8, zorder=0)
    if latency:
        axes.set_yscale("log")
        axes.set_ylabel("look-up of one sample, all tables (µs, one thread)")
    else:
        axes.set_ylabel("AUC, mean over seeds")
    axes.set_xlabel("times smaller than float32 rows (all bytes of the served form)")
    axes.set_title(f"{model}, {comparison.settings['data']}", loc="left", fontsize=10)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    with replace_file(path) as temporary:
        # No date, so that the same results give the same file.
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, format=path.suffix[1:], metadata=metadata, dpi=120)


def _height(point: Point, latency: bool) -> float:
    return point.lookup_us if latency else point.auc


def _by_best(points: list[Point], latency: bool) -> list[str]:
    """Methods in the order of their heights at their largest ratio, as the eye finds them from the top."""
    last = {p.method: p for p in points}  # points come by ratio
    return sorted(last, key=lambda method: -_height(last[method], latency))


def _draw(axes: Axes, number: int, method: str, points: list[Point], latency: bool) -> None:
    line, marker = _STYLES[number // len(_COLOURS) % len(_STYLES)]
    mixed = points[0].is_mixed
    axes.plot(
        [p.ratio for p in points],
        [_height(p, latency) for p in points],
        color=_COLOURS[number % len(_COLOURS)],
        linestyle=line,
        marker="*" if mixed else marker,
        markersize=12 if mixed else 5,
        linewidth=2.5 if mixed else 1.2,
        zorder=4 if mixed else 3,
        label=method,
    )

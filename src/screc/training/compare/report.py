"""What a comparison writes for people: CSV, JSON, a page of tables, and pictures."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from screc.storage.atomic import replace_file
from screc.training.compare.grid import BASELINE
from screc.training.compare.picture import plot_comparison
from screc.training.compare.table import COLUMNS, TOLERANCE, Comparison, Point


def write_report(out: Path | str, *, console: Console | None = None) -> Comparison:
    """Write ``table.csv``, ``compare.json``, ``report.md`` and pictures of what a directory holds.

    Pictures are ``auc-MODEL.svg`` and ``latency-MODEL.svg``.

    Returns:
        The comparison.

    Raises:
        FileNotFoundError: ``out`` holds none.
    """
    out = Path(out)
    comparison = Comparison.read(out)
    with replace_file(out / "table.csv") as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(comparison.rows)
    with replace_file(out / "compare.json") as temporary:
        temporary.write_text(json.dumps(comparison.to_dict(), indent=1) + "\n")
    for model in comparison.models:
        if comparison.of_model(model):
            plot_comparison(comparison, model, out / f"auc-{model}.svg")
            plot_comparison(comparison, model, out / f"latency-{model}.svg", latency=True)
    with replace_file(out / "report.md") as temporary:
        temporary.write_text(report_page(comparison))
    if console is not None:
        for model in comparison.models:
            console.print(_rich_table(comparison, model))
    return comparison


_HEAD = ("method", "real ratio", "AUC", "against full", "log-loss", "look-up us", "train s", "peak MB")


def _lines(comparison: Comparison, model: str) -> list[tuple[str, ...]]:
    points = comparison.of_model(model)
    whole = next((p.auc for p in points if p.method == BASELINE), None)
    front = comparison.front(model)
    return [_line(point, whole, point in front) for point in points]


def _line(point: Point, whole: float | None, on_front: bool) -> tuple[str, ...]:
    budget = "" if point.method == BASELINE else f" {point.budget_ratio:g}x"
    spread = f" ± {point.auc_spread:.4f}" if point.seeds > 1 else ""
    return (
        f"{point.method}{budget}{' *' if on_front else ''}",
        f"{point.ratio:,.1f}",
        f"{point.auc:.4f}{spread}",
        "-" if whole is None or point.method == BASELINE else f"{100 * (point.auc - whole):+.2f}",
        f"{point.log_loss:.4f}",
        f"{point.lookup_us:.2f}",
        f"{point.train_s_per_epoch:.1f}",
        f"{point.peak_memory_bytes / 1e6:,.0f}",
    )


def _rich_table(comparison: Comparison, model: str) -> Table:
    table = Table(*_HEAD, title=f"{model}: {comparison.settings['data']}")
    for line in _lines(comparison, model):
        table.add_row(*line)
    return table


def report_page(comparison: Comparison) -> str:
    """The page in Markdown."""
    settings = comparison.settings
    parts = [
        f"# Compression methods on {settings['data']}",
        "",
        "AUC and log-loss on "
        + (f"`{settings['test']}`" if settings["test"] else "every next day before it is trained on")
        + "; means over seeds, ± their standard deviation. *against full* is in points (0.01 AUC). "
        "Bytes are those of the served form, all kinds of them. *look-up* is the processor time of pooling "
        "all tables for one sample by the PyTorch module on one thread, *train* that of a pass, *peak* what "
        "training took beyond the process itself. A star marks the Pareto front: no method of no more bytes "
        "has a better AUC.",
    ]
    for model in comparison.models:
        parts += ["", f"## {model}", ""]
        if comparison.of_model(model):
            parts += [f"![AUC over the real ratio](auc-{model}.svg)", ""]
            parts += [f"![Look-up time over the real ratio](latency-{model}.svg)", ""]
        parts += _markdown(_HEAD, _lines(comparison, model))
        verdicts = comparison.on_front().get(model, {})
        if verdicts:
            parts += [
                "",
                f"`mixed` against the best single method of no more bytes (within {TOLERANCE}):",
                "",
            ]
            parts += _markdown(
                ("budget", "mixed", "best single", "its AUC", "on the front"),
                [_verdict(budget, one) for budget, one in verdicts.items()],
            )
    missing = [row for row in comparison.rows if row["status"] != "done"]
    if missing:
        parts += ["", "## Not reached", ""]
        parts += _markdown(
            ("model", "method", "budget", "seed", "why"),
            [
                (row["model"], row["method"], f"{row['budget_ratio']:g}x", str(row["seed"]), _why(row))
                for row in missing
            ],
        )
    return "\n".join(parts) + "\n"


def _verdict(budget: str, one: dict[str, Any]) -> tuple[str, ...]:
    single = one.get("best_single")
    return (
        f"{budget}x",
        f"{one['auc']:.4f}",
        f"{single} {one['best_single_budget']:g}x" if single else "-",
        f"{one['best_single_auc']:.4f}" if single else "-",
        "yes" if one["on_front"] else "no",
    )


def _why(row: dict[str, Any]) -> str:
    if row["status"] == "unreachable":
        return f"the smallest budget that works is {row['smallest_bytes']:,} bytes"
    return f"failed: {row['error']}"


def _markdown(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
    cells = [[text.replace("|", "\\|") for text in line] for line in lines]
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(one)} |" for one in cells)]

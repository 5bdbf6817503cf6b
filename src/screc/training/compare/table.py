"""The results of a comparison: a tidy table of its cells, means over seeds, and the Pareto front."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CELLS, SETTINGS = "cells", "settings.json"
MIXED = "mixed"
TOLERANCE = 5e-4  # of AUC: what is not more than this better is as good
COLUMNS = (
    *("model", "method", "budget_ratio", "seed", "status", "auc", "log_loss", "validation_auc", "best_epoch"),
    *("ratio", "bytes", "parameter_bytes", "remap_bytes", "code_bytes", "sketch_bytes", "training_bytes"),
    *("epochs", "train_s_per_epoch", "peak_memory_bytes", "lookup_us", "seconds", "smallest_bytes", "error"),
)
_KINDS = {"parameters": "parameter_bytes", "remap": "remap_bytes", "codes": "code_bytes"}
_KINDS |= {"sketch": "sketch_bytes"}


def read_result(file: Path) -> dict[str, Any] | None:
    """A cell's result; None where there is none."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A method at a budget: means over seeds.

    Attributes:
        model, method, budget_ratio: what.
        auc, auc_spread: mean and standard deviation (0 of one seed) of the AUC.
        log_loss: mean.
        bytes, ratio: of the served form.
        lookup_us, train_s_per_epoch, peak_memory_bytes: means.
        seeds: how many.
    """

    model: str
    method: str
    budget_ratio: float
    auc: float
    auc_spread: float
    log_loss: float
    bytes: int
    ratio: float
    lookup_us: float
    train_s_per_epoch: float
    peak_memory_bytes: float
    seeds: int

    @property
    def is_mixed(self) -> bool:
        """Whether it is the mixed method, which is compared with all others."""
        return self.method.partition(":")[0] == MIXED


class Comparison:
    """All cells that a directory holds.

    Args:
        settings: JSON values of :class:`screc.training.compare.Settings`.
        rows: of the tidy table, by :data:`COLUMNS`.
        days: of every cell that was a stream, the metrics of its days, by the cell's key.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        rows: Sequence[dict[str, Any]],
        days: dict[str, list[dict[str, float]]] | None = None,
    ) -> None:
        self.settings, self.rows, self.days = settings, list(rows), days or {}
        groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
        for row in self.rows:
            if row["status"] == "done":
                groups.setdefault((row["model"], row["method"], row["budget_ratio"]), []).append(row)
        self.points = [_point(*key, rows) for key, rows in groups.items()]

    @classmethod
    def read(cls, out: Path | str) -> Comparison:
        """What a directory holds.

        Raises:
            FileNotFoundError: it holds no comparison.
        """
        out = Path(out)
        settings = json.loads((out / SETTINGS).read_text())
        found = [(file.stem, read_result(file)) for file in sorted((out / CELLS).glob("*.json"))]
        rows = [_row(result) for _, result in found if result is not None]
        rows.sort(key=lambda row: (row["model"], row["budget_ratio"], row["method"], row["seed"]))
        return cls(settings, rows, {key: one["days"] for key, one in found if one and "days" in one})

    @property
    def models(self) -> list[str]:
        """In alphabetical order."""
        return sorted({row["model"] for row in self.rows})

    def of_model(self, model: str) -> list[Point]:
        """The points of a model, by ratio."""
        return sorted((p for p in self.points if p.model == model), key=lambda p: (p.ratio, p.method))

    def front(self, model: str) -> list[Point]:
        """The points of a model that none of no more bytes has a better AUC than, largest first."""
        return pareto(self.of_model(model), lambda p: p.auc)

    def fast_front(self, model: str) -> list[Point]:
        """The points of a model that none of no more bytes is looked up faster than, largest first."""
        return pareto(self.of_model(model), lambda p: -p.lookup_us)

    def on_front(self) -> dict[str, dict[str, dict[str, Any]]]:
        """For each model and budget of the mixed method, the best single method of no more bytes.

        ``on_front`` is true only if that is better by no more than 0.0005.
        """
        verdicts: dict[str, dict[str, dict[str, Any]]] = {}
        for mixed in self.points:
            if not mixed.is_mixed:
                continue
            others = [
                p for p in self.points if p.model == mixed.model and not p.is_mixed and p.bytes <= mixed.bytes
            ]
            best = max(others, key=lambda p: p.auc, default=None)
            verdict: dict[str, Any] = {"auc": mixed.auc, "bytes": mixed.bytes, "seeds": mixed.seeds}
            if best is not None:
                verdict |= {"best_single": best.method, "best_single_budget": best.budget_ratio}
                verdict |= {"best_single_auc": best.auc, "best_single_bytes": best.bytes}
            verdict["on_front"] = best is None or best.auc <= mixed.auc + TOLERANCE
            label = f"{mixed.budget_ratio:g}"
            if mixed.method != MIXED:
                label = f"{label} {mixed.method}"
            verdicts.setdefault(mixed.model, {})[label] = verdict
        return verdicts

    def to_dict(self) -> dict[str, Any]:
        """JSON values: settings, cells, points, fronts."""
        return {
            "settings": self.settings,
            "cells": self.rows,
            "days": self.days,
            "points": [_plain(point) for point in self.points],
            "fronts": {
                model: [f"{p.method} {p.budget_ratio:g}x" for p in self.front(model)] for model in self.models
            },
            "mixed": {
                "on_front": {
                    model: {budget: one["on_front"] for budget, one in budgets.items()}
                    for model, budgets in self.on_front().items()
                },
                "against": self.on_front(),
            },
        }


def pareto(points: Iterable[Point], worth: Any) -> list[Point]:
    """The points that none of no more bytes is worth more than; of equals the smallest. Largest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.bytes, -worth(p))):
        if not front or worth(point) > worth(front[-1]):
            front.append(point)
    return front[::-1]


def _row(result: dict[str, Any]) -> dict[str, Any]:
    cell = result["cell"]
    row = dict.fromkeys(COLUMNS)
    row |= {key: value for key, value in result.items() if key in COLUMNS}
    row |= {"model": cell["model"], "method": cell["method"], "seed": cell["seed"]}
    row["budget_ratio"] = cell["ratio"]
    if "serving_bytes" in result:
        serving = result["serving_bytes"]
        row |= {column: serving[kind] for kind, column in _KINDS.items()}
        row["bytes"] = sum(serving.values())
        row["training_bytes"] = sum(result["training_bytes"].values())
    return row


def _point(model: str, method: str, budget_ratio: float, rows: Sequence[dict[str, Any]]) -> Point:
    def mean(column: str) -> float:
        return statistics.fmean(row[column] for row in rows)

    aucs = [row["auc"] for row in rows]
    return Point(
        model=model,
        method=method,
        budget_ratio=budget_ratio,
        auc=mean("auc"),
        auc_spread=statistics.stdev(aucs) if len(aucs) > 1 else 0.0,
        log_loss=mean("log_loss"),
        # A method may take somewhat less with another seed; the most is what it asks for.
        bytes=max(row["bytes"] for row in rows),
        ratio=min(row["ratio"] for row in rows),
        lookup_us=mean("lookup_us"),
        train_s_per_epoch=mean("train_s_per_epoch"),
        peak_memory_bytes=mean("peak_memory_bytes"),
        seeds=len(rows),
    )


def _plain(point: Point) -> dict[str, Any]:
    return {name: getattr(point, name) for name in Point.__slots__}

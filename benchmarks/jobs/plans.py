"""Job ``plans``: what each planner's plan is worth on this host, at DRAM budgets of 2 to 25 % of the fp32 rows.

The Criteo-Kaggle DLRM with its large tables four times as long (135 M rows x 16, 8.6 GB of fp32 rows), Zipf(1.05)
ids, B = 1024, int8 layers. Access counts of a hundred million samples are drawn once; from them every planner
makes a plan for every budget, and the engine serves each in a process of its own whose memory, page cache
included, is limited to the budget and what a process needs. Reads bypass the page cache. The program's own plan
is measured in every group of arms, round by round beside the others, and ratios are of times taken in turn.

Formats: each planner uses what stands beside it in ``PLANNERS``; the program may use all of them within
``MAX_LOSS``. What a plan costs in accuracy is predicted by the sensitivity in ``sensitivity()``.
"""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.comparison import check_batches, oracle, wide_console
from benchmarks.generated_artifact import GeneratedModel
from benchmarks.memory_limit import Worker
from benchmarks.served_arms import (
    counted_per_sample,
    engine_arm,
    mean_error,
    time_in_turn,
    with_int8_layers,
)
from benchmarks.workload import ZIPF_EXPONENT, Workload, kaggle
from screc.data import CRITEO_KAGGLE_ROWS
from screc.planning import InfeasibleBudget, Plan, SystemSpec, make_plan, probe
from screc.serving import Engine
from screc.statistics import AccessStatistics

BATCH_SIZE = 1024
HISTORY_SAMPLES = 10**8
FRACTIONS = {"d2": 0.02, "d5": 0.05, "d10": 0.10, "d25": 0.25}
# What a process needs besides what the plan places in DRAM: the interpreter, NumPy, batches, working memory.
PROCESS_BYTES = 400 << 20
# Of all arms that are measured beside each other.
GROUP_BYTES = 5 << 30
SEED = 17
OURS = "mip"


@dataclass(frozen=True, kw_only=True)
class Planner:
    """How a plan is asked for: the arguments of ``make_plan``, and for the report the formats it may use."""

    formats: str
    arguments: dict[str, Any] = field(default_factory=dict)


def _two_tier(method: str, row_format: str) -> Planner:
    return Planner(formats=row_format, arguments={"method": method, "row_formats": (row_format,)})


PLANNERS = {
    OURS: Planner(
        formats="fp32, fp16, int8, int4, TT",
        arguments={"method": "mip", "row_formats": ("fp32", "fp16", "int8", "int4")},
    ),
    "recshard_fp32": _two_tier("recshard", "fp32"),
    "recshard_int8": _two_tier("recshard", "int8"),
    "three_tier": Planner(formats="fp32, TT", arguments={"method": "three-tier", "row_formats": ("fp32",)}),
    "greedy_size_fp32": _two_tier("greedy-size", "fp32"),
    "greedy_size_int8": _two_tier("greedy-size", "int8"),
    "greedy_lookups_fp32": _two_tier("greedy-lookups", "fp32"),
    "greedy_lookups_int8": _two_tier("greedy-lookups", "int8"),
    "tt_only": Planner(formats="fp32, TT", arguments={"method": "tt-only", "row_formats": ("fp32",)}),
    "lru_fp32": _two_tier("lru", "fp32"),
    "lru_int8": _two_tier("lru", "int8"),
}


def scaled_rows(*, quick: bool) -> tuple[int, ...]:
    """The Kaggle cardinalities, those above a thousand four times as large."""
    if quick:
        return tuple(max(1, count // 100) for count in CRITEO_KAGGLE_ROWS)
    return tuple(4 * count if count > 1000 else count for count in CRITEO_KAGGLE_ROWS)


# ----------------------------------------------------------------------------------------------------------
# an arm, made in a process of its own


def make_arm(workload: Workload, artifact: Path, warm: Path | None) -> Callable[..., Any]:
    """Serves an artifact; rows listed in ``warm`` are looked up first, so that its row cache holds them."""
    engine = Engine.open(artifact)
    for part in sorted(warm.glob("*.npy")) if warm is not None else ():
        table = int(part.stem.split("-")[1])
        ids = np.load(part, mmap_mode="r")
        out = np.empty((1 << 19, workload.embedding_dim), np.float32)
        for start in range(0, len(ids), len(out)):
            wanted = ids[start : start + len(out)].astype(np.int64)
            engine.store.gather(table, wanted, out[: len(wanted)])
    engine = with_int8_layers(engine, workload, seed=SEED + 1)
    return engine_arm(engine, workload, BATCH_SIZE, seed=SEED)


# ----------------------------------------------------------------------------------------------------------
# the study: what is planned, written and measured, step by step, each kept for the next run


class Study:
    """All plans, and the steps in which they are written and measured; what an earlier run did is kept.

    Args:
        quick: small tables, few rounds.
    """

    def __init__(self, *, quick: bool, console: Console) -> None:
        self.quick, self.console = quick, console
        self.workload = kaggle(scaled_rows(quick=quick))
        self.root = Path("run") / ("plans-quick" if quick else "plans")
        self.root.mkdir(parents=True, exist_ok=True)
        self.statistics = self._statistics()
        self.system = self._system()
        self.plans = {key: self._plans(key) for key in FRACTIONS}
        self.model = GeneratedModel(self.workload, self.statistics, self.root / "pages", seed=SEED)

    @property
    def steps(self) -> list[tuple[str, tuple[str, ...]]]:
        """(budget, arms that are measured beside each other); ours is in each."""
        found = []
        for key, plans in self.plans.items():
            arms = [name for name in plans if name != OURS and self.same_as(key, name) is None]
            size = int(FRACTIONS[key] * self.workload.row_bytes) + PROCESS_BYTES
            beside = max(1, GROUP_BYTES // size - 1)
            found += [(key, (OURS, *arms[i : i + beside])) for i in range(0, len(arms), beside)]
        return found

    def same_as(self, key: str, name: str) -> str | None:
        """An earlier planner of the same budget whose plan is the same."""

        def placed(plan: Plan) -> object:
            return plan.layouts, plan.options.row_cache_bytes, plan.options.row_cache_policy

        for other, plan in self.plans[key].items():
            if other == name:
                return None
            if placed(plan) == placed(self.plans[key][name]):
                return other
        raise KeyError(name)

    def measured(self, step: tuple[str, tuple[str, ...]]) -> Path:
        """Where a step's measurement is kept."""
        key, arms = step
        return self.root / f"{key}-{'-'.join(arms[1:])}.json"

    def prepare(self, step: tuple[str, tuple[str, ...]]) -> None:
        """Writes what a step needs and removes what no step needs any more."""
        left = [other for other in self.steps if not self.measured(other).exists()]
        self.model.drop_pages(
            {
                (table, band, placed.format)
                for key, arms in left
                for name in arms
                for table, layout in enumerate(self.plans[key][name].layouts)
                for band, placed in enumerate(layout.bands)
                if placed.memory == "ssd" and placed.format != "tt"
            }
        )
        key, arms = step
        for path in (self.root / "artifacts").glob("*"):
            if path.name not in {f"{key}-{name}" for name in arms}:
                shutil.rmtree(path)
        for name in arms:
            plan, out = self.plans[key][name], self.artifact(key, name)
            out.parent.mkdir(exist_ok=True)
            self.model.write(plan, out, progress=lambda what: self.console.print(f"    {what}"))
            answers = out / "answers.npz"
            if not answers.exists():
                np.savez(answers, *self._answers(plan))
            if plan.options.row_cache_policy == "lru" and plan.options.row_cache_bytes:
                self._write_warm_rows(plan, out / "warm")

    def artifact(self, key: str, name: str) -> Path:
        """Where a plan's artifact is while it is needed."""
        return self.root / "artifacts" / f"{key}-{name}"

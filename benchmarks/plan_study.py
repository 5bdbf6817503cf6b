"""Plans of many planners for many budgets of one model: made, written, served and timed, step by step.

What a step needs on disk is written before it and removed when no later step needs it; what it measured is
kept, so that a study can be interrupted between steps, or prepared at one time and measured at another.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.comparison import check_batches, oracle
from benchmarks.generated_artifact import GeneratedModel
from benchmarks.memory_limit import Worker
from benchmarks.scaled_sensitivity import RECIPE_G_FILE, scaled_sensitivity
from benchmarks.served_arms import engine_arm, relative_error, time_in_turn, with_int8_layers
from benchmarks.workload import Workload, kaggle
from screc.data import CRITEO_KAGGLE_ROWS
from screc.planning import (
    DenseShape,
    InfeasibleBudget,
    Plan,
    Prediction,
    Sensitivity,
    SystemSpec,
    make_baseline_plan,
    make_plan,
    predict,
    probe,
    probe_dense,
)
from screc.planning.row_cache import BESIDE_BYTES, ColdBand, batches_held
from screc.serving import Engine
from screc.statistics import AccessStatistics
from screc.storage import TableLayout

BATCH_SIZE = 1024
HISTORY_SAMPLES = 10**8
FRACTIONS = {"d2": 0.02, "d5": 0.05, "d10": 0.10, "d25": 0.25}
# What a process needs besides what the plan places in DRAM: the interpreter, NumPy, batches, working memory.
PROCESS_BYTES = 400 << 20
# Of all arms that are measured beside each other.
GROUP_BYTES = 5 << 30
# Share of all look-ups that tensor trains may answer in the program's plan and in three tiers.
MAX_TT_SHARE = 0.05
# Rise of the log-loss, nats a sample, that a plan may cost by what was measured on recipe G's model. There
# losses of AUC were about as large as rises of the log-loss: half of the 0.001 of AUC that may be lost.
MAX_LOSS = 5e-4
SEED = 17
OURS = "mip"
# Parts, oldest first, in which rows are brought into a cache that remembers their order.
_WARM_PARTS = {"d2": 8, "d5": 6, "d10": 3, "d25": 2}
_STATISTICS_FILE, _SYSTEM_FILE = "statistics.safetensors", "system.json"


@dataclass(frozen=True, kw_only=True)
class Planner:
    """A way to plan.

    Attributes:
        method: ``mip``, or of ``screc.planning.BASELINES``.
        formats: what rows may become.
    """

    method: str
    formats: tuple[str, ...]


PLANNERS = {
    OURS: Planner(method="mip", formats=("fp32", "fp16", "int8", "int4", "tt")),
    "recshard_fp32": Planner(method="recshard", formats=("fp32",)),
    "recshard_int8": Planner(method="recshard", formats=("int8",)),
    "three_tier": Planner(method="three-tier", formats=("fp32", "tt")),
    "greedy_size_fp32": Planner(method="greedy-size", formats=("fp32",)),
    "greedy_size_int8": Planner(method="greedy-size", formats=("int8",)),
    "greedy_lookups_fp32": Planner(method="greedy-lookups", formats=("fp32",)),
    "greedy_lookups_int8": Planner(method="greedy-lookups", formats=("int8",)),
    "tt_only": Planner(method="tt-only", formats=("fp32", "tt")),
    "lru_fp32": Planner(method="lru", formats=("fp32",)),
    "lru_int8": Planner(method="lru", formats=("int8",)),
}


def scaled_rows(*, quick: bool) -> tuple[int, ...]:
    """The Kaggle cardinalities, those above a thousand four times as large."""
    if quick:
        return tuple(max(1, count // 100) for count in CRITEO_KAGGLE_ROWS)
    return tuple(4 * count if count > 1000 else count for count in CRITEO_KAGGLE_ROWS)


@dataclass(frozen=True, slots=True)
class Step:
    """A budget, and the arms that are measured beside each other under it; ours is the first."""

    budget: str
    arms: tuple[str, ...]

    @property
    def name(self) -> str:
        """For files."""
        return "-".join((self.budget, *self.arms[1:]))


class Study:
    """The plans, and the steps in which they are written and measured.

    Args:
        quick: small tables, few rounds.
        console: told what is going on.

    Attributes:
        plans: by budget and planner; planners that refuse the budget are missing.
        refusals: what those said.
    """

    def __init__(self, *, quick: bool, console: Console) -> None:
        self.quick, self.console = quick, console
        self.workload = kaggle(scaled_rows(quick=quick))
        self.root = Path("run") / ("plans-quick" if quick else "plans")
        self.root.mkdir(parents=True, exist_ok=True)
        self.statistics = self._statistics()
        self.system = self._system()
        self.sensitivity = scaled_sensitivity(Sensitivity.load(RECIPE_G_FILE), self.statistics)
        self.model = GeneratedModel(self.workload, self.statistics, self.root / "pages", seed=SEED)
        self.refusals: dict[str, str] = {}
        self.plans: dict[str, dict[str, Plan]] = {}
        for budget in FRACTIONS:
            self.plans[budget] = {}
            for name in PLANNERS:
                plan = self._plan(budget, name)
                if plan is not None:
                    self.plans[budget][name] = plan

    # ------------------------------------------------------------------------------------------------
    # inputs and plans

    def _statistics(self) -> AccessStatistics:
        path = self.root / _STATISTICS_FILE
        if not path.exists():
            self.console.print("  drawing access counts")
            samples = HISTORY_SAMPLES // 100 if self.quick else HISTORY_SAMPLES
            self.workload.access_statistics(samples, np.random.default_rng(SEED)).save(path)
        return AccessStatistics.load(path)

    def _system(self) -> SystemSpec:
        path = self.root / _SYSTEM_FILE
        if not path.exists():
            self.console.print("  probing this host")
            found = probe(self.root, seconds=5.0 if self.quick else 30.0)
            dims = [self.workload.embedding_dim] * len(self.workload.rows)
            shape = DenseShape.of_model(self.workload.model, dims)
            probe_dense(found, shape, batch_size=BATCH_SIZE).save(path)
        return SystemSpec.load(path)

    def _plan(self, budget: str, name: str) -> Plan | None:
        """A planner's plan, from the file that keeps it; None where it refuses the budget."""
        path = self.root / "planned" / f"{budget}-{name}.json"
        if path.exists():
            return Plan.load(path)
        refused = path.with_suffix(".refused")
        if not refused.exists():
            path.parent.mkdir(exist_ok=True)
            self.console.print(f"  planning {budget} {name}")
            try:
                plan = self._make(budget, PLANNERS[name])
            except InfeasibleBudget as error:
                refused.write_text(str(error))
            else:
                plan.save(path)
                return plan
        self.refusals[f"{budget}.{name}"] = refused.read_text()
        return None

    def _make(self, budget: str, planner: Planner) -> Plan:
        rows = tuple(one for one in planner.formats if one != "tt")
        asked: dict[str, Any] = {
            "dram_fraction": FRACTIONS[budget],
            "batch_size": BATCH_SIZE,
            "dense_flops": self.workload.flops,
            "max_tt_share": MAX_TT_SHARE,
        }
        world = (self.statistics, self.workload.embedding_dim, self.system)
        if planner.method == "mip":
            return make_plan(*world, row_formats=rows, **asked)
        return make_baseline_plan(planner.method, *world, row_format=rows[0], **asked)

    def predicted(self, plan: Plan) -> Prediction:
        """What a plan is predicted to take with the int8 layers that all arms have."""
        options = plan.options.model_copy(update={"dense_precision": "int8"})
        return predict(plan.layouts, plan.assignment, self.statistics, self.system, options)

    def loss(self, plan: Plan) -> float:
        """The predicted rise of the log-loss."""
        return self.sensitivity.plan_loss(plan.layouts)

    def same_as(self, budget: str, name: str) -> str | None:
        """The first planner of the same budget whose plan is the same, unless it is this one."""

        def placed(plan: Plan) -> object:
            return plan.layouts, plan.options.row_cache_bytes, plan.options.row_cache_policy

        plans = self.plans[budget]
        first = next(other for other, plan in plans.items() if placed(plan) == placed(plans[name]))
        return None if first == name else first

    # ------------------------------------------------------------------------------------------------
    # steps

    @property
    def steps(self) -> list[Step]:
        """As many arms beside each other as ``GROUP_BYTES`` allow; ours is in each."""
        found = []
        for budget, plans in self.plans.items():
            arms = [name for name in plans if name != OURS and self.same_as(budget, name) is None]
            beside = max(1, GROUP_BYTES // self.limit_bytes(budget) - 1)
            found += [Step(budget, (OURS, *arms[i : i + beside])) for i in range(0, len(arms), beside)]
        return found

    def limit_bytes(self, budget: str) -> int:
        """Memory that an arm's process may use."""
        return int(FRACTIONS[budget] * self.workload.row_bytes) + PROCESS_BYTES

    def measured(self, step: Step) -> Path:
        """Where a step's measurement is kept."""
        return self.root / "measured" / f"{step.name}.json"

    def artifact(self, budget: str, name: str) -> Path:
        """Where a plan's artifact is while it is needed."""
        return self.root / "artifacts" / f"{budget}-{name}"

    def prepare(self, step: Step) -> None:
        """Writes what a step needs, and removes what no step needs any more."""
        self.clean(keep=step)
        for name in step.arms:
            plan, out = self.plans[step.budget][name], self.artifact(step.budget, name)
            out.parent.mkdir(exist_ok=True)
            self.model.write(plan, out, progress=lambda what: self.console.print(f"    {what}"))
            beside = out.with_suffix(".beside")
            if not beside.exists():
                part = out.with_suffix(".beside.part")
                shutil.rmtree(part, ignore_errors=True)
                part.mkdir()
                np.savez(part / "answers.npz", *self._answers(plan))
                if plan.options.row_cache_bytes and plan.options.row_cache_policy == "lru":
                    self._write_warm_rows(step.budget, plan, part)
                part.rename(beside)

    def clean(self, *, keep: Step | None = None) -> None:
        """Removes all artifacts but those of one step, and page files that no step to come needs."""
        wanted = {(keep.budget, name) for name in keep.arms} if keep is not None else set()
        for path in (self.root / "artifacts").glob("*"):
            if path.suffix == ".part" or tuple(path.stem.split("-", 1)) not in wanted:
                shutil.rmtree(path)
        left = [step for step in self.steps if not self.measured(step).exists()]
        self.model.drop_pages(
            {
                (table, band, placed.format)
                for step in left
                for name in step.arms
                for table, layout in enumerate(self.plans[step.budget][name].layouts)
                for band, placed in enumerate(layout.bands)
                if placed.memory == "ssd"
            }
        )

    def measure(self, step: Step) -> None:
        """Serves a step's artifacts beside each other, checks their answers and times them."""
        workers: dict[str, Worker] = {}
        errors = {}
        try:
            for name in step.arms:
                beside = self.artifact(step.budget, name).with_suffix(".beside")
                workers[name] = Worker(
                    name,
                    make_arm,
                    {
                        "workload": self.workload,
                        "artifact": self.artifact(step.budget, name),
                        "warm": beside,
                    },
                    limit_bytes=self.limit_bytes(step.budget),
                )
                errors[name] = _checked(name, workers[name].call("check"), beside / "answers.npz")
                self.console.print(f"    {name}: ready")
            times, stats = time_in_turn(
                workers,
                BATCH_SIZE,
                step.arms,
                rounds=2 if self.quick else 5,
                seconds=0.2 if self.quick else 2.0,
            )
            peaks = {name: worker.peak_bytes for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
        found = {
            name: {
                "rounds_ms": [1e3 * seconds for seconds in times[name]],
                "peak_bytes": peaks[name],
                "relative_error": errors[name],
                "stats": stats[name],
            }
            for name in step.arms
        }
        self.measured(step).parent.mkdir(exist_ok=True)
        self.measured(step).write_text(json.dumps(found, indent=1) + "\n")

    def _answers(self, plan: Plan) -> list[np.ndarray]:
        """What the arm has to predict for :func:`check_batches`, in float64 arithmetic."""
        rows = (_ServedRows(self.model, layout, table) for table, layout in enumerate(plan.layouts))
        return oracle(self.workload, rows, *self.model.layers, check_batches(self.workload))

    def _write_warm_rows(self, budget: str, plan: Plan, directory: Path) -> None:
        """Lists the rows that the plan's cache holds after long service, those wanted longest ago first.

        Each row's last use is drawn from its access rate; the cache holds those used since the time at which
        as many rows as fit were used. The store is then asked for them in a few parts, for it takes too long
        to fill a large cache by requests: within a part the order is that of the ids.
        """
        generator = np.random.default_rng(SEED)
        row_bytes = plan.layouts[0].row_bytes(0)
        lookups = BATCH_SIZE * self.workload.pooling
        bands = [
            ColdBand(self.workload.zipf_curve(table), lookups, 0, rows, row_bytes)
            for table, rows in enumerate(self.workload.rows)
        ]
        parts = _WARM_PARTS[budget]
        entries = plan.options.row_cache_bytes / (row_bytes + BESIDE_BYTES["lru"])
        edges = [batches_held(bands, entries * part / parts) for part in range(1, parts + 1)]
        for table, band in enumerate(bands):
            rates = lookups * np.repeat(band.curve.probabilities, np.diff(band.curve.boundaries))
            age = generator.standard_exponential(len(rates), dtype=np.float32) / rates
            part_of = np.searchsorted(edges, age)
            ids = self.workload.ids_by_rank(table).astype(np.uint32)
            for part in range(parts):
                own = np.sort(ids[part_of == part])
                np.save(directory / f"warm-{parts - 1 - part}-{table}.npy", own)


class _ServedRows:
    """Rows of a table as an artifact answers them, by id."""

    def __init__(self, model: GeneratedModel, layout: TableLayout, table: int) -> None:
        self._model, self._layout, self._table = model, layout, table

    def __getitem__(self, ids: np.ndarray) -> np.ndarray:
        return self._model.served_rows(self._layout, self._table, ids)


def _checked(name: str, got: Sequence[np.ndarray], answers: Path) -> float:
    """The arm's largest error against its own rows in float64; int8 layers may be off by a quarter."""
    with np.load(answers) as right:
        errors = [relative_error(answer, right[key]) for answer, key in zip(got, right.files, strict=True)]
    if not max(errors) <= 0.25:
        raise RuntimeError(f"{name}: predictions differ by {max(errors):.2e}, allowed 0.25")
    return max(errors)


def make_arm(workload: Workload, artifact: Path, warm: Path) -> Callable[..., Any]:
    """Serves an artifact, its row cache filled with the rows listed in ``warm``."""
    engine = Engine.open(artifact)
    warm_up(engine, warm, workload.embedding_dim)
    engine = with_int8_layers(engine, workload, seed=SEED + 1)
    return engine_arm(engine, workload, BATCH_SIZE, seed=SEED)


def warm_up(engine: Engine, directory: Path, dim: int) -> None:
    """Looks up the rows that are listed in the files of a directory, one file after the other."""
    out = np.empty((1 << 19, dim), np.float32)
    for file in sorted(directory.glob("warm-*.npy")):
        ids, table = np.load(file, mmap_mode="r"), int(file.stem.split("-")[2])
        for start in range(0, len(ids), len(out)):
            wanted = ids[start : start + len(out)].astype(np.int64)
            engine.store.gather(table, wanted, out[: len(wanted)])

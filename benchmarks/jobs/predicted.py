"""Job ``predicted``: what plans were predicted to reach, against what the engine reaches with them.

Plans for DRAM budgets of 1 to 50 % of the fp32 rows of two models of about 1 GB each: the Criteo-Kaggle DLRM
with half its rows, and one that is all look-ups (64 tables x 64 columns, 32 ids a bag). Rows in several
formats, tensor trains, and bands on SSD that are read past the page cache. The host is probed first, with
each model's own dense part; nothing of the cost model is fitted to the plans. Each is packed and served as
``screc bench`` serves: a stream of batches that have not come before.
"""

from __future__ import annotations

import math
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.comparison import wide_console
from benchmarks.workload import RandomTables, Workload, dense_tensors, kaggle
from screc.data import CRITEO_KAGGLE_ROWS
from screc.planning import DenseShape, SystemSpec, make_plan, predict, probe, probe_dense
from screc.serving import Engine
from screc.serving.calibration import arithmetic_of, calibrate
from screc.statistics import AccessStatistics
from screc.storage import StoredTable, TableLayout, pack, write_checkpoint

HISTORY_SAMPLES = 10**8
SEED = 17


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A plan to hold against its measurement.

    Attributes:
        model: ``kaggle`` or ``rm2``.
        fraction: DRAM budget as a share of the fp32 rows.
        row_format: of its rows.
        tt: whether tensor trains may be used.
        precision: of the MLPs.
    """

    model: str
    fraction: float
    row_format: str
    precision: str
    tt: bool = False

    @property
    def name(self) -> str:
        """For keys, e.g. ``kaggle.d5.int8.tt.int8``: budget, rows, tensor trains, MLPs."""
        trains = ".tt" if self.tt else ""
        return f"{self.model}.d{100 * self.fraction:g}.{self.row_format}{trains}.{self.precision}"


CASES = (
    Case(model="kaggle", fraction=0.50, row_format="fp16", precision="fp32"),
    Case(model="kaggle", fraction=0.50, row_format="int8", precision="int8"),
    Case(model="kaggle", fraction=0.25, row_format="fp32", precision="int8"),
    Case(model="kaggle", fraction=0.10, row_format="int8", precision="bf16"),
    Case(model="kaggle", fraction=0.10, row_format="fp32", precision="fp32", tt=True),
    Case(model="kaggle", fraction=0.05, row_format="fp32", precision="fp32"),
    Case(model="kaggle", fraction=0.02, row_format="int4", precision="int8"),
    Case(model="kaggle", fraction=0.01, row_format="int8", precision="fp32"),
    Case(model="rm2", fraction=0.50, row_format="int8", precision="int8"),
    Case(model="rm2", fraction=0.25, row_format="int4", precision="bf16"),
    Case(model="rm2", fraction=0.50, row_format="fp32", precision="fp32"),
    Case(model="rm2", fraction=0.10, row_format="int8", precision="int8"),
    Case(model="rm2", fraction=0.05, row_format="int8", precision="fp32", tt=True),
    Case(model="rm2", fraction=0.01, row_format="int8", precision="int8"),
)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that is planned: its shape, batches and access counts.

    Attributes:
        workload: its shape.
        batch_size: samples per batch.
        deviation: of its rows' numbers; small where bags are long, or sums would saturate.
    """

    workload: Workload
    batch_size: int
    deviation: float

    @property
    def shape(self) -> DenseShape:
        """Of its dense part."""
        w = self.workload
        return DenseShape.of_model(w.model, [w.embedding_dim] * len(w.rows))

    def statistics(self) -> AccessStatistics:
        """Counts of :data:`HISTORY_SAMPLES` samples."""
        return self.workload.access_statistics(HISTORY_SAMPLES, np.random.default_rng(SEED))


def models(*, quick: bool) -> dict[str, Model]:
    """The models by name."""
    part = 200 if quick else 2
    rows = [max(1, count // part) if count > 1000 else count for count in CRITEO_KAGGLE_ROWS]
    rm2 = Workload(
        rows=(1024 if quick else 65_536,) * 64,
        embedding_dim=64,
        num_dense=13,
        bottom=(256, 128, 64),
        top=(128, 64, 1),
        pooling=32,
    )
    return {
        "kaggle": Model(workload=kaggle(rows), batch_size=1024, deviation=0.1),
        "rm2": Model(workload=rm2, batch_size=128, deviation=0.02),
    }


def run(*, quick: bool) -> dict[str, object]:
    """Probe, plan, pack, measure and print; returns the report's parts."""
    console = wide_console()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".predicted-") as folder:
        directory = Path(folder)
        system = probe(directory, seconds=2.0 if quick else 30.0)
        for name, model in models(quick=quick).items():
            counted = model.statistics()
            host = probe_dense(system, model.shape, batch_size=model.batch_size)
            _write_checkpoint(model, directory / "checkpoint")
            for case in CASES:
                if case.model == name:
                    results[case.name] = _measure_case(
                        console, case, model, counted, host, directory, quick=quick
                    )
            shutil.rmtree(directory / "checkpoint")
    return report(console, results, system)


def _write_checkpoint(model: Model, path: Path) -> None:
    workload = model.workload
    tables = RandomTables(workload.rows, workload.embedding_dim, deviation=model.deviation)
    write_checkpoint(
        path,
        model=workload.model,
        tables=[
            StoredTable(layout=TableLayout.dense(f"t{number}", rows, workload.embedding_dim), pooling="sum")
            for number, rows in enumerate(workload.rows)
        ],
        dense=dense_tensors(*workload.layers(np.random.default_rng(SEED))),
        table_tensors=lambda number: {"band.0.rows": tables[number]},
        training={},
    )


def _measure_case(
    console: Console,
    case: Case,
    model: Model,
    counted: AccessStatistics,
    system: SystemSpec,
    directory: Path,
    *,
    quick: bool,
) -> dict[str, Any]:
    """Plans, packs and serves one case."""
    plan = make_plan(
        counted,
        model.workload.embedding_dim,
        system,
        dram_fraction=case.fraction,
        batch_size=model.batch_size,
        row_formats=case.row_format,
        tt=case.tt,
        dense_flops=model.shape.flops,
        mip_gap=1e-2,
        time_limit=10.0,
    )
    options = plan.options.model_copy(update={"dense_precision": case.precision})
    predicted = predict(plan.layouts, plan.assignment, counted, system, options)
    artifact = directory / "artifact"
    pack(directory / "checkpoint", counted, plan, artifact)
    try:
        measured = serve(case, model, artifact, rounds=2 if quick else 5)
    finally:
        shutil.rmtree(artifact)
    entry = {
        "case": asdict(case),
        "predicted_seconds": predicted.seconds_per_batch,
        "measured_seconds": measured["seconds"],
        "ratio": measured["seconds"] / predicted.seconds_per_batch,
        "predicted_pages": predicted.pages_per_batch,
        "predicted": {
            name: getattr(predicted, name)
            for name in ("lookup_seconds", "dense_seconds", "ssd_seconds", "traffic_seconds", "tt_share")
        },
        **measured,
    }
    console.print(
        f"{case.name}: predicted {1e3 * entry['predicted_seconds']:.3f} ms a batch, "
        f"measured {1e3 * entry['measured_seconds']:.3f} ({entry['ratio']:.2f}x)"
    )
    return entry


def serve(case: Case, model: Model, artifact: Path, *, rounds: int) -> dict[str, Any]:
    """Seconds per batch of a stream of batches that have not come before, and pages read."""
    workload, size = model.workload, model.batch_size
    engine = Engine.open(artifact)
    if case.precision != "fp32":
        sample = workload.batch(np.random.default_rng(SEED + 1), 2048, "zipf")
        ranges = calibrate(engine, [sample]) if case.precision == "int8" else {}
        engine = engine.with_arithmetic(arithmetic_of(engine, case.precision, ranges))
    generator = np.random.default_rng(SEED + 2)
    count = max(4, 2**19 // (size * workload.lookups))
    seconds = []
    for number in range(rounds + 1):
        batches = [workload.batch(generator, size, "zipf") for _ in range(count)]
        before, begun = engine.stats(), time.perf_counter()
        for _ in engine.predict_stream(batches):
            pass
        if number:  # the first warms up
            seconds.append((time.perf_counter() - begun) / count)
    after = engine.stats()
    median = statistics.median(seconds)
    return {
        "seconds": median,
        "rounds_seconds": seconds,
        "spread": (max(seconds) - min(seconds)) / median,
        "samples_per_s": size / median,
        "pages": (after.pages_read - before.pages_read) / count,
        "io_backend": after.io_backend,
        "direct_io": after.direct_io,
    }


def report(console: Console, results: dict[str, dict[str, Any]], system: SystemSpec) -> dict[str, object]:
    """Prints every plan with its error, and the mean; returns the report's parts."""
    view = Table(
        "plan",
        "predicted, samples/s",
        "measured",
        "measured time / predicted",
        "spread",
        "pages",
        "predicted",
    )
    errors = {}
    for name, entry in results.items():
        errors[name] = abs(math.log(entry["ratio"]))
        size = entry["samples_per_s"] * entry["measured_seconds"]
        view.add_row(
            name,
            f"{size / entry['predicted_seconds']:,.0f}",
            f"{entry['samples_per_s']:,.0f}",
            f"{entry['ratio']:.2f}",
            f"{entry['spread']:.0%}",
            f"{entry['pages']:,.0f}",
            f"{entry['predicted_pages']:,.0f}",
        )
    console.print(view)
    mean = math.exp(statistics.mean(errors.values())) - 1
    worst = max(errors, key=errors.__getitem__)
    console.print(
        f"geometric mean error {mean:.1%} over {len(errors)} plans, "
        f"worst {math.exp(errors[worst]) - 1:.1%} ({worst})"
    )
    return {
        "results": results,
        "ratios": {f"predicted.{name}": round(entry["ratio"], 3) for name, entry in results.items()},
        "predicted.geometric_mean_error": mean,
        "predicted.worst_error": math.exp(errors[worst]) - 1,
        "system": system.to_dict(),
    }

"""Job ``kaggle``: the Criteo-Kaggle DLRM, all rows in DRAM, against PyTorch and fbgemm at their best settings.

26 tables with the Kaggle row counts (33.8 M rows x 16), bottom 13-512-256-64-16, top 512-256-1, random
weights, Zipf(1.05) and uniform ids, B = 1 to 4096, all cores. First a model of this shape is trained, to see
which of our row formats and MLP precisions keep its AUC; ratios are of the fastest of those. Peers count
whatever their accuracy. Then B = 16 requests of four clients at half the peak load.
"""

from __future__ import annotations

import os
import statistics

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import AUC_LIMIT, accuracy_of_forms
from benchmarks.comparison import (
    Arm,
    Point,
    check,
    check_batches,
    limit_entry,
    oracle,
    print_limits,
    print_times,
    stand,
    time_points,
    timing_entry,
    wide_console,
)
from benchmarks.limits import measure_limits
from benchmarks.load import open_loop, peak_rate
from benchmarks.ours import Form, build_engines
from benchmarks.torch_arms import TorchArms
from benchmarks.workload import SKEWS, ZIPF_EXPONENT, RandomTables, Workload, dense_tensors, kaggle
from screc.data import CRITEO_KAGGLE_ROWS
from screc.serving import Engine

BATCH_SIZES = (1, 16, 128, 1024, 4096)
FORMS = tuple(Form(rows, mlps) for rows in ("fp32", "int8") for mlps in ("fp32", "bf16", "int8"))
CLIENTS, REQUEST_SIZE = 4, 16
_FAMILIES = ("eager_fp32", "eager_bf16", "tbe", "best_peer")


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    accuracy = accuracy_of_forms(FORMS, quick=quick)
    print_accuracy(console, accuracy)
    eligible = [form for form in FORMS if accuracy["forms"].get(form.name, {}).get("within_limit") or quick]

    workload = kaggle([max(1, count // 100) if quick else count for count in CRITEO_KAGGLE_ROWS])
    dim = workload.embedding_dim
    limits = measure_limits(threads, tuple(sorted({form.row_bytes(dim) for form in FORMS})), quick=quick)
    console.print(
        f"kaggle: {sum(workload.rows):,} rows x {dim}, {workload.row_bytes / 1e9:.2f} GB fp32, "
        f"{workload.flops / 1e6:.2f} MFLOP a sample, {threads} threads"
    )
    console.print(limits.describe() if limits else "no C compiler (cc): no limits")

    generator = np.random.default_rng(1)
    tables = list(RandomTables(workload.rows, dim))
    bottom, top = workload.layers(generator)
    engines = build_engines(
        FORMS,
        workload.model,
        dense_tensors(bottom, top),
        tables,
        calibration=workload.batch(generator, 16_384, "zipf"),
        threads=threads,
    )
    peers = TorchArms(workload, tables, bottom, top, console)
    arms = [
        *(our_arm(form, engine) for form, engine in engines.items()),
        *peers.eager_fp32(),
        *peers.eager_bf16(),
        *peers.eager_autocast(),
        *peers.tbe("fp32"),
        *peers.tbe("int8"),
        *peers.tbe("int4"),
        *peers.bags(8),
        *peers.bags(4),
        *([] if quick else peers.compiled()),
    ]
    batches = check_batches(workload)
    errors = check(arms, batches, oracle(workload, tables, bottom, top, batches))

    points = [Point(skew, size) for skew in SKEWS for size in BATCH_SIZES]
    timings = time_points(
        workload, arms, points, rounds=3 if quick else 9, seconds_per_round=0.05 if quick else 0.4
    )
    print_times(console, "kaggle", timings)
    results: dict[str, object] = {}
    ratios: dict[str, float] = {}
    fractions: dict[Point, dict] = {}
    view = Table("ids", "B", "ours", *(f"vs {family}" for family in _FAMILIES), "best peer")
    for point, timing in timings.items():
        key, standing = point.key("kaggle"), stand(arms, timing, eligible)
        results[key] = {name: timing_entry(value, point.size) for name, value in timing.items()}
        results[key] |= {"ours": standing.ours, "best_peer": standing.best_peer}
        ratios |= {f"{key}.vs_{family}": round(value, 3) for family, value in standing.ratios.items()}
        cells = [f"{standing.ratios[f]:.2f}x" if f in standing.ratios else "-" for f in _FAMILIES]
        view.add_row(point.skew, str(point.size), standing.ours, *cells, standing.best_peer)
        if limits:
            fractions[point] = {
                form.name: limit_entry(limits, workload, point, form, point.size / timing[form.name].median)
                for form in engines
            }
            results[key]["limits"] = fractions[point]
    console.print(view)
    print_limits(console, fractions)

    fastest = stand(arms, timings[Point("zipf", REQUEST_SIZE)], eligible).ours
    engine = next(engine for form, engine in engines.items() if form.name == fastest)
    results["kaggle.b16_half_load"] = half_load(engine, workload, quick=quick) | {"ours": fastest}
    load = results["kaggle.b16_half_load"]
    ratios["kaggle.b16_half_load.p99_over_p50"] = round(load["p99_ms"] / load["p50_ms"], 3)
    console.print(
        f"{CLIENTS} clients, B = {REQUEST_SIZE}, {fastest}: {load['peak_requests_per_s']:,.0f} requests/s at most; "
        f"at half of that p50 {load['p50_ms']:.3f} ms, p99 {load['p99_ms']:.3f} ms, "
        f"p99/p50 {ratios['kaggle.b16_half_load.p99_over_p50']:.2f} (goal: at most 3)"
    )
    return {
        "settings": {
            "rows": sum(workload.rows),
            "embedding_dim": dim,
            "threads": threads,
            "torch": torch.__version__,
            "zipf_exponent": ZIPF_EXPONENT,
            "flops_per_sample": workload.flops,
            "auc_limit": AUC_LIMIT,
            "eligible": [form.name for form in eligible],
        },
        "accuracy": accuracy,
        "limits": limits.as_dict() if limits else None,
        "relative_errors": errors,
        "absent": peers.absent,
        "results": results,
        "ratios": ratios,
    }


def our_arm(form: Form, engine: Engine) -> Arm:
    """The engine as an arm; it takes batches as they are."""
    return Arm(
        name=form.name,
        inputs=_as_it_is,
        predict=engine.predict,
        row_format=form.row_format,
        precision=form.precision,
        form=form,
    )


def _as_it_is(batch: object) -> object:
    return batch


def half_load(engine: Engine, workload: Workload, *, quick: bool) -> dict[str, float]:
    """Median and 99th percentile of requests at half the rate that the clients reach without waiting.

    Medians over rounds, each of which measures the peak anew.
    """
    batches = workload.batches(np.random.default_rng(3), REQUEST_SIZE, "zipf")
    rounds, seconds = (3, 0.3) if quick else (7, 3.0)
    rows = []
    for number in range(rounds):
        peak = peak_rate(engine.predict, batches, clients=CLIENTS, seconds=seconds / 3)
        latencies = open_loop(
            engine.predict, batches, rate=peak / 2, clients=CLIENTS, seconds=seconds, seed=number
        )
        rows.append((peak, *(1e3 * np.quantile(latencies, (0.5, 0.99, 0.999)))))
    names = ("peak_requests_per_s", "p50_ms", "p99_ms", "p999_ms")
    return {
        name: statistics.median(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


def print_accuracy(console: Console, accuracy: dict) -> None:
    """AUC of each form beside fp32's."""
    title = (
        f"AUC of a trained model ({accuracy['training_rows']:,} samples; {accuracy['test_rows']:,} held out, "
        f"{accuracy['seconds']:.0f} s)"
    )
    view = Table("rows, MLPs", "AUC", "AUC loss", f"within {AUC_LIMIT:.0e}", title=title)
    for name, entry in accuracy["forms"].items():
        view.add_row(
            name, f"{entry['auc']:.5f}", f"{entry['auc_loss']:+.6f}", "yes" if entry["within_limit"] else "no"
        )
    console.print(view)

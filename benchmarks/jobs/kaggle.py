"""Job ``kaggle``: the Criteo-Kaggle DLRM, all rows in DRAM, against PyTorch and fbgemm at their best.

26 tables with the Kaggle row counts (33.8 M rows x 16), bottom 13-512-256-64-16, top 512-256-1, random
weights, Zipf(1.05) and uniform ids, B = 1 to 4096, all cores. First a model of this shape is trained, to see
which of our row formats and MLP precisions keep its AUC; ratios are of the fastest of those. Peers count
whatever their accuracy. Then B = 16 requests of four clients at half the peak load, beside what
the pauses of the cores allow.
"""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.accuracy import AUC_LIMIT, accuracy_of_forms
from benchmarks.comparison import (
    Point,
    check,
    check_batches,
    oracle,
    our_arm,
    print_limits,
    print_standings,
    print_times,
    ratios_of,
    results_of,
    stand,
    time_points,
    wide_console,
)
from benchmarks.limits import measure_limits
from benchmarks.load import open_loop, peak_rate
from benchmarks.ours import Form, build_engines
from benchmarks.pauses import allowed_latencies, available_cores, record_pauses
from benchmarks.torch_arms import TorchArms
from benchmarks.workload import SKEWS, ZIPF_EXPONENT, RandomTables, Workload, dense_tensors, kaggle
from screc.data import CRITEO_KAGGLE_ROWS
from screc.serving import Engine

BATCH_SIZES = (1, 16, 128, 1024, 4096)
FORMS = tuple(Form(rows, mlps) for rows in ("fp32", "int8") for mlps in ("fp32", "bf16", "int8"))
CLIENTS, REQUEST_SIZE = 4, 16


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    accuracy = accuracy_of_forms(FORMS, quick=quick)
    print_accuracy(console, accuracy)
    eligible = [form for form in FORMS if quick or accuracy["forms"][form.name]["within_limit"]]

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

    points = [Point(skew, size) for skew in SKEWS for size in (BATCH_SIZES[:3] if quick else BATCH_SIZES)]
    timings = time_points(
        workload, arms, points, rounds=2 if quick else 7, seconds_per_round=0.02 if quick else 0.25
    )
    standings = {point: stand(arms, timing, eligible) for point, timing in timings.items()}
    results: dict[str, object] = results_of("kaggle", workload, arms, timings, limits)
    print_times(console, "kaggle", timings)
    print_limits(console, results)
    print_standings(console, standings, ("eager_fp32", "eager_bf16", "tbe", "best_peer"))

    fastest = standings[Point("zipf", REQUEST_SIZE)].ours
    engine = next(engine for form, engine in engines.items() if form.name == fastest)
    load = half_load(engine, workload, quick=quick)
    tail = load["p99_ms"] / load["p50_ms"]
    console.print(
        f"{CLIENTS} clients, B = {REQUEST_SIZE}, {fastest}: at most "
        f"{load['peak_requests_per_s']:,.0f} requests/s; "
        f"at half of that p50 {load['p50_ms']:.3f} ms, p99 {load['p99_ms']:.3f} ms, p99/p50 {tail:.2f}, "
        f"in flight {load['in_flight_mean']:.1f}, p99 {load['in_flight_p99']:.0f}"
    )
    if "allowed_p99_over_p50" in load:
        console.print(
            f"The cores are away for {load['pauses_share']:.1%} of the time, for more than 0.2 ms at once "
            f"{load['long_pauses_share']:.2%}: p99/p50 of requests that never wait for anything else "
            f"{load['allowed_p99_over_p50']:.2f}"
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
        "results": results | {"kaggle.b16_half_load": load | {"ours": fastest}},
        "standings": {point.key("kaggle"): asdict(standing) for point, standing in standings.items()},
        "ratios": ratios_of("kaggle", standings)
        | {
            "kaggle.b16_half_load.p50_ms": round(load["p50_ms"], 4),
            "kaggle.b16_half_load.p99_ms": round(load["p99_ms"], 4),
            "kaggle.b16_half_load.p99_over_p50": round(tail, 3),
            **(
                {"kaggle.b16_half_load.allowed_p99_over_p50": round(load["allowed_p99_over_p50"], 3)}
                if "allowed_p99_over_p50" in load
                else {}
            ),
        },
    }


def half_load(engine: Engine, workload: Workload, *, quick: bool) -> dict[str, float]:
    """Median and 99th percentile of requests at half the rate that the clients reach without waiting.

    Medians over rounds, each of which measures the peak anew. The clients are native threads
    (``Engine.replay``): with Python's, the tail would be that of the interpreter's lock. Beside them, what
    the pauses of the cores in the same round leave possible.
    """
    batches = workload.batches(np.random.default_rng(3), REQUEST_SIZE, "zipf")
    rounds, seconds = (3, 0.3) if quick else (7, 3.0)
    cores = available_cores()
    rows = []
    for number in range(rounds):
        peak = peak_rate(engine, batches, clients=CLIENTS, seconds=seconds / 3)
        load = open_loop(engine, batches, rate=peak / 2, clients=CLIENTS, seconds=seconds, seed=number)
        in_flight = load.in_flight()
        rows.append(
            {
                **allowed(load.arrivals, len(cores) / peak, cores, seconds),
                "peak_requests_per_s": peak,
                **{
                    f"{name}_ms": 1e3 * np.quantile(load.latencies, quantile)
                    for name, quantile in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999))
                },
                "in_flight_mean": in_flight.mean(),
                "in_flight_p99": np.quantile(in_flight, 0.99),
            }
        )
    return {name: float(statistics.median(row[name] for row in rows)) for name in rows[0]}


def allowed(arrivals: np.ndarray, service: float, cores: list[int], seconds: float) -> dict[str, float]:
    """The tail that the cores' pauses leave possible; nothing where they cannot be watched.

    Args:
        arrivals: of the requests.
        service: seconds of a core that each takes, its share of the pauses included.
        cores: that serve.
        seconds: how long to watch them.
    """
    pauses = record_pauses(cores, seconds)
    if pauses is None:
        return {}
    away = sum(core.share() for core in pauses) / len(pauses)
    latencies = allowed_latencies(arrivals, service * (1 - away), pauses)
    return {
        "pauses_share": away,
        "long_pauses_share": sum(core.share(2e-4) for core in pauses) / len(pauses),
        "allowed_p99_over_p50": float(np.quantile(latencies, 0.99) / np.median(latencies)),
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

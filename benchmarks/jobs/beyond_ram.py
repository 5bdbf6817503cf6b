"""Job ``beyond_ram``: a model of 17 GB of fp32 rows in a tenth of its memory, against all of it in DRAM.

The Criteo-Kaggle DLRM with its large tables eight times as long (270 M rows x 16), Zipf(1.05) ids, B = 1024.
Access counts of a billion samples are drawn, one plan is made for a tenth of the rows' bytes and one for a
fiftieth, the model is packed by each, and the engine serves them with reads from SSD. Beside it in the same
rounds: the same engine with every fp32 row in DRAM, a mapped file with PyTorch, LMDB and RocksDB. Whatever
keeps rows on disk runs in a process whose memory, page cache included, is limited to the budget and what a
Python process with its libraries needs. No batch comes twice: nothing is cached that would not be in service.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.comparison import check_batches, oracle, wide_console
from benchmarks.limits import Limits, measure_limits
from benchmarks.memory_limit import Worker
from benchmarks.served_arms import (
    engine_arm,
    fresh_batches,
    relative_error,
    time_in_turn,
    with_int8_layers,
)
from benchmarks.workload import ZIPF_EXPONENT, RandomTables, Workload, dense_tensors, kaggle
from screc.data import CRITEO_KAGGLE_ROWS
from screc.planning import Plan, SystemSpec, make_plan, probe
from screc.serving import Engine
from screc.storage import Artifact, StoredTable, TableLayout, pack, write_checkpoint

BATCH_SIZE = 1024
HISTORY_SAMPLES = 10**9
# Of all packed rows: 4 bits a value and one scale for each band, 8 bytes a row.
ROW_FORMAT, ROW_SCALE = "int4", "table"
FRACTIONS = (0.10, 0.02)
# What a process needs besides rows: the interpreter, NumPy, torch, working memory.
PROCESS_BYTES = 700 << 20
SEED = 11
_BOUNDS = ("operations_limit_samples_per_s", "reads_limit_samples_per_s")


def scaled_rows(*, quick: bool) -> tuple[int, ...]:
    """The Kaggle cardinalities, those above a thousand eight times as large."""
    if quick:
        return tuple(max(1, count // 100) for count in CRITEO_KAGGLE_ROWS)
    return tuple(8 * count if count > 1000 else count for count in CRITEO_KAGGLE_ROWS)


def prepare(directory: Path, workload: Workload, samples: int) -> None:
    """Packs the model for each fraction of DRAM into ``directory``; the checkpoint is removed afterwards."""
    directory.mkdir()
    layers = workload.layers(np.random.default_rng(SEED))
    tables = RandomTables(workload.rows, workload.embedding_dim)
    layouts = [
        TableLayout.dense(f"t{number}", rows, workload.embedding_dim)
        for number, rows in enumerate(workload.rows)
    ]
    checkpoint = directory / "checkpoint"
    write_checkpoint(
        checkpoint,
        model=workload.model,
        tables=[StoredTable(layout=layout, pooling="sum") for layout in layouts],
        dense=dense_tensors(*layers),
        table_tensors=lambda number: {"band.0.rows": tables[number]},
        training={},
    )
    counted = workload.access_statistics(samples, np.random.default_rng(SEED))
    system = probe(directory, seconds=5.0)
    for fraction in FRACTIONS:
        plan = make_plan(
            counted,
            workload.embedding_dim,
            system,
            dram_fraction=fraction,
            batch_size=BATCH_SIZE,
            row_formats=ROW_FORMAT,
            row_scale=ROW_SCALE,
            tt=False,
            dense_flops=workload.flops,
        )
        pack(checkpoint, counted, plan, directory / _artifact_name(fraction))
    shutil.rmtree(checkpoint)


def _artifact_name(fraction: float) -> str:
    return f"artifact-{round(100 * fraction)}"


# ----------------------------------------------------------------------------------------------------------
# arms: each is made in a process of its own and answers calls of `run(number, count)`


def _engine_arm(engine: Engine, workload: Workload) -> Callable[..., Any]:
    engine = with_int8_layers(engine, workload, seed=SEED + 1)
    return engine_arm(engine, workload, BATCH_SIZE, seed=SEED)


def make_all_dram(workload: Workload) -> Callable[..., Any]:
    """Every row as fp32 in DRAM."""
    layers = workload.layers(np.random.default_rng(SEED))
    tables = list(RandomTables(workload.rows, workload.embedding_dim))
    engine = Engine.from_arrays(workload.model, dense_tensors(*layers), tables)
    return _engine_arm(engine, workload)


def make_packed(workload: Workload, artifact: Path) -> Callable[..., Any]:
    """An artifact."""
    return _engine_arm(Engine.open(artifact), workload)


def _torch_arm(model: Any, workload: Workload) -> Callable[..., Any]:
    def run(what: str, number: int = 0, count: int = 0) -> Any:
        if what == "check":
            return [np.asarray(model.predict(model.inputs(batch))) for batch in check_batches(workload)]
        inputs = [
            model.inputs(batch) for batch in fresh_batches(workload, BATCH_SIZE, number, count, seed=SEED)
        ]
        begin = time.perf_counter()
        for one in inputs:
            model.predict(one)
        return (time.perf_counter() - begin) / count

    return run


def make_mmap(workload: Workload, directory: Path) -> Callable[..., Any]:
    """A mapped file with PyTorch."""
    from benchmarks.peers.memmap_rows import MemmapDlrm

    layers = workload.layers(np.random.default_rng(SEED))
    return _torch_arm(MemmapDlrm(directory, workload.rows, workload.embedding_dim, *layers), workload)


def make_lmdb(workload: Workload, directory: Path) -> Callable[..., Any]:
    """LMDB with PyTorch."""
    from benchmarks.peers.lmdb_rows import LmdbDlrm

    layers = workload.layers(np.random.default_rng(SEED))
    threads = len(os.sched_getaffinity(0))
    model = LmdbDlrm(directory, workload.embedding_dim, len(workload.rows), *layers, threads=threads)
    return _torch_arm(model, workload)


def make_rocksdb(workload: Workload, directory: Path, cache_bytes: int) -> Callable[..., Any]:
    """RocksDB with PyTorch."""
    from benchmarks.peers.rocksdb_rows import RocksdbDlrm

    layers = workload.layers(np.random.default_rng(SEED))
    model = RocksdbDlrm(
        directory,
        workload.embedding_dim,
        len(workload.rows),
        *layers,
        threads=len(os.sched_getaffinity(0)),
        cache_bytes=cache_bytes,
    )
    return _torch_arm(model, workload)


# ----------------------------------------------------------------------------------------------------------
# the job


def _built(directory: Path, build: Callable[[Path], None], console: Console) -> Path:
    """``directory``, built unless an earlier run of the job left it whole.

    In a process of its own: what building leaves behind would be missing where all rows are kept in DRAM.
    """
    if not directory.exists():
        begin = time.perf_counter()
        part = directory.with_name(f"{directory.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        builder = multiprocessing.get_context("spawn").Process(target=build, args=(part,))
        builder.start()
        builder.join()
        if builder.exitcode != 0:
            raise RuntimeError(f"{directory.name}: its builder ended with code {builder.exitcode}")
        part.rename(directory)
        console.print(f"  {directory.name}: built in {time.perf_counter() - begin:.0f} s")
    return directory


def build_peer(directory: Path, name: str, workload: Workload) -> None:
    """Writes a peer's rows."""
    tables = RandomTables(workload.rows, workload.embedding_dim)
    if name == "mmap":
        from benchmarks.peers.memmap_rows import MemmapDlrm

        MemmapDlrm.build(directory, tables)
    elif name == "lmdb":
        from benchmarks.peers.lmdb_rows import LmdbDlrm

        LmdbDlrm.build(directory, tables, max_bytes=max(1 << 30, 110 * sum(workload.rows)))
    else:
        from benchmarks.peers.rocksdb_rows import RocksdbDlrm

        RocksdbDlrm.build(directory, tables)


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    workload = kaggle(scaled_rows(quick=quick))
    budget = int(FRACTIONS[0] * workload.row_bytes)
    limit = budget + PROCESS_BYTES
    console.print(
        f"beyond_ram: {sum(workload.rows):,} rows x {workload.embedding_dim}, "
        f"{workload.row_bytes / 1e9:.1f} GB fp32; budget {budget / 1e9:.2f} GB; rows as {ROW_FORMAT}, "
        f"MLPs int8, B = {BATCH_SIZE}"
    )
    # What is built is kept for the next run: delete run/beyond-ram when done.
    root = Path("run") / ("beyond-ram-quick" if quick else "beyond-ram")
    root.mkdir(parents=True, exist_ok=True)
    samples = HISTORY_SAMPLES // 100 if quick else HISTORY_SAMPLES

    packed = _built(root / "packed", partial(prepare, workload=workload, samples=samples), console)
    artifacts = {f"screc_{round(100 * f)}": packed / _artifact_name(f) for f in FRACTIONS}
    systems = [describe_plan(console, name, artifact) for name, artifact in artifacts.items()]
    limits = measure_limits(len(os.sched_getaffinity(0)), (64,), quick=quick)
    console.print(limits.describe() if limits else "no C compiler (cc): no limits")
    batches = check_batches(workload)
    layers = workload.layers(np.random.default_rng(SEED))
    answers = oracle(workload, RandomTables(workload.rows, workload.embedding_dim), *layers, batches)

    arms: dict[str, tuple[Callable[..., Any], dict[str, Any], int | None]] = {
        "all_dram": (make_all_dram, {}, None),
        **{name: (make_packed, {"artifact": artifact}, limit) for name, artifact in artifacts.items()},
    }
    for name, make, extra in (
        ("mmap", make_mmap, {}),
        ("lmdb", make_lmdb, {}),
        ("rocksdb", make_rocksdb, {"cache_bytes": budget}),
    ):
        directory = _built(root / name, partial(build_peer, name=name, workload=workload), console)
        arms[name] = (make, {"directory": directory, **extra}, limit)

    workers: dict[str, Worker] = {}
    try:
        for name, (make, arguments, bytes_limit) in arms.items():
            workers[name] = Worker(name, make, {"workload": workload, **arguments}, limit_bytes=bytes_limit)
            check_answers(name, workers[name].call("check"), answers)
            console.print(f"  {name}: ready")
        ours = [name for name in workers if name.startswith("screc") or name == "all_dram"]
        times, stats = time_in_turn(
            workers, BATCH_SIZE, ours, rounds=3 if quick else 7, seconds=0.5 if quick else 3.0
        )
        peaks = {name: worker.peak_bytes for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()
    bounds = bounds_of(workload, limits, systems[0], stats)
    return report(console, workload, times, stats, peaks, bounds, budget, limit)


def check_answers(name: str, got: Iterable[np.ndarray], answers: Iterable[np.ndarray]) -> None:
    """Refuses an arm whose answers are not the model's; int8 layers over int4 rows may be off by as much as
    the other jobs allow them."""
    allowed = 0.5 if name.startswith("screc") else 0.25 if name == "all_dram" else 2e-5
    for answer, right in zip(got, answers, strict=True):
        error = relative_error(answer, right)
        if not error <= allowed:
            raise RuntimeError(f"{name}: predictions differ by {error:.2e}, allowed {allowed:.2e}")


def describe_plan(console: Console, name: str, artifact: Path) -> SystemSpec:
    """Prints where the rows went; returns what the host was found to do when it was planned."""
    opened = Artifact.open(artifact)
    assert opened.plan is not None
    plan = Plan.model_validate(opened.plan)
    predicted = plan.predicted
    console.print(
        f"  {name}: DRAM {predicted.dram_bytes / 1e9:.2f} GB, SSD {predicted.ssd_bytes / 1e9:.2f} GB, "
        f"{predicted.pages_per_batch:.0f} pages a batch expected"
    )
    return plan.system


def bounds_of(
    workload: Workload, limits: Limits | None, system: SystemSpec, stats: dict[str, dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """What each of our arms cannot pass, in samples/s: the MLPs' operations at the peak rate of int8, and the
    pages it read at the rate of reads that the probe reached."""
    reads = max(rate.pages_per_second for rate in system.ssd.reads) if system.ssd else 0.0
    bounds: dict[str, dict[str, float]] = {}
    for name, entry in stats.items():
        bounds[name] = {}
        if limits is not None:
            seconds = limits.seconds_per_sample(workload, "zipf", 64, "int8")[1]
            bounds[name]["operations_limit_samples_per_s"] = 1 / seconds
        if entry["pages_read_per_sample"]:
            bounds[name]["reads_limit_samples_per_s"] = reads / entry["pages_read_per_sample"]
    return bounds


def report(
    console: Console,
    workload: Workload,
    times: dict[str, list[float]],
    stats: dict[str, dict[str, Any]],
    peaks: dict[str, int | None],
    bounds: dict[str, dict[str, float]],
    budget: int,
    limit: int,
) -> dict[str, object]:
    """Prints the table and the ratios; returns the report's parts."""
    seconds = {name: statistics.median(rounds) for name, rounds in times.items()}
    ours = f"screc_{round(100 * FRACTIONS[0])}"
    ratios = {
        f"beyond_ram.vs_{name}": round(seconds[name] / seconds[ours], 3) for name in seconds if name != ours
    }
    view = Table(
        *("arm", "ms a batch", "samples/s", f"time / {ours}", "spread", "pages read a sample"),
        *("operations limit", "reads limit", "achieved"),
    )
    for name, median in seconds.items():
        pages, bound = stats.get(name, {}).get("pages_read_per_sample"), bounds.get(name, {})
        view.add_row(
            *(name, f"{median * 1e3:.2f}", f"{BATCH_SIZE / median:,.0f}", f"{median / seconds[ours]:.2f}"),
            f"{(max(times[name]) - min(times[name])) / median:.0%}",
            "-" if pages is None else f"{pages:.4f}",
            *(f"{bound[key]:,.0f}" if key in bound else "-" for key in _BOUNDS),
            f"{BATCH_SIZE / median / min(bound.values()):.0%}" if bound else "-",
        )
    console.print(view)
    return {
        "settings": {
            "rows": sum(workload.rows),
            "row_bytes": workload.row_bytes,
            "batch_size": BATCH_SIZE,
            "row_format": ROW_FORMAT,
            "row_scale": ROW_SCALE,
            "budget_bytes": budget,
            "memory_limit_bytes": limit,
            "history_samples": HISTORY_SAMPLES,
            "zipf_exponent": ZIPF_EXPONENT,
        },
        "results": {
            name: {
                "median_ms": seconds[name] * 1e3,
                "rounds_ms": [1e3 * one for one in times[name]],
                "samples_per_s": BATCH_SIZE / seconds[name],
                "peak_bytes": peaks[name],
                "stats": stats.get(name),
            }
            | bounds.get(name, {})
            for name in times
        },
        "ratios": ratios,
    }

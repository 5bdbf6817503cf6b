"""Job ``updates``: what updates cost, and what look-ups pay for them.

Durable updates of rows of 64 bytes, one and a hundred at a time, from one thread and from sixteen, against
LMDB and RocksDB (one write transaction or batch an update, synced before it returns) and against what the
drive allows: appending as many bytes to a file and ``fdatasync``. All go to the same file system.

Look-ups of random rows in DRAM, tensor trains and on SSD: with no updated row held, with a hundred, and with
a twentieth of the table. Compaction: seconds for updates of one row in ten of each table.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.interleave import measure
from screc import _native
from screc.storage import (
    Band,
    RowStore,
    StoredTable,
    TableLayout,
    TtShape,
    UpdateOptions,
    pack,
    write_checkpoint,
)

DIM = 16
THREADS = 16
LOOKUPS = 8192
MEMORIES = ("dram", "tt", "ssd")
Update = Callable[[np.ndarray, np.ndarray], object]


def build(folder: Path, rows: int) -> Path:
    """An artifact with a table of ``rows`` rows in each memory."""
    rng = np.random.default_rng(0)
    shape = TtShape.balanced(rows, DIM, 8)
    bands = {
        "dram": Band(start=0, stop=rows, format="fp32", memory="dram"),
        "tt": Band(start=0, stop=rows, format="tt", memory="dram", tt=shape),
        "ssd": Band(start=0, stop=rows, format="fp32", memory="ssd"),
    }
    layouts = [
        TableLayout(table=name, num_embeddings=rows, embedding_dim=DIM, bands=(bands[name],))
        for name in MEMORIES
    ]
    cores = {
        f"band.0.tt.{k}": rng.standard_normal(shape.core_shape(k)).astype(np.float32)
        for k in range(shape.num_cores)
    }
    whole = {"band.0.rows": rng.standard_normal((rows, DIM)).astype(np.float32)}
    write_checkpoint(
        folder / "model",
        model={"name": "dlrm"},
        tables=[StoredTable(layout, "sum") for layout in layouts],
        dense={"top.0.bias": np.zeros(1, np.float32)},
        table_tensors=lambda t: cores if MEMORIES[t] == "tt" else whole,
        training={},
    )
    return pack(folder / "model", None, None, folder / "artifact").path


# ------------------------------------------------------------------------------------------------ updates


def append_and_sync(folder: Path) -> Update:
    """What the drive allows: as many bytes behind each other, one sync an update."""
    descriptor, lock, end = os.open(folder / "appended", os.O_RDWR | os.O_CREAT), threading.Lock(), [0]

    def update(ids: np.ndarray, rows: np.ndarray) -> None:
        data = bytes(56) + ids.tobytes() + rows.tobytes()
        with lock:
            os.pwrite(descriptor, data, end[0])
            end[0] += len(data)
            os.fdatasync(descriptor)

    return update


def lmdb_update(folder: Path) -> Update:
    """One write transaction an update, synced."""
    import lmdb

    environment = lmdb.open(str(folder / "lmdb"), map_size=8 << 30, writemap=False)

    def update(ids: np.ndarray, rows: np.ndarray) -> None:
        pairs = zip(map(int.__index__, ids.tolist()), rows, strict=True)
        with environment.begin(write=True) as transaction:
            transaction.cursor().putmulti((key.to_bytes(8, "big"), row.tobytes()) for key, row in pairs)

    return update


def rocksdb_update(folder: Path) -> Update:
    """One write batch an update, its log synced."""
    import rocksdict

    database = rocksdict.Rdict(str(folder / "rocksdb"), rocksdict.Options(raw_mode=True))
    options = rocksdict.WriteOptions()
    options.sync = True

    def update(ids: np.ndarray, rows: np.ndarray) -> None:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, row in zip(ids.tolist(), rows, strict=True):
            batch.put(key.to_bytes(8, "big"), row.tobytes())
        database.write(batch, options)

    return update


def updates_per_s(update: Update, rows: int, size: int, threads: int, seconds: float) -> float:
    """Updates of ``size`` random rows a second by so many threads."""
    stop, done = time.perf_counter() + seconds, [0] * threads
    values = np.ones((size, DIM), np.float32)

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        while time.perf_counter() < stop:
            update(rng.integers(0, rows, size), values)
            done[number] += 1

    began = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - began)


def measure_updates(
    folder: Path, artifact: Path, rows: int, seconds: float, rounds: int, console: Console
) -> dict[str, dict[str, float]]:
    """Updates a second by kind of update and arm, medians."""
    options = UpdateOptions(memory_bytes=4 << 30, log_bytes=64 << 30, compact=False)
    rates: dict[str, dict[str, list[float]]] = {}
    with RowStore.open(artifact, updates=options) as store:
        arms: dict[str, Update] = {
            name: lambda ids, values, name=name: store.update(name, ids, values) for name in MEMORIES
        }
        arms["append and sync"] = append_and_sync(folder)
        for name, make in (("lmdb", lmdb_update), ("rocksdb", rocksdb_update)):
            try:
                arms[name] = make(folder)
            except ImportError:
                console.print(f"{name} is not installed: pip install screc[bench]")
        for number in range(rounds):
            for size, threads in ((1, 1), (100, 1), (1, THREADS), (100, THREADS)):
                kind = f"{size} row{'s' if size > 1 else ''}, {threads} thread{'s' if threads > 1 else ''}"
                for name in list(arms)[number % len(arms) :] + list(arms)[: number % len(arms)]:
                    rate = updates_per_s(arms[name], rows, size, threads, seconds)
                    rates.setdefault(kind, {}).setdefault(name, []).append(rate)
            console.print(f"  round {number + 1}/{rounds}")
    return {kind: {name: median(some) for name, some in by.items()} for kind, by in rates.items()}


# ----------------------------------------------------------------------------------------------- look-ups


def held(artifact: Path, rows: int, count: int) -> _native.RowStore:
    """A store of which ``count`` rows of each table have been updated, in memory only."""
    native = RowStore.open(artifact, threads=1).native
    rng = np.random.default_rng(1)
    for table in range(len(MEMORIES)):
        for start in range(0, count, 10_000):
            ids = rng.integers(0, rows, min(count - start, 10_000))
            values = np.ones((len(ids), DIM), np.float32)
            native.apply_update(native.prepare_update(table, ids, values))
    return native


def lookup_arms(artifact: Path, rows: int) -> dict[str, Callable[[], object]]:
    """Look-ups of random rows by memory and by how many rows are held."""
    rng, out = np.random.default_rng(2), np.empty((LOOKUPS, DIM), np.float32)
    batches = [rng.integers(0, rows, LOOKUPS) for _ in range(64)]
    arms: dict[str, Callable[[], object]] = {}
    for name, count in (("none", 0), ("hundred", 100), ("twentieth", rows // 20)):
        store = held(artifact, rows, count)
        for table, memory in enumerate(MEMORIES):
            turn = [0]

            def call(store: _native.RowStore = store, table: int = table, turn: list[int] = turn) -> None:
                turn[0] += 1
                store.gather(table, batches[turn[0] % len(batches)], out)

            arms[f"{memory}, {name}"] = call
    return arms


# ----------------------------------------------------------------------------------------------------- run


def compaction(artifact: Path, rows: int) -> tuple[float, int]:
    """Seconds and bytes of the compaction of one row in ten of each table."""
    ids = np.random.default_rng(3).permutation(rows)[: rows // 10]
    with RowStore.open(artifact, updates=UpdateOptions(memory_bytes=4 << 30, compact=False)) as store:
        for name in MEMORIES:
            for start in range(0, len(ids), 10_000):
                some = ids[start : start + 10_000]
                store.update(name, some, np.ones((len(some), DIM), np.float32))
        store.compact()
        stats = store.update_stats()
    return stats.compaction_seconds, stats.compacted_bytes


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's ``results``, ``ratios`` and ``settings``."""
    console = Console()
    rows, seconds, rounds = (100_000, 0.1, 1) if quick else (2_000_000, 1.0, 3)
    folder = Path(tempfile.mkdtemp(prefix="screc-updates-", dir=os.environ.get("TMPDIR") or Path.cwd()))
    try:
        console.print(f"updates: {len(MEMORIES)} tables of {rows:,} x {DIM}")
        artifact = build(folder, rows)
        timings = measure(lookup_arms(artifact, rows), rounds=rounds + 2, seconds_per_round=seconds / 3)
        made = measure_updates(folder, artifact, rows, seconds, rounds, console)
        compact_s, compact_bytes = compaction(artifact, rows)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    view = Table("updates a second", *next(iter(made.values())))
    for kind, rates in made.items():
        view.add_row(kind, *(f"{rate:,.0f}" for rate in rates.values()))
    console.print(view)
    view = Table("look-up, ns", "none held", "a hundred", "a twentieth")
    ns = {name: 1e9 * timing.median / LOOKUPS for name, timing in timings.items()}
    for memory in MEMORIES:
        view.add_row(memory, *(f"{ns[f'{memory}, {name}']:.1f}" for name in ("none", "hundred", "twentieth")))
    console.print(view)
    console.print(
        f"compaction of {3 * rows // 10:,} rows: {compact_s:.2f} s, {compact_bytes / 1e6:,.0f} MB written"
    )
    ratios = {}
    for kind, rates in made.items():
        key = kind.replace(" rows", "").replace(" row", "").replace(", ", "x").split(" ")[0]
        for peer in ("lmdb", "rocksdb", "append and sync"):
            if peer in rates:
                ratios[f"updates.{key}.vs_{peer.replace(' ', '_')}"] = rates["ssd"] / rates[peer]
    for memory in MEMORIES:
        for name in ("hundred", "twentieth"):
            ratios[f"updates.lookup.{memory}.{name}_vs_none"] = (
                ns[f"{memory}, none"] / ns[f"{memory}, {name}"]
            )
    return {
        "settings": {"rows": rows, "dim": DIM, "threads": THREADS, "lookups": LOOKUPS},
        "results": {
            "updates_per_s": made,
            "lookup_ns": ns,
            "lookup_spread": {name: timing.spread for name, timing in timings.items()},
            "compaction": {"seconds": compact_s, "bytes": compact_bytes, "rows": 3 * rows // 10},
        },
        "ratios": ratios,
    }

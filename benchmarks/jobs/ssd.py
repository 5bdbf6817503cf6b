"""Job ``ssd``: random rows of 256 bytes that are not in memory, from a file of pages.

Ours are the store's look-ups (each page checked, each row copied out); the peers read the same file: ``fio``
as the measure of what drive and kernel give, a cold memory map, and buffered reads. Every round runs every
arm, with new random ids; nothing is served from the page cache: ours and fio read past it, and the others'
pages are dropped before each round.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from screc import _native

DIM = 64
ROW_BYTES = 4 * DIM
PAGE_BYTES = 4096
ROWS_PER_PAGE = 15
PEER_THREADS = 2
DEPTHS = (64, 128, 256)
DEFAULT_DEPTH = 256
CALL_ROWS = 4096
ZIPF_EXPONENT = 1.05
CACHE_SHARE = 0.02  # of the bytes of all rows
KEPT = 1 << 16  # rows that the file repeats

Arm = Callable[[], float]  # rows per second


def write_pages(path: Path, num_pages: int) -> np.ndarray:
    """A file of pages of table 0, band 0, whose row of slot s is ``rows[s % len(rows)]``; returns rows."""
    pages_at_once = KEPT // ROWS_PER_PAGE
    rows = np.random.default_rng(0).standard_normal((pages_at_once * ROWS_PER_PAGE, DIM), dtype=np.float32)
    with path.open("wb") as file:
        for first in range(0, num_pages, pages_at_once):
            count = min(pages_at_once, num_pages - first)
            out = np.empty((count, PAGE_BYTES), dtype=np.uint8)
            _native.fill_pages(rows[: count * ROWS_PER_PAGE].view(np.uint8), 0, 0, first, out)
            file.write(out)
        file.flush()
        os.fsync(file.fileno())
    drop(path)
    return rows


def drop(path: Path) -> None:
    """Take the file out of the page cache; nobody may have it mapped."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Rows:
    """The file, and ids to read from it."""

    def __init__(self, path: Path, num_pages: int) -> None:
        self.path = path
        self.num_rows = num_pages * ROWS_PER_PAGE
        self.content = write_pages(path, num_pages)
        self._generator = np.random.default_rng(1)

    def uniform(self, count: int) -> np.ndarray:
        return self._generator.integers(0, self.num_rows, count)

    def zipf(self, count: int) -> np.ndarray:
        """Zipf ranks by the bounded continuous inverse, scattered over the rows."""
        power = 1 - ZIPF_EXPONENT
        uniform = self._generator.random(count)
        rank = (1 - uniform * (1 - (self.num_rows + 1) ** power)) ** (1 / power) - 1
        return (np.minimum(rank.astype(np.int64), self.num_rows - 1) * 2_654_435_761 + 12_345) % self.num_rows

    def store(self, **options: object) -> _native.RowStore:
        store = _native.RowStore(**options)
        store.add_table(self.num_rows, DIM)
        store.add_ssd_band(0, self.path, 0)
        return store

    def check(self, store: _native.RowStore) -> None:
        ids = self.uniform(1000)
        out = np.empty((len(ids), DIM), dtype=np.float32)
        store.gather(0, ids, out)
        if not np.array_equal(out, self.content[ids % len(self.content)]):
            raise RuntimeError("the store answered other rows than the file has; nothing was timed")


def gather_arm(rows: Rows, store: _native.RowStore, count: int) -> Arm:
    """One call for all rows."""
    out = np.empty((count, DIM), dtype=np.float32)

    def run() -> float:
        ids = rows.uniform(count)
        begin = time.perf_counter()
        store.gather(0, ids, out)
        return count / (time.perf_counter() - begin)

    return run


def calls_arm(rows: Rows, store: _native.RowStore, count: int, in_flight: int) -> Arm:
    """Calls of CALL_ROWS rows each, so many of them in flight."""
    out = np.empty((in_flight, CALL_ROWS, DIM), dtype=np.float32)
    offsets = np.arange(CALL_ROWS + 1)

    def run() -> float:
        calls = [rows.uniform(CALL_ROWS) for _ in range(count // CALL_ROWS)]
        tickets: list[_native.Ticket] = []
        begin = time.perf_counter()
        for number, ids in enumerate(calls):
            if len(tickets) == in_flight:
                tickets.pop(0).finish()
            tickets.append(store.begin(ids, offsets, CALL_ROWS, out[number % in_flight]))
        for ticket in tickets:
            ticket.finish()
        return len(calls) * CALL_ROWS / (time.perf_counter() - begin)

    return run


def zipf_arm(rows: Rows, store: _native.RowStore, count: int) -> Arm:
    """Look-ups in calls of CALL_ROWS, popular rows among them."""
    out = np.empty((CALL_ROWS, DIM), dtype=np.float32)

    def run() -> float:
        calls = [rows.zipf(CALL_ROWS) for _ in range(count // CALL_ROWS)]
        begin = time.perf_counter()
        for ids in calls:
            store.gather(0, ids, out)
        return len(calls) * CALL_ROWS / (time.perf_counter() - begin)

    return run


def fio_arm(path: Path, depth: int, block: int, seconds: float) -> Arm:
    """Random reads by fio through io_uring, past the page cache."""
    command = [
        *("fio", "--name=random", f"--filename={path}", "--readonly", "--rw=randread", f"--bs={block}"),
        *("--direct=1", "--ioengine=io_uring", f"--iodepth={depth}", "--time_based", f"--runtime={seconds}"),
        *("--norandommap", "--randrepeat=0", "--random_generator=tausworthe64", "--output-format=json"),
    ]

    def run() -> float:
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(json.loads(result.stdout)["jobs"][0]["read"]["iops"])

    return run


def mmap_arm(rows: Rows, count: int) -> Arm:
    """Rows out of a memory map by torch's index_select, whose threads wait for pages side by side."""

    def run() -> float:
        drop(rows.path)
        with rows.path.open("rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapped:
            mapped.madvise(mmap.MADV_RANDOM)
            table = torch.from_numpy(np.frombuffer(mapped, dtype=np.float32).reshape(-1, DIM))
            ids = torch.from_numpy(rows.uniform(count))
            begin = time.perf_counter()
            torch.index_select(table, 0, ids)
            seconds = time.perf_counter() - begin
            del table
        drop(rows.path)
        return count / seconds

    return run


def buffered_arm(rows: Rows, count: int) -> Arm:
    """pread through the page cache, without readahead."""

    def run() -> float:
        drop(rows.path)
        descriptor = os.open(rows.path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        offsets = (rows.uniform(count) * ROW_BYTES).tolist()

        def read(part: list[int]) -> None:
            for offset in part:
                os.pread(descriptor, ROW_BYTES, offset)

        with ThreadPoolExecutor(PEER_THREADS) as pool:
            begin = time.perf_counter()
            list(pool.map(read, [offsets[i::PEER_THREADS] for i in range(PEER_THREADS)]))
            seconds = time.perf_counter() - begin
        os.close(descriptor)
        drop(rows.path)
        return count / seconds

    return run


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's ``results``, ``ratios`` and ``settings``."""
    console = Console()
    torch.set_num_threads(PEER_THREADS)
    num_pages = (1 << 16) if quick else (1 << 21)
    count, few, seconds, rounds = (8192, 1000, 0.5, 3) if quick else (1 << 16, 20_000, 1.0, 7)
    has_fio = shutil.which("fio") is not None
    if not has_fio:
        console.print("fio is not installed (Debian: apt-get install fio): no ratio to it")
    folder = Path(tempfile.mkdtemp(prefix="screc-ssd-", dir=os.environ.get("TMPDIR") or Path.cwd()))
    try:
        console.print(f"ssd: writing {num_pages * PAGE_BYTES / 2**30:.2f} GiB of pages")
        rows = Rows(folder / "rows.pages", num_pages)
        stores = {f"io_uring d{depth}": rows.store(io="io_uring", queue_depth=depth) for depth in DEPTHS}
        stores["pread"] = rows.store(io="pread")
        cache_bytes = int(CACHE_SHARE * rows.num_rows * ROW_BYTES)
        cached = rows.store(io="io_uring", cache_bytes=cache_bytes)
        for store in (*stores.values(), cached):
            rows.check(store)
        default = stores[f"io_uring d{DEFAULT_DEPTH}"]
        arms: dict[str, Arm] = {name: gather_arm(rows, store, count) for name, store in stores.items()}
        for in_flight in (1, 2):
            arms[f"{in_flight} x {CALL_ROWS} rows"] = calls_arm(rows, default, count, in_flight)
        arms["zipf, no cache"] = zipf_arm(rows, default, count)
        arms["zipf, cache"] = zipf_arm(rows, cached, count)
        if has_fio:
            for depth in DEPTHS:
                arms[f"fio d{depth}"] = fio_arm(rows.path, depth, PAGE_BYTES, seconds)
            arms[f"fio d{DEFAULT_DEPTH} 512 B"] = fio_arm(rows.path, DEFAULT_DEPTH, 512, seconds)
        arms["mmap"] = mmap_arm(rows, few)
        arms["buffered pread"] = buffered_arm(rows, few)
        for _ in range(4 if quick else 80):  # the cache learns the traffic
            arms["zipf, cache"]()
        before = cached.stats()
        rates: dict[str, list[float]] = {name: [] for name in arms}
        cpu = dict.fromkeys(arms, 0.0)
        names = list(arms)
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                begin = time.process_time()
                rates[name].append(arms[name]())
                cpu[name] += time.process_time() - begin
            console.print(f"  round {number + 1}/{rounds}")
        after = cached.stats()
        backend, direct = default.stats().io_backend, default.stats().direct_io
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    median = {name: statistics.median(values) for name, values in rates.items()}
    limit = max(median[f"fio d{depth}"] for depth in DEPTHS) if has_fio else None
    view = Table("arm", "rows/s", "spread", "of fio's best", "CPU us/row")
    for name in names:
        mine = not name.startswith("fio")
        made = rounds * (few if name in ("mmap", "buffered pread") else count)
        view.add_row(
            name,
            f"{median[name]:,.0f}",
            f"{(max(rates[name]) - min(rates[name])) / median[name]:.0%}",
            f"{median[name] / limit:.1%}" if limit else "",
            f"{1e6 * cpu[name] / made:.2f}" if mine else "",
        )
    console.print(view)
    hits, misses = after.cache_hits - before.cache_hits, after.cache_misses - before.cache_misses
    hit_rate = hits / (hits + misses)
    console.print(
        f"cache of {cached.stats().cache_bytes / 1e6:,.0f} MB: {hit_rate:.1%} of distinct rows held"
    )
    ours = median[f"io_uring d{DEFAULT_DEPTH}"]
    ratios = {
        "ssd.vs_mmap": ours / median["mmap"],
        "ssd.vs_buffered_pread": ours / median["buffered pread"],
        "ssd.pread.vs_io_uring": median["pread"] / ours,
        "ssd.two_in_flight.vs_one": median[f"2 x {CALL_ROWS} rows"] / median[f"1 x {CALL_ROWS} rows"],
        "ssd.zipf.cache_vs_none": median["zipf, cache"] / median["zipf, no cache"],
    }
    if has_fio:
        ratios["ssd.vs_fio"] = ours / median[f"fio d{DEFAULT_DEPTH}"]
        for depth in DEPTHS:
            ratios[f"ssd.d{depth}.vs_fio"] = median[f"io_uring d{depth}"] / median[f"fio d{depth}"]
        small = median[f"fio d{DEFAULT_DEPTH} 512 B"]
        ratios["ssd.fio_512_vs_4096"] = small / median[f"fio d{DEFAULT_DEPTH}"]
        console.print(
            f"limit: fio's {limit:,.0f} reads/s; ours at the same depth of {DEFAULT_DEPTH}: "
            f"{ratios['ssd.vs_fio']:.1%} of fio, {ratios['ssd.vs_mmap']:.1f}x a cold memory map"
        )
    results = {
        name: {"rows_per_s": median[name], "rounds": rates[name], "cpu_seconds": cpu[name]} for name in names
    }
    settings = {
        "file_bytes": num_pages * PAGE_BYTES,
        "row_bytes": ROW_BYTES,
        "rows_per_call": count,
        "io_backend": backend,
        "direct_io": direct,
        "zipf_exponent": ZIPF_EXPONENT,
        "cache_bytes": after.cache_bytes,
        "cache_hit_rate": hit_rate,
    }
    return {
        "settings": settings,
        "results": results,
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }

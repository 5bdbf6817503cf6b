"""Measuring a host: the system spec from a few seconds of the same native code that serves."""

from __future__ import annotations

import errno
import itertools
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from screc import _native
from screc.planning.system import (
    Capacities,
    DenseRate,
    DeviceSpec,
    ReadRate,
    RowRate,
    SsdSpec,
    StrategyRate,
    SystemSpec,
    TtRate,
)
from screc.storage.layout import PAGE_BYTES, TtShape
from screc.storage.strategy import MAX_TIMED_BYTES, lookup_ns

_ROW_BYTES = (16, 32, 64, 128, 256, 512, 1024)
_TT_RANKS = (4, 8, 16, 32, 64)
_TT_DIMS = (16, 64, 128)
_TT_ROWS = 10_000_000
_GEMM_SAMPLES = (1, 4, 16, 64, 256, 1024, 4096)
_GEMM_SHAPE = (256, 512)
_STRATEGY_ROWS = (4, 16, 32, 64, 256, 1024, 4096)
_STRATEGY_DIMS = (16, 64)
_POOLINGS = (1, 32)
_QUEUE_DEPTHS = (1, 4, 16, 64, 256)
_FILE_BYTES = 2**30
_SMALLEST_FILE_BYTES = 2**26
_LEAST_ROUNDS = 5
# Share of the time that goes to the SSD, whose rates vary most.
_SSD_SHARE = 0.4

Progress = Callable[[str, int, int], None]


def probe(
    directory: str | Path,
    *,
    seconds: float = 10.0,
    threads: int = 0,
    ssd: bool = True,
    progress: Progress | None = None,
) -> SystemSpec:
    """Measure this host: DRAM, the SSD behind ``directory``, dense layers and tensor-train rows.

    Every figure is the median over at least five rounds, with its spread. Memory: a table of eight times the
    last-level cache (1 to 2 GiB, at most a quarter of what is available). On the SSD: a file of up to
    1 GiB (half the free space if that is less), read past the page cache and deleted afterwards. An SSD with
    a large memory of its own may answer faster on so small a file than on full-size tables.

    Args:
        directory: where tables on SSD would be stored.
        seconds: time to measure for, besides preparing the table and the file.
        threads: threads to measure with; 0 means one per available core.
        ssd: False to leave the SSD out; nothing is written then.
        progress: called with (what is measured next, steps done, steps in all).

    Raises:
        NotADirectoryError: ``directory`` does not exist or is not one.
        OSError: it has no room for the test file, cannot be written, or has no direct reads; names it.
    """
    directory = Path(directory)
    if not seconds > 0 or math.isinf(seconds):
        raise ValueError(f"seconds must be positive, got {seconds}")
    if not directory.is_dir():
        raise NotADirectoryError(f"{directory} is not a directory; probe one on the SSD that will be used")
    measuring = _Probe(seconds, threads, ssd, progress)
    # The SSD first: what fails most often fails before the time is spent.
    free, ssd_spec = measuring.ssd(directory) if ssd else (0, None)
    rows, bandwidth = measuring.dram()
    return SystemSpec(
        source="probe",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=_machine(),
        isa=_native.isa(),
        devices=DeviceSpec(
            kind="core",
            count=measuring.pool.num_threads,
            private=Capacities(llc_bytes=cache_bytes(2)),
        ),
        shared=Capacities(llc_bytes=llc_bytes(), dram_bytes=_total_bytes(), ssd_bytes=free),
        dram_bytes_per_second=bandwidth,
        rows=rows,
        ssd=ssd_spec,
        dense=measuring.gemm(),
        tt=measuring.tt(),
        strategies=measuring.strategies(),
    )


class _Probe:
    def __init__(self, seconds: float, threads: int, ssd: bool, progress: Progress | None) -> None:
        self.pool = _native.ThreadPool(threads)
        self._devices = self.pool.num_threads
        self._random = np.random.default_rng(0)
        self._progress = progress
        self._done = 0
        others = 2 * len(_ROW_BYTES) + 1 + len(_TT_RANKS) * len(_TT_DIMS) + len(_GEMM_SAMPLES)
        # Besides the time given: some milliseconds each.
        brief = len(_STRATEGY_ROWS) * len(_STRATEGY_DIMS) * len(_POOLINGS)
        self._steps = others + brief + (len(_QUEUE_DEPTHS) if ssd else 0)
        self._read_seconds = seconds * _SSD_SHARE / len(_QUEUE_DEPTHS)
        self._seconds = seconds * (1 - _SSD_SHARE if ssd else 1) / others

    def _announce(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done, self._steps)
        self._done += 1

    def _measure(
        self, what: str, run: Callable[[], object], seconds: float | None = None
    ) -> tuple[float, float]:
        """Median seconds of a call and interquartile range / median."""
        self._announce(what)
        seconds = self._seconds if seconds is None else seconds
        run()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while len(times) < _LEAST_ROUNDS or time.perf_counter() < end:
            times += _timed(run, 1)
        quarter, median, three = np.quantile(times, (0.25, 0.5, 0.75))
        return float(median), float((three - quarter) / median)

    def dram(self) -> tuple[tuple[RowRate, ...], float]:
        """Row gathers of all sizes from a table much larger than the cache, and from one inside it."""
        # Hypervisors may understate the cache, hence at least 1 GiB.
        size = min(max(8 * llc_bytes(), 2**30), 2**31, _available_bytes() // 4)
        memory = _native.empty(max(size // 4096, 1) * 4096)
        memory.fill(1)  # the pages have to exist, or all reads go to one page of zeros
        near = max(min(llc_bytes() // 4, 2**23) // 4096, 1) * 4096
        gather = []
        for row_bytes in _ROW_BYTES:
            count = min(16384, 2**21 // row_bytes)
            out = np.empty((count, row_bytes // 4), dtype=np.float32)
            for place, num_bytes in (("llc", near), ("dram", memory.size)):
                rows = memory[:num_bytes].view(np.float32).reshape(-1, row_bytes // 4)
                # Fresh ids in every round, or the rows of the first round wait in the cache for the next.
                sets = iter(_endless_ids(self._random, len(rows), count))
                median, spread = self._measure(
                    f"rows of {row_bytes} bytes from {place}",
                    lambda rows=rows, sets=sets, out=out: _native.gather_rows(
                        rows, next(sets), out, self.pool
                    ),
                )
                gather.append(
                    RowRate(
                        where=place,
                        row_format="fp32",
                        embedding_dim=row_bytes // 4,
                        ns=self._devices * 1e9 * median / count,
                        spread=spread,
                        busy=self._devices,
                    )
                )
        rows = memory.view(np.float32).reshape(-1, 256)
        count = min(len(rows), 65536)
        out = np.empty((2048, 256), dtype=np.float32)
        starts = iter(_endless_ids(self._random, len(rows) - count + 1, 1))
        steps = np.arange(2048)

        def stream() -> None:
            first = int(next(starts)[0])
            for begin in range(first, first + count - 2047, 2048):
                _native.gather_rows(rows, begin + steps, out, self.pool)

        median, _ = self._measure("rows in sequence", stream)
        return tuple(gather), count // 2048 * 2048 * 1024 / median

    def gemm(self) -> tuple[DenseRate, ...]:
        """One dense layer at growing numbers of samples."""
        width, inputs = _GEMM_SHAPE
        weight = self._random.standard_normal((width, inputs), dtype=np.float32)
        layer = _native.Linear(weight, np.zeros(width, dtype=np.float32))
        rates = []
        for samples in _GEMM_SAMPLES:
            x = self._random.standard_normal((samples * self._devices, inputs), dtype=np.float32)
            out = np.empty((samples * self._devices, width), dtype=np.float32)
            median, spread = self._measure(
                f"a dense layer on {samples} samples",
                lambda x=x, out=out: layer.forward(x, out, relu=True, pool=self.pool),
            )
            rates.append(
                DenseRate(
                    precision="fp32",
                    samples=samples,
                    flops=2 * inputs * width,
                    ns=self._devices * 1e9 * median / (samples * self._devices),
                    spread=spread,
                )
            )
        return tuple(rates)

    def tt(self) -> tuple[TtRate, ...]:
        """Rows of a table of ten million, rebuilt from its cores as serving does: shared work once."""
        rates = []
        for dim in _TT_DIMS:
            for tt_rank in _TT_RANKS:
                shape = TtShape.balanced(_TT_ROWS, dim, tt_rank)
                cores = [
                    self._random.standard_normal(shape.core_shape(core), dtype=np.float32)
                    for core in range(shape.num_cores)
                ]
                store = _native.RowStore(threads=self.pool.num_threads)
                store.add_table(shape.num_rows, dim)
                store.add_tt_band(0, cores)
                count = 2**21 // dim
                out = np.empty((count, dim), dtype=np.float32)
                ids = iter(_endless_ids(self._random, shape.num_rows, count))
                median, spread = self._measure(
                    f"tensor-train rows, TT rank {tt_rank}, dimension {dim}",
                    lambda store=store, ids=ids, out=out: store.gather(0, next(ids), out),
                )
                rates.append(
                    TtRate(
                        tt_rank=tt_rank,
                        embedding_dim=dim,
                        flops_per_row=shape.flops_per_row,
                        ns=self._devices * 1e9 * median / count,
                        spread=spread,
                    )
                )
        return tuple(rates)

    def strategies(self) -> tuple[StrategyRate, ...]:
        """Look-ups in small tables by every strategy that they can have."""
        rates = []
        for num_rows, dim, pooling in itertools.product(_STRATEGY_ROWS, _STRATEGY_DIMS, _POOLINGS):
            self._announce(f"look-ups in a table of {num_rows} rows x {dim}, {pooling} to a bag")
            rows = self._random.standard_normal((num_rows, dim), dtype=np.float32)
            if rows.nbytes > MAX_TIMED_BYTES:
                continue
            costs = lookup_ns(rows, pooling=pooling, threads=self.pool.num_threads)
            rates += [
                StrategyRate(
                    strategy=strategy,
                    rows=num_rows,
                    embedding_dim=dim,
                    pooling=pooling,
                    ns=self._devices * ns,
                )
                for strategy, ns in costs.items()
            ]
        return tuple(rates)

    def ssd(self, directory: Path) -> tuple[int, SsdSpec]:
        """Free bytes, and random page reads of a temporary file at growing queue depths."""
        free = shutil.disk_usage(directory).free
        with _test_file(directory, free, self._random) as path:
            rates, backend = [], ""
            for depth in _QUEUE_DEPTHS:
                reader = _native.PageReader(str(path), queue_depth=depth)
                if not reader.direct:
                    raise OSError(
                        errno.EOPNOTSUPP,
                        f"{directory}: its file system has no direct reads, so the SSD cannot be measured; "
                        "probe a directory on the SSD itself, or leave it out with ssd=False",
                    )
                backend = reader.backend
                count = min(max(32, 8 * depth), 1024)
                out = np.empty((count, PAGE_BYTES), dtype=np.uint8)
                pages = iter(_endless_ids(self._random, reader.num_pages, count))
                median, spread = self._measure(
                    f"reads at queue depth {depth}",
                    lambda reader=reader, pages=pages, out=out: reader.read(next(pages), out),
                    self._read_seconds,
                )
                rate = count / median
                rates.append(
                    ReadRate(
                        queue_depth=depth,
                        pages_per_second=rate,
                        latency_seconds=min(depth, count) / rate,
                        spread=spread,
                    )
                )
        return free, SsdSpec(backend=backend, reads=tuple(rates))


def _timed(run: Callable[[], object], rounds: int) -> list[float]:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return times


@contextmanager
def _test_file(directory: Path, free: int, random: np.random.Generator) -> Iterator[Path]:
    """A file of incompressible bytes on the disk, deleted at the end."""
    size = min(_FILE_BYTES, free // 2) // PAGE_BYTES * PAGE_BYTES
    if size < _SMALLEST_FILE_BYTES:
        raise OSError(errno.ENOSPC, _no_room(directory))
    try:
        file = tempfile.NamedTemporaryFile(prefix=".screc-probe-", dir=directory)  # noqa: SIM115
    except OSError as error:
        raise OSError(error.errno, f"{directory}: cannot write there ({error.strerror})") from error
    with file:
        try:
            left = size
            while left:
                block = random.bytes(min(left, 2**24))
                file.write(block)
                left -= len(block)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(error.errno, _no_room(directory)) from error
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        yield Path(file.name)


def _no_room(directory: Path) -> str:
    return (
        f"{directory}: no room for the probe's test file ({2 * _SMALLEST_FILE_BYTES >> 20} MiB free "
        f"at least, {_FILE_BYTES >> 20} MiB used where there is more); free some, or probe another directory"
    )


def _endless_ids(random: np.random.Generator, rows: int, count: int) -> Iterator[np.ndarray]:
    """Sets of uniform ids: a pool drawn beforehand, so that drawing does not evict what is measured."""
    drawn = random.integers(0, rows, max(1, min(64, 2**20 // max(count, 1))) * count)
    while True:
        yield from drawn.reshape(-1, count)


def llc_bytes() -> int:
    """Bytes of this host's last-level cache; 32 MiB where the system does not tell."""
    sizes = _cache_sizes()
    return sizes[max(sizes)] if sizes else 2**25


def cache_bytes(level: int) -> int:
    """Bytes of a core's cache of this level; 1 MiB where the system does not tell."""
    return _cache_sizes().get(level, 2**20)


def _cache_sizes() -> dict[int, int]:
    sizes = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            text = (index / "size").read_text().strip()
            level = int((index / "level").read_text())
            scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
            sizes[level] = int(text.rstrip("KMG")) * scale
        except (OSError, ValueError):
            continue
    return sizes


def _machine() -> str:
    """The processor's name and its cores that this process may use."""
    name = "processor of unknown name"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _total_bytes() -> int:
    """DRAM that this process may use: the machine's, or its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return min(total, int(limit))
    except (OSError, ValueError):
        return total


def _available_bytes() -> int:
    """DRAM that is free or can be freed now."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _total_bytes())
    except (OSError, ValueError):
        pass
    return _total_bytes() // 2

"""What the machine allows: DRAM bandwidth and multiply-add peaks, and how near a result comes to them.

Two limits hold for a batch of samples. Bytes: rows that no cache can hold have to come from DRAM, in cache
lines, at the speed of reading in sequence. Operations: the MLPs' multiplications and additions at the peak
rate of their precision, the interaction's in fp32. The two can overlap, so the best possible time is the
longer of them; the achieved fraction is that time over the measured one.
"""

from __future__ import annotations

import ctypes
import math
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.workload import ZIPF_EXPONENT, Skew, Workload
from screc import _native
from screc.planning.rates.host import llc_bytes

PRECISIONS = ("fp32", "bf16", "int8")
_LINE = 64
_GATHER_ROWS = 1 << 15
_PEAK_ROUNDS = 1_000_000  # some milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """This machine's measured limits with all threads.

    Attributes:
        threads: cores used.
        llc_bytes: last-level cache.
        read_bytes_per_s: DRAM, reading in sequence.
        random_rows_per_s: row bytes -> rows gathered from random places of a table far larger than the cache,
            by our own kernel: not a bound, but what to expect.
        operations_per_s: precision -> register-only peak; bf16 and int8 are the fp32 peak where the processor
            has no instruction for them.
    """

    threads: int
    llc_bytes: int
    read_bytes_per_s: float
    random_rows_per_s: dict[int, float]
    operations_per_s: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        """For the report."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        peaks = ", ".join(f"{name} {rate / 1e9:,.0f}" for name, rate in self.operations_per_s.items())
        rows = ", ".join(f"{size} B {rate / 1e6:.0f}" for size, rate in self.random_rows_per_s.items())
        return (
            f"limits, {self.threads} threads: DRAM {self.read_bytes_per_s / 1e9:.1f} GB/s in sequence; "
            f"random rows {rows} M/s; peaks {peaks} G operations/s; "
            f"cache {self.llc_bytes >> 20} MiB"
        )

    def seconds_per_sample(
        self, workload: Workload, skew: Skew, row_bytes: int, precision: str
    ) -> tuple[float, float]:
        """(bytes / bandwidth, operations / peak) of one sample.

        Args:
            workload: the model's shape.
            skew: of the ids.
            row_bytes: of a row as stored.
            precision: of the MLPs.
        """
        misses = 1 - cached_share(workload, skew, self.llc_bytes / row_bytes)
        read = workload.lookups * misses * line_bytes(row_bytes) / self.read_bytes_per_s
        peaks = self.operations_per_s
        interaction = workload.interaction_flops / peaks["fp32"]
        return read, interaction + (workload.flops - workload.interaction_flops) / peaks[precision]


def measure_limits(threads: int, row_bytes: tuple[int, ...], *, quick: bool = False) -> Limits | None:
    """Measure for some seconds; takes the fastest of many rounds, for a limit is what is possible.

    Args:
        threads: cores to use.
        row_bytes: sizes of rows to gather, multiples of 4.
        quick: a smaller table and fewer rounds.

    Returns:
        None where there is no C compiler (``cc``).
    """
    rounds, size = (15, 2**28) if quick else (40, 2**31)
    memory = _native.empty(size)
    memory.fill(1)
    with tempfile.TemporaryDirectory() as folder:
        library = compile_loops(Path(folder))
        if library is None:
            return None
        measured = [(_read_rate(library, memory, threads), *_peaks(library, threads)) for _ in range(rounds)]
    read, *peaks = np.max(measured, axis=0).tolist()
    return Limits(
        threads=threads,
        llc_bytes=llc_bytes(),
        read_bytes_per_s=read,
        random_rows_per_s={one: _gather_rate(memory, one, threads, 4 * rounds) for one in row_bytes},
        operations_per_s={name: rate or peaks[0] for name, rate in zip(PRECISIONS, peaks, strict=True)},
    )


def line_bytes(row_bytes: int) -> float:
    """Bytes of the cache lines that a random row touches on average, rows lying one after the other."""
    period = _LINE // math.gcd(row_bytes, _LINE)
    begins = np.arange(period) * row_bytes
    lines = (begins + row_bytes - 1) // _LINE - begins // _LINE + 1
    return _LINE * float(lines.mean())


def cached_share(workload: Workload, skew: Skew, cache_rows: float) -> float:
    """Share of look-ups that a cache holding the ``cache_rows`` hottest rows of all tables answers.

    For ids drawn independently no cache that cannot see the future does better.
    """
    rows = np.array(workload.rows, dtype=np.float64)
    if cache_rows >= rows.sum():
        return 1.0
    if skew == "uniform":  # rows of small tables are hotter
        ordered = np.sort(rows)
        held = np.clip(cache_rows - (np.cumsum(ordered) - ordered), 0, ordered)
        return float((held / ordered).mean())
    # Rank r of a table has about the density at x = r + 1 of the law that the ids are drawn from.
    power = ZIPF_EXPONENT - 1
    mass = 1 - (rows + 1) ** -power

    def held_above(density: float) -> np.ndarray:
        return np.clip((power / mass / density) ** (1 / ZIPF_EXPONENT) - 1, 0, rows)

    low, high = 1e-15, float((power / mass).max())
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if held_above(middle).sum() > cache_rows else (low, middle)
    return float(((1 - (held_above(high) + 1) ** -power) / mass).mean())


def compile_loops(folder: Path) -> ctypes.CDLL | None:
    """The functions of limits.c, built into ``folder``; None where there is no C compiler."""
    target, source = folder / "limits.so", Path(__file__).with_name("limits.c")
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", str(target), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ctypes.CDLL(str(target))


def _read_rate(library: ctypes.CDLL, memory: np.ndarray, threads: int) -> float:
    """Bytes per second that the threads read, each its share of the memory."""
    share = memory.size // threads // 4096 * 4096
    function = library.read_all
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_void_p, ctypes.c_long]

    def work(thread: int) -> float:
        function(memory.ctypes.data + thread * share, share)
        return float(share)

    return _rate(work, threads)


def _peaks(library: ctypes.CDLL, threads: int) -> list[float]:
    """Operations per second in each precision; 0 where the processor has no such instruction."""
    rates = []
    for name in PRECISIONS:
        function = library[f"peak_{name}"]
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_long]
        rates.append(_rate(lambda _, function=function: function(_PEAK_ROUNDS), threads))
    return rates


def _rate(work: Callable[[int], float], threads: int) -> float:
    """What all threads do per second. ctypes lets go of the interpreter's lock."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (time.perf_counter() - begin)


def _gather_rate(memory: np.ndarray, row_bytes: int, threads: int, rounds: int) -> float:
    """Rows per second from random places, fastest round; every round has ids of its own."""
    pool, generator = _native.ThreadPool(threads), np.random.default_rng(0)
    columns = row_bytes // 4
    rows = memory[: memory.size // row_bytes * row_bytes].view(np.float32).reshape(-1, columns)
    out = np.empty((_GATHER_ROWS, columns), dtype=np.float32)
    best = 0.0
    for ids in generator.integers(0, len(rows), (rounds, _GATHER_ROWS)):
        begin = time.perf_counter()
        _native.gather_rows(rows, ids, out, pool)
        best = max(best, _GATHER_ROWS / (time.perf_counter() - begin))
    return best

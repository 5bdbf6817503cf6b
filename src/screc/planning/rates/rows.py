"""Look-ups of rows: every format, from each place, and what the index of a band adds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from screc import _native
from screc.planning.rates.clock import Clock, Timing
from screc.planning.rates.host import available_bytes, core_cache_bytes, llc_bytes
from screc.planning.system import IndexRate, RowRate, StrategyRate, Where
from screc.storage.layout import IndexKind
from screc.storage.remap import bitmap_index, hash_index
from screc.storage.row_format import LARGEST_CODE, ROW_FORMATS, RowFormat, ScaleOf, row_bytes
from screc.storage.strategy import MAX_TIMED_BYTES, lookup_ns

_FP32_DIMS = (8, 16, 32, 64, 128)
_DIMS = (16, 64, 128)
# Also by one thread alone: what several do to each other is the difference.
_ALONE_DIMS = (16, 64)
_BAGS, _POOLING = 1024, 32
_STRATEGY_ROWS = (4, 16, 32, 64, 256, 1024, 4096)
_STRATEGY_DIMS = (16, 64)
_STRATEGY_POOLINGS = (1, 32)
# Ids of a hash index that stays in a core's own cache with its rows, and of one that needs the shared cache.
_HASHED: dict[Where, int] = {"private": 2**11, "llc": 2**18}
# Ids of tables whose bitmaps do; one of 128 is in the band.
_MAPPED: dict[Where, int] = {"private": 2**18, "llc": 2**25}
_MAPPED_STEP = 128
# A byte that is a small number in every row format, scales and biases included.
_FILL = 0x3C
# Of the probe's time.
_PART = 0.005


@dataclass(frozen=True, slots=True)
class Kind:
    """Rows of one kind, and how many threads look them up."""

    row_format: RowFormat
    scale: ScaleOf
    dim: int
    busy: int


@dataclass(frozen=True, slots=True)
class RowFigures:
    """What :meth:`RowProbe.measure` finds.

    Attributes:
        rows: device-ns of a look-up.
        llc_bytes: what the shared cache holds for this process.
        dram_bytes_per_second: that all threads read together, in sequence.
    """

    rows: tuple[RowRate, ...]
    llc_bytes: int
    dram_bytes_per_second: float


def filled_memory() -> np.ndarray:
    """The table that stands for DRAM, uint8 on huge pages: 1 to 2 GiB, at most a quarter of what is free."""
    # Hypervisors may understate the cache, hence at least 1 GiB.
    size = min(max(8 * llc_bytes(), 2**30), 2**31, available_bytes() // 4)
    memory = _native.empty(max(size // 2**16, 1) * 2**16)
    memory.fill(_FILL)  # the pages have to exist, or all reads go to one page of zeros
    return memory


class RowProbe:
    """Look-ups of 32 rows to a bag, uniform ids, through the row store.

    Three tables stand for the places: one of a quarter of a core's second-level cache, one of up to 32 MiB,
    and all of ``memory``. The last is partly in the shared cache, too. Where the cache holds C bytes, a
    look-up in a table of W bytes takes ``dram - (dram - llc) C / W``; from two W both C and the time of a row
    that is in no cache follow.

    Args:
        clock: to measure with.
        memory: :func:`filled_memory`.
        threads: that look up together.
    """

    def __init__(self, clock: Clock, memory: np.ndarray, threads: int) -> None:
        self._clock, self._memory, self._threads = clock, memory, threads
        near = min(2**25, max(llc_bytes() // 8, 2 * core_cache_bytes()), memory.size)
        self._sizes: dict[Where, int] = {
            "private": min(core_cache_bytes() // 4, near),
            "llc": near,
            "dram": memory.size,
        }

    def measure(self) -> RowFigures:
        """Rates of all formats; an eighth of the measurements with one thread alone."""
        timings: dict[tuple[Where, Kind], Timing] = {}
        for kind in self._kinds():
            for where, size in self._sizes.items():
                timings[where, kind] = self._lookup_ns(kind, size)
        reference = Kind("fp32", "row", 16, self._threads)
        quarter = self._memory.size // 4
        held = cache_held(
            timings["llc", reference].seconds,
            {
                quarter: self._lookup_ns(reference, quarter).seconds,
                self._memory.size: timings["dram", reference].seconds,
            },
        )
        hits = min(0.5, held / self._memory.size)
        rates = []
        for (where, kind), (ns, spread) in timings.items():
            if where == "dram":
                cached = timings["llc", kind].seconds
                ns = max(cached, (ns - hits * cached) / (1 - hits))
            rates.append(
                RowRate(
                    where=where,
                    row_format=kind.row_format,
                    scale=kind.scale,
                    embedding_dim=kind.dim,
                    ns=ns,
                    spread=spread,
                    busy=kind.busy,
                )
            )
        return RowFigures(tuple(rates), held, self._sequential())

    def _kinds(self) -> Iterator[Kind]:
        for row_format in ROW_FORMATS:
            for scale in ("row", "table") if row_format in LARGEST_CODE else ("row",):
                for dim in _FP32_DIMS if row_format == "fp32" else _DIMS:
                    yield Kind(row_format, scale, dim, self._threads)
        if self._threads > 1:
            yield from (Kind("fp32", "row", dim, 1) for dim in _ALONE_DIMS)

    def _lookup_ns(self, kind: Kind, num_bytes: int) -> Timing:
        """Device-ns of a look-up in a table of so many bytes."""
        size = row_bytes(kind.row_format, kind.dim, kind.scale)
        count = max(1, num_bytes // size)
        rows = self._memory[: count * size].reshape(count, size)
        store = _native.RowStore(threads=kind.busy)
        store.add_table(count, kind.dim)
        store.add_dram_band(
            0,
            rows.view(np.float32) if kind.row_format == "fp32" else rows,
            None,
            format=kind.row_format,
            scale=None if kind.scale == "row" else (0.01, 0.01),
        )
        what = f"look-ups, {kind.row_format} x {kind.dim}, table of {num_bytes / 2**20:,.1f} MiB"
        run, lookups = bags_of(store, count, kind.dim, _BAGS * kind.busy, _POOLING)
        seconds, spread = self._clock.time(what, _PART, run)
        return Timing(kind.busy * 1e9 * seconds / lookups, spread)

    def _sequential(self) -> float:
        """Bytes per second of rows in sequence."""
        rows = self._memory.view(np.float32).reshape(-1, 256)
        pool = _native.ThreadPool(self._threads)
        piece = min(len(rows), 2048)
        pieces = min(32, len(rows) // piece)
        out = np.empty((piece, 256), dtype=np.float32)
        steps = np.arange(piece)
        starts = itertools.cycle(range(0, (len(rows) - pieces * piece) + 1, max(1, pieces * piece)))

        def run() -> None:
            first = next(starts)
            for begin in range(first, first + pieces * piece, piece):
                _native.gather_rows(rows, begin + steps, out, pool)

        seconds, _ = self._clock.time("rows in sequence", _PART, run)
        return pieces * piece * 1024 / seconds

    def indices(self, rows: tuple[RowRate, ...]) -> tuple[IndexRate, ...]:
        """What it adds to a look-up that an index has to be asked first: look-ups that a first band of two
        answers, less those in a table of one band that holds the same rows."""
        plain = {
            rate.where: rate.ns
            for rate in rows
            if (rate.row_format, rate.embedding_dim, rate.busy) == ("fp32", 16, self._threads)
        }
        rates = []
        kinds: dict[IndexKind, dict[Where, int]] = {"bitmap": _MAPPED, "hash": _HASHED}
        for kind, sizes in kinds.items():
            for where, size in sizes.items():
                run, lookups = self._two_bands(kind, size)
                seconds, spread = self._clock.time(f"a {kind} in {where}", _PART, run)
                ns = self._threads * 1e9 * seconds / lookups - plain[where]
                rates.append(IndexRate(kind=kind, where=where, ns=max(ns, 0.1), spread=spread))
        return tuple(rates)

    def _two_bands(self, kind: IndexKind, size: int) -> tuple[Callable[[], None], int]:
        """Look-ups of ids that a band with an index holds; the band after it is a small tensor train."""
        random = np.random.default_rng(0)
        if kind == "bitmap":
            total, ids = size, np.arange(0, size, _MAPPED_STEP)
            index = ("bitmap", *bitmap_index(ids, total))
        else:
            total = 64 * size
            ids = np.unique(random.integers(0, total, size))
            random.shuffle(ids)
            index = ("hash", *hash_index(ids, np.arange(len(ids), dtype=np.uint32)))
        rows = self._memory[: 64 * len(ids)].view(np.float32).reshape(-1, 16)
        store = _native.RowStore(threads=self._threads)
        store.add_table(total, 16)
        store.add_dram_band(0, rows, index)
        side = int(np.ceil(total ** (1 / 3)))
        store.add_tt_band(
            0,
            [np.zeros((1, side, 2, 1), np.float32)] * 2 + [np.zeros((1, side, 4, 1), np.float32)],
            None,
        )
        return bags_of(store, ids, 16, _BAGS * self._threads, _POOLING)


def bags_of(
    store: _native.RowStore, ids: int | np.ndarray, dim: int, bags: int, pooling: int
) -> tuple[Callable[[], None], int]:
    """A call that looks up uniform ids of a store's only table, other ones each time, and its look-ups.

    Args:
        store: the store.
        ids: the ids to draw from, or how many rows there are.
        dim: of the table.
        bags: in a call.
        pooling: look-ups in each bag.
    """
    random = np.random.default_rng(1)
    count = bags * pooling
    # Drawn beforehand, so that drawing does not evict what is measured; so many that no row is waiting in a
    # cache for its next turn.
    drawn = random.integers(
        0, ids if isinstance(ids, int) else len(ids), (max(2, min(64, 2**20 // count)), count)
    )
    sets = itertools.cycle(drawn if isinstance(ids, int) else ids[drawn])
    offsets = np.arange(bags + 1) * pooling
    out = _native.empty(4 * bags * dim).view(np.float32).reshape(bags, dim)
    return lambda: store.lookup(next(sets), offsets, bags, out), count


def cache_held(cached: float, times: dict[int, float]) -> int:
    """Bytes that the shared cache holds, at most what the system says.

    Args:
        cached: time of a look-up in the cache.
        times: of a look-up in tables of two sizes in bytes; where the larger is not slower, nothing follows.
    """
    (small, small_time), (large, large_time) = sorted(times.items())
    slope = (large_time - small_time) / (1 / small - 1 / large)
    beyond = large_time + slope / large - cached
    if slope <= 0 or beyond <= 0:
        return llc_bytes()
    return int(min(llc_bytes(), small, slope / beyond))


def measure_strategies(clock: Clock, threads: int) -> tuple[StrategyRate, ...]:
    """Look-ups in small tables by every strategy that they can have."""
    random = np.random.default_rng(0)
    rates = []
    for num_rows, dim, pooling in itertools.product(_STRATEGY_ROWS, _STRATEGY_DIMS, _STRATEGY_POOLINGS):
        clock.announce(f"look-ups in a table of {num_rows} x {dim}, {pooling} to a bag", _PART / 2)
        rows = random.standard_normal((num_rows, dim), dtype=np.float32)
        if rows.nbytes > MAX_TIMED_BYTES:
            continue
        for strategy, ns in lookup_ns(rows, pooling=pooling, threads=threads).items():
            rates.append(
                StrategyRate(
                    strategy=strategy, rows=num_rows, embedding_dim=dim, pooling=pooling, ns=threads * ns
                )
            )
    return tuple(rates)

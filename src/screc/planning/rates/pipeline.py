"""The engine at work: what look-ups, reads and layers cost together beyond what each costs alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from screc import _native
from screc.planning.rates.clock import Clock
from screc.planning.rates.dense import SHAPE, batches_of, random_engine
from screc.planning.rates.ssd import FILE_DIM
from screc.planning.system import BagRate
from screc.storage.layout import PAGE_BYTES, PageGeometry, TtShape

_BATCH_SIZE = 1024
_BAG_DIMS = (16, 64)
_BAG_TABLES = 26
_BATCHES = 8
_PART = 0.02


def measure_bags(clock: Clock, threads: int, near_ns: dict[int, float]) -> tuple[BagRate, ...]:
    """What a bag costs besides the rows in it: bags of one row in the shared cache, 26 tables, hardly any
    layers, less the same batches with empty bags.

    Args:
        clock: to measure with.
        threads: of the engine.
        near_ns: device-ns of an fp32 look-up in the shared cache by dimension.
    """
    random = np.random.default_rng(0)
    rates = []
    for dim in _BAG_DIMS:
        shape = replace(SHAPE, embedding_dim=dim, table_dims=(dim,) * _BAG_TABLES, bottom=(dim,), top=(1,))
        rows = 2**24 // (4 * dim * _BAG_TABLES)
        store = _native.RowStore(threads=threads)
        tables = random.standard_normal((_BAG_TABLES, rows, dim), dtype=np.float32)
        for table in tables:
            store.add_dram_band(store.add_table(rows, dim), table, None)
        engine = random_engine(store, shape)
        bags = _BAG_TABLES * _BATCH_SIZE
        full = batches_of(
            engine, shape, list(random.integers(0, rows, (2 * _BATCHES, bags))), np.arange(bags + 1), _BATCHES
        )
        empty = batches_of(engine, shape, [np.zeros(0, np.int64)], np.zeros(bags + 1), _BATCHES)
        (filled, spread), (bare, _) = clock.compare(f"bags of {dim}", _PART, full, empty)
        ns = threads * 1e9 * (filled - bare) / (_BATCHES * bags) - near_ns[dim]
        rates.append(BagRate(embedding_dim=dim, ns=max(ns, 0.0), spread=spread))
    return tuple(rates)


@dataclass(frozen=True, slots=True)
class PipelineFigures:
    """What :func:`measure_pipeline` finds.

    Attributes:
        page_ns: device-ns of a page besides the drive's time.
        overlap: share of the shorter of the drive's and the devices' time that is hidden behind the longer.
    """

    page_ns: float
    overlap: float


def measure_pipeline(clock: Clock, threads: int, path: Path, pages_per_second: float) -> PipelineFigures:
    """Streams of batches that read pages while layers are computed.

    With fewer pages than the layers leave time for, what they add is what they cost the threads. Then one
    stream in which reading takes as long as computing, in fp32, and one that mostly reads, its layers in
    int8: what is hidden is the mean of both.

    Args:
        clock: to measure with.
        threads: of the engine.
        path: the page file.
        pages_per_second: of the drive.
    """
    num_pages = path.stat().st_size // PAGE_BYTES
    per_page = PageGeometry.of(4 * FILE_DIM).rows_per_page
    store = _native.RowStore(threads=threads)
    store.add_ssd_band(store.add_table(num_pages * per_page, FILE_DIM), str(path), 0, None)
    for _ in SHAPE.table_dims[1:]:
        store.add_dram_band(store.add_table(1, FILE_DIM), np.zeros((1, FILE_DIM), np.float32), None)
    exact, short = (random_engine(store, SHAPE, precision) for precision in ("fp32", "int8"))

    def fitting(seconds: float) -> int:
        return min(num_pages, max(1, round(seconds * pages_per_second)))

    def stream(engine: _native.Engine, pages: int) -> Callable[[], None]:
        return _reading(engine, pages, num_pages, per_page)

    alone = clock.time("a stream without reads", _PART, stream(exact, 0)).seconds / _BATCHES
    few, many = fitting(0.4 * alone), fitting(alone)
    runs = ((exact, 0), (exact, few), (exact, many), (short, 0), (short, many))
    base, some, even, short_base, mostly = (
        timing.seconds / _BATCHES
        for timing in clock.compare("streams with reads", 3 * _PART, *(stream(*run) for run in runs))
    )
    page_seconds = max(0.0, some - base) / few
    reading = many / pages_per_second
    hidden = []
    for computing, together in ((base, even), (short_base, mostly)):
        computing += many * page_seconds
        shown = (computing + reading - together) / min(computing, reading)
        hidden.append(float(np.clip(shown, 0.0, 1.0)))
    return PipelineFigures(threads * 1e9 * page_seconds, sum(hidden) / len(hidden))


def _reading(engine: _native.Engine, pages: int, num_pages: int, per_page: int) -> Callable[[], None]:
    """A stream of batches that each read so many of the first table's pages, other ones each time."""
    random = np.random.default_rng(0)
    others = (len(SHAPE.table_dims) - 1) * _BATCH_SIZE
    ids = []
    for _ in range(4 * _BATCHES):
        rows = random.choice(num_pages, pages, replace=False) * per_page
        ids.append(np.concatenate((rows, np.zeros(others, np.int64))))
    own = np.linspace(0, pages, _BATCH_SIZE + 1).astype(np.int64)
    offsets = np.concatenate((own, pages + np.arange(1, others + 1)))
    return batches_of(engine, SHAPE, ids, offsets, _BATCHES)


def measure_batch_ns(clock: Clock, threads: int) -> float:
    """Nanoseconds that a small batch takes longer where it passes through the stages of the pipeline than
    where each thread looks up what it computes."""
    size, bags = 32 * threads, 32 * threads * _BAG_TABLES
    runs = []
    for staged in (False, True):
        store = _native.RowStore(threads=threads)
        for number in range(_BAG_TABLES):
            table = store.add_table(1, FILE_DIM)
            if staged and number == _BAG_TABLES - 1:
                cores = TtShape.balanced(1, FILE_DIM, 1)
                ones = [np.ones(cores.core_shape(core), np.float32) for core in range(cores.num_cores)]
                store.add_tt_band(table, ones, None)
            else:
                store.add_dram_band(table, np.ones((1, FILE_DIM), np.float32), None)
        ids = np.zeros(bags - size, np.int64)
        offsets = np.minimum(np.arange(bags + 1), bags - size)
        runs.append(batches_of(random_engine(store, SHAPE), SHAPE, [ids], offsets, _BATCHES))
    (blocks, _), (stages, _) = clock.compare("small batches", _PART, *runs)
    return max(0.0, 1e9 * (stages - blocks) / _BATCHES)

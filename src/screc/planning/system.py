"""What a host can do, measured: the rates that predictions are made from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from screc.planning.documents import Document
from screc.storage.frozen import Frozen
from screc.storage.layout import TtShape
from screc.storage.strategy import MAX_TIMED_BYTES, STRATEGIES, fastest_strategy


class GatherRate(Frozen):
    """Time to fetch one row of a table in DRAM, all threads together (wall-clock ns per row)."""

    row_bytes: PositiveInt
    random_ns: PositiveFloat
    """Rows all over a table much larger than the last-level cache."""
    cached_ns: PositiveFloat
    """Rows of a table that stays in the cache."""
    spread: float = Field(default=0.0, ge=0)
    """Interquartile range / median over the rounds of the random measurement."""


class DramSpec(Frozen):
    """DRAM of the host."""

    num_bytes: PositiveInt
    sequential_bytes_per_second: PositiveFloat
    gather: tuple[GatherRate, ...] = Field(min_length=1)


class ReadRate(Frozen):
    """Random 4 KiB reads at one queue depth."""

    queue_depth: PositiveInt
    pages_per_second: PositiveFloat
    latency_seconds: PositiveFloat
    """Mean time of one read at this depth: depth / pages_per_second."""
    spread: float = Field(default=0.0, ge=0)


class SsdSpec(Frozen):
    """The SSD behind the directory that was probed."""

    capacity_bytes: int = Field(ge=0)
    """Free bytes at the time of the probe."""
    backend: str
    reads: tuple[ReadRate, ...] = Field(min_length=1)


class GemmRate(Frozen):
    """Rate of a fully connected layer on a batch of ``samples`` rows, float32."""

    samples: PositiveInt
    gflops: PositiveFloat
    spread: float = Field(default=0.0, ge=0)


class TtRate(Frozen):
    """Time to rebuild one row from tensor-train cores, all threads together (wall-clock ns per row)."""

    tt_rank: PositiveInt
    embedding_dim: PositiveInt
    flops_per_row: PositiveInt
    ns_per_row: PositiveFloat
    spread: float = Field(default=0.0, ge=0)


class StrategyRate(Frozen):
    """Time of a look-up in a small fp32 table by one strategy, all threads together (wall-clock ns)."""

    strategy: Literal[STRATEGIES]  # type: ignore[valid-type]
    rows: PositiveInt
    embedding_dim: PositiveInt
    pooling: PositiveInt
    """Look-ups in each bag."""
    ns_per_lookup: PositiveFloat


class SystemSpec(Document):
    """Measured rates of one host (or a preset), as versioned JSON. No host name is recorded."""

    format: Literal["screc-system"] = "screc-system"
    version: Literal[1] = 1
    source: str
    """``probe`` or the name of a preset."""
    date: str
    cores: PositiveInt
    threads: PositiveInt
    """Threads that all rates were measured with."""
    isa: str
    llc_bytes: PositiveInt
    dram: DramSpec
    ssd: SsdSpec | None
    """None where there is no SSD to plan with."""
    gemm: tuple[GemmRate, ...] = Field(min_length=1)
    tt: tuple[TtRate, ...] = Field(min_length=1)
    strategies: tuple[StrategyRate, ...] = ()
    """Empty where they were not measured."""

    @model_validator(mode="after")
    def _ordered(self) -> SystemSpec:
        _ascending("dram.gather", [rate.row_bytes for rate in self.dram.gather])
        _ascending("gemm", [rate.samples for rate in self.gemm])
        if self.ssd is not None:
            _ascending("ssd.reads", [rate.queue_depth for rate in self.ssd.reads])
        return self

    def gather_ns(self, row_bytes: int, *, cached: bool) -> float:
        """ns to fetch a row of ``row_bytes`` bytes; interpolated, beyond the largest in proportion."""
        sizes = [rate.row_bytes for rate in self.dram.gather]
        times = [rate.cached_ns if cached else rate.random_ns for rate in self.dram.gather]
        if row_bytes > sizes[-1]:
            return times[-1] * row_bytes / sizes[-1]
        return float(np.interp(row_bytes, sizes, times))

    def tt_ns(self, shape: TtShape) -> float:
        """ns to rebuild one row of this shape.

        Among the measurements of the nearest embedding dimension, interpolated over the flops of a row
        (log-log); outside them in proportion to the flops above and constant below.
        """
        dim = shape.embedding_dim
        nearest = min(self.tt, key=lambda rate: abs(math.log(rate.embedding_dim / dim))).embedding_dim
        rates = sorted(
            (rate.flops_per_row, rate.ns_per_row) for rate in self.tt if rate.embedding_dim == nearest
        )
        flops = np.array([rate[0] for rate in rates], dtype=np.float64)
        times = np.array([rate[1] for rate in rates])
        wanted = max(1, shape.flops_per_row)
        if wanted > flops[-1]:
            return float(times[-1] * wanted / flops[-1])
        return float(np.exp(np.interp(np.log(wanted), np.log(flops), np.log(times))))

    def gemm_flops(self, samples: int) -> float:
        """Float operations per second of a fully connected layer on ``samples`` rows."""
        sizes = np.log([rate.samples for rate in self.gemm])
        return 1e9 * float(np.interp(math.log(samples), sizes, [rate.gflops for rate in self.gemm]))

    def best_strategy(self, rows: int, dim: int, pooling: float = 1.0) -> str:
        """The look-up strategy for an fp32 table in DRAM of ``rows`` rows of ``dim`` columns.

        That of the measured table nearest in dimension and pooling, and of those the smallest with as many
        rows, so that what was possible there is possible here. Larger tables than any measured are gathered.
        """
        if 4 * rows * dim > MAX_TIMED_BYTES:
            return "gather"
        as_large = [rate for rate in self.strategies if rate.rows >= rows]
        if not as_large:
            return "gather"

        def distance(rate: StrategyRate) -> tuple[float, float, int]:
            return (
                abs(math.log(rate.embedding_dim / dim)),
                abs(math.log(rate.pooling / max(pooling, 1.0))),
                rate.rows,
            )

        nearest = distance(min(as_large, key=distance))
        return fastest_strategy(
            {rate.strategy: rate.ns_per_lookup for rate in as_large if distance(rate) == nearest}
        )

    def pages_per_second(self, queue_depth: int) -> float:
        """Random 4 KiB reads per second at a queue depth, interpolated over log depth; 0 without an SSD."""
        if self.ssd is None:
            return 0.0
        depths = np.log([rate.queue_depth for rate in self.ssd.reads])
        return float(np.interp(math.log(queue_depth), depths, [r.pages_per_second for r in self.ssd.reads]))

    @property
    def ssd_latency_seconds(self) -> float:
        """Time of one read at the lowest measured queue depth; 0 without an SSD."""
        return self.ssd.reads[0].latency_seconds if self.ssd is not None else 0.0


def _ascending(field: str, values: Sequence[int]) -> None:
    if any(a >= b for a, b in itertools.pairwise(values)):
        raise ValueError(f"{field} must be in ascending order, got {list(values)}")


def reference_system(*, ssd: bool = True) -> SystemSpec:
    """A fixed system for tests and examples: a 2-core server with AVX-512 and one NVMe SSD.

    Its rates were measured (two threads; random rows on 2 MB pages; fp32 GEMM; O_DIRECT random reads through
    io_uring), except rows of 16, 32, 128 and 1024 bytes, all ``cached_ns``, and TT ranks 4 and 64 and
    dimensions 16 and 128, which are extended from the measured points; ``llc_bytes`` is assumed. For
    decisions, use ``probe``.
    """
    gather = (
        (16, 14.0, 3.0),
        (32, 15.0, 3.5),
        (64, 16.3, 5.0),
        (128, 21.0, 7.5),
        (256, 27.8, 13.0),
        (512, 38.5, 22.0),
        (1024, 76.0, 42.0),
    )
    tt = (
        (4, 16, 5.0),
        (8, 16, 10.0),
        (16, 16, 22.0),
        (32, 16, 75.0),
        (64, 16, 280.0),
        (4, 64, 16.0),
        (8, 64, 34.6),
        (16, 64, 71.0),
        (32, 64, 270.0),
        (64, 64, 1020.0),
        (4, 128, 24.0),
        (8, 128, 50.0),
        (16, 128, 92.0),
        (32, 128, 330.0),
        (64, 128, 1200.0),
    )
    reads = ((1, 11_600.0), (16, 83_700.0), (64, 115_800.0), (256, 116_400.0))
    return SystemSpec(
        source="preset reference",
        date="undated",
        cores=2,
        threads=2,
        isa="avx512",
        llc_bytes=32 * 2**20,
        dram=DramSpec(
            num_bytes=24 * 2**30,
            sequential_bytes_per_second=28.5e9,
            gather=tuple(GatherRate(row_bytes=b, random_ns=r, cached_ns=c) for b, r, c in gather),
        ),
        ssd=SsdSpec(
            capacity_bytes=200 * 10**9,
            backend="io_uring",
            reads=tuple(
                ReadRate(queue_depth=depth, pages_per_second=rate, latency_seconds=depth / rate)
                for depth, rate in reads
            ),
        )
        if ssd
        else None,
        gemm=tuple(
            GemmRate(samples=samples, gflops=gflops)
            for samples, gflops in ((1, 24.0), (16, 120.0), (128, 258.0), (1024, 300.0), (4096, 314.0))
        ),
        tt=tuple(
            TtRate(
                tt_rank=rank,
                embedding_dim=dim,
                flops_per_row=TtShape.balanced(10_077_696, dim, rank).flops_per_row,
                ns_per_row=ns,
            )
            for rank, dim, ns in tt
        ),
    )

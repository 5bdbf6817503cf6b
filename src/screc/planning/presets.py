"""Systems that are not measured here: a fixed one for tests and examples, and machines we do not own."""

from __future__ import annotations

import numpy as np

from screc.planning.system import (
    Capacities,
    DenseRate,
    DeviceSpec,
    ReadRate,
    RowRate,
    SsdSpec,
    SystemSpec,
    TtRate,
    Where,
)
from screc.storage.layout import TtShape
from screc.storage.row_format import LARGEST_CODE, ROW_FORMATS, row_bytes

_DIMS = (4, 8, 16, 32, 64, 128, 256)


def reference_system(*, ssd: bool = True) -> SystemSpec:
    """A fixed system for tests and examples: a 2-core server with AVX-512 and one NVMe SSD.

    Its rates were measured (two threads; random rows on 2 MB pages; fp32 GEMM; O_DIRECT random reads through
    io_uring), except those that ``assumed`` names. For decisions, use ``probe``.
    """
    # Device-ns by bytes of the row: from DRAM, and from the shared cache.
    gather = (
        (16, 28.0, 6.0),
        (32, 30.0, 7.0),
        (64, 32.6, 10.0),
        (128, 42.0, 15.0),
        (256, 55.6, 26.0),
        (512, 77.0, 44.0),
        (1024, 152.0, 84.0),
    )
    places: dict[Where, list[tuple[int, float]]] = {
        "private": [(size, cached / 2) for size, _, cached in gather],
        "llc": [(size, cached) for size, _, cached in gather],
        "dram": [(size, random) for size, random, _ in gather],
    }
    tt = (
        (4, 16, 10.0),
        (8, 16, 20.0),
        (16, 16, 44.0),
        (32, 16, 150.0),
        (64, 16, 560.0),
        (4, 64, 32.0),
        (8, 64, 69.2),
        (16, 64, 142.0),
        (32, 64, 540.0),
        (64, 64, 2040.0),
        (4, 128, 48.0),
        (8, 128, 100.0),
        (16, 128, 184.0),
        (32, 128, 660.0),
        (64, 128, 2400.0),
    )
    reads = ((1, 11_600.0), (16, 83_700.0), (64, 115_800.0), (256, 116_400.0))
    return SystemSpec(
        source="preset reference",
        date="undated",
        machine="2-core virtual server, Sapphire-Rapids class",
        isa="avx512",
        devices=DeviceSpec(kind="core", count=2, private=Capacities(llc_bytes=2 * 2**20)),
        shared=Capacities(llc_bytes=32 * 2**20, dram_bytes=24 * 2**30, ssd_bytes=200 * 10**9 if ssd else 0),
        dram_bytes_per_second=28.5e9,
        rows=row_rates(places, decode_ns_per_value=0.1, busy=2),
        ssd=SsdSpec(
            backend="io_uring",
            reads=tuple(
                ReadRate(queue_depth=depth, pages_per_second=rate, latency_seconds=depth / rate)
                for depth, rate in reads
            ),
            page_ns=1500.0,
        )
        if ssd
        else None,
        dense=tuple(
            DenseRate(precision="fp32", samples=samples, flops=10**6, ns=2 * 1e6 / gflops)
            for samples, gflops in ((1, 24.0), (8, 120.0), (64, 258.0), (512, 300.0), (2048, 314.0))
        ),
        tt=tuple(
            TtRate(
                tt_rank=rank,
                embedding_dim=dim,
                flops_per_row=TtShape.balanced(10_077_696, dim, rank).flops_per_row,
                ns=ns,
            )
            for rank, dim, ns in tt
        ),
        assumed={
            "shared.llc_bytes": "the share of a large server's cache that two of its cores get",
            "rows": "rows of 16, 32, 128 and 1024 bytes, all in private or llc, and all decoding of formats",
            "tt": "TT ranks 4 and 64, dimensions 16 and 128: extended from the measured ranks and dimension",
            "ssd.page_ns": "1.5 us",
        },
    )


def row_rates(
    places: dict[Where, list[tuple[int, float]]], *, decode_ns_per_value: float, busy: int
) -> tuple[RowRate, ...]:
    """Rates of every row format from times by row bytes, plus the time to decode what is not fp32.

    Args:
        places: for each place (bytes of a row, device-ns), bytes ascending.
        decode_ns_per_value: device-ns for each value of a row in another format than fp32.
        busy: devices at work.
    """
    rates = []
    for where, points in places.items():
        sizes, times = zip(*points, strict=True)
        for row_format in ROW_FORMATS:
            decode = 0.0 if row_format == "fp32" else decode_ns_per_value
            for scale in ("row", "table") if row_format in LARGEST_CODE else ("row",):
                for dim in _DIMS:
                    size = row_bytes(row_format, dim, scale)
                    ns = float(np.interp(size, sizes, times)) + decode * dim
                    rates.append(
                        RowRate(
                            where=where,
                            row_format=row_format,
                            scale=scale,
                            embedding_dim=dim,
                            ns=ns,
                            busy=busy,
                        )
                    )
    return tuple(rates)

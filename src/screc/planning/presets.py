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


def server(cores: int = 64, drives: int = 4) -> SystemSpec:
    """A server of many cores with 2 MiB of second-level cache each and NVMe drives; not measured.

    Raises:
        ValueError: no cores, or no drives.
    """
    _check(cores=cores, drives=drives)
    dram = [(size, 28 + 0.1 * size) for size in _ROW_BYTES]
    return SystemSpec(
        source=f"preset server, {cores} cores",
        date="undated",
        machine=f"server of {cores} cores and {drives} NVMe drives",
        isa="avx512",
        devices=DeviceSpec(kind="core", count=cores, private=Capacities(llc_bytes=2 * 2**20)),
        shared=Capacities(dram_bytes=256 * 2**30, ssd_bytes=drives * 3_840 * 10**9),
        dram_bytes_per_second=250e9,
        rows=row_rates(
            {"private": [(size, ns / 5) for size, ns in dram], "dram": dram},
            decode_ns_per_value=0.1,
            busy=cores,
        ),
        tt=_tt_rates({8: 67, 16: 111, 32: 250, 64: 909}),
        dense=_dense_rates(150.0),
        ssd=_ssd("io_uring", drives * 300_000.0, page_ns=1500.0),
        assumed={
            "shared, dram_bytes_per_second": "256 GB and 250 GB/s: assumed inputs of our planning prototype",
            "rows": "28 ns + 0.1 ns a byte fits random rows on a 2-core virtual machine; a fifth of it in "
            "private cache and 0.1 ns a value to decode are assumed",
            "tt": "15, 9, 4 and 1.1 M rows/s a core at TT rank 8, 16, 32, 64, dimension 64: inputs of our "
            "planning prototype; other dimensions by their flops",
            "dense": "150 GFLOP/s a core in fp32, as on that machine; other precisions count as fp32",
            "ssd": f"{drives} drives of 3.84 TB and 300,000 reads/s each, 1.5 us of a core a page: assumed",
        },
    )


def smartssd_array(count: int = 8) -> SystemSpec:
    """An array of SmartSSDs: 4 GB of DDR4, 8 MiB on chip and 3.84 TB of flash each; not measured.

    The devices' roles are fixed when they are configured. What the host adds is left out.

    Raises:
        ValueError: no devices.
    """
    _check(count=count)
    # A random row takes whole bursts of 64 bytes, at half of the DDR4's bandwidth.
    dram = [(size, max(64, size) / (0.5 * 19.2)) for size in _ROW_BYTES]
    return SystemSpec(
        source=f"preset smartssd, {count} devices",
        date="undated",
        machine=f"array of {count} SmartSSDs",
        isa="fpga",
        devices=DeviceSpec(
            kind="smartssd",
            count=count,
            fixed_role=True,
            private=Capacities(llc_bytes=8 * 2**20, dram_bytes=4 * 10**9, ssd_bytes=3_840 * 10**9),
        ),
        shared=Capacities(),
        dram_bytes_per_second=19.2e9,
        rows=row_rates(
            {"private": [(size, ns / 5) for size, ns in dram], "dram": dram},
            decode_ns_per_value=0.0,
            busy=count,
        ),
        tt=_tt_rates({8: 16.7, 16: 50, 32: 185, 64: 714}),
        dense=_dense_rates(200.0),
        ssd=_ssd("p2p", 300_000.0, page_ns=0.0),
        assumed={
            "devices.private": "3.84 TB and 4 GB of DDR4: public product data; 8 MiB on chip: from memory, "
            "not checked",
            "dram_bytes_per_second": "19.2 GB/s of DDR4-2400: from memory, not checked; half of it for "
            "random rows: assumed",
            "rows": "bytes / that; a fifth on chip, decoding hidden: assumed",
            "tt": "60, 20, 5.4 and 1.4 M rows/s at TT rank 8, 16, 32, 64, dimension 64: assumed inputs of "
            "our planning prototype",
            "dense": "200 GFLOP/s a device: assumed without a source",
            "ssd": "300,000 reads/s a device: assumed input of our planning prototype",
        },
    )


def gpu_node(count: int = 8) -> SystemSpec:
    """A node of GPUs whose HBM is their own fast memory, with the host's DRAM behind PCIe; not measured.

    Raises:
        ValueError: no GPUs.
    """
    _check(count=count)
    hbm = [(size, max(64, size) / 1000.0) for size in _ROW_BYTES]
    host = [(size, max(64, size) / 10.0) for size in _ROW_BYTES]
    return SystemSpec(
        source=f"preset gpu, {count} devices",
        date="undated",
        machine=f"node of {count} GPUs",
        isa="cuda",
        devices=DeviceSpec(kind="gpu", count=count, private=Capacities(llc_bytes=80 * 10**9)),
        shared=Capacities(dram_bytes=1024 * 2**30, ssd_bytes=4 * 3_840 * 10**9),
        dram_bytes_per_second=250e9,
        rows=row_rates({"private": hbm, "dram": host}, decode_ns_per_value=0.0, busy=count),
        tt=_tt_rates({8: 1.0, 16: 2.0, 32: 6.0, 64: 20.0}),
        dense=_dense_rates(10_000.0),
        ssd=_ssd("host", 1_200_000.0, page_ns=200.0),
        assumed={
            "everything": "orders of magnitude from memory, without a source: 80 GB of HBM at 1 TB/s of "
            "random rows, 10 GB/s to host DRAM a GPU, 10 TFLOP/s, 1.2 M reads/s; for comparing forms of "
            "plans only"
        },
    )


_ROW_BYTES = (16, 64, 128, 256, 512, 1024)


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")


def _tt_rates(ns_of_64: dict[int, float]) -> tuple[TtRate, ...]:
    """Rates of rows of 64 columns by TT rank; others follow from their flops."""
    return tuple(
        TtRate(
            tt_rank=rank,
            embedding_dim=64,
            flops_per_row=TtShape.balanced(10_077_696, 64, rank).flops_per_row,
            ns=ns,
        )
        for rank, ns in ns_of_64.items()
    )


def _dense_rates(gflops: float) -> tuple[DenseRate, ...]:
    """One rate for all batches."""
    return (DenseRate(precision="fp32", samples=64, flops=10**6, ns=1e6 / gflops),)


def _ssd(backend: str, pages_per_second: float, *, page_ns: float) -> SsdSpec:
    """Reads that take 90 us each until so many a second are reached."""
    reads = []
    for depth in (1, 16, 64, 256):
        rate = min(pages_per_second, depth / 90e-6)
        reads.append(ReadRate(queue_depth=depth, pages_per_second=rate, latency_seconds=depth / rate))
    return SsdSpec(backend=backend, reads=tuple(reads), page_ns=page_ns)


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

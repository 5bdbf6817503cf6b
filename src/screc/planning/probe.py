"""Measuring a host: the system spec from half a minute of the same native code that serves."""

from __future__ import annotations

import math
import shutil
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

from screc import _native
from screc.planning.dense import DenseShape
from screc.planning.rates.clock import Clock, Progress
from screc.planning.rates.dense import dense_rate, measure_dense
from screc.planning.rates.host import core_cache_bytes, machine, total_bytes
from screc.planning.rates.pipeline import measure_bags, measure_batch_ns, measure_pipeline
from screc.planning.rates.rows import RowProbe, filled_memory, measure_strategies
from screc.planning.rates.ssd import measure_reads, page_file
from screc.planning.rates.trains import measure_trains
from screc.planning.system import Capacities, DeviceSpec, OverlapSpec, SsdSpec, SystemSpec
from screc.storage.dense_precision import PRECISIONS

_DENSE_SECONDS = 1.0


def probe(
    directory: str | Path,
    *,
    seconds: float = 30.0,
    threads: int = 0,
    ssd: bool = True,
    progress: Progress | None = None,
) -> SystemSpec:
    """Measure this host: look-ups of every row format, tensor trains, dense layers, and the SSD behind
    ``directory``, each alone and together in the engine.

    Every figure is the median of at least five rounds, with its spread. Memory: a table of eight times the
    last-level cache (1 to 2 GiB, at most a quarter of what is available). On the SSD: a file of up to
    1 GiB (half the free space if that is less), read past the page cache and deleted afterwards. An SSD with
    a large memory of its own may answer faster on so small a file than on full-size tables.

    Args:
        directory: where tables on SSD would be stored.
        seconds: time to measure for, about, besides preparing the table and the file. A few seconds are
            needed for the least number of rounds.
        threads: threads to measure with; 0 means one per available core.
        ssd: False to leave the SSD out; nothing is written then.
        progress: called with (what is measured next, percent done, 100).

    Raises:
        NotADirectoryError: ``directory`` does not exist or is not one.
        OSError: it has no room for the test file, cannot be written, or has no direct reads; names it.
        ValueError: ``seconds`` or ``threads`` is out of range.
    """
    directory = Path(directory)
    if not seconds > 0 or math.isinf(seconds):
        raise ValueError(f"seconds must be positive, got {seconds}")
    if not directory.is_dir():
        raise NotADirectoryError(f"{directory} is not a directory; probe one on the SSD that will be used")
    threads = _native.ThreadPool(threads).num_threads
    free = shutil.disk_usage(directory).free if ssd else 0
    clock = Clock(seconds, progress)
    with page_file(directory) if ssd else nullcontext() as path:
        # The SSD first: what fails most often fails before the time is spent.
        reads = measure_reads(clock, path) if path else None
        fastest = max(read.pages_per_second for read in reads.reads) if reads else 0.0
        pipeline = measure_pipeline(clock, threads, path, fastest) if path else None
    lookups = RowProbe(clock, filled_memory(), threads)
    rows = lookups.measure()
    near = {
        rate.embedding_dim: rate.ns
        for rate in rows.rows
        if (rate.where, rate.row_format, rate.busy) == ("llc", "fp32", threads)
    }
    return SystemSpec(
        source="probe",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        isa=_native.isa(),
        devices=DeviceSpec(kind="core", count=threads, private=Capacities(llc_bytes=core_cache_bytes())),
        shared=Capacities(llc_bytes=rows.llc_bytes, dram_bytes=total_bytes(), ssd_bytes=free),
        dram_bytes_per_second=rows.dram_bytes_per_second,
        rows=rows.rows,
        index=lookups.indices(rows.rows),
        bags=measure_bags(clock, threads, near),
        tt=measure_trains(clock, threads),
        dense=measure_dense(clock, threads),
        ssd=SsdSpec(
            backend=reads.backend, reads=reads.reads, adjacent=reads.adjacent, page_ns=pipeline.page_ns
        )
        if reads and pipeline
        else None,
        strategies=measure_strategies(clock, threads),
        batch_ns=measure_batch_ns(clock, threads),
        overlap=OverlapSpec(ssd=pipeline.overlap if pipeline else 0.0),
    )


def probe_dense(
    system: SystemSpec, shape: DenseShape, *, batch_size: int, seconds: float = _DENSE_SECONDS
) -> SystemSpec:
    """The system, which must be this host's, with rates of a model's own dense part in every precision.

    How fast layers are depends on their shape more than other figures depend on anything, and is measured in
    a second.

    Args:
        system: from :func:`probe` on this host.
        shape: of the model.
        batch_size: samples per batch.
        seconds: to measure for, about.

    Raises:
        ValueError: the system is another machine, instruction set or not measured.
    """
    if not measured_here(system):
        raise ValueError(f"system: {system.source}, {system.machine}, {system.isa} is not this host")
    clock, threads = Clock(seconds, None), system.devices.count
    own = [
        dense_rate(clock, shape, batch_size, precision, threads, 1 / len(PRECISIONS))
        for precision in PRECISIONS
    ]
    others = [rate for rate in system.dense if rate.flops != shape.flops]
    return system.model_copy(update={"dense": (*others, *own)})


def measured_here(system: SystemSpec) -> bool:
    """Whether a system was measured on a host like this one."""
    return (system.source, system.machine, system.isa) == ("probe", machine(), _native.isa())

"""Offline work with an engine: predict a whole click log, and measure the engine on one."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screc.data import Batch, ClickLog
from screc.data.log import Progress, check_log
from screc.serving.engine import Engine, Roles
from screc.statistics.metrics import Metrics, StreamingMetrics
from screc.storage import DataFlow, replace_file


@dataclass(frozen=True, slots=True)
class ScoringReport:
    """What predicting a log gave.

    Attributes:
        num_samples: samples predicted.
        metrics: AUC, log-loss and normalised entropy; None where the log has no labels.
        predict_seconds: wall time inside the engine, without reading the log.
        store: the row store's counters for this log.
        peak_resident_bytes: largest resident set of this process so far (VmHWM).
    """

    num_samples: int
    metrics: Metrics | None
    predict_seconds: float
    store: dict[str, Any]
    peak_resident_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rate = self.num_samples / self.predict_seconds if self.predict_seconds else 0.0
        return asdict(self) | {"samples_per_s": rate}


def score(
    engine: Engine,
    log: ClickLog,
    *,
    batch_size: int = 4096,
    out: Path | None = None,
    progress: Progress | None = None,
) -> ScoringReport:
    """Predict every sample of a log in bounded memory.

    Args:
        engine: an open engine whose tables fit the log's.
        log: the click log.
        batch_size: samples per call of the engine.
        out: where to write the probabilities: ``.npy`` (float32 [num_samples]) or any other name for one
            number per line. It appears there when it is complete; an older file stays until then.
        progress: called with (samples done, total or None).

    Raises:
        ValueError: the log's tables or dense features are not the model's, or a batch is malformed; the
            message names what differs.
        OSError: a page is damaged, or the disk is full; ``out`` is unchanged.
    """
    check_log(log, engine.tables, engine.num_dense)
    quality = StreamingMetrics()
    done, labelled, seconds = 0, 0, 0.0
    reading = _TimedBatches(log.batches(batch_size))
    stream = engine.predict_stream(reading)
    with _predictions_file(out) as append:
        while True:
            begin = time.perf_counter()
            predicted = next(stream, None)
            seconds += time.perf_counter() - begin
            if predicted is None:
                break
            batch, probabilities = predicted
            append(probabilities)
            if batch.labels is not None:
                quality.update(probabilities, batch.labels)
                labelled += batch.batch_size
            done += batch.batch_size
            if progress:
                progress(done, log.num_samples)
    return ScoringReport(
        num_samples=done,
        metrics=quality.result() if labelled else None,
        predict_seconds=seconds - reading.seconds,
        store=counters(engine),
        peak_resident_bytes=peak_resident_bytes(),
    )


@dataclass(frozen=True, slots=True)
class Throughput:
    """Speed of an engine on batches of one size.

    Attributes:
        batch_size: samples per call.
        median_ms, p99_ms: milliseconds per call.
        samples_per_s: batch_size / median.
        calls: calls timed.
    """

    batch_size: int
    median_ms: float
    p99_ms: float
    samples_per_s: float
    calls: int


def measure(engine: Engine, log: ClickLog, *, batch_size: int, seconds: float = 3.0) -> Throughput:
    """Time ``engine.predict`` on batches of a log, read before the clock starts.

    Different batches take turns, as many as there are up to 64, so that caches see a stream, not one batch.

    Raises:
        ValueError: the log does not fit the model, or is shorter than one batch.
    """
    batches = _whole_batches(engine, log, batch_size)
    for batch in batches[:4]:
        engine.predict(batch)
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times) < len(batches):
        begin = time.perf_counter()
        engine.predict(batches[len(times) % len(batches)])
        times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    return Throughput(
        batch_size=batch_size,
        median_ms=median * 1e3,
        p99_ms=float(np.percentile(times, 99)) * 1e3,
        samples_per_s=batch_size / median,
        calls=len(times),
    )


def choose_roles(engine: Engine, log: ClickLog, *, batch_size: int) -> dict[Roles, float]:
    """Measure a stream of batches of a log under every way to part the engine's threads; the engine keeps the
    fastest.

    Returns:
        Samples per second by roles.

    Raises:
        ValueError: the log does not fit the model, or is shorter than one batch.
    """
    batches = _whole_batches(engine, log, batch_size)
    samples = sum(batch.batch_size for batch in batches)
    return {roles: samples / seconds for roles, seconds in engine.choose_roles(batches).items()}


def choose_data_flow(engine: Engine, log: ClickLog, *, batch_size: int) -> dict[DataFlow, float]:
    """Measure batches of a log in both data flows; the engine, which has a mapping, keeps the faster.

    Returns:
        Samples per second by data flow.

    Raises:
        RuntimeError: the engine has no mapping.
        ValueError: as :func:`choose_roles`.
    """
    batches = _whole_batches(engine, log, batch_size)
    samples = sum(batch.batch_size for batch in batches)
    return {flow: samples / seconds for flow, seconds in engine.choose_data_flow(batches).items()}


def _whole_batches(engine: Engine, log: ClickLog, batch_size: int) -> list[Batch]:
    check_log(log, engine.tables, engine.num_dense)
    whole = (batch for batch in log.batches(batch_size) if batch.batch_size == batch_size)
    batches = list(itertools.islice(whole, 64))
    if not batches:
        raise ValueError(f"batch_size: the log has fewer than {batch_size} samples; use a smaller one")
    return batches


def counters(engine: Engine) -> dict[str, Any]:
    """The row store's counters by name, for JSON."""
    stats = engine.stats()
    return {name: getattr(stats, name) for name in dir(stats) if not name.startswith("_")}


def peak_resident_bytes() -> int:
    """Largest resident set this process has had (VmHWM of /proc/self/status), in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class _TimedBatches:
    """An iterator of batches that knows how long reading them took, in seconds."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.seconds += time.perf_counter() - begin


@contextmanager
def _predictions_file(path: Path | None) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that adds probabilities to a file, which is in place only when complete."""
    if path is None:
        yield lambda probabilities: None
        return
    count = 0
    with replace_file(path) as temporary, open(temporary, "wb") as file:

        def append(probabilities: np.ndarray) -> None:
            nonlocal count
            if path.suffix == ".npy":
                file.write(probabilities.astype("<f4", copy=False).tobytes())
            else:
                np.savetxt(file, probabilities, fmt="%.9g")
            count += probabilities.size

        def write_header() -> None:
            # The same length for every count: the format leaves room for the first axis to grow.
            header = {"descr": "<f4", "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(file, header)

        if path.suffix == ".npy":
            write_header()
        yield append
        if path.suffix == ".npy":
            file.seek(0)
            write_header()

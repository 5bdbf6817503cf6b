"""Arms of a benchmark that serve an artifact: each engine in a process of its own, timed in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import check_batches
from benchmarks.memory_limit import Worker
from benchmarks.workload import Workload
from screc.data import Batch
from screc.serving import Engine
from screc.serving.calibration import arithmetic_of, calibrate

# Of all engines' counters, what reports keep.
_COUNTERS = (
    "lookups",
    "dram_rows",
    "tt_rows",
    "ssd_rows",
    "pages_read",
    "cache_hits",
    "cache_misses",
    "dram_bytes",
)
_PER_SAMPLE = ("tt_rows", "ssd_rows", "pages_read", "cache_hits")


def fresh_batches(workload: Workload, batch_size: int, number: int, count: int, *, seed: int) -> list[Batch]:
    """Zipf batches that depend on (seed, number) only: no batch comes twice, and all arms get the same."""
    generator = np.random.default_rng([seed, number])
    return [workload.batch(generator, batch_size, "zipf") for _ in range(count)]


def with_int8_layers(engine: Engine, workload: Workload, *, seed: int) -> Engine:
    """The same engine with int8 dense layers, calibrated on samples of the workload."""
    calibration = workload.batch(np.random.default_rng(seed), 16_384, "zipf")
    return engine.with_arithmetic(arithmetic_of(engine, "int8", calibrate(engine, [calibration])))


def engine_arm(engine: Engine, workload: Workload, batch_size: int, *, seed: int) -> Callable[..., Any]:
    """What an arm's process answers: ``"run", number, count`` with seconds per batch of so many batches,
    ``"stats"`` with counters and memory, ``"check"`` with predictions of :func:`check_batches`.

    The engine first takes the fastest of the ways to part its threads into roles.
    """
    ways = engine.choose_roles(fresh_batches(workload, batch_size, 10**6, 32, seed=seed), rounds=3)

    def run(what: str, number: int = 0, count: int = 0) -> Any:
        if what == "stats":
            counters = engine.stats()
            return {name: getattr(counters, name) for name in _COUNTERS} | {
                "roles": {str(roles): round(1e3 * seconds, 2) for roles, seconds in ways.items()},
                "direct_io": counters.direct_io,
                "resident_bytes": resident_bytes(),
            }
        if what == "check":
            return [engine.predict(batch) for batch in check_batches(workload)]
        batches = fresh_batches(workload, batch_size, number, count, seed=seed)
        begin = time.perf_counter()
        for _ in engine.predict_stream(batches):
            pass
        return (time.perf_counter() - begin) / count

    return run


def resident_bytes() -> int:
    """Memory of this process that is in DRAM now, without the page cache."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def time_in_turn(
    workers: dict[str, Worker],
    *,
    rounds: int,
    seconds: float,
    first_round: int = 0,
) -> dict[str, list[float]]:
    """Seconds per batch of each worker by round; workers take turns, in every round on the same new batches."""
    counts = {
        name: max(4, min(2000, round(seconds / worker.call("run", 10**5, 4))))
        for name, worker in workers.items()
    }
    times: dict[str, list[float]] = {name: [] for name in workers}
    names = list(workers)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(workers[name].call("run", first_round + number, counts[name]))
    return times


def counted_per_sample(before: dict[str, Any], after: dict[str, Any], samples: int) -> dict[str, float]:
    """What an engine counted for each of the samples between two answers to ``"stats"``."""
    return {f"{name}_per_sample": (after[name] - before[name]) / samples for name in _PER_SAMPLE}


def mean_error(got: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    """Largest root mean square of (answer - right), as a share of the right answers' deviation."""
    return max(
        float(np.sqrt(((np.asarray(a, dtype=np.float64) - r) ** 2).mean()) / r.std())
        for a, r in zip(got, right, strict=True)
    )

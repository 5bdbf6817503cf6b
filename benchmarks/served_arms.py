"""Arms of a benchmark that serve a model larger than memory, each in its own process, timed in turn."""

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

_COUNTERS = ("lookups", "dram_rows", "tt_rows", "ssd_rows", "pages_read", "cache_hits", "cache_misses")
# Made beforehand and held while they are served: they take memory beside the model's.
_BATCHES_AT_ONCE = 128
_PER_SAMPLE = ("tt_rows", "ssd_rows", "pages_read", "cache_hits", "cache_misses")


def fresh_batches(workload: Workload, batch_size: int, number: int, count: int, *, seed: int) -> list[Batch]:
    """Zipf batches that depend on (seed, number) only: no batch comes twice, and all arms get the same."""
    generator = np.random.default_rng([seed, number])
    return [workload.batch(generator, batch_size, "zipf") for _ in range(count)]


def with_int8_layers(engine: Engine, workload: Workload, *, seed: int) -> Engine:
    """The same engine with int8 dense layers, calibrated on samples of the workload."""
    calibration = workload.batch(np.random.default_rng(seed), 16_384, "zipf")
    return engine.with_arithmetic(arithmetic_of(engine, "int8", calibrate(engine, [calibration])))


def engine_arm(engine: Engine, workload: Workload, batch_size: int, *, seed: int) -> Callable[..., Any]:
    """What an arm's process answers: to ``"run", number, count`` seconds per batch of so many batches, to
    ``"stats"`` counters and memory, to ``"check"`` the predictions of :func:`check_batches`.

    The engine first takes the fastest of the ways to part its threads into roles.
    """
    ways = engine.choose_roles(fresh_batches(workload, batch_size, 10**9, 16, seed=seed), rounds=3)

    def run(what: str, number: int = 0, count: int = 0) -> Any:
        if what == "stats":
            counters = engine.stats()
            return {name: getattr(counters, name) for name in (*_COUNTERS, "dram_bytes", "direct_io")} | {
                "roles": {str(roles): round(1e3 * seconds, 2) for roles, seconds in ways.items()},
                "resident_bytes": resident_bytes(),
            }
        if what == "check":
            return [engine.predict(batch) for batch in check_batches(workload)]
        seconds = 0.0
        for start in range(0, count, _BATCHES_AT_ONCE):
            part = min(_BATCHES_AT_ONCE, count - start)
            batches = fresh_batches(workload, batch_size, number * 10**4 + start, part, seed=seed)
            begin = time.perf_counter()
            for _ in engine.predict_stream(batches):
                pass
            seconds += time.perf_counter() - begin
        return seconds / count

    return run


def resident_bytes() -> int:
    """Memory of this process that is in DRAM now, the page cache not counted."""
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def time_in_turn(
    workers: dict[str, Worker], batch_size: int, counted: Sequence[str], *, rounds: int, seconds: float
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Seconds per batch of each arm by round; arms take turns, in every round on the same new batches.

    Args:
        workers: the arms.
        batch_size: samples of a batch.
        counted: arms that answer to ``"stats"``.
        rounds: how many.
        seconds: of each arm in each round.

    Returns:
        Times, and what the counted arms say afterwards, with counts per sample over all rounds.
    """
    counts = {
        name: max(4, min(2000, round(seconds / worker.call("run", 10**5, 4))))
        for name, worker in workers.items()
    }
    before = {name: workers[name].call("stats") for name in counted}
    times: dict[str, list[float]] = {name: [] for name in workers}
    names = list(workers)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(workers[name].call("run", number, counts[name]))
    stats = {}
    for name in counted:
        after = workers[name].call("stats")
        samples = rounds * counts[name] * batch_size
        stats[name] = after | {
            f"{field}_per_sample": (after[field] - before[name][field]) / samples for field in _PER_SAMPLE
        }
    return times, stats


def relative_error(answer: np.ndarray, right: np.ndarray) -> float:
    """Root mean square of the difference, as a share of the right answers' standard deviation."""
    return float(np.sqrt(((np.asarray(answer, dtype=np.float64) - right) ** 2).mean()) / right.std())

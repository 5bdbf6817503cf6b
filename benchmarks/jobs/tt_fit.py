"""Job ``tt_fit``: tensor trains fitted to a table of ten million rows of 64, weighted by look-ups.

10.08 M rows = 216^3, d = 4 x 4 x 4, TT ranks 16 and 32, Zipf look-ups scattered over the ids; two tables
(``tt_tables.py``): a tensor train with noise, and rows as training leaves them. Ours is ``fit_tt`` with its
defaults, weighted and unweighted; the peer is TensorLy with its fastest SVD. Its time is that of the
decomposition alone (``prepared``), the transposition that it needs being made before; ``whole`` counts that
too. Errors of all are computed from the cores, by the same code.

Besides: the same band fitted in a process whose memory, page cache included, is a fraction of the band; and
a tenth of the rows with ids in random order and in the order of their look-ups.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.limits import Limits, measure_limits
from benchmarks.memory_limit import Worker
from benchmarks.peers import AbsentError
from benchmarks.peers.tensorly_tt import TensorlyTt
from benchmarks.tt_tables import KINDS, ZIPF_EXPONENT, look_ups, make_table
from screc import _native
from screc.storage.layout import TtShape
from screc.storage.tt_fit import TtFit, fit_tt

DIM = 64
TT_RANKS = (16, 32)
_ROWS_PER_STEP = 1 << 17


def errors(
    table: np.ndarray, weights: np.ndarray, cores: list[np.ndarray], pool: _native.ThreadPool
) -> dict[str, float]:
    """Relative errors of the rows that cores rebuild, by their definition."""
    wrong, total = np.zeros(2), np.zeros(2)
    for start in range(0, len(table), _ROWS_PER_STEP):
        rows = table[start : start + _ROWS_PER_STEP]
        rebuilt = np.empty_like(rows)
        _native.tt_rows(cores, start + np.arange(len(rows)), rebuilt, pool)
        rebuilt -= rows
        used = np.stack((weights[start : start + len(rows)].astype(np.float64), np.ones(len(rows))))
        wrong += used @ np.einsum("ij,ij->i", rebuilt, rebuilt)
        total += used @ np.einsum("ij,ij->i", rows, rows)
    weighted, unweighted = np.sqrt(wrong / total)
    return {"weighted": float(weighted), "unweighted": float(unweighted)}


class PeakMemory:
    """The most memory that this process held beyond what it held before, in ``bytes``."""

    def __enter__(self) -> PeakMemory:
        self._before = _resident("RssAnon")
        self._most, self._stop = self._before, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = self._most - self._before

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self._most = max(self._most, _resident("RssAnon"))


def _resident(field: str) -> int:
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def timed(call: Callable[[], object]) -> tuple[float, int, object]:
    """Seconds, peak memory and result of a call."""
    with PeakMemory() as peak:
        begin = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - begin
    return seconds, peak.bytes, result


def sweep_flops(shape: TtShape, middles: int) -> float:
    """Multiply-adds x 2 of a sweep over ``middles`` of the middle slices of three cores, those in double
    counted twice: the two contractions of the rows, those of the weights, and the systems of the slices."""
    lefts, _, slices = shape.row_factors
    own, rank = shape.col_factors[1], shape.ranks[2]
    rows, pairs = lefts * middles * slices, rank * (rank + 1) // 2
    size = max(1, min(rank, 256 // rank))
    blocks = -(-rank // size)
    contractions = 4 * rows * (shape.embedding_dim * rank + pairs)
    sums = blocks * size * (size + 1) * pairs + 4 * own * rank**3 * (1 + (blocks > 1))
    return contractions + middles * (lefts * sums + 2 * blocks * (size * rank) ** 3 / 3)


def limit_dict(shape: TtShape, fit: TtFit, limits: Limits | None, seconds: float) -> dict[str, float]:
    """What a fit takes at least: its operations at the peak rate, its rows at the rate of reading them."""
    if limits is None:
        return {}
    # The start is two sweeps at a TT rank larger by 8 and two at this one, over an eighth of the band.
    middles, larger = shape.row_factors[1], tuple(r + 8 if r > 1 else 1 for r in shape.ranks)
    start = shape.model_copy(update={"ranks": larger})
    flops = len(fit.history) * sweep_flops(shape, middles)
    flops += 2 * (sweep_flops(shape, middles // 8) + sweep_flops(start, middles // 8))
    passes = 2 * (len(fit.history) + 4 / 8)
    by_flops = flops / limits.operations_per_s["fp32"]
    by_bytes = passes * shape.num_rows * 4 * shape.embedding_dim / limits.read_bytes_per_s
    return {
        "flops": flops,
        "passes": passes,
        "flops_seconds": by_flops,
        "bytes_seconds": by_bytes,
        "achieved": max(by_flops, by_bytes) / seconds,
    }


def bounded_fit(*, rows: str, weights: str, shape: TtShape, memory_bytes: int) -> Callable[[], dict]:
    """The arm that fits a band from a file in a process of its own."""
    table, counts = np.load(rows, mmap_mode="r"), np.load(weights)

    def fit() -> dict[str, float]:
        # A function, not an array: its rows are copied, as those of a table cut into bands are.
        seconds, peak, result = timed(
            lambda: fit_tt(
                lambda slots: np.asarray(table[slots]),
                len(table),
                shape,
                weights=counts,
                memory_bytes=memory_bytes,
            )
        )
        return {"seconds": seconds, "peak_bytes": peak, "error": result.error, "sweeps": len(result.history)}

    return fit


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's ``results``, ``ratios`` and ``settings``."""
    console = Console(width=150)
    threads = len(os.sched_getaffinity(0))
    pool = _native.ThreadPool(threads)
    factor = 40 if quick else 216
    num_rows = factor**3
    limits = measure_limits(threads, (4 * DIM,), quick=True)
    console.print(f"tt_fit: {num_rows:,} rows x {DIM}, {threads} threads")
    if limits is not None:
        console.print(limits.describe())
    weights = look_ups(num_rows, 10 * num_rows)
    results: dict[str, object] = {}
    ratios: dict[str, float] = {}
    version = "absent"
    view = Table("table", "TT rank", "arm", "seconds", "peak MB", "weighted error", "unweighted", "ratio")
    for kind in KINDS:
        table = make_table(kind, num_rows, DIM, weights)
        tensor, transposed = None, 0.0
        for rank in TT_RANKS:
            shape = TtShape(row_factors=(factor,) * 3, col_factors=(4,) * 3, ranks=(1, rank, rank, 1))
            key = f"tt_fit.{kind}.r{rank}"

            def ours(weights: np.ndarray | None, table=table, shape=shape) -> TtFit:
                return fit_tt(table, num_rows, shape, weights=weights, pool=pool)

            ours(weights) if quick else None  # as TensorLy is: nothing is warmed up at full size
            first = timed(lambda ours=ours: ours(weights))
            arms: dict[str, dict[str, object]] = {}
            try:
                peer = TensorlyTt(shape)
                version = peer.version
                if tensor is None:
                    transposed, _, tensor = timed(lambda peer=peer, table=table: peer.prepare(table))
                seconds, peak, cores = timed(lambda peer=peer, tensor=tensor: peer.fit(tensor))
                arms["tensorly"] = {
                    "seconds": seconds,
                    "whole_seconds": seconds + transposed,
                    "peak_bytes": peak,
                }
                arms["tensorly"] |= errors(table, weights, cores, pool)
            except AbsentError as absent:
                console.print(f"left out: {absent}")
            again = timed(lambda ours=ours: ours(weights))
            plain = timed(lambda ours=ours: ours(None))
            for name, runs in (("screc", (first, again)), ("screc_unweighted", (plain,))):
                fit = runs[0][2]
                arms[name] = {
                    "seconds": median(run[0] for run in runs),
                    "rounds": [run[0] for run in runs],
                    "peak_bytes": max(run[1] for run in runs),
                    "history": list(fit.history),
                } | errors(table, weights, list(fit.cores), pool)
            fit = first[2]
            results[f"{key}.arms"] = arms
            results[f"{key}.limits"] = limit_dict(shape, fit, limits, arms["screc"]["seconds"])
            best = arms["screc_unweighted"]["weighted"]
            ratios[f"{key}.weighted_error_gain"] = round(best / arms["screc"]["weighted"], 3)
            if "tensorly" in arms:
                for name, field in (("time_vs_tensorly", "seconds"), ("whole_vs_tensorly", "whole_seconds")):
                    ratios[f"{key}.{name}"] = round(arms["tensorly"][field] / arms["screc"]["seconds"], 2)
                ratios[f"{key}.error_vs_tensorly"] = round(
                    arms["screc"]["weighted"] / arms["tensorly"]["weighted"], 4
                )
            for name, arm in arms.items():
                ratio = ratios.get(f"{key}.time_vs_tensorly") if name == "screc" else None
                view.add_row(
                    kind,
                    str(rank),
                    name,
                    f"{arm['seconds']:.2f}",
                    f"{arm['peak_bytes'] / 1e6:,.0f}",
                    f"{arm['weighted']:.4f}",
                    f"{arm['unweighted']:.4f}",
                    "" if ratio is None else f"{ratio}x",
                )
        del tensor
    console.print(view)
    for name in ("time_vs_tensorly", "whole_vs_tensorly", "weighted_error_gain"):
        found = [value for key, value in ratios.items() if key.endswith(f".{name}")]
        if found:
            ratios[f"tt_fit.{name}"] = min(found)  # the worst case
    results["tt_fit.orders"] = orders(console, max(20, factor // 2), pool)
    results["tt_fit.bounded"] = bounded(console, table, weights, factor)
    settings = {
        "rows": num_rows,
        "embedding_dim": DIM,
        "threads": threads,
        "tensorly": version,
        "zipf_exponent": ZIPF_EXPONENT,
        "limits": limits.as_dict() if limits is not None else None,
    }
    return {"settings": settings, "results": results, "ratios": ratios}


def orders(console: Console, factor: int, pool: _native.ThreadPool) -> dict[str, float]:
    """Weighted errors at TT rank 16 of the same trained-like rows in random order, and by look-ups."""
    shape = TtShape(row_factors=(factor,) * 3, col_factors=(4,) * 3, ranks=(1, 16, 16, 1))
    counts = look_ups(shape.num_rows, 10 * shape.num_rows, "ranked")
    table = make_table("trained-like", shape.num_rows, DIM, counts)
    shuffled = np.random.default_rng(13).permutation(shape.num_rows)
    found = {
        name: fit_tt(table[order], shape.num_rows, shape, weights=counts[order], pool=pool).error
        for name, order in (("ranked", np.arange(shape.num_rows)), ("scattered", shuffled))
    }
    console.print(f"order of the ids, {shape.num_rows:,} rows, TT rank 16, weighted error: {found}")
    return found


def bounded(console: Console, table: np.ndarray, weights: np.ndarray, factor: int) -> dict[str, object]:
    """The last table again, from a file, in a process that may hold a fraction of it."""
    shape = TtShape(row_factors=(factor,) * 3, col_factors=(4,) * 3, ranks=(1, 16, 16, 1))
    memory = max(48 << 20, table.nbytes // 10)
    limit = memory + (160 << 20) + weights.nbytes  # the interpreter and its libraries; the weights
    with tempfile.TemporaryDirectory() as folder:
        rows, counts = f"{folder}/rows.npy", f"{folder}/weights.npy"
        np.save(rows, table)
        np.save(counts, weights)
        arguments = {"rows": rows, "weights": counts, "shape": shape, "memory_bytes": memory}
        try:
            worker = Worker("tt-fit", bounded_fit, arguments, limit_bytes=limit)
        except OSError as refused:
            console.print(f"left out: a memory limit needs control groups ({refused})")
            return {}
        try:
            found = worker.call()
            found |= {"limit_bytes": limit, "group_peak_bytes": worker.peak_bytes}
        finally:
            worker.close()
    found |= {"table_bytes": table.nbytes, "memory_bytes": memory}
    console.print(
        f"bounded: {table.nbytes / 1e6:,.0f} MB of rows, memory_bytes {memory / 1e6:,.0f} MB, held at most "
        f"{found['peak_bytes'] / 1e6:,.0f} MB, under a limit of {limit / 1e6:,.0f} MB, page cache included: "
        f"{found['seconds']:.1f} s, error {found['error']:.4f}"
    )
    return found

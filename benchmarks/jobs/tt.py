"""Job ``tt``: rows of a tensor-train table of ten million rows, rebuilt from its cores.

10.08 M rows = 216^3, d = 64 = 4 x 4 x 4, calls of 131,072 ids: Zipf(1.05) scattered over the table, Zipf by
rank (id 0 the hottest) and uniform. Ours is ``RowStore.gather``, the path that serves, with all threads and
with one, and ``RowStore.lookup`` with one id per bag; the peers are PyTorch's batched products with and
without sharing, of which the fastest counts, and, for context, PyTorch's gather of the same rows from a dense
table. All arms must agree before anything is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.interleave import Timing, measure
from benchmarks.limits import Limits, measure_limits
from benchmarks.peers.torch_tt import TorchTt
from screc import _native
from screc.storage.layout import TtShape

DIM = 64
TT_RANKS = (8, 16, 32, 64)
KINDS = ("scattered", "ranked", "uniform")
ZIPF_EXPONENT = 1.05
TORCH_ARMS = ("torch_direct", "torch_grouped", "torch_distinct")
# PyTorch without sharing takes as long per row for any number of rows, and seconds for a whole call.
DIRECT_IDS = 8192


def random_ids(generator: np.random.Generator, rows: int, count: int, kind: str) -> np.ndarray:
    """int64 [count]; Zipf ranks by the bounded continuous inverse."""
    uniform = generator.random(count)
    if kind == "uniform":
        return (uniform * rows).astype(np.int64)
    power = 1 - ZIPF_EXPONENT
    rank = (1 - uniform * (1 - (rows + 1) ** power)) ** (1 / power) - 1
    rank = np.minimum(rank.astype(np.int64), rows - 1)
    return rank if kind == "ranked" else (rank * 2_654_435_761 + 12_345) % rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a call needs at least: every distinct prefix product and every distinct row once.

    Attributes:
        lookups, rows, prefixes: of the call, distinct ones of it, and their distinct leading digits.
        flops: multiply-adds x 2.
        num_bytes: the cores and the ids read once, and every look-up's row written.
    """

    lookups: int
    rows: int
    prefixes: int
    flops: int
    num_bytes: int

    @classmethod
    def of(cls, shape: TtShape, ids: np.ndarray) -> Work:
        """Of one call for ``ids``."""
        rows = np.unique(ids)
        prefixes = len(np.unique(rows // shape.row_factors[-1]))
        last = 2 * shape.embedding_dim * shape.ranks[-2]
        return cls(
            lookups=len(ids),
            rows=len(rows),
            prefixes=prefixes,
            flops=prefixes * (shape.flops_per_row - last) + len(rows) * last,
            num_bytes=4 * shape.num_parameters + ids.nbytes + 4 * shape.embedding_dim * len(ids),
        )


class Stores:
    """Our arms: the same table behind a store with all threads and one with a single thread."""

    def __init__(self, shape: TtShape, cores: list[np.ndarray], threads: int, count: int) -> None:
        self.out = _native.empty(count * shape.embedding_dim * 4).view(np.float32).reshape(count, -1)
        self.offsets = np.arange(count + 1)
        self.stores = {}
        for number in (threads, 1):
            store = _native.RowStore(threads=number)
            store.add_table(shape.num_rows, shape.embedding_dim)
            store.add_tt_band(0, cores)
            self.stores[number] = store

    def gather(self, threads: int, ids: np.ndarray) -> np.ndarray:
        """Rows [n, dim], overwritten by the next call."""
        self.stores[threads].gather(0, ids, self.out)
        return self.out

    def lookup(self, threads: int, ids: np.ndarray) -> np.ndarray:
        """As ``gather``, through bags of one id."""
        self.stores[threads].lookup(ids, self.offsets, len(ids), self.out)
        return self.out


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's ``results``, ``ratios`` and ``settings``."""
    console = Console(width=150)
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    generator = np.random.default_rng(1)
    factor, count = (40, 8192) if quick else (216, 131_072)
    rows = factor**3
    limits = measure_limits(threads, (4 * DIM,), quick=quick)
    console.print(f"tt: {rows:,} rows x {DIM}, calls of {count:,} ids, {threads} threads")
    if limits is not None:
        console.print(limits.describe())
    dense = _native.empty(rows * DIM * 4).view(np.float32).reshape(rows, DIM)
    dense.fill(1)
    bags = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(dense), mode="sum")
    offsets = torch.arange(count)

    results: dict[str, object] = {}
    ratios: dict[str, float] = {}
    view = Table(
        "TT rank", "ids", "M rows/s", "1 thread", "in bags", "dense", "best torch TT", "ratio",
        "distinct", "prefixes", "flops limit", "bytes limit", "achieved", "spread",
    )  # fmt: skip
    for tt_rank in TT_RANKS:
        shape = TtShape(row_factors=(factor,) * 3, col_factors=(4,) * 3, ranks=(1, tt_rank, tt_rank, 1))
        cores = [
            generator.standard_normal(shape.core_shape(core), dtype=np.float32) / np.float32(tt_rank**0.5)
            for core in range(3)
        ]
        ours, theirs = Stores(shape, cores, threads, count), TorchTt(cores)
        for kind in KINDS:
            # Several calls in turn, so that no side finds the rows of one call in its caches again.
            sets = [random_ids(generator, rows, count, kind) for _ in range(4)]
            check(ours, theirs, threads, sets[0])
            arms: dict[str, Callable[[np.ndarray], object]] = {
                "screc": lambda ids, ours=ours: ours.gather(threads, ids),
                "screc_1_thread": lambda ids, ours=ours: ours.gather(1, ids),
                "screc_bags": lambda ids, ours=ours: ours.lookup(threads, ids),
                "torch_dense": lambda ids: bags(torch.from_numpy(ids), offsets),
            }
            if kind == "scattered":
                for name in TORCH_ARMS:
                    rebuild = getattr(theirs, name.removeprefix("torch_"))
                    arms[name] = lambda ids, rebuild=rebuild: rebuild(torch.from_numpy(ids))
            timing = timed(arms, sets, quick)
            rates = {name: lookups(name, count) / value.median / 1e6 for name, value in timing.items()}
            work = Work.of(shape, sets[0])
            key = f"tt.r{tt_rank}" if kind == "scattered" else f"tt.r{tt_rank}.{kind}"
            results |= {f"{key}.mrows_per_s": rates["screc"], f"{key}.work": as_dict(work)}
            results |= {f"{key}.arms": {name: arm_dict(timing[name], rates[name]) for name in arms}}
            best = max((rates[name] for name in TORCH_ARMS if name in rates), default=None)
            if best is not None:
                ratios[f"{key}.vs_torch_bmm"] = round(rates["screc"] / best, 2)
                ratios[f"{key}.vs_torch_bmm_direct"] = round(rates["screc"] / rates["torch_direct"], 2)
            share = limit_dict(work, limits, timing["screc"].median)
            results[f"{key}.limits"] = share
            view.add_row(
                str(tt_rank),
                kind,
                *(f"{rates[name]:.1f}" for name in ("screc", "screc_1_thread", "screc_bags", "torch_dense")),
                "" if best is None else f"{best:.2f}",
                "" if best is None else f"{rates['screc'] / best:.0f}x",
                f"{work.rows / count:.2f}",
                f"{work.prefixes / count:.2f}",
                *(
                    [f"{share['flops_mrows_per_s']:.0f}", f"{share['bytes_mrows_per_s']:.0f}"]
                    if share
                    else "--"
                ),
                f"{share['achieved']:.0%}" if share else "-",
                f"{timing['screc'].spread:.0%}",
            )
        ratios[f"tt.r{tt_rank}.ranked_vs_scattered"] = round(
            results[f"tt.r{tt_rank}.ranked.mrows_per_s"] / results[f"tt.r{tt_rank}.mrows_per_s"], 3
        )
    console.print(view)
    settings = {
        "rows": rows,
        "embedding_dim": DIM,
        "ids_per_call": count,
        "threads": threads,
        "torch": torch.__version__,
        "zipf_exponent": ZIPF_EXPONENT,
        "limits": limits.as_dict() if limits is not None else None,
    }
    return {"settings": settings, "results": results, "ratios": ratios}


def lookups(arm: str, count: int) -> int:
    """Look-ups of one call of an arm."""
    return min(count, DIRECT_IDS) if arm == "torch_direct" else count


def check(ours: Stores, theirs: TorchTt, threads: int, ids: np.ndarray) -> None:
    """All arms that rebuild rows agree within 1e-5 of a row's norm."""
    expected = theirs.grouped(torch.from_numpy(ids)).numpy()
    norms = np.linalg.norm(expected, axis=1).mean()
    few = torch.from_numpy(ids[:DIRECT_IDS])
    answers = {
        "screc": ours.gather(threads, ids).copy(),
        "screc_1_thread": ours.gather(1, ids).copy(),
        "screc_bags": ours.lookup(threads, ids).copy(),
        "torch_direct": theirs.direct(few).numpy(),
        "torch_distinct": theirs.distinct(torch.from_numpy(ids)).numpy(),
    }
    for name, rows in answers.items():
        difference = float(np.abs(rows - expected[: len(rows)]).max() / norms)
        if difference > 1e-5:
            raise RuntimeError(f"{name}: rows differ by {difference:.2e} of their norm; nothing was timed")


def timed(
    arms: dict[str, Callable[[np.ndarray], object]], sets: list[np.ndarray], quick: bool
) -> dict[str, Timing]:
    """Seconds per call of every arm, each walking through the sets of ids."""
    turns = dict.fromkeys(arms, 0)

    def call(name: str) -> object:
        turns[name] += 1
        ids = sets[turns[name] % len(sets)]
        with torch.inference_mode():
            return arms[name](ids[: lookups(name, len(ids))])

    return measure(
        {name: (lambda name=name: call(name)) for name in arms},
        rounds=3 if quick else 7,
        seconds_per_round=0.05 if quick else 0.3,
    )


def limit_dict(work: Work, limits: Limits | None, seconds: float) -> dict[str, float]:
    """The two limits in M look-ups/s and the fraction achieved of the lower; empty where unmeasured."""
    if limits is None:
        return {}
    by_flops = work.flops / limits.operations_per_s["fp32"]
    by_bytes = work.num_bytes / limits.read_bytes_per_s
    return {
        "flops_mrows_per_s": work.lookups / by_flops / 1e6,
        "bytes_mrows_per_s": work.lookups / by_bytes / 1e6,
        "achieved": max(by_flops, by_bytes) / seconds,
    }


def as_dict(work: Work) -> dict[str, int]:
    """For the report."""
    return {name: getattr(work, name) for name in work.__slots__}


def arm_dict(timing: Timing, rate: float) -> dict[str, object]:
    """A timing for the report."""
    return {
        "mrows_per_s": rate,
        "median_ms": timing.median * 1e3,
        "rounds_ms": [seconds * 1e3 for seconds in timing.rounds],
        "fastest_ms": timing.fastest * 1e3,
        "calls": timing.calls,
    }

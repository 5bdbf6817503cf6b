"""Job ``rm2``: a model that is all look-ups: 64 tables x 1 M rows x 64 (16.4 GB fp32), 32 ids a bag.

Bottom MLP 13-256-128-64, top 128-64-1, dot interaction, Zipf(1.05) and uniform ids, B = 1 to 1024. With 13
dense features a sample takes 1.19 MFLOP where all 65 x 65 products are counted, 0.92 where each pair is once.
A sample reads 2048 rows, 512 KiB as fp32. Weights are random, so there is no accuracy to lose: ratios are of
int8 rows, the form that keeps the AUC in job ``kaggle``; fp32 and int4 rows are timed beside them.

Not everything fits into 24 GiB at once, so the arms run in groups, one after the other, with our int8 rows
in each: a ratio is always of times that were taken in turn. ``vs_tbe`` is against fbgemm's int8 rows,
``vs_best_peer`` against the fastest of all.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from benchmarks.comparison import (
    Arm,
    Point,
    Standing,
    check,
    check_batches,
    oracle,
    our_arm,
    print_limits,
    print_standings,
    print_times,
    ratios_of,
    results_of,
    stand,
    time_points,
    wide_console,
)
from benchmarks.limits import measure_limits
from benchmarks.ours import Form, build_engines
from benchmarks.torch_arms import TorchArms
from benchmarks.workload import SKEWS, ZIPF_EXPONENT, RandomTables, Workload, dense_tensors

BATCH_SIZES = (1, 16, 128, 1024)
PRECISIONS = ("fp32", "bf16", "int8")
HEADLINE = tuple(Form("int8", precision) for precision in PRECISIONS)
# Small rows, or the sums of 32 would saturate the prediction.
_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Arms that are in memory together.

    Attributes:
        name: for the report.
        forms: ours.
        peers: which of the peers.
        share_fp32: keep the fp32 tables (16.4 GB) for our fp32 rows and the peers that use them in place.
    """

    name: str
    forms: tuple[Form, ...]
    peers: tuple[Callable[[TorchArms], list[Arm]], ...]
    share_fp32: bool = False


# Comments: GB at full size.
GROUPS = (
    Group(  # fp32 16.4, ours int8 4.4
        name="fp32",
        forms=(*HEADLINE, *(Form("fp32", precision) for precision in PRECISIONS)),
        peers=(TorchArms.eager_fp32, TorchArms.eager_autocast),
        share_fp32=True,
    ),
    Group(  # ours 4.4 + 2.3, bags 4.6 + 2.3, fbgemm 4.4 + 2.3
        name="quantised",
        forms=(*HEADLINE, *(Form("int4", precision) for precision in PRECISIONS)),
        peers=(
            lambda arms: arms.bags(8),
            lambda arms: arms.bags(4),
            lambda arms: arms.tbe("int8"),
            lambda arms: arms.tbe("int4"),
        ),
    ),
    Group(name="bf16", forms=HEADLINE, peers=(TorchArms.eager_bf16,)),  # ours 4.4, eager 8.2
    Group(name="tbe_fp32", forms=HEADLINE, peers=(lambda arms: arms.tbe("fp32"),)),  # ours 4.4, fbgemm 16.4
)


def rm2(rows: int) -> Workload:
    """The shape with this many rows in each of the 64 tables."""
    return Workload(
        rows=(rows,) * 64, embedding_dim=64, num_dense=13, bottom=(256, 128, 64), top=(128, 64, 1), pooling=32
    )


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    workload = rm2(10_000 if quick else 1_000_000)
    dim = workload.embedding_dim
    sizes = {form.row_bytes(dim) for group in GROUPS for form in group.forms}
    limits = measure_limits(threads, tuple(sorted(sizes)), quick=quick)
    console.print(
        f"rm2: {sum(workload.rows):,} rows x {dim}, {workload.row_bytes / 1e9:.2f} GB fp32, "
        f"{workload.lookups} rows and {workload.flops / 1e6:.2f} MFLOP a sample, {threads} threads"
    )
    console.print(limits.describe() if limits else "no C compiler (cc): no limits")
    lazy = RandomTables(workload.rows, dim, deviation=_DEVIATION)
    generator = np.random.default_rng(1)
    bottom, top = workload.layers(generator)
    calibration = workload.batch(generator, 2048, "zipf")
    batches = check_batches(workload)
    answers = oracle(workload, lazy, bottom, top, batches)

    points = [Point(skew, size) for skew in SKEWS for size in (BATCH_SIZES[:2] if quick else BATCH_SIZES)]
    standings: dict[Point, Standing] = {}
    results: dict[str, object] = {}
    errors: dict[str, dict[str, float]] = {}
    absent: dict[str, str] = {}
    for group in GROUPS:
        console.print(f"group {group.name}: building")
        tables: Sequence[np.ndarray] = list(lazy) if group.share_fp32 else lazy
        engines = build_engines(
            group.forms,
            workload.model,
            dense_tensors(bottom, top),
            tables,
            calibration=calibration,
            threads=threads,
        )
        peers = TorchArms(workload, tables, bottom, top, console)
        arms = [our_arm(form, engine) for form, engine in engines.items()]
        arms += [arm for make in group.peers for arm in make(peers)]
        errors[group.name] = check(arms, batches, answers)
        timings = time_points(
            workload, arms, points, rounds=2 if quick else 7, seconds_per_round=0.02 if quick else 0.3
        )
        print_times(console, f"rm2, group {group.name}", timings)
        for point, timing in timings.items():
            standing = stand(arms, timing, HEADLINE)
            standings[point] = standings[point].merge(standing) if point in standings else standing
        results |= {
            f"{key}.{group.name}": entries
            for key, entries in results_of("rm2", workload, arms, timings, limits).items()
        }
        absent |= peers.absent
        del tables, engines, peers, arms
        _give_back_memory()
    standings = {point: _vs_tbe_int8(standing) for point, standing in standings.items()}
    print_limits(console, results)
    print_standings(console, standings, ("eager_fp32", "eager_bf16", "bags", "tbe", "best_peer"))
    return {
        "settings": {
            "rows": sum(workload.rows),
            "embedding_dim": dim,
            "pooling": workload.pooling,
            "num_dense": workload.num_dense,
            "threads": threads,
            "torch": torch.__version__,
            "zipf_exponent": ZIPF_EXPONENT,
            "flops_per_sample": workload.flops,
            "eligible": [form.name for form in HEADLINE],
        },
        "limits": limits.as_dict() if limits else None,
        "relative_errors": errors,
        "absent": absent,
        "results": results,
        "standings": {point.key("rm2"): asdict(standing) for point, standing in standings.items()},
        "ratios": ratios_of("rm2", standings),
    }


def _vs_tbe_int8(standing: Standing) -> Standing:
    """``tbe`` stands for the int8 rows that ours are compared with; int4 and fp32 keep their own names."""
    ratios = {family: entry for family, entry in standing.ratios.items() if family != "tbe"}
    if "tbe_int8" in ratios:
        ratios["tbe"] = ratios.pop("tbe_int8")
    return Standing(ours=standing.ours, ratios=ratios)


def _give_back_memory() -> None:
    """Return what a group held to the system: the next one needs the room.

    The peers' settings tell malloc to keep what is freed, hence the explicit call.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)

"""Job ``asymmetric``: each core its own tables, against every core all tables (arXiv 2507.01676).

Sets of small and middle tables (``benchmarks/table_sets.py``) in a small DLRM (13-256-128-d, 128-64-1, int8
layers), whole predictions, so that handing pooled rows over is paid for. Ids from the set's trace, uniform,
Zipf(1.05) and all of one row. Symmetric is the fastest of: blocks with rows gathered; the same with private
copies for every core; samples parted through the asymmetric schedule. Asymmetric is the mapping that the
planner makes from the trace, the same for all distributions. Answers are compared bit by bit before anything
is timed.

``asymmetric.trace.vs_symmetric`` is of the real trace (MovieLens), B = 64; spreads are the slowest over the
fastest distribution. A model of caches with rates measured here is held against these figures, and
computes, without having measured it, what 16 to 64 cores with private caches of 2 MiB would do.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from benchmarks.comparison import wide_console
from benchmarks.interleave import measure
from benchmarks.table_sets import DISTRIBUTIONS, NUM_DENSE, Distribution, TableSet, all_sets
from benchmarks.workload import RandomTables, Workload, dense_tensors
from screc import _native
from screc.data import Batch
from screc.planning import SystemSpec, reference_system
from screc.planning.data_flow import LINE_BYTES, FlowModel, FlowTable
from screc.planning.mapping import choose_mapping
from screc.planning.rates.host import core_cache_bytes
from screc.planning.rates.rows import bags_of
from screc.planning.system import BagRate, Capacities, RowRate, StrategyRate
from screc.serving import Engine
from screc.serving.arithmetic import Precision
from screc.serving.calibration import arithmetic_of, calibrate
from screc.storage import TableCores

BATCH_SIZES = (64, 256)
HEADLINE, HEADLINE_BATCH = "movielens", 64
ASYMMETRIC = "asymmetric"
PRECISION: Precision = "int8"
# Cores of computed machines, their private caches, and the samples that each core has of a batch.
CORES, PRIVATE_BYTES, SAMPLES_A_CORE = (2, 16, 32, 64), 2 * 2**20, 32
_DIMS = (16, 32, 64, 128)


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    threads = len(os.sched_getaffinity(0))
    system = measured_system(threads, rounds=3 if quick else 15)
    rounds, seconds = (2, 0.01) if quick else (7, 0.04)
    results: dict[str, dict[str, float]] = {}
    ratios: dict[str, float] = {}
    models: list[dict[str, object]] = []
    computed: list[dict[str, object]] = []
    mappings: dict[str, list[dict]] = {}
    for tables in all_sets(quick=quick):
        arms, mapping = build_arms(tables, threads, system)
        mappings[tables.name] = [entry.model_dump() for entry in mapping]
        console.print(f"{tables.name}: {tables.what}; {row_megabytes(tables):.1f} MB")
        for entry in mapping:
            console.print(f"  table {entry.table}: {entry.strategy}, cores {entry.cores}, by {entry.split}")
        for size in BATCH_SIZES[:1] if quick else BATCH_SIZES:
            points = {}
            for distribution in DISTRIBUTIONS:
                batches = tables.batches(size, distribution)
                check(arms, batches[0])
                calls = {arm.name: in_turn(arm.engine.predict, batches) for arm in arms}
                calls |= {f"{arm.name} look-ups": in_turn(looker(arm), batches) for arm in arms}
                timings = measure(calls, rounds=rounds, seconds_per_round=seconds)
                points[distribution] = {name: 1e6 * t.median / size for name, t in timings.items()}
                results[f"asymmetric.{tables.name}.b{size}.{distribution}"] = points[distribution]
            ratios |= ratios_of(f"asymmetric.{tables.name}.b{size}", points)
            models += compare_model(tables, size, threads, system, mapping, points)
            if size == HEADLINE_BATCH:
                computed += compute_cores(tables, system, points, threads)
        del arms
    headline = f"asymmetric.{HEADLINE}.b{HEADLINE_BATCH}"
    for key, source in (
        ("asymmetric.trace.vs_symmetric", f"{headline}.trace.vs_symmetric"),
        ("asymmetric.spread", f"{headline}.spread"),
        ("asymmetric.symmetric_spread", f"{headline}.symmetric_spread"),
    ):
        if source in ratios:
            ratios[key] = ratios[source]
    print_points(console, results)
    print_model(console, models)
    print_computed(console, computed)
    errors = [abs(np.log(row["predicted"] / row["measured"])) for row in models]  # type: ignore[operator]
    return {
        "settings": {"threads": threads, "precision": PRECISION, "headline": headline},
        "rates": [rate.model_dump() for rate in system.rows],
        "mappings": mappings,
        "results": results,
        "model": models,
        "model_error_geometric_mean": round(float(np.exp(np.mean(errors))), 3),
        "computed_not_measured": computed,
        "ratios": {key: round(value, 3) for key, value in ratios.items()},
    }


# ----------------------------------------------------------------------------------------------------
# arms


@dataclass(frozen=True, slots=True)
class Arm:
    """One engine that is timed."""

    name: str
    engine: Engine


def row_megabytes(tables: TableSet) -> float:
    """Of all tables as fp32."""
    return sum(tables.rows) * tables.embedding_dim * 4 / 1e6


def flow_tables(tables: TableSet, distribution: Distribution, copies: int = 1) -> list[FlowTable]:
    """The set as the model knows it, several times over."""
    return [
        FlowTable(
            name=str(copy * len(tables.rows) + number),
            curve=tables.curve(number, distribution),
            pooling=pooling,
            embedding_dim=tables.embedding_dim,
        )
        for copy in range(copies)
        for number, pooling in enumerate(tables.poolings)
    ]


def build_arms(
    tables: TableSet, threads: int, system: SystemSpec
) -> tuple[list[Arm], tuple[TableCores, ...]]:
    """Engines over the same rows and weights, each with a store of its own."""
    dim = tables.embedding_dim
    shape = Workload(
        rows=tables.rows,
        embedding_dim=dim,
        num_dense=NUM_DENSE,
        bottom=(256, 128, dim),
        top=(128, 64, 1),
    )
    generator = np.random.default_rng(1)
    rows = list(RandomTables(tables.rows, dim, deviation=0.02))
    dense = dense_tensors(*shape.layers(generator))
    calibration = tables.batches(1024, "trace")[0]

    def engine() -> Engine:
        plain = Engine.from_arrays(shape.model, dense, rows, threads=threads)
        return plain.with_arithmetic(arithmetic_of(plain, PRECISION, calibrate(plain, [calibration])))

    plain, private, parted, own = (engine() for _ in range(4))
    for number in range(len(tables.rows)):
        try:
            private._store.set_strategy(number, "private")
        except ValueError:
            continue  # too large for copies
    every = tuple(range(threads))
    parted.set_mapping(
        [TableCores(table=table.name, cores=every, split="samples") for table in parted.tables]
    )
    model = FlowModel(system=system, batch_size=HEADLINE_BATCH, cores=threads)
    mapping = choose_mapping(flow_tables(tables, "trace"), model).mapping
    own.set_mapping(mapping)
    arms = [Arm("symmetric", plain), Arm("symmetric private", private), Arm("symmetric parted", parted)]
    return [*arms, Arm(ASYMMETRIC, own)], mapping


def check(arms: Sequence[Arm], batch: Batch) -> None:
    """Every arm's answer, bit by bit."""
    first = arms[0].engine.predict(batch)
    for arm in arms[1:]:
        if not np.array_equal(arm.engine.predict(batch), first):
            raise RuntimeError(f"{arm.name} answers otherwise than {arms[0].name}")


def looker(arm: Arm) -> Callable[[Batch], object]:
    """The look-ups of a batch alone, into memory that is aligned as the engine's is."""
    store, flow = arm.engine._store, arm.engine.data_flow
    width = store.total_dim
    memory = _native.empty(4 * width * max(BATCH_SIZES)).view(np.float32)

    def look_up(batch: Batch) -> object:
        size = batch.batch_size
        out = memory[: size * width].reshape(size, width)
        return store.lookup(batch.ids, batch.offsets, size, out, flow)

    return look_up


def in_turn(call: Callable[[Batch], object], batches: Sequence[Batch]) -> Callable[[], object]:
    """The call on one batch after the other."""
    turn = 0

    def one() -> object:
        nonlocal turn
        turn += 1
        return call(batches[turn % len(batches)])

    return one


def fastest_symmetric(point: Mapping[str, float], suffix: str = "") -> float:
    """Microseconds a sample of the best symmetric arm."""
    return min(point[f"{name}{suffix}"] for name in ("symmetric", "symmetric private", "symmetric parted"))


def ratios_of(key: str, points: Mapping[Distribution, Mapping[str, float]]) -> dict[str, float]:
    """Symmetric time / asymmetric time for each distribution, and both spreads."""
    ours = {name: point[ASYMMETRIC] for name, point in points.items()}
    theirs = {name: fastest_symmetric(point) for name, point in points.items()}
    found = {f"{key}.{name}.vs_symmetric": theirs[name] / ours[name] for name in points}
    for name, point in points.items():
        found[f"{key}.{name}.lookups.vs_symmetric"] = (
            fastest_symmetric(point, " look-ups") / point[f"{ASYMMETRIC} look-ups"]
        )
    found[f"{key}.spread"] = max(ours.values()) / min(ours.values())
    found[f"{key}.symmetric_spread"] = max(theirs.values()) / min(theirs.values())
    return found


# ----------------------------------------------------------------------------------------------------
# the model


def measured_system(threads: int, *, rounds: int) -> SystemSpec:
    """This machine for the model of caches: rows from the first level, a private cache and the shared one.

    Device-ns of look-ups, 32 to a bag, uniform ids, all threads: in tables of 8 KiB, of a quarter of a
    second-level cache, and of 4 second-level caches.
    """
    private = core_cache_bytes()
    sizes = {"near": 8 * 2**10, "private": private // 4, "llc": 4 * private}
    memory = _native.empty(max(sizes.values()))
    memory.fill(0)
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for dim in _DIMS:
            for where, size in sizes.items():
                count = size // (4 * dim)
                store = _native.RowStore(threads=threads)
                store.add_table(count, dim)
                store.add_dram_band(0, memory[:size].view(np.float32).reshape(count, dim), None)
                for kind, pooling in ((where, 32), *([("bag", 1)] if where == "near" else [])):
                    run, lookups = bags_of(store, count, dim, 256 * threads, pooling)
                    timing = measure({"": run}, rounds=1, seconds_per_round=0.002)[""]
                    times.setdefault((kind, dim), []).append(threads * 1e9 * timing.median / lookups)
    found = {key: statistics.median(values) for key, values in times.items()}
    base = reference_system(ssd=False)
    return base.model_copy(
        update={
            "source": "job asymmetric",
            "devices": base.devices.model_copy(
                update={"count": threads, "private": Capacities(llc_bytes=private)}
            ),
            "shared": base.shared.model_copy(update={"llc_bytes": 64 * 2**20}),
            "rows": tuple(
                RowRate(
                    where=where,
                    row_format="fp32",
                    embedding_dim=dim,
                    ns=found["llc" if where == "dram" else where, dim],
                    busy=threads,
                )
                for where in ("private", "llc", "dram")  # these tables never come from DRAM
                for dim in _DIMS
            ),
            "bags": tuple(
                BagRate(embedding_dim=dim, ns=max(0.0, found["bag", dim] - found["near", dim]))
                for dim in _DIMS
            ),
            "strategies": tuple(
                StrategyRate(
                    strategy="gather",
                    rows=sizes["near"] // (4 * dim),
                    embedding_dim=dim,
                    pooling=32,
                    ns=found["near", dim],
                )
                for dim in _DIMS
            ),
        }
    )


def compare_model(
    tables: TableSet,
    size: int,
    threads: int,
    system: SystemSpec,
    mapping: Sequence[TableCores],
    points: Mapping[Distribution, Mapping[str, float]],
) -> list[dict[str, object]]:
    """Look-ups alone, predicted from the rates and measured; microseconds a sample."""
    model = FlowModel(system=system, batch_size=size, cores=threads)
    rows: list[dict[str, object]] = []
    for distribution, point in points.items():
        made = flow_tables(tables, distribution)
        for flow, predicted, measured in (
            ("symmetric", model.symmetric(made), point["symmetric look-ups"]),
            (ASYMMETRIC, model.asymmetric(made, mapping), point[f"{ASYMMETRIC} look-ups"]),
        ):
            rows.append(
                {
                    "set": tables.name,
                    "batch_size": size,
                    "distribution": distribution,
                    "flow": flow,
                    "predicted": 1e6 * predicted.seconds / size,
                    "measured": measured,
                }
            )
    return rows


def compute_cores(
    tables: TableSet,
    system: SystemSpec,
    points: Mapping[Distribution, Mapping[str, float]],
    threads: int,
) -> list[dict[str, object]]:
    """Predictions of machines of more cores, with as many copies of the set as there are pairs of cores.

    The dense part takes what it was measured to take here with ids of one row; so does handing over.
    """
    one = points["one_row"]
    dense_ns = 1e3 * threads * max(0.0, one["symmetric"] - one["symmetric look-ups"])  # a sample, device-ns
    lines = len(tables.rows) * 4 * tables.embedding_dim / LINE_BYTES * (threads - 1) / threads
    handed_ns = max(0.0, 1e3 * threads * (one[ASYMMETRIC] - one["symmetric"]) / lines)
    rows: list[dict[str, object]] = []
    for cores in CORES:
        size, copies = SAMPLES_A_CORE * cores, cores // 2
        devices = system.devices.model_copy(
            update={"count": cores, "private": Capacities(llc_bytes=PRIVATE_BYTES)}
        )
        shared = system.shared.model_copy(update={"llc_bytes": system.shared.llc_bytes * cores})
        machine = system.model_copy(update={"devices": devices, "shared": shared})
        model = FlowModel(system=machine, batch_size=size, cores=cores, handed_ns=handed_ns)
        mapping = choose_mapping(flow_tables(tables, "trace", copies), model, time_limit=4.0).mapping
        dense = 1e-9 * size * dense_ns * copies / cores
        times = {}
        for distribution in DISTRIBUTIONS:
            made = flow_tables(tables, distribution, copies)
            times[distribution] = (
                model.symmetric(made).seconds + dense,
                model.asymmetric(made, mapping).seconds + dense,
            )
        row: dict[str, object] = {
            "set": tables.name,
            "cores": cores,
            "batch_size": size,
            "tables": copies * len(tables.rows),
            "handed_ns": handed_ns,
            "vs_symmetric": {name: both[0] / both[1] for name, both in times.items()},
        }
        for number, name in enumerate(("symmetric_spread", "spread")):
            values = [both[number] for both in times.values()]
            row[name] = max(values) / min(values)
        rows.append(row)
    return rows


# ----------------------------------------------------------------------------------------------------
# views


def print_points(console, results: Mapping[str, Mapping[str, float]]) -> None:
    view = Table("point", "symmetric", "private", "parted", "asymmetric", "gain", "look-ups", "gain")
    for key, point in results.items():
        cells = [point["symmetric"], point["symmetric private"], point["symmetric parted"], point[ASYMMETRIC]]
        look = fastest_symmetric(point, " look-ups"), point[f"{ASYMMETRIC} look-ups"]
        view.add_row(
            key.removeprefix("asymmetric."),
            *(f"{cell:.3f}" for cell in cells),
            f"{fastest_symmetric(point) / point[ASYMMETRIC]:.2f}x",
            f"{look[0]:.3f} / {look[1]:.3f}",
            f"{look[0] / look[1]:.2f}x",
        )
    console.print(view, "us a sample, whole predictions; last columns: look-ups alone", sep="\n")


def print_model(console, rows: Sequence[Mapping[str, object]]) -> None:
    view = Table("set", "B", "ids", "flow", "predicted", "measured", title="look-ups alone, us a sample")
    for row in rows:
        cells = (row["set"], row["batch_size"], row["distribution"], row["flow"])
        view.add_row(*map(str, cells), f"{row['predicted']:.3f}", f"{row['measured']:.3f}")
    console.print(view)


def print_computed(console, rows: Sequence[Mapping[str, object]]) -> None:
    view = Table(
        *("set", "cores", "B", *DISTRIBUTIONS, "symmetric spread", "spread"),
        title="computed, not measured: symmetric / asymmetric time, whole predictions",
    )
    for row in rows:
        gains = row["vs_symmetric"]
        view.add_row(
            *(str(row[name]) for name in ("set", "cores", "batch_size")),
            *(f"{gains[name]:.2f}x" for name in DISTRIBUTIONS),  # type: ignore[index]
            f"{row['symmetric_spread']:.2f}",
            f"{row['spread']:.2f}",
        )
    console.print(view)

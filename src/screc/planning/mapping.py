"""Which core gets which table: the mapping of the asymmetric data flow (arXiv 2507.01676) as a program.

Every table is given to one core or several, by columns or by samples, or to nobody, with a look-up strategy
and with the part of its rows that its core's private cache is to hold. Each such way is a column of a program
(``core_assignment``): one is chosen per table, and cores for it, so that no private cache overflows and the
slowest core is done as early as possible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from screc.planning.core_assignment import CoreAssignment, Way
from screc.planning.data_flow import FlowModel, FlowPrediction, FlowTable, Visit
from screc.planning.plan import Plan
from screc.planning.system import SystemSpec
from screc.statistics.access import AccessStatistics
from screc.storage.layout import TableLayout
from screc.storage.mapping import TableCores

#: Most bytes of a copy that a core can have of a table (native/store/core_tables.h).
MAX_COPY_BYTES = 2 * 2**20
# Batches whose rows a private cache may be asked to hold.
_REACHES = (1, 2, 4, 8, 16, 64, 256, 1024)
_LEAST_COLUMNS = 16


@dataclass(frozen=True, kw_only=True)
class MappingChoice:
    """A mapping and what is known of it.

    Attributes:
        mapping: whose each table is, in the order given.
        seconds: per batch, until the slowest core has looked up, as the program counts.
        lower_bound: no mapping of the program is faster.
        gap: (seconds - lower_bound) / seconds.
        status: ``optimal`` (within the gap asked for), ``time limit``, ``bound`` where our own bound was
            met before the solver was needed, or ``greedy`` where the program was too large for it.
        asymmetric, symmetric: what the model of caches predicts of this mapping and without one.
    """

    mapping: tuple[TableCores, ...]
    seconds: float
    lower_bound: float
    gap: float
    status: str
    asymmetric: FlowPrediction
    symmetric: FlowPrediction


def choose_mapping(
    tables: Sequence[FlowTable], model: FlowModel, *, gap: float = 0.01, time_limit: float = 10.0
) -> MappingChoice:
    """The mapping with the earliest slowest core.

    Args:
        tables: tables whose rows are one array in DRAM.
        model: the machine and the batch size.
        gap: relative gap at which to stop.
        time_limit: seconds for the solver.

    Raises:
        ValueError: two tables have one name.
        SolverError: the solver's answer contradicts our bound.
    """
    names = [table.name for table in tables]
    if len(set(names)) < len(names):
        raise ValueError(f"tables: two of them have one name, among {', '.join(sorted(names))}")
    assignment = CoreAssignment(
        [list(table_ways(table, model)) for table in tables], model.cores, model.private_bytes
    )
    found = assignment.solve(gap=gap, time_limit=time_limit)
    mapping = tuple(
        TableCores(table=name, cores=one.cores, split=one.way.split, strategy=one.way.strategy)
        for name, one in zip(names, found.placed, strict=True)
    )
    return MappingChoice(
        mapping=mapping,
        seconds=1e-9 * found.ns,
        lower_bound=1e-9 * found.lower_bound,
        gap=found.gap,
        status=found.status,
        asymmetric=model.asymmetric(tables, mapping),
        symmetric=model.symmetric(tables),
    )


def table_ways(table: FlowTable, model: FlowModel) -> Iterator[Way]:
    """Every way to look a table up, without those that another one betters in time and bytes."""
    ways = sorted(_all_ways(table, model), key=lambda way: (way.cores, way.ns, way.num_bytes))
    kept: list[Way] = []
    for way in ways:
        same = (one for one in kept if one.cores == way.cores)
        if not any(one.ns <= way.ns and one.num_bytes <= way.num_bytes for one in same):
            kept.append(way)
    yield from kept


def _all_ways(table: FlowTable, model: FlowModel) -> Iterator[Way]:
    lookups, dim = model.batch_size * table.pooling, table.embedding_dim
    factors = model.strategy_factors(table)
    whole = table.num_embeddings * table.row_bytes(dim)
    # As they come, any core takes samples of it, and finds none of its rows in its own cache.
    common = model.cores * _visit_ns(table, model, lookups / model.cores, dim, 0)
    yield Way(cores=0, ns=common)
    for strategy, factor in factors.items():
        if strategy != "private_stream":
            yield Way(cores=0, strategy=strategy, ns=factor * common)
    for cores in _numbers_of_cores(model.cores):
        share = lookups / cores
        held = _visit_ns(table, model, share, dim, None)
        for strategy, factor in factors.items():
            yield Way(cores=cores, split="samples", strategy=strategy, ns=factor * held, num_bytes=whole)
        # Copies stand side by side on huge pages, which spread evenly over the sets of a cache.
        strategy = "private" if whole <= MAX_COPY_BYTES else "gather"
        yield Way(cores=cores, split="samples", strategy=strategy, ns=held, num_bytes=whole)
        for reach in _REACHES:
            size = int(table.distinct(reach * share) * table.row_bytes(dim))
            if size < whole:
                ns = _visit_ns(table, model, share, dim, reach)
                yield Way(cores=cores, split="samples", strategy=strategy, ns=ns, num_bytes=size)
        ns = _visit_ns(table, model, share, dim, 0)
        yield Way(cores=cores, split="samples", strategy=strategy, ns=ns)
        columns = dim // cores
        if cores == 1 or columns < _LEAST_COLUMNS or dim % cores != 0:
            continue
        size = table.num_embeddings * table.row_bytes(columns)
        if size <= MAX_COPY_BYTES:
            ns = _visit_ns(table, model, lookups, columns, None)
            yield Way(cores=cores, split="columns", strategy="private", ns=ns, num_bytes=size)


def _numbers_of_cores(cores: int) -> list[int]:
    """Powers of two, and all."""
    return sorted({1 << k for k in range(cores.bit_length()) if 1 << k <= cores} | {cores})


def _visit_ns(table: FlowTable, model: FlowModel, lookups: float, columns: int, reach: int | None) -> float:
    """Device-ns of a batch's look-ups where the private cache holds the rows of ``reach`` batches; None: all
    rows."""
    near, own, llc, _ = model.row_ns(table, columns)
    first = model.near_misses(Visit(table=table, lookups=lookups, columns=columns))
    cold = 0.0
    if reach is not None:
        cold = table.distinct(lookups * (reach + 1)) - table.distinct(lookups * reach)
    bags = lookups / max(table.pooling, 1.0) * model.system.bag_ns(columns)
    return lookups * near + first * (own - near) + cold * (llc - own) + bags


def map_layouts(
    layouts: Sequence[TableLayout],
    statistics: AccessStatistics,
    system: SystemSpec,
    *,
    batch_size: int,
    time_limit: float = 10.0,
) -> MappingChoice:
    """The mapping of tables with these layouts; those that are not one array in DRAM belong to nobody.

    Args:
        layouts: of all tables, whole.
        statistics: of the same tables.
        system: the machine; the mapping is for all of its cores.
        batch_size: samples.
        time_limit: seconds for the solver.

    Raises:
        ValueError: the layouts are of other tables than the statistics.
    """
    names = [layout.table for layout in layouts]
    counted = [table.name for table in statistics.tables]
    if names != counted:
        raise ValueError(f"the layouts are of tables {names}, the statistics of {counted}")
    tables = [
        FlowTable(
            name=layout.table,
            curve=table.smoothed_curve,
            pooling=table.mean_pooling,
            embedding_dim=layout.embedding_dim,
            row_format=layout.bands[0].format,
            row_scale=layout.bands[0].scale,
        )
        for layout, table in zip(layouts, statistics.tables, strict=True)
        if len(layout.bands) == 1 and layout.bands[0].memory == "dram" and layout.bands[0].format != "tt"
    ]
    model = FlowModel(system=system, batch_size=batch_size, cores=system.devices.count)
    choice = choose_mapping(tables, model, time_limit=time_limit)
    mapped = {entry.table: entry for entry in choice.mapping}
    mapping = tuple(mapped.get(name, TableCores(table=name)) for name in names)
    return replace(choice, mapping=mapping)


def with_mapping(plan: Plan, statistics: AccessStatistics, *, time_limit: float = 10.0) -> Plan:
    """The plan with a mapping of its tables where that is predicted to look up faster, and the reason.

    Raises:
        ValueError: the statistics are of other tables, or tables are parted into row-shards.
    """
    choice = map_layouts(
        plan.layouts, statistics, plan.system, batch_size=plan.options.batch_size, time_limit=time_limit
    )
    gain = choice.symmetric.seconds / choice.asymmetric.seconds if choice.asymmetric.seconds else 1.0
    flow = "asymmetric" if gain > 1 else "symmetric"
    reason = (
        f"Look-ups of a batch are predicted to take {1e6 * choice.asymmetric.seconds:.1f} us where tables "
        f"belong to cores, {1e6 * choice.symmetric.seconds:.1f} us where not: the data flow is {flow}."
    )
    mapping = choice.mapping if gain > 1 else None
    return plan.model_copy(update={"mapping": mapping, "reasons": (*plan.reasons, reason)})

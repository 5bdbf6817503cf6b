"""What any list of layouts is predicted to take: seconds per batch, bytes, pages, loss.

The planner's own plans, those of other planners and those that people write are all costed here, from the
layouts alone. The formulas are in docs/guide/planning.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from screc.planning.caches import Traffic, calls_per_batch
from screc.planning.costs import LINE_BYTES, RESOURCES, BandCosts, Rates, TableCosts
from screc.planning.machine import is_private, manages_llc
from screc.planning.plan import (
    Assignment,
    BandPrediction,
    DevicePrediction,
    PlanOptions,
    Prediction,
    TableAssignment,
    TablePrediction,
)
from screc.planning.row_cache import ColdBand, missed_rows
from screc.planning.sensitivity import Sensitivity
from screc.planning.system import SystemSpec, Where
from screc.statistics.access import AccessStatistics
from screc.storage.layout import TableLayout
from screc.storage.row_format import LARGEST_CODE, ROW_FORMATS, SCALE_OWNERS, row_bytes

_SECONDS, _READS, _TRAFFIC = (RESOURCES.index(name) for name in ("seconds", "reads", "traffic"))


def predict(
    layouts: Sequence[TableLayout],
    assignment: Assignment | None,
    statistics: AccessStatistics,
    system: SystemSpec,
    options: PlanOptions,
    *,
    sensitivity: Sensitivity | None = None,
) -> Prediction:
    """Predict what tables held in these layouts take.

    Args:
        layouts: one of each table, or of each of its row-shards, in any bands.
        assignment: which devices look up and which compute, and whose each layout is; None: every device does
            both, and all share every table.
        statistics: access counts of the tables, matched by name.
        system: rates of the machine.
        options: batch size, dense work, reads in flight.
        sensitivity: what each table loses in each format. Without one the loss is not known (None).

    Raises:
        ValueError: a layout is of no table of the statistics or needs a memory that the system has not, or
            the assignment does not fit the layouts or the machine.
    """
    for layout in layouts:
        if layout.ssd_bytes and system.ssd is None:
            raise ValueError(f"table {layout.table}: it has rows on SSD, and the system has none")
        if layout.llc_bytes and not manages_llc(system):
            raise ValueError(f"table {layout.table}: it has rows in llc, which no device here manages")
    if assignment is None:
        assignment = Assignment.shared(layouts)
    assignment.check(layouts, system)
    models = table_models(layouts, assignment, statistics, system, options, sensitivity)
    costs = [model.of_layout(layout) for model, layout in zip(models, layouts, strict=True)]
    if options.row_cache_bytes:
        costs = _with_row_cache(models, layouts, costs, options)
    tables = tuple(
        _table_prediction(model, layout, cost, table, sensitivity is not None)
        for model, layout, cost, table in zip(models, layouts, costs, assignment.tables, strict=True)
    )
    usage = np.array([cost.usage.sum(axis=0) for cost in costs])
    devices = _devices(usage, layouts, assignment, system, options)
    ssd = max((device.ssd_seconds for device in devices), default=0.0)
    traffic = max((device.traffic_seconds for device in devices), default=0.0)
    lookup = max((device.lookup_seconds for device in devices), default=0.0)
    dense = max((device.dense_seconds for device in devices), default=0.0)
    fixed = 1e-9 * system.batch_ns
    pages = sum(table.pages for table in tables)
    wait = float(-np.expm1(-pages)) * system.ssd_latency_seconds
    alone = overlapped(lookup, ssd, system.overlap.ssd)
    slowest = max((device.seconds for device in devices), default=0.0)
    in_tt = sum(
        band.lookup_share * table.lookups
        for layout, table in zip(layouts, tables, strict=True)
        for band, placed in zip(table.bands, layout.bands, strict=True)
        if placed.tt is not None
    )
    lookups = sum(table.lookups for table in tables)
    return Prediction(
        seconds_per_batch=slowest + fixed,
        latency_seconds=alone + dense + wait + fixed,
        lookup_seconds=lookup,
        dense_seconds=dense,
        ssd_seconds=ssd,
        traffic_seconds=traffic,
        ssd_wait_seconds=wait,
        batch_seconds=fixed,
        lookups_per_batch=lookups,
        pages_per_batch=pages,
        llc_bytes=sum(layout.llc_bytes for layout in layouts),
        dram_bytes=sum(layout.dram_bytes for layout in layouts),
        ssd_bytes=sum(layout.ssd_bytes for layout in layouts),
        tt_bytes=sum(
            layout.band_bytes(b) for layout in layouts for b, band in enumerate(layout.bands) if band.tt
        ),
        index_bytes=sum(layout.index_bytes(b) for layout in layouts for b in range(len(layout.bands))),
        tt_share=in_tt / lookups if lookups else 0.0,
        loss=sum(table.loss or 0.0 for table in tables) if sensitivity is not None else None,
        devices=tuple(devices),
        tables=tables,
    )


def overlapped(first: float, second: float, overlap: float) -> float:
    """Time of two kinds of work of which ``overlap`` (0 to 1) of the shorter is hidden behind the longer."""
    return max(first, second) + (1.0 - overlap) * min(first, second)


def table_models(
    layouts: Sequence[TableLayout],
    assignment: Assignment,
    statistics: AccessStatistics,
    system: SystemSpec,
    options: PlanOptions,
    sensitivity: Sensitivity | None,
) -> list[TableCosts]:
    """The cost model of each layout's table or shard; the caches are shared out among them."""
    by_name = {table.name: table for table in statistics.tables}
    lookups = statistics.num_lookups
    rates = Rates(system, assignment.memory or None)
    models = []
    for layout, assigned in zip(layouts, assignment.tables, strict=True):
        table = by_name.get(layout.table)
        if table is None:
            raise ValueError(f"table {layout.table}: the statistics do not have it; collect them again")
        models.append(
            TableCosts(
                statistics=table,
                embedding_dim=layout.embedding_dim,
                rates=rates,
                batch_size=options.batch_size,
                weight=table.num_lookups / lookups if lookups else 0.0,
                index_part=system.shared.llc_bytes / len(layouts),
                sensitivity=sensitivity.table(layout.table) if sensitivity is not None else None,
                parts=assigned.parts,
                part=assigned.part,
            )
        )
        rows = models[-1].num_embeddings
        if rows != layout.num_embeddings:
            of = "" if assigned.parts == 1 else f" in shard {assigned.part} of {assigned.parts}"
            raise ValueError(
                f"table {layout.table}: the layout has {layout.num_embeddings} rows, "
                f"the statistics {rows}{of}"
            )
    return with_caches(models, system)


def with_caches(models: Sequence[TableCosts], system: SystemSpec) -> list[TableCosts]:
    """The models with how far hardware-managed caches reach, and the calls that serve a batch."""
    if not models:
        return []
    caches: list[tuple[Where, int]] = [("llc", system.shared.llc_bytes)]
    if not manages_llc(system):
        caches.insert(0, ("private", system.devices.private.llc_bytes))
    caches = [(where, capacity) for where, capacity in caches if capacity > 0]
    lookups = np.array([model.lookups for model in models])
    dims = np.array([model.embedding_dim for model in models])
    size = models[0].batch_size
    traffic = Traffic(
        [model.curve for model in models], lookups, float((8 * lookups + 4 * dims * size).sum())
    )

    def reaches(sizes: Sequence[int]) -> list[tuple[Where, float]]:
        lines = np.maximum(LINE_BYTES, np.array(sizes))
        return [(where, traffic.reach(lines, capacity)) for where, capacity in caches]

    of_lines = reaches([LINE_BYTES] * len(models))
    found: list[dict[int, list[tuple[Where, float]]]] = [{LINE_BYTES: of_lines} for _ in models]
    for row_format in ROW_FORMATS:
        for scale in SCALE_OWNERS if row_format in LARGEST_CODE else ("row",):
            sizes = [row_bytes(row_format, model.embedding_dim, scale) for model in models]
            all_so = reaches(sizes)
            for known, one in zip(found, sizes, strict=True):
                known[one] = all_so
    calls = calls_per_batch(size, lookups, dims)
    return [replace(model, reaches=known, calls=calls) for model, known in zip(models, found, strict=True)]


def _with_row_cache(
    models: Sequence[TableCosts],
    layouts: Sequence[TableLayout],
    costs: Sequence[BandCosts],
    options: PlanOptions,
) -> list[BandCosts]:
    """The costs, less the reads of rows that the cache of rows on SSD holds."""
    cold = [
        (number, position)
        for number, layout in enumerate(layouts)
        for position, band in enumerate(layout.bands)
        if band.memory == "ssd"
    ]
    bands = [
        ColdBand(
            models[number].curve,
            models[number].lookups / models[number].calls,
            layouts[number].bands[position].start,
            layouts[number].bands[position].stop,
            layouts[number].row_bytes(position),
        )
        for number, position in cold
    ]
    missed = missed_rows(bands, options.row_cache_bytes, options.row_cache_policy)
    cached = list(costs)
    for (number, position), rows in zip(cold, missed, strict=True):
        cached[number] = models[number].with_reads(cached[number], layouts[number], position, rows)
    return cached


def _devices(
    usage: np.ndarray,
    layouts: Sequence[TableLayout],
    assignment: Assignment,
    system: SystemSpec,
    options: PlanOptions,
) -> list[DevicePrediction]:
    """What each device does per batch; devices that do the same are one entry."""
    count = system.devices.count
    mixed = assignment.memory == 0
    lookers = count if mixed else assignment.memory
    computers = count if mixed else assignment.compute
    dense = 1e-9 * system.dense_ns(options.batch_size, options.dense_flops, options.dense_precision)
    owner = np.array([-1 if table.device is None else table.device for table in assignment.tables], dtype=int)
    private = {memory for memory in ("llc", "dram", "ssd") if is_private(system, memory)}
    rate = {
        "ssd": system.pages_per_second(options.queue_depth),
        "dram": system.dram_bytes_per_second,
    }

    def share(values: np.ndarray, device: int | None) -> float:
        """A device's part of what all tables use: its own tables', and its share of those of all."""
        own = values[owner == device].sum() if device is not None else 0.0
        return float(own + values[owner == -1].sum() / lookers)

    def drive(column: int, memory: str, device: int | None) -> float:
        amount = share(usage[:, column], device) if memory in private else float(usage[:, column].sum())
        return amount / rate[memory] if amount else 0.0

    def looker(device: int | None, first: int, same: int) -> DevicePrediction:
        lookup = share(usage[:, _SECONDS], device)
        own_dense = dense / count if mixed else 0.0
        ssd, traffic = drive(_READS, "ssd", device), drive(_TRAFFIC, "dram", device)
        held = {
            f"{memory}_bytes": sum(
                getattr(layout, f"{memory}_bytes")
                for layout, mine in zip(layouts, owner == (-1 if device is None else device), strict=True)
                if mine
            )
            if memory in private
            else 0
            for memory in ("llc", "dram", "ssd")
        }
        return DevicePrediction(
            role="both" if mixed else "memory",
            first=first,
            count=same,
            lookup_seconds=lookup,
            dense_seconds=own_dense,
            ssd_seconds=ssd,
            traffic_seconds=traffic,
            seconds=max(overlapped(lookup + own_dense, ssd, system.overlap.ssd), traffic),
            **held,
        )

    if (owner == -1).all():
        devices = [looker(None, 0, lookers)]
    else:
        devices = [looker(device, device, 1) for device in range(lookers)]
    if not mixed:
        each = dense / computers
        devices.append(
            DevicePrediction(role="compute", first=lookers, count=computers, dense_seconds=each, seconds=each)
        )
    return devices


def _table_prediction(
    model: TableCosts, layout: TableLayout, costs: BandCosts, assigned: TableAssignment, known_loss: bool
) -> TablePrediction:
    shares = model.curve.share(np.array([0, *(band.stop for band in layout.bands)]))
    return TablePrediction(
        table=layout.table,
        lookups=model.lookups,
        device_seconds=float(costs.seconds.sum()),
        pages=float(costs.pages.sum()),
        loss=float(costs.loss.sum()) if known_loss else None,
        bands=tuple(
            BandPrediction(
                rows=band.num_rows,
                lookup_share=float(shares[b + 1] - shares[b]),
                num_bytes=int(costs.num_bytes[b]),
                index_bytes=int(costs.index_bytes[b]),
                row_seconds=float(costs.row_seconds[b]),
                index_seconds=float(costs.index_seconds[b]),
                pages=float(costs.pages[b]),
                loss=float(costs.loss[b]) if known_loss else None,
            )
            for b, band in enumerate(layout.bands)
        ),
    )

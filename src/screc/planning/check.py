"""Checking a plan from its layouts alone, by arithmetic that shares nothing with the solver."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from screc.planning.machine import memory_limits
from screc.planning.plan import Plan
from screc.planning.prediction import predict
from screc.planning.sensitivity import Sensitivity
from screc.statistics.access import AccessStatistics
from screc.storage.frozen import Frozen
from screc.storage.page_order import PageOrder, ordered_layouts

# Room for sums of floating-point numbers in another order.
_ROUNDING = 1e-6


class PlanError(ValueError):
    """A plan that does not hold what it promises; the message says which table and why."""


def check_plan(plan: Plan, statistics: AccessStatistics, *, sensitivity: Sensitivity | None = None) -> None:
    """Check a plan from its layouts alone: every row is covered once, every memory of every device and the
    accuracy budget are kept, and every figure of its prediction is what the layouts, the statistics and the
    system give.

    Args:
        plan: the plan.
        statistics: those that it was made from.
        sensitivity: that it was made with, if any.

    Raises:
        PlanError: with the table, the memory or the figure, and the reason.
    """
    if (plan.budget.max_loss is not None) != (sensitivity is not None):
        needs = "needs the sensitivity it was made with" if sensitivity is None else "was made without one"
        raise PlanError(f"the plan's accuracy cannot be checked: it {needs}")
    _check_rows(plan, statistics)
    if plan.statistics_digest != statistics.digest:
        raise PlanError("the plan was made from other statistics; plan again with these")
    try:
        predicted = predict(
            plan.layouts,
            plan.assignment,
            statistics,
            plan.system,
            plan.options,
            sensitivity=sensitivity,
        )
    except ValueError as error:
        raise PlanError(str(error)) from error
    for field, mine, theirs in _differences(predicted, plan.predicted, "predicted"):
        raise PlanError(f"{field} is {theirs} in the plan, its layouts give {mine}")
    _check_limits(plan)
    value = {
        "throughput": predicted.seconds_per_batch,
        "latency": predicted.latency_seconds,
        "memory": float(predicted.dram_bytes + predicted.llc_bytes),
    }[plan.options.objective]
    if not math.isclose(plan.value, value, rel_tol=_ROUNDING, abs_tol=1e-15):
        raise PlanError(f"value is {plan.value} in the plan, its layouts give {value}")
    if plan.lower_bound > plan.value * (1 + _ROUNDING):
        raise PlanError(f"lower_bound {plan.lower_bound} lies above the value {plan.value}")


def _check_rows(plan: Plan, statistics: AccessStatistics) -> None:
    """Every table of the statistics is there, and every rank is in one band."""
    tables = {table.name: table for table in statistics.tables}
    planned: dict[str, int] = {}
    for layout, assigned in zip(plan.layouts, plan.assignment.tables, strict=True):
        if layout.table not in tables:
            raise PlanError(f"the plan has table {layout.table}, the statistics have not")
        planned[layout.table] = planned.get(layout.table, 0) + layout.num_embeddings
        covered = 0
        for number, band in enumerate(layout.bands):
            if band.start != covered:
                raise PlanError(f"table {layout.table}: rank {covered} is in no band, or in two")
            covered = band.stop
            last = number == len(layout.bands) - 1
            needed = layout.num_embeddings if last else band.num_rows
            if band.tt is not None and band.tt.num_rows < needed:
                raise PlanError(f"table {layout.table}: the cores of band {number} do not reach all rows")
        if covered != layout.num_embeddings:
            rows = layout.num_embeddings
            raise PlanError(f"table {layout.table}: {covered} of {rows} rows are in a band")
        if assigned.strategy != "gather" and len(layout.bands) > 1:
            raise PlanError(
                f"table {layout.table}: strategy {assigned.strategy} is for tables of one band, it has "
                f"{len(layout.bands)}"
            )
    for name, table in tables.items():
        if planned.get(name) != table.num_embeddings:
            raise PlanError(
                f"the plan has {planned.get(name, 0)} rows of table {name}, the statistics "
                f"{table.num_embeddings}"
            )


def _check_limits(plan: Plan) -> None:
    """The layouts' own bytes against the memories', device by device, and the loss against its budget."""
    cache = plan.options.row_cache_bytes
    for limit in memory_limits(plan.system, plan.budget):
        kept = cache if limit.memory == "dram" else 0
        used: dict[int | None, int] = {}
        for layout, assigned in zip(plan.layouts, plan.assignment.tables, strict=True):
            # A table of all devices is on each of them.
            device = assigned.device if limit.private else None
            used[device] = used.get(device, 0) + getattr(layout, f"{limit.memory}_bytes")
        for device, size in used.items():
            if size > limit.num_bytes - kept:
                where = limit.memory.upper() + ("" if device is None else f" of device {device}")
                beside = f" beside the row cache's {kept}" if kept else ""
                raise PlanError(
                    f"the layouts take {size} bytes of {where}, the budget is {limit.num_bytes}{beside}"
                )
    predicted = plan.predicted
    most = plan.budget.max_tt_share
    if most is not None and predicted.tt_share > most + _ROUNDING:
        raise PlanError(f"TT bands answer {predicted.tt_share:.4f} of the look-ups, at most {most} may")
    loss = plan.budget.max_loss
    if loss is not None and predicted.loss is not None and predicted.loss > loss * (1 + _ROUNDING):
        raise PlanError(f"the log-loss rises by {predicted.loss:.3g}, by at most {loss} it may")
    wanted = plan.options.samples_per_second
    if wanted is not None:
        reached = plan.options.batch_size / max(predicted.seconds_per_batch, 1e-300)
        if reached < wanted * (1 - _ROUNDING):
            raise PlanError(f"the plan reaches {reached:.6g} samples/s, asked for {wanted:.6g}")


def _differences(mine: object, theirs: object, path: str) -> Iterator[tuple[str, object, object]]:
    """Fields of two predictions that differ by more than rounding."""
    if isinstance(mine, Frozen) and isinstance(theirs, Frozen):
        for field in type(mine).model_fields:
            yield from _differences(getattr(mine, field), getattr(theirs, field), f"{path}.{field}")
    elif isinstance(mine, tuple) and isinstance(theirs, tuple) and len(mine) == len(theirs):
        for number, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            yield from _differences(one, other, f"{path}[{number}]")
    elif isinstance(mine, float) and isinstance(theirs, (int, float)):
        if not math.isclose(mine, theirs, rel_tol=_ROUNDING, abs_tol=1e-12):
            yield path, mine, theirs
    elif mine != theirs:
        yield path, mine, theirs


def check_page_orders(plan: Plan, orders: Sequence[PageOrder]) -> None:
    """Check that a plan's DRAM budget has room for the indices of page orders.

    Raises:
        PlanError: it has not; the message says how much less the plan may take.
    """
    ordered = ordered_layouts(plan.layouts, {order.table: order for order in orders})
    used = sum(layout.dram_bytes for layout in ordered) + plan.options.row_cache_bytes
    limit = plan.budget.dram_bytes
    if used > limit:
        more = sum(order.index_bytes for order in orders)
        raise PlanError(
            f"page orders of {len(orders)} tables take {more} bytes of DRAM, {used - limit} more than the "
            f"plan leaves of its {limit}; plan with {limit - more}, or keep the order of the ids"
        )

"""A plan by one of the planners of the literature: packed, served, checked and predicted as any plan is."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from screc.planning.asked import dram_budget, table_dims
from screc.planning.baselines import BASELINES, PLANNERS, Baseline, DoesNotFit, Task
from screc.planning.budget import format_bytes
from screc.planning.check import check_plan
from screc.planning.plan import Assignment, Budget, Plan, PlanOptions, SolverReport
from screc.planning.planner import InfeasibleBudget
from screc.planning.prediction import predict
from screc.planning.sensitivity import Sensitivity
from screc.planning.system import DensePrecision, SystemSpec
from screc.statistics.access import AccessStatistics
from screc.storage.row_format import LARGEST_CODE, ROW_FORMATS, SCALE_OWNERS, RowFormat, ScaleOf


def make_baseline_plan(
    method: Baseline,
    statistics: AccessStatistics,
    dims: Mapping[str, int] | int,
    system: SystemSpec,
    *,
    dram_bytes: int | None = None,
    dram_fraction: float | None = None,
    row_format: RowFormat = "fp32",
    row_scale: ScaleOf = "row",
    batch_size: int = 1024,
    queue_depth: int = 256,
    ssd: bool = True,
    tt_ranks: Sequence[int] = (8, 16, 32),
    max_tt_share: float = 0.05,
    sensitivity: Sensitivity | None = None,
    max_loss: float | None = None,
    dense_flops: int = 0,
    dense_precision: DensePrecision = "fp32",
    time_limit: float = 60.0,
) -> Plan:
    """Plan as the literature does, to compare :func:`screc.planning.make_plan` with.

    Args:
        method: ``greedy-size``, ``greedy-lookups`` (whole tables to DRAM in that order), ``recshard`` (hot
            rows in DRAM, the others on SSD, by RecShard's program), ``three-tier`` (hot rows in DRAM, a
            tensor train, SSD), ``tt-only`` (the largest tables as tensor trains) or ``lru`` (all rows on SSD,
            the DRAM budget as a cache in least-recently-used order); see :mod:`screc.planning.baselines`.
        statistics, dims, system: as ``make_plan`` takes them; one host whose cores share its memories.
        dram_bytes, dram_fraction: the DRAM budget, one of the two.
        row_format, row_scale: of all rows that are not in a tensor train.
        batch_size, queue_depth, ssd, dense_flops, dense_precision: as ``make_plan`` takes them.
        tt_ranks: of ``three-tier`` and ``tt-only``.
        max_tt_share: ``three-tier`` without a sensitivity: most look-ups that tensor trains may answer.
        sensitivity, max_loss: ``three-tier`` with one: most rise of the log-loss. The others know nothing of
            accuracy; ``Sensitivity.plan_loss`` says what theirs costs.
        time_limit: seconds for the solver of ``recshard`` and ``three-tier``.

    Returns:
        The plan. No bound is known for it: ``lower_bound`` is 0.

    Raises:
        InfeasibleBudget: the method has no plan within the budget.
        ValueError: an argument is out of range.
    """
    if method not in BASELINES:
        raise ValueError(f"method must be one of {', '.join(BASELINES)}, got {method!r}")
    if not statistics.tables:
        raise ValueError("statistics hold no tables; there is nothing to plan")
    if row_format not in ROW_FORMATS:
        raise ValueError(f"row_format must be one of {', '.join(ROW_FORMATS)}, got {row_format!r}")
    if row_scale not in SCALE_OWNERS or (row_scale == "table" and row_format not in LARGEST_CODE):
        raise ValueError(
            f"row_scale must be 'row', or 'table' with row_format {' or '.join(map(repr, LARGEST_CODE))}, "
            f"got {row_scale!r} with {row_format!r}"
        )
    if system.devices.kind != "core":
        raise ValueError(
            f"method {method} plans for one host whose cores share all memories, the system's devices are "
            f"{system.devices.count} of kind {system.devices.kind}"
        )
    for field, value in (("batch_size", batch_size), ("queue_depth", queue_depth)):
        if value < 1:
            raise ValueError(f"{field} must be at least 1, got {value}")
    if dense_flops < 0:
        raise ValueError(f"dense_flops must not be negative, got {dense_flops}")
    if time_limit <= 0:
        raise ValueError(f"time_limit must be positive, got {time_limit}")
    if not 0 <= max_tt_share <= 1:
        raise ValueError(f"max_tt_share must be between 0 and 1, got {max_tt_share}")
    if (sensitivity is None) != (max_loss is None):
        raise ValueError("give sensitivity and max_loss together, or neither")
    if method not in ("three-tier", "tt-only"):
        tt_ranks = ()
    elif not tt_ranks or min(tt_ranks) < 1:
        raise ValueError(f"tt_ranks must be positive and not empty, got {list(tt_ranks)}")
    if sensitivity is not None:
        sensitivity.check(statistics)
    sizes = table_dims([table.name for table in statistics.tables], dims)
    task = Task(
        statistics=statistics,
        dims=sizes,
        system=system,
        dram_bytes=dram_budget(statistics, sizes, dram_bytes, dram_fraction),
        ssd_bytes=system.num_bytes("ssd") if ssd and system.ssd is not None else 0,
        batch_size=batch_size,
        queue_depth=queue_depth,
        row_format=row_format,
        row_scale=row_scale,
        tt_ranks=tuple(sorted(set(tt_ranks))),
        max_loss=max_tt_share if max_loss is None else max_loss,
        sensitivity=sensitivity if method == "three-tier" else None,
        time_limit=time_limit,
    )
    began = time.monotonic()
    try:
        layouts = tuple(PLANNERS[method](task))
    except DoesNotFit as error:
        raise _refusal(method, task, error) from error
    options = PlanOptions(
        batch_size=batch_size,
        row_formats=(row_format,),
        row_scale=row_scale,
        tt_ranks=task.tt_ranks,
        ssd=ssd,
        tt=bool(task.tt_ranks),
        dense_flops=dense_flops,
        dense_precision=dense_precision,
        queue_depth=queue_depth,
        row_cache_bytes=task.dram_bytes - sum(one.dram_bytes for one in layouts) if method == "lru" else 0,
        row_cache_policy="lru" if method == "lru" else "sketch",
        time_limit=time_limit,
    )
    knows = {} if method != "three-tier" else {"max_loss" if sensitivity else "max_tt_share": task.max_loss}
    assignment = Assignment.shared(layouts)
    predicted = predict(layouts, assignment, statistics, system, options, sensitivity=task.sensitivity)
    plan = Plan(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        layouts=layouts,
        assignment=assignment,
        predicted=predicted,
        budget=Budget(dram_bytes=task.dram_bytes, ssd_bytes=task.ssd_bytes, **knows),
        options=options,
        value=predicted.seconds_per_batch,
        lower_bound=0.0,
        gap=1.0 if predicted.seconds_per_batch > 0 else 0.0,
        resources=(),
        reasons=(f"planned as {method} does, which bounds nothing",),
        solver=SolverReport(
            status="baseline",
            method=method,
            candidates=len(layouts),
            columns=len(layouts),
            seconds=time.monotonic() - began,
        ),
        system=system,
        statistics_digest=statistics.digest,
        statistics_samples=statistics.num_samples,
        sensitivity_digest=task.sensitivity.digest if task.sensitivity is not None else None,
    )
    check_plan(plan, statistics, sensitivity=task.sensitivity)
    return plan


def _refusal(method: Baseline, task: Task, error: DoesNotFit) -> InfeasibleBudget:
    smallest = error.smallest_dram_bytes
    if smallest is not None:
        ways = [f"raise the DRAM budget to {smallest} bytes ({format_bytes(smallest)})"]
    else:
        ways = ["no DRAM budget is enough"]
    if method != "tt-only":
        ways.append(
            f"free space on the SSD, which has {format_bytes(task.ssd_bytes)}"
            if task.ssd_bytes
            else "allow an SSD"
        )
    return InfeasibleBudget(
        f"{method} has no plan for {task.dram_bytes} bytes of DRAM ({format_bytes(task.dram_bytes)}): "
        f"{error}; " + ", or ".join(ways),
        smallest,
    )

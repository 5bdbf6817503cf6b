"""Making a plan: candidate layouts per table, one mixed-integer program, a checked result.

The walking version of SCRec's Scalable Resource Manager (arXiv 2504.00520): one host whose cores share all
work, bands of rows in DRAM, in tensor-train form and of rows on SSD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np

from screc.planning.budget import format_bytes
from screc.planning.candidates import enumerate_candidates
from screc.planning.check import check_plan
from screc.planning.costs import Placement
from screc.planning.mip import Choice, Infeasible, choose
from screc.planning.plan import Assignment, Budget, Plan, PlanOptions, SolverReport
from screc.planning.prediction import predict, table_models
from screc.planning.system import SystemSpec
from screc.statistics.access import AccessStatistics
from screc.storage.layout import TableLayout
from screc.storage.row_format import LARGEST_CODE, ROW_FORMATS, SCALE_OWNERS, RowFormat, ScaleOf

# Room for the rounding of a sum of access shares; 0 stays exact.
_SHARE_ROUNDING = 1e-9


class InfeasibleBudget(ValueError):
    """No placement fits the budget.

    Attributes:
        smallest_dram_bytes: the smallest DRAM budget that has a plan under the same options; None where none
            has.
    """

    def __init__(self, message: str, smallest_dram_bytes: int | None) -> None:
        super().__init__(message)
        self.smallest_dram_bytes = smallest_dram_bytes


def make_plan(
    statistics: AccessStatistics,
    dims: Mapping[str, int] | int,
    system: SystemSpec,
    *,
    dram_bytes: int | None = None,
    dram_fraction: float | None = None,
    batch_size: int = 1024,
    tt_ranks: Sequence[int] = (8, 16, 32),
    max_tt_share: float = 0.05,
    ssd: bool = True,
    tt: bool = True,
    dense_flops: int = 0,
    queue_depth: int = 256,
    row_cache_bytes: int = 0,
    roles: tuple[int, int] | None = None,
    row_formats: RowFormat | Sequence[RowFormat] = "fp32",
    row_scale: ScaleOf = "row",
    time_limit: float = 60.0,
    mip_gap: float = 1e-4,
) -> Plan:
    """Choose a layout for every table: the least predicted seconds per batch within the budget.

    Args:
        statistics: access counts of every table.
        dims: embedding dimension of all tables, or by table name.
        system: rates of the host that will serve.
        dram_bytes: DRAM for rows, cores and indices of all tables, and the row cache.
        dram_fraction: the same as a fraction of all rows in float32; give one of the two.
        batch_size: samples per batch that will be served.
        tt_ranks: TT ranks to choose from.
        max_tt_share: largest share of all look-ups that TT bands may answer, 0 to 1: the stand-in for a
            limit on lost accuracy. All look-ups weigh the same; how sensitive the model is to each table
            is not measured in this version.
        ssd: whether rows may live on SSD (also needs one in ``system``).
        tt: whether TT bands may be used.
        dense_flops: float operations per sample of the MLPs; adds the same time to every plan.
        queue_depth: SSD reads kept in flight when serving.
        row_cache_bytes: DRAM of the budget that is kept for a cache of rows on SSD; the engine makes it this
            large. The choice does not count on its hits; the prediction does.
        roles: threads that look rows up and threads that run the dense part when serving; None: every thread
            does both. The engine takes them over; ``screc bench`` measures which is fastest.
        row_formats: that bands of rows may have. What they cost in accuracy is not part of the plan: packing
            reports what each band loses.
        row_scale: whether each int8 or int4 row has its own scale and bias, or all rows of a band share one
            ("table"): 4 bytes a row less, mostly for a larger error.
        time_limit: seconds for the solver; past it the best plan found is returned with its gap.
        mip_gap: relative optimality gap at which the solver may stop.

    Raises:
        InfeasibleBudget: nothing fits; says the smallest DRAM budget that does, and other ways out.
        ValueError: an argument is out of range.
        SolverError: the solver contradicts bounds computed independently of it.
    """
    if not statistics.tables:
        raise ValueError("statistics hold no tables; there is nothing to plan")
    names = [table.name for table in statistics.tables]
    if len(set(names)) != len(names):
        raise ValueError(f"statistics: table names must differ, got {names}")
    sizes = _dims(names, dims)
    budget = Budget(
        dram_bytes=_dram_budget(statistics, sizes, dram_bytes, dram_fraction),
        ssd_bytes=system.num_bytes("ssd") if ssd and system.ssd is not None else 0,
        max_tt_share=_checked_share(max_tt_share),
    )
    if tt and (not tt_ranks or min(tt_ranks) < 1):
        raise ValueError(f"tt_ranks must be positive and not empty, got {list(tt_ranks)}; or give tt=False")
    for field, value in (("batch_size", batch_size), ("queue_depth", queue_depth)):
        if value < 1:
            raise ValueError(f"{field} must be at least 1, got {value}")
    if not 0 <= row_cache_bytes <= budget.dram_bytes:
        raise ValueError(
            f"row_cache_bytes must be from 0 to the DRAM budget of {budget.dram_bytes} bytes, "
            f"got {row_cache_bytes}"
        )
    if roles is not None and (len(roles) != 2 or min(roles) < 1):
        raise ValueError(f"roles must be two positive numbers of threads or None, got {roles}")
    if dense_flops < 0:
        raise ValueError(f"dense_flops must not be negative, got {dense_flops}")
    formats = (row_formats,) if isinstance(row_formats, str) else tuple(row_formats)
    if not formats:
        raise ValueError(f"row_formats must hold at least one of {', '.join(ROW_FORMATS)}")
    for row_format in formats:
        if row_format not in ROW_FORMATS:
            raise ValueError(f"row_formats must be of {', '.join(ROW_FORMATS)}, got {row_format!r}")
    if row_scale not in SCALE_OWNERS:
        raise ValueError(f"row_scale must be one of {', '.join(SCALE_OWNERS)}, got {row_scale!r}")
    if row_scale == "table" and not any(row_format in LARGEST_CODE for row_format in formats):
        raise ValueError(
            f"row_scale is 'table' and row_formats {list(formats)}, whose rows have no scale to share; "
            f"add {' or '.join(map(repr, LARGEST_CODE))}, or give row_scale='row'"
        )
    if time_limit <= 0:
        raise ValueError(f"time_limit must be positive, got {time_limit}")
    options = PlanOptions(
        batch_size=batch_size,
        tt_ranks=tuple(sorted(set(tt_ranks))) if tt else (),
        ssd=ssd,
        tt=tt,
        dense_flops=dense_flops,
        queue_depth=queue_depth,
        row_cache_bytes=int(row_cache_bytes),
        roles=roles or "mixed",
        time_limit=time_limit,
        mip_gap=mip_gap,
        row_formats=formats,
        row_scale=row_scale,
    )
    problem = _Problem(statistics, sizes, system, options)
    choice = problem.solve(budget)
    chosen = [
        (candidates, number) for candidates, number in zip(problem.candidates, choice.columns, strict=True)
    ]
    layouts = tuple(candidates.layout(number) for candidates, number in chosen)
    assignment = Assignment.shared(layouts, memory=roles[0] if roles else 0, compute=roles[1] if roles else 0)
    predicted = predict(layouts, assignment, statistics, system, options)
    fixed = max(0.0, predicted.seconds_per_batch - choice.cost)
    plan = Plan(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        layouts=layouts,
        assignment=assignment,
        predicted=predicted,
        budget=budget,
        options=options,
        value=predicted.seconds_per_batch,
        lower_bound=min(choice.lower_bound + fixed, predicted.seconds_per_batch),
        gap=choice.gap,
        resources=(),
        reasons=(),
        solver=SolverReport(
            status=choice.status,
            method="enumeration",
            candidates=sum(len(candidates) for candidates in problem.candidates),
            columns=choice.num_columns,
        ),
        system=system,
        statistics_digest=statistics.digest,
        statistics_samples=statistics.num_samples,
    )
    check_plan(plan, statistics)
    return plan


def _dims(names: Sequence[str], dims: Mapping[str, int] | int) -> list[int]:
    if isinstance(dims, int):
        dims = dict.fromkeys(names, dims)
    for name in names:
        if name not in dims:
            raise ValueError(f"dims: no embedding dimension for table {name}; give one")
        if dims[name] < 1:
            raise ValueError(f"dims: table {name} has dimension {dims[name]}; it must be at least 1")
    return [dims[name] for name in names]


def _dram_budget(
    statistics: AccessStatistics, dims: Sequence[int], dram_bytes: int | None, dram_fraction: float | None
) -> int:
    if (dram_bytes is None) == (dram_fraction is None):
        raise ValueError("give either dram_bytes or dram_fraction")
    if dram_bytes is not None:
        if dram_bytes < 0:
            raise ValueError(f"dram_bytes must not be negative, got {dram_bytes}")
        return int(dram_bytes)
    assert dram_fraction is not None
    if not 0 <= dram_fraction < float("inf"):
        raise ValueError(f"dram_fraction must be 0 or more, got {dram_fraction}; 0.1 is a tenth of all rows")
    whole = sum(4 * dim * table.num_embeddings for dim, table in zip(dims, statistics.tables, strict=True))
    return int(whole * dram_fraction)


def _checked_share(share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"max_tt_share must be between 0 and 1, got {share}")
    return float(share)


class _Problem:
    """Candidates of all tables, and the resources that a choice among them uses."""

    def __init__(
        self, statistics: AccessStatistics, dims: Sequence[int], system: SystemSpec, options: PlanOptions
    ) -> None:
        self._system = system
        self._options = options
        rows = [
            TableLayout.dense(t.name, t.num_embeddings, d)
            for t, d in zip(statistics.tables, dims, strict=True)
        ]
        models = table_models(rows, Assignment.shared(rows), statistics, system, options, None)
        placements = _placements(options, ssd=options.ssd and system.ssd is not None)
        self.candidates = [enumerate_candidates(model, placements) for model in models]
        pps, count = system.pages_per_second(options.queue_depth), system.devices.count
        usage = [candidates.usage for candidates in self.candidates]
        self.seconds = [u[:, 0] / count + (u[:, 1] / pps if pps else 0.0) for u in usage]
        self.dram, self.ssd, self.tt = ([u[:, r] for u in usage] for r in (4, 5, 6))

    def solve(self, budget: Budget) -> Choice:
        """The fastest choice within the budget."""
        share = _share_limit(budget.max_tt_share)
        try:
            return self._choose(
                self.seconds,
                [self.dram, self.ssd, self.tt],
                [budget.dram_bytes - self._options.row_cache_bytes, budget.ssd_bytes, share],
                gap=self._options.mip_gap,
            )
        except Infeasible as error:
            raise self._refusal(budget) from error

    def smallest_dram(self, budget: Budget) -> tuple[int, bool]:
        """The least DRAM budget of any choice within the other limits, and whether that is proven."""
        limits = [budget.ssd_bytes, _share_limit(budget.max_tt_share)]
        choice = self._choose(self.dram, [self.ssd, self.tt], limits, gap=0.0)
        return round(choice.cost) + self._options.row_cache_bytes, choice.status != "time limit"

    def _smallest_tt_share(self, budget: Budget) -> float | None:
        try:
            limits = [budget.dram_bytes - self._options.row_cache_bytes, budget.ssd_bytes]
            return self._choose(self.tt, [self.dram, self.ssd], limits, gap=0.0).cost
        except Infeasible:
            return None

    def _choose(self, cost, resources, limits, *, gap: float) -> Choice:
        columns = [np.stack(parts, axis=1) for parts in zip(*resources, strict=True)]
        return choose(cost, columns, np.array(limits), gap=gap, time_limit=self._options.time_limit)

    def _refusal(self, budget: Budget) -> InfeasibleBudget:
        system, options = self._system, self._options
        smallest, proven = self.smallest_dram(budget)
        ways = [f"raise the DRAM budget to {smallest} bytes ({format_bytes(smallest)})"]
        if system.ssd is not None and not options.ssd:
            ways.append("allow the SSD (ssd=True)")
        elif system.ssd is None:
            ways.append("plan for a system with an SSD")
        else:
            ways.append(f"free space on the SSD, which has {format_bytes(budget.ssd_bytes)}")
        if options.row_cache_bytes:
            ways.append(f"keep less than {options.row_cache_bytes} bytes for the row cache")
        if options.tt:
            share = self._smallest_tt_share(budget)
            if share is not None:
                share = np.ceil(share * 1e4) / 1e4
                ways.append(f"let TT bands answer more look-ups (max_tt_share={min(1.0, share):.4f})")
        else:
            ways.append("allow TT bands (tt=True)")
        return InfeasibleBudget(
            f"no plan fits {budget.dram_bytes} bytes of DRAM ({format_bytes(budget.dram_bytes)}); "
            f"the smallest feasible DRAM budget with these options is {smallest} bytes"
            + ("" if proven else " or a little less (the search for it reached time_limit)")
            + ". Either "
            + ", or ".join(ways),
            smallest,
        )


def _share_limit(share: float) -> float:
    return share + _SHARE_ROUNDING if share > 0 else 0.0


def _placements(options: PlanOptions, *, ssd: bool) -> list[Placement]:
    memories = ("dram", "ssd") if ssd else ("dram",)
    found = [
        Placement(row_format, memory, None, options.row_scale if row_format in LARGEST_CODE else "row")
        for memory in memories
        for row_format in options.row_formats
    ]
    return found + [Placement("tt", "dram", rank) for rank in options.tt_ranks]

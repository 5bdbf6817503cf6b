"""Making a plan: every layout of every table, one mixed-integer program, a checked result.

SCRec's Scalable Resource Manager (arXiv 2504.00520), with any number of bands a table, a bound of our own on
what any plan could reach, and measured sensitivity as the accuracy term.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from screc.planning.asked import Asked, checked_options
from screc.planning.bands import COARSE, FINE, FINE_TABLES, TableBands
from screc.planning.budget import format_bytes
from screc.planning.check import check_plan
from screc.planning.column_generation import NoChoice, Solution, solve
from screc.planning.costs import RESOURCES, Placement, TableCosts
from screc.planning.machine import MEMORIES, is_private, manages_llc, num_bytes
from screc.planning.mip import SolverError
from screc.planning.paths import Paths
from screc.planning.plan import Assignment, Objective, Plan, Prediction, ResourceUse, SolverReport
from screc.planning.prediction import predict, table_models
from screc.planning.program import Program, plan_program
from screc.planning.sensitivity import Sensitivity
from screc.planning.system import SystemSpec
from screc.statistics.access import AccessStatistics
from screc.storage.layout import TableLayout
from screc.storage.row_format import LARGEST_CODE, RowFormat, ScaleOf

# How far the program's value and the prediction of its layouts may differ: sums in another order.
_SAME = 1e-6


class InfeasibleBudget(ValueError):
    """No placement fits the budget.

    Attributes:
        smallest_dram_bytes: the smallest DRAM budget that has a plan under the same options; None where none
            has, or where it is not the DRAM that is short.
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
    objective: Objective = "throughput",
    samples_per_second: float | None = None,
    batch_size: int = 1024,
    tt_ranks: Sequence[int] = (8, 16, 32),
    max_tt_share: float | None = None,
    sensitivity: Sensitivity | None = None,
    max_loss: float | None = None,
    ssd: bool = True,
    tt: bool = True,
    dense_flops: int = 0,
    queue_depth: int = 256,
    row_cache_bytes: int = 0,
    roles: tuple[int, int] | Literal["auto"] | None = None,
    row_formats: RowFormat | Sequence[RowFormat] | None = None,
    row_scale: ScaleOf = "row",
    time_limit: float = 60.0,
    mip_gap: float = 1e-3,
) -> Plan:
    """Choose a layout for every table: the least predicted time within the budget, or the least memory.

    Args:
        statistics: access counts of every table.
        dims: embedding dimension of all tables, or by table name.
        system: rates of the host that will serve.
        dram_bytes: DRAM for rows, cores and indices of all tables, and the row cache.
        dram_fraction: the same as a fraction of all rows in float32; give one of the two.
        objective: ``throughput``: least seconds per batch when batches follow each other. ``latency``: of one
            batch alone. ``memory``: least bytes of memory that reach ``samples_per_second``.
        samples_per_second: of objective ``memory``, and only of that.
        batch_size: samples per batch that will be served.
        tt_ranks: TT ranks to choose from.
        max_tt_share: without a sensitivity: largest share of all look-ups that TT bands may answer, 0 to 1,
            0.05 if not given. It stands in for a limit on lost accuracy; all look-ups weigh the same.
        sensitivity: what each table loses in each format, measured. Rows may then have every format that it
            knows, unless ``row_formats`` says which.
        max_loss: with a sensitivity, required: most rise of the mean log-loss, nats a sample.
        ssd: whether rows may live on SSD (also needs one in ``system``).
        tt: whether TT bands may be used.
        dense_flops: float operations per sample of the MLPs.
        queue_depth: SSD reads kept in flight when serving.
        row_cache_bytes: DRAM of the budget that is kept for a cache of rows on SSD; the engine makes it this
            large. The choice does not count on its hits; the prediction does.
        roles: devices that look rows up and devices that run the dense part when serving; None: every device
            does both. The engine takes them over; ``screc bench`` measures which is fastest. ``"auto"``: what
            is predicted to be faster; the plan says why.
        row_formats: that bands of rows may have, float32 without a sensitivity. What they cost in accuracy is
            then not part of the plan: packing reports what each band loses.
        row_scale: whether each int8 or int4 row has its own scale and bias, or all rows of a band share one
            ("table"): 4 bytes a row less, mostly for a larger error.
        time_limit: seconds for the search; past it the best plan found is returned with its gap.
        mip_gap: relative optimality gap at which the search may stop.

    Raises:
        InfeasibleBudget: nothing fits; says which memory is short, the smallest DRAM budget that does, and
            other ways out.
        ValueError: an argument is out of range.
        SolverError: the solver contradicts bounds computed independently of it.
    """
    began = time.monotonic()
    asked = checked_options(
        statistics,
        dims,
        system,
        dram_bytes=dram_bytes,
        dram_fraction=dram_fraction,
        objective=objective,
        samples_per_second=samples_per_second,
        batch_size=batch_size,
        tt_ranks=tt_ranks,
        max_tt_share=max_tt_share,
        sensitivity=sensitivity,
        max_loss=max_loss,
        ssd=ssd,
        tt=tt,
        dense_flops=dense_flops,
        queue_depth=queue_depth,
        row_cache_bytes=row_cache_bytes,
        roles=roles,
        row_formats=row_formats,
        row_scale=row_scale,
        time_limit=time_limit,
        mip_gap=mip_gap,
    )
    found = _best(asked, system)
    plan = _plan(asked, system, found, time.monotonic() - began)
    check_plan(plan, statistics, sensitivity=sensitivity)
    return plan


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """Layouts of all tables, whose they are, and how good they are known to be.

    Attributes:
        layouts, assignment: of the plan.
        predicted: what they take.
        solution: the search's, over the program.
        program: what was minimised.
        method: how the search went, in a few words.
        reasons: in sentences.
    """

    layouts: tuple[TableLayout, ...]
    assignment: Assignment
    predicted: Prediction
    solution: Solution
    program: Program
    method: str
    reasons: tuple[str, ...]


def value_of(predicted: Prediction, objective: Objective) -> float:
    """What a plan with this prediction is judged by."""
    return {
        "throughput": predicted.seconds_per_batch,
        "latency": predicted.latency_seconds,
        "memory": float(predicted.dram_bytes + predicted.llc_bytes),
    }[objective]


def _plan(asked: Asked, system: SystemSpec, found: Found, seconds: float) -> Plan:
    options, solution = asked.options, found.solution
    value = value_of(found.predicted, options.objective)
    # What the program leaves out is the same for every plan.
    fixed = 1e-9 * system.batch_ns if options.objective != "memory" else 0.0
    bound = min(value, solution.lower_bound + fixed)
    if options.row_cache_bytes:
        # The program does not count on the cache's hits, the prediction does: the bound is of the program.
        bound = value * (1.0 - solution.gap)
    return Plan(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        layouts=found.layouts,
        assignment=found.assignment,
        predicted=found.predicted,
        budget=asked.budget,
        options=options,
        value=value,
        lower_bound=bound,
        gap=(value - bound) / value if value > 0 else 0.0,
        resources=_resources(found),
        reasons=found.reasons,
        solver=SolverReport(
            status=solution.status,
            method=found.method,
            candidates=solution.looked_at,
            columns=solution.given,
            seconds=seconds,
        ),
        system=system,
        statistics_digest=asked.statistics.digest,
        statistics_samples=asked.statistics.num_samples,
        sensitivity_digest=asked.sensitivity.digest if asked.sensitivity is not None else None,
    )


def _resources(found: Found) -> tuple[ResourceUse, ...]:
    """What of each limit the plan uses, and what the relaxation would pay for more of it."""
    program, solution = found.program, found.solution
    usage = np.sum([column.usage for column in solution.columns], axis=0)
    return tuple(
        ResourceUse(name=name, used=float(usage @ row), limit=float(limit), price=float(price))
        for name, row, limit, price, stage, device in zip(
            program.names,
            program.rows,
            program.limits,
            solution.prices,
            program.stage,
            program.device,
            strict=True,
        )
        if not stage and device == -1 and limit > 0
    )


def _best(asked: Asked, system: SystemSpec) -> Found:
    """The best plan of a machine: where devices have memories of their own, every table has a device."""
    devices = system.devices
    if devices.fixed_role and devices.count < 2 and asked.options.dense_flops and asked.roles == (0, 0):
        raise ValueError("system: its one device has a fixed role, and a model needs both; plan for two")
    owned = any(is_private(system, memory) for memory in MEMORIES)
    if owned and (asked.roles[0] or system.devices.count) > 1:
        from screc.planning.devices import best_on_devices

        return best_on_devices(asked, system)
    roles = asked.roles
    found = _shared(asked, system, roles)
    if asked.options.objective == "latency" and found.predicted.pages_per_batch > 0:
        # A batch alone waits for its first read: without any it may be sooner.
        with_reads = found
        try:
            without = _shared(replace(asked, ssd=False), system, roles)
        except InfeasibleBudget:
            return with_reads
        if without.predicted.latency_seconds < with_reads.predicted.latency_seconds:
            bound = min(with_reads.solution.lower_bound, without.solution.lower_bound)
            found = replace(without, solution=replace(without.solution, lower_bound=bound))
    return found


def _shared(asked: Asked, system: SystemSpec, roles: tuple[int, int]) -> Found:
    problem = Problem.of(asked, system, roles)
    program = plan_program(system, asked.options, asked.budget, roles=roles)
    solution = problem.solve(program)
    layouts = problem.layouts(solution)
    assignment = Assignment.shared(layouts, memory=roles[0], compute=roles[1])
    predicted = predict(
        layouts, assignment, asked.statistics, system, asked.options, sensitivity=asked.sensitivity
    )
    found = Found(
        layouts=layouts,
        assignment=assignment,
        predicted=predicted,
        solution=solution,
        program=program,
        method=problem.method(solution),
        reasons=(),
    )
    agree(found, asked, system)
    return found


def agree(found: Found, asked: Asked, system: SystemSpec) -> None:
    """Hold the program's value against the prediction of its layouts, which shares no code with it.

    Raises:
        SolverError: they differ.
    """
    options = asked.options
    if options.row_cache_bytes or options.objective == "latency":
        return
    fixed = 1e-9 * system.batch_ns if options.objective == "throughput" else 0.0
    value = value_of(found.predicted, options.objective)
    if abs(value - found.solution.value - fixed) > _SAME * max(value, 1e-12):
        raise SolverError(
            f"the program's value is {found.solution.value + fixed:g}, its layouts are predicted {value:g}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """The bands of all tables, under the options of a plan.

    Attributes:
        asked: the options.
        system: the machine.
        tables: the bands of each table, or of each of its shards.
    """

    asked: Asked
    system: SystemSpec
    tables: list[TableBands]

    @classmethod
    def of(
        cls,
        asked: Asked,
        system: SystemSpec,
        roles: tuple[int, int],
        *,
        assignment: Assignment | None = None,
        rows: Sequence[TableLayout] | None = None,
    ) -> Problem:
        """Cost every band of every table, or of the shards that ``rows`` and ``assignment`` are of."""
        if rows is None:
            rows = [
                TableLayout.dense(table.name, table.num_embeddings, dim)
                for table, dim in zip(asked.statistics.tables, asked.dims, strict=True)
            ]
        if assignment is None:
            assignment = Assignment.shared(rows, memory=roles[0], compute=roles[1])
        models = table_models(rows, assignment, asked.statistics, system, asked.options, asked.sensitivity)
        steps = FINE if len(models) <= FINE_TABLES else COARSE
        tables = [TableBands.of(model, _placements(asked, system, model), steps=steps) for model in models]
        return cls(asked=asked, system=system, tables=tables)

    def layouts(self, solution: Solution) -> tuple[TableLayout, ...]:
        """The layouts of a solution."""
        return tuple(
            table.layout(column.path) for table, column in zip(self.tables, solution.columns, strict=True)
        )

    def method(self, solution: Solution) -> str:
        """How it was found."""
        return "column generation, " + ("exact" if solution.exact else "bounded")

    def solve(self, program: Program, **more) -> Solution:
        """The best choice within the budget.

        Raises:
            InfeasibleBudget: there is none.
        """
        options = self.asked.options
        arguments = {"gap": options.mip_gap, "time_limit": options.time_limit, **more}
        try:
            return solve(self.tables, program, **arguments)
        except NoChoice:
            pass
        # The least DRAM within the other limits is a choice to start from, or says what is missing.
        least = self._least(program, "DRAM")
        budget = float(program.limits[program.names.index("DRAM")])
        if least is None or least.value > budget:
            raise self._refusal(program, least)
        try:
            return solve(self.tables, program, **{**arguments, "start": least.columns})
        except NoChoice as error:
            raise SolverError(f"{error}, and yet some are known that do") from error

    def _least(self, program: Program, name: str) -> Solution | None:
        """The least that any choice uses of what a row limits, within the other limits."""
        try:
            return solve(self.tables, program.least(name), gap=0.0, time_limit=self.asked.options.time_limit)
        except (NoChoice, ValueError):
            return None

    def _refusal(self, program: Program, least: Solution | None) -> InfeasibleBudget:
        asked, system = self.asked, self.system
        options, budget = asked.options, asked.budget
        if least is None:
            return InfeasibleBudget(self._other_limit(program), None)
        smallest = round(least.value) + options.row_cache_bytes
        short, most = self._largest()
        ways = [f"raise the DRAM budget to {smallest} bytes ({format_bytes(smallest)})"]
        if system.ssd is not None and not options.ssd:
            ways.append("allow the SSD (ssd=True)")
        elif system.ssd is None:
            ways.append("plan for a system with an SSD")
        else:
            ways.append(f"free space on the SSD, which has {format_bytes(budget.ssd_bytes)}")
        if options.row_cache_bytes:
            ways.append(f"keep less than {options.row_cache_bytes} bytes for the row cache")
        if not options.tt:
            ways.append("allow TT bands (tt=True)")
        elif budget.max_loss is None:
            share = self._least(program, "TT share")
            if share is not None:
                ways.append(
                    "let TT bands answer more look-ups "
                    f"(max_tt_share={min(1.0, np.ceil(share.value * 1e4) / 1e4):.4f})"
                )
        else:
            loss = self._least(program, "loss")
            if loss is not None:
                ways.append(f"allow more loss (max_loss={loss.value * (1 + 1e-3):.3g})")
        return InfeasibleBudget(
            f"no plan fits {budget.dram_bytes} bytes of DRAM ({format_bytes(budget.dram_bytes)}); "
            f"the smallest feasible DRAM budget with these options is {smallest} bytes"
            + ("" if least.gap <= _SAME else " or a little less (time_limit ended the search for it)")
            + f", of which table {short} takes at least {most}"
            + ". Either "
            + ", or ".join(ways),
            smallest,
        )

    def _largest(self) -> tuple[str, int]:
        """The table that takes the most DRAM at the least, and how much."""
        prices = np.zeros((len(self.tables), len(RESOURCES)))
        prices[:, RESOURCES.index("dram")] = 1.0
        least = Paths(self.tables).cheapest(prices).cost
        number = int(np.argmax(np.where(np.isfinite(least), least, -1)))
        return self.tables[number].model.statistics.name, round(float(least[number]))

    def _other_limit(self, program: Program) -> str:
        """Which limit cannot be kept whatever the DRAM budget."""
        hard = np.flatnonzero(~program.stage)
        for row in hard:
            alone = program.take(np.array([row]))
            prices = np.broadcast_to(alone.rows[0], (len(self.tables), len(RESOURCES)))
            least = Paths(self.tables).cheapest(prices).cost
            if least.sum() > program.limits[row]:
                worst = self.tables[int(np.argmax(least))].model.statistics.name
                return (
                    f"no plan keeps the limit on {program.names[row]} of {program.limits[row]:g}: all tables "
                    f"together need at least {least.sum():g}, table {worst} the most; raise it to that"
                )
        names = ", ".join(program.names[row] for row in hard)
        return f"no plan keeps all of these limits, whatever the DRAM budget: {names}; raise one of them"


def _placements(asked: Asked, system: SystemSpec, model: TableCosts) -> list[Placement]:
    """What the bands of a table may be."""
    options = asked.options
    fast = ["llc"] if manages_llc(system) else []
    dram = ["dram"] if num_bytes(system, "dram") > 0 else []
    ssd = ["ssd"] if asked.ssd and system.ssd is not None else []
    found = [
        Placement(row_format, memory, None, options.row_scale if row_format in LARGEST_CODE else "row")
        for memory in (*fast, *dram, *ssd)
        for row_format in options.row_formats
    ]
    found += [Placement("tt", memory, rank) for memory in (*fast, *dram) for rank in options.tt_ranks]
    known = model.sensitivity
    if known is None:
        return found
    return [one for one in found if known.knows(one.format, one.tt_rank, one.scale)]

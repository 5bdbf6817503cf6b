"""Plans for devices with memories of their own: roles, shards of giant tables, and the device of every table.

Two phases and a refit. All looking devices taken together give layouts and a bound that no assignment beats
(:func:`screc.planning.program.plan_program`); tables are then dealt out, the largest first, and moved while
the fullest device gets emptier; at last the layouts are chosen again, device by device, from that start.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from screc.planning.asked import Asked
from screc.planning.column_generation import NoChoice, Solution, solve
from screc.planning.machine import is_private
from screc.planning.paths import Column
from screc.planning.plan import Assignment, TableAssignment
from screc.planning.planner import Found, InfeasibleBudget, Problem, agree
from screc.planning.prediction import predict
from screc.planning.program import Program, plan_program
from screc.planning.system import SystemSpec
from screc.storage.layout import TableLayout

# A table is dealt out in parts where it takes more than this of a device's share of the work or of a memory.
_LARGE = 0.25
_MOST_MOVES = 3000
_MOST_SHRINKS = 8
# Loads are compared by the sum of this power of them: nearly the fullest alone.
_POWER = 12


def best_on_devices(asked: Asked, system: SystemSpec) -> Found:
    """The best plan found where every table has a device.

    Raises:
        InfeasibleBudget: nothing fits.
    """
    found = _with_roles(asked, system)
    return _assigned(asked, system, *found)


def _with_roles(asked: Asked, system: SystemSpec) -> tuple[tuple[int, int], str]:
    """Devices that look up and that compute, and why."""
    count = system.devices.count
    if asked.roles != (0, 0):
        return asked.roles, "the roles were asked for"
    if not asked.options.dense_flops:
        return (0, 0), "there is no dense part: every device looks up"
    if not system.devices.fixed_role:
        return (0, 0), (
            "every device looks up and computes in turn: shared out evenly, both take (E + M) / D, which is "
            "never more than the slower of E / k and M / (D - k)"
        )
    # With more devices that look up, look-ups take less and the dense part more: best is where they cross.
    problem, known = Problem.of(asked, system, (1, count - 1)), {}

    def value(k: int) -> float:
        if k not in known:
            program = plan_program(system, asked.options, asked.budget, roles=(k, count - k))
            try:
                known[k] = problem.solve(program, gap=0.01, time_limit=asked.options.time_limit / 8).value
            except InfeasibleBudget:
                known[k] = math.inf
        return known[k]

    dense = 1e-9 * system.dense_ns(
        asked.options.batch_size, asked.options.dense_flops, asked.options.dense_precision
    )
    low, high = 1, count - 1
    while low < high:
        middle = (low + high) // 2
        if value(middle) > dense / (count - middle) * (1 + 1e-9):
            low = middle + 1
        else:
            high = middle
    best = min({low, max(1, low - 1)}, key=value)
    return (best, count - best), (
        f"{best} of {count} devices look up, {count - best} compute: a device's role is fixed, and with one "
        "fewer or more on either side the slower of the two takes longer"
    )


def _assigned(asked: Asked, system: SystemSpec, roles: tuple[int, int], why: str) -> Found:
    lookers = roles[0] or system.devices.count
    program = plan_program(system, asked.options, asked.budget, roles=roles)
    whole = Problem.of(asked, system, roles)
    together = whole.solve(program, time_limit=asked.options.time_limit / 4)
    parts = _parts(together, program, lookers)
    problem = whole
    if max(parts) > 1:
        problem = _sharded(asked, system, roles, parts)
        together = problem.solve(program, time_limit=asked.options.time_limit / 4)
    own = plan_program(system, asked.options, asked.budget, roles=roles, devices=tuple(range(lookers)))
    columns, owner = _dealt(problem, program, own, together, lookers)
    solution = solve(
        problem.tables,
        own,
        owner=owner.tolist(),
        gap=asked.options.mip_gap,
        time_limit=asked.options.time_limit / 4,
        start=columns,
    )
    bound = min(together.lower_bound, solution.value)
    gap = (solution.value - bound) / solution.value if solution.value > 0 else 0.0
    done = gap <= max(asked.options.mip_gap, 1e-2)
    solution = replace(
        solution,
        lower_bound=bound,
        gap=gap,
        exact=False,
        status="optimal" if done else "time limit",
    )
    layouts = problem.layouts(solution)
    dealt = tuple(
        TableAssignment(
            table=layout.table, device=int(device), part=table.model.part, parts=table.model.parts
        )
        for layout, device, table in zip(layouts, owner, problem.tables, strict=True)
    )
    assignment = Assignment(memory=roles[0], compute=roles[1], tables=dealt)
    predicted = predict(
        layouts, assignment, asked.statistics, system, asked.options, sensitivity=asked.sensitivity
    )
    split = sum(count > 1 for count in parts)
    found = Found(
        layouts=layouts,
        assignment=assignment,
        predicted=predicted,
        solution=solution,
        program=own,
        method="column generation of all devices together, assignment, refit",
        reasons=(
            why,
            f"{split} of {len(parts)} tables are dealt out in parts, each too much for one device",
            "the bound is that of all devices together, over which the parts could be spread evenly",
        ),
    )
    agree(found, asked, system)
    return found


def _parts(solution: Solution, program: Program, lookers: int) -> list[int]:
    """How many parts each table is dealt out in."""
    if lookers == 1:
        return [1] * len(solution.columns)
    usage = np.stack([column.usage for column in solution.columns])
    counted = program.rows.any(axis=1) & np.array(
        [name not in ("loss", "TT share") for name in program.names]
    )
    loads = usage @ program.rows[counted].T
    # Of work its share of what all take; of memory its share of all there is.
    whole = np.where(program.stage[counted], loads.sum(axis=0), program.limits[counted])
    share = (loads / np.maximum(whole, 1e-300)).max(axis=1) * lookers
    return [min(lookers, math.ceil(one / _LARGE)) if one > _LARGE else 1 for one in share]


def _sharded(asked: Asked, system: SystemSpec, roles: tuple[int, int], parts: list[int]) -> Problem:
    """The bands of the tables' parts."""
    rows, dealt = [], []
    for table, dim, count in zip(asked.statistics.tables, asked.dims, parts, strict=True):
        count = min(count, table.num_embeddings)
        for part in range(count):
            size = -(-(table.num_embeddings - part) // count)
            rows.append(TableLayout.dense(table.name, size, dim))
            dealt.append(TableAssignment(table=table.name, device=0, part=part, parts=count))
    assignment = Assignment(memory=roles[0], compute=roles[1], tables=tuple(dealt))
    return Problem.of(asked, system, roles, assignment=assignment, rows=rows)


def _dealt(
    problem: Problem, program: Program, own: Program, together: Solution, lookers: int
) -> tuple[list[Column], np.ndarray]:
    """Layouts, and a device for each such that no memory is too full."""
    system, options = problem.system, problem.asked.options
    shrunk = program
    for _ in range(_MOST_SHRINKS):
        columns = list(together.columns)
        usage = np.stack([column.usage for column in columns])
        loads, private = _loads(usage, own, lookers)
        owner = _longest_first(loads, lookers)
        owner = _exchanged(loads, owner, lookers)
        filled = np.stack([loads[owner == device].sum(axis=0) for device in range(lookers)])
        over = filled[:, private].max(axis=0, initial=0.0)
        if (over <= 1.0).all():
            return columns, owner
        # Less of what overflowed, and again.
        limits = shrunk.limits.copy()
        names = [memory.upper() for memory in ("llc", "dram", "ssd") if is_private(system, memory)]
        for name, full in zip(names, over, strict=True):
            if full > 1.0:
                limits[shrunk.names.index(name)] /= full * 1.02
        shrunk = replace(shrunk, limits=limits)
        try:
            together = solve(problem.tables, shrunk, gap=options.mip_gap, time_limit=options.time_limit / 8)
        except NoChoice:
            break
    raise InfeasibleBudget(
        f"tables fit {lookers} devices together but were not found to fit any of them apart; give more DRAM",
        None,
    )


def _loads(usage: np.ndarray, own: Program, lookers: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each table what it takes of a device: parts of the mean stage, parts of each private memory; and
    which columns are memories."""
    mine = np.flatnonzero((own.device == 0) & own.rows.any(axis=1))
    loads = usage @ own.rows[mine].T
    stage = own.stage[mine]
    mean = np.maximum(loads[:, stage].sum(axis=0).max(initial=0.0) / lookers, 1e-300)
    scale = np.where(stage, mean, np.maximum(own.limits[mine], 1e-300))
    return loads / scale, ~stage


def _longest_first(loads: np.ndarray, lookers: int) -> np.ndarray:
    """Each table, the largest first, to the device that is least full with it."""
    owner = np.zeros(len(loads), dtype=np.int64)
    filled = np.zeros((lookers, loads.shape[1]))
    for table in np.argsort(-loads.max(axis=1), kind="stable"):
        after = filled + loads[table]
        device = int(np.lexsort((after.sum(axis=1), after.max(axis=1)))[0])
        owner[table] = device
        filled[device] += loads[table]
    return owner


def _exchanged(loads: np.ndarray, owner: np.ndarray, lookers: int) -> np.ndarray:
    """Move single tables off the fullest device while that helps."""
    owner = owner.copy()
    filled = np.stack([loads[owner == device].sum(axis=0) for device in range(lookers)])
    for _ in range(_MOST_MOVES):
        full = int(filled.max(axis=1).argmax())
        mine = np.flatnonzero(owner == full)
        others = np.array([device for device in range(lookers) if device != full])
        if mine.size == 0 or others.size == 0:
            break
        left = ((filled[full] - loads[mine]) ** _POWER).sum(axis=1)
        got = ((filled[others][None] + loads[mine][:, None]) ** _POWER).sum(axis=2)
        before = (filled[full] ** _POWER).sum() + (filled[others] ** _POWER).sum(axis=1)
        change = left[:, None] + got - before[None]
        table, other = np.unravel_index(change.argmin(), change.shape)
        if change[table, other] >= -1e-9 * before.max():
            break
        filled[full] -= loads[mine[table]]
        filled[others[other]] += loads[mine[table]]
        owner[mine[table]] = others[other]
    return owner

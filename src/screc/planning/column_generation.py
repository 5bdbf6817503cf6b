"""The best layouts of all tables at once, over every path of every table, with a lower bound of our own.

1. Column generation: a linear program over the layouts found so far gives prices of what they use up; at
   these prices the cheapest layout of each table is a shortest path (:mod:`screc.planning.paths`), and all of
   them together give a Lagrangian lower bound on every plan, layouts that were never looked at included.
2. The mixed-integer program over the layouts found (:mod:`screc.planning.mip`) gives a plan, and with it the
   distance of the best plan from the bound.
3. A layout that at the bound's prices costs more than that distance above its table's cheapest is in no
   better plan. All others are enumerated, if they are not too many, and the program over them is exact.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from screc.planning.bands import TableBands
from screc.planning.mip import Choice, Infeasible, SolverError, choose
from screc.planning.paths import Column, Paths, within
from screc.planning.program import Program

_MOST_ROUNDS = 80
# The relaxation is solved when its bound and its value differ by this part.
_CONVERGED = 1e-6
# Cost of overstepping a limit by all of it, in multiples of the first value seen.
_PENALTY = 1e5
_OVERSTEPPED = 1e-7
# Emphasis of one row against the others in the first prices.
_EMPHASES = (1.0, 30.0, 1000.0)
# Room for rounding where two values are compared that are sums in different order.
_ROUNDING = 1e-6
# Layouts of all tables beyond which the program is not given more.
_MOST_COLUMNS = 60_000
# Parts of the distance within which layouts are enumerated, one after the other: each may bring a better
# plan, and with it a shorter distance.
_REACHES = (0.05, 0.3, 1.0)


class NoChoice(ValueError):
    """No layouts were found that keep every limit.

    Attributes:
        proven: whether there are none.
    """

    def __init__(self, message: str, *, proven: bool) -> None:
        super().__init__(message)
        self.proven = proven


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Layouts of all tables.

    Attributes:
        columns: a layout of each table.
        value: what the program minimises.
        lower_bound: no layouts of these tables' bands have a smaller value.
        gap: (value - lower_bound) / value; 0 for value 0.
        status: ``optimal`` (to the gap asked for) or ``time limit`` (or more layouts than can be looked at).
        exact: whether every layout that could be part of a better choice was looked at.
        prices: float64 [rows of the program], what a unit of each limit is worth; of stages, their weight.
        looked_at: layouts of all tables.
        given: of these, layouts that the last mixed-integer program was given.
    """

    columns: tuple[Column, ...]
    value: float
    lower_bound: float
    gap: float
    status: str
    exact: bool
    prices: np.ndarray
    looked_at: int
    given: int


def solve(
    tables: Sequence[TableBands],
    program: Program,
    *,
    owner: Sequence[int] | None = None,
    gap: float = 1e-3,
    time_limit: float = 60.0,
    start: Sequence[Column] | None = None,
) -> Solution:
    """Choose a layout of every table.

    Args:
        tables: their bands.
        program: what is minimised and kept.
        owner: the device of each table; None: the tables are of all devices.
        gap: at which to stop.
        time_limit: seconds; past it the best layouts found are returned with their gap.
        start: layouts that keep the limits.

    Raises:
        NoChoice: none that keep the limits were found.
        SolverError: the solver contradicts our own bounds.
    """
    return _Search(tables, program, owner, time_limit).run(gap, start)


class _Search:
    """One program over the paths of all tables."""

    def __init__(
        self,
        tables: Sequence[TableBands],
        program: Program,
        owner: Sequence[int] | None,
        time_limit: float,
    ) -> None:
        self._deadline = time.monotonic() + time_limit
        owners = np.full(len(tables), -1) if owner is None else np.asarray(owner)
        self._all_rows = program
        self._owner = owners
        weights = {int(one): program.weights(int(one)) for one in np.unique(owners)}
        hard = ~program.stage
        fitting = []
        for table, one in zip(tables, owners.tolist(), strict=True):
            used = table.usage @ weights[one][hard].T
            possible = table.possible & (used <= program.limits[hard]).all(axis=1)
            fitting.append(table if possible.all() else replace(table, possible=possible))
        self._paths = Paths(fitting)
        kept = self._needed(weights)
        self._kept = np.flatnonzero(kept)
        self._program = program.take(kept)
        self._weights = {one: rows[kept] for one, rows in weights.items()}
        self._columns: list[list[Column]] = [[] for _ in tables]
        self._known: list[set[tuple[int, ...]]] = [set() for _ in tables]

    def _needed(self, weights: dict[int, np.ndarray]) -> np.ndarray:
        """Which rows can matter, bool [rows]: not limits that no layouts reach, nor stages that another
        one is never shorter than."""
        program, tables = self._all_rows, self._paths.tables
        kept = np.ones(len(program.names), dtype=bool)
        for row in np.flatnonzero(~program.stage):
            if all(np.array_equal(one[row], program.rows[row]) for one in weights.values()):
                most = float(self._paths.most(program.rows[row]).sum())
                kept[row] = not most <= program.limits[row] * (1 - 1e-9)
        if len(weights) > 1:
            return kept
        rows = next(iter(weights.values()))
        stages = np.flatnonzero(program.stage)
        # beaten[i, j]: stage i is nowhere longer than stage j.
        beaten = program.limits[stages][:, None] >= program.limits[stages][None]
        for table in tables:
            used = (table.usage[table.possible] @ rows[stages].T) if table.possible.any() else None
            if used is not None:
                for j in range(stages.size):
                    beaten[:, j] &= (used <= used[:, j, None] * (1 + 1e-12)).all(axis=0)
        for i in range(stages.size):
            others = [j for j in range(stages.size) if j != i and kept[stages[j]]]
            if any(beaten[i, j] for j in others):
                kept[stages[i]] = False
        return kept

    # ------------------------------------------------------------------------------------------------

    def run(self, gap: float, start: Sequence[Column] | None) -> Solution:
        """Choose."""
        if start is not None:
            self._add(list(start))
        prices, bound, feasible = self._relaxation(len(self._columns))
        if not feasible and start is None:
            raise NoChoice("no layouts keep the limits", proven=False)
        best = list(start) if start is not None else None
        upper = self._value(best) if best is not None else np.inf
        try:
            best, upper, choice = self._choose(best, gap, bound)
        except Infeasible:
            raise NoChoice("no layouts were found that keep the limits", proven=False) from None
        exact = False
        for reach in _REACHES:
            if upper - bound <= gap * upper or self._left() <= 0:
                break
            complete = self._enumerate(prices, reach * (upper - bound))
            if complete is None:
                break
            reached = reach * (upper - bound)
            best, upper, choice = self._choose(best, gap, bound)
            exact = complete and upper - bound <= reached * (1 + _ROUNDING)
            if exact:
                break
        if exact and choice.status != "time limit":
            # Over all layouts that could be part of a better choice the solver's bound holds.
            bound = max(bound, min(upper, choice.lower_bound))
        if upper < bound - _ROUNDING * max(abs(upper), abs(bound)):
            raise SolverError(f"layouts of value {upper:g} lie below the lower bound {bound:g}")
        bound = min(bound, upper)
        reached = (upper - bound) / upper if upper > 0 else 0.0
        found = np.zeros(len(self._all_rows.names))
        found[self._kept] = prices
        return Solution(
            columns=tuple(best),
            value=upper,
            lower_bound=bound,
            gap=reached,
            status="optimal" if reached <= max(gap, _ROUNDING) else "time limit",
            exact=exact,
            prices=found,
            looked_at=sum(len(columns) for columns in self._columns),
            given=choice.num_columns,
        )

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    def _add(self, columns: Sequence[Column | None]) -> list[int]:
        """Take up one column of each table; numbers of the tables whose column is new."""
        new = []
        for number, column in enumerate(columns):
            if column is not None and column.path not in self._known[number]:
                self._known[number].add(column.path)
                self._columns[number].append(column)
                new.append(number)
        return new

    def _rows_of(self, number: int, columns: Sequence[Column]) -> np.ndarray:
        """What columns of a table add to the program's rows, float64 [columns, rows]."""
        usage = np.stack([column.usage for column in columns])
        return usage @ self._weights[int(self._owner[number])].T

    def _value(self, columns: Sequence[Column]) -> float:
        totals = np.sum([self._rows_of(n, [column])[0] for n, column in enumerate(columns)], axis=0)
        stage = self._program.stage
        over = (totals - self._program.limits)[stage].max(initial=0.0)
        linear = sum(float(column.usage @ self._program.objective) for column in columns)
        return linear + max(0.0, float(over))

    def _table_prices(self, prices: np.ndarray) -> np.ndarray:
        """Prices of what bands use up, float64 [tables, 7], from those of the rows."""
        by_owner = {one: self._program.objective + prices @ rows for one, rows in self._weights.items()}
        return np.stack([by_owner[int(one)] for one in self._owner])

    def _lagrangian(self, prices: np.ndarray) -> tuple[float, list[Column | None]]:
        """Lower bound on the value of any layouts, for any prices >= 0 of which the stages' sum to at most
        1, and the cheapest layouts."""
        cheapest = self._paths.cheapest(self._table_prices(prices))
        return float(cheapest.cost.sum() - prices @ self._program.limits), cheapest.columns

    # ------------------------------------------------------------------------------------------------

    def _relaxation(self, num_tables: int) -> tuple[np.ndarray, float, bool]:
        """Column generation: the best prices, their bound, whether fractions of layouts keep the limits."""
        program, stage = self._program, self._program.stage
        rows = len(program.names)
        prices = np.where(stage, 1.0 / max(1, stage.sum()), 0.0)
        bound, columns = self._lagrangian(prices)
        best_prices = prices
        if any(column is None for column in columns):
            raise NoChoice("a table has no layout within the limits", proven=True)
        self._add(columns)
        first = self._value([one for one in columns if one is not None])
        unit = max(first, 1e-300) / 1000.0
        scale = np.where(stage, unit, np.maximum(program.limits, 1e-300))
        for emphasis in _EMPHASES:
            for row in range(rows):
                seed = np.where(stage, prices, first / scale)
                seed[row] *= emphasis
                _, found = self._lagrangian(seed)
                self._add(found)
        master = _Master(program, scale, unit, num_tables)
        for number, known in enumerate(self._columns):
            master.add(number, self._objectives(known), self._rows_of(number, known))
        value, duals, overstepped = master.solve()
        for round_number in range(_MOST_ROUNDS):
            if value - bound <= _CONVERGED * abs(value) and overstepped <= _OVERSTEPPED:
                break
            if self._left() <= 0:
                break
            smooth = round_number % 3 != 2
            tried = (duals + best_prices) / 2 if smooth and round_number > 0 else duals
            found_bound, found = self._lagrangian(tried)
            if found_bound > bound:
                bound, best_prices = found_bound, tried
            new = self._add(found)
            if not new and tried is not duals:
                found_bound, found = self._lagrangian(duals)
                if found_bound > bound:
                    bound, best_prices = found_bound, duals
                new = self._add(found)
            if not new:
                break
            for number in new:
                column = self._columns[number][-1:]
                master.add(number, self._objectives(column), self._rows_of(number, column))
            value, duals, overstepped = master.solve()
        return best_prices, max(0.0, bound), overstepped <= _OVERSTEPPED

    def _objectives(self, columns: Sequence[Column]) -> np.ndarray:
        return np.array([column.usage @ self._program.objective for column in columns])

    # ------------------------------------------------------------------------------------------------

    def _choose(
        self, best: list[Column] | None, gap: float, bound: float
    ) -> tuple[list[Column], float, Choice]:
        """The mixed-integer program over all columns; never worse than the best known."""
        start = None
        if best is not None:
            self._add(best)
            start = [
                next(i for i, known in enumerate(columns) if known.path == column.path)
                for columns, column in zip(self._columns, best, strict=True)
            ]
        choice = choose(
            [self._objectives(columns) for columns in self._columns],
            [self._rows_of(number, columns) for number, columns in enumerate(self._columns)],
            self._program.limits,
            stage=self._program.stage,
            gap=gap / 4,
            time_limit=max(0.2, self._left()),
            start=start,
        )
        chosen = [columns[n] for columns, n in zip(self._columns, choice.columns, strict=True)]
        value = self._value(chosen)
        if value < bound - _ROUNDING * max(abs(value), abs(bound)):
            raise SolverError(f"layouts of value {value:g} lie below the Lagrangian bound {bound:g}")
        return chosen, value, choice

    def _enumerate(self, prices: np.ndarray, slack: float) -> bool | None:
        """Take up all layouts whose reduced cost is at most ``slack``; whether that was all, None if nothing
        was taken up."""
        table_prices = self._table_prices(prices)
        complete, taken = True, 0
        for number, table in enumerate(self._paths.tables):
            if self._left() <= 0:
                return None if taken == 0 else False
            counts = np.concatenate((self._program.objective[None], self._weights[int(self._owner[number])]))
            counts = counts[counts.any(axis=1)]
            most = max(20, min(4000, _MOST_COLUMNS // len(self._paths.tables)))
            found = within(table, table_prices[number], slack, counts, most=most)
            complete &= found.complete
            for column in found.columns:
                if column.path not in self._known[number]:
                    self._known[number].add(column.path)
                    self._columns[number].append(column)
                    taken += 1
        return complete


class _Master:
    """The linear program over the columns found so far; its limits can be overstepped at a high cost."""

    def __init__(self, program: Program, scale: np.ndarray, unit: float, num_tables: int) -> None:
        import highspy

        self._program, self._scale, self._unit = program, scale, unit
        self._num_tables = num_tables
        rows = len(program.names)
        self._used = program.stage | (program.limits > 0)
        self._highs = highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("threads", 1)
        highs.setOptionValue("random_seed", 0)
        for _ in range(num_tables):
            highs.addRow(1.0, 1.0, 0, np.zeros(0, dtype=np.int32), np.zeros(0))
        for row in range(rows):
            most = program.limits[row] / scale[row] if self._used[row] else np.inf
            highs.addRow(-np.inf, most, 0, np.zeros(0, dtype=np.int32), np.zeros(0))
        stages = num_tables + np.flatnonzero(program.stage).astype(np.int32)
        self._extra = 1
        highs.addCol(1.0, 0.0, np.inf, stages.size, stages, -np.ones(stages.size))
        self._penalty = _PENALTY * 1000.0
        self._hard = np.flatnonzero(~program.stage & self._used)
        for row in self._hard:
            where = np.array([num_tables + row], dtype=np.int32)
            highs.addCol(self._penalty, 0.0, np.inf, 1, where, np.array([-1.0]))
            self._extra += 1

    def add(self, table: int, costs: np.ndarray, rows: np.ndarray) -> None:
        """Columns of a table: what each costs, and adds to the rows."""
        for cost, row in zip(costs, rows, strict=True):
            values = row / self._scale
            some = np.flatnonzero((values != 0) & self._used)
            where = np.concatenate(([table], self._num_tables + some)).astype(np.int32)
            given = np.concatenate(([1.0], values[some]))
            self._highs.addCol(float(cost) / self._unit, 0.0, np.inf, where.size, where, given)

    def solve(self) -> tuple[float, np.ndarray, float]:
        """Value, prices of the rows, and by what part of itself a limit is overstepped most."""
        self._highs.run()
        solution = self._highs.getSolution()
        if not solution.dual_valid:
            raise SolverError("the linear program over the layouts found has no prices")
        duals = np.maximum(-np.asarray(solution.row_dual)[self._num_tables :], 0.0)
        stage = self._program.stage
        total = float(duals[stage].sum())
        prices = np.where(stage, duals / max(1.0, total), duals * self._unit / self._scale)
        slack = np.asarray(solution.col_value)[1 : self._extra]
        value = self._highs.getInfo().objective_function_value
        value -= self._penalty * float(slack.sum())
        return value * self._unit, prices, float(slack.max(initial=0.0))

"""The mixed-integer program: one column per group, the least total cost, every resource within its limit.

Rows that are *stages* have no hard limit: what the fullest of them takes beyond its own is added to the cost
(the bottleneck). The program knows nothing of tables or bytes: devices, roles and memories are rows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Capacities are scaled to 1; this is how far the solver may overstep them (far below a byte in a gigabyte).
_FEASIBILITY = 1e-9
# Relative room for the rounding of sums when two bounds are compared.
_ROUNDING = 1e-6
_MOST_REPAIRS = 20
_PRICE_FACTORS = (1.0, 1.01, 1.05, 1.2)


class Infeasible(ValueError):
    """No choice of columns keeps every limit."""


class SolverError(RuntimeError):
    """The solver contradicts itself or bounds that we computed ourselves; its answer is not used."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A solution.

    Attributes:
        columns: the chosen column of each group.
        cost: its total cost and bottleneck, summed by us from the columns.
        lower_bound: no choice costs less; the better of the Lagrangian bound and the solver's.
        gap: (cost - lower_bound) / cost; 0 for cost 0.
        status: ``optimal`` (to the gap asked for), ``time limit``, or ``bound`` where our own
            bounds met before the solver was needed.
        num_columns: columns that the solver was given after those that cannot be in a better choice were
            removed.
    """

    columns: tuple[int, ...]
    cost: float
    lower_bound: float
    gap: float
    status: str
    num_columns: int


def choose(
    costs: Sequence[np.ndarray],
    resources: Sequence[np.ndarray],
    limits: np.ndarray,
    *,
    stage: np.ndarray | None = None,
    gap: float = 1e-4,
    time_limit: float = 60.0,
    start: Sequence[int] | None = None,
) -> Choice:
    """Choose one column of each group.

    Method: LP relaxation (HiGHS); from its prices a Lagrangian lower bound, computed here; a greedy choice
    for an upper bound; columns whose reduced cost exceeds the difference are removed, which loses no better
    choice; HiGHS solves what remains, warm-started. Its answer is then held against the bounds.

    Args:
        costs: per group float64 [n], not negative.
        resources: per group float64 [n, r], not negative.
        limits: float64 [r].
        stage: bool [r], the resources of which the largest excess over its limit (which may be negative) is
            added to the cost; None: none.
        gap: relative gap at which to stop.
        time_limit: seconds for the solver; after it the best choice found is returned with its gap.
        start: a choice that keeps the limits, one column per group.

    Raises:
        Infeasible: no choice keeps the limits.
        SolverError: the solver's result contradicts our bounds, or no choice was found in the time.
    """
    started = time.monotonic()
    limits = np.asarray(limits, dtype=np.float64)
    stage = np.zeros(limits.size, dtype=bool) if stage is None else np.asarray(stage, dtype=bool)
    hard = np.where(stage, np.inf, limits)
    groups = [_Group.of(cost, resource, hard) for cost, resource in zip(costs, resources, strict=True)]
    if not groups:
        fixed = max(0.0, float(-limits[stage].min(initial=0.0)))
        return Choice(columns=(), cost=fixed, lower_bound=fixed, gap=0.0, status="bound", num_columns=0)
    least = np.sum([group.resources.min(axis=0) for group in groups], axis=0)
    if (least > hard).any():
        raise Infeasible("the smallest columns together exceed a limit")
    stacked = _Stacked(groups, limits, stage)
    prices = stacked.lp_prices()
    bound, reduced = stacked.lagrangian(prices)
    best = stacked.best_start(prices, stacked.numbers(groups, start) if start is not None else None)
    upper = stacked.cost(best) if best is not None else np.inf
    status, kept, solver_bound = "bound", np.zeros(0, dtype=np.int64), bound
    if upper > bound * (1 + gap) + 1e-300:
        slack = (upper - bound) + _ROUNDING * abs(upper) if best is not None else np.inf
        kept = np.flatnonzero(reduced <= slack)
        left = max(0.1, time_limit - (time.monotonic() - started))
        status, found, solver_bound = stacked.solve(kept, best, gap, left)
        if status == "infeasible":
            if best is not None:
                raise SolverError("the solver calls a problem infeasible that has a known solution")
            raise Infeasible("no choice of columns keeps the limits")
        if found is None and best is None:
            raise SolverError(f"no plan found within {time_limit:g} s; raise time_limit")
        if found is not None and stacked.cost(found) < upper:
            best, upper = found, stacked.cost(found)
        room = _ROUNDING * max(abs(upper), abs(bound))
        if upper < bound - room:
            raise SolverError(f"a choice of cost {upper:g} lies below the Lagrangian bound {bound:g}")
        if solver_bound > upper + room:
            raise SolverError(f"the solver's bound {solver_bound:g} lies above a known cost {upper:g}")
        if status == "optimal" and upper - max(bound, solver_bound) > 2 * gap * upper + room:
            raise SolverError(f"called optimal at {upper:g}, with a bound of only {solver_bound:g}")
    assert best is not None
    lower = min(upper, max(bound, solver_bound))
    return Choice(
        columns=stacked.original(best),
        cost=upper,
        lower_bound=lower,
        gap=(upper - lower) / upper if upper > 0 else 0.0,
        status=status,
        num_columns=int(kept.size),
    )


@dataclass(frozen=True, eq=False)
class _Group:
    """The columns of a group that fit the limits on their own."""

    original: np.ndarray
    costs: np.ndarray
    resources: np.ndarray

    @classmethod
    def of(cls, costs: np.ndarray, resources: np.ndarray, limits: np.ndarray) -> _Group:
        if (costs < 0).any() or (resources < 0).any():
            raise ValueError("costs and resources must not be negative")
        fits = np.flatnonzero((resources <= limits).all(axis=1) & np.isfinite(costs))
        if fits.size == 0:
            raise Infeasible("a group has no column within the limits")
        return cls(fits, costs[fits].astype(np.float64), resources[fits].astype(np.float64))


class _Stacked:
    """All columns of all groups in one array; a choice is one column number per group."""

    def __init__(self, groups: Sequence[_Group], limits: np.ndarray, stage: np.ndarray) -> None:
        self.starts = np.concatenate(([0], np.cumsum([group.costs.size for group in groups])))
        self.group = np.repeat(np.arange(len(groups)), np.diff(self.starts))
        self.costs = np.concatenate([group.costs for group in groups])
        resources = np.concatenate([group.resources for group in groups])
        self.resources, self.limits = resources[:, ~stage], limits[~stage]
        self.stages, self.fixed = resources[:, stage], -limits[stage]
        self._original = np.concatenate([group.original for group in groups])
        # Resources with limit 0 bind nothing any more: columns that use them are gone.
        self.binding = np.flatnonzero((self.limits > 0) & np.isfinite(self.limits))
        self.scaled = self.resources[:, self.binding] / self.limits[self.binding]
        # Costs are scaled to about 1000 in all, where the solver's absolute tolerances are harmless.
        typical = np.add.reduceat(self.costs + self.stages.sum(axis=1), self.starts[:-1])
        typical = float((typical / np.diff(self.starts)).sum()) + float(self.fixed.max(initial=0.0))
        self.unit = max(typical / 1000.0, 1e-300)

    def original(self, choice: np.ndarray) -> tuple[int, ...]:
        return tuple(int(column) for column in self._original[choice])

    def numbers(self, groups: Sequence[_Group], original: Sequence[int]) -> np.ndarray:
        """The choice of these columns of the groups."""
        found = [
            np.searchsorted(group.original, column) for group, column in zip(groups, original, strict=True)
        ]
        choice = self.starts[:-1] + np.array(found)
        if (choice >= self.starts[1:]).any() or (self._original[choice] != np.array(original)).any():
            raise ValueError("start: a column does not fit the limits on its own")
        return choice

    def cost(self, choice: np.ndarray) -> float:
        return float(self.costs[choice].sum()) + self._bottleneck(self.stages[choice].sum(axis=0))

    def _bottleneck(self, taken: np.ndarray) -> float:
        return max(0.0, float((taken + self.fixed).max(initial=0.0)))

    def feasible(self, choice: np.ndarray) -> bool:
        # Exact for whole numbers below 2^53, as bytes are.
        return bool((self.resources[choice].sum(axis=0) <= self.limits).all())

    def lp_prices(self) -> np.ndarray:
        """Prices of the binding resources (scaled) and of the stages, by the LP relaxation; zeros where that
        has none."""
        highs = self._model(np.arange(self.costs.size), integer=False)
        highs.run()
        solution = highs.getSolution()
        if not solution.dual_valid:
            return np.zeros(self.binding.size + self.fixed.size)
        duals = np.maximum(-np.asarray(solution.row_dual)[len(self.starts) - 1 :], 0.0)
        duals[: self.binding.size] *= self.unit
        # The bottleneck counts once: prices of stages that sum to more would bound nothing.
        duals[self.binding.size :] /= max(1.0, float(duals[self.binding.size :].sum()))
        return duals

    def _priced(self, prices: np.ndarray) -> np.ndarray:
        hard, soft = prices[: self.binding.size], prices[self.binding.size :]
        return self.costs + self.scaled @ hard + self.stages @ soft

    def lagrangian(self, prices: np.ndarray) -> tuple[float, np.ndarray]:
        """Lower bound on the cost of any choice, valid for any prices >= 0 of which those of stages sum to at
        most 1, and the reduced costs."""
        priced = self._priced(prices)
        least = np.minimum.reduceat(priced, self.starts[:-1])
        hard, soft = prices[: self.binding.size], prices[self.binding.size :]
        bound = float(least.sum() - hard.sum() + soft @ self.fixed)
        return max(0.0, bound), priced - least[self.group]

    def best_start(self, prices: np.ndarray, given: np.ndarray | None = None) -> np.ndarray | None:
        """The best greedy choice from a few starts; None where none of them is feasible."""
        # The cheapest columns at the LP's prices are near the optimum but may overstep a limit a little;
        # dearer resources leave room, which the exchange then uses.
        starts = [] if given is None else [given]
        for factor in _PRICE_FACTORS:
            dearer = np.where(np.arange(prices.size) < self.binding.size, factor, 1.0) * prices
            starts.append(self._least_per_group(self._priced(dearer), self.scaled.sum(axis=1)))
        feasible = [start for start in starts if self.feasible(start)]
        if not feasible:
            used, slow = self.scaled.sum(axis=1), self.costs + self.stages.sum(axis=1)
            starts = [self._least_per_group(used, slow)]
            starts += [self._least_per_group(self.scaled[:, r], used) for r in range(self.binding.size)]
            feasible = [start for start in starts if self.feasible(start)][:1]
        improved = [self._improved(start) for start in feasible]
        return min(improved, key=self.cost, default=None)

    def _least_per_group(self, key: np.ndarray, then: np.ndarray) -> np.ndarray:
        """Per group the column of the least key, ties by ``then``."""
        return np.lexsort((then, key, self.group))[self.starts[:-1]]

    def _improved(self, choice: np.ndarray) -> np.ndarray:
        """Exchange columns, best saving per resource first, while one fits and saves."""
        choice = choice.copy()
        for _ in range(50 * choice.size):
            used = self.resources[choice].sum(axis=0)
            taken = self.stages[choice].sum(axis=0)
            current = choice[self.group]
            saved = self.costs[current] - self.costs
            if self.fixed.size:
                after = taken + (self.stages - self.stages[current]) + self.fixed
                saved = saved + self._bottleneck(taken) - np.maximum(0.0, after.max(axis=1))
            fits = (used + (self.resources - self.resources[current]) <= self.limits).all(axis=1)
            usable = np.flatnonzero((saved > 1e-12 * self.unit) & fits)
            if usable.size == 0:
                break
            extra = (self.scaled[usable] - self.scaled[current[usable]]).sum(axis=1)
            picked = usable[np.argmax(saved[usable] / np.maximum(extra, 1e-6))]
            moved = choice.copy()
            moved[self.group[picked]] = picked
            if not self.feasible(moved):  # sums in another order may round differently
                break
            choice = moved
        return choice

    def solve(
        self, kept: np.ndarray, start: np.ndarray | None, gap: float, seconds: float
    ) -> tuple[str, np.ndarray | None, float]:
        """HiGHS on the kept columns: status, choice (None if none was found) and bound."""
        import highspy

        highs = self._model(kept, integer=True)
        highs.setOptionValue("mip_rel_gap", gap)
        highs.setOptionValue("mip_abs_gap", 0.0)
        begun = time.monotonic()
        for _ in range(_MOST_REPAIRS):
            highs.setOptionValue(
                "time_limit", highs.getRunTime() + max(0.1, seconds - time.monotonic() + begun)
            )
            if start is not None:
                given = highspy.HighsSolution()
                values = np.isin(kept, start).astype(np.float64)
                if self.fixed.size:
                    values = np.append(values, self._bottleneck(self.stages[start].sum(axis=0)) / self.unit)
                given.col_value = values.tolist()
                highs.setSolution(given)
            highs.run()
            model_status = highs.getModelStatus()
            statuses = highspy.HighsModelStatus
            if model_status in (statuses.kInfeasible, statuses.kUnboundedOrInfeasible):
                return "infeasible", None, np.inf
            if model_status not in (statuses.kOptimal, statuses.kTimeLimit):
                raise SolverError(f"the solver stopped with status {highs.modelStatusToString(model_status)}")
            status = "optimal" if model_status == statuses.kOptimal else "time limit"
            info = highs.getInfo()
            bound = info.mip_dual_bound * self.unit if np.isfinite(info.mip_dual_bound) else 0.0
            if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
                return status, None, bound
            values = np.asarray(highs.getSolution().col_value)[: kept.size]
            order = np.lexsort((-values, self.group[kept]))
            first = np.searchsorted(self.group[kept][order], np.arange(len(self.starts) - 1))
            choice = kept[order[first]]
            if self.feasible(choice):
                return status, choice, bound
            # Within the solver's tolerance but not within the limit: forbid this choice and ask again.
            forbidden = np.flatnonzero(np.isin(kept, choice)).astype(np.int32)
            highs.addRow(-np.inf, choice.size - 1.0, choice.size, forbidden, np.ones(choice.size))
        return "time limit", None, 0.0

    def _model(self, kept: np.ndarray, *, integer: bool):
        """The model over the kept columns and, if there are stages, the bottleneck: a row per group, then one
        per binding resource, then one per stage."""
        import highspy

        groups, resources, stages = len(self.starts) - 1, self.binding.size, self.fixed.size
        bottleneck = int(stages > 0)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = kept.size + bottleneck, groups + resources + stages
        lp.col_cost_ = np.append(self.costs[kept] / self.unit, np.ones(bottleneck))
        lp.col_lower_ = np.zeros(kept.size + bottleneck)
        lp.col_upper_ = np.append(np.ones(kept.size), np.full(bottleneck, np.inf))
        lp.row_lower_ = np.concatenate((np.ones(groups), np.full(resources + stages, -np.inf)))
        lp.row_upper_ = np.concatenate((np.ones(groups + resources), -self.fixed / self.unit))
        rows = np.empty((kept.size, 1 + resources + stages), dtype=np.int32)
        rows[:, 0] = self.group[kept]
        rows[:, 1:] = groups + np.arange(resources + stages)
        values = np.concatenate(
            (np.ones((kept.size, 1)), self.scaled[kept], self.stages[kept] / self.unit), axis=1
        )
        nonzero = values != 0
        starts = np.concatenate(([0], np.cumsum(nonzero.sum(axis=1))))
        index, value = rows[nonzero], values[nonzero]
        if bottleneck:
            index = np.append(index, groups + resources + np.arange(stages, dtype=np.int32))
            value = np.append(value, -np.ones(stages))
            starts = np.append(starts, starts[-1] + stages)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = starts.astype(np.int32)
        lp.a_matrix_.index_ = index.astype(np.int32)
        lp.a_matrix_.value_ = value
        if integer:
            kinds = [highspy.HighsVarType.kInteger] * kept.size
            lp.integrality_ = kinds + [highspy.HighsVarType.kContinuous] * bottleneck
        highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("threads", 1)
        highs.setOptionValue("random_seed", 0)
        for option in ("primal_feasibility_tolerance", "mip_feasibility_tolerance"):
            highs.setOptionValue(option, _FEASIBILITY)
        highs.passModel(lp)
        return highs

"""The mixed-integer program: one column per group, the least total cost, every resource within its limit.

It knows nothing of tables or bytes, so that richer problems (devices, roles, more memories) can be written as
more columns and more resources.
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
        cost: its total cost, summed by us from the columns.
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
    gap: float = 1e-4,
    time_limit: float = 60.0,
) -> Choice:
    """Choose one column of each group.

    Method: LP relaxation (HiGHS); from its prices a Lagrangian lower bound, computed here; a greedy choice
    for an upper bound; columns whose reduced cost exceeds the difference are removed, which loses no better
    choice; HiGHS solves what remains, warm-started. Its answer is then held against the bounds.

    Args:
        costs: per group float64 [n], not negative.
        resources: per group float64 [n, r], not negative.
        limits: float64 [r].
        gap: relative gap at which to stop.
        time_limit: seconds for the solver; after it the best choice found is returned with its gap.

    Raises:
        Infeasible: no choice keeps the limits.
        SolverError: the solver's result contradicts our bounds, or no choice was found in the time.
    """
    started = time.monotonic()
    limits = np.asarray(limits, dtype=np.float64)
    groups = [_Group.of(cost, resource, limits) for cost, resource in zip(costs, resources, strict=True)]
    if not groups:
        return Choice(columns=(), cost=0.0, lower_bound=0.0, gap=0.0, status="bound", num_columns=0)
    least = np.sum([group.resources.min(axis=0) for group in groups], axis=0)
    if (least > limits).any():
        raise Infeasible("the smallest columns together exceed a limit")
    stacked = _Stacked(groups, limits)
    prices = stacked.lp_prices()
    bound, reduced = stacked.lagrangian(prices)
    best = stacked.best_start(prices)
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

    def __init__(self, groups: Sequence[_Group], limits: np.ndarray) -> None:
        self.starts = np.concatenate(([0], np.cumsum([group.costs.size for group in groups])))
        self.group = np.repeat(np.arange(len(groups)), np.diff(self.starts))
        self.costs = np.concatenate([group.costs for group in groups])
        self.resources = np.concatenate([group.resources for group in groups])
        self.limits = limits
        self._original = np.concatenate([group.original for group in groups])
        # Resources with limit 0 bind nothing any more: columns that use them are gone.
        self.binding = np.flatnonzero((limits > 0) & np.isfinite(limits))
        self.scaled = self.resources[:, self.binding] / limits[self.binding]
        # Costs are scaled to about 1000 in all, where the solver's absolute tolerances are harmless.
        typical = np.add.reduceat(self.costs, self.starts[:-1]) / np.diff(self.starts)
        self.unit = max(float(typical.sum()) / 1000.0, 1e-300)

    def original(self, choice: np.ndarray) -> tuple[int, ...]:
        return tuple(int(column) for column in self._original[choice])

    def cost(self, choice: np.ndarray) -> float:
        return float(self.costs[choice].sum())

    def feasible(self, choice: np.ndarray) -> bool:
        # Exact for whole numbers below 2^53, as bytes are.
        return bool((self.resources[choice].sum(axis=0) <= self.limits).all())

    def lp_prices(self) -> np.ndarray:
        """Price of each (scaled) binding resource by the LP relaxation; zeros where that has none."""
        highs = self._model(np.arange(self.costs.size), integer=False)
        highs.run()
        solution = highs.getSolution()
        if not solution.dual_valid:
            return np.zeros(self.binding.size)
        duals = np.asarray(solution.row_dual)[len(self.starts) - 1 :]
        return np.maximum(-duals * self.unit, 0.0)

    def lagrangian(self, prices: np.ndarray) -> tuple[float, np.ndarray]:
        """Lower bound on the cost of any choice, valid for any prices >= 0, and the reduced costs."""
        priced = self.costs + self.scaled @ prices
        least = np.minimum.reduceat(priced, self.starts[:-1])
        return max(0.0, float(least.sum() - prices.sum())), priced - least[self.group]

    def best_start(self, prices: np.ndarray) -> np.ndarray | None:
        """The best greedy choice from a few starts; None where none of them is feasible."""
        # The cheapest columns at the LP's prices are near the optimum but may overstep a limit a little;
        # dearer resources leave room, which the exchange then uses.
        starts = []
        for factor in _PRICE_FACTORS:
            priced = self.costs + self.scaled @ (factor * prices)
            starts.append(self._least_per_group(priced, self.scaled.sum(axis=1)))
        feasible = [start for start in starts if self.feasible(start)]
        if not feasible:
            used = self.scaled.sum(axis=1)
            starts = [self._least_per_group(used, self.costs)]
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
            current = choice[self.group]
            saved = self.costs[current] - self.costs
            fits = (used + (self.resources - self.resources[current]) <= self.limits).all(axis=1)
            usable = np.flatnonzero((saved > 0) & fits)
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
                given.col_value = np.isin(kept, start).astype(np.float64).tolist()
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
            values = np.asarray(highs.getSolution().col_value)
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
        """The model over the kept columns: a row per group, then a row per binding resource."""
        import highspy

        groups, resources = len(self.starts) - 1, self.binding.size
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = kept.size, groups + resources
        lp.col_cost_ = self.costs[kept] / self.unit
        lp.col_lower_, lp.col_upper_ = np.zeros(kept.size), np.ones(kept.size)
        lp.row_lower_ = np.concatenate((np.ones(groups), np.full(resources, -np.inf)))
        lp.row_upper_ = np.ones(groups + resources)
        rows = np.empty((kept.size, 1 + resources), dtype=np.int32)
        rows[:, 0] = self.group[kept]
        rows[:, 1:] = groups + np.arange(resources)
        values = np.concatenate((np.ones((kept.size, 1)), self.scaled[kept]), axis=1)
        nonzero = values != 0
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = np.concatenate(([0], np.cumsum(nonzero.sum(axis=1)))).astype(np.int32)
        lp.a_matrix_.index_ = rows[nonzero]
        lp.a_matrix_.value_ = values[nonzero]
        if integer:
            lp.integrality_ = [highspy.HighsVarType.kInteger] * kept.size
        highs = highspy.Highs()
        highs.setOptionValue("output_flag", False)
        highs.setOptionValue("threads", 1)
        highs.setOptionValue("random_seed", 0)
        for option in ("primal_feasibility_tolerance", "mip_feasibility_tolerance"):
            highs.setOptionValue(option, _FEASIBILITY)
        highs.passModel(lp)
        return highs

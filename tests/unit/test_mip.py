"""The solver wrapper against brute force, and its refusal of answers that contradict its own bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.planning import mip
from screc.planning.mip import Infeasible, SolverError, choose


def brute_force(costs, resources, limits) -> float:
    best = np.inf
    for columns in itertools.product(*(range(len(cost)) for cost in costs)):
        used = sum(resource[c] for resource, c in zip(resources, columns, strict=True))
        if (used <= limits).all():
            best = min(best, sum(cost[c] for cost, c in zip(costs, columns, strict=True)))
    return best


@st.composite
def instances(draw):
    groups = draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    unit = draw(st.sampled_from([1e-7, 1.0, 1e6]))
    costs, resources = [], []
    for _ in range(groups):
        columns = int(random.integers(1, 7))
        costs.append(random.integers(0, 100, columns) * unit)
        resources.append(random.integers(0, 50, (columns, 3)).astype(float) * (1e9, 1e6, 1e-3))
    tightness = draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    limits = np.array([np.floor(50 * groups * tightness * random.random())] * 3) * (1e9, 1e6, 1e-3)
    return costs, resources, limits


@settings(max_examples=150, deadline=None)
@given(instances())
def test_equals_brute_force(instance) -> None:
    costs, resources, limits = instance
    best = brute_force(costs, resources, limits)
    if not np.isfinite(best):
        with pytest.raises(Infeasible):
            choose(costs, resources, limits, gap=0)
        return
    choice = choose(costs, resources, limits, gap=0)
    assert choice.cost == pytest.approx(best, rel=1e-6)
    assert choice.lower_bound <= choice.cost
    assert choice.gap <= 1e-5
    used = sum(resource[c] for resource, c in zip(resources, choice.columns, strict=True))
    assert (used <= limits).all()
    assert choice.cost == pytest.approx(sum(c[i] for c, i in zip(costs, choice.columns, strict=True)))


def test_a_limit_is_kept_to_the_byte() -> None:
    # Within the solver's tolerance the dearer pair would fit; one byte too many must not.
    costs = [np.array([1.0, 0.0]), np.array([1.0, 0.0])]
    resources = [np.array([[0.0], [5e11]]), np.array([[0.0], [5e11 + 1]])]
    assert choose(costs, resources, np.array([1e12]), gap=0).cost == 1.0
    assert choose(costs, resources, np.array([1e12 + 1]), gap=0).cost == 0.0


def test_no_groups_and_free_columns() -> None:
    assert choose([], [], np.array([1.0])).columns == ()
    choice = choose([np.zeros(2)], [np.array([[3.0], [0.0]])], np.array([0.0]))
    assert (choice.columns, choice.cost, choice.gap) == ((1,), 0.0, 0.0)


def test_negative_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        choose([np.array([-1.0])], [np.zeros((1, 1))], np.array([1.0]))


KNAPSACK = (
    [np.array([0.0, 5.0]), np.array([0.0, 4.0]), np.array([0.0, 3.0])],
    [np.array([[4.0], [0.0]]), np.array([[3.0], [0.0]]), np.array([[2.0], [0.0]])],
    np.array([6.0]),
)


def test_a_solver_that_calls_a_solved_problem_infeasible_is_not_believed(monkeypatch) -> None:
    assert choose(*KNAPSACK, gap=0).cost == 4.0
    monkeypatch.setattr(mip._Stacked, "solve", lambda *_: ("infeasible", None, np.inf))
    with pytest.raises(SolverError, match="infeasible that has a known solution"):
        choose(*KNAPSACK, gap=0)


def test_a_solver_bound_above_a_known_choice_is_not_believed(monkeypatch) -> None:
    monkeypatch.setattr(mip._Stacked, "solve", lambda *_: ("optimal", None, 100.0))
    with pytest.raises(SolverError, match="bound 100 lies above a known cost"):
        choose(*KNAPSACK, gap=0)


def test_optimal_without_a_bound_is_not_believed(monkeypatch) -> None:
    monkeypatch.setattr(mip._Stacked, "solve", lambda *_: ("optimal", None, 0.0))
    monkeypatch.setattr(mip._Stacked, "lagrangian", lambda self, _: (0.0, np.zeros(self.costs.size)))
    with pytest.raises(SolverError, match="called optimal"):
        choose(*KNAPSACK, gap=0)


def test_a_time_limit_leaves_the_greedy_choice_with_its_gap(monkeypatch) -> None:
    monkeypatch.setattr(mip._Stacked, "solve", lambda *_: ("time limit", None, 0.0))
    choice = choose(*KNAPSACK, gap=0)
    assert choice.status == "time limit"
    assert choice.gap == pytest.approx((choice.cost - choice.lower_bound) / choice.cost)
    assert choice.lower_bound <= 4.0 <= choice.cost

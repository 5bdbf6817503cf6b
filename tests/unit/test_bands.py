"""Bands and paths of tables: cut points, cheapest layouts, and pruning that loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
from every_layout import every_path, every_usage
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import zipf_table

from screc.planning.bands import COARSE, GridSteps, TableBands, cut_points, spans
from screc.planning.costs import Placement, Rates, TableCosts
from screc.planning.pareto import pareto_front
from screc.planning.paths import Paths, within
from screc.planning.presets import reference_system
from screc.statistics import TableStatistics

SYSTEM = reference_system()
ROWS = [Placement("fp32", "dram"), Placement("fp32", "ssd")]
ALL = [*ROWS, Placement("int8", "dram"), Placement("tt", "dram", 4)]


def costs_of(table: TableStatistics) -> TableCosts:
    return TableCosts(statistics=table, embedding_dim=16, rates=Rates(SYSTEM), batch_size=256)


def bands_of(rows: int, placements=ALL, samples: int = 500) -> TableBands:
    # Few cut points: layouts are as many as (placements + 1) to the power of their number.
    return TableBands.of(
        costs_of(zipf_table("t", rows, samples=samples)), placements, steps=GridSteps(8.0, 3)
    )


def test_cut_points() -> None:
    assert cut_points(1, 0).tolist() == []
    assert cut_points(2, 2).tolist() == [1]
    points = cut_points(10_000_000, 123_456)
    assert points[0] == 8
    assert 123_456 in points
    assert points[-1] == 9_000_000
    assert (np.diff(points) > 0).all()
    assert cut_points(10_000_000, 123_456, COARSE).size < points.size < 60


def test_spans_are_in_the_order_of_their_ends() -> None:
    first, last = spans(4)
    assert last.tolist() == [1, 2, 2, 3, 3, 3]
    assert first.tolist() == [0, 0, 1, 0, 1, 2]


def test_layouts_have_any_number_of_bands() -> None:
    table = bands_of(60)
    paths = every_path(table)
    assert {len(path) for path in paths} == set(range(1, table.cuts.size))
    assert table.cuts.size >= 5
    for path in paths[:: max(1, len(paths) // 50)]:
        layout = table.layout(path)
        assert layout.bands[-1].stop == 60
        usage = table.usage[list(path)].sum(axis=0)
        assert table.model.of_layout(layout).usage.sum(axis=0) == pytest.approx(usage)
        assert usage[4] == layout.dram_bytes
        assert usage[5] == layout.ssd_bytes


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 40))
def test_the_cheapest_layout_is_the_cheapest_of_all(seed: int, rows: int) -> None:
    tables = [bands_of(size) for size in (rows, 7, rows)]
    scale = np.maximum(np.abs(tables[0].usage).max(axis=0), 1e-30)
    prices = np.random.default_rng(seed).random((3, 7)) / scale
    cheapest = Paths(tables).cheapest(prices)
    for number, table in enumerate(tables):
        costs = every_usage(table) @ prices[number]
        assert cheapest.cost[number] == pytest.approx(costs.min())
        assert cheapest.columns[number].usage @ prices[number] == pytest.approx(costs.min())
    most = Paths(tables).most(1 / scale)
    assert most[1] == pytest.approx((every_usage(tables[1]) @ (1 / scale)).max())


def test_a_table_without_a_possible_layout() -> None:
    table = bands_of(40, [Placement("tt", "dram", 10_000)])
    assert not table.possible.any()
    cheapest = Paths([table]).cheapest(np.ones((1, 7)))
    assert cheapest.columns == [None]
    assert cheapest.cost[0] == np.inf
    assert within(table, np.ones(7), np.inf, np.eye(7)).columns == []


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 40), reach=st.sampled_from([0.0, 0.1, 1.0, np.inf])
)
def test_layouts_within_reach_leave_nothing_better_out(seed: int, rows: int, reach: float) -> None:
    table = bands_of(rows)
    scale = np.maximum(np.abs(table.usage).max(axis=0), 1e-30)
    prices = np.random.default_rng(seed).random(7) / scale
    every = every_usage(table)
    costs = every @ prices
    slack = reach * costs.min() if np.isfinite(reach) else np.inf
    counts = np.eye(7)[[0, 1, 4, 6]]
    found = within(table, prices, slack, counts)
    assert found.complete
    usage = np.array([column.usage for column in found.columns])
    assert (usage @ prices <= costs.min() + slack + 1e-6 * costs.min()).all()
    for column in found.columns:
        assert table.usage[list(column.path)].sum(axis=0) == pytest.approx(column.usage)
    kept = usage @ counts.T
    for values, cost in zip(every @ counts.T, costs, strict=True):
        if cost <= costs.min() + slack:
            assert (kept <= values * (1 + 1e-9) + 1e-15).all(axis=1).any()


def test_too_many_layouts_are_said_to_be_incomplete() -> None:
    table = bands_of(5000, samples=2000)
    found = within(table, np.zeros(7), np.inf, np.eye(7), most=5)
    assert not found.complete
    assert 0 < len(found.columns) <= 5


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(0, 1300), levels=st.integers(1, 40))
def test_pareto_front_equals_the_definition(seed: int, n: int, levels: int) -> None:
    values = np.random.default_rng(seed).integers(0, levels, (n, 3)).astype(float)
    kept = pareto_front(values)
    front = values[kept]
    assert len(np.unique(front, axis=0)) == len(front)
    unique = np.unique(values, axis=0)
    beaten = [((unique <= row).all(axis=1) & (unique < row).any(axis=1)).any() for row in unique[:200]]
    expected = {tuple(row) for row, lost in zip(unique[:200], beaten, strict=True) if not lost}
    assert expected <= {tuple(row) for row in front}
    assert not {tuple(row) for row, lost in zip(unique[:200], beaten, strict=True) if lost} & {
        tuple(row) for row in front
    }

"""Candidate layouts, and pruning that loses nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import zipf_table

from screc.planning.candidates import cut_points, enumerate_candidates, pareto_front
from screc.planning.costs import Placement, Rates, TableCosts
from screc.planning.presets import reference_system
from screc.statistics import TableStatistics

SYSTEM = reference_system()
ROWS = [Placement("fp32", "dram"), Placement("fp32", "ssd")]


def costs_of(table: TableStatistics) -> TableCosts:
    return TableCosts(statistics=table, embedding_dim=16, rates=Rates(SYSTEM), batch_size=256)


def test_all_forms_are_among_the_candidates() -> None:
    table = zipf_table("t", 1000, samples=500)
    candidates = enumerate_candidates(costs_of(table), [*ROWS, Placement("tt", "dram", 4)], prune=False)
    forms = {
        tuple((band.memory, band.format) for band in candidates.layout(number).bands)
        for number in range(len(candidates))
    }
    dram, tt, ssd = ("dram", "fp32"), ("dram", "tt"), ("ssd", "fp32")
    assert forms == {
        *((dram,), (tt,), (ssd,), (dram, tt), (dram, ssd), (tt, ssd)),
        (dram, tt, ssd),
    }
    forms = enumerate_candidates(costs_of(table), ROWS[:1])
    assert [forms.layout(i).bands[0].memory for i in range(len(forms))] == ["dram"]


def test_cut_points() -> None:
    assert cut_points(1, 0).tolist() == []
    assert cut_points(2, 2).tolist() == [1]
    points = cut_points(10_000_000, 123_456)
    assert points[0] == 8
    assert 123_456 in points
    assert points[-1] == 9_000_000
    assert (np.diff(points) > 0).all()
    assert points.size < 60


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


def test_pruned_layouts_are_beaten_by_kept_ones() -> None:
    model = costs_of(zipf_table("t", 5000, samples=2000))
    placements = [*ROWS, Placement("tt", "dram", 4), Placement("tt", "dram", 8)]
    every = enumerate_candidates(model, placements, prune=False)
    kept = enumerate_candidates(model, placements)
    values, front = every.usage, kept.usage
    assert 0 < len(kept) < len(every)
    for row in values:
        assert (front <= row).all(axis=1).any()

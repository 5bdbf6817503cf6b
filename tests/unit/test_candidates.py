"""Candidate layouts: their costs against plain sums over rows, and pruning that loses nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import zipf_table

from screc.planning.candidates import cut_points, enumerate_candidates, pareto_front
from screc.planning.costs import TableCosts, dense_seconds
from screc.planning.presets import reference_system
from screc.statistics import TableStatistics
from screc.storage.layout import PageGeometry
from screc.storage.row_format import RowFormat, ScaleOf, row_bytes


def costs_of(
    table: TableStatistics,
    *,
    dim: int = 16,
    batch_size: int = 256,
    llc: float = 1e4,
    row_format: RowFormat = "fp32",
    row_scale: ScaleOf = "row",
) -> TableCosts:
    return TableCosts(
        statistics=table,
        embedding_dim=dim,
        system=reference_system(),
        batch_size=batch_size,
        llc_bytes=llc,
        row_format=row_format,
        row_scale=row_scale,
    )


def smoothed(table: TableStatistics) -> np.ndarray:
    """Probability of every rank."""
    rows, seen, unseen = table.num_embeddings, table.num_seen, table.unseen_share
    result = np.zeros(rows)
    if seen:
        result[:seen] = table.counts / table.num_lookups - unseen / seen
    if seen < rows:
        result[seen:] = unseen / (rows - seen)
    return result


@pytest.mark.parametrize(
    ("row_format", "row_scale"),
    [
        ("fp32", "row"),
        ("fp16", "row"),
        ("int8", "row"),
        ("int4", "row"),
        ("int8", "table"),
        ("int4", "table"),
    ],
)
@pytest.mark.parametrize(("rows", "dim"), [(1, 16), (2, 8), (40, 16), (3000, 64), (700, 1200)])
def test_costs_equal_sums_over_rows_and_the_layouts_own_bytes(
    rows: int, dim: int, row_format: RowFormat, row_scale: ScaleOf
) -> None:
    table = zipf_table("t", rows, samples=500, pooling=3)
    model = costs_of(table, dim=dim, row_format=row_format, row_scale=row_scale)
    width = row_bytes(row_format, dim, row_scale)
    system, lookups = model.system, model.lookups
    p = smoothed(table)
    assert lookups == 256 * 3
    candidates = enumerate_candidates(model, tt_ranks=(4, 8), ssd=True, prune=False)
    cached = min(rows, int(1e4 // max(64, width)))
    near, far = (system.row_ns(row_format, dim, row_scale, where) / 2 for where in ("llc", "dram"))
    ns = np.where(np.arange(rows) < cached, near, far)
    geometry = PageGeometry.of(width)
    groups = -(-rows // geometry.rows_per_page)
    for number in range(0, len(candidates), max(1, len(candidates) // 60)):
        layout, costs = candidates.layout(number), candidates.costs
        assert {band.scale for band in layout.bands if band.tt is None} <= {row_scale}
        assert layout.dram_bytes == costs.dram_bytes[number]
        assert layout.ssd_bytes == costs.ssd_bytes[number]
        assert sum(layout.index_bytes(b) for b in range(len(layout.bands))) == costs.index_bytes[number]
        expected = dict.fromkeys(("dram_seconds", "tt_seconds", "ssd_seconds", "index_seconds"), 0.0)
        pages, tt_share, tt_bytes = 0.0, 0.0, 0
        for b, band in enumerate(layout.bands):
            mass = p[band.start : band.stop].sum()
            if band.tt is not None:
                time = max(system.tt_ns(band.tt) / 2, 1.01 * far)
                expected["tt_seconds"] += lookups * mass * time * 1e-9
                tt_share, tt_bytes = mass, layout.band_bytes(b)
            elif band.memory == "dram":
                in_band = slice(band.start, band.stop)
                expected["dram_seconds"] += lookups * (p[in_band] * ns[in_band]).sum() * 1e-9
            else:
                touched = (1 - np.exp(-lookups * p[band.start :])).sum()
                pages = groups * (1 - np.exp(-touched / groups)) * geometry.pages_per_row
                copying = lookups * mass * near * 1e-9
                expected["ssd_seconds"] += pages / system.pages_per_second(model.queue_depth) + copying
            size = layout.index_bytes(b)
            if size:
                hit, miss = (system.row_ns("fp32", 16, "row", where) / 2 for where in ("llc", "dram"))
                asks = np.where(np.arange(rows) < cached_rows(model), hit, miss if size > 1e4 else hit)
                expected["index_seconds"] += lookups * (p * asks)[band.start :].sum() * 1e-9
        for name, value in expected.items():
            assert getattr(costs, name)[number] == pytest.approx(value, rel=1e-6, abs=1e-15), name
        assert costs.pages[number] == pytest.approx(pages, rel=1e-6, abs=1e-9)
        assert costs.tt_share[number] == pytest.approx(tt_share, abs=1e-9)
        assert costs.tt_bytes[number] == tt_bytes
        assert costs.seconds[number] == pytest.approx(sum(expected.values()), rel=1e-6, abs=1e-15)


def cached_rows(model: TableCosts) -> int:
    return min(model.num_embeddings, int(model.llc_bytes // max(64, 4 * model.embedding_dim)))


def test_pages_are_what_random_batches_ask_for() -> None:
    table = zipf_table("t", 20_000, samples=50_000)
    model = costs_of(table, batch_size=512)
    random = np.random.default_rng(1)
    order, p = table.ids_in_ranks(0, 20_000), smoothed(table)
    per_page = PageGeometry.of(64).rows_per_page
    for stop in (0, 500, 10_000):
        counted = []
        for _ in range(60):
            ranks = random.choice(20_000, size=512, p=p)
            counted.append(np.unique(order[ranks[ranks >= stop]] // per_page).size)
        predicted = float(model.evaluate(*(np.array([x]) for x in (stop, stop, 0))).pages[0])
        assert predicted == pytest.approx(np.mean(counted), rel=0.05)


def test_cold_bands_cost_something() -> None:
    table = zipf_table("t", 100_000, samples=5_000)
    model = costs_of(table)
    seen = table.num_seen
    costs = model.evaluate(np.array([seen]), np.array([seen]), np.array([0]))
    assert costs.pages[0] > 0
    assert costs.ssd_seconds[0] > 0


def test_all_forms_are_among_the_candidates() -> None:
    table = zipf_table("t", 1000, samples=500)
    candidates = enumerate_candidates(costs_of(table), tt_ranks=(4,), ssd=True, prune=False)
    forms = {
        tuple((band.memory, band.format) for band in candidates.layout(number).bands)
        for number in range(len(candidates))
    }
    dram, tt, ssd = ("dram", "fp32"), ("dram", "tt"), ("ssd", "fp32")
    assert forms == {
        *((dram,), (tt,), (ssd,), (dram, tt), (dram, ssd), (tt, ssd)),
        (dram, tt, ssd),
    }
    forms = enumerate_candidates(costs_of(table), tt_ranks=(), ssd=False)
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
    every = enumerate_candidates(model, tt_ranks=(4, 8), ssd=True, prune=False)
    kept = enumerate_candidates(model, tt_ranks=(4, 8), ssd=True)
    names = ("seconds", "dram_bytes", "ssd_bytes", "tt_share")
    values, front = (np.stack([getattr(c.costs, name) for name in names], axis=1) for c in (every, kept))
    assert 0 < len(kept) < len(every)
    for row in values:
        assert (front <= row).all(axis=1).any()


def test_dense_seconds() -> None:
    system = reference_system()
    assert dense_seconds(system, 128, 0) == 0
    assert dense_seconds(system, 128, 1_000_000) == pytest.approx(128e6 / 258e9)


def test_costs_grow_with_the_batch() -> None:
    model = costs_of(zipf_table("t", 5000, samples=2000))
    larger = dataclasses.replace(model, batch_size=512)
    layout = [np.array([100]), np.array([100]), np.array([0])]
    once, twice = model.evaluate(*layout), larger.evaluate(*layout)
    assert twice.dram_seconds[0] == pytest.approx(2 * once.dram_seconds[0])
    assert once.pages[0] < twice.pages[0] < 2 * once.pages[0]  # a page is read once per batch

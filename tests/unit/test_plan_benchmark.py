"""What job ``plans`` builds on: generated artifacts, a sensitivity carried over, rows that warm a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import plan_study
from benchmarks.comparison import check_batches
from benchmarks.generated_artifact import GeneratedModel
from benchmarks.scaled_sensitivity import RECIPE_G_FILE, scaled_sensitivity
from benchmarks.served_arms import relative_error
from benchmarks.workload import RandomTables, Workload
from screc.planning import Plan, Sensitivity, make_baseline_plan, reference_system
from screc.serving import Engine
from screc.storage import RowStore, verify

SHAPE = Workload(rows=(70_000, 3, 900), embedding_dim=16, num_dense=5, bottom=(24, 16), top=(32, 1))


@pytest.fixture(scope="module")
def statistics():
    return SHAPE.access_statistics(50_000, np.random.default_rng(0))


def planned(statistics, method: str, row_format: str = "fp32", fraction: float = 0.1) -> Plan:
    return make_baseline_plan(
        method, statistics, 16, reference_system(), dram_fraction=fraction, row_format=row_format
    )


def test_rows_by_id_are_those_of_the_table():
    lazy = RandomTables((200_000, 5), 4)
    ids = np.random.default_rng(0).integers(0, 200_000, 1000)
    np.testing.assert_array_equal(lazy.rows(0, ids), lazy[0][ids])
    np.testing.assert_array_equal(lazy.rows(1, np.arange(5)), lazy[1])


def test_access_statistics_are_those_of_the_batches(statistics):
    counted = np.zeros(70_000, np.int64)
    generator = np.random.default_rng(1)
    for _ in range(50):
        np.add.at(counted, SHAPE.batch(generator, 1000, "zipf").table_ids(0), 1)
    table = statistics.tables[0]
    hottest = table.ids_in_ranks(0, 300)
    assert counted[hottest].sum() / counted.sum() == pytest.approx(float(table.share(300)), abs=0.02)


@pytest.mark.parametrize(
    ("method", "row_format"),
    [
        ("recshard", "fp32"),
        ("recshard", "int8"),
        ("three-tier", "fp32"),
        ("tt-only", "fp32"),
        ("lru", "int8"),
    ],
)
def test_generated_artifacts_answer_what_they_should(
    tmp_path: Path, statistics, method: str, row_format: str
):
    model = GeneratedModel(SHAPE, statistics, tmp_path / "pages", seed=1)
    plan = planned(statistics, method, row_format)
    model.write(plan, tmp_path / "artifact")
    assert verify(tmp_path / "artifact").ok
    store = RowStore.open(tmp_path / "artifact")
    for table, layout in enumerate(plan.layouts):
        ids = np.random.default_rng(table).integers(0, layout.num_embeddings, 500)
        want = model.served_rows(layout, table, ids)
        np.testing.assert_allclose(store.gather(table, ids), want, rtol=0, atol=1e-6)
        exact = model.tables.rows(table, ids)
        if method == "recshard":
            assert np.abs(want - exact).max() <= (0.005 if row_format == "int8" else 0)
    assert store.dram_bytes == plan.predicted.dram_bytes
    engine = Engine.open(tmp_path / "artifact")
    assert engine.stats().cache_bytes <= plan.options.row_cache_bytes
    assert np.isfinite(engine.predict(check_batches(SHAPE)[0])).all()


def test_page_files_are_written_once_and_dropped(tmp_path: Path, statistics):
    model = GeneratedModel(SHAPE, statistics, tmp_path / "pages", seed=1)
    plans = [planned(statistics, "recshard", fraction=fraction) for fraction in (0.02, 0.2)]
    for number, plan in enumerate(plans):
        assert len(plan.layouts[0].bands) == 2
        model.write(plan, tmp_path / str(number))
    shared = tmp_path / "pages" / "0.1.fp32.pages"
    assert shared.stat().st_nlink == 3
    for number in range(2):
        assert (tmp_path / str(number) / "pages" / "0.1.pages").samefile(shared)
    model.drop_pages({(2, 0, "fp32")})
    assert not shared.exists()
    assert verify(tmp_path / "1").ok, "an artifact keeps its link"
    shared_scales = make_baseline_plan(
        *("recshard", statistics, 16, reference_system()),
        dram_fraction=0.1,
        row_format="int8",
        row_scale="table",
    )
    with pytest.raises(ValueError, match="scales of their own"):
        model.write(shared_scales, tmp_path / "scaled")


def test_a_sensitivity_is_carried_over_at_the_same_shares_of_look_ups():
    measured = Sensitivity.load(RECIPE_G_FILE)
    workload = plan_study.kaggle(plan_study.scaled_rows(quick=True))
    statistics = workload.access_statistics(100_000, np.random.default_rng(0))
    scaled = scaled_sensitivity(measured, statistics)
    scaled.check(statistics)
    assert Sensitivity.model_validate_json(scaled.model_dump_json()) == scaled
    shares = np.linspace(0.2, 0.9, 8)
    for before, after, table in zip(measured.tables, scaled.tables, statistics.tables, strict=True):
        assert after.num_embeddings == table.num_embeddings
        for old, new in zip(before.effects, after.effects, strict=True):
            assert (old.format, old.tt_rank, old.whole) == (new.format, new.tt_rank, new.whole)
        if table.num_embeddings < 2000:
            continue  # one rank is a large share
        there = np.interp(shares, before.shares, before.ranks).round().astype(int)
        here = np.interp(shares, after.shares, after.ranks).round().astype(int)
        for placed in (("int4", None), ("tt", 8)):
            old = before.loss(*placed, there, before.num_embeddings)
            new = after.loss(*placed, here, after.num_embeddings)
            np.testing.assert_allclose(new, old, rtol=0.05, atol=0.02 * old[0])
    with pytest.raises(ValueError, match="sensitivity is of 26 tables, the statistics of 3"):
        scaled_sensitivity(measured, SHAPE.access_statistics(100, np.random.default_rng(0)))


def test_warm_rows_fill_a_cache_with_what_is_asked_for(tmp_path: Path, statistics, monkeypatch):
    """The hit rate right after warming is that after long service."""
    plan = planned(statistics, "lru", fraction=0.2)
    model = GeneratedModel(SHAPE, statistics, tmp_path / "pages", seed=1)
    model.write(plan, tmp_path / "artifact")
    study = plan_study.Study.__new__(plan_study.Study)
    study.workload = SHAPE
    monkeypatch.setattr(plan_study, "BATCH_SIZE", 256)
    warm = tmp_path / "warm"
    warm.mkdir()
    study._write_warm_rows("d2", plan, warm)
    generator = np.random.default_rng(3)

    def hit_rate(engine: Engine, batches: int) -> float:
        before = engine.stats()
        for _ in range(batches):
            engine.predict(SHAPE.batch(generator, 256, "zipf"))
        after = engine.stats()
        hits = after.cache_hits - before.cache_hits
        return hits / (hits + after.cache_misses - before.cache_misses)

    cold = Engine.open(tmp_path / "artifact", threads=1)
    warmed = Engine.open(tmp_path / "artifact", threads=1)
    plan_study.warm_up(warmed, warm, 16)
    at_once, at_first = hit_rate(warmed, 30), hit_rate(cold, 30)
    hit_rate(cold, 600)
    assert at_once == pytest.approx(hit_rate(cold, 200), abs=0.02)
    assert at_first < at_once - 0.1


def test_relative_error_is_of_the_deviation():
    right = np.array([0.0, 2.0])
    assert relative_error(right, right) == 0
    assert relative_error(right + 0.5, right) == pytest.approx(0.5)

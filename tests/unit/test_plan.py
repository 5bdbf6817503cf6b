"""Plans: brute force over all layouts, budgets at their edges, refusals, files, summaries and pictures."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from every_layout import every_usage
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import KAGGLE_ROWS, zipf_statistics, zipf_table
from rich.console import Console

from screc.planning import (
    Assignment,
    InfeasibleBudget,
    Plan,
    PlanError,
    PlanOptions,
    check_plan,
    make_plan,
    plan_summary,
    planner,
    plot_plan,
    predict,
    reference_system,
)
from screc.planning.bands import GridSteps, TableBands
from screc.planning.caches import calls_per_batch
from screc.planning.costs import Placement
from screc.planning.pareto import pareto_front
from screc.planning.prediction import table_models
from screc.statistics import AccessStatistics, TableStatistics
from screc.storage.layout import TableLayout

SYSTEM = reference_system()
# So few that all layouts can be looked at one by one.
FEW_CUTS = GridSteps(8.0, 3)
SMALL = zipf_statistics((900, 40, 5000, 3))
DENSE_BYTES = sum(64 * table.num_embeddings for table in SMALL.tables)


def never(name: str, rows: int) -> TableStatistics:
    empty = np.zeros(0, dtype=np.int64)
    return TableStatistics.from_counts(name, rows, empty, empty, num_samples=20_000)


def brute_force(statistics: AccessStatistics, dim: int, dram: float, share: float, **options) -> float:
    """The least seconds over all combinations of all layouts over the tables' cut points."""
    columns = []
    rows = [TableLayout.dense(table.name, table.num_embeddings, dim) for table in statistics.tables]
    asked = PlanOptions(batch_size=options["batch_size"])
    models = table_models(rows, Assignment.shared(rows), statistics, SYSTEM, asked, None)
    placements = [Placement("fp32", "dram"), Placement("fp32", "ssd")]
    placements += [Placement("tt", "dram", rank) for rank in options["tt_ranks"]]
    for model in models:
        usage = every_usage(TableBands.of(model, placements, steps=FEW_CUTS))
        usage = usage[pareto_front(usage)]
        columns.append(
            (usage[:, 0] / 2 + usage[:, 1] / SYSTEM.pages_per_second(256), usage[:, 4], usage[:, 6])
        )
    # Sums over the product of all choices, one axis per table.
    sums = [np.zeros(()) for _ in range(3)]
    for table in columns:
        sums = [np.add.outer(known, more) for known, more in zip(sums, table, strict=True)]
    seconds, used, in_tt = sums
    feasible = (used <= dram) & (in_tt <= (share + 1e-9 if share else 0.0))
    return float(seconds[feasible].min()) if feasible.any() else np.inf


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    fraction=st.floats(0, 1.1),
    share=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    batch_size=st.sampled_from([1, 64, 2048]),
    samples=st.sampled_from([1, 30, 2000]),
)
def test_equals_brute_force(rows, fraction, share, batch_size, samples) -> None:
    statistics = zipf_statistics(tuple(rows), samples=samples)
    dram = int(fraction * sum(32 * size for size in rows))
    best = brute_force(statistics, 8, dram, share, batch_size=batch_size, tt_ranks=(2,))
    with mock.patch.object(planner, "FINE", FEW_CUTS):
        plan = make_plan(
            statistics,
            8,
            SYSTEM,
            dram_bytes=dram,
            batch_size=batch_size,
            tt_ranks=(2,),
            max_tt_share=share,
            mip_gap=0.0,
        )
    assert plan.predicted.seconds_per_batch == pytest.approx(best, rel=1e-6, abs=1e-15)
    assert plan.lower_bound <= plan.predicted.seconds_per_batch * (1 + 1e-12)
    check_plan(plan, statistics)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.03, 0.2, 0.6, 1.0, 5.0])
def test_every_budget_with_ssd_has_a_plan_within_it(fraction: float) -> None:
    plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=fraction)
    assert plan.predicted.dram_bytes <= plan.budget.dram_bytes == int(fraction * DENSE_BYTES)
    assert sum(layout.dram_bytes for layout in plan.layouts) == plan.predicted.dram_bytes
    assert plan.predicted.tt_share <= 0.05 + 1e-6
    assert plan.gap <= 2e-3
    assert plan.predicted.lookups_per_batch == pytest.approx(1024 * 4)


def test_ends_of_the_budget() -> None:
    nothing = make_plan(SMALL, 16, SYSTEM, dram_bytes=0)
    assert [[band.memory for band in layout.bands] for layout in nothing.layouts] == [["ssd"]] * 4
    exact = make_plan(SMALL, 16, SYSTEM, dram_bytes=DENSE_BYTES)
    assert exact.layouts == tuple(
        TableLayout.dense(table.name, table.num_embeddings, 16) for table in SMALL.tables
    )
    assert exact.predicted.dram_bytes == DENSE_BYTES
    assert exact.predicted.ssd_wait_seconds == 0
    huge = make_plan(SMALL, 16, SYSTEM, dram_bytes=10**15)
    assert huge.layouts == exact.layouts
    short = make_plan(SMALL, 16, SYSTEM, dram_bytes=DENSE_BYTES - 1)
    assert short.layouts != exact.layouts


def test_more_budget_is_never_slower() -> None:
    seconds = [
        make_plan(SMALL, 16, SYSTEM, dram_fraction=f, mip_gap=0.0).predicted.seconds_per_batch
        for f in np.linspace(0, 1, 12)
    ]
    assert all(later <= sooner * (1 + 1e-9) for sooner, later in itertools.pairwise(seconds))


@pytest.mark.parametrize("tt", [True, False])
def test_without_ssd_the_smallest_budget_is_named_and_works(tt: bool) -> None:
    with pytest.raises(InfeasibleBudget, match="the smallest feasible DRAM budget") as caught:
        make_plan(SMALL, 16, SYSTEM, dram_bytes=1000, ssd=False, tt=tt)
    smallest = caught.value.smallest_dram_bytes
    message = str(caught.value)
    assert f"raise the DRAM budget to {smallest} bytes" in message
    assert "no plan fits 1000 bytes of DRAM" in message
    assert "allow the SSD (ssd=True)" in message
    assert ("allow TT bands" in message) != tt
    assert smallest == DENSE_BYTES if not tt else smallest < DENSE_BYTES
    plan = make_plan(SMALL, 16, SYSTEM, dram_bytes=smallest, ssd=False, tt=tt)
    assert plan.predicted.dram_bytes == smallest
    with pytest.raises(InfeasibleBudget):
        make_plan(SMALL, 16, SYSTEM, dram_bytes=smallest - 1, ssd=False, tt=tt)


def test_roles_are_kept_for_the_engine(tmp_path: Path) -> None:
    plan = make_plan(SMALL, 16, SYSTEM, dram_bytes=DENSE_BYTES, roles=(1, 1))
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert (loaded.assignment.memory, loaded.assignment.compute) == (1, 1)
    assert make_plan(SMALL, 16, SYSTEM, dram_bytes=DENSE_BYTES).assignment.memory == 0
    with pytest.raises(
        ValueError, match=r"roles must be two positive numbers of threads or None, got \(1, 0\)"
    ):
        make_plan(SMALL, 16, SYSTEM, dram_bytes=DENSE_BYTES, roles=(1, 0))


def test_a_row_cache_takes_its_bytes_from_the_budget() -> None:
    budget, cache = DENSE_BYTES // 2, DENSE_BYTES // 5
    plan = make_plan(SMALL, 16, SYSTEM, dram_bytes=budget, row_cache_bytes=cache, tt=False)
    assert plan.options.row_cache_bytes == cache
    assert plan.budget.dram_bytes == budget
    assert plan.predicted.dram_bytes <= budget - cache
    without = make_plan(SMALL, 16, SYSTEM, dram_bytes=budget - cache, tt=False)
    assert plan.layouts == without.layouts
    check_plan(plan, SMALL)
    options = plan.options.model_copy(update={"row_cache_bytes": budget - plan.predicted.dram_bytes + 1})
    predicted = predict(plan.layouts, plan.assignment, SMALL, SYSTEM, options)
    larger = {"options": options, "predicted": predicted, "value": predicted.seconds_per_batch}
    with pytest.raises(
        PlanError, match=rf"the budget is \d+ beside the row cache's {options.row_cache_bytes}"
    ):
        check_plan(plan.model_copy(update=larger), SMALL)


def test_a_row_cache_saves_reads() -> None:
    budget, cache = DENSE_BYTES // 2, DENSE_BYTES // 5
    plan = make_plan(SMALL, 16, SYSTEM, dram_bytes=budget, row_cache_bytes=cache, tt=False)
    pages = {}
    for policy in ("sketch", "lru"):
        for size in (0, cache // 10, cache):
            options = plan.options.model_copy(update={"row_cache_bytes": size, "row_cache_policy": policy})
            predicted = predict(plan.layouts, plan.assignment, SMALL, SYSTEM, options)
            pages[policy, size] = predicted.pages_per_batch
            assert predicted.pages_per_batch == pytest.approx(sum(t.pages for t in predicted.tables))
            bands = [band for table in predicted.tables for band in table.bands]
            assert predicted.pages_per_batch == pytest.approx(sum(band.pages for band in bands))
    assert pages["sketch", 0] == pages["lru", 0]
    for policy in ("sketch", "lru"):
        assert pages[policy, cache] < 0.95 * pages[policy, cache // 10]
        assert pages[policy, cache // 10] < pages[policy, 0]
    assert pages["sketch", cache] < pages["lru", cache]


def test_a_row_cache_needs_an_ssd() -> None:
    cache, budget = DENSE_BYTES // 5, DENSE_BYTES // 2
    # Without an SSD all rows have to fit beside it.
    with pytest.raises(InfeasibleBudget, match=rf"keep less than {cache} bytes for the row cache") as caught:
        make_plan(SMALL, 16, SYSTEM, dram_bytes=DENSE_BYTES, row_cache_bytes=cache, ssd=False, tt=False)
    assert caught.value.smallest_dram_bytes == DENSE_BYTES + cache
    for wrong in (-1, budget + 1):
        with pytest.raises(
            ValueError, match=rf"row_cache_bytes must be from 0 to .* of {budget} .*, got {wrong}"
        ):
            make_plan(SMALL, 16, SYSTEM, dram_bytes=budget, row_cache_bytes=wrong)


def test_the_tt_share_named_as_a_remedy_works() -> None:
    options = {"dram_fraction": 0.1, "ssd": False}
    with pytest.raises(InfeasibleBudget) as caught:
        make_plan(SMALL, 16, SYSTEM, max_tt_share=0.001, **options)
    share = float(str(caught.value).split("max_tt_share=")[1].split(")")[0])
    plan = make_plan(SMALL, 16, SYSTEM, max_tt_share=share, **options)
    assert 0.001 < plan.predicted.tt_share <= share + 1e-6


def test_a_system_without_ssd_or_room_on_it() -> None:
    with pytest.raises(InfeasibleBudget, match="plan for a system with an SSD"):
        make_plan(SMALL, 16, reference_system(ssd=False), dram_bytes=1000)
    data = SYSTEM.to_dict()
    data["shared"]["ssd_bytes"] = 4096
    with pytest.raises(InfeasibleBudget, match=r"free space on the SSD, which has 4\.1 KB"):
        make_plan(SMALL, 16, type(SYSTEM).from_dict(data), dram_bytes=1000)


def test_one_row_tables_unseen_tables_and_absurd_pooling() -> None:
    statistics = AccessStatistics(
        (
            zipf_table("one", 1, samples=100),
            never("never", 1000),
            never("never one", 1),
            zipf_table("absurd", 50, samples=100, pooling=5000),
        )
    )
    for fraction in (0.0, 0.3, 1.0):
        plan = make_plan(statistics, 16, SYSTEM, dram_fraction=fraction, batch_size=4096)
        assert plan.predicted.tables[1].device_seconds == 0
        assert plan.predicted.tables[3].lookups == 4096 * 5000
        # A page is read once per call, however often asked for.
        calls = calls_per_batch(4096, np.array([4096, 0, 0, 4096 * 5000]), np.full(4, 16))
        assert plan.predicted.pages_per_batch <= calls * (1 + 1)
    only = AccessStatistics((never("never", 1000),))
    plan = make_plan(only, 16, SYSTEM, dram_bytes=0)
    assert (plan.predicted.seconds_per_batch, plan.gap) == (0, 0)


@pytest.mark.parametrize("row_format", ["fp16", "bf16", "int8", "int4"])
def test_rows_of_another_format(row_format: str) -> None:
    whole = make_plan(SMALL, 16, SYSTEM, dram_fraction=2.0)
    plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.2, row_formats=row_format)
    assert {band.format for layout in plan.layouts for band in layout.bands} <= {row_format, "tt"}
    assert plan.options.row_formats == (row_format,)
    assert plan.predicted.dram_bytes == sum(layout.dram_bytes for layout in plan.layouts)
    same_budget = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.2)
    assert plan.predicted.seconds_per_batch <= same_budget.predicted.seconds_per_batch
    dense = make_plan(SMALL, 16, SYSTEM, dram_fraction=2.0, row_formats=row_format)
    ratio = {"fp16": 2, "bf16": 2, "int8": 64 / 20, "int4": 64 / 12}[row_format]
    assert dense.predicted.dram_bytes * ratio == whole.predicted.dram_bytes


@pytest.mark.parametrize("row_format", ["int8", "int4"])
def test_one_scale_for_the_rows_of_a_band(row_format: str) -> None:
    def planned(row_scale: str, **budget: float) -> Plan:
        return make_plan(SMALL, 16, SYSTEM, tt=False, row_formats=row_format, row_scale=row_scale, **budget)

    own, shared = (planned(row_scale, dram_fraction=0.05) for row_scale in ("row", "table"))
    check_plan(shared, SMALL)
    assert shared.options.row_scale == "table"
    assert {band.scale for layout in shared.layouts for band in layout.bands} == {"table"}
    assert {band.scale for layout in own.layouts for band in layout.bands} == {"row"}
    assert shared.predicted.seconds_per_batch < own.predicted.seconds_per_batch
    assert shared.predicted.ssd_bytes < own.predicted.ssd_bytes

    def rows_in_dram(plan: Plan) -> int:
        return sum(band.num_rows for one in plan.layouts for band in one.bands if band.memory == "dram")

    rows = sum(table.num_embeddings for table in SMALL.tables)
    own, shared = (planned(row_scale, dram_fraction=2.0) for row_scale in ("row", "table"))
    assert own.predicted.dram_bytes - shared.predicted.dram_bytes == 4 * rows - 8 * len(SMALL.tables)
    assert rows_in_dram(planned("table", dram_bytes=shared.predicted.dram_bytes)) == rows
    assert rows_in_dram(planned("row", dram_bytes=shared.predicted.dram_bytes)) < rows


def test_dims_by_table() -> None:
    dims = {"t0": 4, "t1": 64, "t2": 16, "t3": 13}
    plan = make_plan(SMALL, dims, SYSTEM, dram_fraction=0.3)
    assert [layout.embedding_dim for layout in plan.layouts] == [4, 64, 16, 13]
    with pytest.raises(ValueError, match="dims: no embedding dimension for table t3"):
        make_plan(SMALL, {"t0": 4, "t1": 4, "t2": 4}, SYSTEM, dram_bytes=0)
    with pytest.raises(ValueError, match="dims: table t0 has dimension 0"):
        make_plan(SMALL, 0, SYSTEM, dram_bytes=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either dram_bytes or dram_fraction"),
        ({"dram_bytes": 1, "dram_fraction": 0.5}, "give either dram_bytes or dram_fraction"),
        ({"dram_bytes": -1}, "dram_bytes must not be negative, got -1"),
        ({"dram_fraction": float("nan")}, "dram_fraction must be 0 or more, got nan"),
        ({"dram_bytes": 1, "max_tt_share": 1.5}, r"max_tt_share must be between 0 and 1, got 1\.5"),
        ({"dram_bytes": 1, "tt_ranks": ()}, "tt_ranks must be positive and not empty"),
        ({"dram_bytes": 1, "tt_ranks": (8, 0)}, r"tt_ranks must be positive and not empty, got \[8, 0\]"),
        ({"dram_bytes": 1, "batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"dram_bytes": 1, "queue_depth": 0}, "queue_depth must be at least 1, got 0"),
        ({"dram_bytes": 1, "dense_flops": -1}, "dense_flops must not be negative, got -1"),
        ({"dram_bytes": 1, "row_formats": "int2"}, "row_formats must be of fp32, fp16, .* got 'int2'"),
        ({"dram_bytes": 1, "row_scale": "band"}, "row_scale must be one of row, table, got 'band'"),
        (
            {"dram_bytes": 1, "row_scale": "table"},
            r"'table' and row_formats \['fp32'\], .* add 'int8' or 'int4', or give row_scale='row'",
        ),
        (
            {"dram_bytes": 1, "row_formats": "bf16", "row_scale": "table"},
            r"'table' and row_formats \['bf16'\]",
        ),
        ({"dram_bytes": 1, "time_limit": 0}, "time_limit must be positive, got 0"),
    ],
)
def test_wrong_arguments(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_plan(SMALL, 16, SYSTEM, **options)


def test_wrong_statistics() -> None:
    with pytest.raises(ValueError, match="statistics hold no tables"):
        make_plan(AccessStatistics(()), 16, SYSTEM, dram_bytes=0)
    twice = AccessStatistics((SMALL.tables[0], SMALL.tables[0]))
    with pytest.raises(ValueError, match="table names must differ"):
        make_plan(twice, 16, SYSTEM, dram_bytes=0)


def test_max_tt_share_bounds_tt() -> None:
    shares = []
    for most in (0.0, 0.01, 0.1, 1.0):
        plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.05, max_tt_share=most)
        assert plan.predicted.tt_share <= most + 1e-6
        shares.append(plan.predicted.tt_share)
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert shares[-1] > 0.01
    without = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.05, tt=False)
    assert without.predicted.tt_bytes == 0
    assert without.options.tt_ranks == ()


def test_prediction_adds_up() -> None:
    plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.05, dense_flops=10**6, batch_size=512)
    predicted = plan.predicted
    assert predicted.dense_seconds > 0
    assert predicted.ssd_wait_seconds > 0
    parts = predicted.lookup_seconds + predicted.dense_seconds + predicted.ssd_seconds
    assert predicted.seconds_per_batch == pytest.approx(parts)
    for layout, table in zip(plan.layouts, predicted.tables, strict=True):
        assert sum(band.lookup_share for band in table.bands) == pytest.approx(1)
        assert sum(band.rows for band in table.bands) == layout.num_embeddings
    assert predicted.pages_per_batch == pytest.approx(sum(table.pages for table in predicted.tables))


def test_check_plan_finds_what_is_wrong() -> None:
    plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.05)
    check_plan(plan, SMALL)
    with pytest.raises(PlanError, match="the plan has table t1, the statistics have not"):
        check_plan(plan, AccessStatistics(SMALL.tables[:1]))
    other = AccessStatistics((zipf_table("t0", 901, samples=10), *SMALL.tables[1:]))
    with pytest.raises(PlanError, match="the plan has 900 rows of table t0, the statistics 901"):
        check_plan(plan, other)

    def changed(**parts) -> Plan:
        return plan.model_copy(update=parts)

    tight = plan.budget.model_copy(update={"dram_bytes": plan.predicted.dram_bytes - 1})
    with pytest.raises(PlanError, match=r"bytes of DRAM, the budget is"):
        check_plan(changed(budget=tight), SMALL)
    none = plan.budget.model_copy(update={"ssd_bytes": 0})
    with pytest.raises(PlanError, match=r"bytes of SSD, the budget is 0"):
        check_plan(changed(budget=none), SMALL)
    wrong = plan.predicted.model_copy(update={"dram_bytes": 1})
    with pytest.raises(PlanError, match=r"predicted\.dram_bytes is 1 in the plan, its layouts give"):
        check_plan(changed(predicted=wrong), SMALL)
    assert plan.predicted.tt_share > 0
    exact = plan.budget.model_copy(update={"max_tt_share": 0.0})
    with pytest.raises(PlanError, match=r"of the look-ups, at most 0\.0 may"):
        check_plan(changed(budget=exact), SMALL)
    split = next(layout for layout in plan.layouts if len(layout.bands) > 1)
    cut = split.model_copy(update={"bands": split.bands[1:]})
    layouts = tuple(cut if layout is split else layout for layout in plan.layouts)
    with pytest.raises(PlanError, match=f"table {split.table}: rank 0 is in no band"):
        check_plan(changed(layouts=layouts), SMALL)


def test_file_round_trip(tmp_path) -> None:
    plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.05)
    path = tmp_path / "plan.json"
    plan.save(path)
    assert Plan.load(path) == plan
    assert json.loads(path.read_text()) == plan.to_dict()
    assert Plan.from_dict(plan.to_dict()) == plan
    assert plan.statistics_digest == SMALL.digest
    assert plan.system == SYSTEM


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("gap"), "field gap is missing"),
        (lambda d: d.update(note="x"), "field note is unknown"),
        (lambda d: d["predicted"].pop("pages_per_batch"), r"field predicted\.pages_per_batch is missing"),
        (lambda d: d["predicted"].update(dram_bytes="many"), r"field predicted\.dram_bytes = 'many'"),
        (lambda d: d["layouts"][0].update(num_embeddings=901), "table t0: bands cover 900 of 901 rows"),
        (lambda d: d["layouts"].pop(), "predictions of"),
        (
            lambda d: d["predicted"]["tables"][1]["bands"][0].update(rows=1),
            "table t1: layout and prediction differ",
        ),
        (lambda d: d.update(version=7), "screc-plan version 7, this release reads 2"),
        (lambda d: d.pop("format"), "expected a document of format 'screc-plan', found None"),
    ],
)
def test_damaged_plans_are_refused(tmp_path, change, message: str) -> None:
    data = make_plan(SMALL, 16, SYSTEM, dram_bytes=DENSE_BYTES).to_dict()
    change(data)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as caught:
        Plan.load(path)
    assert "plan.json" in str(caught.value)


def test_files_that_are_no_plans(tmp_path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(FileNotFoundError):
        Plan.load(path)
    for text in (b"", b'{"format": "screc-plan", ', b"\xff\xfe"):
        path.write_bytes(text)
        with pytest.raises(ValueError, match=r"plan\.json: not JSON"):
            Plan.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="found 'list'"):
        Plan.load(path)
    path.write_text('{"format": "screc-plan", "version": 2, "gap": NaN}')
    with pytest.raises(ValueError, match=r"plan\.json"):
        Plan.load(path)


def test_summary_and_picture(tmp_path) -> None:
    plan = make_plan(SMALL, 16, SYSTEM, dram_fraction=0.05, dense_flops=10**6)
    console = Console(width=140, record=True, file=io.StringIO())
    plan_summary(plan, console)
    text = console.export_text()
    for expected in (
        "t2",
        "5,000",
        "DRAM fp32",
        "SSD fp32",
        "Optimality gap",
        "look-ups",
        "ms per batch of 1024",
    ):
        assert expected in text
    for name, magic in (("plan.png", b"\x89PNG"), ("plan.svg", b"<?xml")):
        plot_plan(plan, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(magic)
    assert "t2  (5,000)" in (tmp_path / "plan.svg").read_text()
    with pytest.raises(ValueError, match=r"must end with \.png or \.svg"):
        plot_plan(plan, tmp_path / "plan.pdf")
    plot_plan(make_plan(zipf_statistics((1,)), 16, SYSTEM, dram_bytes=0), tmp_path / "one.svg")


def test_criteo_kaggle_at_full_size() -> None:
    statistics = zipf_statistics(KAGGLE_ROWS, samples=200_000)
    assert sum(table.num_embeddings for table in statistics.tables) == 33_762_577
    for fraction, ssd in ((0.1, True), (0.01, True), (0.1, False)):
        try:
            plan = make_plan(
                statistics, 16, SYSTEM, dram_fraction=fraction, batch_size=2048, ssd=ssd, time_limit=30
            )
        except InfeasibleBudget as error:
            assert not ssd
            plan = make_plan(
                statistics, 16, SYSTEM, dram_bytes=error.smallest_dram_bytes, batch_size=2048, ssd=False
            )
        assert plan.gap <= 0.01
        assert plan.predicted.dram_bytes <= plan.budget.dram_bytes
        check_plan(plan, statistics)

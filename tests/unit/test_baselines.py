"""Planners of the literature: by hand, against brute force, within budgets, and refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import zipf_statistics

from screc.planning import (
    BASELINES,
    InfeasibleBudget,
    Plan,
    check_plan,
    make_baseline_plan,
    make_plan,
    reference_system,
)
from screc.planning.baselines import Task, _Table, recshard, three_tier
from screc.statistics import AccessStatistics, TableStatistics
from screc.storage.layout import TableLayout
from screc.storage.row_format import row_bytes

SYSTEM = reference_system()
ROWS = (900, 40, 5000, 3)
SMALL = zipf_statistics(ROWS)
DENSE_BYTES = 64 * sum(ROWS)


def counted(name: str, rows: int, counts: list[int], *, samples: int = 100) -> TableStatistics:
    """A table whose row i was looked up counts[i] times."""
    return TableStatistics.from_counts(
        name, rows, np.arange(len(counts)), np.array(counts, dtype=np.int64), num_samples=samples
    )


def bands(layout: TableLayout) -> list[tuple[int, str, str]]:
    return [(band.stop, band.format, band.memory) for band in layout.bands]


def plan(method: str, statistics: AccessStatistics = SMALL, dim: int = 16, **options) -> Plan:
    return make_baseline_plan(method, statistics, dim, SYSTEM, **options)


def whole(*places: tuple[str, str]) -> list[list[tuple[int, str, str]]]:
    return [[(rows, *place)] for rows, place in zip(ROWS, places, strict=True)]


DRAM, SSD = ("fp32", "dram"), ("fp32", "ssd")


# ---------------------------------------------------------------------------------------------- by hand


def test_greedy_by_size_takes_the_smallest_tables_that_still_fit() -> None:
    for budget, places in (
        (0, (SSD, SSD, SSD, SSD)),
        (3 * 64 - 1, (SSD, SSD, SSD, SSD)),
        (3 * 64, (SSD, SSD, SSD, DRAM)),
        (43 * 64, (SSD, DRAM, SSD, DRAM)),
        (943 * 64 - 1, (SSD, DRAM, SSD, DRAM)),
        (943 * 64, (DRAM, DRAM, SSD, DRAM)),
        (DENSE_BYTES, (DRAM, DRAM, DRAM, DRAM)),
    ):
        made = plan("greedy-size", dram_bytes=budget)
        assert [bands(layout) for layout in made.layouts] == whole(*places)


def test_greedy_by_lookups_takes_the_most_wanted_tables_that_still_fit() -> None:
    # t0: 10 rows, 1 a sample; t1: 10 rows, 3 a sample; t2: 40 rows, 2 a sample.
    tables = (
        counted("t0", 10, [60, 40]),
        counted("t1", 10, [150, 100, 50]),
        counted("t2", 40, [120, 80]),
    )
    statistics = AccessStatistics(tables)
    for rows, in_dram in ((9, []), (10, ["t1"]), (20, ["t0", "t1"]), (49, ["t0", "t1"]), (50, ["t1", "t2"])):
        made = plan("greedy-lookups", statistics, dram_bytes=64 * rows)
        assert [one.table for one in made.layouts if one.ssd_bytes == 0] == in_dram
    # Of equally wanted tables the smaller is first.
    statistics = AccessStatistics((counted("t0", 20, [100]), counted("t1", 10, [100])))
    made = plan("greedy-lookups", statistics, dram_bytes=64 * 20)
    assert [one.table for one in made.layouts if one.ssd_bytes == 0] == ["t1"]


def test_recshard_splits_where_the_rows_are_wanted_most() -> None:
    # Half of t0's look-ups ask for one row; t1's are spread evenly, and half as many.
    tables = (
        counted("t0", 100, [500] + [5] * 99 + [], samples=1000),
        counted("t1", 100, [5] * 100, samples=1000),
    )
    statistics = AccessStatistics(tables)
    # The first row of t0, and a hash index of its 4 slots of 12 bytes.
    made = plan("recshard", statistics, dram_bytes=64 + 48)
    assert bands(made.layouts[0]) == [(1, "fp32", "dram"), (100, "fp32", "ssd")]
    assert bands(made.layouts[1]) == [(100, "fp32", "ssd")]
    # Any whole table needs no index: the one with more look-ups goes in whole.
    made = plan("recshard", statistics, dram_bytes=6400)
    assert bands(made.layouts[0]) == [(100, "fp32", "dram")]
    assert bands(made.layouts[1]) == [(100, "fp32", "ssd")]
    assert made.solver.method == "recshard"


def test_the_steps_are_of_the_inverse_access_curve() -> None:
    table = counted("t", 1000, [50, 30, 10, 5, 5])
    task = Task(statistics=AccessStatistics((table,)), dims=[16], system=SYSTEM, dram_bytes=0, ssd_bytes=0)
    shares = np.array([0.0, 0.01, 0.5, 0.51, 0.8, 0.9, 0.91, 0.95, 0.96, 1.0])
    assert task.tables[0].ranks_at(shares).tolist() == [0, 1, 1, 2, 2, 3, 4, 4, 5, 5]
    uniform = counted("u", 200, [7] * 200)
    steps = _Table(uniform, 16, task).ranks_at(np.arange(101) / 100)
    assert steps.tolist() == list(range(0, 201, 2))


def test_tt_only_trains_the_largest_tables_until_the_rest_fits() -> None:
    statistics = zipf_statistics((9000, 40, 50_000, 3))
    dense = [64 * table.num_embeddings for table in statistics.tables]
    made = plan("tt-only", statistics, dram_bytes=sum(dense))
    assert [one.bands[0].format for one in made.layouts] == ["fp32"] * 4
    made = plan("tt-only", statistics, dram_bytes=sum(dense) - 1)
    assert [one.bands[0].format for one in made.layouts] == ["fp32", "fp32", "tt", "fp32"]
    assert max(made.layouts[2].bands[0].tt.ranks) == 32, "the largest TT rank that fits"
    made = plan("tt-only", statistics, dram_bytes=dense[0])
    assert [one.bands[0].format for one in made.layouts] == ["tt", "fp32", "tt", "fp32"]
    assert all(len(one.bands) == 1 and one.ssd_bytes == 0 for one in made.layouts)
    assert made.predicted.tt_share == pytest.approx(0.5)


def test_lru_keeps_all_rows_on_ssd_and_all_dram_for_the_cache() -> None:
    made = plan("lru", dram_bytes=100_000)
    assert [bands(layout) for layout in made.layouts] == whole(SSD, SSD, SSD, SSD)
    assert made.options.row_cache_bytes == 100_000
    assert made.options.row_cache_policy == "lru"
    assert made.predicted.dram_bytes == 0
    shared = plan("lru", dram_bytes=100_000, row_format="int8", row_scale="table")
    assert shared.options.row_cache_bytes == 100_000 - 4 * 8
    # Once warm the cache holds most of what is asked for.
    statistics = zipf_statistics((200_000,))
    warm = plan("lru", statistics, dram_fraction=0.1).predicted.pages_per_batch
    assert warm < 0.7 * plan("lru", statistics, dram_bytes=0).predicted.pages_per_batch


def test_all_on_ssd_works_without_dram() -> None:
    for method in ("lru", "greedy-size", "greedy-lookups", "recshard", "three-tier"):
        made = plan(method, dram_bytes=0)
        assert [bands(layout) for layout in made.layouts] == whole(SSD, SSD, SSD, SSD)
        assert made.options.row_cache_bytes == 0


def test_three_tiers_keep_their_order_and_their_limit() -> None:
    statistics = zipf_statistics((9000, 40, 50_000, 3))
    total = 64 * sum(table.num_embeddings for table in statistics.tables)
    some = False
    for fraction, share in itertools.product((0.01, 0.05, 0.3), (0.0, 0.01, 0.2)):
        made = plan("three-tier", statistics, dram_bytes=int(fraction * total), max_tt_share=share)
        assert made.predicted.tt_share <= share + 1e-6
        assert made.budget.max_tt_share == share
        for layout in made.layouts:
            kinds = [(band.format, band.memory) for band in layout.bands]
            tiers = [("fp32", "dram"), ("tt", "dram"), ("fp32", "ssd")]
            assert kinds == [tier for tier in tiers if tier in kinds]
        some |= made.predicted.tt_share > 0
        if share == 0.0:
            assert made.predicted.tt_share == 0
    assert some


# ------------------------------------------------------------------------------------------ brute force


def two_tier_seconds(table: TableStatistics, cut: int) -> float:
    """RecShard's cost of [0, cut) in DRAM, written out once more."""
    share = float(table.smoothed_curve.share(cut))
    lookups = 1024 * table.num_lookups / table.num_samples
    fast = 1e-9 * SYSTEM.row_ns("fp32", 16) / SYSTEM.devices.count
    return lookups * (share * fast + (1 - share) / SYSTEM.pages_per_second(256))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    fraction=st.floats(0.0, 1.1),
)
def test_recshard_is_optimal_over_its_steps(seed: int, rows: list[int], fraction: float) -> None:
    generator = np.random.default_rng(seed)
    tables = []
    for number, size in enumerate(rows):
        counts = np.sort(generator.zipf(1.5, min(size, int(generator.integers(1, 12)))))[::-1]
        tables.append(counted(f"t{number}", size, counts.tolist(), samples=int(counts.sum())))
    statistics = AccessStatistics(tuple(tables))
    budget = int(fraction * 64 * sum(rows))
    task = Task(
        statistics=statistics, dims=[16] * len(rows), system=SYSTEM, dram_bytes=budget, ssd_bytes=10**12
    )
    choices = []
    for table in task.tables:
        cuts = sorted({int(cut) for cut in table.ranks_at(np.arange(101) / 100)} | {table.rows})
        choices.append([(cut, table.layout(cut).dram_bytes) for cut in cuts])
    best = min(
        sum(two_tier_seconds(table, cut) for table, (cut, _) in zip(tables, cuts, strict=True))
        for cuts in itertools.product(*choices)
        if sum(size for _, size in cuts) <= budget
    )
    made = recshard(task)
    cuts = [0 if one.bands[0].memory == "ssd" else one.bands[0].stop for one in made]
    got = sum(two_tier_seconds(table, cut) for table, cut in zip(tables, cuts, strict=True))
    assert got == pytest.approx(best, rel=2e-4)


def test_three_tier_is_at_least_as_good_as_two() -> None:
    statistics = zipf_statistics((9000, 40, 50_000, 3))
    for fraction in (0.01, 0.1):
        budget = int(fraction * 64 * sum(table.num_embeddings for table in statistics.tables))
        two = plan("recshard", statistics, dram_bytes=budget)
        three = plan("three-tier", statistics, dram_bytes=budget, max_tt_share=0.1)
        assert three.predicted.seconds_per_batch < two.predicted.seconds_per_batch


# ------------------------------------------------------------------------------------------- properties


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(BASELINES),
    row_format=st.sampled_from([("fp32", "row"), ("int8", "row"), ("int8", "table"), ("int4", "table")]),
    dim=st.sampled_from([1, 16, 64]),
    fraction=st.floats(0.0, 1.2),
    share=st.floats(0.0, 1.0),
    never=st.booleans(),
)
def test_every_plan_covers_all_rows_within_the_budget(
    method: str, row_format: tuple[str, str], dim: int, fraction: float, share: float, never: bool
) -> None:
    statistics = SMALL
    if never:
        statistics = AccessStatistics((*SMALL.tables, counted("never", 77, [], samples=20_000)))
    budget = int(fraction * 4 * dim * sum(table.num_embeddings for table in statistics.tables))
    try:
        made = plan(
            method,
            statistics,
            dim,
            dram_bytes=budget,
            row_format=row_format[0],
            row_scale=row_format[1],
            max_tt_share=share,
        )
    except InfeasibleBudget as refused:
        smallest = refused.smallest_dram_bytes
    else:
        smallest = 0
    assert smallest == 0 or smallest > budget
    if smallest:
        budget = smallest
        made = plan(
            method,
            statistics,
            dim,
            dram_bytes=budget,
            row_format=row_format[0],
            row_scale=row_format[1],
            max_tt_share=share,
        )
    check_plan(made, statistics)
    kept = made.options.row_cache_bytes
    assert sum(layout.dram_bytes for layout in made.layouts) + kept <= budget
    for layout, table in zip(made.layouts, statistics.tables, strict=True):
        assert (layout.table, layout.num_embeddings) == (table.name, table.num_embeddings)
        assert layout.bands[-1].stop == table.num_embeddings
    assert Plan.model_validate_json(made.model_dump_json()) == made


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5000),
    dim=st.sampled_from([1, 8, 16, 30]),
    cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    rank=st.sampled_from([2, 8, 16]),
    form=st.sampled_from([("fp32", "row"), ("int8", "table"), ("int4", "row")]),
)
def test_bytes_are_those_of_the_layouts(
    rows: int, dim: int, cuts: tuple[float, float], rank: int, form: tuple[str, str]
) -> None:
    statistics = AccessStatistics((counted("t", rows, [3, 2, 1][:rows]),))
    task = Task(
        statistics=statistics,
        dims=[dim],
        system=SYSTEM,
        dram_bytes=0,
        ssd_bytes=0,
        row_format=form[0],
        row_scale=form[1],
    )
    hot, stop = sorted(int(cut * rows) for cut in cuts)
    columns = np.array([(hot, stop, rank if stop > hot else 0)])
    table = task.tables[0]
    layout = table.layout(*columns[0].tolist())
    assert table.dram_bytes(*columns.T).tolist() == [layout.dram_bytes]
    assert table.ssd_bytes(columns[:, 1]).tolist() == [layout.ssd_bytes]
    full = len(table.possible(columns)) == 1
    trains = [band.tt for band in layout.bands if band.tt is not None]
    assert full == all(max(train.ranks) == rank for train in trains)


def test_none_beats_the_program_that_may_do_all_they_do() -> None:
    statistics = zipf_statistics((9000, 40, 50_000, 3))
    budget = int(0.1 * 64 * sum(table.num_embeddings for table in statistics.tables))
    ours = make_plan(statistics, 16, SYSTEM, dram_bytes=budget).predicted.seconds_per_batch
    for method in ("greedy-size", "greedy-lookups", "recshard", "three-tier"):
        theirs = plan(method, statistics, dram_bytes=budget).predicted.seconds_per_batch
        assert ours <= 1.01 * theirs  # their cuts are on another grid


# -------------------------------------------------------------------------------------------- refusals


def test_without_an_ssd_all_rows_have_to_fit() -> None:
    for method in ("greedy-size", "greedy-lookups", "recshard"):
        with pytest.raises(InfeasibleBudget, match=rf"{method} has no plan for .*allow an SSD") as refused:
            plan(method, dram_bytes=DENSE_BYTES - 1, ssd=False)
        assert refused.value.smallest_dram_bytes == DENSE_BYTES
        made = plan(method, dram_bytes=DENSE_BYTES, ssd=False)
        assert [bands(layout) for layout in made.layouts] == whole(DRAM, DRAM, DRAM, DRAM)
    with pytest.raises(InfeasibleBudget, match=r"lru has no plan .* no DRAM budget is enough") as refused:
        plan("lru", dram_bytes=DENSE_BYTES, ssd=False)
    assert refused.value.smallest_dram_bytes is None


def test_an_ssd_too_small_is_named() -> None:
    small = SYSTEM.model_copy(update={"shared": SYSTEM.shared.model_copy(update={"ssd_bytes": 20 * 4096})})
    for method in ("greedy-size", "greedy-lookups", "recshard"):
        with pytest.raises(InfeasibleBudget, match=r"which has 81\.9 KB") as refused:
            make_baseline_plan(method, SMALL, 16, small, dram_bytes=0)
        smallest = refused.value.smallest_dram_bytes
        assert smallest is not None
        made = make_baseline_plan(method, SMALL, 16, small, dram_bytes=smallest)
        # Whole tables, smallest first, all have to be in DRAM before the largest is; recshard chooses.
        on_ssd = ["t0", "t1", "t3"] if method == "recshard" else []
        assert [layout.table for layout in made.layouts if layout.ssd_bytes] == on_ssd


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "best"}, r"method must be one of greedy-size, .*, got 'best'"),
        ({"row_format": "fp8"}, "row_format must be one of fp32, .* got 'fp8'"),
        ({"row_scale": "table"}, "row_scale must be 'row', or 'table' with row_format 'int8' or 'int4'"),
        ({"max_tt_share": 1.5}, "max_tt_share must be between 0 and 1, got 1.5"),
        ({"max_loss": 0.1}, "sensitivity and max_loss together"),
        ({"method": "three-tier", "tt_ranks": ()}, "tt_ranks must be positive and not empty"),
        ({"dense_flops": -1}, "dense_flops must not be negative, got -1"),
        ({"dram_bytes": -1}, "dram_bytes must not be negative, got -1"),
        ({"dram_bytes": None}, "either dram_bytes or dram_fraction"),
        ({"dims": {"t0": 16}}, "no embedding dimension for table t1"),
        ({"statistics": AccessStatistics(())}, "hold no tables"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"queue_depth": 0}, "queue_depth must be at least 1, got 0"),
        ({"time_limit": 0}, "time_limit must be positive, got 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict, words: str) -> None:
    arguments = {"method": "recshard", "statistics": SMALL, "dims": 16, "system": SYSTEM, "dram_bytes": 1000}
    with pytest.raises(ValueError, match=words):
        make_baseline_plan(**(arguments | change))


def test_limits_of_accuracy_hold_for_three_tiers_only() -> None:
    assert row_bytes("int8", 16) < row_bytes("fp32", 16)
    for method in BASELINES:
        made = plan(method, dram_bytes=50_000, max_tt_share=0.01)
        assert made.budget.max_tt_share == (0.01 if method == "three-tier" else None)
    task = Task(
        statistics=SMALL, dims=[16] * 4, system=SYSTEM, dram_bytes=50_000, ssd_bytes=10**9, max_loss=0
    )
    assert all(band.tt is None for layout in three_tier(task) for band in layout.bands)

"""The mapping of tables to cores: against every assignment of tiny programs, and the model of caches."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import zipf_statistics

from screc import _native
from screc.planning import Plan, make_plan, reference_system, with_mapping
from screc.planning.core_assignment import CoreAssignment, Placed, Way
from screc.planning.data_flow import FlowModel, FlowTable
from screc.planning.mapping import MAX_COPY_BYTES, choose_mapping, map_layouts, table_ways
from screc.planning.system import StrategyRate, SystemSpec
from screc.statistics.curve import AccessCurve
from screc.storage import Band, TableCores, TableLayout
from screc.storage.layout import TtShape

few = settings(max_examples=60, deadline=None)


def uniform(rows: int) -> AccessCurve:
    return AccessCurve(np.array([0, rows]), np.array([1 / rows]))


def one_row(rows: int) -> AccessCurve:
    return AccessCurve(np.array([0, 1, rows]), np.array([1.0, 0.0]))


def zipf(rows: int, exponent: float = 1.05) -> AccessCurve:
    weights = np.arange(1, rows + 1) ** -exponent
    return AccessCurve(np.arange(rows + 1), weights / weights.sum())


def table(name: str, curve: AccessCurve, pooling: float = 32, dim: int = 64, **more) -> FlowTable:
    return FlowTable(name=name, curve=curve, pooling=pooling, embedding_dim=dim, **more)


def small_tables_measured(system: SystemSpec) -> SystemSpec:
    """Tables of 16 rows are streamed in half the time, counted in a quarter; the first level is fast."""
    rates = [
        StrategyRate(strategy=strategy, rows=rows, embedding_dim=64, pooling=32, ns=ns)
        for rows, strategy, ns in (
            (16, "gather", 4.0),
            (16, "stream", 2.0),
            (16, "counts", 1.0),
            (1024, "gather", 8.0),
            (1024, "private", 7.0),
        )
    ]
    return system.model_copy(update={"strategies": tuple(rates)})


SYSTEM = small_tables_measured(reference_system())


# ----------------------------------------------------------------------------------------------------
# the program


def every_assignment(ways: list[list[Way]], cores: int):
    choices = [
        [Placed(way, held) for way in own for held in itertools.combinations(range(cores), way.cores)]
        for own in ways
    ]
    return itertools.product(*choices)


@st.composite
def programs(draw) -> tuple[list[list[Way]], int, int]:
    cores = draw(st.integers(1, 3))
    ways = []
    for _ in range(draw(st.integers(1, 4))):
        own = [Way(cores=0, ns=draw(st.integers(1, 60)))]
        for _ in range(draw(st.integers(0, 3))):
            number = draw(st.integers(1, cores))
            size = draw(st.integers(0, 12))
            own.append(Way(cores=number, split="samples", ns=draw(st.integers(1, 40)), num_bytes=size))
        ways.append(own)
    return ways, cores, draw(st.integers(0, 20))


@few
@given(programs())
def test_as_good_as_every_assignment(program) -> None:
    ways, cores, capacity = program
    problem = CoreAssignment(ways, cores, capacity)
    best = min(problem.makespan(placed) for placed in every_assignment(ways, cores))
    bound, price = problem.bound
    assert bound <= best * (1 + 1e-9)
    assert price >= 0
    greedy = problem.greedy()
    improved = problem.improved(greedy, 1.0)
    assert best <= problem.makespan(improved) <= problem.makespan(greedy)
    found = problem.solve(gap=0.0, time_limit=10.0)
    assert found.status in ("optimal", "bound")
    assert found.ns == pytest.approx(best, rel=1e-6)
    assert found.lower_bound == pytest.approx(best, rel=1e-6)
    assert problem.makespan(found.placed) == found.ns
    for group, placed in zip(ways, found.placed, strict=True):
        assert placed.way in group
        assert len(set(placed.cores)) == placed.way.cores


def test_large_programs_are_searched_and_bounded() -> None:
    generator = np.random.default_rng(0)
    tables = [
        table(str(number), zipf(int(2 ** generator.uniform(3, 13))), float(generator.integers(1, 60)))
        for number in range(80)
    ]
    choice = choose_mapping(tables, FlowModel(system=SYSTEM, batch_size=512, cores=32), time_limit=8.0)
    assert choice.status == "greedy"
    assert 0 <= choice.gap < 0.25
    assert choice.lower_bound == pytest.approx(choice.seconds * (1 - choice.gap))


def test_no_tables() -> None:
    choice = choose_mapping([], FlowModel(system=SYSTEM, batch_size=64, cores=2))
    assert (choice.mapping, choice.seconds, choice.gap) == ((), 0.0, 0.0)
    assert choice.symmetric.seconds == 0.0


# ----------------------------------------------------------------------------------------------------
# ways


def test_ways_of_a_table() -> None:
    model = FlowModel(system=SYSTEM, batch_size=64, cores=4)
    ways = list(table_ways(table("a", uniform(9000)), model))
    assert {way.cores for way in ways} == {0, 1, 2, 4}
    for way in ways:
        assert way.ns > 0
        if way.strategy == "private":
            assert way.num_bytes <= MAX_COPY_BYTES
        if way.split == "columns" and way.cores:
            assert (way.strategy, way.cores) != ("gather", 1)
        others = [one for one in ways if one.cores == way.cores and one is not way]
        assert not any(one.ns <= way.ns and one.num_bytes <= way.num_bytes for one in others)
    columns = [way for way in ways if way.cores == 2 and way.split == "columns"]
    assert [way.num_bytes for way in columns] == [9000 * 32 * 4]


def test_rows_of_fewer_columns_than_there_are_cores() -> None:
    ways = list(
        table_ways(table("a", uniform(900), dim=8), FlowModel(system=SYSTEM, batch_size=64, cores=32))
    )
    assert all(way.split == "samples" for way in ways if way.cores)


def test_small_tables_take_the_strategy_that_was_fastest() -> None:
    model = FlowModel(system=SYSTEM, batch_size=64, cores=2)

    def fastest(one: FlowTable) -> str:
        return min(table_ways(one, model), key=lambda way: way.total_ns).strategy

    assert fastest(table("a", uniform(12))) == "counts"
    assert fastest(table("a", uniform(500))) == "private"
    assert fastest(table("a", uniform(12), row_format="int8")) == "private"


# ----------------------------------------------------------------------------------------------------
# the model of caches


def halves(count: int, cores: int = 2) -> list[TableCores]:
    return [TableCores(table=str(number), cores=(number * cores // count,)) for number in range(count)]


def test_tables_that_fit_only_when_parted() -> None:
    """Ten tables of 256 KB: 2.6 MB do not stay in a cache of 2 MB, half of them do."""
    model = FlowModel(system=SYSTEM, batch_size=64, cores=2)
    tables = [table(str(number), uniform(1000)) for number in range(10)]
    symmetric, asymmetric = model.symmetric(tables), model.asymmetric(tables, halves(10))
    assert symmetric.private_share < 0.5
    assert asymmetric.private_share == pytest.approx(1.0)
    assert symmetric.seconds > 1.5 * asymmetric.seconds
    assert asymmetric.core_seconds[0] == pytest.approx(asymmetric.core_seconds[1])
    alone = [table(str(number), one_row(1000)) for number in range(10)]
    lone = model.asymmetric(alone, halves(10)).seconds
    assert model.symmetric(alone).seconds == pytest.approx(lone, rel=0.01)
    assert lone < asymmetric.seconds
    choice = choose_mapping(tables, model)
    assert choice.gap <= 0.01
    assert choice.asymmetric.seconds <= asymmetric.seconds * 1.01


def test_tables_that_fit_anyway() -> None:
    model = FlowModel(system=SYSTEM, batch_size=64, cores=2)
    tables = [table(str(number), uniform(100)) for number in range(10)]
    seconds = model.asymmetric(tables, halves(10)).seconds
    # Each core meets every row once in a batch of each table that it visits.
    assert seconds < model.symmetric(tables).seconds < 1.2 * seconds


def test_columns_halve_what_a_core_has_to_hold() -> None:
    model = FlowModel(system=SYSTEM, batch_size=64, cores=2)
    one = [table("0", uniform(9000))]
    by_columns = model.asymmetric(one, [TableCores(table="0", cores=(0, 1), strategy="private")])
    by_samples = model.asymmetric(one, [TableCores(table="0", cores=(0, 1), split="samples")])
    nobodys = model.asymmetric(one, [TableCores(table="0")])
    assert by_columns.private_share == pytest.approx(1.0)
    assert by_samples == nobodys
    assert by_samples.private_share < 0.7
    assert by_columns.seconds < by_samples.seconds


def test_more_lookups_of_a_visit_find_more_rows_near() -> None:
    tables = [table(str(number), uniform(1000)) for number in range(12)]
    shares = [
        FlowModel(system=SYSTEM, batch_size=size, cores=2).symmetric(tables).private_share
        for size in (64, 256, 1024)
    ]
    assert shares == sorted(shares)
    assert shares[-1] > 0.9


def test_a_reserve_and_a_hand_over_cost_time() -> None:
    tables = [table(str(number), uniform(1000)) for number in range(10)]
    plain = FlowModel(system=SYSTEM, batch_size=64, cores=2)
    reserved = FlowModel(system=SYSTEM, batch_size=64, cores=2, reserved_bytes=2**20)
    handed = FlowModel(system=SYSTEM, batch_size=64, cores=2, handed_ns=5.0)
    assert reserved.asymmetric(tables, halves(10)).seconds > plain.asymmetric(tables, halves(10)).seconds
    # Half of 10 tables' 4 lines of each of 64 samples, on two cores.
    assert handed.asymmetric(tables, halves(10)).handed_seconds == pytest.approx(64 * 20 * 5e-9 / 2)
    assert handed.symmetric(tables).handed_seconds == 0.0


def test_tables_beyond_the_shared_cache_come_from_dram() -> None:
    model = FlowModel(system=SYSTEM, batch_size=1024, cores=2)
    large = model.symmetric([table("0", uniform(4_000_000), dim=64)])
    _, _, llc, dram = model.row_ns(table("0", uniform(10)), 64)
    lookups = 1024 * 32 / 2
    assert llc * lookups < 1e9 * large.seconds <= dram * lookups * 1.001


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 40), st.sampled_from((16, 64, 128))), max_size=6),
    st.integers(1, 4),
    st.sampled_from((1, 64, 1000)),
)
def test_any_tables_give_a_mapping_that_the_store_takes(made, cores, batch_size) -> None:
    tables = [
        table(str(number), zipf(rows), pooling, dim) for number, (rows, pooling, dim) in enumerate(made)
    ]
    model = FlowModel(system=SYSTEM, batch_size=batch_size, cores=cores)
    choice = choose_mapping(tables, model, time_limit=2.0)
    assert [entry.table for entry in choice.mapping] == [one.name for one in tables]
    assert math.isfinite(choice.seconds)
    assert choice.lower_bound <= choice.seconds
    assert 0 <= choice.asymmetric.private_share <= 1 + 1e-9
    store = _native.RowStore(threads=cores)
    for number, (rows, _, dim) in enumerate(made):
        store.add_table(rows, dim)
        store.add_dram_band(number, np.zeros((rows, dim), np.float32), None)
    if tables:
        store.set_mapping([(entry.strategy, list(entry.cores), entry.split) for entry in choice.mapping])


# ----------------------------------------------------------------------------------------------------
# layouts


def layout(name: str, rows: int, *bands: Band) -> TableLayout:
    return TableLayout(table=name, num_embeddings=rows, embedding_dim=16, bands=bands)


def test_layouts_that_are_one_array_get_cores() -> None:
    statistics = zipf_statistics((800, 5000, 3000), pooling=8)
    shape = TtShape.balanced(5000, 16, 4)
    layouts = [
        layout("t0", 800, Band(start=0, stop=800, format="int8", memory="dram")),
        layout("t1", 5000, Band(start=0, stop=5000, format="tt", memory="dram", tt=shape)),
        layout(
            "t2",
            3000,
            Band(start=0, stop=100, format="fp32", memory="dram"),
            Band(start=100, stop=3000, format="fp32", memory="ssd"),
        ),
    ]
    choice = map_layouts(layouts, statistics, SYSTEM, batch_size=256)
    assert [entry.table for entry in choice.mapping] == ["t0", "t1", "t2"]
    assert choice.mapping[1:] == (TableCores(table="t1"), TableCores(table="t2"))
    assert choice.mapping[0].cores
    with pytest.raises(ValueError, match=r"the layouts are of tables \['t0', 't1'\], the statistics of"):
        map_layouts(layouts[:2], statistics, SYSTEM, batch_size=256)
    twice = [table("a", uniform(9)), table("a", uniform(9))]
    with pytest.raises(ValueError, match="tables: two of them have one name, among a, a"):
        choose_mapping(twice, FlowModel(system=SYSTEM, batch_size=1, cores=2))


def test_a_plan_says_why_its_data_flow_is_what_it_is(tmp_path) -> None:
    statistics = zipf_statistics((4000,) * 10, pooling=32)
    made = make_plan(statistics, 64, SYSTEM, dram_fraction=1.0, batch_size=64, ssd=False, tt=False)
    mapped = with_mapping(made, statistics)
    assert mapped.reasons[:-1] == made.reasons
    assert mapped.reasons[-1].endswith(f"data flow is {'asymmetric' if mapped.mapping else 'symmetric'}.")
    assert mapped.mapping is not None
    mapped.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == mapped

"""Look-up strategies of small tables: each against NumPy and against plain gathering, and their choice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from other_isa import run_under

from screc import _native
from screc.planning import reference_system
from screc.planning.system import StrategyRate, SystemSpec
from screc.storage.strategy import STRATEGIES, fastest_strategy, lookup_ns, set_strategies

few = settings(max_examples=60, deadline=None)
EXACT = [name for name in STRATEGIES if name != "counts"]


def store_of(*tables: np.ndarray, mean: bool = False, threads: int = 2) -> _native.RowStore:
    store = _native.RowStore(threads=threads)
    for number, rows in enumerate(tables):
        store.add_table(*rows.shape, mean)
        store.add_dram_band(number, rows, None)
    return store


def looked_up(store: _native.RowStore, ids: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
    memory = np.full(size * store.total_dim + 64, np.nan, np.float32)
    memory[size * store.total_dim :] = 7
    out = memory[: size * store.total_dim].reshape(size, store.total_dim)
    store.lookup(ids, offsets, size, out)
    assert (memory[size * store.total_dim :] == 7).all(), "written past the end"
    return out


def close_to_sums(
    got: np.ndarray, rows: np.ndarray, ids: np.ndarray, offsets: np.ndarray, mean: bool
) -> None:
    """Within the documented bound of NumPy in float64."""
    for bag, answer in enumerate(got):
        terms = rows[ids[offsets[bag] : offsets[bag + 1]]].astype(np.float64)
        scale = max(len(terms), 1) if mean else 1
        bound = (len(terms) + len(rows) + 2) * 2.0**-24 * np.abs(terms).sum(0) / scale + 1e-37
        assert (np.abs(answer - terms.sum(0) / scale) <= bound).all()


@few
@given(
    num_rows=st.integers(1, 64),
    dim=st.integers(1, 150),
    lengths=st.one_of(
        st.lists(st.integers(0, 40), max_size=40),
        # Bags of one length, as most models have them: these are streamed.
        st.builds(lambda count, length: [length] * count, st.integers(1, 70), st.integers(1, 40)),
    ),
    mean=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_every_strategy_pools_as_numpy_and_as_gather(num_rows, dim, lengths, mean, threads, seed) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((num_rows, dim), dtype=np.float32)
    rows[generator.random(rows.shape) < 0.05] = -0.0
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    ids = generator.integers(0, num_rows, offsets[-1])
    store = store_of(rows, mean=mean, threads=threads)
    gathered = looked_up(store, ids, offsets, len(lengths))
    close_to_sums(gathered, rows, ids, offsets, mean)
    single = np.diff(offsets) == 1
    assert np.array_equal(gathered[single].view(np.int32), rows[ids[offsets[:-1][single]]].view(np.int32))
    for strategy in STRATEGIES[1:]:
        if strategy == "counts" and num_rows > 32:
            continue
        store.set_strategy(0, strategy)
        got = looked_up(store, ids, offsets, len(lengths))
        if strategy == "counts":
            close_to_sums(got, rows, ids, offsets, mean)
            got, expected = got[single], gathered[single]
        else:
            expected = gathered
        assert np.array_equal(got.view(np.int32), expected.view(np.int32)), strategy


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_every_instruction_set(isa: str) -> None:
    run_under(isa, __file__, "pools_as_numpy or long_bags or does_not_depend")


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("length", [127, 128, 129, 254, 255, 256, 1000])
def test_long_bags(strategy: str, length: int) -> None:
    rows = np.random.default_rng(0).standard_normal((9, 24), dtype=np.float32)
    ids = np.random.default_rng(1).integers(0, 9, 20 * length)
    ids[:length] = 3  # one row alone, as often as it can be
    offsets = np.arange(21) * length
    store = store_of(rows)
    store.set_strategy(0, strategy)
    close_to_sums(looked_up(store, ids, offsets, 20), rows, ids, offsets, False)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_answer_does_not_depend_on_the_batch(strategy: str) -> None:
    tables = [np.random.default_rng(t).standard_normal((7 + t, 12), dtype=np.float32) for t in range(3)]
    store = store_of(*tables)
    for table in range(3):
        store.set_strategy(table, strategy)
    size, pooling = 3000, 3
    ids = np.random.default_rng(5).integers(0, 7, (3, size, pooling))
    whole = looked_up(store, ids.ravel(), np.arange(3 * size + 1) * pooling, size)
    for sample in (0, 17, size - 1):
        alone = looked_up(store, ids[:, sample].ravel(), np.arange(4) * pooling, 1)
        assert np.array_equal(alone[0], whole[sample])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_gather_and_counts_of_look_ups(strategy: str) -> None:
    rows = np.random.default_rng(0).standard_normal((5, 33), dtype=np.float32)
    store = store_of(rows)
    store.set_strategy(0, strategy)
    assert store.strategy(0) == strategy
    ids = np.random.default_rng(1).integers(0, 5, 777)
    out = np.empty((777, 33), np.float32)
    store.gather(0, ids, out)
    assert np.array_equal(out, rows[ids])
    stats = store.stats()
    assert (stats.lookups, stats.dram_rows) == (777, 777)
    with pytest.raises(ValueError, match=r"ids\[2\] is 5, outside table 0 of 5 rows"):
        store.gather(0, np.array([0, 4, 5]), out[:3])


def test_copies_are_counted_and_given_back() -> None:
    store = store_of(np.ones((100, 8), np.float32), threads=3)
    before = store.stats().dram_bytes
    store.set_strategy(0, "private")
    assert store.stats().dram_bytes == before + 3 * 2**21, "a huge page for each thread"
    store.set_strategy(0, "gather")
    assert store.stats().dram_bytes == before


def test_private_takes_any_row_format() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 24), dtype=np.float32)
    encoded = np.empty((50, _native.row_bytes("int8", 24)), np.uint8)
    _native.encode_rows(rows, "int8", encoded)
    store = _native.RowStore()
    store.add_table(50, 24)
    store.add_dram_band(0, encoded, None, format="int8")
    ids = np.random.default_rng(1).integers(0, 50, 3000)
    offsets = np.arange(1001) * 3
    gathered = looked_up(store, ids, offsets, 1000)
    store.set_strategy(0, "private")
    assert np.array_equal(looked_up(store, ids, offsets, 1000), gathered)
    with pytest.raises(ValueError, match=r"'stream' is for tables of fp32 rows; this one .* in int8"):
        store.set_strategy(0, "stream")


@pytest.mark.parametrize(
    ("strategy", "shape", "message"),
    [
        ("fastest", (3, 4), "strategy 'fastest' is unknown; use gather, private, stream"),
        ("stream", (65, 4), "'stream' is for tables of at most 64 rows; this one has 65 rows of 4 columns"),
        ("private_stream", (65, 4), "'private_stream' is for tables of at most 64 rows"),
        ("counts", (33, 4), "'counts' is for tables of at most 32 rows"),
        ("private", (2**14 + 1, 16), "'private' is for tables of at most 1048576 bytes"),
    ],
)
def test_impossible_strategies_are_refused(strategy, shape, message) -> None:
    store = store_of(np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=message):
        store.set_strategy(0, strategy)
    assert store.strategy(0) == "gather"


def test_refusals_that_depend_on_the_table() -> None:
    rows = np.ones((4, 4), np.float32)
    rows[2, 1] = np.inf
    store = store_of(rows)
    with pytest.raises(ValueError, match="whose entries are all finite"):
        store.set_strategy(0, "counts")
    with pytest.raises(ValueError, match="table: 1 does not exist"):
        store.set_strategy(1, "gather")
    store.add_table(8, 4)
    with pytest.raises(ValueError, match="has no last band"):
        store.set_strategy(1, "gather")
    cores = [np.ones((1, 2, 2, 1), np.float32), np.ones((1, 4, 2, 1), np.float32)]
    store.add_tt_band(1, cores, None)
    store.set_strategy(1, "gather")
    with pytest.raises(ValueError, match="'private' is for tables whose only band is rows in DRAM; table 1"):
        store.set_strategy(1, "private")


def test_strategies_of_many_tables() -> None:
    tables = {number: np.ones((rows, 16), np.float32) for number, rows in enumerate((4, 40, 100, 20_000))}
    names = ("a", "b", "c", "d")

    def chosen(strategies) -> list[str]:
        store = store_of(*tables.values())
        set_strategies(store, strategies, names, tables, threads=2)
        return [store.strategy(number) for number in range(4)]

    assert chosen("gather") == ["gather"] * 4
    assert chosen("stream") == ["stream", "stream", "gather", "gather"]
    assert chosen("counts") == ["counts", "gather", "gather", "gather"]
    assert chosen("private") == ["private", "private", "private", "gather"]
    assert chosen({"c": "private", "a": "counts"}) == ["counts", "gather", "private", "gather"]
    assert set(chosen("measured")) <= set(STRATEGIES)
    with pytest.raises(KeyError, match="no table 'e'"):
        chosen({"e": "gather"})
    with pytest.raises(ValueError, match="at most 32 rows"):
        chosen({"b": "counts"})
    with pytest.raises(ValueError, match="strategies: 'best' is unknown"):
        chosen("best")


def test_costs_and_the_choice() -> None:
    costs = lookup_ns(np.ones((40, 8), np.float32), threads=1)
    assert set(costs) == set(EXACT)
    assert all(cost > 0 for cost in costs.values())
    assert fastest_strategy({"gather": 2.0, "private": 1.95, "stream": 3.0}) == "gather"
    assert fastest_strategy({"gather": 2.0, "private": 1.8, "stream": 1.7}) == "stream"


def test_the_best_strategy_of_a_system(tmp_path) -> None:
    def rate(strategy: str, rows: int, dim: int, pooling: int, ns: float) -> StrategyRate:
        return StrategyRate(strategy=strategy, rows=rows, embedding_dim=dim, pooling=pooling, ns=ns)

    rates = (
        rate("gather", 4, 16, 1, 1.0),
        rate("stream", 4, 16, 1, 3.0),
        rate("gather", 4, 16, 32, 1.0),
        rate("counts", 4, 16, 32, 0.5),
        rate("gather", 64, 16, 1, 1.0),
        rate("private", 64, 16, 1, 0.7),
    )
    system = reference_system().model_copy(update={"strategies": rates})
    assert system.best_strategy(4, 16, 1) == "gather"
    assert system.best_strategy(3, 20, 20) == "counts"
    assert system.best_strategy(5, 16) == "private"
    assert system.best_strategy(65, 16) == "gather"
    assert system.best_strategy(4, 2**20) == "gather"
    assert reference_system().best_strategy(4, 16) == "gather"
    system.save(tmp_path / "system.json")
    assert SystemSpec.load(tmp_path / "system.json") == system
    old = system.to_dict()
    del old["strategies"]
    assert SystemSpec.from_dict(old) == reference_system()

"""The asymmetric data flow: whichever cores have the tables, the bits are those of the symmetric one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from other_isa import run_under
from test_engine import make_batch, make_model
from test_tickets import mixed_store

from screc import _native
from screc.serving import Engine
from screc.storage import TableCores
from screc.storage.mapping import set_mapping

few = settings(max_examples=60, deadline=None)
FORMATS = ("fp32", "fp16", "bf16", "int8", "int4")


def encoded(rows: np.ndarray, row_format: str) -> np.ndarray:
    if row_format == "fp32":
        return rows
    out = np.empty((len(rows), _native.row_bytes(row_format, rows.shape[1])), np.uint8)
    _native.encode_rows(rows, row_format, out)
    return out


def store_of(tables: list[tuple[int, int, str, bool]], threads: int, seed: int = 0) -> _native.RowStore:
    """A store of (rows, columns, format, mean) tables."""
    generator = np.random.default_rng(seed)
    store = _native.RowStore(threads=threads)
    for number, (rows, dim, row_format, mean) in enumerate(tables):
        store.add_table(rows, dim, mean)
        values = generator.standard_normal((rows, dim), dtype=np.float32)
        values[generator.random(values.shape) < 0.05] = -0.0
        store.add_dram_band(number, encoded(values, row_format), None, format=row_format)
    return store


def bags(rows: list[int], samples: int, longest: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, longest + 1, (len(rows), samples))
    ids = [generator.integers(0, count, own.sum()) for count, own in zip(rows, lengths, strict=True)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.concatenate([*ids, np.zeros(0, np.int64)]), offsets


def looked_up(store, ids: np.ndarray, offsets: np.ndarray, samples: int, flow: str) -> np.ndarray:
    out = np.full((samples, store.total_dim), np.nan, np.float32)
    store.lookup(ids, offsets, samples, out, flow)
    return out.view(np.int32)


@st.composite
def mapped_tables(draw) -> tuple[list, list, int]:
    """Tables, a mapping of them, and the number of threads."""
    threads = draw(st.integers(1, 4))
    tables, mapping = [], []
    for _ in range(draw(st.integers(1, 6))):
        row_format = draw(st.sampled_from(FORMATS))
        rows, dim = draw(st.integers(1, 70)), draw(st.integers(1, 150))
        cores = sorted(draw(st.sets(st.integers(0, threads - 1))))
        split = draw(st.sampled_from(("columns", "samples")))
        if len(cores) > 1 and split == "columns":
            dim = max(dim, 2 * len(cores))
            strategy = "private"
        else:
            small = row_format == "fp32" and rows <= 64
            strategies = ["gather"] + ["stream"] * small
            if cores:
                strategies += ["private"] + ["private_stream"] * small
            strategy = draw(st.sampled_from(strategies))
        tables.append((rows, dim, row_format, draw(st.booleans())))
        mapping.append((strategy, cores, split))
    return tables, mapping, threads


@few
@given(mapped_tables(), st.sampled_from((0, 1, 7, 100, 900)), st.sampled_from((1, 3, 40)), st.integers(0, 9))
def test_same_bits_as_the_symmetric_flow(made, samples, longest, seed) -> None:
    tables, mapping, threads = made
    store = store_of(tables, threads, seed)
    ids, offsets = bags([table[0] for table in tables], samples, longest, seed)
    expected = looked_up(store, ids, offsets, samples, "symmetric")
    store.set_mapping(mapping)
    assert store.has_mapping
    before = store.stats()
    assert np.array_equal(looked_up(store, ids, offsets, samples, "asymmetric"), expected)
    after = store.stats()
    assert after.lookups - before.lookups == after.dram_rows - before.dram_rows == len(ids)
    assert np.array_equal(looked_up(store, ids, offsets, samples, "symmetric"), expected)


@pytest.mark.parametrize("isa", _native.supported_isas())
def test_every_instruction_set(isa: str) -> None:
    run_under(isa, __file__, "same_bits or predictions or columns_of")


@pytest.mark.parametrize("row_format", FORMATS)
@pytest.mark.parametrize("dim", [16, 24, 31, 32, 40, 48, 64, 100, 128, 300])
def test_columns_of_long_bags(row_format: str, dim: int) -> None:
    """Parts of rows are added up in the order in which whole rows are."""
    store = store_of([(50, dim, row_format, False), (50, dim, row_format, True)], threads=3)
    ids, offsets = bags([50, 50], 60, 90)
    expected = looked_up(store, ids, offsets, 60, "symmetric")
    for cores in ([0, 1], [0, 2], [0, 1, 2]):
        store.set_mapping([("private", cores, "columns")] * 2)
        assert np.array_equal(looked_up(store, ids, offsets, 60, "asymmetric"), expected)


def test_counts_where_both_flows_count() -> None:
    store = store_of([(20, 40, "fp32", False)], threads=2)
    store.set_strategy(0, "counts")
    ids, offsets = bags([20], 500, 30)
    expected = looked_up(store, ids, offsets, 500, "symmetric")
    for cores, split in (([], "columns"), ([1], "columns"), ([0, 1], "samples")):
        store.set_mapping([("counts", cores, split)])
        assert np.array_equal(looked_up(store, ids, offsets, 500, "asymmetric"), expected)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("gather", [2], "columns"), "mapping: table 0 has core 2, there are 2"),
        (("gather", [-1], "columns"), "mapping: table 0 has core -1, there are 2"),
        (("gather", [1, 0], "samples"), "mapping: table 0 has cores that do not ascend: core 0 after 1"),
        (("gather", [0, 0], "samples"), "mapping: table 0 has cores that do not ascend"),
        (("gather", [0, 1], "columns"), "can be split by columns with strategy 'private' only, got 'gather'"),
        (("private", [], "columns"), "mapping: table 0 has strategy 'private' and no core to hold it"),
        (("stream", [0], "columns"), "mapping: table 0 strategy 'stream' is for tables of at most 64 rows"),
        (("private", [0], "columns"), "mapping: table 0 strategy 'private' .* at most 2097152 bytes"),
        (("gather", [0], "rows"), "split 'rows' is unknown; use columns or samples"),
        (("fetch", [0], "columns"), "strategy 'fetch' is unknown"),
    ],
)
def test_impossible_mappings_are_refused(entry, message) -> None:
    store = store_of([(300_000, 2, "fp32", False)], threads=2)
    with pytest.raises(ValueError, match=message):
        store.set_mapping([entry])
    assert not store.has_mapping
    with pytest.raises(RuntimeError, match="mapping: there is none; set it before look-ups"):
        looked_up(store, np.zeros(1, np.int64), np.arange(2), 1, "asymmetric")


def test_a_mapping_is_of_all_tables_as_they_are() -> None:
    store = store_of([(9, 1, "fp32", False), (9, 8, "fp32", False)], threads=2)
    with pytest.raises(ValueError, match="mapping: expected an entry for each of 2 tables, got 1"):
        store.set_mapping([("gather", [0], "columns")])
    with pytest.raises(ValueError, match="table 0 has 1 columns, too few to split among 2 cores"):
        store.set_mapping([("private", [0, 1], "columns")] * 2)
    bytes_before = store.stats().dram_bytes
    store.set_mapping([("gather", [], "columns"), ("private", [0, 1], "columns")])
    assert store.stats().dram_bytes == bytes_before + 2 * 2**21, "a huge page for each core"
    with pytest.raises(ValueError, match="the mapping has none more; take it off"):
        store.add_table(3, 3)
    store.set_mapping([])
    assert store.stats().dram_bytes == bytes_before
    with pytest.raises(ValueError, match="data_flow 'other' is unknown; use symmetric or asymmetric"):
        looked_up(store, np.zeros(0, np.int64), np.zeros(1, np.int64), 0, "other")


def test_wrong_ids_and_offsets_are_refused_by_whichever_core() -> None:
    rows = [40] * 4
    store = store_of([(count, 24, "fp32", False) for count in rows], threads=2)
    store.set_mapping([("private", [0], "columns"), ("gather", [], "columns")] * 2)
    ids, offsets = bags(rows, 700, 9)
    for table in range(4):
        wrong = ids.copy()
        wrong[offsets[700 * table] + 3] = 40
        with pytest.raises(ValueError, match=rf"is 40, outside table {table} of 40 rows"):
            looked_up(store, wrong, offsets, 700, "asymmetric")
    expected = looked_up(store, ids, offsets, 700, "symmetric")
    assert np.array_equal(looked_up(store, ids, offsets, 700, "asymmetric"), expected)


def test_tables_on_ssd_beside_tables_of_cores(tmp_path) -> None:
    store, expected = mixed_store(tmp_path)
    with pytest.raises(ValueError, match="table 1 has other bands than rows in DRAM: give it no core"):
        store.set_mapping([("gather", [], "columns"), ("gather", [0], "columns"), ("gather", [1], "columns")])
    for last in ((1,), (0, 1)):
        store.set_mapping([("gather", [], "columns")] * 2 + [("private", list(last), "columns")])
        ids, offsets = bags([3000, 700, 50], 400, 6)
        out = np.full((400, store.total_dim), np.nan, np.float32)
        ticket = store.begin(ids, offsets, 400, out, data_flow="asymmetric")
        ticket.finish()
        symmetric = looked_up(store, ids, offsets, 400, "symmetric")
        assert np.array_equal(out.view(np.int32), symmetric)
        np.testing.assert_allclose(out, expected.pooled(ids, offsets, 400), rtol=1e-5, atol=1e-4)


# ----------------------------------------------------------------------------------------------------
# the engine

NAMES = [str(number) for number in range(5)]


def mappings(threads: int) -> list[list[TableCores]]:
    """Of the five tables of make_model: nobody's, whole tables, columns and samples, all kinds together."""
    every = tuple(range(threads))
    one = [TableCores(table=name, cores=(number % threads,)) for number, name in enumerate(NAMES)]
    private = {"strategy": "private"}
    return [
        [TableCores(table=name) for name in NAMES],
        one,
        [TableCores(table=name, cores=every, **private) for name in NAMES],
        [TableCores(table=name, cores=every, split="samples") for name in NAMES],
        [
            TableCores(table="0"),
            TableCores(table="1", cores=every, **private),
            TableCores(table="2", cores=(threads - 1,), strategy="private_stream"),
            TableCores(table="3", cores=every, split="samples"),
            TableCores(table="4", cores=(0,)),
        ],
    ]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_predictions_are_the_same_in_both_flows(threads: int) -> None:
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=threads)
    batches = [make_batch(size, 13, tables, seed=size) for size in (0, 1, 50, 97, 700, 2500)]
    expected = [engine.predict(batch) for batch in batches]
    for mapping in mappings(threads):
        engine.set_mapping(mapping)
        assert engine.data_flow == "asymmetric"
        for batch, probabilities in zip(batches, expected, strict=True):
            assert np.array_equal(engine.predict(batch), probabilities)
        streamed = [probabilities for _, probabilities in engine.predict_stream(batches)]
        assert all(np.array_equal(a, b) for a, b in zip(streamed, expected, strict=True))
        engine.roles = (1, 1)
        assert np.array_equal(engine.predict(batches[-1]), expected[-1])
        engine.roles = (0, 0)
    engine.set_mapping([])
    assert engine.data_flow == "symmetric"
    assert np.array_equal(engine.predict(batches[-1]), expected[-1])


def test_an_engine_counts_its_look_ups() -> None:
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    engine.set_mapping(mappings(2)[2])
    batch = make_batch(900, 13, tables)
    engine.predict(batch)
    stats = engine.stats()
    assert stats.lookups == stats.dram_rows == len(batch.ids)


def test_wrong_input_is_refused_and_does_no_harm() -> None:
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    batch = make_batch(3000, 13, tables)
    expected = engine.predict(batch)
    for mapping in mappings(2):
        engine.set_mapping(mapping)
        for table, position in ((0, 0), (2, 1), (4, -1)):
            wrong = make_batch(3000, 13, tables)
            own = slice(wrong.offsets[3000 * table], wrong.offsets[3000 * (table + 1)])
            wrong.ids[own][position] = 1000
            with pytest.raises(ValueError, match=rf"is 1000, outside table {table} of"):
                engine.predict(wrong)
        wrong = make_batch(3000, 13, tables)
        wrong.offsets[4] = wrong.offsets[3] - 1
        with pytest.raises(ValueError, match=r"offsets\[4\] is .* must not decrease"):
            engine.predict(wrong)
        assert np.array_equal(engine.predict(batch), expected)


def test_mapping_errors_name_the_table() -> None:
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    with pytest.raises(RuntimeError, match="data flow: the asymmetric one needs a mapping of the tables"):
        engine.data_flow = "asymmetric"
    whole = mappings(2)[1]
    with pytest.raises(KeyError, match="mapping: no table '9'"):
        engine.set_mapping([*whole, TableCores(table="9")])
    with pytest.raises(ValueError, match="mapping: table '4' is missing; give it no cores"):
        engine.set_mapping(whole[:-1])
    with pytest.raises(ValueError, match="mapping: table '0' is there 2 times"):
        engine.set_mapping([*whole, TableCores(table="0")])
    assert engine.data_flow == "symmetric"


def test_the_flow_does_not_change_under_a_stream() -> None:
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    engine.set_mapping(mappings(2)[1])
    batches = [make_batch(300, 13, tables, seed=seed) for seed in range(4)]
    stream = engine.predict_stream(batches, ahead=2)
    next(stream)
    with pytest.raises(RuntimeError, match="collect them before the data flow changes"):
        engine.data_flow = "symmetric"
    assert len(list(stream)) == 3
    engine.data_flow = "symmetric"


def test_a_mapping_that_is_gone_is_missed_not_used() -> None:
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    engine.set_mapping(mappings(2)[1])
    engine._store.set_mapping([])
    for size in (8, 900):
        with pytest.raises(RuntimeError, match="mapping: there is none"):
            engine.predict(make_batch(size, 13, tables))


def test_many_callers_while_the_mapping_changes() -> None:
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    batches = [make_batch(size, 13, tables, seed=size) for size in (5, 60, 400)]
    expected = [engine.predict(batch) for batch in batches]
    engine.set_mapping(mappings(2)[0])
    stop = threading.Event()

    def change() -> int:
        changes = 0
        while not stop.is_set():
            set_mapping(engine._store, mappings(2)[changes % 5], NAMES)
            changes += 1
        return changes

    def predict(number: int) -> None:
        for turn in range(60):
            which = (number + turn) % 3
            assert np.array_equal(engine.predict(batches[which]), expected[which])

    with ThreadPoolExecutor(4) as pool:
        changing = pool.submit(change)
        predicting = [pool.submit(predict, number) for number in range(3)]
        for one in predicting:
            one.result()
        stop.set()
        assert changing.result() > 0


def test_the_faster_flow_is_kept() -> None:
    model, dense, tables, poolings = make_model()
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    engine.set_mapping(mappings(2)[1])
    seconds = engine.choose_data_flow([make_batch(300, 13, tables)] * 3, rounds=2)
    assert engine.data_flow == min(seconds, key=seconds.__getitem__)
    assert all(0 < value < 10 for value in seconds.values())

"""The benchmarks' own arithmetic, and their peers against the float64 oracle."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

pytest.importorskip("torch")

from rich.console import Console

from benchmarks import load
from benchmarks.comparison import Arm, Standing, check, check_batches, oracle
from benchmarks.limits import cached_share, line_bytes
from benchmarks.ours import Form, build_engines
from benchmarks.pauses import Pauses, allowed_latencies
from benchmarks.peers import AbsentError
from benchmarks.table_sets import DISTRIBUTIONS, meta_reuse
from benchmarks.torch_arms import TorchArms
from benchmarks.workload import SKEWS, RandomTables, Workload, dense_tensors
from screc.serving import Engine

SHAPE = Workload(rows=(3000, 1, 400), embedding_dim=16, num_dense=5, bottom=(24, 16), top=(32, 1), pooling=3)


@pytest.fixture(scope="module")
def model():
    """(tables, bottom, top, check batches, the oracle's answers)."""
    tables = list(RandomTables(SHAPE.rows, SHAPE.embedding_dim))
    bottom, top = SHAPE.layers(np.random.default_rng(0))
    batches = check_batches(SHAPE)
    return tables, bottom, top, batches, oracle(SHAPE, tables, bottom, top, batches)


def test_the_tables_are_the_same_each_time_and_no_two_rows_alike():
    lazy = RandomTables((70_000, 70_000), 4, deviation=0.5)
    first, second = lazy[0], lazy[1]
    np.testing.assert_array_equal(first, lazy[0])
    both = np.concatenate([first, second])
    assert len(np.unique(both, axis=0)) == len(both)
    assert 0.2 < both.std() < 0.8


@pytest.mark.parametrize("skew", SKEWS)
def test_cached_share_is_that_of_the_hottest_rows(skew):
    shape = dataclasses.replace(SHAPE, rows=(50_000, 9, 2000), pooling=1)
    batch = shape.batch(np.random.default_rng(1), 300_000, skew)
    counts = np.sort(
        np.concatenate([np.bincount(batch.table_ids(t), minlength=n) for t, n in enumerate(shape.rows)])
    )[::-1]
    for held in (5, 300, 3000):
        # The hottest of the counted rows are a little luckier than the hottest of the law.
        assert cached_share(shape, skew, held) == pytest.approx(counts[:held].sum() / counts.sum(), abs=0.03)
    assert cached_share(shape, skew, sum(shape.rows)) == 1


def test_line_bytes_counts_rows_that_straddle_lines():
    assert line_bytes(64) == 64
    assert line_bytes(256) == 256
    assert line_bytes(32) == 64
    assert line_bytes(96) == 128  # lines 0-1, 1-2
    assert line_bytes(20) == 64 * 20 / 16  # 4 of 16 rows lie in two lines


def test_the_work_of_the_known_shapes():
    from benchmarks.jobs.rm2 import rm2
    from benchmarks.workload import kaggle
    from screc.data import CRITEO_KAGGLE_ROWS

    assert kaggle(CRITEO_KAGGLE_ROWS).flops == 959_968
    shape = rm2(1_000_000)
    assert shape.row_bytes == 16_384_000_000
    assert shape.lookups == 2048
    # Products of all 65 x 65 pairs instead of each once.
    assert shape.flops + 2 * 65 * 65 * 64 - shape.interaction_flops == pytest.approx(1.19e6, rel=0.01)


def test_joined_standings_keep_the_nearer_peer():
    first = Standing(ours="a", ratios={"tbe": ("x", 2.0), "best_peer": ("x", 2.0)})
    second = Standing(ours="b", ratios={"bags": ("y", 1.5), "best_peer": ("y", 1.5)})
    assert first.merge(second).ratios == {"tbe": ("x", 2.0), "bags": ("y", 1.5), "best_peer": ("y", 1.5)}


def test_our_forms_answer_as_the_oracle(model):
    tables, bottom, top, batches, answers = model
    forms = [Form(*pair) for pair in itertools.product(("fp32", "int8", "int4"), ("fp32", "bf16", "int8"))]
    engines = build_engines(
        forms, SHAPE.model, dense_tensors(bottom, top), tables, calibration=batches[0], threads=1
    )
    for form, engine in engines.items():
        arm = Arm(
            name=form.name,
            inputs=lambda batch: batch,
            predict=engine.predict,
            row_format=form.row_format,
            precision=form.precision,
        )
        check([arm], batches, answers)


@pytest.mark.parametrize(
    "make",
    [
        lambda arms: arms.eager_fp32(),
        lambda arms: arms.eager_bf16(),
        lambda arms: arms.eager_autocast(),
        lambda arms: arms.bags(8),
        lambda arms: arms.bags(4),
        lambda arms: arms.tbe("fp32"),
        lambda arms: arms.tbe("int8"),
        lambda arms: arms.tbe("int4"),
    ],
    ids=["eager", "bf16", "autocast", "bags8", "bags4", "tbe_fp32", "tbe_int8", "tbe_int4"],
)
def test_torch_peers_answer_as_the_oracle(model, make):
    tables, bottom, top, batches, answers = model
    peers = TorchArms(SHAPE, tables, bottom, top, Console(quiet=True))
    arms = make(peers)
    if not arms:
        pytest.skip(str(peers.absent))
    check(arms, batches, answers)
    # Rows of other tables have to be noticed.
    with pytest.raises(RuntimeError, match="predictions differ"):
        check(
            make(TorchArms(SHAPE, RandomTables(SHAPE.rows, 16, seed=5), bottom, top, Console())),
            batches,
            answers,
        )


@pytest.mark.parametrize("name", ["memmap", "lmdb", "rocksdb"])
def test_peers_with_rows_in_files_answer_as_the_oracle(model, tmp_path, name):
    tables, bottom, top, batches, answers = model
    dim, count = SHAPE.embedding_dim, len(SHAPE.rows)
    try:
        if name == "memmap":
            from benchmarks.peers.memmap_rows import MemmapDlrm

            MemmapDlrm.build(tmp_path / name, tables)
            peer = MemmapDlrm(tmp_path / name, SHAPE.rows, dim, bottom, top)
        elif name == "lmdb":
            from benchmarks.peers.lmdb_rows import LmdbDlrm

            LmdbDlrm.build(tmp_path / name, tables, max_bytes=2**24)
            peer = LmdbDlrm(tmp_path / name, dim, count, bottom, top, threads=2)
        else:
            from benchmarks.peers.rocksdb_rows import RocksdbDlrm

            RocksdbDlrm.build(tmp_path / name, tables)
            peer = RocksdbDlrm(tmp_path / name, dim, count, bottom, top, threads=2, cache_bytes=2**20)
    except AbsentError as absent:
        pytest.skip(str(absent))
    check([Arm(name=name, inputs=peer.inputs, predict=peer.predict)], batches, answers)
    if name != "memmap":
        missing = dataclasses.replace(batches[0], ids=batches[0].ids + (batches[0].ids == 0) * 3000)
        with pytest.raises(KeyError, match="not in the store"):
            peer.pooled(missing)
        peer.close()


def test_requests_in_flight():
    found = load.Load(np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.5, 0.5, 1.5, 0.25])).in_flight()
    np.testing.assert_array_equal(found, [1, 2, 2, 2])


def test_load_of_an_engine(model):
    tables, bottom, top, batches, _ = model
    dense = dense_tensors(bottom, top)
    engine = Engine.from_arrays(SHAPE.model, dense, tables, threads=2)
    rate = load.peak_rate(engine, batches, clients=2, seconds=0.01)
    assert rate > 0
    seen = load.open_loop(engine, batches, rate=1000, clients=2, seconds=0.05, seed=1)
    assert seen.arrivals.size == seen.latencies.size == 50
    assert seen.in_flight().min() >= 1


def test_allowed_latencies_wait_out_the_pauses_and_queue_behind_them():
    never = Pauses(100.0, np.zeros(0), np.zeros(0))
    away = Pauses(10.0, np.array([2.0, 5.0]), np.array([1.0, 3.0]))
    assert away.share() == pytest.approx(0.4)
    assert away.share(longer_than=2.0) == pytest.approx(0.3)
    # One core: begun before a pause, in it, behind another request, and in the next ten seconds' pause.
    arrivals = np.array([1.5, 2.5, 4.5, 12.5])
    latencies = allowed_latencies(arrivals, 1.0, [away])
    np.testing.assert_allclose(latencies, [2.0, 2.0, 4.0, 1.5])
    # A core beside it takes those that would wait.
    np.testing.assert_allclose(allowed_latencies(arrivals, 1.0, [away, never]), [1.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(allowed_latencies(np.array([1.0, 1.0]), 1.0, [away, never]), [1.0, 1.0])


def test_without_pauses_the_latencies_are_those_of_a_queue_with_two_servers():
    never = Pauses(1.0, np.zeros(0), np.zeros(0))
    arrivals = np.array([0.0, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(allowed_latencies(arrivals, 1.0, [never, never]), [1.0, 1.0, 1.8, 1.8])


def test_a_table_set_keeps_its_bags_whatever_the_ids() -> None:
    tables = meta_reuse(tables=2, rows=50, pooling=3, samples=300)
    batches = {kind: tables.batches(128, kind) for kind in DISTRIBUTIONS}
    assert all(len(own) == 2 for own in batches.values())
    for own in batches.values():
        assert np.array_equal(own[1].offsets, np.arange(2 * 128 + 1) * 3)
        assert 0 <= own[1].ids.min() <= own[1].ids.max() < 50
    assert np.array_equal(batches["trace"][0].table_ids(1), tables.ids[1][: 128 * 3])
    assert len(np.unique(batches["one_row"][0].ids)) == 1
    for kind in DISTRIBUTIONS:
        assert tables.curve(0, kind).share(50) == pytest.approx(1.0)
    assert tables.curve(0, "one_row").share(1) == 1.0
    assert tables.curve(0, "zipf").share(5) > tables.curve(0, "uniform").share(5)

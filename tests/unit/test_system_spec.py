"""The system spec: interpolation between measurements, its file, and the probe that makes it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_samples import zipf_table

from screc import _native
from screc.planning import (
    DenseShape,
    PlanOptions,
    SystemSpec,
    gpu_node,
    predict,
    probe,
    probe_dense,
    reference_system,
    server,
    smartssd_array,
)
from screc.planning.rates import dense, pipeline, rows, ssd, trains
from screc.planning.rates.clock import Clock
from screc.planning.rates.host import machine
from screc.planning.system import BagRate, IndexRate, RowRate, SsdSpec
from screc.statistics import AccessStatistics
from screc.storage.layout import TableLayout, TtShape
from screc.storage.row_format import LARGEST_CODE, ROW_FORMATS


def test_rates_are_interpolated() -> None:
    system = reference_system()
    assert system.row_ns("fp32", 16, "row", "dram") == 32.6
    assert system.row_ns("fp32", 16, "row", "llc") == 10.0
    assert 32.6 < system.row_ns("fp32", 24) < system.row_ns("fp32", 32) == 42.0
    assert system.row_ns("fp32", 1) == system.row_ns("fp32", 4) == 28.0
    assert system.row_ns("fp32", 1024) == pytest.approx(4 * 152.0)
    assert system.row_ns("int8", 16) > system.row_ns("fp32", 5)
    assert system.pages_per_second(64) == 115_800
    assert 11_600 < system.pages_per_second(4) < 83_700
    assert system.pages_per_second(10_000) == 116_400
    assert system.dense_ns(128, 1000) == pytest.approx(128 * 1000 * 2 / 258)
    assert system.dense_ns(128, 0) == 0
    assert 24 < 2 * 8 * 1000 / system.dense_ns(8, 1000) < 120
    assert system.dense_ns(128, 1000, "int8") == system.dense_ns(128, 1000)
    assert system.ssd_latency_seconds == pytest.approx(1 / 11_600)
    assert system.num_bytes("llc") == 36 * 2**20
    none = reference_system(ssd=False)
    assert (none.ssd, none.pages_per_second(64), none.ssd_latency_seconds, none.page_ns) == (None, 0, 0, 0)
    assert none.num_bytes("ssd") == 0


def test_what_was_not_measured_counts_as_the_next_slower_thing() -> None:
    def rate(where: str, ns: float, busy: int = 2, row_format: str = "fp32", dim: int = 16) -> RowRate:
        return RowRate(where=where, row_format=row_format, embedding_dim=dim, ns=ns, busy=busy)

    rates = (
        rate("private", 3),
        rate("llc", 7, 2, dim=32),
        rate("dram", 20, 1),
        rate("dram", 30),
        rate("dram", 18, 2, "int8"),
    )
    system = reference_system().model_copy(update={"rows": rates})
    assert system.row_ns("fp32", 16, "row", "private") == 3
    assert system.row_ns("int8", 16, "row", "private") == 18
    assert system.row_ns("int8", 16, "table", "private") == system.row_ns("fp16", where="private") == 3
    assert [system.row_ns(busy=busy) for busy in (1, 2, 3)] == [20, 30, 30]
    assert system.index_ns("hash", "private") == 3
    index = (IndexRate(kind="hash", where="dram", ns=40), IndexRate(kind="bitmap", where="llc", ns=2))
    system = system.model_copy(update={"index": index})
    assert system.index_ns("hash", "private") == 40
    assert system.index_ns("bitmap", "private") == 2
    assert system.index_ns("bitmap", "dram") == 2 + 30 - 7


def test_bags() -> None:
    assert reference_system().model_copy(update={"bags": ()}).bag_ns(16) == 0
    bags = (BagRate(embedding_dim=64, ns=4), BagRate(embedding_dim=16, ns=1))
    system = reference_system().model_copy(update={"bags": bags})
    assert [system.bag_ns(dim) for dim in (8, 16, 40, 64, 128)] == [1, 1, 2.5, 4, 8]


def test_pages_side_by_side_are_read_together() -> None:
    reads = reference_system().ssd.reads
    ssd = SsdSpec(backend="pread", reads=reads, adjacent=0.25)
    system = reference_system().model_copy(update={"ssd": ssd})
    every = np.arange(101.0)
    cost = system.lone_reads(every, np.full(101, 100))
    assert cost[0] == 0
    assert cost[1] == pytest.approx(1, rel=0.01)
    assert cost[100] == 25  # all pages in one run
    assert (cost <= every).all()
    picked = np.random.default_rng(0).random((400, 1000)) < 0.3
    neighbours = (picked[:, 1:] & picked[:, :-1]).sum() / 400
    pages = picked.sum() / 400
    counted = pages - neighbours + 0.25 * neighbours
    assert system.lone_reads(np.array(pages), np.array(1000)) == pytest.approx(counted, rel=0.01)
    assert system.lone_reads(np.array(1.0), np.array(10**9), 3) == pytest.approx(1 + 2 * 0.25)
    assert np.array_equal(reference_system(ssd=False).lone_reads(every, every), every)


@pytest.mark.parametrize(
    ("system", "kind", "count"),
    [
        (server(), "core", 64),
        (server(16, drives=2), "core", 16),
        (smartssd_array(), "smartssd", 8),
        (smartssd_array(16), "smartssd", 16),
        (gpu_node(4), "gpu", 4),
    ],
)
def test_presets_say_what_they_assume(tmp_path, system: SystemSpec, kind: str, count: int) -> None:
    assert (system.devices.kind, system.devices.count) == (kind, count)
    assert system.source.startswith("preset ")
    assert system.assumed
    assert {one.spread for one in (*system.rows, *system.tt, *system.dense)} == {0}
    system.save(tmp_path / "system.json")
    assert SystemSpec.load(tmp_path / "system.json") == system
    assert 0 < system.row_ns(where="private") < system.row_ns(where="dram")
    assert 0 < system.pages_per_second(1) < system.pages_per_second(256)
    table = zipf_table("t", 2000, samples=3000)
    statistics = AccessStatistics((table,))
    layout = TableLayout.dense("t", 2000, 16)
    if kind == "core":  # else a table is one device's
        options = PlanOptions(batch_size=64, dense_flops=10**6)
        assert 0 < predict([layout], None, statistics, system, options).seconds_per_batch < 1


def test_presets_refuse_machines_without_devices() -> None:
    for make, name in ((server, "cores"), (smartssd_array, "count"), (gpu_node, "count")):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            make(0)
    with pytest.raises(ValueError, match="drives must be at least 1, got 0"):
        server(8, drives=0)


SYSTEM = reference_system()


@given(
    row_format=st.sampled_from(ROW_FORMATS),
    dims=st.tuples(st.integers(1, 4096), st.integers(1, 4096)).map(sorted),
    where=st.sampled_from(["private", "llc", "dram"]),
)
def test_longer_rows_never_take_less_time(row_format, dims, where) -> None:
    for scale in ("row", "table") if row_format in LARGEST_CODE else ("row",):
        short, long = (SYSTEM.row_ns(row_format, dim, scale, where) for dim in dims)
        assert 0 < short <= long * (1 + 1e-9)


@given(
    batches=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)).map(sorted), flops=st.integers(0, 10**9)
)
def test_larger_batches_never_take_less_time(batches, flops) -> None:
    small, large = (SYSTEM.dense_ns(size, flops) for size in batches)
    assert small <= large * (1 + 1e-9)


@given(depths=st.tuples(st.integers(1, 4096), st.integers(1, 4096)).map(sorted))
def test_deeper_queues_never_read_less(depths) -> None:
    shallow, deep = (SYSTEM.pages_per_second(depth) for depth in depths)
    assert 0 < shallow <= deep


def test_tt_time_is_exact_at_measurements_and_grows_with_the_rank() -> None:
    system = reference_system()
    for rate in system.tt:
        shape = TtShape.balanced(10_077_696, rate.embedding_dim, rate.tt_rank)
        assert system.tt_ns(shape) == pytest.approx(rate.ns)
    times = [system.tt_ns(TtShape.balanced(10**6, 32, rank)) for rank in (2, 4, 8, 12, 16, 32, 64, 128)]
    assert times == sorted(times)
    assert times[-1] > 2 * times[-2]


def test_save_and_load(tmp_path) -> None:
    system = reference_system()
    system.save(tmp_path / "system.json")
    assert SystemSpec.load(tmp_path / "system.json") == system
    assert "host" not in (tmp_path / "system.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("isa"), "field isa is missing"),
        (lambda d: d.update(colour="red"), "field colour is unknown"),
        (lambda d: d["shared"].update(dram_bytes=-1), r"field shared\.dram_bytes = -1"),
        (lambda d: d["ssd"]["reads"].reverse(), "ssd.reads must be in ascending order"),
        (lambda d: d.update(rows=d["rows"][:1]), "rows must hold rates of fp32 rows in dram"),
        (lambda d: d["dense"][0].update(ns=0), r"field dense\.0\.ns = 0"),
        (lambda d: d.update(tt=[]), "field tt = "),
        (lambda d: d.update(version=1), "screc-system version 1, this release reads 2; make the file again"),
        (lambda d: d.update(format="screc-plan"), "expected a document of format 'screc-system'"),
    ],
)
def test_wrong_documents_are_refused(tmp_path, change, message: str) -> None:
    data = reference_system().to_dict()
    change(data)
    path = tmp_path / "system.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match=message) as caught:
        SystemSpec.load(path)
    assert "system.json" in str(caught.value)


# ----------------------------------------------------------------------------------------------------------
# the probe


@pytest.fixture
def small(monkeypatch) -> None:
    """A probe of few and small measurements."""
    monkeypatch.setattr(rows, "_FP32_DIMS", (8, 16, 64))
    monkeypatch.setattr(rows, "_DIMS", (16,))
    monkeypatch.setattr(rows, "_ALONE_DIMS", (16,))
    monkeypatch.setattr(rows, "_BAGS", 8)
    monkeypatch.setattr(rows, "_STRATEGY_ROWS", (4,))
    monkeypatch.setattr(rows, "_STRATEGY_DIMS", (16,))
    monkeypatch.setattr(rows, "_HASHED", {"private": 2**6, "llc": 2**8})
    monkeypatch.setattr(rows, "_MAPPED", {"private": 2**10, "llc": 2**12})
    monkeypatch.setattr(rows, "available_bytes", lambda: 2**23)
    monkeypatch.setattr(trains, "_ROWS", 1000)
    monkeypatch.setattr(trains, "_TT_RANKS", (2, 4))
    monkeypatch.setattr(trains, "_LOOKUPS", 512)
    monkeypatch.setattr(dense, "_SAMPLES", (1, 8))
    monkeypatch.setattr(pipeline, "_BATCH_SIZE", 64)
    monkeypatch.setattr(pipeline, "_BATCHES", 2)
    monkeypatch.setattr(ssd, "_FILE_BYTES", 2**20)
    monkeypatch.setattr(ssd, "_SMALLEST_FILE_BYTES", 2**12)


def probe_here(directory: Path, **options) -> SystemSpec:
    try:
        return probe(directory, **options)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        pytest.skip("the temporary directory's file system has no direct reads")


@pytest.mark.parametrize("threads", [1, 2])
def test_probe_measures_this_host(tmp_path, small, threads: int) -> None:
    steps: list[tuple[int, int]] = []
    system = probe_here(
        tmp_path,
        seconds=1e-6,
        threads=threads,
        progress=lambda what, done, total: steps.append((done, total)),
    )
    assert system.devices.count == threads
    assert (system.source, system.assumed) == ("probe", {})
    assert [rate.queue_depth for rate in system.ssd.reads] == [1, 4, 16, 64, 256]
    assert system.ssd.backend in ("io_uring", "pread")
    kinds = {(r.where, r.row_format, r.scale, r.embedding_dim) for r in system.rows if r.busy == threads}
    assert len(kinds) == 3 * (3 + 6)
    assert {rate.busy for rate in system.rows} == {1, threads}
    assert {(rate.kind, rate.where) for rate in system.index} == {
        (kind, where) for kind in ("bitmap", "hash") for where in ("private", "llc")
    }
    assert len(system.tt) == 6
    assert {(rate.precision, rate.samples) for rate in system.dense} == {
        (precision, samples) for precision in ("fp32", "bf16", "int8") for samples in (1, 8)
    }
    assert 0 < system.shared.llc_bytes <= rows.llc_bytes()
    for where in ("private", "llc"):
        assert system.row_ns("fp32", 16, "row", where) > 0
    assert system.row_ns("fp32", 16, "row", "dram") >= system.row_ns("fp32", 16, "row", "llc")
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert {total for _, total in steps} == {100}
    assert 50 < steps[-1][0] < 100
    assert list(tmp_path.iterdir()) == []
    system.save(tmp_path / "system.json")
    assert SystemSpec.load(tmp_path / "system.json") == system


def test_probe_without_ssd_writes_nothing(tmp_path, small, monkeypatch) -> None:
    monkeypatch.setattr(ssd, "tempfile", None)
    directory = tmp_path / "read-only"
    directory.mkdir(mode=0o500)
    system = probe(directory, seconds=1e-6, threads=1, ssd=False)
    assert (system.ssd, system.num_bytes("ssd"), system.overlap.ssd) == (None, 0, 0)
    assert list(directory.iterdir()) == []


def test_probe_of_a_directory_that_cannot_be_written(tmp_path, small, monkeypatch) -> None:
    def refused(*args, **options) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(ssd.tempfile, "NamedTemporaryFile", refused)  # root may write anywhere
    with pytest.raises(OSError, match="cannot write there") as caught:
        probe(tmp_path, seconds=1e-6)
    assert caught.value.errno == errno.EACCES
    assert str(tmp_path) in str(caught.value)


def test_probe_refuses_bad_places_and_times(tmp_path, monkeypatch) -> None:
    with pytest.raises(NotADirectoryError, match="missing is not a directory"):
        probe(tmp_path / "missing")
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds must be positive, got"):
            probe(tmp_path, seconds=seconds)
    with pytest.raises(ValueError, match="threads"):
        probe(tmp_path, threads=-1)
    usage = ssd.shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(ssd.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="no room for the probe's test file") as caught:
        probe(tmp_path)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(caught.value)


def test_probe_names_the_directory_when_the_disk_fills_up(tmp_path, monkeypatch) -> None:
    def full(num_pages: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ssd, "_blocks", full)
    with (
        pytest.raises(OSError, match="no room for the probe's test file") as caught,
        ssd.page_file(tmp_path),
    ):
        pass
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_probes_file_goes_when_it_is_interrupted(tmp_path, small, monkeypatch) -> None:
    def interrupted(*args) -> None:
        assert len(list(tmp_path.iterdir())) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "random_engine", interrupted)
    with pytest.raises(KeyboardInterrupt):
        probe_here(tmp_path, seconds=1e-6)
    assert list(tmp_path.iterdir()) == []


def test_the_clock_gives_medians_with_their_spread() -> None:
    steps: list[tuple[str, int, int]] = []
    clock = Clock(1e-9, lambda *step: steps.append(step))
    calls = []
    one, other = clock.compare("two", 0.5, lambda: calls.append(1), lambda: calls.append(2))
    assert calls == [1, 2] * 6, "once to warm up, then five rounds in turn"
    assert 0 < one.seconds < 1
    assert other.spread >= 0
    clock.time("three", 0.6, lambda: None)
    clock.time("four", 0.6, lambda: None)
    assert steps == [("two", 0, 100), ("three", 50, 100), ("four", 99, 100)]


def test_what_the_cache_holds_follows_from_two_tables() -> None:
    def time_of(size: float, held: float) -> float:
        hits = min(1.0, held / size)
        return 5 * hits + 20 * (1 - hits)

    held = rows.llc_bytes() // 4
    sizes = (4 * held, 16 * held)
    assert rows.cache_held(5, {size: time_of(size, held) for size in sizes}) == pytest.approx(held, rel=0.01)
    assert rows.cache_held(5, {sizes[0]: 9.0, sizes[1]: 8.0}) == rows.llc_bytes()
    assert rows.cache_held(5, {1000: 4.0, 4000: 19.0}) == 1000, "no more than the smaller table"


def test_bags_ask_for_other_ids_each_time() -> None:
    class Store:
        def __init__(self) -> None:
            self.calls: list[np.ndarray] = []

        def lookup(self, ids, offsets, bags, out) -> None:
            assert out.shape == (bags, 4)
            self.calls.append(ids)

    store = Store()
    run, lookups = rows.bags_of(store, 10**6, 4, 50, 2)
    run()
    run()
    assert lookups == 100
    assert len(store.calls[0]) == 100
    assert not np.array_equal(*store.calls)
    run, _ = rows.bags_of(store, np.array([7, 9]), 4, 50, 2)
    run()
    assert set(store.calls[-1]) == {7, 9}


@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("num_dense", [0, 13])
def test_the_dense_part_of_a_model_is_timed(interaction: str, num_dense: int) -> None:
    model = {
        "num_dense": num_dense,
        "embedding_dim": 8,
        "bottom_mlp": [16, 8] if num_dense else [],
        "top_mlp": [32, 1],
        "interaction": interaction,
    }
    shape = DenseShape.of_model(model, [8] * 5)
    own = 8 if num_dense else 0
    features = 6 if num_dense else 5
    assert shape.top_inputs == (own + 40 if interaction == "cat" else own + features * (features - 1) // 2)
    layers = 2 * (shape.top_inputs * 32 + 32 + (13 * 16 + 16 * 8 if num_dense else 0))
    pairs = features * (features - 1) // 2 if interaction == "dot" else 0
    assert shape.flops == layers + 2 * 8 * pairs
    host = reference_system().model_copy(
        update={"source": "probe", "machine": machine(), "isa": _native.isa()}
    )
    system = probe_dense(host, shape, batch_size=40, seconds=1e-6)
    own = [rate for rate in system.dense if rate.flops == shape.flops]
    assert [rate.precision for rate in own] == ["fp32", "bf16", "int8"]
    assert {rate.samples for rate in own} == {20}
    for rate in own:
        assert system.dense_ns(40, shape.flops, rate.precision) == pytest.approx(40 * rate.ns)
    assert system.dense_ns(128, 10**6) == host.dense_ns(128, 10**6), "of a model of other flops"
    assert probe_dense(system, shape, batch_size=40, seconds=1e-6).dense[:-3] == host.dense
    with pytest.raises(ValueError, match="system: preset reference"):
        probe_dense(reference_system(), shape, batch_size=40)

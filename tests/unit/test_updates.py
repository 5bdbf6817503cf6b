"""Updates of rows: durable, seen at once, in every memory and format, compacted, all there after a crash."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from crashes import kill, start
from sparse_samples import LAYOUTS as SPARSE
from sparse_samples import SparseTables
from storage_samples import Plan, layout, random_ranks, sample_layouts, whole_tables, write_whole
from test_engine import make_batch, make_model

from screc.serving import Engine
from screc.storage import Artifact, DamagedFileError, ReplacedError, RowStore, UpdateOptions, pack, verify
from screc.storage import generation as generation_module
from screc.storage import update_log as update_log_module
from screc.storage.row_format import decode_rows, encode_rows
from screc.storage.update_log import LogHeader, write_log
from screc.storage.updates import log_path

FORMATS = ("fp32", "fp16", "bf16", "int8", "int4")


def layouts() -> list:
    """Bands of every kind and format, shared scales too."""
    made = sample_layouts()
    for memory in ("dram", "ssd"):
        made += [layout(f"{memory}-{name}", 90, 6, (90, f"{memory}/{name}")) for name in FORMATS]
        made += [
            layout(f"{memory}-{name}-table", 90, 6, (90, f"{memory}/{name}/table")) for name in FORMATS[3:]
        ]
    made.append(layout("tiny", 30, 5, (30, "dram")))
    made.append(layout("mixed", 400, 8, (20, "dram/int8"), (60, "tt"), (400, "ssd/fp16")))
    return made


LAYOUTS = layouts()


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("updates")
    write_whole(root / "model", LAYOUTS, whole_tables(LAYOUTS))
    pack(root / "model", random_ranks(LAYOUTS), Plan(LAYOUTS), root / "artifact")
    return root / "artifact"


@pytest.fixture
def path(packed, tmp_path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "artifact"))


def band_of(store: RowStore, table: int, one: int) -> int:
    """The band that holds a row, by asking the oracle of ranks."""
    order = random_ranks(LAYOUTS).tables[table].order
    rank = int(np.flatnonzero(order == one)[0])
    return next(b for b, band in enumerate(LAYOUTS[table].bands) if rank < band.stop)


def rounded(path: Path, table: int, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows as the formats of their bands hold them."""
    artifact, out = Artifact.open(path), rows.copy()
    tensors = artifact.tables_file()
    for i, one in enumerate(ids.tolist()):
        b = band_of(None, table, one)
        band = LAYOUTS[table].bands[b]
        if band.format in ("fp32", "tt"):
            continue
        scale = tuple(tensors[f"{table}.{b}.scale"].tolist()) if band.scale == "table" else None
        encoded = encode_rows(rows[i : i + 1], band.format, scale)
        out[i] = decode_rows(encoded, band.format, rows.shape[1], scale)[0]
    return out


class Shadow:
    """What every row of every table should be."""

    def __init__(self, path: Path, store: RowStore) -> None:
        self.path = path
        self.tables = [store.gather(t, np.arange(one.num_embeddings)) for t, one in enumerate(LAYOUTS)]

    def update(self, store: RowStore, table: int, ids: np.ndarray, rows: np.ndarray) -> None:
        store.update(table, ids, rows)
        self.tables[table][ids] = rounded(self.path, table, ids, rows)

    def check(self, store: RowStore) -> None:
        for t, rows in enumerate(self.tables):
            np.testing.assert_array_equal(store.gather(t, np.arange(len(rows))), rows, LAYOUTS[t].table)
        self.check_pooled(store)

    def check_pooled(self, store: RowStore) -> None:
        """Whole batches, in one half and in two."""
        rng = np.random.default_rng(3)
        lengths = rng.integers(0, 4, 7 * len(self.tables))
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        per_table = lengths.reshape(-1, 7).sum(axis=1)
        ids = np.concatenate(
            [rng.integers(0, len(r), n) for r, n in zip(self.tables, per_table, strict=True)]
        )
        columns = []
        for t, rows in enumerate(self.tables):
            out = np.zeros((7, rows.shape[1]))
            for s in range(7):
                bag = ids[offsets[7 * t + s] : offsets[7 * t + s + 1]]
                if len(bag):
                    bag_rows = rows[bag].astype(np.float64)
                    out[s] = bag_rows.sum(axis=0) if t % 2 == 0 else bag_rows.mean(axis=0)
            columns.append(out)
        expected = np.concatenate(columns, axis=1)
        np.testing.assert_allclose(store.lookup(ids, offsets, 7), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(store.prefetch(ids, offsets, 7).finish(), expected, rtol=1e-5, atol=1e-5)


def some_updates(seed: int, each: int = 12) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """An update of every table."""
    rng = np.random.default_rng(seed)
    made = []
    for t, one in enumerate(LAYOUTS):
        ids = rng.choice(one.num_embeddings, min(each, one.num_embeddings), replace=False)
        made.append((t, ids, rng.standard_normal((len(ids), one.embedding_dim)).astype(np.float32)))
    return made


@pytest.mark.parametrize("cache_bytes", [0, 200_000])
@pytest.mark.parametrize("policy", ["sketch", "lru"])
def test_updates_are_seen_at_once_survive_reopening_and_compaction(path, cache_bytes, policy):
    options = {"cache_bytes": cache_bytes, "cache_policy": policy, "threads": 2}
    with RowStore.open(path, updates=True, **options) as store:
        shadow = Shadow(path, store)
        for table, ids, rows in some_updates(0):
            shadow.update(store, table, ids, rows)
        shadow.check(store)
        stats = store.stats()
        assert stats.dram_rows + stats.tt_rows + stats.ssd_rows == stats.lookups
        assert stats.updated_rows == sum(len(ids) for _, ids, _ in some_updates(0))
        assert stats.updates == len(LAYOUTS)
        assert 0 < stats.held_rows < stats.updated_rows
        assert stats.updated_lookups > 0
    for updates in (False, True, False):
        with RowStore.open(path, updates=updates, **options) as store:
            shadow.check(store)
    with RowStore.open(path, updates=True, **options) as store:
        shadow.check(store)  # fills the cache
        held, before = store.stats().held_bytes, store.update_stats()
        store.compact()
        after = store.update_stats()
        assert after.generation == before.generation + 1
        assert after.log_bytes < before.log_bytes
        assert store.stats().held_bytes < held
        shadow.check(store)
        for table, ids, rows in some_updates(1, each=5):
            shadow.update(store, table, ids, rows)
        shadow.check(store)
        store.compact()
        store.compact()
        shadow.check(store)
    assert verify(path).ok
    with RowStore.open(path, **options) as store:
        shadow.check(store)
    artifact = Artifact.open(path)
    assert artifact.generation == 3
    assert [entry.path for entry in artifact.files if entry != type(entry).of(path, path / entry.path)] == []


def test_the_last_of_an_id_in_an_update_counts(path):
    with RowStore.open(path, updates=True) as store:
        for table in (0, 2, 4):
            dim = LAYOUTS[table].embedding_dim
            rows = np.arange(3 * dim, dtype=np.float32).reshape(3, dim)
            store.update(LAYOUTS[table].table, np.array([7, 9, 7]), rows)
            np.testing.assert_array_equal(store.gather(table, np.array([7, 9])), rows[[2, 1]])


@pytest.mark.parametrize("strategy", ["private", "stream", "private_stream", "counts"])
def test_copies_of_strategies_are_updated(path, strategy):
    with RowStore.open(path, updates=True, threads=2, strategies={"tiny": strategy}) as store:
        shadow = Shadow(path, store)
        for seed in (0, 1):
            shadow.update(store, *some_updates(seed)[len(LAYOUTS) - 2])
            shadow.check(store)


@pytest.mark.parametrize("split", ["columns", "samples"])
def test_copies_of_cores_are_updated(tmp_path, split):
    from screc.storage import TableCores

    made = [layout("a", 50, 40, (50, "dram")), layout("b", 60, 40, (60, "dram/int8"))]
    write_whole(tmp_path / "model", made, whole_tables(made))
    pack(tmp_path / "model", None, Plan(made), tmp_path / "artifact")
    rng = np.random.default_rng(0)
    with RowStore.open(tmp_path / "artifact", updates=True, threads=2) as store:
        store.set_mapping(
            [TableCores(table=n, strategy="private", cores=(0, 1), split=split) for n in ("a", "b")]
        )
        for n, one in enumerate(made):
            ids = rng.choice(one.num_embeddings, 9, replace=False)
            store.update(n, ids, rng.standard_normal((9, 40)).astype(np.float32))
        ids = np.concatenate([rng.integers(0, 50, 2000), rng.integers(0, 60, 2000)])
        offsets = np.arange(4001)
        np.testing.assert_array_equal(
            store.lookup(ids, offsets, 2000, data_flow="asymmetric"), store.lookup(ids, offsets, 2000)
        )
        np.testing.assert_array_equal(store.lookup(ids, offsets, 2000)[:, :40], store.gather(0, ids[:2000]))


def test_rows_that_were_not_known_get_known(tmp_path):
    tables = SparseTables()
    tables.write(tmp_path / "model")
    pack(tmp_path / "model", tables.ranks(), Plan(SPARSE), tmp_path / "artifact")
    path, rng = tmp_path / "artifact", np.random.default_rng(0)
    made = {}
    with RowStore.open(path, updates=True, cache_bytes=1 << 20) as store:
        before = store.stats().dram_bytes
        for t, one in enumerate(SPARSE):
            ids = np.unique(rng.integers(0, one.num_embeddings, 40))
            ids = np.union1d(ids, [5, 6, one.num_embeddings - 2])
            made[t] = ids, rng.standard_normal((len(ids), one.embedding_dim)).astype(np.float32)
            store.update(t, *made[t])
        expected = {t: store.gather(t, ids) for t, (ids, _) in made.items()}
        np.testing.assert_array_equal(expected[0], made[0][1])
        others = {t: tables.some_ids(t) for t in made}
        rest = {t: store.gather(t, ids) for t, ids in others.items()}
        store.compact()
        for again in (store, RowStore.open(path)):
            for t, (ids, _) in made.items():
                np.testing.assert_array_equal(again.gather(t, ids), expected[t], SPARSE[t].table)
                np.testing.assert_array_equal(again.gather(t, others[t]), rest[t], SPARSE[t].table)
        assert store.stats().dram_bytes >= before
    assert verify(path).ok
    assert sum(os.stat(p).st_blocks for p in (path / "pages").iterdir()) * 512 < 100 << 20


def test_predictions_use_updated_rows(tmp_path):
    model, dense, tables, poolings = make_model(num_tables=3)
    places = ["dram", "dram/bf16", "ssd"]
    made = [layout(str(t), len(tables[t]), 16, (len(tables[t]), places[t])) for t in range(3)]
    write_whole(tmp_path / "model", made, tables, model=model, dense=dense)
    pack(tmp_path / "model", None, Plan(made), tmp_path / "artifact")
    rng, batch = np.random.default_rng(0), make_batch(300, 13, tables)
    with Engine.open(tmp_path / "artifact", updates=True, threads=2) as engine:
        for t, rows in enumerate(tables):
            ids = rng.choice(len(rows), 9, replace=False)
            engine.update(t, ids, rng.standard_normal((9, 16)).astype(np.float32))
        now = [engine.rows.gather(t, np.arange(len(rows))) for t, rows in enumerate(tables)]
        assert not any((a == b).all() for a, b in zip(now, tables, strict=True))
        expected = Engine.from_arrays(model, dense, now, poolings=poolings).predict(batch)
        np.testing.assert_allclose(engine.predict(batch), expected, atol=1e-6)
        np.testing.assert_allclose(Engine.open(tmp_path / "artifact").predict(batch), expected, atol=1e-6)
        with pytest.raises(BlockingIOError, match="is being updated"):
            Engine.open(tmp_path / "artifact", updates=True)
    with pytest.raises(RuntimeError, match="has no artifact to update"):
        Engine.from_arrays(model, dense, now).update(0, ids, now[0][:9])


def test_wrong_updates_change_nothing(path):
    with RowStore.open(path, updates=True) as store:
        shadow, log = Shadow(path, store), log_path(path).read_bytes()
        row = np.ones((1, 8), np.float32)
        for ids, rows, error, match in (
            ([3000], row, ValueError, r"ids\[0\] is 3000, outside table 0 of 3000 rows"),
            ([-1], row, ValueError, r"ids\[0\] is -1"),
            ([1], row[:, :3], ValueError, r"rows: expected shape \[1, 8\], got \[1, 3\]"),
            ([1, 2], row, ValueError, r"expected shape \[2, 8\]"),
            ([1], row * np.nan, ValueError, r"rows\[0, 0\] is nan; rows must be finite"),
            ([1], row.astype(np.float64), TypeError, "rows: expected dtype float32"),
        ):
            with pytest.raises(error, match=match):
                store.update(0, np.array(ids), rows)
        with pytest.raises(TypeError, match="ids: expected dtype int64"):
            store.update(0, np.array([1], np.int32), row)
        with pytest.raises(KeyError, match="no table 'none'"):
            store.update("none", np.array([1]), row)
        half = next(t for t, one in enumerate(LAYOUTS) if one.table == "ssd-fp16")
        with pytest.raises(ValueError, match=r"rows\[1\] holds 70000, which fp16 rows cannot hold"):
            store.update(half, np.arange(2), np.array([[1] * 6, [7e4] * 6], np.float32))
        store.update(0, np.empty(0, np.int64), np.empty((0, 8), np.float32))
        assert log_path(path).read_bytes() == log
        shadow.check(store)
    with pytest.raises(RuntimeError, match="not opened for updates"):
        RowStore.open(path).update(0, np.array([1]), row)
    for wrong in ({"memory_bytes": 0}, {"log_bytes": -1}):
        with pytest.raises(ValueError, match="must be positive"):
            UpdateOptions(**wrong)


def test_one_writer_at_a_time_and_readers_keep_what_they_opened(path):
    with RowStore.open(path, updates=True) as store:
        reader = RowStore.open(path)
        shadow = Shadow(path, reader)
        with pytest.raises(
            BlockingIOError, match=f"is being updated by process {os.getpid()}; stop that one"
        ):
            RowStore.open(path, updates=True)
        for table, ids, rows in some_updates(0):
            store.update(table, ids, rows)
        shadow.check(reader)
        store.compact()
        shadow.check(reader)
        late = RowStore.open(path)
        for t, one in enumerate(LAYOUTS):
            ids = np.arange(one.num_embeddings)
            np.testing.assert_array_equal(late.gather(t, ids), store.gather(t, ids))
    RowStore.open(path, updates=True).close()


def fill(store: RowStore, count: int, *, table: int = 0) -> None:
    for i in range(count):
        store.update(table, np.array([i]), np.full((1, LAYOUTS[table].embedding_dim), i, np.float32))


def test_a_torn_tail_is_cut_and_damage_before_it_is_reported(path):
    with RowStore.open(path, updates=True) as store:
        ends = [store.update_stats().log_bytes]
        for i in range(4):
            store.update(0, np.array([i]), np.full((1, 8), i + 100, np.float32))
            ends.append(store.update_stats().log_bytes)
    log, whole = log_path(path), log_path(path).read_bytes()
    assert len(whole) == ends[-1]
    for length in range(ends[-2], ends[-1]):
        log.write_bytes(whole[:length])
        store = RowStore.open(path)
        assert store.gather(0, np.arange(3))[:, 0].tolist() == [100, 101, 102]
        assert store.gather(0, np.array([3]))[0, 0] != 103
        assert log.stat().st_size == length, "a reader changes nothing"
    with RowStore.open(path, updates=True) as store:
        assert log.stat().st_size == ends[-2]
        fill(store, 1)
    assert RowStore.open(path).gather(0, np.array([0]))[0, 0] == 0
    for place in range(ends[1], ends[2]):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        log.write_bytes(damaged)
        for updates in (False, True):
            with pytest.raises(
                DamagedFileError, match=f"is damaged at byte {ends[1]}: no whole group of upd"
            ):
                RowStore.open(path, updates=updates)
    (damage,) = verify(path).damages
    assert damage.file == "../artifact.updates"
    assert f"is damaged at byte {ends[1]}" in damage.fault
    log.write_bytes(whole[: ends[1]] + whole[ends[2] :])
    with pytest.raises(DamagedFileError, match="group 3 follows, not 2"):
        RowStore.open(path)
    for place in range(64):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        log.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match="is no update log, or its header is damaged"):
            RowStore.open(path)
    log.write_bytes(whole[:63])
    with pytest.raises(DamagedFileError, match="ends within its header of 64 bytes"):
        RowStore.open(path)


def test_a_log_of_another_version_or_artifact(path, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(update_log_module, "VERSION", 2)
        write_log(log_path(path), LogHeader.new(bytes(32), 0))
    with pytest.raises(ValueError, match=r"has version 2 \(flags 0\), this release reads version 1"):
        RowStore.open(path)
    log_path(path).unlink()
    older = shutil.copytree(path, tmp_path / "older")
    with RowStore.open(path, updates=True) as store:
        fill(store, 1)
        store.compact()
    shutil.copy(log_path(path), log_path(older))
    with pytest.raises(ValueError, match="is older than its update log"):
        RowStore.open(older)
    other = [layout("three", 3000, 8, (3000, "dram"))]
    write_whole(tmp_path / "model", other, whole_tables(other))
    pack(tmp_path / "model", None, Plan(other), older)
    with pytest.warns(UserWarning, match="belongs to another artifact"):
        RowStore.open(older)
    with pytest.warns(UserWarning, match="belonged to an artifact that was replaced"):
        RowStore.open(older, updates=True).close()
    assert [p.name for p in tmp_path.glob("older.updates.of-another-*")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RowStore.open(older)


def test_an_artifact_that_was_replaced_takes_no_updates(path, tmp_path):
    store = RowStore.open(path, updates=True)
    shadow = Shadow(path, store)
    other = [layout("three", 3000, 8, (3000, "dram"))]
    write_whole(tmp_path / "model", other, whole_tables(other))
    pack(tmp_path / "model", None, Plan(other), path)
    for attempt in (lambda: fill(store, 1), store.compact):
        with pytest.raises(ReplacedError, match="was replaced"):
            attempt()
    shadow.check(store)
    store.close()
    assert [table.layout.table for table in Artifact.open(path).tables] == ["three"]


def test_a_full_disk_loses_nothing(path):
    with RowStore.open(path, updates=True) as store:
        shadow = Shadow(path, store)
        shadow.update(store, 0, np.array([1]), np.ones((1, 8), np.float32))
        size = log_path(path).stat().st_size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
        try:
            with pytest.raises(OSError, match=r"artifact.updates; the update was not made, .* free") as info:
                store.update(0, np.arange(100), np.zeros((100, 8), np.float32))
            with pytest.raises(OSError, match="what was there is unchanged"):
                store.compact()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert info.value.errno == errno.EFBIG
        assert log_path(path).stat().st_size == size
        shadow.check(store)
        assert store.update_stats().failed_compactions == 1
        shadow.update(store, 0, np.array([2]), np.ones((1, 8), np.float32))
        store.compact()
        shadow.check(store)
    shadow.check(RowStore.open(path))


def update_pieces(store: RowStore, table: int, count: int) -> None:
    for i in range(0, count, 20):
        store.update(table, np.arange(i, i + 20), np.ones((20, LAYOUTS[table].embedding_dim), np.float32))


def test_no_room_is_refused_and_compaction_makes_some(path, monkeypatch):
    rows = np.ones((40, 4), np.float32)
    small = UpdateOptions(memory_bytes=30_000, compact=False)
    with RowStore.open(path, updates=small) as store:
        with pytest.raises(OSError, match="compaction is left to the caller: call compact"):
            update_pieces(store, 1, 1000)
        assert store.stats().held_bytes <= 30_000
        store.compact()
        assert store.stats().held_bytes < 1000
        store.update(1, np.arange(40), rows)
    with RowStore.open(path, updates=UpdateOptions(memory_bytes=30_000)) as store:
        for _ in range(3):
            update_pieces(store, 1, 1000)
        assert store.update_stats().compactions >= 3
        assert store.stats().held_bytes <= 30_000
        with pytest.raises(OSError, match="rows of tensor trains stay in memory: pack the table again"):
            update_pieces(store, 2, 680)
    shutil.rmtree(path)


def test_nothing_is_compacted_where_nothing_is_to_be(path):
    with RowStore.open(path, updates=True) as store:
        store.compact()
        assert store.update_stats().generation == 0
    with pytest.raises(FileNotFoundError, match="is not an artifact"):
        RowStore.open(path.parent / "nowhere", updates=True)
    assert not list(path.parent.glob("nowhere*"))


def test_rows_that_stay_in_memory_do_not_make_every_update_compact(path):
    """Rows of tensor trains are more than half of what may be held."""
    with RowStore.open(path, updates=UpdateOptions(memory_bytes=40_000)) as store:
        update_pieces(store, 2, 140)
        while store.update_stats().compactions == 0 or store.stats().held_bytes < 20_000:
            update_pieces(store, 2, 140)
            time.sleep(0.01)
        before = store.update_stats().compactions
        for _ in range(20):
            store.update(1, np.arange(2), np.ones((2, 4), np.float32))
        store.close()
        assert store.native.stats().held_bytes > 20_000
        with RowStore.open(path, updates=True) as again:
            assert again.update_stats().generation <= before + 1


def test_the_log_is_bounded(path):
    with RowStore.open(path, updates=UpdateOptions(log_bytes=20_000)) as store:
        shadow = Shadow(path, store)
        for seed in range(40):
            shadow.update(store, *some_updates(seed)[4])
            assert log_path(path).stat().st_size <= 20_000
        shadow.check(store)
        assert store.update_stats().compactions > 0


def test_a_compaction_that_fails_is_told_and_tried_again(path, monkeypatch):
    real = generation_module.shutil.disk_usage
    full = type("usage", (), {"free": 10})
    monkeypatch.setattr(generation_module.shutil, "disk_usage", lambda p: full)
    with RowStore.open(path, updates=UpdateOptions(memory_bytes=20_000)) as store:
        with (
            pytest.warns(UserWarning, match="compaction of .* failed: .*bytes needed, 10 free"),
            pytest.raises(OSError, match=r"the last compaction failed: .*10 free"),
        ):
            update_pieces(store, 1, 1000)
        held = store.stats().held_rows
        assert (store.gather(1, np.arange(held)) == 1).all()
        monkeypatch.setattr(generation_module.shutil, "disk_usage", real)
        store.compact()
        assert store.update_stats().last_error == ""
        update_pieces(store, 1, 20)


def test_a_damaged_page_is_not_compacted(path):
    with RowStore.open(path, updates=True) as store:
        ids = np.arange(2000, 2100)
        store.update(0, ids, np.ones((100, 8), np.float32))
        store.update(4, np.array([1]), np.ones((1, 3), np.float32))
        file = path / "pages" / "0.2.pages"
        data = bytearray(file.read_bytes())
        for page in range(1, len(data) // 4096 - 1):
            data[4096 * page + 500] ^= 1
        file.write_bytes(data)
        with pytest.raises(DamagedFileError, match=r"0.2.pages has a damaged page \d+ .table 0, band 2."):
            store.compact()
        assert (store.gather(0, ids) == 1).all()


def test_look_ups_see_the_old_row_or_the_new(path):
    """Readers and writers at once, compactions between: no row is ever a mix, and none goes back in time."""
    tables = [0, 1, 2, 3, 4, len(LAYOUTS) - 1]
    failures: list[str] = []
    stop = threading.Event()
    order = [random_ranks(LAYOUTS).tables[t].order for t in tables]
    ids = [np.unique(one[[0, len(one) // 2, -1, *range(0, len(one), 97)]]) for one in order]

    def read(store: RowStore, seed: int) -> None:
        last = [np.zeros(len(one)) for one in ids]
        while not stop.is_set():
            for i, table in enumerate(tables):
                rows = store.gather(table, ids[i])
                if not (rows == rows[:, :1]).all():
                    failures.append(f"a mix in table {table}")
                if (rows[:, 0] < last[i]).any():
                    failures.append(f"an old row in table {table}")
                last[i] = rows[:, 0]

    with RowStore.open(path, updates=True, cache_bytes=100_000, threads=2) as store:
        for i, table in enumerate(tables):
            store.update(table, ids[i], np.zeros((len(ids[i]), LAYOUTS[table].embedding_dim), np.float32))
        readers = [threading.Thread(target=read, args=(store, seed)) for seed in range(3)]

        def write(which: list[int]) -> None:
            for value in range(1, 60):
                for i in which:
                    shape = (len(ids[i]), LAYOUTS[tables[i]].embedding_dim)
                    store.update(tables[i], ids[i], np.full(shape, value, np.float32))

        writers = [threading.Thread(target=write, args=([i],)) for i in range(len(tables))]
        for thread in (*readers, *writers):
            thread.start()
        for _ in range(4):
            store.compact()
        for thread in writers:
            thread.join()
        stop.set()
        for thread in readers:
            thread.join()
        assert failures == []
        stats = store.update_stats()
        assert stats.updates == 60 * len(tables)
        assert stats.commits <= stats.updates
    again = RowStore.open(path)
    for i, table in enumerate(tables):
        assert (again.gather(table, ids[i]) == 59).all()


def test_updates_of_several_threads_are_made_durable_together(path, monkeypatch):
    real = os.fdatasync

    def slow(descriptor: int) -> None:
        time.sleep(0.01)
        real(descriptor)

    monkeypatch.setattr(update_log_module.os, "fdatasync", slow)
    with RowStore.open(path, updates=True) as store:
        threads = [threading.Thread(target=fill, args=(store, 10)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = store.update_stats()
        assert (stats.updates, stats.rows) == (80, 80)
        assert stats.commits < 60


def crash_while_updating(path: Path, rng: np.random.Generator, kills: int) -> None:
    """Kills a process that updates rows again and again; after each, all that was acknowledged must be there,
    none half, and nothing older."""
    tables = [t for t, one in enumerate(LAYOUTS) if one.num_embeddings >= 50]
    acknowledged = path.parent / "acknowledged"
    options = UpdateOptions(memory_bytes=40_000, log_bytes=60_000)

    def work() -> None:
        with RowStore.open(path, updates=options, threads=1) as store, open(acknowledged, "ab", 0) as told:
            first = acknowledged.stat().st_size // 8 + 1
            for value in range(first, first + 100_000):
                table = tables[value % len(tables)]
                dim = LAYOUTS[table].embedding_dim
                store.update(table, np.arange(50), np.full((50, dim), value % 2048 / 8, np.float32))
                told.write(value.to_bytes(8, "little"))

    acknowledged.touch()
    for _ in range(kills):
        child = start(work)
        before = acknowledged.stat().st_size
        while acknowledged.stat().st_size < before + 8:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.25))
        assert kill(child), "it ended by itself"
        done = acknowledged.stat().st_size // 8
        store = RowStore.open(path, threads=1)
        for table in tables:
            least = done - (done - tables.index(table)) % len(tables)
            if least <= 0:
                continue
            rows = store.gather(table, np.arange(50))
            # The last that was acknowledged, or the one after it, and the same for all rows.
            allowed = []
            for value in (least, least + len(tables)):
                wanted = np.full((50, rows.shape[1]), value % 2048 / 8, np.float32)
                allowed.append(rounded(path, table, np.arange(50), wanted))
            assert any((rows == one).all() for one in allowed), f"table {table} after update {done}"
        report = verify(path)
        assert report.ok, report.damages


def test_killed_while_updating(path):
    crash_while_updating(path, np.random.default_rng(0), kills=6)
    assert Artifact.open(path).generation > 0


@pytest.mark.slow
def test_killed_a_hundred_times_while_updating(path):
    crash_while_updating(path, np.random.default_rng(1), kills=100)
    assert Artifact.open(path).generation > 20


@pytest.mark.parametrize("moment", ["generation", "log"])
def test_killed_between_the_steps_of_a_compaction(path, moment):
    """The next generation is in place and the log is not cut; or neither is."""

    def work() -> None:
        def die(*args, **kwargs):
            os._exit(9)

        from screc.storage import updates

        if moment == "log":
            updates.write_log = die
        else:
            generation_module.write_manifest = die
        store = RowStore.open(path, updates=True)
        for table, ids, rows in some_updates(0):
            store.update(table, ids, rows)
        store.compact()

    RowStore.open(path, updates=True).close()  # makes the log
    shadow = Shadow(path, RowStore.open(path))
    os.waitpid(start(work), 0)
    for table, ids, rows in some_updates(0):
        shadow.tables[table][ids] = rounded(path, table, ids, rows)
    assert Artifact.open(path).generation == (moment == "log")
    with RowStore.open(path, updates=True) as store:
        shadow.check(store)
        store.compact()
        shadow.check(store)
    assert verify(path).ok

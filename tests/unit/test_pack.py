"""Packing and the artifact: every row comes back from where the plan put it, and damage never goes unseen."""

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from crashes import kill, run_and_kill, seconds_of, start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_samples import (
    Plan,
    RankedTable,
    Ranks,
    layout,
    random_ranks,
    sample_layouts,
    whole_tables,
    write_whole,
)

from screc.storage import (
    Artifact,
    Band,
    Checkpoint,
    DamagedFileError,
    ReplacedError,
    RowStore,
    StoredTable,
    TableLayout,
    pack,
    replace_directory,
    verify,
    write_checkpoint,
)
from screc.storage.artifact import index_kinds
from screc.storage.remap import slot_order
from screc.storage.tt_fit import fit_tt, rebuild_rows

pack_module = sys.modules["screc.storage.pack"]
SRC = str(Path(pack_module.__file__).parents[2])


def open_store(path) -> RowStore:
    return RowStore.open(path, threads=1)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed model with bands of every kind: (directory, layouts, whole tables, ranks, report)."""
    root = tmp_path_factory.mktemp("packed")
    layouts = sample_layouts()
    tables, ranks = whole_tables(layouts), random_ranks(layouts)
    assets = root / "encoder"
    assets.mkdir()
    (assets / "schema.json").write_text("{}")
    write_whole(root / "checkpoint", layouts, tables, assets=assets)
    report = pack(root / "checkpoint", ranks, Plan(layouts), root / "artifact")
    return root, layouts, tables, ranks, report


def tt_rows(artifact: Path, table: int, band: int, slots: np.ndarray) -> np.ndarray:
    tensors = safetensors.numpy.load_file(artifact / "tables.safetensors")
    cores = [tensors[f"{table}.{band}.tt.{k}"] for k in range(3)]
    return rebuild_rows(cores, 0, int(slots.max()) + 1)[slots]


def test_every_row_comes_back_from_its_band(packed):
    root, layouts, tables, ranks, _ = packed
    store = open_store(root / "artifact")
    for number, one in enumerate(layouts):
        order = ranks.tables[number].order
        found = store.gather(number, order)
        for position, band in enumerate(one.bands):
            ids = order[band.start : band.stop]
            if band.tt is None:
                np.testing.assert_array_equal(found[band.start : band.stop], tables[number][ids])
            else:
                last = position == len(one.bands) - 1
                slots = ids if last else np.searchsorted(np.sort(ids), ids)
                expected = tt_rows(root / "artifact", number, position, slots)
                np.testing.assert_allclose(found[band.start : band.stop], expected, rtol=1e-4, atol=1e-5)
    shuffled = np.random.default_rng(5).integers(0, 3000, 4000)
    by_rank = np.argsort(ranks.tables[0].order)
    np.testing.assert_array_equal(
        store.gather("three", shuffled), store.gather(0, ranks.tables[0].order)[by_rank[shuffled]]
    )


def test_bags_are_pooled(packed):
    root, layouts, _, _, _ = packed
    store = open_store(root / "artifact")
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 4, (len(layouts), 9))
    offsets = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    ids = np.concatenate(
        [rng.integers(0, t.num_embeddings, n.sum()) for t, n in zip(layouts, lengths, strict=True)]
    )
    out = store.lookup(ids, offsets, 9)
    expected, column = np.zeros_like(out), 0
    for number, one in enumerate(layouts):
        for sample in range(9):
            bag = ids[offsets[number * 9 + sample] : offsets[number * 9 + sample + 1]]
            rows = store.gather(number, bag).astype(np.float64)
            pooled = rows.sum(axis=0) / (max(len(bag), 1) if number % 2 else 1)
            expected[sample, column : column + one.embedding_dim] = pooled
        column += one.embedding_dim
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    assert store.lookup(ids, offsets, 9, out) is out


def test_the_report_and_the_store_agree_with_the_plan(packed):
    root, layouts, _, _, report = packed
    assert report.dram_bytes == sum(one.dram_bytes for one in layouts)
    assert report.ssd_bytes == sum(one.ssd_bytes for one in layouts)
    assert report.ssd_bytes == sum(f.stat().st_size for f in (root / "artifact" / "pages").iterdir())
    assert report.index_bytes == sum(one.index_bytes(b) for one in layouts for b in range(len(one.bands)))
    assert 0 < report.tt_bytes < report.dram_bytes
    assert report.dense_bytes == 16
    assert [(one.table, one.band) for one in report.fit_errors] == [("three", 1), ("tt-last", 1)]
    assert all(0 < one.error < 1 for one in report.fit_errors)
    store = open_store(root / "artifact")
    assert store.dram_bytes == report.dram_bytes
    store.gather("three", np.arange(3000))
    stats = store.stats()
    assert (stats.dram_rows, stats.tt_rows, stats.ssd_rows, stats.lookups) == (10, 890, 2100, 3000)


def test_the_artifact_says_what_it_is(packed):
    root, layouts, _, _, report = packed
    artifact = Artifact.open(root / "artifact")
    assert artifact.model == {"name": "dlrm", "num_dense": 2}
    assert artifact.plan == Plan(layouts).to_dict()
    assert [table.layout for table in artifact.tables] == layouts
    assert [table.pooling for table in artifact.tables] == ["sum", "mean"] * 3
    assert artifact.tables[0].indices == ("hash", "bitmap", None)
    assert artifact.tables[0].fit_errors == (None, report.fit_errors[0].error, None)
    assert (artifact.assets / "schema.json").read_text() == "{}"
    dense = artifact.dense()
    np.testing.assert_array_equal(dense["top.0.weight"], np.ones((1, 3), np.float32))
    assert all(array.ctypes.data % 64 == 0 for array in artifact.load_tables().values())
    digest = (root / "artifact" / "manifest.sha256").read_text()
    manifest = (root / "artifact" / "manifest.json").read_bytes()
    assert digest == f"{hashlib.sha256(manifest).hexdigest()}  manifest.json\n"
    assert verify(root / "artifact").ok


def test_hash_indexed_rows_stand_in_rank_order(packed):
    root, _, tables, ranks, _ = packed
    rows = Artifact.open(root / "artifact").load_tables()["0.0.rows"]
    np.testing.assert_array_equal(rows, tables[0][ranks.tables[0].order[:10]])


def test_the_fit_sees_the_bands_own_rows_only(packed):
    _, layouts, tables, ranks, report = packed
    ids = np.sort(ranks.tables[0].order[10:900])
    fit = fit_tt(lambda slots: tables[0][ids[slots]], 890, layouts[0].bands[1].tt)
    assert report.fit_errors[0].error == pytest.approx(fit.error, rel=1e-6)
    hot = set(ranks.tables[2].order[:20].tolist())
    fit = fit_tt(
        tables[2].__getitem__,
        700,
        layouts[2].bands[1].tt,
        weights=lambda slots: np.array([int(slot) not in hot for slot in slots]),
    )
    assert report.fit_errors[1].error == pytest.approx(fit.error, rel=1e-6)


def test_unused_slots_are_zero_on_ssd(packed):
    root, _, _, ranks, _ = packed
    pages = np.fromfile(root / "artifact" / "pages" / "1.1.pages", np.uint8).reshape(-1, 4096)
    rows = pages[:, 32 : 32 + 254 * 16].reshape(-1).view(np.float32).reshape(-1, 4)[:1000]
    hot = ranks.tables[1].order[:300]
    assert not rows[hot].any()
    assert rows[ranks.tables[1].order[300:]].any(axis=1).all()


# Tables that were trained band by band.


def banded_checkpoint(path: Path, one: TableLayout, seed: int = 0):
    rng = np.random.default_rng(seed)
    order, tensors = rng.permutation(one.num_embeddings), {}
    for number, band in enumerate(one.bands):
        if number < len(one.bands) - 1:
            tensors[f"band.{number}.ids"] = np.sort(order[band.start : band.stop])
        if band.tt is None:
            shape = (one.slots(number), one.embedding_dim)
            tensors[f"band.{number}.rows"] = rng.standard_normal(shape).astype(np.float32)
        else:
            for core in range(band.tt.num_cores):
                shape = band.tt.core_shape(core)
                tensors[f"band.{number}.tt.{core}"] = rng.standard_normal(shape).astype(np.float32)
    write_checkpoint(
        path,
        model={},
        tables=[StoredTable(one, "sum")],
        dense={},
        table_tensors=lambda t: tensors,
        training={},
    )
    return tensors, order


BANDED = layout("banded", 2000, 8, (15, "dram"), (700, "tt"), (2000, "dram"))


@pytest.mark.parametrize("with_statistics", [False, True])
def test_trained_bands_are_taken_over_bit_by_bit(tmp_path, with_statistics):
    tensors, _ = banded_checkpoint(tmp_path / "c", BANDED)
    to_ssd = layout("banded", 2000, 8, (15, "dram"), (700, "tt"), (2000, "ssd"))
    today = np.random.default_rng(9).permutation(2000)  # the ranks have changed since training
    statistics = Ranks([RankedTable("banded", today)]) if with_statistics else None
    report = pack(tmp_path / "c", statistics, Plan([to_ssd]), tmp_path / "a")
    assert report.fit_errors == ()
    artifact = Artifact.open(tmp_path / "a")
    packed_tensors = artifact.load_tables()
    for core in range(3):
        np.testing.assert_array_equal(packed_tensors[f"0.1.tt.{core}"], tensors[f"band.1.tt.{core}"])
    hot = tensors["band.0.ids"]
    expected_order = today[np.isin(today, hot)] if with_statistics else hot
    rows = tensors["band.0.rows"][np.searchsorted(hot, expected_order)]
    np.testing.assert_array_equal(packed_tensors["0.0.rows"], rows)
    store = open_store(artifact)
    np.testing.assert_array_equal(store.gather(0, hot), tensors["band.0.rows"])
    cold = np.setdiff1d(np.arange(2000), np.concatenate([hot, tensors["band.1.ids"]]))
    np.testing.assert_array_equal(store.gather(0, cold), tensors["band.2.rows"][cold])
    cores = [tensors[f"band.1.tt.{core}"] for core in range(3)]
    found = store.gather(0, tensors["band.1.ids"])
    np.testing.assert_allclose(found, rebuild_rows(cores, 0, 685), rtol=1e-4, atol=1e-4)
    assert verify(tmp_path / "a").ok


def test_a_single_trained_tensor_train(tmp_path):
    one = layout("tt", 100, 8, (100, "tt"))
    tensors, _ = banded_checkpoint(tmp_path / "c", one)
    pack(tmp_path / "c", None, Plan([one]), tmp_path / "a")
    cores = [tensors[f"band.0.tt.{core}"] for core in range(3)]
    found = open_store(tmp_path / "a").gather(0, np.arange(100))
    np.testing.assert_allclose(found, rebuild_rows(cores, 0, 100), rtol=1e-4, atol=1e-4)


def test_without_a_plan_tables_stay_as_trained(tmp_path):
    tensors, _ = banded_checkpoint(tmp_path / "c", BANDED)
    pack(tmp_path / "c", None, None, tmp_path / "a")
    artifact = Artifact.open(tmp_path / "a")
    assert artifact.plan is None
    assert artifact.tables[0].layout == BANDED
    found = open_store(artifact).gather(0, tensors["band.0.ids"])
    np.testing.assert_array_equal(found, tensors["band.0.rows"])


# What is refused.


def refuse(tmp_path, layouts, statistics, message, error=ValueError, checkpoint="c"):
    before = sorted(entry.name for entry in tmp_path.iterdir())
    with pytest.raises(error, match=message):
        pack(tmp_path / checkpoint, statistics, Plan(layouts), tmp_path / "a")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


def test_other_bands_than_trained_are_refused(tmp_path):
    banded_checkpoint(tmp_path / "c", BANDED)
    other = layout("banded", 2000, 8, (60, "dram"), (700, "tt"), (2000, "dram"))
    refuse(
        tmp_path,
        [other],
        None,
        r"table banded: it was trained with the bands 0-15 fp32, 15-700 tt, 700-2000 fp32, the plan has 0-60 "
        r".*pack with the plan it was trained for",
    )
    refuse(
        tmp_path, [TableLayout.dense("banded", 2000, 8)], None, "table banded: it was trained with the bands"
    )


def test_what_does_not_match_is_named(tmp_path):
    one = layout("t", 100, 4, (10, "dram"), (100, "ssd"))
    tables = whole_tables([one])
    write_whole(tmp_path / "c", [one], tables)
    ranks = random_ranks([one])
    refuse(tmp_path, [], ranks, "table t: the plan has no layout for it")
    refuse(tmp_path, [one, layout("u", 1, 1, (1, "dram"))], ranks, "table u: it is in the plan and not in")
    refuse(tmp_path, [one, one], ranks, "table .* is split over several devices")
    refuse(
        tmp_path,
        [layout("t", 101, 4, (10, "dram"), (101, "ssd"))],
        ranks,
        "table t: num_embeddings is 100 in the checkpoint and 101 in the plan",
    )
    refuse(
        tmp_path, [layout("t", 100, 5, (100, "ssd"))], ranks, "table t: embedding_dim is 4 in the checkpoint"
    )
    refuse(tmp_path, [one], None, "table t: cutting it into bands needs its access statistics")
    wrong = random_ranks([layout("t", 99, 4, (99, "dram"))])
    refuse(tmp_path, [one], wrong, "table t: the statistics count 99 rows, the table has 100")
    twice = Ranks([RankedTable("t", np.zeros(100, np.int64))])
    refuse(tmp_path, [one], twice, "table t, band 0: id 0 occurs twice; collect")
    three = layout("t", 100, 4, (10, "dram"), (20, "dram"), (100, "ssd"))
    twice = Ranks([RankedTable("t", np.arange(100) % 10)])
    refuse(tmp_path, [three], twice, "table t, band 1: id 0 is in an earlier band too; collect")
    beyond = Ranks([RankedTable("t", np.arange(100) + 91)])
    refuse(tmp_path, [one], beyond, r"table t, band 0: ids\[9\] = 100 is out of range for 100 rows")
    refuse(tmp_path, [one], ranks, "is not a checkpoint", FileNotFoundError, checkpoint="nothing")
    pack(tmp_path / "c", None, Plan([layout("t", 100, 4, (100, "ssd"))]), tmp_path / "a")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 57, 99])
@pytest.mark.parametrize("kind", ["dram", "tt", "ssd"])
def test_rows_that_are_not_finite_are_named(tmp_path, kind, row, value):
    one = layout("t", 100, 8, (30, "dram"), (100, kind))
    tables = whole_tables([one])
    tables[0][row, 3] = value
    write_whole(tmp_path / "c", [one], tables)
    refuse(tmp_path, [one], random_ranks([one]), f"table t, row {row}: holds {value}")


def test_dense_weights_and_cores_that_are_not_finite_are_named(tmp_path):
    one = layout("t", 100, 8, (100, "dram"))
    write_whole(tmp_path / "c", [one], whole_tables([one]), dense={"w": np.array([np.nan], np.float32)})
    refuse(tmp_path, [one], None, "dense weight w is not finite")
    shutil.rmtree(tmp_path / "c")
    tensors, _ = banded_checkpoint(tmp_path / "c", layout("t", 100, 8, (100, "tt")))
    tensors["band.0.tt.1"][0, 0, 0, 0] = np.inf
    stored = Checkpoint.open(tmp_path / "c").tables
    shutil.rmtree(tmp_path / "c")
    write_checkpoint(
        tmp_path / "c", model={}, tables=stored, dense={}, table_tensors=lambda t: tensors, training={}
    )
    refuse(tmp_path, [stored[0].layout], None, "table t, band 0, core 1: holds inf")


def test_a_damaged_checkpoint_is_not_packed(tmp_path):
    one = layout("t", 100, 8, (100, "ssd"))
    write_whole(tmp_path / "c", [one], whole_tables([one]))
    file = tmp_path / "c" / "tables" / "000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    refuse(tmp_path, [one], None, "000.safetensors is damaged: its CRC32C is", DamagedFileError)


def test_only_artifacts_are_replaced(tmp_path):
    one = layout("t", 100, 8, (100, "ssd"))
    write_whole(tmp_path / "c", [one], whole_tables([one]))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"holds no manifest.json"):
        pack(tmp_path / "c", None, Plan([one]), tmp_path / "a")
    (tmp_path / "manifest.json").write_text("{}")
    for out in (tmp_path, tmp_path / "c"):  # it would be gone with what it replaces
        with pytest.raises(ValueError, match=r"out: .* holds the checkpoint"):
            pack(tmp_path / "c", None, Plan([one]), out)
    Checkpoint.open(tmp_path / "c")


def test_bytes_that_differ_from_the_layout_are_an_internal_error(tmp_path, monkeypatch):
    one = layout("t", 100, 8, (100, "ssd"))
    write_whole(tmp_path / "c", [one], whole_tables([one]))
    monkeypatch.setattr(TableLayout, "dram_bytes", property(lambda self: 5))
    refuse(tmp_path, [one], None, "internal error: table t takes 0 DRAM and .* says 5", RuntimeError)


def test_too_small_a_disk_is_told_before_the_work(tmp_path, monkeypatch):
    one = layout("t", 100, 8, (100, "ssd"))
    write_whole(tmp_path / "c", [one], whole_tables([one]))
    usage = type("usage", (), {"free": 4095})
    monkeypatch.setattr(pack_module.shutil, "disk_usage", lambda path: usage)
    refuse(
        tmp_path,
        [one],
        None,
        r"No space left on device \(\d+ bytes needed, 4095 free\) while writing .*/a; free space there",
        OSError,
    )


def test_a_disk_that_fills_up_keeps_the_old_artifact(tmp_path):
    """RLIMIT_FSIZE fails a write in the middle of a page file, as a full disk does."""
    one = layout("t", 1000, 64, (1000, "ssd"))
    write_whole(tmp_path / "c", [one], whole_tables([one]))
    pack(tmp_path / "c", None, Plan([one]), tmp_path / "a")
    code = (
        "import resource, sys\nsys.path[:0] = sys.argv[1].split(':')\n"
        "from storage_samples import Plan, layout\nfrom screc.storage import pack\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n"
        "try:\n pack(sys.argv[2], None, Plan([layout('t', 1000, 64, (1000, 'ssd'))]), sys.argv[3])\n"
        "except OSError as error:\n print(error)"
    )
    paths = ":".join([SRC, str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", code, paths, str(tmp_path / "c"), str(tmp_path / "a")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"[Errno {errno.EFBIG}]" in done.stdout
    assert "what was there is unchanged; free space there" in done.stdout
    assert verify(tmp_path / "a").ok
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]


def test_killed_at_any_moment(tmp_path):
    """The artifact at the target is always whole and of one generation."""
    layouts = [layout("t", 300, 8, (20, "dram"), (300, "ssd")), layout("u", 200, 4, (200, "tt"))]
    ranks, rng = random_ranks(layouts), random.Random(0)
    for generation in (1, 2):
        tables = [np.full_like(table, generation) for table in whole_tables(layouts)]
        write_whole(tmp_path / str(generation), layouts, tables, model={"generation": generation})

    def many() -> None:
        other = 3 - Artifact.open(tmp_path / "a").model["generation"]
        for turn in range(10000):
            pack(tmp_path / str((other + turn) % 2 or 2), ranks, Plan(layouts), tmp_path / "a")

    pack(tmp_path / "1", ranks, Plan(layouts), tmp_path / "a")
    span = 3 * seconds_of(lambda: pack(tmp_path / "1", ranks, Plan(layouts), tmp_path / "a"))
    seen, generation = set(), 1
    for _ in range(40):
        assert run_and_kill(many, after=rng.random() * span)
        artifact = Artifact.open(tmp_path / "a")
        before, generation = generation, artifact.model["generation"]
        if generation == before:
            span *= 1.1  # the machine may have become slower since
        seen.add(generation)
        assert verify(tmp_path / "a").ok
        store = open_store(artifact)
        assert (store.gather("t", np.arange(300)) == generation).all()
        np.testing.assert_allclose(store.gather("u", np.arange(200)), generation, rtol=1e-5)
    assert seen == {1, 2}
    pack(tmp_path / "1", ranks, Plan(layouts), tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["1", "2", "a"]


def test_opened_while_it_is_replaced(tmp_path):
    """Whoever opens the path gets all of one artifact; an artifact opened before says that it is gone."""
    layouts = [layout("t", 300, 8, (20, "dram"), (300, "ssd"))]
    ranks = random_ranks(layouts)
    for generation in (1, 2):
        tables = [np.full_like(table, generation) for table in whole_tables(layouts)]
        write_whole(tmp_path / str(generation), layouts, tables, model={"generation": generation})
        pack(tmp_path / str(generation), ranks, Plan(layouts), tmp_path / f"a{generation}")
    shutil.copytree(tmp_path / "a1", tmp_path / "a")

    def replace_often() -> None:
        for turn in range(100000):
            with replace_directory(tmp_path / "a") as directory:
                shutil.copytree(tmp_path / f"a{turn % 2 + 1}", directory, dirs_exist_ok=True)
            time.sleep(0.02)

    child = start(replace_often)
    try:
        seen = set()
        for _ in range(200):
            try:
                rows = open_store(tmp_path / "a").gather("t", np.arange(300))
            except ReplacedError:  # a machine on which replacing is faster than opening
                continue
            assert len(np.unique(rows)) == 1
            seen.add(float(rows[0, 0]))
        assert seen == {1.0, 2.0}
    finally:
        kill(child)
    artifact = Artifact.open(tmp_path / "a1")
    pack(tmp_path / "2", ranks, Plan(layouts), tmp_path / "a1")
    with pytest.raises(ReplacedError, match=r"a1 was replaced while it was being read; open it again"):
        open_store(artifact)
    open_store(tmp_path / "a1")


def test_progress_ends_at_its_total(tmp_path):
    layouts = sample_layouts()
    write_whole(tmp_path / "c", layouts, whole_tables(layouts))
    seen = []
    pack(
        tmp_path / "c",
        random_ranks(layouts),
        Plan(layouts),
        tmp_path / "a",
        progress=lambda *a: seen.append(a),
    )
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_layout_serves_its_rows(tmp_path, data):
    rows = data.draw(st.integers(1, 400))
    dim = data.draw(st.integers(1, 9))
    cuts = sorted(set(data.draw(st.lists(st.integers(1, rows), max_size=3))) | {rows})
    one = layout("t", rows, dim, *((cut, data.draw(st.sampled_from(["dram", "ssd"]))) for cut in cuts))
    tables, ranks = whole_tables([one], rows), random_ranks([one], dim)
    write_whole(tmp_path / "c", [one], tables)
    pack(tmp_path / "c", ranks, Plan([one]), tmp_path / "a")
    ids = np.random.default_rng(0).integers(0, rows, 300)
    store = open_store(tmp_path / "a")
    np.testing.assert_array_equal(store.gather("t", ids), tables[0][ids])
    assert store.dram_bytes == one.dram_bytes
    assert verify(tmp_path / "a").ok


def test_slots_of_a_band_cover_its_ids(packed):
    _, layouts, _, ranks, _ = packed
    for number, one in enumerate(layouts):
        for position in range(len(one.bands) - 1):
            band = one.bands[position]
            ids = ranks.tables[number].ids_in_ranks(band.start, band.stop)
            ordered = slot_order(one.num_embeddings, ids, ranked=band.format == "fp32")
            assert sorted(ordered) == sorted(ids)
            assert index_kinds(one)[position] in ("hash", "bitmap")


# Opening.


def test_what_is_no_artifact_is_told(packed, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not an artifact: it has no manifest.json"):
        Artifact.open(tmp_path)
    shutil.copytree(packed[0] / "artifact", tmp_path / "a")
    file = tmp_path / "a" / "manifest.json"
    good = json.loads(file.read_text())

    def refused(change, error, message):
        text = json.dumps({**good, **change}) if isinstance(change, dict) else change
        file.write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (tmp_path / "a" / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
        with pytest.raises(error, match=message):
            Artifact.open(tmp_path / "a")

    refused({"format": "x"}, ValueError, "has format 'x', expected 'screc-artifact'")
    refused({"version": 2}, ValueError, "has version 2, this release reads version 1; use the release")
    refused({"model": None}, DamagedFileError, "field 'model'")
    refused({"more": 1}, DamagedFileError, "field 'more'")
    refused({"files": good["files"][:1]}, DamagedFileError, r"does not list tables.safetensors")
    refused({"files": good["files"] + good["files"][:1]}, DamagedFileError, "lists a file twice")
    table = good["tables"][0]
    refused({"tables": [{**table, "indices": [None] * 3}]}, DamagedFileError, "table three: indices are")
    refused(
        {"tables": [{**table, "fit_errors": []}]}, DamagedFileError, "fit_errors needs one entry per band"
    )
    refused({"tables": good["tables"][1:]}, DamagedFileError, r"manifest.json (does not list|gives) .*pages")
    refused("{", DamagedFileError, "is malformed")
    file.write_text(json.dumps(good) + " ")
    with pytest.raises(DamagedFileError, match=r"manifest.json does not match manifest.sha256"):
        Artifact.open(tmp_path / "a")
    (tmp_path / "a" / "manifest.sha256").unlink()
    with pytest.raises(DamagedFileError, match=r"manifest.sha256 is missing"):
        Artifact.open(tmp_path / "a")


def test_tables_are_named_or_numbered(packed):
    store = open_store(packed[0] / "artifact")
    ids = np.array([1, 2])
    np.testing.assert_array_equal(store.gather("plain", ids), store.gather(4, ids))
    out = np.empty((2, 3), np.float32)
    assert store.gather("plain", ids, out) is out
    with pytest.raises(KeyError, match="no table 'none'; the artifact has three, bitmap"):
        store.gather("none", ids)
    for wrong in (-1, 6):
        with pytest.raises(KeyError, match=f"no table {wrong}; the artifact has 6"):
            store.gather(wrong, ids)
    with pytest.raises(ValueError, match="50"):
        store.gather("plain", np.array([50]))


def test_a_band_of_another_device_keeps_its_name(tmp_path):
    band = Band(start=0, stop=10, format="fp32", memory="dram", device="numa1")
    one = TableLayout(table="t", num_embeddings=10, embedding_dim=2, bands=(band,))
    write_whole(tmp_path / "c", [one], whole_tables([one]))
    pack(tmp_path / "c", None, Plan([one]), tmp_path / "a")
    assert Artifact.open(tmp_path / "a").tables[0].layout.bands[0].device == "numa1"

"""Sparse tables: known rows come back, all others are the default row, and no time or space goes to holes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_samples import LAYOUTS, ROWS, UNTOUCHED, SparseTables, write_tables
from storage_samples import Plan, layout, random_ranks, write_whole

from screc import _native
from screc.planning import sparse_index_bytes
from screc.storage import (
    Artifact,
    PageGeometry,
    RowStore,
    StoredTable,
    TableLayout,
    pack,
    verify,
    write_checkpoint,
)
from screc.storage.row_format import decode_rows, encode_rows
from screc.storage.sparse import group_index, indexed_groups, pages_with_data, runs, written_groups

SSD = [number for number, one in enumerate(LAYOUTS) if one.bands[-1].memory == "ssd"]


@pytest.fixture(scope="module")
def tables() -> SparseTables:
    return SparseTables()


@pytest.fixture(scope="module")
def packed(tables, tmp_path_factory):
    root = tmp_path_factory.mktemp("sparse")
    tables.write(root / "model")
    report = pack(root / "model", tables.ranks(), Plan(LAYOUTS), root / "artifact")
    return root / "artifact", report


@pytest.mark.parametrize("number", range(len(LAYOUTS)), ids=[one.table for one in LAYOUTS])
def test_every_id_gets_its_row(tables, packed, number):
    path, report = packed
    store, one = RowStore.open(path, threads=2), LAYOUTS[number]
    ids = tables.some_ids(number)
    found, expected = store.gather(number, ids), tables.expected(number, ids)
    if one.table == "hot":
        train, first = np.unique(ids, return_index=True)
        train = first[np.isin(train, tables.ranks().tables[number].order[40:90])]
        assert len(train) == 50
        lost = np.linalg.norm(found[train] - expected[train]) / np.linalg.norm(expected[train])
        (error,) = (fit.error for fit in report.fit_errors if fit.table == "hot")
        assert lost == pytest.approx(error, rel=1e-4)
        others = ~np.isin(ids, ids[train])
        found, expected = found[others], expected[others]
    form = one.bands[-1].format
    if form != "fp32":
        scale = None
        if one.bands[-1].scale == "table":
            scale = tuple(Artifact.open(path).load_tables()[f"{number}.0.scale"].tolist())
        expected = decode_rows(encode_rows(expected, form, scale), form, one.embedding_dim, scale)
    np.testing.assert_array_equal(found, expected)


def test_bags_are_pooled(tables, packed):
    store, rng = RowStore.open(packed[0], threads=2), np.random.default_rng(3)
    lengths = rng.integers(0, 5, (len(LAYOUTS), 40))
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    ids = [rng.choice(tables.some_ids(n), lengths[n].sum()) for n in range(len(LAYOUTS))]
    out, column = store.lookup(np.concatenate(ids), offsets, 40), 0
    for number, one in enumerate(LAYOUTS):
        rows, ends = store.gather(number, ids[number]), np.cumsum(lengths[number])
        bags = np.split(rows.astype(np.float64), ends[:-1])
        expected = np.stack([bag.sum(axis=0) for bag in bags])
        np.testing.assert_allclose(
            out[:, column : column + one.embedding_dim], expected, rtol=1e-5, atol=1e-5
        )
        column += one.embedding_dim


def test_only_pages_of_known_rows_are_written_and_read(tables, packed):
    path, report = packed
    artifact = Artifact.open(path)
    geometry = PageGeometry.of(256)
    pages = np.unique(tables.ids[0] // geometry.rows_per_page)
    assert artifact.tables[0].layout.bands[-1].written == len(pages)
    on_disk = sum(file.stat().st_blocks * 512 for file in (path / "pages").iterdir())
    assert on_disk < report.written_bytes * 1.1 + 2**20
    assert report.ssd_bytes > 5_000 * report.written_bytes > 0
    assert report.ssd_bytes == sum(file.stat().st_size for file in (path / "pages").iterdir())
    store = RowStore.open(path, threads=1)
    assert store.dram_bytes == report.dram_bytes < 4 * 2**20
    unknown = pages[:50] * geometry.rows_per_page + 3  # beside known rows, or known themselves
    far = np.setdiff1d(np.arange(0, ROWS, ROWS // 100), pages * geometry.rows_per_page)
    far = far[~np.isin(far // geometry.rows_per_page, pages)]
    store.gather(0, np.concatenate((unknown, far, far)))
    stats = store.stats()
    assert (stats.ssd_rows, stats.default_rows) == (50 + 2 * len(far), 2 * len(far))
    assert stats.pages_read == stats.page_requests == 50
    assert stats.lookups == stats.dram_rows + stats.tt_rows + stats.ssd_rows


def test_it_verifies_by_reading_what_was_written(packed):
    path, packing = packed
    report = verify(path)
    assert report.ok, report.damages
    assert report.pages * 4096 == packing.written_bytes
    assert (report.pages + report.holes) * 4096 == packing.ssd_bytes
    others = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    assert report.bytes <= packing.written_bytes + others


def test_the_cache_takes_no_row_of_a_hole(tables, packed):
    store = RowStore.open(packed[0], threads=1, cache_bytes=1 << 20)
    unknown = np.setdiff1d(np.arange(1, ROWS, ROWS // 1000), tables.ids[UNTOUCHED])
    for _ in range(3):
        out = store.gather(UNTOUCHED, unknown)
        np.testing.assert_array_equal(out, np.tile(tables.defaults[UNTOUCHED], (len(unknown), 1)))
        store.gather(0, tables.ids[0])
    stats = store.stats()
    assert stats.default_rows == 3 * len(unknown)
    assert stats.cache_hits + stats.cache_misses == 3 * len(tables.ids[0])
    assert stats.cache_hits > len(tables.ids[0])


def test_look_ups_in_two_halves(tables, packed):
    store, ids = RowStore.open(packed[0], threads=1), tables.some_ids(0)[:100]
    offsets = np.append(np.arange(100), np.full(100 * (len(LAYOUTS) - 1) + 1, 100))
    found = store.prefetch(ids, offsets, 100).finish()
    np.testing.assert_array_equal(found[:, :64], tables.expected(0, ids))


def test_a_table_whose_every_row_is_known_has_no_holes(tmp_path):
    one = layout("t", 500, 16, (20, "dram"), (500, "ssd"))
    rows = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    stored = StoredTable(TableLayout.dense("t", 500, 16), "sum", 500)
    tensors = {"band.0.ids": np.arange(500), "band.0.rows": rows, "band.0.default": np.ones(16, np.float32)}
    write_tables(tmp_path / "sparse", [stored], lambda _: tensors)
    write_whole(tmp_path / "whole", [one], [rows])
    for name in ("sparse", "whole"):
        pack(tmp_path / name, random_ranks([one]), Plan([one]), tmp_path / f"{name}.packed")
    for file in (tmp_path / "whole.packed").rglob("*"):
        if file.is_file():
            other = tmp_path / "sparse.packed" / file.relative_to(tmp_path / "whole.packed")
            assert file.read_bytes() == other.read_bytes()


def test_a_sparse_last_band_that_was_trained_with_a_plan(tmp_path):
    """Its checkpoint has ids for every band; an id of an earlier band has no row in the last."""
    one = layout("t", ROWS, 8, (3, "dram"), (ROWS, "ssd"))
    rng = np.random.default_rng(0)
    hot, cold = np.array([5, 700, ROWS - 2]), np.array([4, 700, 9000, ROWS - 1])
    tensors = {
        "band.0.ids": hot,
        "band.0.rows": rng.standard_normal((3, 8)).astype(np.float32),
        "band.1.ids": cold,
        "band.1.rows": rng.standard_normal((4, 8)).astype(np.float32),
        "band.1.default": np.full(8, 0.5, np.float32),
    }
    stored = StoredTable(one, "sum", 4)
    write_tables(tmp_path / "c", [stored], lambda _: tensors)
    report = pack(tmp_path / "c", None, None, tmp_path / "a")
    assert report.written_bytes == 3 * 4096  # 700 is hot
    found = RowStore.open(tmp_path / "a").gather(0, np.array([5, 700, 4, 9000, ROWS - 1, ROWS - 2, 6, 3000]))
    others = np.full((2, 8), 0.5, np.float32)
    expected = np.concatenate((tensors["band.0.rows"], tensors["band.1.rows"], others))
    np.testing.assert_array_equal(found, expected[[0, 1, 3, 5, 6, 2, 7, 8]])


# ----------------------------------------------------------------------------------------- indices and holes


@given(st.data(), st.integers(1, 5000))
def test_the_index_of_written_groups_tells_them(data, num_groups):
    groups = np.array(sorted(data.draw(st.sets(st.integers(0, num_groups - 1)))), np.int64)
    arrays = group_index(groups, num_groups)
    kind = "bitmap" if arrays[0].dtype == np.uint64 else "hash"
    np.testing.assert_array_equal(indexed_groups(kind, arrays), groups)
    covered = [groups[start:stop] for start, stop in runs(groups)]
    assert all((np.diff(run) == 1).all() for run in covered)
    assert all(a[-1] + 1 < b[0] for a, b in pairwise(covered))
    np.testing.assert_array_equal(np.concatenate((*covered, groups[:0])), groups)


@given(st.sets(st.integers(0, 10_000)), st.integers(1, 2000))
def test_written_groups_hold_every_known_row(ids, row_bytes):
    geometry = PageGeometry.of(row_bytes)
    known = np.array(sorted(ids), np.int64)
    expected = sorted({row // geometry.rows_per_page for row in ids})
    assert written_groups(known, geometry).tolist() == expected


@settings(max_examples=20, deadline=None)
@given(st.sets(st.integers(0, 300), max_size=20), st.integers(1, 301), st.integers(1, 10))
def test_pages_with_data_are_those_that_were_written(tmp_path_factory, written, pages, step):
    path = tmp_path_factory.mktemp("holes") / "file"
    written = {page for page in written if page < pages}
    with path.open("wb") as file:
        file.truncate(4096 * pages)
        for page in written:
            file.seek(4096 * page)
            file.write(b"x" * 4096)
    module = sys.modules["screc.storage.sparse"]
    with pytest.MonkeyPatch.context() as patch, path.open("rb") as file:
        patch.setattr(module, "_PAGES_PER_STEP", step)
        pieces = list(pages_with_data(file.fileno(), 4096 * pages))
        assert np.concatenate((*pieces, np.zeros(0, np.int64))).tolist() == sorted(written)
        assert all(len(piece) <= step for piece in pieces)
        # A file system that knows no holes.
        patch.setattr(os, "lseek", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "no")))
        pieces = list(pages_with_data(file.fileno(), 4096 * pages))
        np.testing.assert_array_equal(np.concatenate(pieces), np.arange(pages))
    assert _native.crc32c_file(path) == _native.crc32c(path.read_bytes())


# ------------------------------------------------------------------------------------------------ other rooms


def test_training_refuses_a_sparse_checkpoint(tables, tmp_path):
    from screc.training import load_model

    one = layout("t", ROWS, 16, (ROWS, "ssd"))
    model = {"name": "dlrm", "num_dense": 0, "embedding_dim": 16, "bottom_mlp": [], "top_mlp": [1]}
    write_checkpoint(
        tmp_path / "c",
        model=model | {"interaction": "cat"},
        tables=[StoredTable(one, "sum", 0)],
        dense={},
        table_tensors=lambda _: (
            SparseTables([one], num_known=0).tensors(0)
            | {"band.0.ids": np.zeros(0, np.int64), "band.0.rows": np.zeros((0, 16), np.float32)}
        ),
        training={},
    )
    match = f"table t is sparse \\(0 of {ROWS} rows are known\\); it can be packed and served, not trained"
    with pytest.raises(ValueError, match=match):
        load_model(tmp_path / "c")


def test_a_plan_can_keep_the_dram_that_finding_pages_takes(tables, packed):
    """Packed tables take no more beyond their plan than was kept for them."""
    kept = sparse_index_bytes(tables.stored())
    planned = sum(one.dram_bytes for one in LAYOUTS)
    assert planned < packed[1].dram_bytes <= planned + kept
    assert kept < 3 * (packed[1].dram_bytes - planned)
    assert sparse_index_bytes([StoredTable(LAYOUTS[0], "sum")]) == 0


def test_the_verbs_tell_what_was_written(tmp_path):
    one = layout("t", ROWS, 16, (ROWS, "ssd"))
    tables = SparseTables([one])
    write_tables(tmp_path / "c", [StoredTable(one, "sum", len(tables.ids[0]))], tables.tensors)
    command = [sys.executable, "-m", "screc.cli", "pack", tmp_path / "c", "--out", tmp_path / "a"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    text = " ".join(result.stdout.split())
    assert "65 GB on SSD (8.2 MB written, the rest holes)" in text
    command = [sys.executable, "-m", "screc.cli", "verify", tmp_path / "a"]
    assert "sound" in subprocess.run(command, capture_output=True, text=True, check=True).stdout

"""Sparse artifacts that are damaged, copied, refused, or whose writing ends early."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from crashes import run_and_kill, seconds_of
from sparse_samples import FirstRanks, SparseTables, write_tables
from storage_samples import Plan, Ranks, layout

from screc import _native
from screc.storage import (
    Artifact,
    Checkpoint,
    DamagedFileError,
    PageOrder,
    RowStore,
    StoredTable,
    TableLayout,
    TensorFile,
    pack,
    verify,
)
from screc.storage.tensors import write_arrays

# 20,000 pages, of which 100 are written, under a hash index; half of 197 under a bitmap.
LAYOUTS = [layout("wide", 300_000, 64, (300_000, "ssd")), layout("dense", 25_000, 16, (25_000, "ssd/fp16"))]
WIDE, DENSE = "pages/0.0.pages", "pages/1.0.pages"


@pytest.fixture(scope="module")
def tables() -> SparseTables:
    return SparseTables(LAYOUTS, num_known=100)


@pytest.fixture(scope="module")
def good(tables, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("good")
    pack(tables.write(root / "c"), None, Plan(LAYOUTS), root / "a")
    assert Artifact.open(root / "a").tables[0].layout.bands[0].written < 20_000
    assert {"0.0.pages.keys", "1.0.pages.bits"} <= set(TensorFile(root / "a" / "tables.safetensors").names)
    return root / "a"


@pytest.fixture
def copy(good, tmp_path) -> Path:
    """A copy that keeps the holes."""
    subprocess.run(["cp", "-r", "--sparse=always", good, tmp_path / "a"], check=True)
    return tmp_path / "a"


def write_at(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def written_pages(tables: SparseTables, table: int = 0, rows_per_page: int = 15) -> np.ndarray:
    return np.unique(tables.ids[table] // rows_per_page)


def a_hole(tables: SparseTables) -> int:
    return int(np.setdiff1d(np.arange(20_000), written_pages(tables))[77])


def all_rows_are_right(path: Path, tables: SparseTables) -> None:
    store = RowStore.open(path, threads=1)
    np.testing.assert_array_equal(store.gather(0, tables.some_ids(0)), tables.expected(0, tables.some_ids(0)))


# ---------------------------------------------------------------------------------------------------- damage


def test_a_damaged_page_is_named_and_never_served(tables, copy):
    page = int(written_pages(tables)[50])
    write_at(copy / WIDE, page * 4096 + 999, b"\xff\x01\x02")
    (damage,) = verify(copy).damages
    assert (damage.file, damage.table, damage.band, damage.page) == (WIDE, "wide", 0, page)
    store = RowStore.open(copy, threads=1)
    with pytest.raises(
        OSError, match=rf"page {page} of .*0\.0\.pages \(table 0, band 0\) is damaged: checksum"
    ):
        store.gather(0, np.array([page * 15 + 14]))
    np.testing.assert_array_equal(store.gather(0, tables.ids[0][:5]), tables.expected(0, tables.ids[0][:5]))


def test_a_written_page_that_became_a_hole_is_damage(tables, copy):
    """A page that reads as zeros where one was written is no default row."""
    page = int(written_pages(tables)[60])
    write_at(copy / WIDE, page * 4096, bytes(4096))
    (damage,) = verify(copy).damages
    assert (damage.file, damage.table, damage.band, damage.page) == (WIDE, "wide", 0, page)
    message = rf"page {page} of .* is damaged: it is all zeros, as a hole in the file reads"
    with pytest.raises(OSError, match=message):
        RowStore.open(copy, threads=1).gather(0, np.array([page * 15]))


@pytest.mark.parametrize("end", [0, -1])
def test_the_outermost_written_pages_are_checked_when_it_is_opened(tables, copy, end):
    page = int(written_pages(tables)[end])
    write_at(copy / WIDE, page * 4096 + 4095, b"\x07")
    with pytest.raises(OSError, match=rf"page {page} of "):
        RowStore.open(copy, threads=1)


def test_data_in_a_hole_is_damage_but_is_never_served(tables, copy):
    hole = a_hole(tables)
    write_at(copy / WIDE, hole * 4096 + 17, b"\x01")
    (damage,) = verify(copy).damages
    assert str(damage) == (
        f"page {hole} of {WIDE} (table wide, band 0) holds data, and no page was written there"
    )
    ids = np.arange(hole * 15, hole * 15 + 15)
    found = RowStore.open(copy, threads=1).gather(0, ids)
    np.testing.assert_array_equal(found, np.tile(tables.defaults[0], (15, 1)))


def test_a_good_page_in_the_wrong_hole_is_damage(tables, copy):
    page, hole = int(written_pages(tables)[3]), a_hole(tables)
    data = (copy / WIDE).read_bytes()[page * 4096 : page * 4096 + 4096]
    write_at(copy / WIDE, hole * 4096, data)
    assert [damage.page for damage in verify(copy).damages] == [hole]


def test_every_damage_is_reported(tables, copy, monkeypatch):
    monkeypatch.setattr(sys.modules["screc.storage.verify"], "_PAGES_PER_STEP", 7)
    pages = written_pages(tables)[[0, 6, 7, 90]].tolist()
    for page in pages:
        write_at(copy / WIDE, page * 4096 + 40, b"\xee\xee")
    holes = np.setdiff1d(np.arange(20_000), written_pages(tables))[[5, 6, 19_000]].tolist()
    for hole in holes:
        write_at(copy / WIDE, hole * 4096 + 40, b"\xee\xee")
    report = verify(copy)
    assert sorted(damage.page for damage in report.damages) == sorted(pages + holes)
    assert {damage.file for damage in report.damages} == {WIDE}


@pytest.mark.parametrize("cut", [1, 4096, 4096 * 500, 300_000 // 15 * 4096 - 4096])
def test_a_cut_file_is_refused(copy, cut):
    size = (copy / WIDE).stat().st_size
    os.truncate(copy / WIDE, size - cut)
    faults = [damage.fault for damage in verify(copy).damages if damage.file == WIDE]
    assert faults[0] == f"has {size - cut} bytes, expected {size}"
    with pytest.raises(DamagedFileError, match=f"has {size - cut} bytes, expected {size}"):
        RowStore.open(copy)


def test_a_grown_file_is_refused(copy):
    size = (copy / WIDE).stat().st_size
    os.truncate(copy / WIDE, size + 8192)
    assert verify(copy).damages[0].fault == f"has {size + 8192} bytes, expected {size}"
    with pytest.raises(DamagedFileError, match="bytes, expected"):
        Artifact.open(copy)


def test_damaged_tensors_leave_sparse_pages_unjudged(copy):
    file = TensorFile(copy / "tables.safetensors")
    write_at(copy / "tables.safetensors", file.spec("0.0.pages.keys").offset, b"\x55")
    damages = verify(copy).damages
    assert [(damage.file, damage.fault[:38]) for damage in damages] == [
        ("tables.safetensors", damages[0].fault[:38]),
        (WIDE, "cannot be checked: the index of its pa"),
        (DENSE, "cannot be checked: the index of its pa"),
    ]
    with pytest.raises(DamagedFileError, match=r"tables\.safetensors is damaged"):
        RowStore.open(copy)


def reseal(path: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Changes the tensors and makes all checksums right again, as a faulty writer would have."""
    name = "tables.safetensors"
    file = TensorFile(path / name)
    arrays = {one: np.array(file[one]) for one in file.names}
    del file
    change(arrays)
    entry = write_arrays(path / name, arrays)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"] = [f for f in manifest["files"] if f["path"] != name] + [entry.model_dump()]
    text = json.dumps(manifest)
    (path / "manifest.json").write_text(text)
    (path / "manifest.sha256").write_text(f"{hashlib.sha256(text.encode()).hexdigest()}  manifest.json\n")


def test_a_missing_list_of_pages_is_refused(copy):
    def remove(arrays):
        del arrays["0.0.pages.keys"], arrays["0.0.pages.slots"]

    reseal(copy, remove)
    fault = r"does not hold the tensors of its layouts \(see \['0\.0\.pages\.keys', '0\.0\.pages\.slots'\]\)"
    assert any(damage.file == "tables.safetensors" for damage in verify(copy).damages)
    with pytest.raises(DamagedFileError, match=fault):
        RowStore.open(copy)


def one_page_more(arrays):
    arrays["1.0.pages.bits"][0] = ~np.uint64(0)


def a_page_beyond_the_end(arrays):
    keys = arrays["0.0.pages.keys"]
    keys[np.flatnonzero(keys >= 0)[0]] = 20_000


def a_page_twice(arrays):
    keys = arrays["0.0.pages.keys"]
    first, second = np.flatnonzero(keys >= 0)[:2]
    keys[second] = keys[first]


def no_pages(arrays):
    arrays["0.0.pages.keys"][:] = -1


@pytest.mark.parametrize("change", [one_page_more, a_page_beyond_the_end, a_page_twice, no_pages])
def test_a_list_of_pages_that_contradicts_itself_is_found(copy, change):
    reseal(copy, change)
    faults = [damage.fault for damage in verify(copy).damages if damage.file == "tables.safetensors"]
    kind, table = ("bitmap", "dense") if change is one_page_more else ("hash", "wide")
    assert faults == [f"has a wrong {kind} index of written pages for table {table}, band 0"]


def test_a_list_that_names_other_pages_is_found(tables, copy):
    """It is well-formed, but a page that it names was never written, and one that was is missing."""
    page, hole = int(written_pages(tables)[40]), a_hole(tables)

    def swap(arrays):
        groups = np.sort(np.append(np.setdiff1d(written_pages(tables), [page]), hole))
        keys, slots = arrays["0.0.pages.keys"], arrays["0.0.pages.slots"]
        _native.build_hash_index(groups, np.arange(len(groups), dtype=np.uint32), keys, slots)

    reseal(copy, swap)
    assert sorted(damage.page for damage in verify(copy).damages) == sorted((page, hole))


def test_a_default_row_that_is_not_finite_is_found(copy):
    def change(arrays):
        arrays["0.0.default"][3] = np.nan

    reseal(copy, change)
    fault = "has a default row that is not finite for table wide, band 0"
    assert fault in [damage.fault for damage in verify(copy).damages]


# ---------------------------------------------------------------------------------------------------- copies


def plain_copy(source: str, target: str) -> None:
    Path(target).write_bytes(Path(source).read_bytes())


@pytest.mark.parametrize("how", ["never", "always", "copyfile"])
def test_copies_verify_whether_they_keep_the_holes_or_fill_them(tables, good, tmp_path, how):
    if how == "copyfile":
        shutil.copytree(good, tmp_path / "a", copy_function=plain_copy)
    else:
        subprocess.run(["cp", "-r", f"--sparse={how}", good, tmp_path / "a"], check=True)
    report = verify(tmp_path / "a")
    assert report.ok, report.damages
    filled = (tmp_path / "a" / WIDE).stat().st_blocks * 512 >= 20_000 * 4096
    assert filled == (how != "always")
    assert report.pages == verify(good).pages
    all_rows_are_right(tmp_path / "a", tables)


# --------------------------------------------------------------------------- writing that ends early


def test_killed_while_packing(tables, good, tmp_path):
    """The artifact that was there stays whole, and the next writer removes what the dead one left."""
    subprocess.run(["cp", "-r", "--sparse=always", good, tmp_path / "a"], check=True)
    bigger = SparseTables([layout("t", 10**9, 64, (10**9, "ssd"))], num_known=8_000)
    model = bigger.write(tmp_path / "c")

    def work(out: Path = tmp_path / "a") -> None:
        pack(model, None, Plan(bigger.layouts), out)

    whole = seconds_of(lambda: work(tmp_path / "trial"))
    shutil.rmtree(tmp_path / "trial")
    kills = 0
    for part in (0.2, 0.4, 0.6):
        kills += run_and_kill(work, after=part * whole)
        assert verify(tmp_path / "a").ok
    assert kills >= 2
    work()
    assert verify(tmp_path / "a").ok
    assert Artifact.open(tmp_path / "a").tables[0].layout.table == "t"
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]


BIG = layout("t", 10**9, 64, (10**9, "ssd"))


def test_a_file_larger_than_allowed_leaves_what_was_there(tables, good, tmp_path):
    """A file system has a largest file, holes included; a limit of the process stands for it."""
    subprocess.run(["cp", "-r", "--sparse=always", good, tmp_path / "a"], check=True)
    model = SparseTables([BIG], num_known=100).write(tmp_path / "c")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**37, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large while writing .*; what was there is unchanged"):
            pack(model, None, Plan([BIG]), tmp_path / "a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]
    all_rows_are_right(tmp_path / "a", tables)


def test_too_little_space_is_told_before_the_work(tables, good, tmp_path, monkeypatch):
    """Only what is written counts: 270 GB of pages fit a small disk, their written ones must."""
    model = SparseTables([BIG], num_known=1000).write(tmp_path / "c")
    free = shutil.disk_usage(tmp_path)
    disk = sys.modules["screc.storage.pack"].shutil
    monkeypatch.setattr(disk, "disk_usage", lambda _: free._replace(free=5_000_000))
    report = pack(model, None, Plan([BIG]), tmp_path / "a")
    assert report.ssd_bytes > 270 * 10**9
    assert report.written_bytes < 5_000_000
    monkeypatch.setattr(disk, "disk_usage", lambda _: free._replace(free=4_000_000))
    with pytest.raises(
        OSError, match=r"needed, 4000000 free\) while writing .*; what was there is unchanged"
    ):
        pack(model, None, Plan([BIG]), tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["a", "c"]
    assert verify(tmp_path / "a").ok


FILL_A_DISK = """
import os, shutil, subprocess, sys
from pathlib import Path
from sparse_samples import SparseTables
from storage_samples import Plan, layout
from screc.storage import pack, verify

disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", disk], check=True)
big = layout("t", 10**9, 64, (10**9, "ssd"))
for known, name in ((500, "small"), (5000, "large")):
    SparseTables([big], num_known=known).write(disk.parent / name)
pack(disk.parent / "small", None, Plan([big]), disk / "a")
usage = shutil.disk_usage(disk)
shutil.disk_usage = lambda _: usage._replace(free=10**9)  # it is others who fill the disk meanwhile
try:
    pack(disk.parent / "large", None, Plan([big]), disk / "a")
except OSError as error:
    print(error)
assert os.listdir(disk) == ["a"]
assert verify(disk / "a").ok
"""


def test_a_disk_that_fills_up_while_packing(tmp_path):
    """A real one, of 12 MB, where the system lets us mount it."""
    (tmp_path / "disk").mkdir()
    mine = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*mine, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this system lets nobody mount a disk of his own")
    command = [*mine, sys.executable, "-c", FILL_A_DISK, tmp_path / "disk"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    assert "No space left on device while writing" in result.stdout
    assert "what was there is unchanged; free space there or choose another path" in result.stdout


# --------------------------------------------------------------------------------------------------- refusals


def refused(
    tmp_path: Path, match: str, one: TableLayout, tensors: dict[str, np.ndarray], **more: object
) -> None:
    whole = TableLayout.dense(one.table, one.num_embeddings, one.embedding_dim)
    stored = StoredTable(whole, "sum", len(tensors["band.0.ids"]))
    write_tables(tmp_path / "c", [stored], lambda _: tensors)
    ranks = Ranks([FirstRanks(one.table, one.num_embeddings, np.arange(one.num_embeddings))])
    with pytest.raises(ValueError, match=match):
        pack(tmp_path / "c", ranks, Plan([one]), tmp_path / "a", **more)
    assert sorted(os.listdir(tmp_path)) == ["c"]


def tensors(ids: list[int], value: float = 1.0, default: float = 0.0) -> dict[str, np.ndarray]:
    return {
        "band.0.ids": np.array(ids, np.int64),
        "band.0.rows": np.full((len(ids), 8), value, np.float32),
        "band.0.default": np.full(8, default, np.float32),
    }


@pytest.mark.parametrize(
    ("ids", "default", "form", "match"),
    [
        ([3, 2], 0.0, "ssd", r"table t: band.0.ids\[1\] = 2 after 3; the ids of a stored band ascend"),
        ([3, 3], 0.0, "ssd", r"table t: band.0.ids\[1\] = 3 after 3; the ids of a stored band ascend"),
        ([-1, 3], 0.0, "ssd", r"table t: band.0.ids\[0\] = -1 is out of range for 1000 rows"),
        ([3, 1000], 0.0, "ssd", r"table t: band.0.ids\[1\] = 1000 is out of range for 1000 rows"),
        ([3], np.inf, "ssd", "table t: its default row holds inf; give finite numbers"),
        ([3], 1e5, "ssd/fp16", "table t, its default row: .* holds 100000"),
    ],
)
def test_what_is_wrong_with_a_sparse_table_is_named(tmp_path, ids, default, form, match):
    refused(tmp_path, match, layout("t", 1000, 8, (1000, form)), tensors(ids, default=default))


def test_a_known_row_that_is_not_finite_is_named(tmp_path):
    refused(
        tmp_path,
        "table t, row 77: holds nan",
        layout("t", 1000, 8, (1000, "ssd")),
        tensors([77], value=np.nan),
    )


def test_a_tensor_train_of_rows_that_are_not_known_is_refused(tmp_path):
    match = "table t: only 1 of its rows are known, and the plan makes a tensor train of all that are left"
    refused(tmp_path, match, layout("t", 1000, 8, (2, "dram"), (1000, "tt")), tensors([3]))


def test_an_order_of_rows_that_are_not_known_is_refused(tmp_path):
    order = PageOrder("t", "frequency", np.arange(1000, dtype=np.uint32)[::-1].copy())
    match = "table t: only 1 of its rows are known, so that its pages keep the order of the ids"
    refused(tmp_path, match, layout("t", 1000, 8, (1000, "ssd")), tensors([3]), page_orders=[order])


def test_what_a_checkpoint_says_of_known_rows_must_fit():
    whole = TableLayout.dense("t", 10, 8)
    with pytest.raises(ValueError, match="table t: known_rows is 11, its last band has 10 rows"):
        StoredTable(whole, "sum", 11)
    with pytest.raises(
        ValueError, match="table t: known_rows counts rows, and its last band is a tensor train"
    ):
        StoredTable(layout("t", 10, 8, (10, "tt")), "sum", 3)


def test_a_checkpoint_without_the_default_row_is_refused(tmp_path):
    stored = StoredTable(TableLayout.dense("t", 1000, 8), "sum", 1)
    without = tensors([3])
    del without["band.0.default"]
    with pytest.raises(ValueError, match=r"table t: the tensor file lacks tensor 'band\.0\.default'"):
        write_tables(tmp_path / "c", [stored], lambda _: without)


def test_a_damaged_sparse_checkpoint_is_named(tmp_path, tables):
    path = tables.write(tmp_path / "c")
    file = path / "tables" / "000.safetensors"
    write_at(file, TensorFile(file).spec("band.0.ids").offset + 8, b"\x09")
    with pytest.raises(DamagedFileError, match=r"000\.safetensors is damaged"):
        pack(Checkpoint.open(path), None, Plan(LAYOUTS), tmp_path / "a")


def test_layouts_with_holes_must_make_sense():
    one = layout("t", 1000, 8, (10, "ssd"), (1000, "ssd"))
    assert one.with_written(8).with_written(None) == one
    with pytest.raises(ValueError, match="table t: 9 of 8 page groups were written"):
        one.with_written(9)
    with pytest.raises(ValueError, match="only pages on ssd in the order of the ids can have holes"):
        layout("t", 10, 8, (10, "dram")).with_written(1)
    first = one.bands[0].model_copy(update={"written": 1})
    with pytest.raises(ValueError, match="band 0 has pages that were not written; only the last can"):
        TableLayout(table="t", num_embeddings=1000, embedding_dim=8, bands=(first, one.bands[1]))


def test_the_native_store_refuses_what_does_not_fit(tmp_path, good):
    file = TensorFile(good / "tables.safetensors")
    arrays = [np.array(file[f"0.0.pages.{name}"]) for name in ("keys", "slots")]
    row = np.zeros(256, np.uint8)

    def add(written, default_row=row):
        store = _native.RowStore(threads=1)
        store.add_table(300_000, 64)
        store.add_ssd_band(0, good / WIDE, 0, written=written, default_row=default_row)

    add(("hash", *arrays))
    with pytest.raises(ValueError, match="written and default_row go together"):
        add(("hash", *arrays), None)
    with pytest.raises(ValueError, match="written and default_row go together"):
        add(None)
    with pytest.raises(ValueError, match="default_row: expected the 256 bytes of a row, got 100"):
        add(("hash", *arrays), row[:100])
    with pytest.raises(TypeError, match="default_row"):
        add(("hash", *arrays), row.view(np.float32))
    with pytest.raises(ValueError, match=r"written: expected \('bitmap', bits, directory\)"):
        add(("order", np.arange(300_000, dtype=np.uint32)))
    beyond = arrays[0].copy()
    beyond[np.flatnonzero(beyond >= 0)[0]] = 20_000
    with pytest.raises(ValueError, match=r"keys\[\d+\] is 20000"):
        add(("hash", beyond, arrays[1]))

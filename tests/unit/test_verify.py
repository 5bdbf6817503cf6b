"""Damage: a flipped byte anywhere is found when it is opened, read or verified, and named."""

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_samples import Plan, layout, random_ranks, whole_tables, write_whole

from screc import _native
from screc.storage import Artifact, ReplacedError, RowStore, pack, verify
from screc.storage.artifact import read_manifest
from screc.storage.tensors import TensorFile

LAYOUTS = [
    layout("t", 3000, 8, (10, "dram"), (900, "tt"), (1400, "dram"), (3000, "ssd")),
    layout("long", 4, 1500, (4, "ssd")),
]
FILES = [
    "manifest.json",
    "manifest.sha256",
    "dense.safetensors",
    "tables.safetensors",
    "pages/0.3.pages",
    "pages/1.0.pages",
    "assets/schema.json",
]


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("good")
    (root / "encoder").mkdir()
    (root / "encoder" / "schema.json").write_text('{"columns": 3}')
    write_whole(root / "c", LAYOUTS, whole_tables(LAYOUTS), assets=root / "encoder")
    pack(root / "c", random_ranks(LAYOUTS), Plan(LAYOUTS), root / "a")
    return root / "a"


@pytest.fixture
def copy(good, tmp_path) -> Path:
    shutil.copytree(good, tmp_path / "a")
    return tmp_path / "a"


def flip(path: Path, offset: int, mask: int = 1) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def read_everything(path: Path) -> None:
    """What serving does: open, load, and look at every row."""
    artifact = Artifact.open(path)
    artifact.dense()
    store = RowStore.open(artifact, threads=1)
    for number, table in enumerate(artifact.tables):
        store.gather(number, np.arange(table.layout.num_embeddings))


def test_a_good_artifact(good):
    seen = []
    report = verify(good, progress=lambda *a: seen.append(a))
    assert report.ok
    assert report.damages == ()
    assert report.path == good
    assert report.files == len(FILES) - 1
    pages = sum((good / name).stat().st_size for name in FILES if name.startswith("pages")) // 4096
    assert report.pages == pages
    assert seen[-1][0] == seen[-1][1]
    read_everything(good)
    assert sorted(p.relative_to(good).as_posix() for p in good.rglob("*") if p.is_file()) == sorted(FILES)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_is_found_and_named(copy, data):
    name = data.draw(st.sampled_from(FILES))
    offset = data.draw(st.integers(0, (copy / name).stat().st_size - 1))
    mask = data.draw(st.integers(1, 255))
    flip(copy / name, offset, mask)
    try:
        report = verify(copy)
        assert not report.ok
        if name.startswith("manifest"):
            assert report.damages[0].file == "manifest.json"
        else:
            assert [damage.file for damage in report.damages] == [name]
        if name.startswith("pages"):
            (damage,) = report.damages
            table, band = (int(part) for part in name[6:9].split("."))
            assert (damage.table, damage.band, damage.page) == (LAYOUTS[table].table, band, offset // 4096)
            assert str(damage).startswith(
                f"page {offset // 4096} of {name} (table {LAYOUTS[table].table}, band"
            )
        with pytest.raises((ValueError, OSError)) as info:
            read_everything(copy)
        assert name.removesuffix(".sha256").removesuffix(".json") in str(info.value)
        if name.startswith("pages"):
            assert f"page {offset // 4096} " in str(info.value)
    finally:
        flip(copy / name, offset, mask)


def test_every_damage_is_reported(copy):
    for page in (0, 3, 4, 7):
        flip(copy / "pages" / "0.3.pages", page * 4096 + 100)
    flip(copy / "pages" / "1.0.pages", 2 * 4096)
    flip(copy / "dense.safetensors", 70)
    flip(copy / "tables.safetensors", 20000)
    (copy / "assets" / "schema.json").unlink()
    report = verify(copy)
    found = [(damage.file, damage.page) for damage in report.damages]
    assert sorted(found, key=str) == sorted(
        [
            *(("pages/0.3.pages", page) for page in (0, 3, 4, 7)),
            ("pages/1.0.pages", 2),
            ("dense.safetensors", None),
            ("tables.safetensors", None),
            ("assets/schema.json", None),
        ],
        key=str,
    )


def test_pages_across_pieces(copy, monkeypatch):
    monkeypatch.setattr(sys.modules["screc.storage.verify"], "_PAGES_PER_STEP", 3)
    for page in (2, 3, 8):
        flip(copy / "pages" / "0.3.pages", page * 4096 + 4095)
    assert [damage.page for damage in verify(copy).damages] == [2, 3, 8]


def test_cut_and_grown_files(copy):
    for name, change in (("pages/0.3.pages", -4096), ("tables.safetensors", -1), ("dense.safetensors", 5)):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data[:change] if change < 0 else data + bytes(change))
    report = verify(copy)
    for name in ("pages/0.3.pages", "tables.safetensors", "dense.safetensors"):
        assert any(d.file == name and "bytes, expected" in d.fault for d in report.damages)
    with pytest.raises(ValueError, match="bytes, expected"):
        Artifact.open(copy)


def test_swapped_pages_are_damage(copy):
    """Each page is whole, but not the one that belongs there."""
    file = copy / "pages" / "0.3.pages"
    data = file.read_bytes()
    file.write_bytes(data[4096:8192] + data[:4096] + data[8192:])
    assert [damage.page for damage in verify(copy).damages] == [0, 1]
    with pytest.raises(OSError, match="page"):
        read_everything(copy)


def overwrite_and_reseal(path: Path, tensor: str, data: np.ndarray) -> None:
    """Changes a tensor and makes all checksums right again, as a faulty writer would have."""
    name = "tables.safetensors"
    with open(path / name, "r+b") as file:
        file.seek(TensorFile(path / name).spec(tensor).offset)
        file.write(data.tobytes())
    text = (path / "manifest.json").read_text()
    old = Artifact.parse(path, text.encode()).entry(name).crc32c
    text = text.replace(f'"crc32c": {old}', f'"crc32c": {_native.crc32c_file(str(path / name))}')
    (path / "manifest.json").write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (path / "manifest.sha256").write_text(f"{digest}  manifest.json\n")


def an_id_twice(keys: np.ndarray) -> None:
    first, second = np.flatnonzero(keys != -1)[:2]
    keys[first] = keys[second]


def a_slot_twice(slots: np.ndarray) -> None:
    slots[:] = 0


def an_id_more(bits: np.ndarray) -> None:
    bits[0] = ~np.uint64(0)


def a_wrong_sum(directory: np.ndarray) -> None:
    directory[1] += 1


@pytest.mark.parametrize(
    ("tensor", "change", "kind", "band"),
    [
        ("0.0.index.keys", an_id_twice, "hash", 0),
        ("0.0.index.slots", a_slot_twice, "hash", 0),
        ("0.1.index.bits", an_id_more, "bitmap", 1),
        ("0.1.index.directory", a_wrong_sum, "bitmap", 1),
    ],
)
def test_indices_that_contradict_themselves_are_found(copy, tensor, change, kind, band):
    data = np.array(TensorFile(copy / "tables.safetensors")[tensor])
    change(data)
    overwrite_and_reseal(copy, tensor, data)
    (damage,) = verify(copy).damages
    assert damage.file == "tables.safetensors"
    assert damage.fault == f"has a wrong {kind} index for table t, band {band}"


def test_what_cannot_be_verified_is_an_error(copy, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not an artifact"):
        verify(tmp_path / "nothing")
    text = read_manifest(copy).replace(b'"version": 1', b'"version": 9')
    (copy / "manifest.json").write_bytes(text)
    (copy / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")
    with pytest.raises(ValueError, match="has version 9, this release reads version 1"):
        verify(copy)
    (copy / "manifest.json").write_text("{")
    assert [damage.file for damage in verify(copy).damages] == ["manifest.json", "manifest.json"]


def test_an_artifact_that_is_replaced_meanwhile_is_not_called_damaged(copy, tmp_path):
    shutil.copytree(copy, tmp_path / "new")

    def replace(*_):
        if (tmp_path / "new").exists():
            copy.rename(tmp_path / "old")
            (tmp_path / "new").rename(copy)

    with pytest.raises(ReplacedError, match="was replaced while it was being read; open it again"):
        verify(copy, progress=replace)
    assert verify(copy).ok

"""Checkpoints: round trips, strict opening, and crashes that leave the old one or the new one."""

import errno
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from crashes import run_and_kill, seconds_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_samples import layout, sample_layouts, whole_tables, write_whole

from screc.storage import Checkpoint, DamagedFileError, StoredTable, TableLayout, write_checkpoint
from screc.storage.checkpoint import tensor_specs

BANDED = layout("banded", 100, 6, (10, "dram"), (40, "tt"), (100, "ssd"))


def banded_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {
        name: rng.standard_normal(spec.shape).astype(spec.dtype)
        for name, spec in tensor_specs(BANDED).items()
    }
    order = rng.permutation(100)
    tensors["band.0.ids"], tensors["band.1.ids"] = np.sort(order[:10]), np.sort(order[10:40])
    return tensors


def write(path: Path, **more) -> Path:
    arguments = {
        "model": {"name": "dlrm"},
        "tables": [StoredTable(BANDED, "mean")],
        "dense": {"top.0.weight": np.ones((2, 3), np.float32)},
        "table_tensors": lambda t: banded_tensors(),
        "training": {"steps": 5},
    }
    write_checkpoint(path, **{**arguments, **more})
    return path


def test_round_trip(tmp_path):
    assets = tmp_path / "encoder"
    (assets / "deep").mkdir(parents=True)
    (assets / "deep" / "vocabulary.txt").write_text("words")
    path = write(tmp_path / "c", assets=assets, extra={"state/adam.json": lambda p: p.write_text("{}")})
    opened = Checkpoint.open(path)
    assert opened.model == {"name": "dlrm"}
    assert opened.training == {"steps": 5}
    assert opened.tables == (StoredTable(BANDED, "mean"),)
    assert (opened.assets / "deep" / "vocabulary.txt").read_text() == "words"
    np.testing.assert_array_equal(opened.dense()["top.0.weight"], np.ones((2, 3), np.float32))
    found, expected = opened.table(0), banded_tensors()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)
    library = safetensors.numpy.load_file(path / "tables" / "000.safetensors")
    np.testing.assert_array_equal(library["band.1.tt.1"], expected["band.1.tt.1"])
    listed = {entry.path for entry in opened.files}
    assert listed == {
        "dense.safetensors",
        "tables/000.safetensors",
        "assets/deep/vocabulary.txt",
        "state/adam.json",
    }
    for name in listed:
        opened.check(name)
    with pytest.raises(KeyError, match="lists no file 'other'"):
        opened.check("other")


def test_tables_are_asked_for_one_by_one_in_order(tmp_path):
    layouts, asked = sample_layouts(), []
    tables = whole_tables(layouts)

    def tensors(table):
        asked.append(table)
        return {"band.0.rows": tables[table]}

    write_whole(tmp_path / "c", layouts, tables, table_tensors=tensors)
    assert asked == list(range(len(layouts)))
    opened = Checkpoint.open(tmp_path / "c")
    for table, rows in enumerate(tables):
        np.testing.assert_array_equal(opened.table(table)["band.0.rows"], rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("band.0.ids"), "table banded: the tensor file lacks tensor 'band.0.ids'"),
        (
            lambda t: t.update({"band.3.rows": np.ones(1)}),
            "has tensor 'band.3.rows' that its layout does not",
        ),
        (
            lambda t: t.update({"band.0.rows": np.ones((9, 6), np.float32)}),
            r"has tensor 'band.0.rows' as float32 \[9, 6\], its layout says float32 \[10, 6\]",
        ),
        (lambda t: t.update({"band.0.rows": np.ones((10, 6))}), "as float64"),
    ],
)
def test_tensors_that_do_not_fit_the_layout_are_refused(tmp_path, change, message):
    tensors = banded_tensors()
    change(tensors)
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "c", table_tensors=lambda t: tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../x", "/x", "model.json", "assets/x", "tables/000.safetensors", "a//b", ""]
)
def test_extra_files_stay_inside_and_apart(tmp_path, name):
    with pytest.raises(ValueError, match=r"must be relative|is a file of the checkpoint itself"):
        write(tmp_path / "c", extra={name: lambda p: p.write_text("x")})
    assert list(tmp_path.iterdir()) == []


def test_names_are_unique_and_values_are_json(tmp_path):
    with pytest.raises(ValueError, match="two tables are named 'banded'"):
        write(tmp_path / "c", tables=[StoredTable(BANDED, "sum")] * 2)
    with pytest.raises(ValueError, match=r"model.json: .*only finite numbers"):
        write(tmp_path / "c", training={"loss": float("nan")})
    with pytest.raises(ValueError, match="should be 'sum' or 'mean'"):
        StoredTable(BANDED, "max")


def test_only_checkpoints_are_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    with pytest.raises(FileExistsError, match="is not ours to replace"):
        write(tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").exists()
    write(tmp_path / "c")
    write(tmp_path / "c", training={"steps": 6})
    assert Checkpoint.open(tmp_path / "c").training == {"steps": 6}


def test_what_is_no_checkpoint_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not a checkpoint: it has no model.json"):
        Checkpoint.open(tmp_path / "nothing")
    description = write(tmp_path / "c") / "model.json"
    good = json.loads(description.read_text())

    def refuse(change, error, message):
        description.write_text(json.dumps({**good, **change}))
        with pytest.raises(error, match=message):
            Checkpoint.open(tmp_path / "c")

    refuse(
        {"format": "screc-artifact"}, ValueError, "has format 'screc-artifact', expected 'screc-checkpoint'"
    )
    refuse({"version": 2}, ValueError, "has version 2, this release reads version 1")
    refuse({"more": 1}, DamagedFileError, "field 'more': Extra inputs")
    refuse({"tables": [{"pooling": "sum"}]}, DamagedFileError, r"field 'tables.0.layout'")
    refuse({"files": []}, DamagedFileError, "does not list dense.safetensors")
    outside = [*good["files"], {"path": "../../etc/passwd", "bytes": 1, "crc32c": 1}]
    refuse({"files": outside}, DamagedFileError, "must be relative")
    for text in (b"", b"{", b"[]", b"\xff", b"[" * 100000):
        description.write_bytes(text)
        with pytest.raises(ValueError, match=r"model\.json"):
            Checkpoint.open(tmp_path / "c")


def test_missing_and_cut_files_are_told_at_open(tmp_path):
    path = write(tmp_path / "c")
    file = path / "tables" / "000.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(
        DamagedFileError, match=rf"000.safetensors has {len(data) - 1} bytes, expected {len(data)}"
    ):
        Checkpoint.open(path)
    file.unlink()
    with pytest.raises(DamagedFileError, match=r"000.safetensors is missing"):
        Checkpoint.open(path)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_of_a_file_is_found(tmp_path, data):
    path = write(tmp_path / "c", extra={"state.bin": lambda p: p.write_bytes(bytes(100))})
    opened = Checkpoint.open(path)
    name = data.draw(st.sampled_from([entry.path for entry in opened.files]))
    content = bytearray((path / name).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (path / name).write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"{name} is damaged: its CRC32C is"):
        opened.check(name)
    if name == "dense.safetensors":
        with pytest.raises(DamagedFileError):
            opened.dense()


def test_damaged_assets_are_told_at_open(tmp_path):
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "schema.json").write_text("{}")
    path = write(tmp_path / "c", assets=tmp_path / "encoder")
    (path / "assets" / "schema.json").write_text("[]")
    with pytest.raises(DamagedFileError, match=r"assets/schema.json is damaged"):
        Checkpoint.open(path)


def test_a_full_disk_keeps_the_old_one(tmp_path):
    path = write(tmp_path / "c")

    def fill(file: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"No space left on device while writing .*unchanged; free space"):
        write(path, training={"steps": 6}, extra={"state": fill})
    assert Checkpoint.open(path).training == {"steps": 5}
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]


def test_killed_at_any_moment(tmp_path):
    """The description, the dense weights and the tables always come from one write."""
    whole = TableLayout.dense("t", 500, 8)
    path, rng = tmp_path / "c", random.Random(0)

    def one(generation: int) -> None:
        full = np.full((500, 8), generation, np.float32)
        write_checkpoint(
            path,
            model={},
            tables=[StoredTable(whole, "sum")],
            dense={"w": full[:1]},
            table_tensors=lambda t: {"band.0.rows": full},
            training={"generation": generation},
        )

    def many() -> None:
        first = Checkpoint.open(path).training["generation"]
        for generation in range(first + 1, first + 10000):
            one(generation)

    one(0)
    span, generation = 3 * seconds_of(lambda: one(0)), 0
    for _ in range(40):
        assert run_and_kill(many, after=rng.random() * span)
        opened = Checkpoint.open(path)
        before, generation = generation, opened.training["generation"]
        if generation == before:
            span *= 1.1  # the machine may have become slower since
        assert (opened.dense()["w"] == generation).all()
        opened.check("tables/000.safetensors")
        assert (opened.table(0)["band.0.rows"] == generation).all()
    assert generation > 0
    one(0)
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]

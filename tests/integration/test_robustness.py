"""Damage, wrong input and directories that are replaced, as a user of the engine meets them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from screc.data import Batch, TableSpec
from screc.models import DLRM, DlrmConfig
from screc.serving import Engine
from screc.storage import (
    Artifact,
    Band,
    Checkpoint,
    RowStore,
    TableLayout,
    TtShape,
    pack,
    verify,
)
from screc.training import load_model, save_model
from screc.training.evaluation import batch_tensors

DIM, NUM_DENSE = 6, 3  # 169 rows a page and 8 bytes of padding
SPECS = (TableSpec("three", 3000, "sum"), TableSpec("plain", 500, "mean"))
FILES = (
    "manifest.json",
    "manifest.sha256",
    "dense.safetensors",
    "tables.safetensors",
    "pages/0.2.pages",
    "assets/note.txt",
)
PAGES = "pages/0.2.pages"
ROWS_PER_PAGE, NUM_PAGES = 169, 18
Faults = (ValueError, OSError)


@dataclass(frozen=True)
class Served:
    """A packed model, a batch that looks up all of its rows, and what PyTorch predicts for it."""

    path: Path
    batch: Batch
    expected: np.ndarray


def build(seed: int) -> DLRM:
    """A model with a table in all three memories and one that is whole."""
    bands = (
        Band(start=0, stop=20, format="fp32", memory="dram"),
        Band(start=20, stop=200, format="tt", memory="dram", tt=TtShape.balanced(180, DIM, 4)),
        Band(start=200, stop=3000, format="fp32", memory="ssd"),
    )
    layouts = [
        TableLayout(table="three", num_embeddings=3000, embedding_dim=DIM, bands=bands),
        TableLayout.dense("plain", 500, DIM),
    ]
    config = DlrmConfig(num_dense=NUM_DENSE, embedding_dim=DIM, bottom_mlp=(8, DIM), top_mlp=(8, 1))
    hot = np.arange(200, dtype=np.int64) * 15  # spread over the pages
    return DLRM.build(config, SPECS, layouts=layouts, band_ids={0: [hot[:20], hot[20:]]}, seed=seed)


def torch_predictions(model: DLRM, batch: Batch) -> np.ndarray:
    with torch.inference_mode():
        return torch.sigmoid(model(*batch_tensors(batch))).numpy()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    root = tmp_path_factory.mktemp("served")
    (root / "assets").mkdir()
    (root / "assets" / "note.txt").write_text("how to read the input")
    save_model(build(0), root / "checkpoint", assets=root / "assets")
    pack(root / "checkpoint", None, None, root / "artifact")
    rng = np.random.default_rng(0)
    lengths = np.concatenate([np.full(1000, 3), np.tile([0, 1, 2, 2], 250)])
    batch = Batch(
        dense=rng.standard_normal((1000, NUM_DENSE)).astype(np.float32),
        ids=np.concatenate([rng.permutation(3000), rng.integers(0, 500, lengths[1000:].sum())]),
        offsets=np.append(0, np.cumsum(lengths)).astype(np.int64),
    )
    return Served(root / "artifact", batch, torch_predictions(load_model(root / "checkpoint"), batch))


@pytest.fixture
def copy(served: Served, tmp_path: Path) -> Path:
    shutil.copytree(served.path, tmp_path / "artifact")
    return tmp_path / "artifact"


def flip(file: Path, offset: int, mask: int = 1) -> None:
    with file.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ mask]))


def only(batch: Batch, ids: np.ndarray) -> Batch:
    """One sample per id of the first table; the other table's bags are empty."""
    size = len(ids)
    offsets = np.minimum(np.arange(2 * size + 1), size)
    return Batch(dense=batch.dense[:size], ids=ids.astype(np.int64), offsets=offsets.astype(np.int64))


# ------------------------------------------------------------------------------------------------- row cache


@dataclass(frozen=True)
class Placed:
    """A plan as packing sees it: the bands a checkpoint was trained in, and a row cache."""

    layouts: tuple[TableLayout, ...]
    row_cache_bytes: int
    row_cache_policy: str

    def to_dict(self) -> dict[str, Any]:
        return {
            "options": {"row_cache_bytes": self.row_cache_bytes, "row_cache_policy": self.row_cache_policy}
        }


@pytest.mark.parametrize("policy", ["sketch", "lru"])
def test_the_engine_makes_the_row_cache_of_the_plan_and_answers_the_same(
    served: Served, tmp_path: Path, policy: str
) -> None:
    checkpoint = served.path.parent / "checkpoint"
    layouts = tuple(table.layout for table in Checkpoint.open(checkpoint).tables)
    pack(checkpoint, None, Placed(layouts, 60_000, policy), tmp_path / "planned")
    whole = Engine.open(served.path, threads=1)
    assert whole.stats().cache_bytes == 0
    planned = Engine.open(tmp_path / "planned", threads=1)
    assert 50_000 < planned.stats().cache_bytes <= 60_000
    assert Engine.open(tmp_path / "planned", cache_bytes=0).stats().cache_bytes == 0
    assert Engine.open(served.path, cache_bytes=20_000).stats().cache_bytes > 15_000
    want = whole.predict(served.batch)
    for _ in range(3):
        np.testing.assert_array_equal(planned.predict(served.batch), want)
    assert planned.stats().cache_hits > 0
    assert planned.stats().pages_read < 3 * whole.stats().pages_read


def test_prefetched_look_ups_are_look_ups(served: Served) -> None:
    store = RowStore.open(served.path, cache_bytes=50_000)
    batch, size = served.batch, len(served.batch.dense)
    want = store.lookup(batch.ids, batch.offsets, size)
    out = np.empty_like(want)
    tickets = [
        store.prefetch(batch.ids, batch.offsets, size),
        store.prefetch(batch.ids, batch.offsets, size, out),
    ]
    tickets[0].poll()
    assert tickets[1].finish() is out
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(tickets[0].finish(), want)
    with pytest.raises(RuntimeError, match="finished already"):
        tickets[0].finish()


# ---------------------------------------------------------------------------------------------------- damage


def test_the_engine_equals_pytorch_on_every_row(served: Served) -> None:
    engine = Engine.open(served.path)
    np.testing.assert_allclose(engine.predict(served.batch), served.expected, atol=1e-5)
    stats = engine.stats()
    assert min(stats.dram_rows, stats.tt_rows, stats.ssd_rows) > 0
    assert (served.path / PAGES).stat().st_size == NUM_PAGES * 4096
    files = {file.relative_to(served.path).as_posix() for file in served.path.rglob("*") if file.is_file()}
    assert files == set(FILES)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_flipped_byte_never_reaches_a_prediction(copy: Path, served: Served, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(FILES))
    offset = data.draw(st.integers(0, (copy / name).stat().st_size - 1))
    mask = data.draw(st.integers(1, 255))
    flip(copy / name, offset, mask)
    try:
        with pytest.raises(Faults) as caught:
            Engine.open(copy, threads=1).predict(served.batch)
        assert str(copy / name.replace(".sha256", ".")).rstrip(".") in str(caught.value)
        if name == PAGES:
            assert f"page {offset // 4096} of " in str(caught.value)
            assert "(table 0, band 2)" in str(caught.value)
    finally:
        flip(copy / name, offset, mask)


# Checksum, magic, version, flags, table, page number, band, bytes in use, payload, padding.
@pytest.mark.parametrize("offset", [0, 4, 8, 10, 12, 16, 24, 28, 32, 2000, 4087, 4088, 4095])
@pytest.mark.parametrize("io", ["auto", "pread"])
def test_a_damaged_page_is_found_when_it_is_read(copy: Path, served: Served, offset: int, io: str) -> None:
    flip(copy / PAGES, 7 * 4096 + offset)
    engine = Engine.open(copy, threads=1, io=io)  # looks at the first page and the last
    ids = np.arange(3000)
    sound = ids[(ids // ROWS_PER_PAGE != 7) | (ids % 15 == 0)][:1000]
    good = Engine.open(served.path, threads=1)
    np.testing.assert_array_equal(
        engine.predict(only(served.batch, sound)), good.predict(only(served.batch, sound))
    )
    with pytest.raises(OSError, match=rf"page 7 of {copy / PAGES} \(table 0, band 2\) is damaged"):
        engine.predict(only(served.batch, np.array([7 * ROWS_PER_PAGE + 1])))
    # The engine goes on with what is sound.
    np.testing.assert_array_equal(
        engine.predict(only(served.batch, sound)), good.predict(only(served.batch, sound))
    )


@pytest.mark.parametrize("page", [0, NUM_PAGES - 1])
def test_damage_of_the_outer_pages_is_found_when_it_is_opened(copy: Path, page: int) -> None:
    flip(copy / PAGES, page * 4096 + 99)
    with pytest.raises(OSError, match=rf"page {page} of {copy / PAGES} \(table 0, band 2\) is damaged"):
        Engine.open(copy)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["cut", "empty", "grown", "missing"])
def test_files_of_another_size_are_named(copy: Path, name: str, change: str) -> None:
    file = copy / name
    data = file.read_bytes()
    if change == "missing":
        file.unlink()
    else:
        file.write_bytes({"cut": data[:-1], "empty": b"", "grown": data + b"x"}[change])
    with pytest.raises(Faults) as caught:
        Engine.open(copy)
    assert name in str(caught.value) or (change == "missing" and "is not an artifact" in str(caught.value))


def test_a_page_file_that_is_cut_while_it_is_served(copy: Path, served: Served) -> None:
    engine = Engine.open(copy, threads=1)
    os.truncate(copy / PAGES, 5 * 4096)
    with pytest.raises(OSError, match=rf"page \d+ of {copy / PAGES} is truncated"):
        engine.predict(served.batch)
    assert engine.predict(only(served.batch, np.arange(800))).shape == (800,)


def test_the_engine_opens_one_of_two_artifacts_while_they_are_exchanged(
    served: Served, tmp_path: Path
) -> None:
    save_model(build(1), tmp_path / "checkpoint")
    pack(tmp_path / "checkpoint", None, None, tmp_path / "other")
    sources = (served.path, tmp_path / "other")
    answers = [Engine.open(path, threads=1).predict(served.batch) for path in sources]
    assert not np.allclose(*answers)
    shutil.copytree(served.path, tmp_path / "artifact")
    code = (
        "import itertools, shutil, sys, time\n"
        "from screc.storage import replace_directory\n"
        "target, *sources = sys.argv[1:]\n"
        "for source in itertools.cycle(sources):\n"
        "    with replace_directory(target) as directory:\n"
        "        shutil.copytree(source, directory, dirs_exist_ok=True)\n"
        "    time.sleep(0.03)\n"
    )
    paths = [tmp_path / "artifact", tmp_path / "other", served.path]
    child = subprocess.Popen([sys.executable, "-c", code, *map(str, paths)])
    try:
        seen, stop = set(), time.monotonic() + 60
        while len(seen) < 2 and time.monotonic() < stop:
            got = Engine.open(tmp_path / "artifact", threads=1).predict(served.batch)
            which = [np.array_equal(got, answer) for answer in answers]
            assert sum(which) == 1
            seen.add(which.index(True))
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    assert seen == {0, 1}


def test_the_engine_opens_the_new_artifact_when_the_old_one_goes_meanwhile(
    served: Served, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(build(1), tmp_path / "checkpoint")
    pack(tmp_path / "checkpoint", None, None, tmp_path / "other")
    expected = Engine.open(tmp_path / "other", threads=1).predict(served.batch)
    opened = []

    class Store(RowStore):
        @classmethod
        def open(cls, path: Artifact, **options: Any) -> RowStore:
            store = RowStore.open(path, **options)
            if not opened:  # between the rows and the dense weights
                pack(tmp_path / "checkpoint", None, None, copy)
            opened.append(path)
            return store

    monkeypatch.setattr("screc.serving.engine.RowStore", Store)
    np.testing.assert_array_equal(Engine.open(copy, threads=1).predict(served.batch), expected)
    assert len(opened) == 2


def test_a_checkpoint_that_is_replaced_while_it_is_packed(tmp_path: Path) -> None:
    """Training that goes on must not mix its next checkpoint into the artifact."""
    save_model(build(0), tmp_path / "checkpoint")
    pack(tmp_path / "checkpoint", None, None, tmp_path / "artifact")
    before = (tmp_path / "artifact" / "manifest.json").read_bytes()
    done = False

    def replace_once(*_: object) -> None:
        nonlocal done
        if not done:
            done = True
            save_model(build(1), tmp_path / "checkpoint")

    with pytest.raises(OSError, match="checkpoint was replaced while it was being read"):
        pack(tmp_path / "checkpoint", None, None, tmp_path / "artifact", progress=replace_once)
    assert (tmp_path / "artifact" / "manifest.json").read_bytes() == before
    assert verify(tmp_path / "artifact").ok


# ------------------------------------------------------------------------------------------------ wrong input


def wrong_batches(batch: Batch) -> dict[str, tuple[Batch, type[Exception], str]]:
    def ids(position: int, value: int) -> Batch:
        changed = batch.ids.copy()
        changed[position] = value
        return replace(batch, ids=changed)

    def offsets(position: int, value: int) -> Batch:
        changed = batch.offsets.copy()
        changed[position] = value
        return replace(batch, offsets=changed)

    def dense(value: float) -> Batch:
        changed = batch.dense.copy()
        changed[999, 2] = value
        return replace(batch, dense=changed)

    wide = np.zeros((1000, 2 * NUM_DENSE), np.float32)[:, ::2]
    return {
        "id too large": (ids(5, 3000), ValueError, r"ids\[5\] is 3000, outside table 0 of 3000 rows"),
        "id huge": (ids(2999, 2**62), ValueError, rf"ids\[2999\] is {2**62}, outside table 0"),
        "id negative": (ids(0, -1), ValueError, r"ids\[0\] is -1, outside table 0 of 3000 rows"),
        "id of the second table": (ids(-1, 500), ValueError, r"is 500, outside table 1 of 500 rows"),
        "nan": (dense(np.nan), ValueError, r"dense\[999, 2\] = nan is not finite"),
        "inf": (dense(np.inf), ValueError, r"dense\[999, 2\] = inf is not finite"),
        "unsorted": (
            offsets(7, 0),
            ValueError,
            r"offsets\[7\] is 0 \(table 0, sample 7\), below the 18 before it; offsets must not decrease",
        ),
        "offset too large": (
            offsets(7, 10**9),
            ValueError,
            r"offsets\[7\] is 1000000000 .* are 4250 ids",
        ),
        "offset negative": (offsets(1, -3), ValueError, r"offsets\[1\] is -3 \(table 0, sample 1\)"),
        "first offset": (offsets(0, 1), ValueError, "offsets: must run from 0 to the number of ids"),
        "last offset": (offsets(-1, 9), ValueError, "offsets: must run from 0 to the number of ids"),
        "ids of int32": (
            replace(batch, ids=batch.ids.astype(np.int32)),
            TypeError,
            "ids: expected dtype int64; convert it",
        ),
        "offsets of float": (
            replace(batch, offsets=batch.offsets.astype(np.float64)),
            TypeError,
            "offsets: expected dtype int64",
        ),
        "dense of float64": (
            replace(batch, dense=batch.dense.astype(np.float64)),
            TypeError,
            "dense: expected dtype float32",
        ),
        "dense of one dimension": (
            replace(batch, dense=batch.dense[:, 0].copy()),
            ValueError,
            r"dense: expected 2 dimension\(s\), got shape \[1000\]",
        ),
        "dense with gaps": (replace(batch, dense=wide), ValueError, "dense: must be C-contiguous"),
        "too few columns": (
            replace(batch, dense=batch.dense[:, :2].copy()),
            ValueError,
            "dense: expected 3 columns, got 2",
        ),
        "one table": (
            replace(batch, offsets=batch.offsets[:1001], ids=batch.ids[:3000]),
            ValueError,
            r"offsets: expected 2001 entries \(tables \* batch size \+ 1\), got 1001",
        ),
        "three tables": (
            replace(batch, offsets=np.append(batch.offsets, np.full(1000, batch.ids.size))),
            ValueError,
            r"offsets: expected 2001 entries .* got 3001",
        ),
    }


def test_wrong_batches_are_refused_and_the_engine_goes_on(served: Served) -> None:
    engine = Engine.open(served.path)
    before = engine.predict(served.batch)
    for case, (batch, error, message) in wrong_batches(served.batch).items():
        with pytest.raises(error, match=message):
            engine.predict(batch)
        np.testing.assert_array_equal(engine.predict(served.batch), before, err_msg=case)


def test_wrong_look_ups_are_refused(served: Served) -> None:
    store = RowStore.open(served.path)
    for bad in (-1, 3000, 2**40, -(2**63)):
        with pytest.raises(ValueError, match=rf"ids\[1\] is {bad}, outside table 0 of 3000 rows"):
            store.gather("three", np.array([0, bad]))
    with pytest.raises(TypeError, match="ids: expected dtype int64"):
        store.gather(0, np.zeros(2, np.float32))
    with pytest.raises(KeyError, match="no table 'four'; the artifact has three, plain"):
        store.gather("four", np.zeros(1, np.int64))
    for name in ("id too large", "unsorted", "ids of int32"):
        batch, error, message = wrong_batches(served.batch)[name]
        with pytest.raises(error, match=message):
            store.lookup(batch.ids, batch.offsets, 1000)
    with pytest.raises(ValueError, match=r"offsets: expected 2 tables x 999 samples \+ 1 = 1999 entries"):
        store.lookup(served.batch.ids, served.batch.offsets, 999)


def test_nothing_asked_nothing_answered(served: Served) -> None:
    engine, store = Engine.open(served.path), RowStore.open(served.path)
    none = Batch(np.zeros((0, NUM_DENSE), np.float32), np.zeros(0, np.int64), np.zeros(1, np.int64))
    assert engine.predict(none).shape == (0,)
    assert store.gather("three", np.zeros(0, np.int64)).shape == (0, DIM)
    assert store.lookup(none.ids, none.offsets, 0).shape == (0, 2 * DIM)
    assert engine.stats().lookups == store.stats().lookups == 0


def test_empty_bags_are_zero_vectors_as_in_pytorch(served: Served) -> None:
    size = 20
    bare = Batch(served.batch.dense[:size], np.zeros(0, np.int64), np.zeros(2 * size + 1, np.int64))
    pooled = RowStore.open(served.path).lookup(bare.ids, bare.offsets, size)
    assert not pooled.any()
    assert pooled.shape == (size, 2 * DIM)
    for mode in ("sum", "mean"):
        bag = torch.nn.EmbeddingBag(3, DIM, mode=mode)
        assert not bag(torch.zeros(0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)).any()
    np.testing.assert_allclose(
        Engine.open(served.path).predict(bare), torch_predictions(build(0), bare), atol=1e-5
    )

"""Tables of more than 2^31 elements: trained, packed and served, without as much memory or disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from screc import _native
from screc.data import Batch, TableSpec
from screc.models import DLRM, DlrmConfig
from screc.serving import Engine, score
from screc.statistics import AccessStatistics
from screc.storage import (
    Band,
    PageGeometry,
    RowStore,
    StoredTable,
    TableLayout,
    TensorFile,
    TtShape,
    pack,
    verify,
    write_arrays,
    write_checkpoint,
)
from screc.storage.artifact import (
    DENSE_FILE,
    FORMAT,
    TABLES_FILE,
    VERSION,
    Manifest,
    PackedTable,
    pages_file,
    write_manifest,
)
from screc.storage.band_source import BandSource
from screc.storage.checksum import FileEntry
from screc.training import TrainingConfig, load_model, predict, train
from screc.training.evaluation import batch_tensors

ROWS, DIM = 40_000_000, 64
FAR = np.array([0, 1, 33_554_431, 33_554_432, 33_554_433, ROWS - 2, ROWS - 1])  # about and past 2^31 elements
assert ROWS * DIM > 2**31


def far_rows(rows: np.ndarray) -> np.ndarray:
    """Rows that tell their ids, float32 [n, DIM]."""
    return (rows[:, None] % 1009 + np.arange(DIM) / 128).astype(np.float32)


def sparse_rows(path: Path) -> TensorFile:
    """A table of zeros as a checkpoint's file with holes, in which only the far rows were written."""
    num_bytes = ROWS * DIM * 4
    tensor = {"dtype": "F32", "shape": [ROWS, DIM], "data_offsets": [0, num_bytes]}
    header = json.dumps({"band.0.rows": tensor}).encode()
    header += b" " * (-(len(header) + 8) % 64)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        start = file.tell()
        file.truncate(start + num_bytes)
        for row, values in zip(FAR, far_rows(FAR), strict=True):
            file.seek(start + int(row) * DIM * 4)
            file.write(values.tobytes())
    return TensorFile(path)


def test_rows_of_a_checkpoint_and_in_dram(tmp_path: Path) -> None:
    file = sparse_rows(tmp_path / "table.safetensors")
    layout = TableLayout.dense("t", ROWS, DIM)
    source = BandSource(file, layout, layout, None)
    np.testing.assert_array_equal(source.rows(0, FAR), far_rows(FAR))
    np.testing.assert_array_equal(source.rows(0, FAR[::-1] - 3), source.rows(0, (FAR - 3))[::-1])

    store = _native.RowStore(threads=2)
    store.add_table(ROWS, DIM)
    store.add_dram_band(0, file["band.0.rows"])
    out = np.empty((len(FAR), DIM), np.float32)
    store.gather(0, FAR, out)
    np.testing.assert_array_equal(out, far_rows(FAR))
    pooled = np.empty((1, DIM), np.float32)
    store.lookup(FAR, np.array([0, len(FAR)]), 1, pooled)
    np.testing.assert_allclose(pooled[0], far_rows(FAR).sum(axis=0), rtol=1e-6)
    assert store.stats().dram_bytes == ROWS * DIM * 4


def test_an_artifact_on_ssd(tmp_path: Path) -> None:
    """The page file has holes; the pages that are looked up are real."""
    layout = TableLayout(
        table="t",
        num_embeddings=ROWS,
        embedding_dim=DIM,
        bands=(Band(start=0, stop=ROWS, format="fp32", memory="ssd"),),
    )
    geometry = PageGeometry.of(DIM * 4)
    path = tmp_path / "artifact"
    (path / "pages").mkdir(parents=True)
    size = geometry.num_pages(ROWS) * 4096
    with (path / pages_file(0, 0)).open("wb") as file:
        file.truncate(size)
        for page in np.unique(FAR // geometry.rows_per_page).tolist():
            first = page * geometry.rows_per_page
            rows = np.arange(first, min(first + geometry.rows_per_page, ROWS))
            pages = np.empty((1, 4096), np.uint8)
            _native.fill_pages(far_rows(rows).view(np.uint8), 0, 0, page, pages)
            file.seek(page * 4096)
            file.write(pages.tobytes())
    weight = np.linspace(-0.01, 0.01, DIM, dtype=np.float32)[None]
    dense = {"top.0.weight": weight, "top.0.bias": np.zeros(1, np.float32)}
    files = (
        write_arrays(path / DENSE_FILE, dense),
        write_arrays(path / TABLES_FILE, {}),
        FileEntry(path=pages_file(0, 0), bytes=size, crc32c=0),  # compared by `screc verify` only
    )
    model = {"name": "dlrm", "num_dense": 0, "embedding_dim": DIM, "bottom_mlp": [], "top_mlp": [1]}
    table = PackedTable(layout, "sum", (None,), (None,))
    manifest = Manifest(
        format=FORMAT,
        version=VERSION,
        model=model | {"interaction": "cat"},
        tables=(table,),
        files=files,
        plan=None,
    )
    write_manifest(path, manifest)

    np.testing.assert_array_equal(RowStore.open(path, threads=1).gather("t", FAR), far_rows(FAR))
    batch = Batch(np.empty((len(FAR), 0), np.float32), FAR, np.arange(len(FAR) + 1))
    logits = far_rows(FAR).astype(np.float64) @ weight[0]
    np.testing.assert_allclose(Engine.open(path).predict(batch), 1 / (1 + np.exp(-logits)), atol=1e-5)


class FarLog:
    """Clicks on a few of the rows of a huge table, most of them past 2^31 elements."""

    tables = (TableSpec("huge", 140_000_000, "sum"), TableSpec("small", 50, "mean"))
    num_dense = 0
    num_samples = 600

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.known = np.sort(rng.integers(0, 140_000_000, 400))
        self.known[-1] = 139_999_999
        huge = self.known[np.minimum(rng.geometric(0.005, self.num_samples), 400) - 1]
        small = rng.integers(0, 50, self.num_samples)
        self.whole = Batch(
            dense=np.empty((self.num_samples, 0), np.float32),
            ids=np.concatenate([huge, small]),
            offsets=np.arange(2 * self.num_samples + 1),
            labels=(huge % 2).astype(np.float32),
        )

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        for start in range(skip, self.num_samples, batch_size):
            yield self.whole.rows(start, start + batch_size)


def test_a_tensor_train_from_training_to_prediction(tmp_path: Path) -> None:
    """The cold rows are a tensor train, the hot ones stand in DRAM and on SSD: 2.2e9 elements in 1 MB."""
    log, dim = FarLog(), 16
    statistics = AccessStatistics.collect(log)
    rows = log.tables[0].num_embeddings
    assert rows * dim > 2**31
    shape = TtShape.balanced(rows, dim, 2)
    bands = (
        Band(start=0, stop=50, format="fp32", memory="dram"),
        Band(start=50, stop=200, format="fp32", memory="ssd"),
        Band(start=200, stop=rows, format="tt", memory="dram", tt=shape),
    )
    layouts = [
        TableLayout(table="huge", num_embeddings=rows, embedding_dim=dim, bands=bands),
        TableLayout.dense("small", 50, dim),
    ]
    config = DlrmConfig(num_dense=0, embedding_dim=dim, bottom_mlp=(), top_mlp=(8, 1))
    model = DLRM.build(config, log.tables, layouts=layouts, band_ids=statistics.band_ids(layouts))
    torch.set_num_threads(1)
    train(model, log, TrainingConfig(batch_size=50, num_threads=1), out=tmp_path / "model")
    pack(tmp_path / "model", statistics, None, tmp_path / "artifact")
    engine = Engine.open(tmp_path / "artifact", threads=1)
    report = score(engine, log, out=tmp_path / "p.npy")
    expected = predict(load_model(tmp_path / "model"), log)
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, atol=1e-5)
    store = report.store
    assert min(store["dram_rows"], store["tt_rows"], store["ssd_rows"]) > 0
    # Rows that nobody has seen, on both sides of 2^31 elements and the last ones.
    ids = np.array([2**27 - 1, 2**27, 2**27 + 1, rows - 2, rows - 1])
    batch = Batch(
        dense=np.empty((len(ids), 0), np.float32),
        ids=np.append(ids, np.arange(len(ids))),
        offsets=np.arange(2 * len(ids) + 1),
    )
    with torch.inference_mode():
        unseen = torch.sigmoid(model(*batch_tensors(batch))).numpy()
    np.testing.assert_allclose(engine.predict(batch), unseen, atol=1e-5)


def test_a_sparse_table_beyond_32_bits_of_rows_and_40_of_bytes(tmp_path: Path) -> None:
    """6 billion rows in a file of 1.6 TB, of which pages on both sides of every power of two are written."""
    rows = 6_000_000_000
    layout = TableLayout(
        table="t",
        num_embeddings=rows,
        embedding_dim=DIM,
        bands=(
            Band(start=0, stop=3, format="fp32", memory="dram"),
            Band(start=3, stop=rows, format="fp32", memory="ssd"),
        ),
    )
    geometry = PageGeometry.of(4 * DIM)
    assert geometry.file_bytes(rows) > 2**40
    powers = [2**31, 2**32, 2**31 // DIM, 2**32 // DIM, 2**40 // 4096 * geometry.rows_per_page]
    edges = np.array([0, rows - 1, *(power + near for power in powers for near in (-1, 0, 1))])
    known = np.unique(np.concatenate((edges, np.random.default_rng(0).integers(0, rows, 2000))))
    hot = known[[5, 500, 1500]]
    tensors = {
        "band.0.ids": known,
        "band.0.rows": far_rows(known),
        "band.0.default": np.full(DIM, -1, np.float32),
    }
    model = {"name": "dlrm", "num_dense": 0, "embedding_dim": DIM, "bottom_mlp": [], "top_mlp": [1]}
    weight = np.linspace(-0.01, 0.01, DIM, dtype=np.float32)[None]
    write_checkpoint(
        tmp_path / "model",
        model=model | {"interaction": "cat"},
        tables=[StoredTable(TableLayout.dense("t", rows, DIM), "sum", len(known))],
        dense={"top.0.weight": weight, "top.0.bias": np.zeros(1, np.float32)},
        table_tensors=lambda _: tensors,
        training={},
    )

    class Ranks:
        name, num_embeddings, tables = "t", rows, ()

        def ids_in_ranks(self, start: int, stop: int) -> np.ndarray:
            return hot[start:stop]

        def shares_in_ranks(self, start: int, stop: int) -> np.ndarray:
            return np.full(stop - start, 1 / rows)

    Ranks.tables = (Ranks(),)
    plan = SimpleNamespace(layouts=[layout], to_dict=dict)
    report = pack(tmp_path / "model", Ranks(), plan, tmp_path / "artifact")
    assert report.ssd_bytes == geometry.file_bytes(rows)
    assert (tmp_path / "artifact" / pages_file(0, 1)).stat().st_blocks * 512 < 10 * 2**20
    verified = verify(tmp_path / "artifact")
    assert verified.ok, verified.damages
    assert (verified.pages + verified.holes) * 4096 == report.ssd_bytes

    store = RowStore.open(tmp_path / "artifact", threads=2, cache_bytes=1 << 20)
    unknown = np.setdiff1d(np.concatenate((known + 1, known - 1, known ^ 2**32, known ^ 2**30)) % rows, known)
    for _ in range(3):  # from the drive, then from the cache
        np.testing.assert_array_equal(store.gather("t", known), far_rows(known))
        np.testing.assert_array_equal(
            store.gather("t", unknown), np.full((len(unknown), DIM), -1, np.float32)
        )
    assert store.stats().cache_hits > 0
    with pytest.raises(ValueError, match=f"ids\\[0\\] is {rows}, outside table 0 of {rows} rows"):
        store.gather("t", np.array([rows]))

    engine = Engine.open(tmp_path / "artifact", threads=2)
    batch = Batch(np.empty((len(known), 0), np.float32), known, np.arange(len(known) + 1))
    logits = far_rows(known).astype(np.float64) @ weight[0]
    np.testing.assert_allclose(engine.predict(batch), 1 / (1 + np.exp(-logits)), atol=1e-5)

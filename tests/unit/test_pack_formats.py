"""Packing rows into other formats than float32: bytes, values and the error that is reported."""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np
import pytest
from planning_samples import zipf_statistics
from row_formats import FORMATS, decode, encode
from storage_samples import Plan, layout, random_ranks, whole_tables, write_whole
from test_pack import banded_checkpoint, open_store

from screc import _native
from screc.planning import make_plan, reference_system
from screc.storage import Artifact, Band, DamagedFileError, TableLayout, pack, verify
from screc.storage.row_format import decode_rows, encode_rows, row_bytes
from screc.storage.shared_scale import spanning_scale


def layouts() -> list[TableLayout]:
    """Every format in DRAM and on SSD, scales of rows and of bands, formats mixed and beside cores."""
    one = [layout(f"{m}-{f}", 300, 7, (300, f"{m}/{f}")) for m in ("dram", "ssd") for f in FORMATS]
    return [
        *one,
        layout("shared", 500, 6, (40, "dram/int8/table"), (500, "ssd/int8/table")),
        layout("shared-int4", 400, 5, (400, "dram/int4/table")),
        layout("mixed", 900, 8, (30, "dram"), (200, "dram/int8"), (600, "tt"), (900, "ssd/int4")),
        layout("long", 9, 5000, (4, "dram/fp16"), (9, "ssd/int8")),
        layout(
            "many",
            900,
            8,
            (9, "dram"),
            (50, "ssd/int8"),
            (300, "dram/int4"),
            (400, "ssd"),
            (600, "tt"),
            (900, "dram/fp16"),
        ),
    ]


def values_of(rows: np.ndarray, row_format: str, scale: tuple[float, float] | None) -> np.ndarray:
    """What rows come back as."""
    return decode(encode(rows, row_format, scale), row_format, rows.shape[1], scale)


def scale_of(path, table: int, band: int) -> tuple[float, float] | None:
    """The scale and bias that a packed band's rows share, if they do."""
    stored = Artifact.open(path).load_tables().get(f"{table}.{band}.scale")
    return None if stored is None else (float(stored[0]), float(stored[1]))


def test_rows_are_packed_into_every_format(tmp_path):
    planned = layouts()
    tables, ranks = whole_tables(planned), random_ranks(planned)
    write_whole(tmp_path / "c", planned, tables)
    report = pack(tmp_path / "c", ranks, Plan(planned), tmp_path / "a")
    artifact, store = Artifact.open(tmp_path / "a"), open_store(tmp_path / "a")
    assert report.dram_bytes == sum(one.dram_bytes for one in planned) == store.stats().dram_bytes
    assert report.ssd_bytes == sum(one.ssd_bytes for one in planned)
    assert artifact.tables_file().shape("0.0.rows") == (300, 7)
    assert artifact.tables_file().shape("3.0.rows") == (300, 11)
    reported = {(error.table, error.band): error.error for error in report.fit_errors}
    for t, one in enumerate(planned):
        order = ranks.tables[t].ids_in_ranks(0, one.num_embeddings)
        for b, band in enumerate(one.bands):
            ids = order[band.start : band.stop]
            error = artifact.tables[t].fit_errors[b]
            assert error == reported.get((one.table, b))
            if band.tt is not None:
                continue
            rows = tables[t][ids]
            scale = scale_of(tmp_path / "a", t, b)
            assert (scale is not None) == (band.scale == "table")
            want = values_of(rows, band.format, scale)
            got = store.gather(t, ids)
            np.testing.assert_array_equal(got, want, err_msg=f"{one.table} {band}")
            if band.format == "fp32":
                assert error is None
            else:
                assert error == pytest.approx(np.linalg.norm(got - rows) / np.linalg.norm(rows), rel=1e-5)
                assert 0 < error < {"fp16": 1e-3, "bf16": 5e-3, "int8": 2e-2, "int4": 0.2}[band.format]
    assert verify(tmp_path / "a").ok


def test_unused_slots_do_not_widen_a_shared_scale(tmp_path):
    planned = [layout("t", 100, 4, (10, "dram"), (100, "dram/int8/table"))]
    tables = [whole_tables(planned)[0] * 0.01 + 5]
    ranks = random_ranks(planned)
    write_whole(tmp_path / "c", planned, tables)
    pack(tmp_path / "c", ranks, Plan(planned), tmp_path / "a")
    cold = ranks.tables[0].ids_in_ranks(10, 100)
    rows = tables[0][cold]
    scale, bias = scale_of(tmp_path / "a", 0, 1)
    assert rows.min() - scale <= bias <= rows.max()
    assert scale <= (rows.max() - rows.min()) / 255 * 1.1
    spanning = spanning_scale("int8", float(rows.min()), float(rows.max()))
    lost = np.linalg.norm(open_store(tmp_path / "a").gather(0, cold) - rows)
    assert lost <= np.linalg.norm(values_of(rows, "int8", spanning) - rows)


@pytest.mark.parametrize("row_format", ["int8", "int4"])
def test_a_plan_with_one_scale_a_band_is_packed_and_opened(row_format, tmp_path):
    statistics = zipf_statistics((900, 40, 5000, 3))
    plan = make_plan(
        statistics, 16, reference_system(), dram_fraction=0.05, row_formats=row_format, row_scale="table"
    )
    kinds = {(band.memory, band.scale) for one in plan.layouts for band in one.bands if band.tt is None}
    assert kinds == {("dram", "table"), ("ssd", "table")}
    tables = whole_tables(plan.layouts)
    write_whole(tmp_path / "c", plan.layouts, tables)
    report = pack(tmp_path / "c", statistics, plan, tmp_path / "a")
    assert (report.dram_bytes, report.ssd_bytes) == (plan.predicted.dram_bytes, plan.predicted.ssd_bytes)
    store = open_store(tmp_path / "a")
    assert store.stats().dram_bytes == plan.predicted.dram_bytes
    for t, one in enumerate(plan.layouts):
        for b, band in enumerate(one.bands):
            if band.tt is None:
                ids = statistics.tables[t].ids_in_ranks(band.start, band.stop)
                want = values_of(tables[t][ids], row_format, scale_of(tmp_path / "a", t, b))
                np.testing.assert_array_equal(store.gather(t, ids), want)
    assert verify(tmp_path / "a").ok


def test_trained_bands_are_packed_into_other_formats(tmp_path):
    trained = layout("banded", 2000, 8, (15, "dram"), (700, "tt"), (2000, "dram"))
    tensors, _ = banded_checkpoint(tmp_path / "c", trained)
    planned = layout("banded", 2000, 8, (15, "dram/fp16"), (700, "tt"), (2000, "ssd/int8"))
    report = pack(tmp_path / "c", None, Plan([planned]), tmp_path / "a")
    assert [(error.table, error.band) for error in report.fit_errors] == [("banded", 0), ("banded", 2)]
    store, hot = open_store(tmp_path / "a"), tensors["band.0.ids"]
    np.testing.assert_array_equal(store.gather(0, hot), tensors["band.0.rows"].astype(np.float16))
    cold = np.setdiff1d(np.arange(2000), np.concatenate([hot, tensors["band.1.ids"]]))
    want = decode(encode(tensors["band.2.rows"][cold], "int8"), "int8", 8)
    np.testing.assert_array_equal(store.gather(0, cold), want)


def test_a_row_that_its_format_cannot_hold_is_named(tmp_path):
    planned = [layout("t", 100, 4, (100, "dram/fp16"))]
    tables = whole_tables(planned)
    tables[0][17, 2] = 1e6
    write_whole(tmp_path / "c", planned, tables)
    with pytest.raises(ValueError, match=r"table t, band 0: rows\[17\] holds 1000000, which fp16"):
        pack(tmp_path / "c", None, Plan(planned), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_rows_of_zeros_have_no_error(tmp_path):
    planned = [layout("t", 10, 4, (10, "dram/int8")), layout("u", 10, 4, (10, "ssd/int4/table"))]
    write_whole(tmp_path / "c", planned, [np.zeros((10, 4), np.float32)] * 2)
    report = pack(tmp_path / "c", None, Plan(planned), tmp_path / "a")
    assert [error.error for error in report.fit_errors] == [0.0, 0.0]
    assert not open_store(tmp_path / "a").gather(0, np.arange(10)).any()


def test_a_manifest_whose_errors_do_not_fit_the_formats_is_refused(tmp_path):
    planned = [layout("t", 10, 4, (10, "dram/int8"))]
    write_whole(tmp_path / "c", planned, whole_tables(planned))
    pack(tmp_path / "c", None, Plan(planned), tmp_path / "a")
    file = tmp_path / "a" / "manifest.json"
    for wrong in (None, -0.5):
        manifest = json.loads(file.read_text())
        manifest["tables"][0]["fit_errors"] = [wrong]
        text = json.dumps(manifest)
        file.write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        (tmp_path / "a" / "manifest.sha256").write_text(f"{digest}  manifest.json\n")
        with pytest.raises(DamagedFileError, match=f"table t, band 0: fit_errors has {wrong}"):
            Artifact.open(tmp_path / "a")
        assert not verify(tmp_path / "a").ok


def test_a_wrong_shared_scale_is_found(tmp_path, monkeypatch):
    planned = [layout("t", 10, 4, (10, "dram/int8/table"))]
    write_whole(tmp_path / "c", planned, whole_tables(planned))
    packing = sys.modules["screc.storage.pack"]  # screc.storage.pack is the function
    codes, rows = np.zeros((10, 4), np.uint8), np.zeros((10, 4), np.float32)
    monkeypatch.setattr(packing, "band_scale", lambda *_: (float("nan"), 0.0))
    monkeypatch.setattr(packing, "encode_band", lambda *_, **__: codes)
    monkeypatch.setattr(packing, "decode_rows", lambda *_: rows)
    pack(tmp_path / "c", None, Plan(planned), tmp_path / "a")
    assert [str(d) for d in verify(tmp_path / "a").damages] == [
        "tables.safetensors has a wrong scale for table t, band 0"
    ]
    with pytest.raises(ValueError, match="scale: expected a finite scale"):
        open_store(tmp_path / "a")


def test_bands_that_make_no_sense_are_refused():
    def band(**fields):
        return Band(**{"start": 0, "stop": 9, "format": "int8", "memory": "dram", **fields})

    assert band(scale="table").scale == "table"
    with pytest.raises(ValueError, match="only int8 and int4 bands have a scale to share, this one is fp16"):
        band(format="fp16", scale="table")
    with pytest.raises(ValueError, match="format"):
        band(format="int2")
    with pytest.raises(ValueError, match="a tensor train holds cores, not rows"):
        layout("t", 20, 4, (20, "tt")).row_bytes(0)


def test_bytes_of_a_band():
    one = layout("t", 1000, 16, (100, "dram/int8"), (1000, "ssd/int4/table"))
    assert one.band_bytes(0) == 100 * 20
    assert one.band_bytes(1) == -(-1000 // (4064 // 8)) * 4096
    assert one.dram_bytes == 2000 + one.index_bytes(0) + 8


def test_python_names_of_the_codecs():
    rows = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    for row_format in FORMATS:
        raw = encode_rows(rows, row_format)
        assert raw.shape == (9, row_bytes(row_format, 5)) == (9, _native.row_bytes(row_format, 5))
        np.testing.assert_array_equal(decode_rows(raw, row_format, 5), decode(raw, row_format, 5))

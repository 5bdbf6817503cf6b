"""The row store with bands of every row format, in DRAM and on SSD, alone and mixed in one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from row_formats import CODECS, FORMATS, decode, encode
from test_row_store import bitmap_index, gather, make_cores, random_bags, rebuilt, write_pages

from screc import _native
from screc.storage.layout import PageGeometry, TtShape

SCALES = {"int8": (0.031, -4.0), "int4": (0.5, -3.9)}
MIXES = ["d-int8", "s-int4", "d-int8 d-int8", "d-fp16 s-fp16", "d-fp32 d-int8", "d-int8 s-int4 d-fp32"]
MIXES += ["d-bf16 t s-int8", "d-int8/shared s-int8/shared", "d-int8/shared s-int8", "s-fp32 s-int4 s-bf16"]
MIXES += ["s-int8 t", "d-fp32 t s-fp32"]


def add_table(
    store: _native.RowStore, directory: Path, rows: int, dim: int, mix: str, mean: bool = False
) -> np.ndarray:
    """Adds a table of bands such as "s-int8" (SSD, int8); returns what its rows decode to, float64."""
    generator = np.random.default_rng(rows + dim)
    table = store.add_table(rows, dim, mean)
    order, start = generator.permutation(rows), 0
    truth = np.zeros((rows, dim))
    bands = mix.split()
    for band, name in enumerate(bands):
        if band == len(bands) - 1:
            own, index, slots, room = order[start:], None, order[start:], rows
        else:
            own = np.sort(order[start : start + rows // 4])
            index, slots, room = bitmap_index(own, rows), np.arange(len(own)), len(own)
        start += len(own)
        if name == "t":
            cores = make_cores(TtShape.balanced(room, dim, 4, 3), band)
            store.add_tt_band(table, cores, index)
            truth[own] = rebuilt(cores, slots)
            continue
        memory, _, rest = name.partition("-")
        fmt, _, shared = rest.partition("/")
        scale = SCALES[fmt] if shared else None
        values = np.zeros((room, dim), np.float32)
        values[slots] = generator.standard_normal((len(own), dim))
        raw = encode(values, fmt, scale)
        truth[own] = decode(raw, fmt, dim, scale)[slots]
        if memory == "d":
            stored = values if fmt == "fp32" else raw
            store.add_dram_band(table, stored, index, format=fmt, scale=scale)
        else:
            path = write_pages(directory / f"{table}.{band}.pages", raw, table, band)
            store.add_ssd_band(table, path, band, index, format=fmt, scale=scale)
    return truth


@pytest.mark.parametrize("dim", [16, 36, 64])
@pytest.mark.parametrize("mix", MIXES)
def test_rows_of_every_mix(tmp_path: Path, mix: str, dim: int) -> None:
    store = _native.RowStore(threads=2, queue_depth=8)
    truth = add_table(store, tmp_path, 1201, dim, mix)
    ids = np.random.default_rng(0).permutation(np.repeat(np.arange(1201), 2))
    got = gather(store, 0, ids, dim)
    if " t" in mix:
        np.testing.assert_allclose(got, truth[ids], rtol=0, atol=2e-6 * np.abs(truth).max())
    else:
        np.testing.assert_array_equal(got, truth[ids].astype(np.float32))
    stats = store.stats()
    assert (stats.dram_rows > 0, stats.ssd_rows > 0) == ("d-" in mix, "s-" in mix)


@pytest.mark.parametrize("threads", [1, 3])
def test_look_ups_in_tables_of_every_mix(tmp_path: Path, threads: int) -> None:
    store = _native.RowStore(threads=threads, queue_depth=8)
    mixes = MIXES + [f"{memory}-{fmt}" for memory in "ds" for fmt in FORMATS]
    dims = [3, 16, 5, 64, 8, 33, 24, 17, 9, 12, 20, 4, *range(1, 11)]
    sizes = [700 + 13 * t for t in range(len(mixes))]
    dims = [dim if " t" not in mix else 16 for mix, dim in zip(mixes, dims, strict=True)]
    means = [t % 2 == 1 for t in range(len(mixes))]
    truth = [
        add_table(store, tmp_path, *spec, mean) for *spec, mean in zip(sizes, dims, mixes, means, strict=True)
    ]
    for size, longest in ((1, 4), (9, 2), (130, 5)):
        ids, offsets = random_bags(sizes, size, longest, seed=size)
        out = np.full((size, sum(dims)), np.nan, np.float32)
        store.lookup(ids, offsets, size, out)
        column = 0
        for t, dim in enumerate(dims):
            for sample in range(size):
                bag = ids[offsets[t * size + sample] : offsets[t * size + sample + 1]]
                want = truth[t][bag].sum(0) / (max(1, len(bag)) if means[t] else 1)
                got = out[sample, column : column + dim]
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4, err_msg=f"{mixes[t]} {bag}")
            column += dim


@pytest.mark.parametrize(("fmt", "shared"), CODECS)
@pytest.mark.parametrize("dim", [1, 3, 64, 1016, 4061, 9000])
def test_ssd_rows_of_any_length(tmp_path: Path, fmt: str, shared: bool, dim: int) -> None:
    store = _native.RowStore(queue_depth=8)
    truth = add_table(store, tmp_path, 101, dim, f"s-{fmt}" + "/shared" * shared)
    ids = np.random.default_rng(0).integers(0, 101, 300)
    np.testing.assert_array_equal(gather(store, 0, ids, dim), truth[ids].astype(np.float32))
    geometry = PageGeometry.of(_native.row_bytes(fmt, dim, not shared))
    pages = {int(i) // geometry.rows_per_page for i in ids}
    assert store.stats().pages_read == len(pages) * geometry.pages_per_row


def test_dram_bytes_are_those_of_the_codes() -> None:
    store = _native.RowStore()
    table = store.add_table(10, 7)
    store.add_dram_band(table, np.zeros((10, 11), np.uint8), format="int8")
    assert store.stats().dram_bytes == 110


def test_bands_that_do_not_fit_their_format_are_refused(tmp_path: Path) -> None:
    store = _native.RowStore()
    table = store.add_table(10, 7)
    with pytest.raises(ValueError, match=r"rows: int8 rows of 7 columns take 11 bytes.*got shape \[10, 7\]"):
        store.add_dram_band(table, np.zeros((10, 7), np.uint8), format="int8")
    with pytest.raises(TypeError, match="rows: expected dtype uint8"):
        store.add_dram_band(table, np.zeros((10, 7), np.float32), format="fp16")
    with pytest.raises(ValueError, match="format: 'fp8' is unknown"):
        store.add_dram_band(table, np.zeros((10, 7), np.uint8), format="fp8")
    with pytest.raises(ValueError, match="scale: fp32 rows have none"):
        store.add_dram_band(table, np.zeros((10, 7), np.float32), scale=(1.0, 0.0))
    rows = encode(np.ones((10, 7), np.float32), "int8")
    path = write_pages(tmp_path / "0.0.pages", np.repeat(rows, 100, axis=0), 0, 0)
    with pytest.raises(OSError, match="has 3 pages, 10 rows of 11 bytes"):
        store.add_ssd_band(table, path, 0, format="int8")

"""The row store against plain numpy: every kind of band, index, back end, and wrong input."""

from __future__ import annotations

import gc
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc import _native
from screc.storage.layout import PageGeometry, TtShape, hash_capacity, index_bytes, index_kind


@pytest.fixture(params=["io_uring", "pread", "auto"])
def io(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "io_uring":
        (tmp_path / "probe").write_bytes(bytes(4096))
        try:
            _native.PageReader(tmp_path / "probe", io="io_uring")
        except OSError as error:
            pytest.skip(str(error))
    return request.param


# --------------------------------------------------------------------------------------------------- builders


def bitmap_index(ids: np.ndarray, num_embeddings: int) -> tuple[str, np.ndarray, np.ndarray]:
    """The bitmap of ascending ids; slot i is the i-th of them."""
    words = -(-num_embeddings // 64)
    flags = np.zeros(words * 64, dtype=np.uint8)
    flags[ids] = 1
    bits = np.packbits(flags, bitorder="little").view(np.uint64)
    directory = np.zeros(-(-words // 8) + 1, dtype=np.uint32)
    blocks = np.zeros((len(directory) - 1) * 512, dtype=np.uint8)
    blocks[: flags.size] = flags
    directory[1:] = np.cumsum(blocks.reshape(-1, 512).sum(axis=1, dtype=np.uint32))
    return "bitmap", bits, directory


def hash_index(ids: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
    """The hash index of ids in any order; slot i is that of the i-th."""
    capacity = hash_capacity(len(ids))
    keys, slots = np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.uint32)
    _native.build_hash_index(ids, np.arange(len(ids), dtype=np.uint32), keys, slots)
    return "hash", keys, slots


def write_pages(path: Path, rows: np.ndarray, table: int, band: int) -> Path:
    """Writes rows (any dtype, [n, dim]) as a file of pages."""
    raw = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    pages = np.empty((PageGeometry.of(raw.shape[1]).num_pages(len(raw)), 4096), dtype=np.uint8)
    _native.fill_pages(raw, table, band, 0, pages)
    path.write_bytes(pages.tobytes())
    return path


def make_cores(shape: TtShape, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [
        generator.standard_normal(shape.core_shape(k)).astype(np.float32) / shape.ranks[k] ** 0.5
        for k in range(shape.num_cores)
    ]


def rebuilt(cores: list[np.ndarray], slots: np.ndarray) -> np.ndarray:
    """Rows of tensor-train cores in float64."""
    product = np.ones((len(slots), 1, 1))
    unit = int(np.prod([core.shape[1] for core in cores]))
    for core in cores:
        unit //= core.shape[1]
        digit = slots // unit % core.shape[1]
        slices = core.astype(np.float64)[:, digit].transpose(1, 0, 2, 3)  # [n, r, q, r']
        product = np.einsum("ncr,nrqs->ncqs", product, slices).reshape(len(slots), -1, core.shape[3])
    return product[:, :, 0]


@dataclass
class Expected:
    """What the store should answer: rows in float64 and which of them are exact."""

    rows: list[np.ndarray] = field(default_factory=list)
    exact: list[np.ndarray] = field(default_factory=list)
    mean: list[bool] = field(default_factory=list)

    def pooled(self, ids: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
        columns = []
        for table, rows in enumerate(self.rows):
            out = np.zeros((size, rows.shape[1]))
            for sample in range(size):
                bag = ids[offsets[table * size + sample] : offsets[table * size + sample + 1]]
                if bag.size:
                    out[sample] = rows[bag].mean(axis=0) if self.mean[table] else rows[bag].sum(axis=0)
            columns.append(out)
        return np.concatenate(columns, axis=1)


def add_three_bands(
    store: _native.RowStore,
    expected: Expected,
    directory: Path,
    *,
    num_embeddings: int,
    dim: int,
    kinds: str,
    mean: bool = False,
    num_cores: int = 3,
    seed: int = 0,
) -> int:
    """Adds a table of bands of the kinds "d" (DRAM), "t" (TT) and "s" (SSD), the last without an index."""
    generator = np.random.default_rng(seed)
    table = store.add_table(num_embeddings, dim, mean)
    ids = generator.permutation(num_embeddings)
    truth = np.zeros((num_embeddings, dim))
    exact = np.ones(num_embeddings, dtype=bool)
    start = 0
    for band, kind in enumerate(kinds):
        last = band == len(kinds) - 1
        # A small hash-indexed band first, then larger ones.
        own = ids[start:] if last else ids[start : start + max(1, num_embeddings * (band * 3 + 1) // 20)]
        start += len(own)
        if last:
            index, slots, room = None, own, num_embeddings
        elif band == 0:
            index, slots, room = hash_index(own), np.arange(len(own)), len(own)
        else:
            own = np.sort(own)
            index, slots, room = bitmap_index(own, num_embeddings), np.arange(len(own)), len(own)
        if kind == "t":
            shape = TtShape.balanced(room, dim, 4, num_cores)
            cores = make_cores(shape, seed + band)
            store.add_tt_band(table, cores, index)
            truth[own] = rebuilt(cores, slots)
            exact[own] = False
            continue
        rows = np.zeros((room, dim), dtype=np.float32)
        rows[slots] = generator.standard_normal((len(own), dim), dtype=np.float32)
        truth[own] = rows[slots]
        if kind == "d":
            store.add_dram_band(table, rows, index)
        else:
            path = write_pages(directory / f"{table}.{band}.pages", rows, table, band)
            store.add_ssd_band(table, path, band, index)
    expected.rows.append(truth)
    expected.exact.append(exact)
    expected.mean.append(mean)
    return table


def gather(store: _native.RowStore, table: int, ids: np.ndarray, dim: int) -> np.ndarray:
    out = np.full((len(ids), dim), np.nan, dtype=np.float32)
    store.gather(table, ids, out)
    return out


def assert_rows(expected: Expected, table: int, ids: np.ndarray, got: np.ndarray) -> None:
    """Bit-exact from DRAM and SSD, 1e-6 of the largest entry from cores."""
    want, exact = expected.rows[table][ids], expected.exact[table][ids]
    np.testing.assert_array_equal(got[exact], want[exact].astype(np.float32))
    scale = np.abs(expected.rows[table]).max()
    np.testing.assert_allclose(got[~exact], want[~exact], rtol=0, atol=1e-6 * scale)


def random_bags(sizes: list[int], batch_size: int, longest: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, longest + 1, len(sizes) * batch_size)
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    ids = [
        generator.integers(0, size, offsets[(t + 1) * batch_size] - offsets[t * batch_size])
        for t, size in enumerate(sizes)
    ]
    return np.concatenate([*ids, np.empty(0, dtype=np.int64)]), offsets


# ------------------------------------------------------------------------------------------------------ rows


@pytest.mark.parametrize("kinds", ["d", "t", "s", "dd", "dt", "ds", "ts", "dts", "tds", "sdt", "dss", "ddd"])
@pytest.mark.parametrize("threads", [1, 3])
def test_gather_returns_every_row(tmp_path: Path, kinds: str, threads: int) -> None:
    store, expected = _native.RowStore(threads=threads, queue_depth=16), Expected()
    add_three_bands(store, expected, tmp_path, num_embeddings=3001, dim=16, kinds=kinds)
    ids = np.random.default_rng(1).permutation(np.repeat(np.arange(3001), 2))
    assert_rows(expected, 0, ids, gather(store, 0, ids, 16))
    assert_rows(expected, 0, ids[:3], gather(store, 0, ids[:3], 16))
    stats = store.stats()
    assert stats.lookups == len(ids) + 3
    assert stats.dram_rows + stats.tt_rows + stats.ssd_rows == stats.lookups
    assert (stats.dram_rows > 0, stats.tt_rows > 0, stats.ssd_rows > 0) == tuple(k in kinds for k in "dts")
    assert stats.num_threads == threads


@pytest.mark.parametrize("dim", [1, 3, 16, 64, 1016, 1017, 2250])
def test_rows_of_any_length_come_from_ssd(io: str, tmp_path: Path, dim: int) -> None:
    rows = np.random.default_rng(dim).standard_normal((301, dim), dtype=np.float32)
    store = _native.RowStore(io=io, queue_depth=8)
    table = store.add_table(301, dim)
    store.add_ssd_band(table, write_pages(tmp_path / "rows.pages", rows, 0, 0), 0)
    ids = np.random.default_rng(0).integers(0, 301, 500)
    np.testing.assert_array_equal(gather(store, 0, ids, dim), rows[ids])
    stats = store.stats()
    assert io in ("auto", stats.io_backend)
    geometry = PageGeometry.of(4 * dim)
    pages = {int(i) // geometry.rows_per_page * geometry.pages_per_row for i in ids}
    assert stats.pages_read == len(pages) * geometry.pages_per_row
    assert stats.page_requests == 500 * geometry.pages_per_row
    assert stats.bytes_read == 4096 * stats.pages_read


@pytest.mark.parametrize("num_cores", [2, 3, 4])
@pytest.mark.parametrize("dim", [16, 36])
def test_rows_from_cores(tmp_path: Path, num_cores: int, dim: int) -> None:
    store, expected = _native.RowStore(), Expected()
    add_three_bands(
        store,
        expected,
        tmp_path,
        num_embeddings=2000,
        dim=dim,
        kinds="tt",
        num_cores=num_cores,
        seed=num_cores,
    )
    ids = np.random.default_rng(0).permutation(2000)
    assert_rows(expected, 0, ids, gather(store, 0, ids, dim))
    assert store.stats().tt_rows == 2000


def alone(store: _native.RowStore, table: int, ids: np.ndarray, dim: int) -> np.ndarray:
    """The rows of ids, each asked for in a call of its own."""
    rows = np.full((len(ids), dim), np.nan, dtype=np.float32)
    for i in range(len(ids)):
        store.gather(table, ids[i : i + 1], rows[i : i + 1])
    return rows


@pytest.mark.parametrize("rows", [(216, 216, 216), (90, 4000), (30, 20, 10, 25), (1, 99991, 3), (2**11,) * 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_rows_from_cores_are_the_same_in_large_calls(rows: tuple[int, ...], threads: int) -> None:
    """Large calls sort their look-ups and rebuild each row once; a row's bits do not depend on it."""
    columns = {2: (4, 4), 3: (4, 4, 4), 4: (2, 2, 2, 2)}[len(rows)]
    size, dim = int(np.prod(rows)), int(np.prod(columns))
    shape = TtShape(row_factors=rows, col_factors=columns, ranks=(1, *(len(rows) - 1) * (5,), 1))
    cores = make_cores(shape, 0)
    store = _native.RowStore(threads=threads)
    table = store.add_table(size, dim)
    store.add_tt_band(table, cores)
    generator = np.random.default_rng(1)
    hot = np.minimum(generator.zipf(1.3, 30_000), 10**6) * 7919 % size
    cold = np.concatenate([generator.integers(0, size, 10_000), [0, size - 1]])
    ids = generator.permutation(np.concatenate([hot, cold]))
    some = generator.permutation(len(ids))[:50]
    want = alone(store, table, ids[some], dim)
    np.testing.assert_allclose(want, rebuilt(cores, ids[some]), rtol=1e-5, atol=1e-6)
    distinct, inverse = np.unique(ids, return_inverse=True)
    assert len(distinct) < len(ids) / 2
    whole = gather(store, table, distinct, dim)
    np.testing.assert_allclose(whole, rebuilt(cores, distinct), rtol=1e-5, atol=1e-5)
    # From a few look-ups, rebuilt where they are found, to outputs that are written past the caches.
    for count in (1, 255, 256, 1000, 5000, len(ids)):
        np.testing.assert_array_equal(gather(store, table, ids[:count], dim), whole[inverse[:count]])
    np.testing.assert_array_equal(whole[inverse[some]], want)
    bags = np.arange(len(ids) + 1)
    pooled = np.full((len(ids), dim), np.nan, dtype=np.float32)
    store.lookup(ids, bags, len(ids), pooled)
    np.testing.assert_array_equal(pooled, whole[inverse])
    assert store.stats().tt_rows == store.stats().lookups


def test_large_outputs_of_cores_at_any_address(tmp_path: Path) -> None:
    """Rows that are not whole cache lines, and tables whose other rows stand elsewhere."""
    for dim in (64, 60):
        for kinds in ("t", "dts"):
            store, expected = _native.RowStore(threads=2), Expected()
            add_three_bands(store, expected, tmp_path, num_embeddings=3000, dim=dim, kinds=kinds)
            ids = np.random.default_rng(0).integers(0, 3000, 40_000)
            once = gather(store, 0, np.arange(3000), dim)
            assert_rows(expected, 0, np.arange(3000), once)
            memory = np.full(len(ids) * dim + 17, np.nan, dtype=np.float32)
            for offset in (0, 1, 16):
                out = memory[offset : offset + len(ids) * dim].reshape(-1, dim)
                store.gather(0, ids, out)
                np.testing.assert_array_equal(out, once[ids])


def test_a_refused_call_leaves_nothing_behind_for_the_next() -> None:
    shape = TtShape.balanced(5000, 16, 4)
    store = _native.RowStore(threads=2)
    table = store.add_table(5000, 16)
    store.add_tt_band(table, make_cores(shape, 0))
    ids = np.random.default_rng(0).integers(0, 5000, 20_000)
    want = gather(store, table, ids, 16)
    wrong = ids.copy()
    wrong[15_000] = 5000
    for _ in range(3):
        with pytest.raises(ValueError, match=r"ids\[15000\] is 5000"):
            gather(store, table, wrong, 16)
        np.testing.assert_array_equal(gather(store, table, ids[:3000], 16), want[:3000])


@given(
    num_embeddings=st.integers(1, 2000),
    share=st.floats(0, 1),
    kind=st.sampled_from(["bitmap", "hash"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_indices_of_any_size(num_embeddings: int, share: float, kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = max(1, round(share * num_embeddings))
    own = generator.permutation(num_embeddings)[:count]
    if kind == "bitmap":
        own = np.sort(own)
    index = hash_index(own) if kind == "hash" else bitmap_index(own, num_embeddings)
    hot = generator.standard_normal((count, 4), dtype=np.float32)
    cold = generator.standard_normal((num_embeddings, 4), dtype=np.float32)
    store = _native.RowStore(threads=1)
    table = store.add_table(num_embeddings, 4)
    store.add_dram_band(table, hot, index)
    store.add_dram_band(table, cold)
    expected = cold.copy()
    expected[own] = hot
    np.testing.assert_array_equal(gather(store, table, np.arange(num_embeddings), 4), expected)
    held = sum(array.nbytes for array in index[1:])
    assert store.stats().dram_bytes == hot.nbytes + cold.nbytes + held
    if index_kind(num_embeddings, count) == kind:
        assert held == index_bytes(num_embeddings, count)


# --------------------------------------------------------------------------------------------------- look-ups


@pytest.mark.parametrize("threads", [1, 2])
def test_lookup_pools_bags_of_many_tables(io: str, tmp_path: Path, threads: int) -> None:
    store, expected = _native.RowStore(io=io, queue_depth=16, threads=threads), Expected()
    specs = [("d", 50, 16, False), ("dts", 3000, 8, True), ("s", 700, 24, False), ("t", 900, 16, True)]
    specs += [("ds", 1500, 8, False), ("d", 1, 3, True)]
    for number, (kinds, rows, dim, mean) in enumerate(specs):
        add_three_bands(
            store, expected, tmp_path, num_embeddings=rows, dim=dim, kinds=kinds, mean=mean, seed=number
        )
    assert store.num_tables == 6
    width = sum(spec[2] for spec in specs)
    assert store.total_dim == width
    for size, longest in ((1, 4), (7, 3), (300, 5), (64, 0), (0, 0), (3, 900)):
        ids, offsets = random_bags([spec[1] for spec in specs], size, longest, seed=size)
        out = np.full((size, width), np.nan, dtype=np.float32)
        before = store.stats()
        store.lookup(ids, offsets, size, out)
        want = expected.pooled(ids, offsets, size)
        np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5 * max(1, longest))
        after = store.stats()
        assert after.lookups - before.lookups == len(ids)
        assert after.dram_rows + after.tt_rows + after.ssd_rows == after.lookups


def test_empty_bags_give_zeros_and_single_rows_are_exact(tmp_path: Path) -> None:
    store, expected = _native.RowStore(), Expected()
    for number, kinds in enumerate(("d", "ds")):
        add_three_bands(
            store, expected, tmp_path, num_embeddings=100, dim=8, kinds=kinds, mean=number == 1, seed=number
        )
    offsets = np.array([0, 1, 1, 2, 2, 3, 4])
    ids = np.array([7, 9, 11, 99])
    out = np.full((3, 16), np.nan, dtype=np.float32)
    store.lookup(ids, offsets, 3, out)
    np.testing.assert_array_equal(out, expected.pooled(ids, offsets, 3).astype(np.float32))
    np.testing.assert_array_equal(out[1, :8], 0)
    np.testing.assert_array_equal(out[0, 8:], 0)


def test_pages_are_read_once_for_all_bags_of_a_call(io: str, tmp_path: Path) -> None:
    store, expected = _native.RowStore(io=io, queue_depth=4), Expected()
    for number in range(2):
        add_three_bands(store, expected, tmp_path, num_embeddings=640, dim=16, kinds="s", seed=number)
    ids, offsets = random_bags([640, 640], 200, 6, seed=3)
    out = np.empty((200, 32), dtype=np.float32)
    store.lookup(ids, offsets, 200, out)
    np.testing.assert_allclose(out, expected.pooled(ids, offsets, 200), rtol=1e-5, atol=1e-5)
    stats = store.stats()
    assert stats.page_requests == stats.ssd_rows == stats.lookups == len(ids)
    # 63 rows a page, 11 pages a table, and with some 600 look-ups every page is wanted.
    assert stats.pages_read == 22
    assert stats.bytes_read == 22 * 4096
    assert stats.pages_read < stats.page_requests


def test_a_call_larger_than_the_working_memory_is_served_in_parts(tmp_path: Path) -> None:
    store, expected = _native.RowStore(), Expected()
    add_three_bands(store, expected, tmp_path, num_embeddings=500, dim=256, kinds="dts")
    ids = np.random.default_rng(0).integers(0, 500, 100_000)  # 100 MB of rows
    got = gather(store, 0, ids, 256)
    for begin in (0, 50_000, 99_000):
        assert_rows(expected, 0, ids[begin : begin + 1000], got[begin : begin + 1000])
    out = np.empty((50_000, 256), dtype=np.float32)
    store.lookup(ids, np.arange(0, 100_001, 2), 50_000, out)
    want = expected.rows[0][ids[0::2]] + expected.rows[0][ids[1::2]]
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-4)
    stats = store.stats()
    assert stats.lookups == 200_000
    assert stats.dram_rows + stats.tt_rows + stats.ssd_rows == 200_000


def test_several_threads_get_their_own_answers(io: str, tmp_path: Path) -> None:
    store, expected = _native.RowStore(io=io, queue_depth=8, threads=2), Expected()
    for number, kinds in enumerate(("dts", "ds")):
        add_three_bands(store, expected, tmp_path, num_embeddings=2000, dim=16, kinds=kinds, seed=number)

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        for _ in range(15):
            table = int(generator.integers(0, 2))
            ids = generator.integers(0, 2000, 400)
            assert_rows(expected, table, ids, gather(store, table, ids, 16))
            store.stats()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert store.stats().lookups == 4 * 15 * 400


def test_arrays_are_kept_alive() -> None:
    store = _native.RowStore()
    for table in range(20):
        store.add_table(5000, 64)
        own = np.arange(0, 5000, 7)
        rows = np.full((len(own), 64), table, dtype=np.float32)
        store.add_dram_band(table, rows, hash_index(own) if table % 2 else bitmap_index(own, 5000))
        store.add_dram_band(table, np.full((5000, 64), -table, dtype=np.float32))
        del rows
    gc.collect()
    for table in range(20):
        got = gather(store, table, np.array([0, 1, 4998, 7]), 64)
        np.testing.assert_array_equal(got[:, 0], [table, -table, table, table])


def test_a_band_of_more_than_2_to_the_31_elements(io: str, tmp_path: Path) -> None:
    num_embeddings, dim = 40_000_000, 64
    geometry = PageGeometry.of(4 * dim)
    num_pages = geometry.num_pages(num_embeddings)
    per_page = geometry.rows_per_page
    path = tmp_path / "sparse.pages"
    written = {}
    with path.open("wb") as file:
        file.truncate(num_pages * 4096)
        for page in (0, 1, 12_345, num_pages - 2, num_pages - 1):
            count = min(per_page, num_embeddings - page * per_page)
            rows = np.random.default_rng(page).standard_normal((count, dim), dtype=np.float32)
            out = np.empty((1, 4096), dtype=np.uint8)
            _native.fill_pages(rows.view(np.uint8), 0, 0, page, out)
            file.seek(page * 4096)
            file.write(out.tobytes())
            written.update({page * per_page + i: row for i, row in enumerate(rows)})
    store = _native.RowStore(io=io)
    store.add_table(num_embeddings, dim)
    store.add_ssd_band(0, path, 0)
    ids = np.array(list(written))
    np.testing.assert_array_equal(gather(store, 0, ids, dim), np.stack(list(written.values())))
    assert num_embeddings - 1 in written
    # A hole reads as zeros, which is no page.
    hole = 20_000_000
    with pytest.raises(
        OSError, match=rf"page {hole // per_page} of .*sparse.pages \(table 0, band 0\) is damaged"
    ):
        gather(store, 0, np.array([hole]), dim)


# ---------------------------------------------------------------------------------------------------- damage


def _ssd_store(directory: Path, io: str = "auto") -> tuple[_native.RowStore, Path, np.ndarray]:
    rows = np.random.default_rng(0).standard_normal((700, 16), dtype=np.float32)  # 63 a page, 12 pages
    path = write_pages(directory / "rows.pages", rows, 0, 0)
    store = _native.RowStore(io=io, queue_depth=4)
    store.add_table(700, 16)
    store.add_ssd_band(0, path, 0)
    return store, path, rows


@pytest.mark.parametrize("offset", [0, 4, 8, 10, 12, 16, 24, 28, 32, 2000, 4095])
def test_a_damaged_page_is_reported_and_never_served(io: str, tmp_path: Path, offset: int) -> None:
    store, path, rows = _ssd_store(tmp_path, io)
    with path.open("r+b") as file:
        file.seek(5 * 4096 + offset)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    with pytest.raises(OSError, match=r"page 5 of .*rows.pages \(table 0, band 0\) is damaged: "):
        gather(store, 0, np.arange(700), 16)
    assert store.stats().lookups == 0
    # Rows of other pages are still served.
    ids = np.arange(5 * 63)
    np.testing.assert_array_equal(gather(store, 0, ids, 16), rows[ids])


def test_a_page_of_another_place_is_not_served(io: str, tmp_path: Path) -> None:
    store, path, _ = _ssd_store(tmp_path, io)
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 4 * 4096] = content[4 * 4096 : 5 * 4096]
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"page 3 of .* is damaged: page number 4, expected 3"):
        gather(store, 0, np.array([3 * 63]), 16)


def test_a_truncated_file_is_reported(io: str, tmp_path: Path) -> None:
    store, path, rows = _ssd_store(tmp_path, io)
    os.truncate(path, 4 * 4096)
    with pytest.raises(OSError, match=r"page \d+ of .*rows.pages is truncated"):
        gather(store, 0, np.arange(700), 16)
    np.testing.assert_array_equal(gather(store, 0, np.arange(4 * 63), 16), rows[: 4 * 63])


def test_ssd_bands_are_checked_when_added(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((700, 16), dtype=np.float32)
    path = write_pages(tmp_path / "rows.pages", rows, 0, 0)
    store = _native.RowStore()
    table = store.add_table(800, 16)
    with pytest.raises(OSError, match=r"rows.pages has 12 pages, 800 rows of 64 bytes .*take 13"):
        store.add_ssd_band(table, path, 0)
    with pytest.raises(FileNotFoundError, match=r"absent.pages"):
        store.add_ssd_band(table, tmp_path / "absent.pages", 0)
    other = store.add_table(700, 16)
    with pytest.raises(OSError, match=r"page 0 of .* \(table 1, band 0\) is damaged: table 0, expected 1"):
        store.add_ssd_band(other, path, 0)
    path = write_pages(tmp_path / "rows.pages", rows, 1, 2)
    with pytest.raises(OSError, match=r"is damaged: band 2, expected 0"):
        store.add_ssd_band(other, path, 0)
    longer = store.add_table(740, 16)
    path = write_pages(tmp_path / "rows.pages", rows, 2, 0)
    with pytest.raises(OSError, match=r"page 11 of .* is damaged: payload bytes 448, expected 3008"):
        store.add_ssd_band(longer, path, 0)
    with path.open("r+b") as file:
        file.seek(11 * 4096 + 100)
        file.write(b"x")
    with pytest.raises(OSError, match=r"page 11 of .* is damaged: checksum 0x\w{8}, expected 0x\w{8}"):
        store.add_ssd_band(longer, path, 0)
    with pytest.raises(ValueError, match="band: must not be negative, got -1"):
        store.add_ssd_band(longer, path, -1)


# ------------------------------------------------------------------------------------------------ wrong input


@pytest.mark.parametrize("count", [1, 5000])
@pytest.mark.parametrize("bad", [-1, 100, 2**40, -(2**63)])
def test_ids_outside_the_table_are_named(tmp_path: Path, count: int, bad: int) -> None:
    store, expected = _native.RowStore(), Expected()
    for number, kinds in enumerate(("d", "dts")):
        add_three_bands(store, expected, tmp_path, num_embeddings=100, dim=4, kinds=kinds, seed=number)
    ids = np.zeros(count + 1, dtype=np.int64)
    ids[count] = bad
    for table in range(2):
        with pytest.raises(ValueError, match=rf"ids\[{count}\] is {bad}, outside table {table} of 100 rows"):
            gather(store, table, ids, 4)
    out = np.empty((1, 8), dtype=np.float32)
    with pytest.raises(ValueError, match=rf"ids\[{count}\] is {bad}, outside table 1 of 100 rows"):
        store.lookup(ids, np.array([0, 1, count + 1]), 1, out)
    assert store.stats().lookups == 0
    assert_rows(expected, 1, np.arange(100), gather(store, 1, np.arange(100), 4))


def test_offsets_are_checked() -> None:
    store = _native.RowStore()
    store.add_table(100, 4)
    store.add_table(100, 4)
    for table in range(2):
        store.add_dram_band(table, np.zeros((100, 4), dtype=np.float32))
    ids, out = np.zeros(6, dtype=np.int64), np.empty((2, 8), dtype=np.float32)

    def lookup(offsets: list[int]) -> None:
        store.lookup(ids, np.array(offsets, dtype=np.int64), 2, out)

    lookup([0, 1, 2, 3, 6])
    with pytest.raises(ValueError, match=r"offsets\[2\] is 2 \(table 0, sample 2\), below the 3 before it"):
        lookup([0, 3, 2, 3, 6])
    with pytest.raises(ValueError, match=r"offsets\[3\] is 7 \(table 1, sample 1\), there are 6 ids"):
        lookup([0, 1, 2, 7, 6])
    with pytest.raises(ValueError, match=r"offsets\[1\] is -9223372036854775808 \(table 0, sample 1\)"):
        lookup([0, -(2**63), 2, 3, 6])
    with pytest.raises(ValueError, match=r"offsets\[1\] is 9223372036854775807 \(table 0, sample 1\)"):
        lookup([0, 2**63 - 1, 2, 3, 6])
    for ends in ([1, 1, 2, 3, 6], [0, 1, 2, 3, 5], [0, 1, 2, 3, 7]):
        text = rf"offsets: must run from 0 to the number of ids \(6\), got {ends[0]} to {ends[-1]}"
        with pytest.raises(ValueError, match=text):
            lookup(ends)
    with pytest.raises(ValueError, match=r"offsets: expected 2 tables x 2 samples \+ 1 = 5 entries, got 4"):
        lookup([0, 1, 2, 6])
    with pytest.raises(ValueError, match="batch_size: must not be negative, got -2"):
        store.lookup(ids, np.zeros(5, dtype=np.int64), -2, out)


def test_arrays_of_the_wrong_kind_are_named() -> None:
    store = _native.RowStore()
    table = store.add_table(100, 4)
    with pytest.raises(TypeError, match="rows: expected dtype float32"):
        store.add_dram_band(table, np.zeros((100, 4)))
    with pytest.raises(ValueError, match="rows: must be C-contiguous"):
        store.add_dram_band(table, np.zeros((4, 100), dtype=np.float32).T)
    with pytest.raises(ValueError, match=r"rows: table 0 has room for shape \[100, 4\], got \[100, 5\]"):
        store.add_dram_band(table, np.zeros((100, 5), dtype=np.float32))
    store.add_dram_band(table, np.zeros((100, 4), dtype=np.float32))
    ids, out = np.zeros(3, dtype=np.int64), np.zeros((3, 4), dtype=np.float32)
    with pytest.raises(TypeError, match="ids: expected dtype int64"):
        store.gather(table, ids.astype(np.int32), out)
    with pytest.raises(TypeError, match="out: expected dtype float32"):
        store.gather(table, ids, out.astype(np.float64))
    with pytest.raises(ValueError, match=r"out: expected shape \[3, 4\], got \[2, 4\]"):
        store.gather(table, ids, out[:2])
    with pytest.raises(ValueError, match=r"ids: expected 1 dimension\(s\), got shape \[3, 1\]"):
        store.gather(table, ids[:, None], out)
    with pytest.raises(TypeError, match="offsets: expected dtype int64"):
        store.lookup(ids, np.arange(4, dtype=np.uint64), 3, out)
    with pytest.raises(ValueError, match=r"out: expected shape \[3, 4\], got \[3, 3\]"):
        store.lookup(ids, np.arange(4), 3, np.zeros((3, 3), dtype=np.float32))
    read_only = np.zeros((3, 4), dtype=np.float32)
    read_only.flags.writeable = False
    with pytest.raises(TypeError):
        store.gather(table, ids, read_only)
    for bad in (-1, 1):
        with pytest.raises(ValueError, match=f"table: {bad} does not exist, the store has 1 tables"):
            store.gather(bad, ids, out)


def test_tables_are_built_in_order() -> None:
    store = _native.RowStore()
    with pytest.raises(ValueError, match=r"num_embeddings: must be from 1 to .*, got 0"):
        store.add_table(0, 4)
    with pytest.raises(ValueError, match=r"embedding_dim: must be from 1 to .*, got 0"):
        store.add_table(4, 0)
    table = store.add_table(100, 4)
    out = np.zeros((1, 4), dtype=np.float32)
    store.add_dram_band(table, np.zeros((2, 4), dtype=np.float32), hash_index(np.array([5, 7])))
    with pytest.raises(ValueError, match="table 0 has no last band; add one that takes every id"):
        store.gather(table, np.zeros(1, dtype=np.int64), out)
    with pytest.raises(ValueError, match="table 0 has no last band; add one that takes every id"):
        store.lookup(np.zeros(1, dtype=np.int64), np.arange(2), 1, out)
    store.add_dram_band(table, np.zeros((100, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="table 0 is complete: a band that takes every id must be the last"):
        store.add_dram_band(table, np.zeros((100, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="threads: must not be negative, got -1"):
        _native.RowStore(threads=-1)
    with pytest.raises(ValueError, match="io: 'dax' is unknown"):
        _native.RowStore(io="dax")
    stats = store.stats()
    assert (stats.io_backend, stats.queue_depth, stats.pages_read) == ("none", 256, 0)
    with pytest.raises(AttributeError):
        stats.lookups = 3


def test_cores_are_checked() -> None:
    store = _native.RowStore()
    table = store.add_table(100, 4)
    cores = [np.zeros((1, 10, 2, 3), dtype=np.float32), np.zeros((3, 10, 2, 1), dtype=np.float32)]
    with pytest.raises(ValueError, match=r"cores: they give rows of 2 columns, table 0 has 4"):
        store.add_tt_band(table, [cores[0], cores[1][:, :, :1].copy()])
    with pytest.raises(ValueError, match=r"cores: they address 90 rows, table 0's band needs 100"):
        store.add_tt_band(table, [cores[0][:, :9].copy(), cores[1]])
    with pytest.raises(ValueError, match=r"cores\[1\]"):
        store.add_tt_band(table, [cores[0], cores[1][:2].copy()])
    with pytest.raises(ValueError, match=r"cores"):
        store.add_tt_band(table, cores[:1])
    with pytest.raises(ValueError, match=r"cores\[1\]: expected 4 dimension\(s\)"):
        store.add_tt_band(table, [cores[0], cores[1][0]])
    with pytest.raises(TypeError, match=r"cores\[0\]: expected dtype float32"):
        store.add_tt_band(table, [core.astype(np.float64) for core in cores])
    store.add_tt_band(table, cores)
    assert store.stats().dram_bytes == 4 * 120


def test_indices_are_checked() -> None:
    store = _native.RowStore()
    table = store.add_table(1000, 4)
    rows = np.zeros((3, 4), dtype=np.float32)

    def refuse(index: object, text: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=text):
            store.add_dram_band(table, rows, index)

    own = np.array([5, 600, 999])
    _, bits, directory = bitmap_index(own, 1000)
    refuse(
        ("bitmap", bits[:-1], directory),
        r"a bitmap of 1000 ids has bits \[16\] and directory \[3\], got \[15\]",
    )
    wrong = directory.copy()
    wrong[1] = 2
    refuse(("bitmap", bits, wrong), r"directory\[1\] is 2, the bits before it count 1")
    wrong = directory.copy()
    wrong[2] = 9
    refuse(("bitmap", bits, wrong), r"directory\[2\] is 9, the bits before it count 3")
    wrong_bits = bits.copy()
    wrong_bits[15] |= np.uint64(1 << 45)
    wrong[2] = 4
    refuse(("bitmap", wrong_bits, wrong), "bits beyond the last id, 999, are set")
    refuse(("bitmap", bits * np.uint64(0), directory * np.uint32(0)), "it holds no id")
    refuse(bitmap_index(own[:2], 1000), r"rows: table 0's index has room for shape \[2, 4\], got \[3, 4\]")
    refuse(("bitmap", bits.view(np.int64), directory), "index bits: expected dtype uint64", TypeError)

    _, keys, slots = hash_index(own)
    refuse(("hash", keys, slots[:-1]), "index slots: expected 4 entries as in keys, got 3")
    refuse(("hash", np.where(keys == 5, 1000, keys), slots), r"keys\[\d\] is 1000, the table has 1000 rows")
    refuse(("hash", np.where(keys == 5, -2, keys), slots), r"keys\[\d\] is -2, the table has 1000 rows")
    refuse(("hash", keys, slots + np.uint32(1)), r"slots\[\d\] is 3, the index holds 3 ids")
    refuse(("hash", np.where(keys == -1, 7, keys), slots), "keys has no empty entry")
    refuse(("hash", keys[:0], slots[:0]), "keys has no empty entry|it holds no id")
    refuse(("tree", keys, slots), "got 'tree'")
    refuse(("hash", keys), "index: expected None", TypeError)
    refuse([1, 2, 3], "index: expected None", TypeError)
    refuse(("hash", [1], [2]), "index: expected None", TypeError)
    store.add_dram_band(table, rows, ("hash", keys, slots))

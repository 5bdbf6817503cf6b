"""Checksums, direct page reads and the page format of the compiled core."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc import _native
from screc.storage.layout import PageGeometry, hash_capacity


def _io_uring_works(directory: Path) -> bool:
    path = directory / "probe.pages"
    path.write_bytes(bytes(4096))
    try:
        _native.PageReader(path, io="io_uring", queue_depth=1)
    except OSError:
        return False
    return True


@pytest.fixture(params=["io_uring", "pread", "auto"])
def io(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "io_uring" and not _io_uring_works(tmp_path):
        pytest.skip("this system refuses io_uring")
    return request.param


def _crc32c_reference(data: bytes, crc: int = 0) -> int:
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


# ------------------------------------------------------------------------------------------------- checksums


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_crc32c_known_answers(data: bytes, expected: int) -> None:
    assert _native.crc32c(data) == expected


@pytest.mark.parametrize("size", [1, 7, 8, 9, 1359, 1360, 4079, 4080, 4081, 4092, 8159, 8160, 8163, 20000])
def test_crc32c_equals_the_bitwise_definition(size: int) -> None:
    data = np.random.default_rng(size).bytes(size + 1)
    assert _native.crc32c(data[1:]) == _crc32c_reference(data[1:])


@given(data=st.binary(max_size=10_000), cut=st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_crc32c_continues_from_a_seed(data: bytes, cut: int) -> None:
    assert _native.crc32c(data[cut:], _native.crc32c(data[:cut])) == _native.crc32c(data)


@given(data=st.binary(max_size=100), count=st.integers(0, 20_000))
@settings(max_examples=50, deadline=None)
def test_crc32c_of_zeros(data: bytes, count: int) -> None:
    assert _native.crc32c_zeros(count, _native.crc32c(data)) == _native.crc32c(data + bytes(count))


def test_crc32c_of_more_zeros_than_memory() -> None:
    """Runs add up, whatever their lengths."""
    whole = _native.crc32c_zeros(2**45 + 12345, 7)
    assert _native.crc32c_zeros(2**44 + 345, _native.crc32c_zeros(2**44 + 12_000, 7)) == whole
    assert _native.crc32c_zeros(0, 7) == 7
    with pytest.raises(TypeError):
        _native.crc32c_zeros(-1)


def test_crc32c_takes_any_contiguous_buffer() -> None:
    array = np.arange(3000, dtype=np.int32).reshape(30, 100)
    assert _native.crc32c(array) == _native.crc32c(memoryview(array)) == _native.crc32c(array.tobytes())
    with pytest.raises(ValueError, match="contiguous"):
        _native.crc32c(array[:, ::2])
    with pytest.raises(TypeError):
        _native.crc32c("text")


def test_crc32c_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes((1 << 20) + 12345)
    path = tmp_path / "data"
    path.write_bytes(data)
    assert _native.crc32c_file(path) == _native.crc32c_file(str(path)) == _native.crc32c(data)
    (tmp_path / "empty").touch()
    assert _native.crc32c_file(tmp_path / "empty") == 0
    with pytest.raises(FileNotFoundError, match=r"cannot open .*absent"):
        _native.crc32c_file(tmp_path / "absent")
    with pytest.raises(OSError, match="not a regular file"):
        _native.crc32c_file(tmp_path)


def test_read_into(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(10_000)
    path = tmp_path / "data"
    path.write_bytes(data)
    out = np.empty(5000, dtype=np.uint8)
    _native.read_into(path, 5000, out)
    assert out.tobytes() == data[5000:]
    with pytest.raises(
        OSError, match=r"data is truncated: it ends at byte 10000, expected 5000 bytes from byte 5001"
    ):
        _native.read_into(path, 5001, out)
    with pytest.raises(FileNotFoundError, match="absent"):
        _native.read_into(tmp_path / "absent", 0, out)
    with pytest.raises(ValueError, match="offset: must not be negative, got -1"):
        _native.read_into(path, -1, out)
    with pytest.raises(TypeError, match="out: expected dtype uint8"):
        _native.read_into(path, 0, np.empty(4, dtype=np.float32))


# ---------------------------------------------------------------------------------------------------- pages


def _fill(rows: np.ndarray, table: int = 3, band: int = 2, first_page: int = 0) -> np.ndarray:
    pages = np.full((PageGeometry.of(rows.shape[1]).num_pages(rows.shape[0]), 4096), 0xAA, dtype=np.uint8)
    _native.fill_pages(rows, table, band, first_page, pages)
    return pages


def _rows(count: int, row_bytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, row_bytes), dtype=np.uint8)


@given(row_bytes=st.integers(4, 9000), count=st.integers(1, 40), first_page=st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_pages_hold_rows_as_documented(row_bytes: int, count: int, first_page: int) -> None:
    rows = _rows(count, row_bytes)
    pages = _fill(rows, first_page=first_page)
    geometry = PageGeometry.of(row_bytes)
    assert _native.check_pages(pages, 3, 2, first_page) == -1
    fields = ["crc", "magic", "version", "flags", "table", "page", "band", "used"]
    header = np.dtype(list(zip(fields, ["<u4", "S4", "<u2", "<u2", "<u4", "<u8", "<u4", "<u4"], strict=True)))
    headers = pages[:, :32].copy().view(header)[:, 0]
    assert (headers["magic"] == b"SCRP").all()
    assert (headers["version"] == 1).all()
    assert (headers["flags"] == 0).all()
    assert (headers["table"] == 3).all()
    assert (headers["band"] == 2).all()
    np.testing.assert_array_equal(headers["page"], first_page + np.arange(len(pages), dtype=np.uint64))
    assert headers["used"].sum() == rows.size
    for page, head in zip(pages, headers, strict=True):
        assert head["crc"] == _native.crc32c(page[4:])
        assert not page[32 + head["used"] :].any()
    for slot, row in enumerate(rows):
        if geometry.pages_per_row == 1:
            page, at = divmod(slot, geometry.rows_per_page)
            begin = 32 + at * row_bytes
            np.testing.assert_array_equal(pages[page, begin : begin + row_bytes], row)
        else:
            own = pages[slot * geometry.pages_per_row : (slot + 1) * geometry.pages_per_row]
            np.testing.assert_array_equal(own[:, 32:].ravel()[:row_bytes], row)


def test_pages_written_in_pieces_are_the_same() -> None:
    rows = _rows(1000, 64)  # 63 rows a page
    whole = _fill(rows)
    pieces = [_fill(rows[:630]), _fill(rows[630:], first_page=10)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@given(offset=st.integers(0, 4095), flip=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_every_changed_byte_of_a_page_is_noticed(offset: int, flip: int) -> None:
    pages = _fill(_rows(200, 64))
    pages[1, offset] ^= flip
    assert _native.check_pages(pages, 3, 2, 0) == 1


def test_check_pages_knows_the_owner_and_the_number() -> None:
    pages = _fill(_rows(200, 64))
    assert _native.check_pages(pages, 4, 2, 0) == 0
    assert _native.check_pages(pages, 3, 1, 0) == 0
    assert _native.check_pages(pages, 3, 2, 1) == 0
    assert _native.check_pages(pages[[0, 2]], 3, 2, 0) == 1
    assert _native.check_pages(np.zeros((1, 4096), dtype=np.uint8), 0, 0, 0) == 0
    assert _native.check_pages(pages[:0], 3, 2, 0) == -1


def test_page_functions_name_wrong_arguments() -> None:
    rows = _rows(10, 64)
    with pytest.raises(ValueError, match=r"out: 10 rows of 64 bytes need shape \[1, 4096\], got \[2, 4096\]"):
        _native.fill_pages(rows, 0, 0, 0, np.empty((2, 4096), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"out: expected shape \[pages, 4096\], got \[1, 4095\]"):
        _native.fill_pages(rows, 0, 0, 0, np.empty((1, 4095), dtype=np.uint8))
    with pytest.raises(TypeError, match="rows: expected dtype uint8"):
        _native.fill_pages(rows.view(np.float32), 0, 0, 0, np.empty((1, 4096), dtype=np.uint8))
    with pytest.raises(ValueError, match="rows: must have at least one byte"):
        _native.fill_pages(np.empty((10, 0), dtype=np.uint8), 0, 0, 0, np.empty((0, 4096), dtype=np.uint8))
    with pytest.raises(ValueError, match="first_page: must not be negative"):
        _native.check_pages(np.empty((1, 4096), dtype=np.uint8), 0, 0, -1)


# ---------------------------------------------------------------------------------------------------- reader


@pytest.fixture
def page_file(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pages = np.random.default_rng(5).integers(0, 256, (300, 4096), dtype=np.uint8)
    path = tmp_path / "some.pages"
    path.write_bytes(pages.tobytes())
    return path, pages


@pytest.mark.parametrize("queue_depth", [1, 2, 7, 64, 300])
def test_reader_returns_every_page(io: str, page_file: tuple[Path, np.ndarray], queue_depth: int) -> None:
    path, pages = page_file
    reader = _native.PageReader(path, io=io, queue_depth=queue_depth)
    assert reader.num_pages == 300
    assert io in ("auto", reader.backend)
    assert reader.backend in ("io_uring", "pread")
    for count in (0, 1, 2, 65, 1000):
        wanted = np.random.default_rng(count).integers(0, 300, count)
        out = np.empty((count, 4096), dtype=np.uint8)
        reader.read(wanted, out)
        np.testing.assert_array_equal(out, pages[wanted])


def test_reader_serves_several_threads(io: str, page_file: tuple[Path, np.ndarray]) -> None:
    path, pages = page_file
    reader = _native.PageReader(path, io=io, queue_depth=8)

    def work(seed: int) -> None:
        generator = np.random.default_rng(seed)
        out = np.empty((40, 4096), dtype=np.uint8)
        for _ in range(20):
            wanted = generator.integers(0, 300, 40)
            reader.read(wanted, out)
            np.testing.assert_array_equal(out, pages[wanted])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_reader_refuses_pages_outside_the_file(io: str, page_file: tuple[Path, np.ndarray]) -> None:
    reader = _native.PageReader(page_file[0], io=io)
    out = np.empty((2, 4096), dtype=np.uint8)
    for bad in (-1, 300, 2**62):
        with pytest.raises(ValueError, match=rf"pages\[1\] is {bad}, .*some.pages has 300 pages"):
            reader.read(np.array([0, bad]), out)
    with pytest.raises(ValueError, match=r"out: expected shape \[1, 4096\], got \[2, 4096\]"):
        reader.read(np.array([0]), out)
    with pytest.raises(TypeError, match="pages: expected dtype int64"):
        reader.read(np.array([0, 1], dtype=np.int32), out)


@pytest.mark.parametrize("left", [100 * 4096, 100 * 4096 + 512, 100 * 4096 + 100])
def test_a_file_truncated_while_open_is_an_error_not_a_hang(
    io: str, page_file: tuple[Path, np.ndarray], left: int
) -> None:
    path, pages = page_file
    reader = _native.PageReader(path, io=io, queue_depth=16)
    os.truncate(path, left)
    out = np.empty((300, 4096), dtype=np.uint8)
    with pytest.raises(OSError, match=r"page \d+ of .*some.pages is truncated: \d+ of 4096 bytes"):
        reader.read(np.arange(300), out)
    # The pages that are left are still served, by the same buffers.
    reader.read(np.arange(100), out[:100])
    np.testing.assert_array_equal(out[:100], pages[:100])


def test_reader_refuses_what_is_no_page_file(tmp_path: Path) -> None:
    (tmp_path / "odd.pages").write_bytes(bytes(5000))
    with pytest.raises(OSError, match=r"odd.pages is truncated: its 5000 bytes are not whole pages of 4096"):
        _native.PageReader(tmp_path / "odd.pages")
    with pytest.raises(FileNotFoundError, match=r"absent.pages"):
        _native.PageReader(tmp_path / "absent.pages")
    with pytest.raises(OSError, match="not a regular file"):
        _native.PageReader("/dev/null")
    (tmp_path / "empty.pages").touch()
    assert _native.PageReader(tmp_path / "empty.pages").num_pages == 0


def test_reader_arguments(page_file: tuple[Path, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="io: 'mmap' is unknown; use 'auto', 'io_uring' or 'pread'"):
        _native.PageReader(page_file[0], io="mmap")
    for depth in (0, -1, 5000):
        with pytest.raises(ValueError, match=f"queue_depth: must be from 1 to 4096, got {depth}"):
            _native.PageReader(page_file[0], queue_depth=depth)


def test_files_on_tmpfs_are_read() -> None:
    directory = Path("/dev/shm")
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        pytest.skip("there is no tmpfs to write to")
    path = directory / f"screc-test-{os.getpid()}.pages"
    pages = np.random.default_rng(0).integers(0, 256, (20, 4096), dtype=np.uint8)
    path.write_bytes(pages.tobytes())
    try:
        for io in ("auto", "pread"):
            reader = _native.PageReader(path, io=io)
            assert isinstance(reader.direct, bool)
            out = np.empty_like(pages)
            reader.read(np.arange(20), out)
            np.testing.assert_array_equal(out, pages)
    finally:
        path.unlink()


# ---------------------------------------------------------------------------------------------------- index


def _hash_id(number: int) -> int:
    mask = (1 << 64) - 1
    number ^= number >> 30
    number = number * 0xBF58476D1CE4E5B9 & mask
    number ^= number >> 27
    number = number * 0x94D049BB133111EB & mask
    return number ^ number >> 31


@given(ids=st.lists(st.integers(0, 2**63 - 1), unique=True, max_size=200))
@settings(max_examples=50, deadline=None)
def test_hash_index_is_the_documented_one(ids: list[int]) -> None:
    capacity = hash_capacity(len(ids))
    slots = np.arange(len(ids), dtype=np.uint32) * 7
    keys_out, slots_out = np.empty(capacity, dtype=np.int64), np.empty(capacity, dtype=np.uint32)
    _native.build_hash_index(np.array(ids, dtype=np.int64), slots, keys_out, slots_out)
    expected = np.full(capacity, -1, dtype=np.int64)
    for number in ids:
        at = _hash_id(number) * capacity >> 64
        while expected[at] != -1:
            at = (at + 1) % capacity
        expected[at] = number
    np.testing.assert_array_equal(keys_out, expected)
    assert dict(zip(keys_out.tolist(), slots_out.tolist(), strict=True)) == {
        **dict(zip(ids, slots.tolist(), strict=True)),
        -1: 0,
    }


def test_hash_index_names_wrong_arguments() -> None:
    keys, slots = np.empty(4, dtype=np.int64), np.empty(4, dtype=np.uint32)
    two = np.zeros(2, dtype=np.uint32)
    with pytest.raises(ValueError, match=r"ids\[1\] is 5, which is there already; ids must be unique"):
        _native.build_hash_index(np.array([5, 5]), two, keys, slots)
    with pytest.raises(ValueError, match=r"ids\[1\] is -3; ids must not be negative"):
        _native.build_hash_index(np.array([5, -3]), two, keys, slots)
    with pytest.raises(ValueError, match="keys_out: needs more than 4 entries, got 4"):
        _native.build_hash_index(np.arange(4), np.arange(4, dtype=np.uint32), keys, slots)
    with pytest.raises(ValueError, match="slots: expected 3 entries as in ids, got 2"):
        _native.build_hash_index(np.arange(3), two, keys, slots)
    with pytest.raises(ValueError, match="slots_out: expected 4 entries as in keys_out, got 3"):
        _native.build_hash_index(np.arange(2), two, keys, slots[:3])

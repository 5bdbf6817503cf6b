"""Look-ups in two halves: several in flight, in any order, given up, and with faults in between."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from test_row_store import Expected, add_three_bands, assert_rows, gather, io, random_bags, write_pages

from screc import _native

__all__ = ["io"]

SIZES = [3000, 700, 50]
DIMS = [8, 24, 16]


def mixed_store(
    directory: Path, io: str = "auto", *, queue_depth: int = 16, threads: int = 2, cache_bytes: int = 0
) -> tuple[_native.RowStore, Expected]:
    store = _native.RowStore(io=io, queue_depth=queue_depth, threads=threads, cache_bytes=cache_bytes)
    expected = Expected()
    for number, kinds in enumerate(("dts", "s", "d")):
        add_three_bands(
            store,
            expected,
            directory,
            num_embeddings=SIZES[number],
            dim=DIMS[number],
            kinds=kinds,
            mean=number == 1,
            seed=number,
        )
    return store, expected


class Call:
    """One look-up of random bags, begun when made."""

    def __init__(self, store: _native.RowStore, size: int, longest: int, seed: int) -> None:
        self.ids, self.offsets = random_bags(SIZES, size, longest, seed)
        self.size = size
        self.out = np.full((size, sum(DIMS)), np.nan, dtype=np.float32)
        self.ticket = store.begin(self.ids, self.offsets, size, self.out)

    def finish(self, expected: Expected) -> None:
        self.ticket.finish()
        want = expected.pooled(self.ids, self.offsets, self.size)
        np.testing.assert_allclose(self.out, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cache_bytes", [0, 30_000])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_look_ups_finish_in_either_order(
    io: str, tmp_path: Path, threads: int, cache_bytes: int, order: tuple[int, int]
) -> None:
    store, expected = mixed_store(tmp_path, io, threads=threads, cache_bytes=cache_bytes)
    lookups = 0
    for turn, size in enumerate((1, 3, 40, 200, 0)):
        calls = [Call(store, size, 5, 2 * turn + i) for i in range(2)]
        lookups += sum(len(call.ids) for call in calls)
        for number in order:
            calls[number].finish(expected)
        assert store.stats().lookups == lookups
    stats = store.stats()
    assert stats.dram_rows + stats.tt_rows + stats.ssd_rows == lookups
    assert stats.cache_hits + stats.cache_misses <= stats.ssd_rows
    assert (stats.cache_hits > 0) == (cache_bytes > 0)


def test_a_ticket_gives_what_a_look_up_gives_bit_by_bit(tmp_path: Path) -> None:
    store, _ = mixed_store(tmp_path)
    ids, offsets = random_bags(SIZES, 100, 6, 0)
    whole, halves = np.empty((2, 100, sum(DIMS)), dtype=np.float32)
    store.lookup(ids, offsets, 100, whole)
    before = store.stats()
    ticket = store.begin(ids, offsets, 100, halves)
    assert store.stats().lookups == before.lookups
    ticket.finish()
    np.testing.assert_array_equal(halves, whole)
    after = store.stats()
    for name in ("lookups", "dram_rows", "tt_rows", "ssd_rows", "page_requests", "pages_read", "bytes_read"):
        assert getattr(after, name) == 2 * getattr(before, name)


@pytest.mark.parametrize("queue_depth", [1, 2, 16])
def test_many_more_reads_than_the_queue_takes(io: str, tmp_path: Path, queue_depth: int) -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 1016), dtype=np.float32)  # a page each
    store = _native.RowStore(io=io, queue_depth=queue_depth, threads=1)
    store.add_table(1000, 1016)
    store.add_ssd_band(0, write_pages(tmp_path / "rows.pages", rows, 0, 0), 0)
    ids = np.random.default_rng(1).permutation(1000)
    calls = []
    for _ in range(3):
        out = np.full((1000, 1016), np.nan, dtype=np.float32)
        calls.append((store.begin(ids, np.arange(1001), 1000, out), out))
    for polls, (ticket, out) in enumerate(calls):
        for _ in range(100 * polls):
            ticket.poll()
        ticket.finish()
        np.testing.assert_array_equal(out, rows[ids])
    assert store.stats().pages_read == 3000


def test_a_call_in_parts_is_finished_by_its_ticket(tmp_path: Path) -> None:
    store, expected = _native.RowStore(), Expected()
    add_three_bands(store, expected, tmp_path, num_embeddings=500, dim=256, kinds="dts")
    ids = np.random.default_rng(0).integers(0, 500, 100_000)  # 100 MB of rows
    out = np.empty((100_000, 256), dtype=np.float32)
    ticket = store.begin(ids, np.arange(100_001), 100_000, out)
    other = gather(store, 0, ids[:100], 256)  # another look-up meanwhile
    assert_rows(expected, 0, ids[:100], other)
    ticket.poll()
    ticket.finish()
    for begin in (0, 50_000, 99_000):
        assert_rows(expected, 0, ids[begin : begin + 1000], out[begin : begin + 1000])
    assert store.stats().lookups == 100_100


def test_a_ticket_is_finished_once(tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path)
    call = Call(store, 5, 3, 0)
    call.finish(expected)
    call.ticket.poll()  # does nothing
    with pytest.raises(RuntimeError, match="ticket: its look-up is finished already"):
        call.ticket.finish()
    Call(store, 5, 3, 1).finish(expected)


def test_tickets_that_are_dropped_free_their_place(io: str, tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path, io)
    for seed in range(30):
        call = Call(store, 50, 4, seed)
        del call
    gc.collect()
    assert store.stats().lookups == 0
    Call(store, 50, 4, 99).finish(expected)


def test_as_many_tickets_as_the_store_takes(tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path)
    calls = [Call(store, 10, 3, seed) for seed in range(8)]
    with pytest.raises(RuntimeError, match="8 look-ups are in flight; finish one before the next begins"):
        Call(store, 10, 3, 8)
    with pytest.raises(RuntimeError, match="8 look-ups are in flight"):
        gather(store, 0, np.arange(3), DIMS[0])
    calls.pop(3).finish(expected)
    assert_rows(expected, 0, np.arange(9), gather(store, 0, np.arange(9), DIMS[0]))
    for call in reversed(calls):
        call.finish(expected)


def test_the_store_and_the_arrays_outlive_their_names(tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path)
    ids, offsets = random_bags(SIZES, 50, 4, 0)
    want = expected.pooled(ids, offsets, 50)
    out = np.empty((50, sum(DIMS)), dtype=np.float32)
    ticket = store.begin(ids, offsets, 50, out)
    del store, ids, offsets
    gc.collect()
    ticket.finish()
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-4)


def test_a_wrong_call_leaves_no_ticket(tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path)
    out = np.empty((2, sum(DIMS)), dtype=np.float32)
    ids = np.array([5, 2999, 5, 699, 5, 50])
    offsets = np.arange(7)
    for _ in range(20):
        # The bad id is of the table without SSD: found when the reads of the others are in flight.
        with pytest.raises(ValueError, match=r"ids\[5\] is 50, outside table 2 of 50 rows"):
            store.begin(ids, offsets, 2, out)
        with pytest.raises(ValueError, match=r"ids\[1\] is 3000, outside table 0 of 3000 rows"):
            store.begin(np.array([5, 3000, 5, 5, 5, 5]), offsets, 2, out)
        with pytest.raises(ValueError, match=r"offsets\[1\] is 3 .*|offsets\[2\] is 2 .*below the 3"):
            store.begin(ids, np.array([0, 3, 2, 3, 4, 5, 6]), 2, out)
    assert store.stats().lookups == 0
    Call(store, 50, 4, 0).finish(expected)


@pytest.mark.parametrize("fault", ["damage", "truncation"])
def test_a_fault_with_reads_in_flight_is_of_its_own_ticket(io: str, tmp_path: Path, fault: str) -> None:
    rows = np.random.default_rng(0).standard_normal((300, 1016), dtype=np.float32)  # a page each
    store = _native.RowStore(io=io, queue_depth=8, threads=2, cache_bytes=1 << 20)
    store.add_table(300, 1016)
    path = write_pages(tmp_path / "rows.pages", rows, 0, 0)
    store.add_ssd_band(0, path, 0)
    with path.open("r+b") as file:
        if fault == "damage":
            file.seek(200 * 4096 + 77)
            file.write(b"x")
        else:
            os.ftruncate(file.fileno(), 200 * 4096)
    text = r"page 200 of .* is damaged" if fault == "damage" else r"page \d+ of .*rows.pages is truncated"

    def begin(ids: np.ndarray) -> tuple[_native.Ticket, np.ndarray]:
        out = np.empty((len(ids), 1016), dtype=np.float32)
        return store.begin(ids, np.arange(len(ids) + 1), len(ids), out), out

    for order in ((0, 1, 2), (2, 1, 0)):
        wanted = [np.arange(0, 200), np.arange(300), np.arange(100, 200)]
        calls = [begin(ids) for ids in wanted]
        for number in order:
            ticket, out = calls[number]
            if number != 1:
                ticket.finish()
                np.testing.assert_array_equal(out, rows[wanted[number]])
                continue
            with pytest.raises(OSError, match=text):
                ticket.finish()
            with pytest.raises(RuntimeError, match="finished already"):
                ticket.finish()
    assert store.stats().lookups == 2 * 300
    # The contexts of the failed look-ups serve again.
    calls = [begin(np.arange(200)) for _ in range(8)]
    for ticket, out in calls:
        ticket.finish()
        np.testing.assert_array_equal(out, rows[:200])


def test_tickets_of_many_threads(io: str, tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path, io, queue_depth=8, cache_bytes=20_000)

    def work(seed: int) -> None:
        for turn in range(8):
            calls = [Call(store, 30, 4, 100 * seed + 10 * turn + i) for i in range(2)]
            calls[turn % 2].finish(expected)
            assert_rows(expected, 0, np.arange(40), gather(store, 0, np.arange(40), DIMS[0]))
            calls[1 - turn % 2].finish(expected)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))


def test_a_ticket_begun_by_a_thread_that_has_ended(io: str, tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path, io, queue_depth=64)
    calls: list[Call] = []
    for seed in range(5):
        thread = threading.Thread(target=lambda seed=seed: calls.append(Call(store, 200, 4, seed)))
        thread.start()
        thread.join()
        calls[-1].finish(expected)


def test_a_ticket_polled_by_one_thread_and_finished_by_another(io: str, tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path, io, queue_depth=2)
    for seed in range(20):
        call = Call(store, 100, 4, seed)
        done = threading.Event()

        def poll(call: Call = call, done: threading.Event = done) -> None:
            while not done.is_set():
                call.ticket.poll()

        thread = threading.Thread(target=poll)
        thread.start()
        call.finish(expected)
        done.set()
        thread.join()


def test_tables_may_be_added_while_a_look_up_is_in_flight(tmp_path: Path) -> None:
    store, expected = mixed_store(tmp_path, cache_bytes=30_000)
    call = Call(store, 100, 4, 0)
    for number in range(3, 20):
        add_three_bands(store, expected, tmp_path, num_embeddings=200, dim=8, kinds="ds", seed=number)
    call.ticket.finish()
    del expected.rows[3:]
    want = expected.pooled(call.ids, call.offsets, 100)
    np.testing.assert_allclose(call.out, want, rtol=1e-5, atol=1e-4)

"""The row cache under "sketch" against a model of it in Python, and hit rates against the best fixed set."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_formats import decode, encode
from test_row_store import bitmap_index, gather, write_pages

from screc import _native

WAYS, CANDIDATES, SET_BYTES, AGE_ACCESSES = 8, 10, 128, 32
MASK = (1 << 64) - 1
POLICIES = pytest.mark.parametrize("policy", ["sketch", "lru"])


def hash_id(number: int) -> int:
    number ^= number >> 30
    number = number * 0xBF58476D1CE4E5B9 & MASK
    number ^= number >> 27
    number = number * 0x94D049BB133111EB & MASK
    return number ^ number >> 31


@dataclass
class ModelSet:
    """One set: rows with their counts in ways, and fingerprints with their counts, oldest first."""

    ways: list[tuple[int, int] | None] = field(default_factory=lambda: [None] * WAYS)
    candidates: list[tuple[int, int]] = field(default_factory=list)
    epoch: int = 0


class Model:
    """What sketch_cache.h says, for bands of one row length."""

    def __init__(self, num_sets: int) -> None:
        self.sets = [ModelSet() for _ in range(num_sets)]
        self.accesses = 0
        self.hits = self.misses = self.admissions = 0

    def call(self, keys: list[int]) -> None:
        """One call of the store that wants these rows."""
        wanted = sorted(set(keys))
        missed = [key for key in wanted if not self._access(key)]
        self.hits += len(wanted) - len(missed)
        self.misses += len(missed)
        self.admissions += sum(self._offer(key) for key in missed)

    def _set(self, key: int) -> ModelSet:
        return self.sets[hash_id(key) * len(self.sets) >> 64]

    def _access(self, key: int) -> bool:
        self.accesses += 1
        epoch = self.accesses // (AGE_ACCESSES * WAYS * len(self.sets))
        own = self._set(key)
        shift = epoch - own.epoch
        own.epoch = epoch
        own.ways = [None if way is None else (way[0], way[1] >> shift) for way in own.ways]
        own.candidates = [(print_, count >> shift) for print_, count in own.candidates if count >> shift]
        for i, way in enumerate(own.ways):
            if way is not None and way[0] == key:
                own.ways[i] = (key, min(way[1] + 1, 255))
                return True
        fingerprint = hash_id(key) & 0xFFFFFFFF
        for i, (print_, count) in enumerate(own.candidates):
            if print_ == fingerprint:
                own.candidates[i] = (print_, min(count + 1, 255))
                return False
        if len(own.candidates) == CANDIDATES:
            least = min(range(CANDIDATES), key=lambda i: own.candidates[i][1])
            print_, count = own.candidates[least]
            if count > 1:
                own.candidates[least] = (print_, count - 1)
                return False
            del own.candidates[least]
        own.candidates.append((fingerprint, 1))
        return False

    def _offer(self, key: int) -> bool:
        own = self._set(key)
        fingerprint = hash_id(key) & 0xFFFFFFFF
        place = next((i for i, (print_, _) in enumerate(own.candidates) if print_ == fingerprint), None)
        count = 0 if place is None else own.candidates[place][1]
        least = min(range(WAYS), key=lambda i: -1 if own.ways[i] is None else own.ways[i][1])
        old = own.ways[least]
        if old is not None and count <= old[1]:
            return False
        if old is not None and old[1] > 0:
            own.candidates[place] = (hash_id(old[0]) & 0xFFFFFFFF, old[1])
        elif place is not None:
            del own.candidates[place]
        own.ways[least] = (key, max(count, 1))
        return True


def ssd_store(
    directory: Path, tables: list[np.ndarray], *, cache_bytes: int, policy: str = "sketch", threads: int = 1
) -> _native.RowStore:
    """A store of whole tables on SSD."""
    store = _native.RowStore(threads=threads, cache_bytes=cache_bytes, cache_policy=policy)
    for number, rows in enumerate(tables):
        store.add_table(len(rows), rows.shape[1])
        store.add_ssd_band(number, write_pages(directory / f"{number}.pages", rows, number, 0), 0)
    return store


def random_rows(count: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)


def counted(store: _native.RowStore) -> tuple[int, int, int]:
    stats = store.stats()
    return stats.cache_hits, stats.cache_misses, stats.cache_admissions


@given(
    seed=st.integers(0, 2**32),
    num_sets=st.integers(1, 7),
    exponent=st.floats(0.0, 1.5),
    calls=st.integers(1, 150),
    longest=st.integers(1, 40),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_policy_is_the_documented_one(
    tmp_path: Path, seed: int, num_sets: int, exponent: float, calls: int, longest: int
) -> None:
    generator = np.random.default_rng(seed)
    tables = [random_rows(300, 4, seed), random_rows(200, 4, seed + 1)]
    row_bytes = 16
    store = ssd_store(tmp_path, tables, cache_bytes=num_sets * (SET_BYTES + WAYS * row_bytes) + 5)
    assert store.stats().cache_bytes == num_sets * (SET_BYTES + WAYS * row_bytes)
    model = Model(num_sets)
    weights = 1 / np.arange(1, 201) ** exponent
    weights /= weights.sum()
    for _ in range(calls):
        table = int(generator.integers(0, 2))
        ids = generator.choice(200, int(generator.integers(1, longest + 1)), p=weights)
        np.testing.assert_array_equal(gather(store, table, ids, 4), tables[table][ids])
        model.call([table << 44 | int(i) for i in ids])
        assert counted(store) == (model.hits, model.misses, model.admissions)


def test_hit_rates_are_near_those_of_the_best_fixed_set(tmp_path: Path) -> None:
    num_rows, batch, entries = 20_000, 100, 2000
    rows = random_rows(num_rows, 4)
    store = ssd_store(tmp_path, [rows], cache_bytes=entries // WAYS * (SET_BYTES + WAYS * 16))
    generator = np.random.default_rng(1)
    weights = 1 / np.arange(1, num_rows + 1) ** 1.05
    weights /= weights.sum()
    ids_of = generator.permutation(num_rows)
    wanted = 1 - (1 - weights) ** batch  # chance that a call wants the row
    best = wanted[:entries].sum() / wanted.sum()

    def hit_rate(calls: int, scanned: int) -> float:
        """Of the rows of the Zipf traffic, while as many rows are wanted once and never again."""
        hits = rows_wanted = 0
        for _ in range(calls):
            ids = ids_of[generator.choice(num_rows, batch, p=weights)]
            before = counted(store)
            gather(store, 0, ids, 4)
            after = counted(store)
            hits += after[0] - before[0]
            rows_wanted += after[0] - before[0] + after[1] - before[1]
            if scanned:
                gather(store, 0, generator.integers(0, num_rows, scanned), 4)
        return hits / rows_wanted

    hit_rate(600, 0)  # learns the traffic
    alone = hit_rate(200, 0)
    assert alone > best - 0.04
    assert hit_rate(200, batch) > alone - 0.03


def test_a_row_wanted_once_does_not_displace_one_wanted_often(tmp_path: Path) -> None:
    rows = random_rows(5000, 4)
    store = ssd_store(tmp_path, [rows], cache_bytes=SET_BYTES + WAYS * 16)  # one set
    hot = np.arange(WAYS)
    for _ in range(3):
        gather(store, 0, hot, 4)
    assert counted(store) == (2 * WAYS, WAYS, WAYS)
    for first in range(100, 200, 10):  # in all, less than makes counts fade
        gather(store, 0, np.arange(first, first + 10), 4)
    assert store.stats().cache_admissions == WAYS
    before = store.stats().cache_hits
    np.testing.assert_array_equal(gather(store, 0, hot, 4), rows[hot])
    assert store.stats().cache_hits == before + WAYS


def test_old_fame_fades(tmp_path: Path) -> None:
    rows = random_rows(5000, 4)
    store = ssd_store(tmp_path, [rows], cache_bytes=SET_BYTES + WAYS * 16)
    for _ in range(300):
        gather(store, 0, np.arange(WAYS), 4)
    new = np.arange(1000, 1000 + WAYS)
    for _ in range(AGE_ACCESSES * 10):
        gather(store, 0, new, 4)
    before = store.stats().cache_hits
    gather(store, 0, new, 4)
    assert store.stats().cache_hits == before + WAYS


@POLICIES
def test_rows_of_several_lengths_share_the_bytes(tmp_path: Path, policy: str) -> None:
    tables = [
        random_rows(4000, 16),
        random_rows(1000, 64),
        random_rows(40, 2250),
    ]  # the last takes three pages
    given_bytes = 300_000
    store = ssd_store(tmp_path, tables, cache_bytes=given_bytes, policy=policy)
    held = store.stats().cache_bytes
    assert given_bytes * 0.8 < held <= given_bytes
    assert store.stats().dram_bytes == held
    generator = np.random.default_rng(0)
    for _ in range(30):
        for number, rows in enumerate(tables):
            ids = generator.zipf(1.3, 50) % len(rows)
            np.testing.assert_array_equal(gather(store, number, ids, rows.shape[1]), rows[ids])
    stats = store.stats()
    assert stats.cache_hits > 0.4 * (stats.cache_hits + stats.cache_misses)
    assert stats.ssd_rows == stats.lookups == 30 * 3 * 50
    assert stats.cache_hits + stats.cache_misses <= stats.ssd_rows


@POLICIES
@pytest.mark.parametrize("dim", [1, 13, 16])
@pytest.mark.parametrize("fmt", ["fp16", "int8", "int4"])
def test_encoded_rows_are_cached_as_they_are(tmp_path: Path, fmt: str, dim: int, policy: str) -> None:
    rows = random_rows(900, dim)
    raw = encode(rows, fmt)
    want = decode(raw, fmt, dim)
    own = np.arange(0, 900, 5)
    store = _native.RowStore(threads=2, cache_bytes=6000, cache_policy=policy)
    for table in range(2):  # all on SSD, and with float32 rows in DRAM beside them
        store.add_table(900, dim)
        if table == 1:
            store.add_dram_band(table, rows[own], bitmap_index(own, 900))
        path = write_pages(tmp_path / f"{table}.pages", raw, table, table)
        store.add_ssd_band(table, path, table, format=fmt)
    generator = np.random.default_rng(0)
    for _ in range(20):
        ids = generator.zipf(1.3, 200) % 900
        np.testing.assert_array_equal(gather(store, 0, ids, dim), want[ids])
        mixed = np.where((ids % 5 == 0)[:, None], rows[ids], want[ids])
        np.testing.assert_array_equal(gather(store, 1, ids, dim), mixed)
    assert store.stats().cache_hits > 0


def test_a_call_over_many_tables_uses_one_cache(tmp_path: Path) -> None:
    tables = [random_rows(500, 8, seed) for seed in range(3)]
    store = ssd_store(tmp_path, tables, cache_bytes=40_000, threads=2)
    model = Model(store.stats().cache_bytes // (SET_BYTES + WAYS * 32))
    generator = np.random.default_rng(0)
    for _ in range(60):
        ids = generator.zipf(1.2, 3 * 64) % 500
        out = np.empty((64, 24), dtype=np.float32)
        store.lookup(ids, np.arange(3 * 64 + 1), 64, out)
        for table in range(3):
            own = ids[table * 64 : (table + 1) * 64]
            np.testing.assert_array_equal(out[:, table * 8 : table * 8 + 8], tables[table][own])
        model.call([int(i) // 64 << 44 | int(ids[i]) for i in range(3 * 64)])
        assert counted(store) == (model.hits, model.misses, model.admissions)
    assert model.hits > 0


def test_only_rows_on_ssd_are_cached(tmp_path: Path) -> None:
    cold = random_rows(300, 4)
    store = _native.RowStore(threads=1, cache_bytes=10_000)
    store.add_table(300, 4)
    own = np.arange(0, 300, 3)
    hot = random_rows(len(own), 4, 1)
    store.add_dram_band(0, hot, bitmap_index(own, 300))
    assert store.stats().cache_bytes == 0  # nothing to cache yet
    store.add_ssd_band(0, write_pages(tmp_path / "cold.pages", cold, 0, 1), 1)
    want = cold.copy()
    want[own] = hot
    for _ in range(3):
        np.testing.assert_array_equal(gather(store, 0, np.arange(300), 4), want)
    hits, misses, _ = counted(store)
    assert hits + misses == 3 * 200
    assert hits > 0


@POLICIES
def test_without_a_cache_every_row_is_missed(tmp_path: Path, policy: str) -> None:
    rows = random_rows(100, 4)
    for cache_bytes in (0, 40):  # 40 bytes hold no row
        store = ssd_store(tmp_path, [rows], cache_bytes=cache_bytes, policy=policy)
        for _ in range(2):
            gather(store, 0, np.array([1, 1, 2]), 4)
        assert counted(store) == (0, 4, 0)
        assert store.stats().cache_bytes == store.stats().dram_bytes == 0
        assert store.stats().ssd_rows == 6
    with pytest.raises(ValueError, match="cache_bytes: must not be negative, got -1"):
        _native.RowStore(cache_bytes=-1)
    with pytest.raises(ValueError, match="cache_policy: expected 'sketch' or 'lru', got 'fifo'"):
        _native.RowStore(cache_policy="fifo")


def test_a_small_table_needs_no_more_than_its_rows(tmp_path: Path) -> None:
    rows = random_rows(64, 4)
    store = ssd_store(tmp_path, [rows], cache_bytes=1 << 30)
    assert store.stats().cache_bytes == 2 * 64 // WAYS * (SET_BYTES + WAYS * 16)
    for _ in range(2):
        gather(store, 0, np.arange(64), 4)
    assert counted(store)[0] > 55


@POLICIES
def test_a_row_of_a_damaged_page_is_never_cached(tmp_path: Path, policy: str) -> None:
    rows = random_rows(2000, 16)  # 63 a page
    store = ssd_store(tmp_path, [rows], cache_bytes=1 << 20, policy=policy)
    path = tmp_path / "0.pages"
    good = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(5 * 4096 + 500)
        file.write(bytes(8))
    ids = np.arange(4 * 63, 7 * 63)
    for _ in range(2):
        with pytest.raises(OSError, match=r"page 5 of .* is damaged"):
            gather(store, 0, ids, 16)
    assert counted(store) == (0, 0, 0)
    with path.open("r+b") as file:
        file.write(good)
        os.fsync(file.fileno())
    for _ in range(3):
        np.testing.assert_array_equal(gather(store, 0, ids, 16), rows[ids])
    assert counted(store)[0] > 0

"""The row cache's policy "lru" against least-recently-used order in Python."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_row_cache import counted, random_rows, ssd_store
from test_row_store import gather


def bytes_for(entries: int, row_bytes: int) -> int:
    """What a cache of so many rows takes (lru_cache.h), odd numbers two bytes less."""
    return entries * (row_bytes + 22) + 4


class Model:
    """Rows in the order of their last use, oldest first."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.rows: OrderedDict[int, None] = OrderedDict()
        self.hits = self.misses = self.admissions = 0

    def call(self, keys: list[int]) -> None:
        """One call of the store that wants these rows: all are asked for, then those missed are taken in."""
        missed = []
        for key in sorted(set(keys)):
            if key in self.rows:
                self.rows.move_to_end(key)
                self.hits += 1
            else:
                missed.append(key)
        for key in missed:
            if len(self.rows) == self.entries:
                self.rows.popitem(last=False)
            self.rows[key] = None
        self.misses += len(missed)
        self.admissions += len(missed)


@given(
    seed=st.integers(0, 2**32),
    entries=st.integers(1, 90),
    exponent=st.floats(0.0, 1.5),
    calls=st.integers(1, 150),
    longest=st.integers(1, 60),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hits_are_those_of_least_recently_used_order(
    tmp_path: Path, seed: int, entries: int, exponent: float, calls: int, longest: int
) -> None:
    generator = np.random.default_rng(seed)
    tables = [random_rows(300, 4, seed), random_rows(200, 4, seed + 1)]
    store = ssd_store(tmp_path, tables, cache_bytes=bytes_for(entries, 16) + 5, policy="lru")
    assert store.stats().cache_bytes == bytes_for(entries, 16) - 2 * (entries % 2)
    model = Model(entries)
    weights = 1 / np.arange(1, 201) ** exponent
    weights /= weights.sum()
    for _ in range(calls):
        table = int(generator.integers(0, 2))
        ids = generator.choice(200, int(generator.integers(1, longest + 1)), p=weights)
        np.testing.assert_array_equal(gather(store, table, ids, 4), tables[table][ids])
        model.call([table << 44 | int(i) for i in ids])
        assert counted(store) == (model.hits, model.misses, model.admissions)


def test_many_rows_over_a_long_time(tmp_path: Path) -> None:
    rows = random_rows(30_000, 4)
    store = ssd_store(tmp_path, [rows], cache_bytes=bytes_for(5000, 16), policy="lru")
    model, generator = Model(5000), np.random.default_rng(0)
    for _ in range(150):
        ids = np.minimum(generator.zipf(1.2, 1500) - 1, 29_999)
        ids = ids * 7919 % 30_000
        np.testing.assert_array_equal(gather(store, 0, ids, 4), rows[ids])
        model.call(ids.tolist())
    assert counted(store) == (model.hits, model.misses, model.admissions)
    assert model.misses > 3 * 5000, "the cache has been renewed several times"


def test_the_row_not_wanted_for_longest_gives_way(tmp_path: Path) -> None:
    rows = random_rows(100, 4)
    store = ssd_store(tmp_path, [rows], cache_bytes=bytes_for(3, 16), policy="lru")

    def hits(row: int) -> bool:
        before = store.stats().cache_hits
        np.testing.assert_array_equal(gather(store, 0, np.array([row]), 4), rows[[row]])
        return store.stats().cache_hits > before

    assert [hits(row) for row in (10, 20, 30)] == [False] * 3
    assert hits(10)
    assert not hits(40)  # in the place of 20
    assert hits(10)
    assert hits(30)
    assert not hits(20)  # in the place of 40
    assert [hits(row) for row in (10, 30, 20)] == [True] * 3
    assert not hits(40)


def test_a_call_larger_than_the_cache_is_answered(tmp_path: Path) -> None:
    rows = random_rows(2000, 4)
    store = ssd_store(tmp_path, [rows], cache_bytes=bytes_for(10, 16), policy="lru")
    ids = np.arange(2000)
    for _ in range(2):
        np.testing.assert_array_equal(gather(store, 0, ids, 4), rows)
    assert counted(store) == (10, 3990, 3990)  # of the second call those that the first took in last


def test_no_more_is_taken_than_the_rows_need(tmp_path: Path) -> None:
    rows = random_rows(64, 4)
    store = ssd_store(tmp_path, [rows], cache_bytes=1 << 30, policy="lru")
    assert store.stats().cache_bytes == bytes_for(64, 16)
    for _ in range(2):
        gather(store, 0, np.arange(64), 4)
    assert counted(store) == (64, 64, 64)


def test_threads_share_a_cache(tmp_path: Path) -> None:
    rows = random_rows(3000, 16)
    store = ssd_store(tmp_path, [rows], cache_bytes=bytes_for(500, 64), policy="lru", threads=2)

    def ask(seed: int) -> int:
        generator, wanted = np.random.default_rng(seed), 0
        for _ in range(60):
            ids = generator.zipf(1.4, 200) % 3000
            np.testing.assert_array_equal(gather(store, 0, ids, 16), rows[ids])
            wanted += np.unique(ids).size
        return wanted

    with ThreadPoolExecutor(4) as pool:
        wanted = sum(pool.map(ask, range(4)))
    hits, misses, admissions = counted(store)
    assert hits + misses == wanted
    assert 0 < admissions <= misses  # a row that two calls missed at once is taken in once
    assert hits > 0.4 * wanted
    # It is still what one thread makes of it: a full cache, in the order of use.
    model = Model(500)
    for ids in np.random.default_rng(9).integers(0, 3000, (40, 100)):
        gather(store, 0, ids, 16)
        model.call(ids.tolist())
    model.hits = model.misses = model.admissions = 0
    before = counted(store)
    for ids in np.random.default_rng(10).integers(0, 3000, (40, 100)):
        gather(store, 0, ids, 16)
        model.call(ids.tolist())
    after = counted(store)
    assert tuple(b - a for a, b in zip(before, after, strict=True)) == (
        model.hits,
        model.misses,
        model.admissions,
    )

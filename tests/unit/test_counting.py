"""Counting in bounded memory: against a dictionary, bounds against exact counts, memory against its limit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc import _native
from screc.data import Batch, TableSpec
from screc.data.hashing import mix
from screc.statistics import AccessStatistics, TableStatistics, Tail
from screc.statistics.counting import make_counters

ROWS = 10**9
# 2048 bytes: a map of 112 slots, 89 rows at most, and a sample of 16 slots, 12 rows.
LEAST, MOST_RANKED = 2048, 89


def in_sample(ids: np.ndarray, level: int) -> np.ndarray:
    """Whether each id is in a sample of this level: the oracle of the native choice."""
    return mix((ids + 1).astype(np.uint64)) & np.uint64((1 << level) - 1) == 0


def zipf_ids(lookups: int, rows: int, exponent: float = 1.05, seed: int = 0) -> np.ndarray:
    """int64 ids by a bounded Zipf law, scattered over the table."""
    span = (rows + 1.0) ** (1 - exponent) - 1
    draw = np.random.default_rng(seed).random(lookups)
    ranks = np.minimum((span * draw + 1) ** (1 / (1 - exponent)) - 1, rows - 1).astype(np.int64)
    return ranks * 982_451_653 % rows


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.lists(st.integers(0, 200), max_size=30), max_size=12),
    offset=st.sampled_from((0, 10**12)),
)
def test_what_fits_is_counted_exactly(chunks: list[list[int]], offset: int) -> None:
    dense = _native.RowCounter("t", 201, 1 << 14)
    sparse = _native.RowCounter("t", offset + 201, 1 << 14)
    naive = Counter(i for chunk in chunks for i in chunk)
    for chunk in chunks:
        dense.add(np.array(chunk, np.int64))
        sparse.add(np.array(chunk, np.int64) + offset)
    ranked = sorted(naive.items(), key=lambda item: (-item[1], item[0]))
    for counter, shift in ((dense, 0), (sparse, offset)):
        assert counter.num_lookups == sum(naive.values())
        assert counter.exact
        found = counter.finish()
        assert found.ids.dtype == found.counts.dtype == np.int64
        assert found.errors.size == found.unranked_sample.size == 0
        assert (found.ids - shift).tolist() == [i for i, _ in ranked]
        assert found.counts.tolist() == [count for _, count in ranked]


def test_counts_larger_than_most_are_ranked_too() -> None:
    counter = _native.RowCounter("t", 5, 1 << 14)
    for row, count in ((3, 70_000), (1, 65_536), (4, 65_537), (0, 70_000), (2, 2)):
        counter.add(np.full(count, row))
    found = counter.finish()
    assert found.ids.tolist() == [0, 3, 4, 1, 2]
    assert found.counts.tolist() == [70_000, 70_000, 65_537, 65_536, 2]


streams = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 40), st.integers(0, 3)), min_size=1, max_size=8
)


@settings(max_examples=150, deadline=None)
@given(streams, st.integers(0, 2**32 - 1))
def test_bounds_hold_against_exact_counts(parts: list[tuple[int, int, int]], seed: int) -> None:
    """Streams of new rows, of repeated rows and of both, mixed and one after the other."""
    random = np.random.default_rng(seed)
    pieces = []
    for size, repeats, kind in parts:
        some = random.integers(0, (100, 3000, ROWS, 60)[kind], size)
        pieces.append(random.permutation(np.repeat(some, repeats if kind == 3 else 1 + repeats // 20)))
    ids = np.concatenate(pieces)
    counter = _native.RowCounter("t", ROWS, LEAST)
    for chunk in np.array_split(ids, 5):
        counter.add(chunk)
        assert counter.bytes <= LEAST
    exact = counter.exact
    found = counter.finish()

    true_ids, true_counts = np.unique(ids, return_counts=True)
    assert np.unique(found.ids).size == found.ids.size <= MOST_RANKED
    place = np.searchsorted(true_ids, found.ids)
    assert (true_ids[place] == found.ids).all()
    truth = true_counts[place]
    unranked = np.ones(true_ids.size, bool)
    unranked[place] = False
    assert exact == (true_ids.size <= MOST_RANKED)
    if exact:
        assert not unranked.any()
        assert (found.counts == truth).all()
        return
    assert (np.diff(found.counts) <= 0).all()
    assert (found.counts <= truth).all()
    assert (truth <= found.counts + found.errors).all()
    assert found.errors.max() <= found.unranked_bound <= 2 * ids.size / MOST_RANKED
    assert (true_counts[unranked] <= found.unranked_bound).all()
    # The sample is what its hash says, counted exactly.
    sampled = in_sample(true_ids, found.sample_level)
    assert found.sample_rows == sampled.sum() > 0
    assert found.sample_singletons == (true_counts[sampled] == 1).sum()
    assert sorted(found.unranked_sample) == sorted(true_counts[sampled & unranked])


def test_errors_too_large_for_their_bits_are_rounded_up() -> None:
    """Rows that take turns with tens of thousands of look-ups push the offset past 19 bits."""
    counter = _native.RowCounter("t", ROWS, LEAST)
    truth: Counter[int] = Counter()
    random = np.random.default_rng(0)
    for row in range(200):
        count = int(random.integers(300_000, 900_000))
        counter.add(np.full(count, row))
        truth[row] += count
    found = counter.finish()
    assert found.unranked_bound > 1 << 19
    assert found.errors.max() > 1 << 19
    for row, count, error in zip(found.ids, found.counts, found.errors, strict=True):
        assert count <= truth[row] <= count + error
    assert max(truth[row] for row in truth.keys() - set(found.ids)) <= found.unranked_bound


def test_counters_refuse_wrong_input() -> None:
    counter = _native.RowCounter("giant", 10**12, LEAST)
    with pytest.raises(ValueError, match="table giant: id -1 is out of range for 1000000000000 rows"):
        counter.add(np.array([1, -1, 10**12]))
    with pytest.raises(ValueError, match="table giant: id 1000000000000 is out of range"):
        counter.add(np.array([10**12]))
    assert counter.num_lookups == 0
    with pytest.raises(TypeError, match="ids: expected dtype int64"):
        counter.add(np.array([1], np.int32))
    with pytest.raises(ValueError, match="num_embeddings: must be at least 1, got 0"):
        _native.RowCounter("t", 0, LEAST)
    with pytest.raises(ValueError, match="max_bytes: must be at least 2048, got 9"):
        _native.RowCounter("t", 5, 9)
    ids, offsets = np.arange(4), np.array([0, 1, 3, 3, 4])
    two = [_native.RowCounter("t", 5, LEAST) for _ in range(2)]
    assert _native.count_batch(two, ids, offsets, 2).tolist() == [2, 1]
    for wrong, size, words in (
        (offsets, 3, "5 entries are not tables x 3 samples"),
        (offsets, 4, "counters: 2 for a batch of 1 tables"),
        (np.array([0, 3, 1, 3, 4]), 2, "offsets: must rise"),
        (np.array([0, 1, 3, 3, 5]), 2, "offsets: must rise from 0 to the number of ids, 4"),
        (np.array([-1, 1, 3, 3, 4]), 2, "offsets: must rise"),
        (np.zeros(0, np.int64), 2, "0 entries"),
    ):
        with pytest.raises(ValueError, match=words):
            _native.count_batch(two, ids, wrong, size)


@given(st.lists(st.integers(1, 10**9) | st.integers(1, 5000), min_size=1, max_size=6), st.integers(0, 10**9))
@settings(max_examples=200, deadline=None)
def test_parts_of_the_memory_keep_within_it(rows: list[int], more: int) -> None:
    tables = [(f"t{number}", size) for number, size in enumerate(rows)]
    with pytest.raises(ValueError, match="needs at least") as refusal:
        make_counters(tables, 0)
    least = int(str(refusal.value).split("at least ")[1].split()[0])
    with pytest.raises(ValueError, match="needs at least"):
        make_counters(tables, least - 1)
    charged = [min(16 * size, _part(tables, least + more)) for size in rows]
    assert sum(charged) + max(charged) <= least + more


def _part(tables: list[tuple[str, int]], limit: int) -> int:
    """Bytes that the counter of a table may take."""
    parts = []

    class Recorder:
        def __init__(self, name: str, rows: int, max_bytes: int) -> None:
            parts.append(max_bytes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("screc.statistics.counting._native.RowCounter", Recorder)
        make_counters(tables, limit)
    assert len(set(parts)) == 1
    return parts[0]


# ----------------------------------------------------------------------------------------------------
# statistics of more rows than fit


class ArrayLog:
    """One table of ROWS rows; ids int64 [samples, pooling]."""

    tables = (TableSpec("rows", ROWS),)
    num_dense = 0

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    @property
    def num_samples(self) -> int:
        return len(self.ids)

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        for start in range(skip, len(self.ids), batch_size):
            ids = self.ids[start : start + batch_size]
            offsets = np.arange(0, ids.size + 1, ids.shape[1])
            yield Batch(np.zeros((len(ids), 0), np.float32), ids.ravel(), offsets)


def bounded_and_exact(
    lookups: int, memory: int = 2 << 20
) -> tuple[TableStatistics, TableStatistics, np.ndarray]:
    """Statistics of the same log in too little memory and in enough, and the ids looked up."""
    ids = zipf_ids(lookups, ROWS)
    log = ArrayLog(ids.reshape(-1, 20))
    (bounded,) = AccessStatistics.collect(log, memory_limit=memory).tables
    (exact,) = AccessStatistics.collect(log).tables
    assert exact.exact
    assert not bounded.exact
    return bounded, exact, ids


def test_a_tail_models_what_did_not_fit() -> None:
    bounded, exact, ids = bounded_and_exact(1_000_000)
    assert bounded.tail is not None
    assert bounded.num_ranked < exact.num_seen / 8
    assert (bounded.num_lookups, bounded.num_nonempty) == (exact.num_lookups, exact.num_nonempty)
    assert bounded.distinct == exact.distinct
    error = 3 * bounded.tail.rows_error
    assert error < 0.06
    assert bounded.num_seen == pytest.approx(exact.num_seen, rel=error)
    assert bounded.unseen_share == pytest.approx(exact.unseen_share, rel=error)

    # The counted curve is that of exact counts, but for the share that the tail is wrong by.
    error = 3 * bounded.tail.lookups_error * bounded.tail.num_lookups / bounded.num_lookups
    assert error < 0.03
    ranks = np.geomspace(1, ROWS, 60).astype(np.int64)
    np.testing.assert_allclose(bounded.share(ranks), exact.share(ranks), atol=error)
    assert bounded.share(ROWS) == pytest.approx(1.0)
    # The smoothed curve says what the rows of these ranks were looked up for: its ranks are those of the ids.
    counts = dict(zip(*map(np.ndarray.tolist, np.unique(ids, return_counts=True)), strict=True))
    for share in (0.01, 0.1, 0.5, 1.0):
        cut = int(share * bounded.num_ranked)
        truth = sum(counts[row] for row in bounded.ids_in_ranks(0, cut).tolist()) / ids.size
        assert float(bounded.smoothed_curve.share(cut)) == pytest.approx(truth, abs=error)
    assert float(bounded.smoothed_curve.share(ROWS)) == pytest.approx(1.0)
    assert (bounded.smoothed_curve.probabilities > 0).all()
    # Different rows of a batch, too, for all that the tail is taken flat.
    lookups = 20_000.0
    assert bounded.smoothed_curve.distinct(lookups, ROWS) == pytest.approx(
        float(exact.smoothed_curve.distinct(lookups, ROWS)), rel=0.02
    )


def test_ranks_of_a_table_with_a_tail_are_a_bijection() -> None:
    rows = 3000
    ids = np.concatenate((np.random.default_rng(0).permutation(rows)[:2000], np.arange(30).repeat(40)))
    counter = _native.RowCounter("t", rows, LEAST)
    counter.add(ids)
    found = counter.finish()
    counts, tail_rows = np.unique(found.unranked_sample, return_counts=True)
    tail = Tail(
        counts=counts,
        rows=tail_rows,
        sampling=2.0**-found.sample_level,
        sample_rows=found.sample_rows,
        sample_singletons=found.sample_singletons,
        bound=found.unranked_bound,
    )
    table = TableStatistics(
        name="t",
        num_embeddings=rows,
        num_samples=ids.size,
        num_lookups=ids.size,
        num_nonempty=ids.size,
        ids=found.ids,
        counts=found.counts,
        count_errors=found.errors,
        tail=tail,
    )
    assert table.num_ranked < 100 < table.num_seen <= rows
    order = np.concatenate((table.ids_in_ranks(0, 1500), table.ids_in_ranks(1500, rows)))
    assert sorted(order.tolist()) == list(range(rows))
    assert set(order[: table.num_ranked].tolist()) == set(found.ids.tolist())


def test_statistics_with_a_tail_are_saved_and_loaded(tmp_path) -> None:
    bounded, exact, _ = bounded_and_exact(100_000)
    path = tmp_path / "day.stats"
    statistics = AccessStatistics((bounded, exact))
    statistics.save(path)
    loaded = AccessStatistics.load(path)
    assert loaded.digest == statistics.digest
    found, other = loaded.tables
    assert other.exact
    assert found.distinct == bounded.distinct
    np.testing.assert_array_equal(found.count_errors, bounded.count_errors)
    np.testing.assert_array_equal(found.tail.rows, bounded.tail.rows)
    ranks = np.geomspace(1, ROWS, 20).astype(np.int64)
    np.testing.assert_array_equal(found.smoothed_curve.share(ranks), bounded.smoothed_curve.share(ranks))
    data = path.read_bytes()
    for field, digit in (("bound", b"0"), ("sampling", b"2"), ("sample_rows", b"0")):
        wrong = re.sub(rf'(\\"{field}\\": )\d'.encode(), rb"\g<1>" + digit, data)
        assert wrong != data
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"day\.stats: damaged access statistics"):
            AccessStatistics.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": np.array([2, 2])}, "must ascend"),
        ({"counts": np.array([0, 2])}, "must ascend from at least 1"),
        ({"counts": np.array([1, 8])}, "at most the bound 7"),
        ({"rows": np.array([1])}, "2 counts for 1 numbers of rows"),
        ({"rows": np.array([1, 0])}, "rows must be at least 1"),
        ({"sampling": 0.0}, "sampling must be above 0"),
        ({"sample_rows": 5}, "6 unranked rows and 3 rows looked up once in a sample of 5"),
    ],
)
def test_inconsistent_tails_are_refused(change: dict, message: str) -> None:
    good = {"counts": np.array([1, 5]), "rows": np.array([4, 2]), "sampling": 0.25, "bound": 7}
    good |= {"sample_rows": 8, "sample_singletons": 3}
    tail = Tail(**good)
    assert (tail.num_rows, tail.num_lookups, tail.num_singletons) == (24, 56, 12)
    with pytest.raises(ValueError, match=message):
        Tail(**(good | change))
    with pytest.raises(TypeError, match="tail rows must be int64"):
        Tail(**(good | {"rows": np.array([1.0, 2.0])}))
    table = {"name": "t", "num_embeddings": 99, "num_samples": 70, "num_lookups": 70, "num_nonempty": 70}
    table |= {"ids": np.array([4]), "counts": np.array([9]), "tail": tail}
    errors = np.array([3], np.uint32)
    TableStatistics(**table, count_errors=errors)
    with pytest.raises(ValueError, match="count_errors and tail go together"):
        TableStatistics(**table)
    with pytest.raises(TypeError, match="count_errors must be uint32"):
        TableStatistics(**table, count_errors=errors.astype(np.int64))
    with pytest.raises(ValueError, match="counts sum to 71, more than num_lookups 70"):
        TableStatistics(**(table | {"counts": np.array([71])}), count_errors=errors)


@pytest.mark.skipif("SCREC_SANITIZED" in os.environ, reason="sanitizers keep what was freed")
def test_a_billion_rows_are_profiled_within_the_memory() -> None:
    """Two tables, one of 10^9 rows, nearly every look-up a new row: resident memory against its limit."""
    code = """
from pathlib import Path
import numpy as np
from screc.data import Batch, TableSpec
from screc.statistics import AccessStatistics

class Log:
    tables = (TableSpec("giant", 10**9), TableSpec("large", 10**7))
    num_dense, num_samples = 0, 1_500_000

    def batches(self, batch_size, *, skip=0):
        for start in range(0, self.num_samples, batch_size):
            size = min(batch_size, self.num_samples - start)
            random = np.random.default_rng(start)
            ids = [random.integers(0, table.num_embeddings, 2 * size) for table in self.tables]
            offsets = np.arange(0, 4 * size + 1, 2)
            yield Batch(np.zeros((size, 0), np.float32), np.concatenate(ids), offsets)

def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])

limit = 48 << 20
AccessStatistics.collect(Log(), limit=65536, memory_limit=1 << 20)  # all that is made once, and the reading
before = peak()
statistics = AccessStatistics.collect(Log(), memory_limit=limit)
used = peak() - before
assert not any(table.exact for table in statistics.tables)
assert statistics.num_lookups == 6_000_000
assert used > limit / 2, "the memory was not used, so the test says nothing"
assert used <= limit, (used, limit)
for table in statistics.tables:
    expected = table.num_embeddings * -np.expm1(-3e6 / table.num_embeddings)
    assert abs(table.num_seen / expected - 1) < 4 * table.tail.rows_error, table.name
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr

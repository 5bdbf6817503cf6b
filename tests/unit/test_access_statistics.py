"""Counting against naive counting, access curves against sums over all rows, and the statistics file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import KAGGLE_ROWS, zipf_statistics

from screc.data.batch import Batch
from screc.statistics import AccessCurve, AccessStatistics, TableStatistics, plot_statistics


@dataclass(frozen=True)
class Spec:
    name: str
    num_embeddings: int
    pooling: str = "sum"


@dataclass
class Log:
    """A click log of given bags: bags[sample][table] is a list of ids."""

    tables: tuple[Spec, ...]
    bags: list[list[list[int]]]
    num_dense: int = 2
    known: bool = True
    read: list[int] = field(default_factory=list)

    @property
    def num_samples(self) -> int | None:
        return len(self.bags) if self.known else None

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        for start in range(skip, len(self.bags), batch_size):
            part = self.bags[start : start + batch_size]
            self.read.append(len(part))
            flat = [bags[table] for table in range(len(self.tables)) for bags in part]
            yield Batch(
                dense=np.zeros((len(part), self.num_dense), dtype=np.float32),
                ids=np.array([i for bag in flat for i in bag], dtype=np.int64),
                offsets=np.cumsum([0, *(len(bag) for bag in flat)], dtype=np.int64),
            )


@st.composite
def logs(draw) -> Log:
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    tables = tuple(Spec(f"t{i}", size) for i, size in enumerate(sizes))
    sample = st.tuples(*(st.lists(st.integers(0, size - 1), max_size=4) for size in sizes))
    return Log(tables, [list(bags) for bags in draw(st.lists(sample, max_size=25))])


@settings(max_examples=60, deadline=None)
@given(log=logs(), batch_size=st.integers(1, 9), limit=st.none() | st.integers(0, 30))
def test_collect_equals_naive_counting(log: Log, batch_size: int, limit: int | None) -> None:
    statistics = AccessStatistics.collect(log, batch_size=batch_size, limit=limit)
    bags = log.bags if limit is None else log.bags[:limit]
    assert statistics.num_samples == len(bags)
    for number, table in enumerate(statistics.tables):
        naive = Counter(i for sample in bags for i in sample[number])
        ranked = sorted(naive.items(), key=lambda item: (-item[1], item[0]))
        assert table.ids.tolist() == [i for i, _ in ranked]
        assert table.counts.tolist() == [count for _, count in ranked]
        assert table.num_lookups == sum(naive.values())
        assert table.num_nonempty == sum(bool(sample[number]) for sample in bags)
        assert table.mean_pooling == (table.num_lookups / len(bags) if bags else 0)
        assert table.coverage == (table.num_nonempty / len(bags) if bags else 0)


def test_different_rows_per_batch_equal_naive_counting() -> None:
    random = np.random.default_rng(0)
    bags = [[random.integers(0, 30, random.integers(0, 4)).tolist(), [7]] for _ in range(1000)]
    log = Log((Spec("a", 30), Spec("b", 9)), bags)
    first, second = AccessStatistics.collect(log, batch_size=600).tables
    # The batches read have 600 and 400 samples: nine windows of 64 in the first, every eighth counts.
    starts = [(64, [0, 512, 600]), (256, [0, 600])]
    assert [(one.batch_size, one.batches) for one in first.distinct] == [(64, 3), (256, 2)]
    for one, (size, windows) in zip(first.distinct, starts, strict=True):
        lookups = [[i for bag in bags[start : start + size] for i in bag[0]] for start in windows]
        assert one.lookups == np.mean([len(window) for window in lookups])
        assert one.rows == np.mean([len(set(window)) for window in lookups])
        assert one.share == one.rows / one.lookups
    assert [one.share for one in second.distinct] == [1 / 64, 1 / 256]
    empty = AccessStatistics.collect(Log((Spec("t", 5),), [[[]]] * 64)).tables[0].distinct
    assert [(one.batch_size, one.lookups, one.rows, one.share) for one in empty] == [(64, 0, 0, 1)]
    assert AccessStatistics.collect(Log((Spec("t", 5),), [[[1]]] * 63)).tables[0].distinct == ()


def test_a_long_log_is_measured_here_and_there() -> None:
    """The i-th batch of 64 samples looks up i different rows: the mean tells which were measured."""
    bags = [[[sample % (1 + sample // 64)]] for sample in range(64 * 100)]
    (table,) = AccessStatistics.collect(Log((Spec("t", 100),), bags), batch_size=64).tables
    (one,) = table.distinct
    # Every second batch once there are 8, every fourth once there are 8 of these, and so on.
    assert one.batches == 7
    assert one.rows == np.mean([min(64, 1 + batch) for batch in range(0, 100, 16)])


def test_limit_reads_no_further_and_progress_tells_the_end() -> None:
    log = Log((Spec("t", 5),), [[[0]]] * 10)
    told: list[tuple[int, int | None]] = []
    statistics = AccessStatistics.collect(log, batch_size=4, limit=6, progress=lambda *a: told.append(a))
    assert (statistics.num_samples, statistics.num_lookups) == (6, 6)
    assert log.read == [4, 4]
    assert told == [(4, 6), (6, 6)]
    unknown = Log((Spec("t", 5),), [[[0]]] * 3, known=False)
    AccessStatistics.collect(unknown, batch_size=2, progress=lambda *a: told.append(a))
    assert told[-1] == (3, None)


def test_collect_refuses_wrong_input() -> None:
    log = Log((Spec("clicks", 5),), [[[0]], [[5]]])
    with pytest.raises(ValueError, match="table clicks: id 5 is out of range for 5 rows"):
        AccessStatistics.collect(log, batch_size=1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        AccessStatistics.collect(log, batch_size=0)
    with pytest.raises(ValueError, match="limit must not be negative, got -1"):
        AccessStatistics.collect(log, limit=-1)


counted = st.tuples(
    st.integers(1, 60), st.dictionaries(st.integers(0, 59), st.integers(1, 9), max_size=60)
).map(lambda pair: (max(pair[0], max(pair[1], default=0) + 1), pair[1]))


def table_of(rows: int, counts: dict[int, int]) -> TableStatistics:
    ids, values = np.array(list(counts), dtype=np.int64), np.array(list(counts.values()), dtype=np.int64)
    return TableStatistics.from_counts("t", rows, ids, values, num_samples=10)


@given(counted)
@settings(max_examples=100, deadline=None)
def test_ids_in_ranks_is_a_bijection(case: tuple[int, dict[int, int]]) -> None:
    rows, counts = case
    table = table_of(rows, counts)
    order = table.ids_in_ranks(0, rows)
    assert sorted(order.tolist()) == list(range(rows))
    assert order.tolist() == sorted(range(rows), key=lambda i: (-counts.get(i, 0), i))
    middle = rows // 2
    parts = [table.ids_in_ranks(0, middle), table.ids_in_ranks(middle, rows)]
    np.testing.assert_array_equal(np.concatenate(parts), order)
    assert table.ids_in_ranks(middle, middle).size == 0


@given(counted, st.floats(0.01, 1e4))
@settings(max_examples=100, deadline=None)
def test_curves_equal_sums_over_rows(case: tuple[int, dict[int, int]], lookups: float) -> None:
    rows, counts = case
    table = table_of(rows, counts)
    ranks = np.arange(rows + 1)
    ranked = np.array([counts.get(int(i), 0) for i in table.ids_in_ranks(0, rows)], dtype=np.float64)
    raw = ranked / ranked.sum() if counts else np.full(rows, 1 / rows)
    np.testing.assert_allclose(table.share(ranks), [raw[:r].sum() for r in ranks], atol=1e-12)

    unseen = table.unseen_share
    smooth = raw.copy()
    if counts:
        smooth[: len(counts)] -= unseen / len(counts)
    if len(counts) < rows:
        smooth[len(counts) :] = unseen / (rows - len(counts))
    curve = table.smoothed_curve
    np.testing.assert_allclose(curve.share(ranks), [smooth[:r].sum() for r in ranks], atol=1e-12)
    touched = 1 - np.exp(-lookups * smooth)
    np.testing.assert_allclose(
        curve.distinct(lookups, ranks), [touched[:r].sum() for r in ranks], rtol=1e-9, atol=1e-9
    )
    # Hotter rows are never less likely, seen or not.
    assert (np.diff(smooth) <= 1e-15).all()
    assert (smooth > 0).all()


def test_unseen_share_is_good_turing_within_its_cap() -> None:
    assert table_of(1000, {0: 90, 1: 5, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}).unseen_share == pytest.approx(0.05)
    assert table_of(1000, {0: 98, 1: 2}).unseen_share == pytest.approx(0.01)  # as if one row was seen once
    assert table_of(4, {0: 1, 1: 1}).unseen_share == pytest.approx(0.5)  # capped: all rows equally likely
    assert table_of(2, {0: 1, 1: 1}).unseen_share == 0
    assert table_of(7, {}).unseen_share == 1


def test_smoothing_predicts_the_tail_of_look_ups_to_come() -> None:
    law = 1 / np.arange(1, 100_001) ** 1.05
    law /= law.sum()
    random = np.random.default_rng(5)
    seen = np.bincount(random.choice(100_000, 50_000, p=law), minlength=100_000)
    table = TableStatistics.from_counts("t", 100_000, np.arange(100_000), seen, num_samples=50_000)
    truth = law[table.ids_in_ranks(0, 100_000)]
    for share in (0.02, 0.1, 0.5, 1.0):
        cut = int(share * table.num_seen)
        predicted = 1 - float(table.smoothed_curve.share(cut))
        assert predicted == pytest.approx(truth[cut:].sum(), rel=0.1)


def test_tables_never_looked_up_work() -> None:
    table = table_of(10, {})
    assert (table.mean_pooling, table.coverage, table.num_seen) == (0, 0, 0)
    np.testing.assert_allclose(table.share([0, 5, 10]), [0, 0.5, 1])
    np.testing.assert_array_equal(table.ids_in_ranks(3, 10), np.arange(3, 10))
    assert isinstance(table.curve, AccessCurve)
    assert table.curve.num_embeddings == 10


def test_ranks_out_of_range_are_refused() -> None:
    table = table_of(10, {1: 1})
    with pytest.raises(ValueError, match=r"table t: ranks \[3, 11\) are not within its 10 rows"):
        table.ids_in_ranks(3, 11)
    with pytest.raises(ValueError, match="table t: ranks must be 0 to 10, got 11"):
        table.share(11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_embeddings": 0}, "num_embeddings must be at least 1"),
        ({"num_lookups": 4}, "counts sum to 3, num_lookups says 4"),
        ({"counts": np.array([1, 2])}, "counts must be positive and descending"),
        ({"ids": np.array([9, 1])}, r"ids must lie in \[0, 5\)"),
        ({"ids": np.array([1])}, "1 ids and 2 counts"),
        ({"num_nonempty": 9}, "num_nonempty 9 of 3 samples"),
    ],
)
def test_inconsistent_statistics_are_refused(change: dict, message: str) -> None:
    good = {"name": "t", "num_embeddings": 5, "num_samples": 3, "num_lookups": 3, "num_nonempty": 3}
    good |= {"ids": np.array([4, 0]), "counts": np.array([2, 1])}
    TableStatistics(**good)
    with pytest.raises(ValueError, match=message):
        TableStatistics(**(good | change))
    with pytest.raises(TypeError, match="ids must be int64"):
        TableStatistics(**(good | {"ids": np.array([0.0, 1.0])}))


def test_from_counts_refuses_a_row_given_twice() -> None:
    with pytest.raises(ValueError, match="ids hold row 2 more than once"):
        TableStatistics.from_counts("t", 5, np.array([2, 1, 2]), np.array([1, 1, 1]), num_samples=1)


def test_save_and_load(tmp_path) -> None:
    statistics = zipf_statistics((500, 3, 1))
    statistics = AccessStatistics((*statistics.tables, table_of(9, {})))
    path = tmp_path / "day.stats"
    statistics.save(path)
    statistics.save(path)  # over itself
    loaded = AccessStatistics.load(path)
    assert loaded.digest == statistics.digest
    for ours, theirs in zip(loaded.tables, statistics.tables, strict=True):
        assert (ours.name, ours.num_samples, ours.num_nonempty) == (
            theirs.name,
            theirs.num_samples,
            theirs.num_nonempty,
        )
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        np.testing.assert_array_equal(ours.counts, theirs.counts)
        np.testing.assert_array_equal(
            ours.ids_in_ranks(0, ours.num_embeddings), theirs.ids_in_ranks(0, theirs.num_embeddings)
        )
    assert [entry.name for entry in tmp_path.iterdir()] == ["day.stats"]


def test_digest_tells_statistics_apart() -> None:
    first, second = zipf_statistics((50,)), zipf_statistics((50,), samples=19_999)
    assert first.digest == zipf_statistics((50,)).digest
    assert first.digest != second.digest


def test_damaged_files_are_refused(tmp_path) -> None:
    path = tmp_path / "day.stats"
    with pytest.raises(FileNotFoundError, match=r"day\.stats: no such file; collect access statistics"):
        AccessStatistics.load(path)
    zipf_statistics((500, 20)).save(path)
    data = path.read_bytes()
    for cut in (0, 3, 9, 100, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"day\.stats: truncated, damaged or not access statistics"):
            AccessStatistics.load(path)
    for position in range(len(data) - 1, len(data) - 4000, -397):
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        with pytest.raises(ValueError, match=r"day\.stats: damaged access statistics"):
            AccessStatistics.load(path)
    path.write_bytes(b"id,count\n1,2\n" * 50)
    with pytest.raises(ValueError, match=r"day\.stats: truncated, damaged or not"):
        AccessStatistics.load(path)
    path.write_bytes(data.replace(b"screc-statistics", b"screc-statistiks"))
    with pytest.raises(ValueError, match=r"day\.stats: not access statistics"):
        AccessStatistics.load(path)
    path.write_bytes(data.replace(b'"version":"2"', b'"version":"9"'))
    with pytest.raises(ValueError, match=r"version '9', this release reads 2"):
        AccessStatistics.load(path)


def test_picture_of_26_tables(tmp_path) -> None:
    statistics = zipf_statistics(tuple(min(rows, 50_000) for rows in KAGGLE_ROWS), samples=2000)
    for suffix, magic in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        plot_statistics(statistics, tmp_path / f"curves.{suffix}")
        assert (tmp_path / f"curves.{suffix}").read_bytes().startswith(magic)
    text = (tmp_path / "curves.svg").read_text()
    assert "t2: 50,000 rows" in text
    with pytest.raises(ValueError, match=r"must end with \.png or \.svg, got 'curves\.txt'"):
        plot_statistics(statistics, tmp_path / "curves.txt")
    with pytest.raises(ValueError, match="no tables"):
        plot_statistics(AccessStatistics(()), tmp_path / "curves.svg")


def test_picture_of_one_table_never_looked_up(tmp_path) -> None:
    plot_statistics(AccessStatistics((table_of(1, {}),)), tmp_path / "curve.svg")
    assert "(1 never looked up)" in (tmp_path / "curve.svg").read_text()


@pytest.mark.parametrize("seen", [0, 1, 7, 50])
def test_ranks_of_ids_are_the_inverse_of_ids_in_ranks(seen: int) -> None:
    random = np.random.default_rng(seen)
    ids = random.permutation(50)[:seen]
    table = TableStatistics.from_counts("t", 50, ids, random.integers(1, 5, seen), num_samples=200)
    assert table.ranks_of(table.ids_in_ranks(0, 50)).tolist() == list(range(50))
    some = random.integers(0, 50, 200)
    assert (table.ids_in_ranks(0, 50)[table.ranks_of(some)] == some).all()
    with pytest.raises(ValueError, match="row 50 is not one of its 50"):
        table.ranks_of(np.array([3, 50]))

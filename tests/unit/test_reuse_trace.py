"""The reuse trace: its histograms against the published ones, and the stream against itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from recipes.fit_reuse_trace import BINS, expected_shares, generated_shares, published
from screc.data import Batch, FeatureEncoder, ReuseTraceConfig, ReuseTraceLog, open_log
from screc.data.log import concatenate
from screc.data.reuse_trace import PROFILES

YEARS = sorted(PROFILES)
# Look-ups a sample; a batch of 65,536 samples is what the first histogram is of.
POOLING = {"2021": 15.8, "2022": 13.6}


@pytest.mark.parametrize("year", YEARS)
def test_the_fit_has_the_published_histogram(year: str) -> None:
    """Expected shares of all tables, within the rounding of what was published and as much again."""
    profile = PROFILES[year]
    assert len(profile.row_shares) == len(profile.lookup_shares) == BINS.size
    rows, lookups = expected_shares(profile)
    np.testing.assert_allclose(rows, profile.row_shares, atol=0.001)
    np.testing.assert_allclose(lookups, profile.lookup_shares, atol=0.001)


@pytest.mark.parametrize("year", YEARS)
def test_a_batch_of_some_tables_has_the_published_histogram(year: str) -> None:
    """4 of 856 and 788 tables. The hottest rows are so few there that their bins are a row or two off."""
    rows, lookups = generated_shares(year, 4)
    np.testing.assert_allclose(rows, PROFILES[year].row_shares, atol=0.003)
    np.testing.assert_allclose(lookups, PROFILES[year].lookup_shares, atol=0.01)


@pytest.mark.parametrize("year", YEARS)
def test_all_batches_are_alike_and_draw_from_the_same_rows(year: str) -> None:
    profile = PROFILES[year]
    log = ReuseTraceLog(ReuseTraceConfig(num_rows=2 * profile.batch_size, year=year, tables=1))
    first, second = (np.unique(batch.ids, return_counts=True) for batch in log.batches(profile.batch_size))
    for ids, counts in (first, second):
        assert ids.size == pytest.approx(profile.distinct / profile.num_tables, rel=0.02)
        assert counts.sum() == pytest.approx(profile.lookups / profile.num_tables, rel=0.05)
    hot = first[0][first[1] >= 8]
    assert np.isin(hot, second[0]).mean() > 0.99
    cold = first[0][first[1] == 1]
    assert 0.1 < np.isin(cold, second[0]).mean() < 0.7


def test_published_numbers_are_those_of_the_file() -> None:
    folder = os.environ.get("SCREC_DATA")
    if not folder:
        pytest.skip("SCREC_DATA is not set")
    files = published(Path(folder) / "meta_embedding_locality")
    for profile in PROFILES.values():
        lines = files[Path(profile.source).name]
        assert tuple(float(line["share_of_unique_rows"]) for line in lines) == profile.row_shares
        assert tuple(float(line["share_of_lookups"]) for line in lines) == profile.lookup_shares
        assert int(lines[0]["avg_indices"]) == profile.lookups
        assert int(lines[0]["avg_unique_rows"]) == profile.distinct
        assert int(lines[0]["batch_size"]) == profile.batch_size


def same(first: Batch, second: Batch) -> bool:
    return bool((first.ids == second.ids).all() and (first.offsets == second.offsets).all())


def test_the_stream_does_not_depend_on_how_it_is_read() -> None:
    source = "meta-reuse:rows=9000,tables=2,table_rows=500000,seed=3"
    log = open_log(source)
    whole = concatenate(list(log.batches(9000)))
    whole.validate([500_000] * 2, 0)
    assert whole.labels is None
    assert [table.name for table in log.tables] == ["T1", "T2"]
    assert log.num_samples == 9000
    assert same(whole, concatenate(list(log.batches(700))))
    assert [batch.batch_size for batch in log.batches(4000)] == [4000, 4000, 1000]
    for skip in (0, 1, 4096, 5000, 9000):
        rest = list(log.batches(900, skip=skip))
        assert sum(batch.batch_size for batch in rest) == 9000 - skip
        if rest:
            assert same(whole.rows(skip, 9000), concatenate(rest))
    later = open_log(source.replace("rows=9000,", "rows=3000,first=6000,", 1))
    assert same(whole.rows(6000, 9000), next(later.batches(3000)))
    other = next(open_log(source.replace("seed=3", "seed=4")).batches(9000))
    assert other.ids.size != whole.ids.size or (other.ids != whole.ids).any()


@pytest.mark.parametrize("year", YEARS)
def test_tables_may_have_more_rows_than_fit_anywhere(year: str) -> None:
    rows = 1 << 40
    log = ReuseTraceLog(ReuseTraceConfig(num_rows=4096, year=year, tables=3, table_rows=rows))
    batch = next(log.batches(4096))
    batch.validate([rows] * 3, 0)
    assert batch.ids.max() > rows // 2
    assert batch.ids.size / 3 / 4096 == pytest.approx(POOLING[year], rel=0.05)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rows=10,year=2020", "year: expected one of 2021, 2022, got '2020'"),
        ("rows=0", "num_rows: must be at least 1, got 0"),
        ("rows=5,tables=0", "tables: must be at least 1, got 0"),
        ("rows=5,table_rows=1000", "needs at least 4"),
        ("rows=5,table_rows=2_000_000_000_000", "must be at most 2\\^40"),
        ("rows=5,seed=-1", "seed: must be in"),
        ("rows=5,first=-1", "first_row: must be in"),
        ("tables=5", "meta-reuse source: rows=N is required"),
        ("rows=5,rows=6", "'rows' is given twice"),
        ("rows=5,scale=1", "expected rows=, year=, tables=, table_rows=, seed= or first=, got 'scale=1'"),
        ("rows=five", "'rows' must be a whole number, got 'five'"),
    ],
)
def test_wrong_settings_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        open_log(f"meta-reuse:{text}")


def test_an_encoder_is_refused() -> None:
    encoder = object.__new__(FeatureEncoder)
    with pytest.raises(ValueError, match="the meta-reuse log is encoded already"):
        open_log("meta-reuse:rows=5", encoder)

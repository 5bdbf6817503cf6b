"""Drift between two logs against sums over all rows, and what chance alone makes of it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_samples import zipf_table

from screc import _native
from screc.statistics import AccessStatistics, TableStatistics, Tail, measure_drift, plot_statistics
from screc.statistics.drift import HOT_SHARES

counts = st.dictionaries(st.integers(0, 59), st.integers(1, 9), max_size=60)


def day(found: dict[int, int], rows: int = 60) -> AccessStatistics:
    ids, values = np.array(list(found), dtype=np.int64), np.array(list(found.values()), dtype=np.int64)
    return AccessStatistics((TableStatistics.from_counts("t", rows, ids, values, num_samples=99),))


@settings(max_examples=100, deadline=None)
@given(counts, counts)
def test_drift_equals_sums_over_rows(first: dict[int, int], second: dict[int, int]) -> None:
    earlier, later = day(first), day(second)
    (drift,) = measure_drift(earlier, later)
    if not first or not second:
        assert drift.hot == ()
        assert math.isnan(drift.distance)
        assert math.isnan(drift.by_chance)
        return
    total = [sum(one.values()) for one in (first, second)]
    differences = [abs(first.get(i, 0) / total[0] - second.get(i, 0) / total[1]) for i in range(60)]
    assert drift.distance == pytest.approx(sum(differences) / 2)
    assert 0 <= drift.by_chance <= 1
    assert [one.share for one in drift.hot] == list(HOT_SHARES)
    for one in drift.hot:
        assert one.rows == min(math.ceil(one.share * 60), len(first))
        hottest = earlier.tables[0].ids_in_ranks(0, one.rows).tolist()
        assert one.found == pytest.approx(sum(second.get(i, 0) for i in hottest) / total[1])
        assert one.found <= one.own + 1e-12
        assert one.own == pytest.approx(float(later.tables[0].share(one.rows)))
        assert one.predicted == pytest.approx(float(earlier.tables[0].smoothed_curve.share(one.rows)))
        assert one.found_error == 0


def test_two_draws_of_one_law_are_as_far_apart_as_chance_makes_them() -> None:
    def one_day(seed: int, moved: int = 0) -> AccessStatistics:
        random = np.random.default_rng(seed)
        ranks = np.minimum(random.pareto(0.3, 200_000), 99_999).astype(np.int64)
        seen = np.bincount((ranks + moved) % 100_000, minlength=100_000)
        table = TableStatistics.from_counts("t", 100_000, np.arange(100_000), seen, num_samples=200_000)
        return AccessStatistics((table,))

    (same,) = measure_drift(one_day(1), one_day(2))
    assert same.distance == pytest.approx(same.by_chance, rel=0.05)
    assert same.by_chance > 0.05
    for one in same.hot:
        if one.share <= 0.01:
            assert one.found == pytest.approx(one.own, abs=0.02)
            assert one.found == pytest.approx(one.predicted, abs=0.02)
    (moved,) = measure_drift(one_day(1), one_day(2, moved=50_000))
    assert moved.distance > 0.8 > 5 * moved.by_chance
    assert moved.hot[0].found < 0.1 * moved.hot[0].own


def with_tail(ids: np.ndarray, rows: int) -> TableStatistics:
    """Statistics of these look-ups in as little memory as there can be."""
    counter = _native.RowCounter("t", rows, 2048)
    counter.add(ids)
    found = counter.finish()
    counts, tail_rows = np.unique(found.unranked_sample, return_counts=True)
    return TableStatistics(
        name="t",
        num_embeddings=rows,
        num_samples=ids.size,
        num_lookups=ids.size,
        num_nonempty=ids.size,
        ids=found.ids,
        counts=found.counts,
        count_errors=found.errors,
        tail=Tail(
            counts=counts,
            rows=tail_rows,
            sampling=2.0**-found.sample_level,
            sample_rows=found.sample_rows,
            sample_singletons=found.sample_singletons,
            bound=found.unranked_bound,
        ),
    )


def test_a_tail_bounds_what_the_hot_rows_answer() -> None:
    rows = 50_000
    random = np.random.default_rng(0)
    ids = [np.minimum(random.pareto(0.5, 30_000), rows - 1).astype(np.int64) for _ in range(2)]
    exact = [
        TableStatistics.from_counts(
            "t", rows, np.arange(rows), np.bincount(day, minlength=rows), num_samples=30_000
        )
        for day in ids
    ]
    bounded = [with_tail(day, rows) for day in ids]
    (truth,) = measure_drift(AccessStatistics((exact[0],)), AccessStatistics((exact[1],)))
    (found,) = measure_drift(AccessStatistics((exact[0],)), AccessStatistics((bounded[1],)))
    for one, true in zip(found.hot, truth.hot, strict=True):
        assert one.found - 1e-12 <= true.found <= one.found + one.found_error + 1e-12
    assert found.hot[-1].found_error > 0
    assert 0 < found.distance < truth.distance
    (both,) = measure_drift(*(AccessStatistics((one,)) for one in bounded))
    assert both.hot[-1].rows == bounded[0].num_ranked
    assert 0 < both.distance < truth.distance


def test_other_tables_are_refused() -> None:
    first = AccessStatistics((zipf_table("a", 50, samples=9), zipf_table("b", 60, samples=9)))
    for tables, words in (
        ((zipf_table("a", 51, samples=9),), "they are of a of 50 rows where a of 51 rows is expected"),
        ((zipf_table("a", 50, samples=9),), "they are of b of 60 rows where no further table is expected"),
    ):
        with pytest.raises(ValueError, match=words):
            measure_drift(first, AccessStatistics(tables))


@pytest.mark.skipif("SCREC_SANITIZED" in os.environ, reason="the process it starts has the module as it is")
def test_the_verb_shows_drift_and_draws_it(tmp_path: Path) -> None:
    def profile(*more: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "screc.cli", "profile", "--json", *map(str, more)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    source = "synthetic:rows=20000,scale=0.01"
    first = profile("--data", source, "--out", tmp_path / "s0")
    assert json.loads(first.stdout)["drift"] == []
    arguments = ["--out", tmp_path / "s1", "--drift-from", tmp_path / "s0"]
    arguments += ["--plot", tmp_path / "day.svg", "--memory", "900KB", "--co-access"]
    second = profile("--data", source + ",first=20000", *arguments)
    assert second.returncode == 0, second.stderr
    found = json.loads(second.stdout)
    assert len(found["drift"]) == len(found["tables"]) == 26
    assert any(not table["exact"] for table in found["tables"])
    assert "by chance" in second.stderr
    large = {table["name"] for table in found["tables"] if table["num_embeddings"] >= 1000}
    assert {one["table"] for one in found["co_access"]} == large
    assert "blocks that a call of 256 samples wants" in second.stderr
    assert "more rows than the memory held" in second.stderr
    assert "hottest of the earlier day" in (tmp_path / "day.svg").read_text()

    for more, words in (
        (["--data", "synthetic:rows=9,scale=0.002", *arguments[:4]], "of 101313 rows where C3 of 20263 rows"),
        (["--data", source, "--out", tmp_path / "s2", "--memory", "9KB"], "at least"),
        (["--data", source, "--out", tmp_path / "s2", "--memory", "much"], "'much' is not an amount"),
    ):
        result = profile(*more)
        assert result.returncode == 1
        assert words in result.stderr
        assert not (tmp_path / "s2").exists()


def test_a_picture_with_drift_of_tables_never_looked_up(tmp_path: Path) -> None:
    empty, some = day({}), day({1: 3})
    for earlier, later in ((empty, some), (some, empty)):
        plot_statistics(later, tmp_path / "d.svg", drift=measure_drift(earlier, later))
        assert "earlier day" in (tmp_path / "d.svg").read_text()

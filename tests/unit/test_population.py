"""Populations of tables: the bytes asked for, the published look-ups, and tables that can have them."""

from __future__ import annotations

import numpy as np
import pytest

from screc.data import ReuseTraceConfig, ReuseTraceLog
from screc.data.population import TablePopulation
from screc.data.reuse_trace import PROFILES


@pytest.mark.parametrize(("year", "terabytes"), [("2021", 1), ("2022", 4)])
def test_a_population_has_the_bytes_and_the_published_look_ups(year: str, terabytes: int) -> None:
    profile = PROFILES[year]
    tables = TablePopulation.draw(terabytes * 10**12, year=year)
    assert tables.rows.size == tables.dims.size == tables.traffic.size == profile.num_tables
    assert tables.num_bytes == pytest.approx(terabytes * 10**12, rel=1e-3)
    assert tables.traffic.mean() == pytest.approx(1)
    assert tables.rows.max() > 1000 * tables.rows.min()
    batch = next(tables.log(256).batches(256))
    batch.validate(tables.rows.tolist(), 0)
    assert batch.ids.size / 256 == pytest.approx(profile.lookups / profile.batch_size, rel=0.01)
    own = np.array([batch.table_ids(table).size for table in range(profile.num_tables)])
    assert np.corrcoef(own, tables.traffic)[0, 1] > 0.99


def test_populations_are_drawn_from_their_seed() -> None:
    first, again, other = (TablePopulation.draw(10**12, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.rows, again.rows)
    np.testing.assert_array_equal(first.traffic, again.traffic)
    assert (first.rows != other.rows).any()
    assert first.names[:2] == ("T1", "T2")


def test_too_small_a_model_for_the_published_look_ups_is_refused() -> None:
    with pytest.raises(ValueError, match=r"num_bytes: the look-ups of 2021 need about .*, got 10000000000"):
        TablePopulation.draw(10**10)
    with pytest.raises(ValueError, match="year: expected one of 2021, 2022, got '1999'"):
        TablePopulation.draw(10**12, year="1999")


def test_tables_of_a_trace_may_differ() -> None:
    sizes, traffic = (700_000, 4_000_000_000), (0.5, 2.0)
    log = ReuseTraceLog(ReuseTraceConfig(num_rows=2000, tables=2, table_rows=sizes, traffic=traffic))
    assert tuple(table.num_embeddings for table in log.tables) == sizes
    batch = next(log.batches(2000))
    batch.validate(sizes, 0)
    small, large = (batch.table_ids(table).size / 2000 for table in range(2))
    assert small == pytest.approx(0.5 * 15.8, rel=0.1)
    assert large == pytest.approx(2 * 15.8, rel=0.1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"table_rows": (700_000,)}, "table_rows: has 1 entries for 2 tables"),
        ({"traffic": (1.0,)}, "traffic: has 1 entries for 2 tables"),
        ({"traffic": (1.0, 0.0)}, "traffic: must be positive and finite, got 0.0"),
        ({"traffic": (1.0, float("nan"))}, "traffic: must be positive and finite, got nan"),
        ({"table_rows": (700_000, 0)}, "table_rows: must be at least 1, got 0"),
    ],
)
def test_wrong_tables_of_a_trace_are_refused(wrong: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ReuseTraceConfig(**{"num_rows": 10, "tables": 2, **wrong})


def test_a_table_too_small_for_its_traffic_is_named() -> None:
    config = ReuseTraceConfig(num_rows=10, tables=2, table_rows=(4_000_000, 5000))
    with pytest.raises(ValueError, match=r"so many rows of table T2 that it needs at least .*, got 5000"):
        ReuseTraceLog(config)

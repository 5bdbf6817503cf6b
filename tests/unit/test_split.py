"""The hill climb over sizes of parts, on made-up systems and on a small engine."""

from __future__ import annotations

import numpy as np
import pytest
from test_engine import make_model

from screc.serving import Engine
from screc.serving.batching import BatchingConfig
from screc.serving.signature import Signature
from screc.serving.split import choose_split, climb, highest_load, random_queries


def test_the_climb_ends_where_the_load_falls() -> None:
    loads = {512: 10.0, 256: 20.0, 128: 30.0, 64: 25.0, 32: 90.0}
    found = climb(list(loads), loads.__getitem__)
    assert found.split == 128
    assert [trial.split for trial in found.trials] == [512, 256, 128, 64]
    assert climb([7], lambda _: 1.0).split == 7
    with pytest.raises(ValueError, match="splits: is empty"):
        climb([], loads.__getitem__)


@pytest.mark.parametrize("first_gap", [0.0005, 0.001, 0.003])
def test_the_load_settles_at_the_limit(first_gap: float) -> None:
    """A queue whose latency grows without bound as its load nears 1,000 queries/s keeps 20 ms up to 950."""

    def latency_of(gap: float) -> float:
        load = 1 / (1000 * gap)
        return 0.001 / (1 - load) if load < 1 else np.inf

    found = highest_load(latency_of, 0.020, first_gap, updates=60)
    assert 850 < found <= 1000


def test_random_queries_fit_the_model() -> None:
    _, _, tables, _ = make_model(num_tables=3)
    engine = Engine.from_arrays(*make_model(num_tables=3)[:3])
    queries = random_queries(Signature(engine.tables, 13), 50)
    sizes = np.array([batch.batch_size for batch in queries])
    assert 140 < np.median(sizes) < 190
    for batch in queries:
        batch.validate([len(rows) for rows in tables], 13)


@pytest.mark.parametrize("num_dense", [13, 0])
def test_an_engine_is_measured(num_dense: int) -> None:
    model, dense, tables, poolings = make_model(num_tables=3, num_dense=num_dense)
    engine = Engine.from_arrays(model, dense, tables, poolings=poolings, threads=2)
    found = choose_split(engine, BatchingConfig(), sla_s=0.05, splits=(256, 64), updates=4)
    assert found.split in (256, 64)
    assert all(trial.queries_per_s > 0 for trial in found.trials)
    with pytest.raises(ValueError, match="sla"):
        choose_split(engine, BatchingConfig(), sla_s=0)

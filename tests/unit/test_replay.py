"""Requests that native threads send at given times."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from test_engine import make_batch, make_model

from screc.data.batch import Batch
from screc.serving.engine import Engine

MADE = make_model()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine.from_arrays(*MADE[:3], poolings=MADE[3], threads=2)


def batches(*sizes: int) -> list[Batch]:
    return [make_batch(size, 13, MADE[2], seed=size) for size in sizes]


@pytest.mark.parametrize("clients", [1, 2, 4, 9])
def test_every_request_is_answered(engine, clients):
    # From nothing to more than a block, in turn: some are shared with the engine's threads, some are not.
    sent = batches(16, 1, 0, 300, 50)
    arrivals = np.cumsum(np.random.default_rng(0).exponential(1e-4, 203))
    before = engine.stats().lookups
    latencies = engine.replay(sent, arrivals, clients=clients)
    assert latencies.dtype == np.float64
    assert latencies.shape == (203,)
    assert np.isfinite(latencies).all()
    assert latencies.min() > 0
    assert engine.stats().lookups - before == sum(sent[i % 5].ids.size for i in range(203))


def test_predictions_are_the_same_beside_a_replay(engine):
    (batch,) = batches(70)
    before = engine.predict(batch)
    engine.replay(batches(70, 20), np.zeros(100), clients=3)
    np.testing.assert_array_equal(engine.predict(batch), before)


def test_waiting_for_a_client_counts(engine):
    # All are due at the start and one client takes them in turn: each waits for all that came before it.
    latencies = engine.replay(batches(30), np.zeros(40), clients=1)
    assert (np.diff(latencies) > 0).all()


def test_no_request_is_sent_before_it_is_due(engine):
    begin = time.perf_counter()
    latencies = engine.replay(batches(1), np.array([0.0, 0.02, 0.1]), clients=2)
    assert time.perf_counter() - begin >= 0.1
    assert latencies.min() > 0


def test_no_requests(engine):
    assert engine.replay(batches(1), np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("clients", [1, 4])
def test_an_error_of_a_request_is_raised(engine, clients):
    good, bad = batches(20, 21)
    bad.dense[17, 4] = np.nan
    with pytest.raises(ValueError, match=r"batches\[1\]: dense\[17, 4\] = nan is not finite"):
        engine.replay([good, bad], np.zeros(50), clients=clients)
    far = replace(good, ids=good.ids.copy())
    far.ids[-1] = 48
    with pytest.raises(ValueError, match=r"batches\[2\]: ids\[.*\] is 48, outside table 4"):
        engine.replay([good, good, far], np.arange(50) * 1e-5, clients=clients)
    assert engine.replay([good], np.zeros(50), clients=clients).min() > 0  # and the engine goes on


def test_batches_that_do_not_fit_are_named(engine):
    good, other = batches(4, 5)
    with pytest.raises(TypeError, match=r"batches\[1\]: dense: expected dtype float32"):
        engine.replay([good, replace(other, dense=other.dense.astype(np.float64))], np.zeros(2))
    with pytest.raises(ValueError, match=r"batches\[0\]: offsets: expected 21 entries .* got 20"):
        engine.replay([replace(good, offsets=good.offsets[:-1])], np.zeros(2))
    with pytest.raises(ValueError, match="batches: is empty; give at least one"):
        engine.replay([], np.zeros(2))


@pytest.mark.parametrize(
    ("arrivals", "message"),
    [
        ([0.0, -0.5], r"arrivals\[1\] is -0\.5.*; must be seconds from the start, from 0 to 86400"),
        ([0.0, np.nan], r"arrivals\[1\] is nan; must be seconds from the start"),
        ([np.inf], r"arrivals\[0\] is inf; must be seconds from the start"),
        ([0.5, 0.25], r"arrivals\[1\] is 0\.25.*, before the 0\.5.* of the one before it; sort them"),
    ],
)
def test_arrivals_out_of_range_are_named(engine, arrivals, message):
    with pytest.raises(ValueError, match=message):
        engine.replay(batches(1), np.array(arrivals))


def test_wrong_arguments_are_named(engine):
    with pytest.raises(TypeError, match="arrivals: expected dtype float64"):
        engine.replay(batches(1), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"arrivals: expected 1 dimension\(s\), got shape \[3, 1\]"):
        engine.replay(batches(1), np.zeros((3, 1)))
    for clients in (0, 257):
        with pytest.raises(ValueError, match=f"clients: must be from 1 to 256, got {clients}"):
            engine.replay(batches(1), np.zeros(3), clients=clients)
    arrays = [(batch.dense, batch.ids, batch.offsets) for batch in batches(1)]
    with pytest.raises(ValueError, match=r"latencies: expected 3 entries \(the arrivals\), got 2"):
        engine._native.replay(arrays, np.zeros(3), 1, np.zeros(2))

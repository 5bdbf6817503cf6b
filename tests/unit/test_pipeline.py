"""The engine's pipeline: however work is spread over time and threads, the predictions are the same bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_engine import make_batch, make_model

from screc import _native
from screc.data.batch import Batch
from screc.serving import Engine, Roles

ROLES = [Roles(), Roles(1, 1), Roles(2, 1), Roles(1, 2)]
SIZES = (1, 700, 3, 2500, 16, 5000, 97, 384)


@pytest.fixture(scope="module")
def made() -> tuple:
    return make_model()


@pytest.fixture
def engine(made) -> Engine:
    return Engine.from_arrays(*made[:3], poolings=made[3], threads=2)


@pytest.fixture(scope="module")
def batches(made) -> list[Batch]:
    return [make_batch(size, 13, made[2], seed=seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def expected(made, batches) -> list[np.ndarray]:
    """Sample by sample on one thread, without the pipeline."""
    alone = Engine.from_arrays(*made[:3], poolings=made[3], threads=1)
    return [alone.predict(batch) for batch in batches]


@pytest.mark.parametrize("roles", ROLES, ids=str)
@pytest.mark.parametrize("ahead", [1, 2, 4])
def test_stream(engine, batches, expected, roles, ahead):
    engine.roles = roles
    assert engine.roles == roles
    got = list(engine.predict_stream(iter(batches * 3), ahead=ahead))
    assert len(got) == 3 * len(batches)
    for number, (batch, probabilities) in enumerate(got):
        assert batch is batches[number % len(batches)]
        np.testing.assert_array_equal(probabilities, expected[number % len(batches)])


@pytest.mark.parametrize("roles", ROLES, ids=str)
def test_single_batches(engine, batches, expected, roles):
    engine.roles = roles
    for batch, probabilities in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(engine.predict(batch), probabilities)


@pytest.mark.parametrize("roles", ROLES, ids=str)
def test_many_callers_and_a_stream(engine, batches, expected, roles):
    engine.roles = roles

    def work(first: int) -> None:
        for number in range(first, first + 3 * len(batches)):
            i = number % len(batches)
            np.testing.assert_array_equal(engine.predict(batches[i]), expected[i])

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(work, first) for first in range(3)]
        for number, (_, probabilities) in enumerate(engine.predict_stream(batches * 4)):
            np.testing.assert_array_equal(probabilities, expected[number % len(batches)])
        for future in futures:
            future.result()


def bad(batch: Batch, position: int = 0) -> Batch:
    ids = batch.ids.copy()
    ids[position] = 10**6
    return Batch(dense=batch.dense, ids=ids, offsets=batch.offsets)


@pytest.mark.parametrize("roles", ROLES, ids=str)
@pytest.mark.parametrize("position", [0, -1])
def test_a_bad_batch_spoils_no_other(engine, batches, expected, roles, position):
    engine.roles = roles
    for _ in range(2):  # the engine goes on working after it
        stream = engine.predict_stream([batches[3], bad(batches[5], position), batches[1]], ahead=2)
        np.testing.assert_array_equal(next(stream)[1], expected[3])
        with pytest.raises(ValueError, match=r"ids\[\d+\] is 1000000, outside table"):
            next(stream)
        with pytest.raises(ValueError, match="outside table"):
            engine.predict(bad(batches[0]))
        np.testing.assert_array_equal(engine.predict(batches[3]), expected[3])


@pytest.mark.parametrize("roles", ROLES, ids=str)
def test_left_streams(engine, batches, expected, roles):
    """A stream that nobody reads to its end leaves nothing in flight."""
    engine.roles = roles
    stream = engine.predict_stream(batches, ahead=4)
    next(stream)
    stream.close()
    engine.roles = Roles()  # refused while batches are in flight
    np.testing.assert_array_equal(engine.predict(batches[5]), expected[5])


def test_an_engine_goes_with_batches_in_flight(made, batches):
    for roles in ROLES:
        engine = Engine.from_arrays(*made[:3], poolings=made[3], threads=2)
        engine.roles = roles
        stream = engine.predict_stream(batches, ahead=2)
        next(stream)
        del engine, stream


@pytest.mark.parametrize("roles", ROLES, ids=str)
def test_limit_of_submitted_batches(engine, batches, expected, roles):
    engine.roles = roles
    held = []

    def submit() -> None:
        out = np.empty(batches[5].batch_size, np.float32)
        batch = batches[5]
        held.append((_native.Submitted(engine._native, batch.dense, batch.ids, batch.offsets, out), out))

    def submit_many() -> None:
        for _ in range(20):
            submit()

    with pytest.raises(ValueError, match="8 batches submitted whose look-ups have not begun; collect one"):
        submit_many()
    with pytest.raises(RuntimeError, match="collect them before the roles change"):
        engine.roles = Roles()
    for submitted, out in held[::-1]:  # in any order
        submitted.collect()
        submitted.collect()
        np.testing.assert_array_equal(out, expected[5])
    engine.roles = Roles()


def test_choose_roles(made, batches):
    engine = Engine.from_arrays(*made[:3], poolings=made[3], threads=3)
    seconds = engine.choose_roles(batches, rounds=2)
    assert set(seconds) == {Roles(), Roles(1, 2), Roles(2, 1)}
    assert engine.roles == min(seconds, key=seconds.__getitem__)


@pytest.mark.parametrize("roles", [(1, 0), (0, 1), (-1, 1)])
def test_bad_roles(engine, roles):
    with pytest.raises(ValueError, match="expected two positive numbers of threads"):
        engine.roles = roles


def test_bad_ahead(engine, batches):
    with pytest.raises(ValueError, match="ahead must be from 1 to 4"):
        next(engine.predict_stream(batches, ahead=0))

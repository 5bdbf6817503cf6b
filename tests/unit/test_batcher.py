"""The native batcher: whatever is joined, split, expired or cancelled, predictions are the engine's."""

from __future__ import annotations

import select
import threading
import time

import numpy as np
import pytest
from test_engine import make_batch, make_model

from screc import _native
from screc.data.batch import Batch
from screc.serving import Engine

_FORMS: list[_native.QueryForm] = []  # a form stays as long as its queries
_OPTIONS = {"max_batch": 96, "split": 96, "queue_delay": 0.0, "max_queued": 1 << 16, "workers": 2}


@pytest.fixture(scope="module")
def model():
    made = make_model(num_tables=6)
    return Engine.from_arrays(made[0], made[1], made[2], poolings=made[3], threads=2), made[2]


def form_of(tables: list[np.ndarray], **context) -> _native.QueryForm:
    form = _native.QueryForm([(f"t{i}", len(rows)) for i, rows in enumerate(tables)], 13, **context)
    _FORMS.append(form)
    return form


def wait_for(batcher: _native.Batcher, count: int, seconds: float = 30.0) -> list[_native.Completion]:
    """So many completions, learnt of through the descriptor."""
    found: list[_native.Completion] = []
    until = time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < until, f"{len(found)} of {count} completions"
        if select.select([batcher.descriptor], [], [], 1.0)[0]:
            found.extend(batcher.take())
    return found


def submit(batcher, form, batch: Batch, out: np.ndarray, timeout: float = 0.0) -> _native.Admission:
    return batcher.submit(form, out, timeout, dense=batch.dense, ids=batch.ids, offsets=batch.offsets)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"split": 7, "workers": 5},
        {"max_batch": 1},
        {"max_batch": 4096, "split": 4096, "workers": 1},
        {"queue_delay": 0.002, "max_batch": 400},
    ],
    ids=str,
)
def test_answers_are_the_engines(model, options):
    engine, tables = model
    form = form_of(tables)
    batcher = engine.batcher(**(_OPTIONS | options))
    batches = [make_batch(size, 13, tables, seed=size) for size in (1, 2, 3, 50, 96, 97, 200, 1000, 5) * 4]
    outs = [np.full(batch.batch_size, np.nan, np.float32) for batch in batches]
    tickets = [submit(batcher, form, batch, out).ticket for batch, out in zip(batches, outs, strict=True)]
    found = wait_for(batcher, len(batches))
    assert {one.ticket for one in found} == set(tickets)
    assert {one.outcome for one in found} == {"done"}
    for batch, out in zip(batches, outs, strict=True):
        np.testing.assert_array_equal(out, engine.predict(batch))
    stats = batcher.stats()
    assert (stats.accepted, stats.done) == (len(batches), len(batches))
    assert stats.batched_samples == stats.accepted_samples == sum(batch.batch_size for batch in batches)
    assert sum(stats.request_seconds.counts) == len(batches)
    assert sum(stats.batch_samples.counts) == stats.batches
    assert (stats.queued, stats.queued_samples, stats.running_samples) == (0, 0, 0)


def test_queries_that_wait_are_joined(model):
    engine, tables = model
    form = form_of(tables)
    batcher = engine.batcher(**(_OPTIONS | {"workers": 1, "queue_delay": 10.0, "max_batch": 64}))
    batches = [make_batch(8, 13, tables, seed=seed) for seed in range(8)]
    outs = [np.empty(8, np.float32) for _ in batches]
    for batch, out in zip(batches, outs, strict=True):
        submit(batcher, form, batch, out)
    wait_for(batcher, 8)  # long before the delay is over: the batch is full
    assert batcher.stats().batches == batcher.stats().joined_batches == 1
    for batch, out in zip(batches, outs, strict=True):
        np.testing.assert_array_equal(out, engine.predict(batch))


def test_a_large_query_is_split_evenly(model):
    engine, tables = model
    batcher = engine.batcher(**_OPTIONS)
    batch, out = make_batch(200, 13, tables), np.empty(200, np.float32)
    submit(batcher, form_of(tables), batch, out)
    wait_for(batcher, 1)
    stats = batcher.stats()
    assert stats.batches == 3  # 67, 67 and 66
    assert stats.batch_samples.counts[stats.batch_samples.bounds.index(128)] == 3
    np.testing.assert_array_equal(out, engine.predict(batch))
    batcher.split = 1000
    submit(batcher, form_of(tables), batch, out)
    wait_for(batcher, 1)
    assert batcher.stats().batches == 4


def categorical_of(size: int, tables: list[np.ndarray], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, len(rows), size) for rows in tables], axis=1)


def as_batch(dense: np.ndarray, categorical: np.ndarray) -> Batch:
    return Batch(
        dense=dense,
        ids=np.ascontiguousarray(categorical.T).ravel(),
        offsets=np.arange(categorical.size + 1, dtype=np.int64),
    )


@pytest.mark.parametrize("size", [1, 64, 200])
def test_one_id_for_each_table(model, size):
    engine, tables = model
    dense = make_batch(size, 13, tables).dense
    categorical = categorical_of(size, tables)
    batcher, out = engine.batcher(**_OPTIONS), np.empty(size, np.float32)
    batcher.submit(form_of(tables), out, 0.0, dense=dense, categorical=categorical)
    wait_for(batcher, 1)
    np.testing.assert_array_equal(out, engine.predict(as_batch(dense, categorical)))


@pytest.mark.parametrize("bags", [False, True])
@pytest.mark.parametrize(
    ("context_tables", "context_columns"),
    [([4, 1], [0, 12, 3]), ([0, 1, 2, 3, 4, 5], []), ([], [5]), ([2], list(range(13)))],
)
def test_a_context_is_the_plain_form(model, context_tables, context_columns, bags):
    engine, tables = model
    size = 150
    dense = make_batch(size, 13, tables).dense.copy()
    categorical = categorical_of(size, tables)
    dense[:, context_columns] = dense[:1, context_columns]
    categorical[:, context_tables] = categorical[:1, context_tables]
    own_tables = [t for t in range(6) if t not in context_tables]
    own_columns = [c for c in range(13) if c not in context_columns]
    form = form_of(tables, context_tables=context_tables, context_columns=context_columns)
    own, shared = np.ascontiguousarray(categorical[:, own_tables]), categorical[:1, context_tables]
    arrays = {"dense": np.ascontiguousarray(dense[:, own_columns])}
    if context_columns:
        arrays["context_dense"] = np.ascontiguousarray(dense[:1, context_columns])
    if bags:
        arrays["ids"], arrays["offsets"] = own.T.ravel().copy(), np.arange(own.size + 1)
        if context_tables:
            arrays |= {"context_ids": shared.ravel().copy(), "context_offsets": np.arange(shared.size + 1)}
    else:
        arrays["categorical"] = own
        if context_tables:
            arrays["context_categorical"] = np.ascontiguousarray(shared)
    batcher, out = engine.batcher(**_OPTIONS), np.empty(size, np.float32)
    batcher.submit(form, out, 0.0, **arrays)
    wait_for(batcher, 1)
    np.testing.assert_array_equal(out, engine.predict(as_batch(dense, categorical)))


def test_contexts_and_plain_queries_are_joined(model):
    engine, tables = model
    batcher = engine.batcher(**(_OPTIONS | {"workers": 1, "queue_delay": 10.0, "max_batch": 30}))
    plain = make_batch(10, 13, tables, seed=1)
    dense, categorical = make_batch(20, 13, tables, seed=2).dense, categorical_of(20, tables)
    categorical[:, 0] = 3
    outs = np.empty(10, np.float32), np.empty(20, np.float32)
    submit(batcher, form_of(tables), plain, outs[0])
    batcher.submit(
        form_of(tables, context_tables=[0]),
        outs[1],
        0.0,
        dense=dense,
        categorical=np.ascontiguousarray(categorical[:, 1:]),
        context_categorical=np.array([[3]]),
    )
    wait_for(batcher, 2)
    assert batcher.stats().joined_batches == 1
    np.testing.assert_array_equal(outs[0], engine.predict(plain))
    np.testing.assert_array_equal(outs[1], engine.predict(as_batch(dense, categorical)))


def test_a_query_of_no_samples(model):
    engine, tables = model
    batcher = engine.batcher(**_OPTIONS)
    submit(batcher, form_of(tables), make_batch(0, 13, tables), np.empty(0, np.float32))
    assert wait_for(batcher, 1)[0].outcome == "done"


def wrong(batch: Batch, **changed: tuple[int, object]) -> Batch:
    """A batch with one value of an array changed."""
    arrays = {"dense": batch.dense.copy(), "ids": batch.ids.copy(), "offsets": batch.offsets.copy()}
    for name, (place, value) in changed.items():
        arrays[name].reshape(-1)[place] = value
    return Batch(**arrays)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dense": (14, np.nan)}, r"dense\[1, 1\] = nan is not finite"),
        ({"ids": (0, -1)}, r"ids\[0\] = -1 is out of range for table 't0' with 20 rows"),
        ({"ids": (-1, 10**12)}, r"ids\[\d+\] = 1000000000000 is out of range for table 't5'"),
        ({"offsets": (0, 1)}, "offsets: must run from 0"),
        ({"offsets": (5, 10**15)}, r"offsets\[6\] = \d+ is below offsets\[5\] = 10\d+"),
        ({"offsets": (5, -3)}, r"offsets\[5\] = -3 is below"),
    ],
    ids=str,
)
def test_wrong_values_are_named_and_cost_nobody_else(model, changed, message):
    engine, tables = model
    batcher = engine.batcher(**_OPTIONS)
    batch, out = make_batch(40, 13, tables), np.empty(40, np.float32)
    with pytest.raises(ValueError, match=message):
        submit(batcher, form_of(tables), wrong(batch, **changed), out)
    submit(batcher, form_of(tables), batch, out)
    assert [one.outcome for one in wait_for(batcher, 1)] == ["done"]
    assert batcher.stats().accepted == 1


def test_wrong_shapes_are_refused(model):
    engine, tables = model
    batcher = engine.batcher(**_OPTIONS)
    batch, form = make_batch(4, 13, tables), form_of(tables)
    out = np.empty(4, np.float32)
    for message, arrays in [
        ("dense: expected 13 columns", {"dense": batch.dense[:, :5].copy()}),
        ("dense: expected 4 rows", {"dense": batch.dense[:2]}),
        ("dense: is missing", {"dense": None}),
        ("offsets: expected 25 entries", {"offsets": batch.offsets[:-1]}),
        ("ids and offsets, or categorical, are missing", {"ids": None}),
        ("categorical: expected 6 columns", {"categorical": np.zeros((4, 5), np.int64)}),
    ]:
        given = {"dense": batch.dense, "ids": batch.ids, "offsets": batch.offsets} | arrays
        with pytest.raises(ValueError, match=message):
            batcher.submit(form, out, 0.0, **given)
    with pytest.raises(TypeError, match="ids: expected dtype int64"):
        batcher.submit(
            form, out, 0.0, dense=batch.dense, ids=batch.ids.astype(np.int32), offsets=batch.offsets
        )
    with pytest.raises(ValueError, match="timeout"):
        submit(batcher, form, batch, out, timeout=-1.0)


def test_wrong_options_are_refused(model):
    engine, tables = model
    for name, value in (("max_batch", 0), ("split", 0), ("max_queued", -1), ("workers", 1000)):
        with pytest.raises(ValueError, match=name):
            engine.batcher(**(_OPTIONS | {name: value}))
    with pytest.raises(ValueError, match="queue_delay"):
        engine.batcher(**(_OPTIONS | {"queue_delay": float("nan")}))
    with pytest.raises(ValueError, match="context tables: 6 is out of range"):
        form_of(tables, context_tables=[6])
    with pytest.raises(ValueError, match="context columns: 3 is given twice"):
        form_of(tables, context_columns=[3, 3])


def test_what_waits_too_long_expires(model):
    engine, tables = model
    form = form_of(tables)
    # The worker takes the second query when the first batch's delay is over.
    batcher = engine.batcher(**(_OPTIONS | {"workers": 1, "queue_delay": 0.05, "max_batch": 1000}))
    batch = make_batch(3, 13, tables)
    outs = np.empty(3, np.float32), np.empty(3, np.float32)
    first = submit(batcher, form, batch, outs[0]).ticket
    second = submit(batcher, form, batch, outs[1], timeout=0.001).ticket
    found = {one.ticket: one.outcome for one in wait_for(batcher, 2)}
    assert found == {first: "done", second: "expired"}
    np.testing.assert_array_equal(outs[0], engine.predict(batch))


def test_what_would_come_too_late_is_refused(model):
    engine, tables = model
    form = form_of(tables)
    batcher = engine.batcher(**(_OPTIONS | {"workers": 1, "max_queued": 1 << 30}))
    batch, out = make_batch(5000, 13, tables), np.empty(5000, np.float32)
    submit(batcher, form, batch, out, timeout=1e-9)  # nothing is ahead of it
    assert wait_for(batcher, 1)[0].outcome in ("done", "expired")
    submit(batcher, form, batch, out)
    wait_for(batcher, 1)
    assert batcher.stats().seconds_per_sample > 0
    outs = [np.empty(5000, np.float32) for _ in range(20)]
    for own in outs:
        submit(batcher, form, batch, own)
    late = submit(batcher, form, batch, out, timeout=1e-6)
    assert late.verdict == "too late"
    assert late.predicted_wait > 0
    assert batcher.stats().refused_too_late == 1
    wait_for(batcher, 20)
    for own in outs:
        np.testing.assert_array_equal(own, engine.predict(batch))


def test_a_full_queue_refuses(model):
    engine, tables = model
    form = form_of(tables)
    batcher = engine.batcher(**(_OPTIONS | {"workers": 1, "queue_delay": 0.2, "max_queued": 100}))
    batch = make_batch(30, 13, tables)
    outs = [np.empty(30, np.float32) for _ in range(5)]
    verdicts = [submit(batcher, form, batch, out).verdict for out in outs]
    assert verdicts == ["accepted"] * 3 + ["queue full"] * 2
    wait_for(batcher, 3)
    huge, out = make_batch(300, 13, tables), np.empty(300, np.float32)
    assert submit(batcher, form, huge, out).verdict == "accepted"  # an idle batcher takes any
    wait_for(batcher, 1)
    np.testing.assert_array_equal(out, engine.predict(huge))


def test_cancelled_queries_complete(model):
    engine, tables = model
    form = form_of(tables)
    batcher = engine.batcher(**(_OPTIONS | {"workers": 1, "queue_delay": 5.0, "max_batch": 10_000}))
    batch = make_batch(10, 13, tables)
    outs = [np.empty(10, np.float32) for _ in range(3)]
    tickets = [submit(batcher, form, batch, out).ticket for out in outs]
    assert batcher.cancel(tickets[1])
    assert not batcher.cancel(tickets[1])
    assert not batcher.cancel(10**15)
    assert [(one.ticket, one.outcome) for one in wait_for(batcher, 1)] == [(tickets[1], "cancelled")]
    assert batcher.drain(30.0)  # no batch waits to be full any more
    assert {one.ticket for one in batcher.take()} == {tickets[0], tickets[2]}
    np.testing.assert_array_equal(outs[2], engine.predict(batch))
    assert submit(batcher, form, batch, outs[0]).verdict == "draining"
    assert batcher.stats().refused_draining == 1


def test_cancelling_while_parts_run(model):
    engine, tables = model
    form = form_of(tables)
    batcher = engine.batcher(**(_OPTIONS | {"split": 20, "max_batch": 20}))
    batch = make_batch(4000, 13, tables)
    small = make_batch(5, 13, tables)
    for _ in range(50):
        out, after = np.empty(4000, np.float32), np.empty(5, np.float32)
        ticket = submit(batcher, form, batch, out).ticket
        last = submit(batcher, form, small, after).ticket
        batcher.cancel(ticket)
        found = {one.ticket: one.outcome for one in wait_for(batcher, 2)}
        assert found[ticket] in ("cancelled", "done")
        assert found[last] == "done"
        np.testing.assert_array_equal(after, engine.predict(small))
    stats = batcher.stats()
    assert stats.queued_samples == stats.running_samples == stats.queued == 0
    assert stats.accepted == stats.done + stats.cancelled == 100


def test_a_stopped_batcher_drops_what_waits(model):
    engine, tables = model
    batcher = engine.batcher(**(_OPTIONS | {"workers": 1, "queue_delay": 10.0, "max_batch": 10_000}))
    batch, out = make_batch(10, 13, tables), np.empty(10, np.float32)
    submit(batcher, form_of(tables), batch, out)
    batcher.stop()
    batcher.stop()
    assert [one.outcome for one in batcher.take()] == ["cancelled"]
    assert submit(batcher, form_of(tables), batch, out).verdict == "draining"


def test_many_threads_at_once(model):
    """Submitting, cancelling and looking at the counters from all sides; every accepted query ends once."""
    engine, tables = model
    form = form_of(tables)
    batcher = engine.batcher(**(_OPTIONS | {"split": 16, "workers": 3, "max_queued": 3000}))
    ends: dict[int, str] = {}
    accepted: dict[int, tuple[Batch, np.ndarray]] = {}
    sending = threading.Event()

    def send(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for number in range(150):
            batch = make_batch(int(rng.integers(1, 120)), 13, tables, seed=seed * 1000 + number)
            out = np.empty(batch.batch_size, np.float32)
            admission = submit(batcher, form, batch, out, timeout=float(rng.choice([0, 0, 0.005])))
            if admission.verdict != "accepted":
                continue
            accepted[admission.ticket] = (batch, out)
            if rng.random() < 0.1:
                batcher.cancel(admission.ticket)

    def collect() -> None:
        while not sending.is_set() or len(ends) < len(accepted):
            for one in batcher.take():
                assert one.ticket not in ends
                ends[one.ticket] = one.outcome
            batcher.stats()

    senders = [threading.Thread(target=send, args=(seed,)) for seed in range(3)]
    collector = threading.Thread(target=collect)
    for thread in (*senders, collector):
        thread.start()
    for thread in senders:
        thread.join()
    assert batcher.drain(60.0)
    sending.set()
    collector.join()
    assert ends.keys() == accepted.keys()
    done = [ticket for ticket, outcome in ends.items() if outcome == "done"]
    assert len(done) > 100
    for ticket in done:
        batch, out = accepted[ticket]
        np.testing.assert_array_equal(out, engine.predict(batch))
    stats = batcher.stats()
    assert stats.accepted == len(accepted) == stats.done + stats.expired + stats.cancelled

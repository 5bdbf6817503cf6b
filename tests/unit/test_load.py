"""The load generator: arrivals, sizes, content, and the search for the highest load."""

from __future__ import annotations

import numpy as np
import pytest

from screc.data import Batch, TableSpec
from screc.serving import Engine
from screc.serving.load import (
    EngineTarget,
    LoadConfig,
    LoadGenerator,
    LogSamples,
    ModelShape,
    Outcome,
    Pace,
    Search,
    SizeDistribution,
    Sla,
    Summary,
    Trace,
    ZipfSamples,
    find_capacity,
    poisson_arrivals,
)

SHAPE = ModelShape(name="m", num_dense=3, tables=(TableSpec("a", 10), TableSpec("b", 5000)))


def test_arrivals_are_a_poisson_process():
    arrivals = poisson_arrivals(1000, 50, seed=1)
    gaps = np.diff(arrivals)
    assert (gaps >= 0).all()
    assert arrivals[0] >= 0
    assert arrivals[-1] < 50
    assert len(arrivals) == pytest.approx(50_000, rel=0.02)
    # Exponential gaps: as much deviation as mean, and exp(-1) of them longer than the mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)
    assert (gaps > gaps.mean()).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert (poisson_arrivals(1000, 50, seed=1) == arrivals).all()
    assert (poisson_arrivals(1000, 50, seed=2)[:10] != arrivals[:10]).all()


@pytest.mark.parametrize(
    ("rate", "seconds", "field"), [(0, 1, "rate"), (np.inf, 1, "rate"), (1, 0, "seconds")]
)
def test_arrivals_refuse_what_is_no_rate(rate, seconds, field):
    with pytest.raises(ValueError, match=field):
        poisson_arrivals(rate, seconds, seed=0)


def drawn(text: str, count: int = 200_000) -> np.ndarray:
    return SizeDistribution.parse(text).draw(np.random.default_rng(0), count)


def test_sizes_have_the_law_they_are_named_for(tmp_path):
    assert set(drawn("200")) == set(drawn("fixed:200")) == {200}
    normal = drawn("normal:165,16")
    assert normal.mean() == pytest.approx(165, abs=0.2)
    assert normal.std() == pytest.approx(16, rel=0.02)
    assert np.median(drawn("lognormal:5.1,0.2")) == pytest.approx(np.exp(5.1), abs=1)
    heavy = drawn("heavy")
    assert np.median(heavy) == pytest.approx(164, abs=2)
    file = tmp_path / "sizes"
    file.write_text("10\n20\n40\n")
    sampled = drawn(f"percentiles:{file}")
    assert (sampled.min(), sampled.max()) == (10, 40)
    assert np.median(sampled) == pytest.approx(20, abs=1)
    for sizes in (normal, heavy, drawn("lognormal:9,1")):
        assert sizes.min() >= 1
        assert sizes.max() <= 1024


def test_the_heavy_tails_largest_quarter_holds_half_of_the_work():
    distribution = SizeDistribution.parse("heavy:164", largest=10**9)
    sizes = np.sort(distribution.draw(np.random.default_rng(0), 2_000_000))
    assert sizes[-len(sizes) // 4 :].sum() / sizes.sum() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "2000",
        "1.5",
        "normal:5",
        "normal:-1,2",
        "lognormal:x,1",
        "heavy:0",
        "heavy:1,1",
        "zipf:2",
        "normal:nan,1",
    ],
)
def test_sizes_refuse_what_is_no_distribution(text):
    with pytest.raises(ValueError, match="size: "):
        SizeDistribution.parse(text)


def test_sizes_refuse_a_file_out_of_order(tmp_path):
    file = tmp_path / "sizes"
    file.write_text("20\n10\n")
    with pytest.raises(ValueError, match="ascending"):
        SizeDistribution.parse(f"percentiles:{file}")


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.05, 2.0])
def test_zipf_samples_fit_the_model_and_its_law(exponent):
    samples = ZipfSamples(SHAPE, exponent=exponent, pooling=2, seed=3)
    batch = samples.take(20_000)
    batch.validate([table.num_embeddings for table in SHAPE.tables], SHAPE.num_dense)
    assert batch.batch_size == 20_000
    counts = np.sort(np.bincount(batch.table_ids(1), minlength=5000))[::-1]
    # Counts of ranks of about 10 and 100 tell the exponent: ranks are rounded, so not those of 1 and 2.
    slope = np.log(counts[8:12].sum() / counts[80:120].sum() * 10) / np.log(10)
    assert slope == pytest.approx(exponent, abs=0.12)


def test_zipf_samples_refuse_bad_numbers():
    with pytest.raises(ValueError, match="exponent"):
        ZipfSamples(SHAPE, exponent=0)
    with pytest.raises(ValueError, match="pooling"):
        ZipfSamples(SHAPE, pooling=0)


class Log:
    """Ten samples, whose dense features are their numbers."""

    tables, num_dense, num_samples = SHAPE.tables, 3, 10

    def batches(self, batch_size, *, skip=0):
        ids = np.tile(np.arange(10), 2)
        dense = np.repeat(np.arange(10, dtype=np.float32), 3).reshape(10, 3)
        yield Batch(dense=dense, ids=ids, offsets=np.arange(21, dtype=np.int64))


def test_log_samples_are_those_of_the_log_in_order():
    samples = LogSamples(Log(), SHAPE)
    assert [list(samples.take(size).dense[:, 0]) for size in (4, 5, 4)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7, 8],
        [0, 1, 2, 3],  # one was left, too few for a query
    ]
    with pytest.raises(ValueError, match="no 11 samples"):
        samples.take(11)


def test_log_samples_refuse_another_models_log():
    with pytest.raises(ValueError, match="3 dense features"):
        LogSamples(Log(), ModelShape(name="m", num_dense=4, tables=SHAPE.tables))
    with pytest.raises(ValueError, match="2 tables"):
        LogSamples(Log(), ModelShape(name="m", num_dense=3, tables=SHAPE.tables[:1]))
    with pytest.raises(ValueError, match="5000 rows"):
        LogSamples(Log(), ModelShape(name="m", num_dense=3, tables=(SHAPE.tables[0],) * 2))


def test_a_summary_counts_what_was_not_answered_as_never():
    trace = Trace(
        due=np.arange(10.0),
        latencies=np.linspace(0.1, 1.0, 10),
        lags=np.full(10, 0.05),
        outcomes=np.array([Outcome.OK] * 8 + [Outcome.REFUSED, Outcome.LATE], np.uint8),
    )
    summary = Summary.of(trace, np.full(10, 5), seconds=10.0)
    assert summary.outcomes == {"ok": 8, "refused": 1, "failed": 0, "late": 1}
    assert summary.latency_ms["max"] == pytest.approx(800)
    assert summary.latency_at(0.8) == pytest.approx(0.8)
    assert summary.latency_at(0.81) == np.inf
    assert summary.refusal_ms["max"] == pytest.approx(900)
    assert summary.refusal_after_sending_ms["max"] == pytest.approx(850)
    assert summary.samples_rate == pytest.approx(40 / 10)


def queue(service: float):
    """Trials of a single server with a fixed service time: M/D/1."""

    def trial(rate: float, seconds: float, seed: int) -> Summary:
        due = poisson_arrivals(rate, seconds, seed)
        # A wait is what the work before it leaves: the largest surplus of work over time since any arrival.
        work = np.arange(len(due)) * service - due
        ended = np.maximum.accumulate(-work) + np.arange(1, len(due) + 1) * service
        outcomes = np.zeros(len(due), np.uint8)
        trace = Trace(due=due, latencies=ended - due, lags=np.zeros(len(due)), outcomes=outcomes)
        return Summary.of(trace, np.ones(len(due)), seconds=seconds)

    return trial


@pytest.mark.parametrize("start", [20.0, 500.0, 900.0, 5000.0])
def test_the_highest_load_of_a_queue_is_the_theorys(start):
    # p95 of an M/D/1 queue's time in the system is about 1 + ln(20) * rho / (2 (1 - rho)) services.
    sla = Sla(latency_s=0.01, percentile=95)
    found = find_capacity(queue(0.001), sla, start, Search(trial_s=60, confirm_s=60))
    assert found.rate == pytest.approx(1000 / (1 + np.log(20) / (2 * 9)), rel=0.06)
    assert all(sla.kept(one) for one in found.confirmed)
    assert found.samples_rate == pytest.approx(found.rate, rel=0.03)


def test_a_load_that_confirmation_breaks_is_lowered():
    inner = queue(0.001)

    def flattering(rate: float, seconds: float, seed: int) -> Summary:
        return inner(rate if seed >= 1000 else rate * 0.8, seconds, seed)

    found = find_capacity(flattering, Sla(latency_s=0.01), 900, Search(trial_s=20, confirm_s=20))
    assert found.rate == pytest.approx(1000 / (1 + np.log(20) / (2 * 9)), rel=0.06)


def test_a_promise_that_no_load_keeps_is_rate_zero():
    found = find_capacity(queue(0.02), Sla(latency_s=0.01), 10, Search(trial_s=200))
    assert found.rate == 0
    assert found.samples_rate == 0


def test_promises_refuse_bad_numbers():
    with pytest.raises(ValueError, match="sla"):
        Sla(latency_s=0)
    with pytest.raises(ValueError, match="percentile"):
        Sla(latency_s=1, percentile=100)
    with pytest.raises(ValueError, match="timeout"):
        Pace(timeout_s=0)
    with pytest.raises(ValueError, match="connections"):
        Pace(connections=0)
    with pytest.raises(ValueError, match="in_flight"):
        Pace(in_flight=0)
    with pytest.raises(ValueError, match="start"):
        find_capacity(queue(1), Sla(latency_s=1), 0)


def small_engine() -> Engine:
    generator = np.random.default_rng(0)
    model = {
        "name": "dlrm",
        "num_dense": 3,
        "embedding_dim": 4,
        "bottom_mlp": [4],
        "top_mlp": [1],
        "interaction": "cat",
    }
    dense = {
        "bottom.0.weight": generator.standard_normal((4, 3), dtype=np.float32),
        "bottom.0.bias": np.zeros(4, np.float32),
        "top.0.weight": generator.standard_normal((1, 12), dtype=np.float32),
        "top.0.bias": np.zeros(1, np.float32),
    }
    tables = [generator.standard_normal((rows, 4), dtype=np.float32) for rows in (10, 5000)]
    return Engine.from_arrays(model, dense, tables, threads=1)


def test_load_on_an_engine_of_this_process():
    generator = LoadGenerator(EngineTarget(small_engine()), LoadConfig(sizes="normal:20,5", pool=16))
    summary = generator.run(rate=500, seconds=0.3)
    assert summary.outcomes["ok"] == summary.requests > 50
    assert 0 < summary.latency_ms["p50"] <= summary.latency_ms["p99.9"] <= summary.latency_ms["max"]
    assert summary.samples_rate == pytest.approx(summary.answered_rate * generator.mean_size, rel=0.2)
    assert generator.peak(0.1).answered_rate > 0
    assert [run.requests > 0 for run in generator.curve([100, 200], 0.2)] == [True, True]
    with pytest.raises(ValueError, match="no request is due"):
        generator.run(rate=0.001, seconds=0.001)

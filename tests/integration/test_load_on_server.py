"""The load generator against the real server: both transports, and answers equal to the engine's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from screc.data import Batch
from screc.serving.load import GrpcTarget, HttpTarget, LoadConfig, LoadGenerator, Outcome, Pace, drive
from screc.serving.load import grpc as over_grpc
from screc.serving.load import http as over_http
from screc.serving.load.http import Address
from screc.serving.server import ServerConfig
from tests.integration.served import ROWS, Running, engine_of, make_batch, one_each, running, write_artifact

TOKEN = "a-token-of-many-letters"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("load") / "ranker")


@pytest.fixture(scope="module")
def server(artifact):
    with running({"ranker": artifact}) as found:
        yield found


def target_of(server: Running, transport: str, **options) -> HttpTarget | GrpcTarget:
    if transport == "http":
        return HttpTarget(server.http, **options)
    return GrpcTarget(f"grpc://{server.grpc}", **options)


def sender(server: Running, transport: str, token: str | None = None, deadline_s: float = 0):
    """How to encode a batch, connect, and read an answer."""
    if transport == "http":
        address = Address.of_url(server.http)
        return (
            lambda batch: over_http.infer_request(
                address, "ranker", batch, token=token, deadline_s=deadline_s
            ),
            lambda: over_http.HttpConnection(address),
            over_http.probabilities,
        )
    address = Address.of_url(f"grpc://{server.grpc}", "grpc")
    headers = over_grpc.call_headers(address, token=token, timeout_s=deadline_s)
    return (
        lambda batch: over_grpc.infer_message("ranker", batch),
        lambda: over_grpc.GrpcConnection(address, headers),
        over_grpc.probabilities,
    )


def answers(server: Running, transport: str, batches: list[Batch], count: int) -> dict[int, np.ndarray]:
    encode, connect, read = sender(server, transport)
    found: dict[int, np.ndarray] = {}

    def keep(number: int, body: bytes) -> None:
        found[number] = read(body)

    trace = drive(connect, [encode(one) for one in batches], np.arange(count) * 1e-3, Pace(), answered=keep)
    assert (trace.outcomes == Outcome.OK).all(), trace.faults
    return found


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_answers_are_the_engines_to_the_bit(server, artifact, transport):
    batches = [make_batch(size, seed=size) for size in (1, 3, 60)] + [one_each(7)[1]]
    right = [engine_of(artifact).predict(batch) for batch in batches]
    found = answers(server, transport, batches, 40)
    assert len(found) == 40
    for number, probabilities in found.items():
        assert probabilities.tobytes() == right[number % len(batches)].tobytes()


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_requests_larger_than_the_flow_control_windows(server, artifact, transport):
    batch = make_batch(20_000, longest=2)  # megabytes: many windows; no socket takes it at once
    right = engine_of(artifact).predict(batch)
    for probabilities in answers(server, transport, [batch], 6).values():
        assert probabilities.tobytes() == right.tobytes()


def test_no_more_are_in_flight_than_allowed(server):
    """Sixty-four calls fit on one connection, but a closed loop of two has two."""
    encode, connect, _ = sender(server, "grpc")
    pace = Pace(connections=4, in_flight=2)
    trace = drive(connect, [encode(make_batch(200))], np.zeros(50), pace)
    assert (trace.outcomes == Outcome.OK).all()
    begins, ends = np.sort(trace.lags), np.sort(trace.latencies)
    assert (begins[2:] >= ends[:-2]).all()


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_target_learns_the_model_and_runs(server, transport):
    target = target_of(server, transport)
    assert target.shape.name == "ranker"
    assert tuple(table.num_embeddings for table in target.shape.tables) == ROWS
    generator = LoadGenerator(target, LoadConfig(sizes="heavy:20", pool=32))
    summary = generator.run(rate=200, seconds=0.5)
    assert summary.outcomes["ok"] == summary.requests > 50, summary.faults
    assert generator.peak(0.2).outcomes["ok"] > 0


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_errors_are_told(server, transport):
    with pytest.raises(OSError, match="unknown"):
        target_of(server, transport, model="unknown")
    encode, connect, _ = sender(server, transport)
    wrong = make_batch(3)
    wrong.ids[0] = 10**9
    trace = drive(connect, [encode(wrong)], np.zeros(3), Pace())
    assert (trace.outcomes == Outcome.FAILED).all()
    assert "ids" in next(iter(trace.faults))


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_token_is_given(artifact, transport):
    with running({"ranker": artifact}, ServerConfig(token=TOKEN)) as server:
        assert target_of(server, transport, token=TOKEN).shape.num_dense > 0
        with pytest.raises(OSError, match=r"401|UNAUTHENTICATED"):
            target_of(server, transport)
        outcomes: dict[str | None, list[int]] = {}
        for token in (TOKEN, None):
            encode, connect, _ = sender(server, transport, token)
            outcomes[token] = list(drive(connect, [encode(make_batch(3))], np.zeros(2), Pace()).outcomes)
        assert outcomes == {TOKEN: [Outcome.OK] * 2, None: [Outcome.FAILED] * 2}


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_a_deadline_that_cannot_be_met_is_a_refusal_or_late(server, transport):
    encode, connect, _ = sender(server, transport, deadline_s=1e-6)
    trace = drive(connect, [encode(make_batch(20_000, longest=2))], np.zeros(8), Pace())
    assert set(trace.outcomes) <= {Outcome.OK, Outcome.REFUSED, Outcome.LATE}, trace.faults
    assert (trace.outcomes != Outcome.OK).any()


def test_calls_in_flight_when_the_server_stops_end_and_the_rest_fail(artifact):
    with running({"ranker": artifact}) as server:
        encode, connect, _ = sender(server, "grpc")

        def answered(number: int, body: bytes) -> None:
            if number == 20:
                server.stop()

        arrivals = np.arange(300) * 2e-3
        trace = drive(connect, [encode(make_batch(50))], arrivals, Pace(timeout_s=2), answered=answered)
    assert (trace.outcomes[:20] == Outcome.OK).all()
    assert set(trace.outcomes[-10:]) <= {Outcome.FAILED, Outcome.REFUSED}

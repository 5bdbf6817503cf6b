"""The open loop over HTTP, against a server that does what a test asks for."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from screc.data import Batch
from screc.serving.load import HttpTarget, LoadConfig, LoadGenerator, Outcome, Pace
from screc.serving.load.drive import drive
from screc.serving.load.http import Address, HttpConnection, infer_request, post_request, probabilities

Reply = Callable[[int, str, bytes], list[bytes]]
"""A request's number, path and body to the pieces of its answer; none: the connection is closed."""


class Server:
    """A thread for each connection, on a free port of the loopback address."""

    def __init__(self, reply: Reply) -> None:
        self._reply, self._lock = reply, threading.Lock()
        self.seen = self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = Address(*self._listener.getsockname())
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as lines:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while line := lines.readline():
                path, length = line.split()[1].decode(), 0
                while (field := lines.readline()).strip():
                    name, _, value = field.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                body = lines.read(length)
                with self._lock:
                    number, self.seen = self.seen, self.seen + 1
                pieces = self._reply(number, path, body)
                if not pieces:
                    return
                try:
                    for piece in pieces:
                        peer.sendall(piece)
                        time.sleep(0.001 if len(pieces) > 1 else 0)
                except OSError:
                    return

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)  # or the thread in accept() would keep it open
        self._listener.close()


def answer(body: bytes, status: int = 200, extra: str = "") -> list[bytes]:
    return [f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body]


@pytest.fixture
def serve():
    servers: list[Server] = []

    def start(reply: Reply) -> Server:
        servers.append(Server(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def send(
    server: Server, arrivals, *, timeout_s: float = 5.0, connections: int = 32, bodies=(b"x",), answered=None
):
    requests = [post_request(server.address, "/x", body, {}) for body in bodies]
    pace = Pace(timeout_s=timeout_s, connections=connections)
    where = server.address
    return drive(lambda: HttpConnection(where), requests, np.array(arrivals, float), pace, answered=answered)


def test_every_request_is_sent_in_turn_and_answered(serve):
    bodies = [bytes([65 + number]) * 10 for number in range(3)]
    server = serve(lambda number, path, body: answer(body))
    answers: dict[int, bytes] = {}
    trace = send(server, np.arange(50) * 0.001, bodies=bodies, answered=answers.__setitem__)
    assert (trace.outcomes == Outcome.OK).all()
    assert answers == {number: bodies[number % 3] for number in range(50)}
    assert (trace.latencies > 0).all()
    assert (trace.lags >= 0).all()
    assert (trace.latencies >= trace.lags).all()


def test_large_requests_and_answers_in_pieces_arrive_whole(serve):
    large = bytes(range(256)) * (8 << 12)  # 8 MiB: no socket takes it at once
    reply = answer(large)[0]
    pieces = [reply[:5], reply[5:40], reply[40:100], reply[100:]]
    server = serve(lambda number, path, body: pieces if body == large else [])
    answers: list[bytes] = []
    trace = send(server, [0, 0, 0.01], bodies=[large], answered=lambda number, body: answers.append(body))
    assert (trace.outcomes == Outcome.OK).all()
    assert answers == [large] * 3


def test_outcomes_follow_the_status(serve):
    statuses = {b"a": 200, b"b": 429, b"c": 503, b"d": 504, b"e": 400, b"f": 500}
    server = serve(lambda number, path, body: answer(b"why 17", statuses[body]))
    trace = send(server, np.zeros(6), bodies=list(statuses))
    assert list(trace.outcomes) == [
        Outcome.OK,
        Outcome.REFUSED,
        Outcome.REFUSED,
        Outcome.LATE,
        Outcome.FAILED,
        Outcome.FAILED,
    ]
    assert trace.faults["# why #"] == 5


def test_no_coordinated_omission(serve):
    """A server that stands still for 0.3 s once: all that were due meanwhile have waited, not only one."""
    stalled = threading.Event()

    def reply(number: int, path: str, body: bytes) -> list[bytes]:
        if number == 20:
            time.sleep(0.3)
            stalled.set()
        return answer(b"")

    server = serve(reply)
    trace = send(server, np.arange(400) * 0.001, connections=1)
    assert stalled.is_set()
    assert (trace.outcomes == Outcome.OK).all()
    assert (trace.latencies > 0.1).sum() > 150
    # The same requests, counted from when they could be sent, would show next to nothing.
    assert ((trace.latencies - trace.lags) > 0.1).sum() < 15


def test_a_request_without_an_answer_is_late_and_its_connection_given_up(serve):
    over = threading.Event()

    def reply(number: int, path: str, body: bytes) -> list[bytes]:
        if body == b"slow":
            over.wait(30)
        return answer(b"")

    server = serve(reply)
    trace = send(server, [0.0, 0.4, 0.45], timeout_s=0.5, connections=1, bodies=[b"slow", b"x", b"x"])
    over.set()
    assert list(trace.outcomes) == [Outcome.LATE, Outcome.OK, Outcome.OK]
    assert trace.latencies[0] >= 0.5
    assert server.connections == 2


def test_waiting_for_a_free_connection_counts_and_can_be_too_late(serve):
    def reply(number: int, path: str, body: bytes) -> list[bytes]:
        time.sleep(0.15)
        return answer(b"")

    trace = send(serve(reply), np.zeros(20), timeout_s=1.0, connections=1)
    answered = int((trace.outcomes == Outcome.OK).sum())
    assert answered > 1
    assert list(trace.outcomes) == [Outcome.OK] * answered + [Outcome.LATE] * (20 - answered)
    assert (np.diff(trace.latencies[:answered]) > 0.14).all()
    assert np.isnan(trace.lags[-1])


def test_connections_are_opened_as_needed_and_no_more(serve):
    def reply(number: int, path: str, body: bytes) -> list[bytes]:
        time.sleep(0.03)
        return answer(b"")

    server = serve(reply)
    trace = send(server, np.zeros(12), connections=4)
    assert (trace.outcomes == Outcome.OK).all()
    assert server.connections == 4


def test_a_connection_that_the_server_closes_is_replaced(serve):
    server = serve(lambda number, path, body: answer(b"", extra="Connection: close\r\n"))
    trace = send(server, np.arange(5) * 0.01, connections=1)
    assert (trace.outcomes == Outcome.OK).all()
    assert server.connections == 5


def test_broken_connections_fail_their_request_only(serve):
    server = serve(lambda number, path, body: answer(b"") if body == b"x" else [])
    trace = send(server, np.arange(6) * 0.02, bodies=[b"x", b"x", b"drop"])
    assert list(trace.outcomes) == [0, 0, Outcome.FAILED] * 2
    assert "closed a connection" in " ".join(trace.faults)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
    ],
)
def test_answers_that_make_no_sense_are_failures(serve, garbage):
    trace = send(serve(lambda number, path, body: [garbage]), [0.0, 0.01])
    assert list(trace.outcomes) == [Outcome.FAILED] * 2
    assert trace.faults


def test_a_server_that_goes_away_fails_the_rest(serve):
    def reply(number: int, path: str, body: bytes) -> list[bytes]:
        if number == 2:
            server.close()
        return answer(b"") if number < 2 else []

    server = serve(reply)
    trace = send(server, np.arange(6) * 0.03)
    assert sorted(trace.outcomes) == [Outcome.OK] * 2 + [Outcome.FAILED] * 4
    assert list(send(server, [0.0]).outcomes) == [Outcome.FAILED]


def test_nothing_to_send_is_an_error(serve):
    with pytest.raises(ValueError, match="requests"):
        send(serve(lambda number, path, body: answer(b"")), [0.0], bodies=[])


MODEL = {
    "/v2/repository/index": [{"name": "m", "state": "READY"}, {"name": "n", "state": "UNAVAILABLE"}],
    "/v2/models/m": {
        "inputs": [{"name": "dense", "shape": [-1, 3]}, {"name": "categorical", "shape": [-1, 2]}]
    },
    "/v2/models/m/config": {
        "parameters": {"tables": {"string_value": "a,b"}, "num_embeddings": {"string_value": "10,500"}}
    },
}


def model_reply(number: int, path: str, body: bytes) -> list[bytes]:
    """A model whose probability is the first dense feature."""
    if path != "/v2/models/m/infer":
        return answer(json.dumps(MODEL[path]).encode()) if path in MODEL else answer(b"no such page", 404)
    document, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    (dense, categorical), rest = document["inputs"], body[end:]
    rows = dense["shape"][0]
    assert (dense["datatype"], categorical["datatype"]) == ("FP32", "INT64")
    assert categorical["shape"] == [rows, 2]
    assert len(rest) == rows * (3 * 4 + 2 * 8)
    ids = np.frombuffer(rest, "<i8", offset=rows * 12).reshape(rows, 2)
    assert (ids >= 0).all()
    assert (ids < [10, 500]).all()
    first = np.frombuffer(rest, "<f4", rows * 3).reshape(rows, 3)[:, 0].tobytes()
    head = {"outputs": [{"name": "probability", "parameters": {"binary_data_size": len(first)}}]}
    return answer(json.dumps(head).encode() + first)


def test_load_on_a_served_model_whose_shape_it_tells(serve):
    server = serve(model_reply)
    target = HttpTarget(f"http://{server.address.text}")
    assert target.shape.name == "m"
    assert [table.num_embeddings for table in target.shape.tables] == [10, 500]
    generator = LoadGenerator(target, LoadConfig(sizes="normal:20,5", pool=16))
    summary = generator.run(rate=200, seconds=0.5)
    assert summary.outcomes["ok"] == summary.requests > 50
    assert summary.lag_ms["p50"] < summary.latency_ms["p50"]


def test_requests_carry_the_batch_and_answers_its_predictions(serve):
    server = serve(model_reply)
    batch = Batch(
        dense=np.arange(6, dtype=np.float32).reshape(2, 3),
        ids=np.array([1, 2, 300, 400]),
        offsets=np.arange(5),
    )
    bodies: list[bytes] = []
    drive(
        lambda: HttpConnection(server.address),
        [infer_request(server.address, "m", batch, token="secret")],
        np.zeros(1),
        Pace(),
        answered=lambda number, body: bodies.append(body),
    )
    assert list(probabilities(bodies[0])) == [0.0, 3.0]


def test_targets_say_what_is_wrong(serve):
    server = serve(model_reply)
    url = f"http://{server.address.text}"
    with pytest.raises(OSError, match="404: no such page"):
        HttpTarget(url, "unknown")
    with pytest.raises(ValueError, match="TLS"):
        HttpTarget("https://127.0.0.1:1")
    with pytest.raises(ValueError, match="none is ready"):
        HttpTarget(f"http://{serve(lambda number, path, body: answer(b'[]')).address.text}")
    bare = serve(lambda number, path, body: answer(b'{"inputs": []}'))
    with pytest.raises(ValueError, match="how many rows"):
        HttpTarget(f"http://{bare.address.text}", "m")
    bare.close()
    server.close()
    with pytest.raises(OSError, match="nobody answers"):
        HttpTarget(url)

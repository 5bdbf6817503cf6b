"""A server under requests that nobody should send: ``python -m recipes.fuzz_server --requests 1000000``.

A small model is served by ``screc serve`` in a process of its own. Right requests, binary and JSON, are
changed at random (bytes flipped, cut, doubled, values of the JSON replaced, the header of its length changed)
and sent over a connection that stays open; every hundredth is sent unchanged, and its answer must be right to
the bit. A tenth goes over gRPC, the serialised bytes changed likewise. It ends with an error where the server
dies, does not answer within some seconds, or answers 5xx.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np

from screc.data import Batch
from screc.serving import Engine
from screc.serving.messages import SERVICE, message
from screc.serving.protocol import HEADER_LENGTH, InferRequest, parse_response, render_request
from screc.storage import StoredTable, TableLayout, pack, write_checkpoint

NUM_DENSE, DIM, ROWS = 4, 8, (50, 1000, 7)
_ANSWER_S = 10.0
_STRANGE = (
    *("-1", "1e999", "null", "true", '""', "[]", "{}", "18446744073709551616", '"dense"', "0", "NaN"),
    *("[[1]]", "1.5", '"FP16"', '"\u0000"'),
)


def write_artifact(path: Path) -> Path:
    """A small DLRM with random weights."""
    rng = np.random.default_rng(0)
    dense = {
        "bottom.0.weight": rng.standard_normal((DIM, NUM_DENSE)),
        "bottom.0.bias": rng.standard_normal(DIM),
        "top.0.weight": rng.standard_normal((1, DIM + 6)),
        "top.0.bias": rng.standard_normal(1),
    }
    tables = [rng.standard_normal((rows, DIM)).astype(np.float32) for rows in ROWS]
    write_checkpoint(
        path.with_name("checkpoint"),
        model={
            "name": "dlrm",
            "num_dense": NUM_DENSE,
            "embedding_dim": DIM,
            "bottom_mlp": [DIM],
            "top_mlp": [1],
            "interaction": "dot",
        },
        dense={name: array.astype(np.float32) for name, array in dense.items()},
        training={"samples": 0},
        tables=[StoredTable(TableLayout.dense(f"t{i}", rows, DIM), "sum") for i, rows in enumerate(ROWS)],
        table_tensors=lambda table: {"band.0.rows": tables[table]},
    )
    pack(path.with_name("checkpoint"), None, None, path)
    return path


def right_inputs(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, str], Batch]:
    """A request's tensors and parameters in one of the three forms, and what it means."""
    size = int(rng.integers(1, 6))
    categorical = np.stack([rng.integers(0, rows, size) for rows in ROWS], axis=1)
    dense = rng.standard_normal((size, NUM_DENSE)).astype(np.float32)
    form = rng.integers(3)
    parameters: dict[str, str] = {}
    if form == 2:
        categorical[:, 1] = categorical[0, 1]
    offsets = np.arange(categorical.size + 1, dtype=np.int64)
    batch = Batch(dense=dense, ids=categorical.T.ravel().copy(), offsets=offsets)
    inputs = {"dense": dense, "categorical": categorical}
    if form == 1:
        inputs = {"dense": dense, "ids": batch.ids, "offsets": offsets}
    elif form == 2:
        parameters = {"context_tables": "t1"}
        own = np.ascontiguousarray(categorical[:, [0, 2]])
        inputs = {"dense": dense, "categorical": own, "context_categorical": categorical[:1, 1:2].copy()}
    return inputs, parameters, batch


def changed(raw: bytes, dice: random.Random) -> bytes:
    """Bytes with a few changes."""
    data = bytearray(raw)
    for _ in range(dice.randint(1, 3)):
        place = dice.randrange(len(data) + 1)
        kind = dice.choice((0, 0, 0, 0, 1, 2, 3, 4, 4))  # mostly such as keep the length
        if kind == 0 and place < len(data):
            data[place] = dice.randrange(256)
        elif kind == 1:
            del data[place : place + dice.randint(1, 16)]
        elif kind == 2:
            data[place:place] = dice.randbytes(dice.randint(1, 16))
        elif kind == 3:
            data[place:place] = data[max(0, place - 32) : place]
        else:
            value = dice.choice((-1, 0, 2**63 - 1, -(2**63), 2**31))
            data[place : place + 8] = value.to_bytes(8, "little", signed=True)
    return bytes(data)


def changed_json(raw: bytes, dice: random.Random) -> bytes:
    """JSON with one of its values, or names, replaced by something strange."""
    text = raw.decode()
    places = [i for i, one in enumerate(text) if one in ":,[" and i + 1 < len(text)]
    place = dice.choice(places) + 1
    end = place
    while end < len(text) and text[end] not in ",]}":
        end += 1
    return (text[:place] + dice.choice(_STRANGE) + text[end:]).encode()


class HttpClient:
    """A connection that is made again when the server closes it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._connection = http.client.HTTPConnection(address, timeout=_ANSWER_S)

    def post(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, str | None]:
        """Status, body, and bytes of JSON in it."""
        for attempt in (0, 1):
            try:
                self._connection.request("POST", "/v2/models/fuzzed/infer", body, headers)
                answer = self._connection.getresponse()
                return answer.status, answer.read(), answer.headers.get(HEADER_LENGTH)
            except (ConnectionError, http.client.BadStatusLine):
                self._connection.close()
                if attempt:
                    raise
        raise AssertionError


class Fuzz:
    """Requests from one seed, against one server."""

    def __init__(self, addresses: dict[str, str], engine: Engine, seed: int) -> None:
        self._client = HttpClient(addresses["http"].removeprefix("http://"))
        self._channel = grpc.insecure_channel(addresses["grpc"])
        self._call = self._channel.unary_unary(f"/{SERVICE}/ModelInfer")
        self._engine = engine
        self._dice, self._rng = random.Random(seed), np.random.default_rng(seed)
        self.seen: Counter[str] = Counter()

    def one(self, number: int) -> None:
        """Sends one request, changed or not, and judges its answer."""
        inputs, parameters, batch = right_inputs(self._rng)
        leave = number % 100 == 0
        if number % 10 == 1:
            self._grpc(inputs, parameters)
            return
        request = InferRequest(inputs=inputs, parameters=parameters, binary_output=bool(number % 2))
        body, length = render_request(request, binary=number % 3 > 0)
        header = None if length is None else str(length)
        if not leave:
            body, header = self._change(body, length, header)
        headers = {} if header is None else {HEADER_LENGTH: header}
        status, answer, answered = self._client.post(body, headers)
        self.seen[f"http {status}"] += 1
        if status >= 500 or status == 429:
            raise AssertionError(f"{status} {answer[:300]!r} for {headers} {body!r}")
        if leave:
            found = parse_response(answer, int(answered) if answered else None).outputs["probability"]
            if status != 200 or not np.array_equal(found, self._engine.predict(batch)):
                raise AssertionError(f"a wrong answer: {status} {answer!r} for {headers} {body!r}")
        elif status != 200:
            json.loads(answer)["error"]

    def _change(self, body: bytes, length: int | None, header: str | None) -> tuple[bytes, str | None]:
        kind = self._dice.randrange(4)
        if kind == 0 and header is not None:
            other = str(self._dice.randint(0, 2 * len(body)))
            return body, self._dice.choice((None, "-1", "", "x", "9" * 30, other))
        if kind == 1:
            head = body if length is None else body[:length]
            strange = changed_json(head, self._dice)
            return strange + body[len(head) :], None if length is None else str(len(strange))
        return changed(body, self._dice), header

    def _grpc(self, inputs: dict[str, np.ndarray], parameters: dict[str, str]) -> None:
        request = message("ModelInferRequest")(model_name="fuzzed")
        for name, value in parameters.items():
            request.parameters[name].string_param = value
        for name, array in inputs.items():
            kind = "FP32" if array.dtype == np.float32 else "INT64"
            request.inputs.add(name=name, datatype=kind, shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        raw = changed(request.SerializeToString(), self._dice)
        try:
            self._call(raw, timeout=_ANSWER_S)
            self.seen["grpc OK"] += 1
        except grpc.RpcError as error:
            self.seen[f"grpc {error.code().name}"] += 1
            if error.code().name not in ("INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"):
                raise AssertionError(f"{error.code()} {error.details()} for {raw!r}") from error


def run(requests: int, *, seed: int = 0) -> Counter[str]:
    """Sends so many requests to a server of its own; answers by kind.

    Raises:
        AssertionError: the server failed in one of the ways above.
    """
    with tempfile.TemporaryDirectory() as folder:
        artifact = write_artifact(Path(folder) / "fuzzed")
        command = [sys.executable, "-m", "screc.cli", "serve", str(artifact), "--json"]
        server = subprocess.Popen(
            [*command, "--port", "0", "--grpc-port", "0"], stdout=subprocess.PIPE, text=True
        )
        assert server.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = server.stdout.readline()
            assert line, "the server did not start"
            text += line
        try:
            fuzz = Fuzz(json.loads(text), Engine.open(artifact, threads=1), seed)
            began = time.monotonic()
            for number in range(requests):
                fuzz.one(number)
                if number % 50_000 == 49_999:
                    print(
                        f"{number + 1:,} in {time.monotonic() - began:.0f} s: {dict(fuzz.seen)}", flush=True
                    )
            assert server.poll() is None, "the server died"
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
        assert code == 0, f"the server ended with {code}"
        return fuzz.seen


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(dict(run(arguments.requests, seed=arguments.seed)))


if __name__ == "__main__":
    main()

"""A server's life: starting, swaps under load, overload, clients that go away, and the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from served import engine_of, listed, make_batch, running, tensors, write_artifact

from screc.serving.batching import BatchingConfig
from screc.serving.messages import SERVICE, message
from screc.serving.protocol import HEADER_LENGTH, InferRequest, parse_response, render_request
from screc.serving.repository import RepositoryConfig
from screc.serving.server import ServerConfig, named_artifacts


def body_of(batch, **parameters) -> tuple[bytes, dict[str, str]]:
    """A binary request and its headers."""
    request = InferRequest(inputs=tensors(batch), parameters=parameters, binary_output=True)
    body, length = render_request(request)
    return body, {HEADER_LENGTH: str(length), "Content-Type": "application/octet-stream"}


def read(answer: httpx.Response) -> np.ndarray:
    length = answer.headers.get(HEADER_LENGTH)
    return parse_response(answer.content, int(length) if length else None).outputs["probability"]


def config_of(**batching) -> ServerConfig:
    return ServerConfig(repository=RepositoryConfig(batching=BatchingConfig(**batching), threads=1))


def as_call(batch):
    request = message("ModelInferRequest")(model_name="ranker")
    for name, array in tensors(batch).items():
        kind = "FP32" if array.dtype == np.float32 else "INT64"
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def infer_call(channel: grpc.Channel):
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=lambda one: one.SerializeToString(),
        response_deserializer=message("ModelInferResponse").FromString,
    )


@pytest.mark.parametrize("ways", ["in place", "versions"])
def test_swaps_under_load_fail_no_request(tmp_path, ways):
    """Clients ask all the time over both protocols while the model changes: every answer is right for one of
    the two artifacts, and once a load is acknowledged only the new one answers."""
    sources = [write_artifact(tmp_path / f"made-{seed}", seed) for seed in (0, 1)]
    folder = tmp_path / "models"
    place = folder / "ranker" if ways == "in place" else folder / "ranker" / "1"
    place.parent.mkdir(parents=True)
    shutil.copytree(sources[0], place)
    if ways == "versions":
        shutil.copytree(sources[1], folder / "ranker" / "2")
    batch = make_batch(40)
    expected = [engine_of(source).predict(batch) for source in sources]
    assert not np.array_equal(*expected)
    body, headers = body_of(batch)
    done = threading.Event()
    seen: Counter[int | str] = Counter()

    def which(found: np.ndarray) -> int:
        for number, one in enumerate(expected):
            if np.array_equal(found, one):
                return number
        raise AssertionError("an answer is of neither artifact")

    with running({}, directory=folder) as server:
        url = f"{server.http}/v2/models/ranker/infer"

        def ask_http() -> None:
            with httpx.Client() as client:
                while not done.is_set():
                    answer = client.post(url, content=body, headers=headers)
                    seen[which(read(answer)) if answer.status_code == 200 else answer.text] += 1

        def ask_grpc() -> None:
            with grpc.insecure_channel(server.grpc) as channel:
                call, request = infer_call(channel), as_call(batch)
                while not done.is_set():
                    try:
                        raw = call(request).raw_output_contents[0]
                        seen[which(np.frombuffer(raw, np.float32))] += 1
                    except grpc.RpcError as error:
                        seen[str(error)] += 1

        threads = [threading.Thread(target=target) for target in (ask_http, ask_http, ask_grpc)]
        for thread in threads:
            thread.start()
        with httpx.Client(timeout=60) as client:
            for turn in range(1, 9):
                new = turn % 2
                parameters = {}
                if ways == "in place":
                    shutil.copytree(sources[new], tmp_path / "new")
                    old = tmp_path / f"old-{turn}"
                    place.rename(old)
                    (tmp_path / "new").rename(place)
                else:
                    parameters = {"parameters": {"version": str(new + 1)}}
                load = client.post(f"{server.http}/v2/repository/models/ranker/load", json=parameters)
                assert load.status_code == 200, load.text
                assert which(read(client.post(url, content=body, headers=headers))) == new
        done.set()
        for thread in threads:
            thread.join()
    assert set(seen) == {0, 1}, seen
    assert min(seen.values()) > 10


def test_a_bad_artifact_leaves_the_old_one(tmp_path):
    place = write_artifact(tmp_path / "ranker")
    with running({"ranker": place}) as server, httpx.Client(base_url=server.http, timeout=60) as client:
        (place / "manifest.json").write_text("{}")
        answer = client.post("/v2/repository/models/ranker/load")
        assert answer.status_code == 400
        assert "cannot be loaded" in answer.json()["error"]
        assert client.get("/v2/models/ranker/ready").status_code == 200
        assert client.post("/v2/models/ranker/infer", json=listed(tensors(make_batch(2)))).status_code == 200
        client.post("/v2/repository/models/ranker/unload")
        assert client.get("/v2/health/ready").status_code == 503
        entry = client.post("/v2/repository/index").json()[0]
        assert entry["state"] == "UNAVAILABLE"
        assert "manifest.json does not match" in entry["reason"]


def test_overload_is_refused_at_once(tmp_path):
    """More than the queue takes: what was accepted is answered rightly, the rest is told so, and both within
    the time that the queue's length means."""
    place = write_artifact(tmp_path / "ranker")
    batch = make_batch(100)
    expected = engine_of(place).predict(batch)
    body, headers = body_of(batch)
    config = config_of(max_queued=300, max_batch=100_000, queue_delay_s=0.5, workers=1)
    with running({"ranker": place}, config) as server:
        url = f"{server.http}/v2/models/ranker/infer"
        answers: list[httpx.Response] = []

        def ask() -> None:
            answers.append(httpx.post(url, content=body, headers=headers, timeout=30))

        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = Counter(answer.status_code for answer in answers)
        assert codes.keys() == {200, 429}
        assert codes[200] >= 3
        for answer in answers:
            if answer.status_code == 200:
                np.testing.assert_array_equal(read(answer), expected)
            else:
                assert int(answer.headers["retry-after"]) >= 1
                assert "overloaded" in answer.json()["error"]


def test_deadlines(tmp_path):
    place = write_artifact(tmp_path / "ranker")
    batch = make_batch(10)
    config = config_of(max_batch=100_000, queue_delay_s=0.2, workers=1)
    with running({"ranker": place}, config) as server:
        body, headers = body_of(batch, timeout=1000)  # microseconds
        answer = httpx.post(f"{server.http}/v2/models/ranker/infer", content=body, headers=headers)
        assert (answer.status_code, "longer than it may" in answer.text) == (504, True)
        body, headers = body_of(batch, timeout="soon")
        answer = httpx.post(f"{server.http}/v2/models/ranker/infer", content=body, headers=headers)
        assert answer.status_code == 400
        with grpc.insecure_channel(server.grpc) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                infer_call(channel)(as_call(batch), timeout=0.05)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert infer_call(channel)(as_call(batch), timeout=30).raw_output_contents


def statistic(server, name: str) -> int:
    stats = httpx.get(f"{server.http}/v2/models/ranker/stats").json()["model_stats"][0]
    return stats["inference_stats"][name]["count"]


def test_clients_that_go_away_are_not_computed(tmp_path):
    place = write_artifact(tmp_path / "ranker")
    batch = make_batch(10)
    config = config_of(max_batch=100_000, queue_delay_s=1.0, workers=1)
    with running({"ranker": place}, config) as server:
        body, headers = body_of(batch)
        host, port = server.http.removeprefix("http://").split(":")
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                f"POST /v2/models/ranker/infer HTTP/1.1\r\nHost: {host}:{port}\r\n{head}"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            time.sleep(0.3)
        with grpc.insecure_channel(server.grpc) as channel:
            future = infer_call(channel).future(as_call(batch))
            time.sleep(0.2)
            future.cancel()
        time.sleep(1.2)  # beyond the delay after which they would have been computed
        assert statistic(server, "success") == 0
        assert statistic(server, "compute_infer") == 0
        answer = httpx.post(f"{server.http}/v2/models/ranker/infer", content=body, headers=headers)
        np.testing.assert_array_equal(read(answer), engine_of(place).predict(batch))


def start(*arguments: object) -> tuple[subprocess.Popen[str], dict]:
    """The verb in a process of its own, and where it listens."""
    command = [sys.executable, "-m", "screc.cli", "serve", *map(str, arguments), "--json"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--grpc-port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    text = ""
    while not text.endswith("}\n"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        text += line
    return process, json.loads(text)


def test_sigterm_finishes_what_is_in_flight(tmp_path):
    place = write_artifact(tmp_path / "ranker")
    batch = make_batch(50)
    expected = engine_of(place).predict(batch)
    process, addresses = start(place, "--queue-delay-ms", 1500, "--max-batch", 100_000, "--threads", 1)
    assert addresses["models"] == ["ranker"]
    body, headers = body_of(batch)
    answers: list[httpx.Response] = []
    calls: list[bytes] = []

    def ask() -> None:
        url = f"{addresses['http']}/v2/models/ranker/infer"
        answers.append(httpx.post(url, content=body, headers=headers, timeout=30))

    def ask_grpc() -> None:
        with grpc.insecure_channel(addresses["grpc"]) as channel:
            calls.append(infer_call(channel)(as_call(batch)).raw_output_contents[0])

    threads = [threading.Thread(target=target) for target in (ask, ask, ask_grpc)]
    for thread in threads:
        thread.start()
    time.sleep(0.7)  # they wait for more to join
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert process.wait(30) == 0, process.stderr.read()
    assert [answer.status_code for answer in answers] == [200, 200]
    for answer in answers:
        np.testing.assert_array_equal(read(answer), expected)
    np.testing.assert_array_equal(np.frombuffer(calls[0], np.float32), expected)
    with pytest.raises(httpx.ConnectError):
        httpx.get(addresses["http"])


def test_a_directory_of_models(tmp_path):
    for name, seed in (("a/1", 0), ("a/10", 1), ("a/9", 2), ("b", 3)):
        place = tmp_path / "models" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(write_artifact(tmp_path / "made", seed), place)
        shutil.rmtree(tmp_path / "made.checkpoint")
    (tmp_path / "models" / "no model").mkdir()
    (tmp_path / "models" / "a" / "draft").mkdir()
    process, addresses = start("--repository", tmp_path / "models")
    try:
        with httpx.Client(base_url=addresses["http"]) as client:
            index = client.post("/v2/repository/index", json={"ready": True}).json()
            assert [(one["name"], one["version"]) for one in index] == [("a", "10"), ("b", "1")]
            every = client.post("/v2/repository/index").json()
            assert [(one["name"], one["version"]) for one in every] == [
                ("a", "1"),
                ("a", "9"),
                ("a", "10"),
                ("b", "1"),
            ]
            load = client.post("/v2/repository/models/a/load", json={"parameters": {"version": "3"}})
            assert (load.status_code, load.json()["error"]) == (
                404,
                "model 'a' has the versions 1, 9, 10, not '3'",
            )
            assert client.get("/v2/models/a/versions/10").status_code == 200
            assert client.get("/v2/models/a/versions/9").status_code == 404
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere"),
        ([], "no model to serve"),
        (["--repository", "nowhere"], "not a directory"),
        (["a=x", "a=y"], "two artifacts have the name 'a'"),
        (["two words=x"], "model name 'two words'"),
        (["x", "--split", "0"], "split"),
        (["x", "--split", "half"], "must be a number of samples or auto"),
        (["x", "--tls-cert", "y"], "both a certificate and its key"),
    ],
)
def test_wrong_starts_are_one_line(tmp_path, arguments, words):
    command = [sys.executable, "-m", "screc.cli", "serve", *arguments, "--port", "0", "--grpc-port", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode != 0
    assert result.stderr.startswith("screc: error: ")
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_names_of_artifacts(tmp_path):
    os.symlink(tmp_path / "real", tmp_path / "link")
    assert named_artifacts(["/models/a", "b=/other/a"]) == {"a": Path("/models/a"), "b": Path("/other/a")}

"""Who may ask, how much, and what a browser may not: over real sockets."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from served import Running, engine_of, listed, make_batch, running, tensors, write_artifact

from screc.serving.messages import SERVICE, message
from screc.serving.repository import RepositoryConfig
from screc.serving.server import ServerConfig
from screc.serving.signature import QueryLimits


@pytest.fixture(scope="module")
def artifact(tmp_path_factory) -> Path:
    return write_artifact(tmp_path_factory.mktemp("serve") / "ranker")


@pytest.fixture(scope="module")
def guarded(artifact) -> Iterator[Running]:
    limits = QueryLimits(rows=100, ids=1000)
    config = ServerConfig(token="s3cret", max_bytes=20_000, repository=RepositoryConfig(limits=limits))
    with running({"ranker": artifact}, config) as server:
        yield server


AUTHORIZED = {"Authorization": "Bearer s3cret"}


def call(channel: grpc.Channel, name: str, request, **more):
    return channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=lambda one: one.SerializeToString(),
        response_deserializer=message(f"{name}Response").FromString,
    )(request, **more)


def test_a_token_is_asked_for(guarded):
    with httpx.Client(base_url=guarded.http) as client:
        for path in ("/v2", "/v2/models/ranker", "/openapi.json", "/nothing"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert client.post("/v2/repository/models/ranker/unload").status_code == 401
        assert client.get("/v2/health/live").status_code == 200
        assert client.get("/v2/health/ready").status_code == 200
        assert client.get("/v2", headers=AUTHORIZED).status_code == 200
        assert client.get("/v2", headers={"Authorization": "Bearer wrong"}).status_code == 401
    with grpc.insecure_channel(guarded.grpc) as channel:
        assert call(channel, "ServerLive", message("ServerLiveRequest")()).live
        for metadata in ((), (("authorization", "Bearer wrong"),)):
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, "ServerMetadata", message("ServerMetadataRequest")(), metadata=metadata)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        metadata = (("authorization", "Bearer s3cret"),)
        found = call(channel, "ServerMetadata", message("ServerMetadataRequest")(), metadata=metadata)
        assert found.name == "screc"


def test_limits(guarded):
    url = f"{guarded.http}/v2/models/ranker/infer"
    with httpx.Client(headers=AUTHORIZED) as client:
        long = listed(tensors(make_batch(101)))
        assert client.post(url, json=long | {"inputs": long["inputs"]}).status_code == 413
        text = client.post(url, json=listed(tensors(make_batch(2)), id="x" * 30_000))
        assert (text.status_code, text.json()["error"][:8]) == (413, "the body")
        pieces = (b" " * 1000 for _ in range(50))  # of no length beforehand
        assert client.post(url, content=pieces).status_code == 413
        many = {
            "dense": np.zeros((1, 5), np.float32),
            "ids": np.zeros(1001, np.int64),
            "offsets": np.array([0, 1001, 1001, 1001, 1001]),
        }
        answer = client.post(url, json=listed(many))
        assert (answer.status_code, answer.json()["error"]) == (
            413,
            "1001 ids to look up; at most 1000 are taken in one request",
        )
        answer = client.post(url, content=b"x", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415


def test_what_a_browser_sends_for_another_site(guarded):
    with httpx.Client(base_url=guarded.http, headers=AUTHORIZED) as client:
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
            answer = client.post("/v2/repository/index", headers=headers)
            assert answer.status_code == 403, headers
        port = guarded.http.rpartition(":")[2]
        own = {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}
        assert client.post("/v2/repository/index", headers=own).status_code == 200


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", "..%2f..%2fetc", "%2fetc%2fpasswd", "ranker%00", "a" * 129, "ranker.checkpoint"]
)
def test_names_are_no_paths(guarded, name):
    with httpx.Client(headers=AUTHORIZED) as client:
        for verb in ("load", "unload"):
            answer = client.post(f"{guarded.http}/v2/repository/models/{name}/{verb}")
            assert answer.status_code in (400, 404), (verb, answer.text)
            assert "error" in answer.json()
    with grpc.insecure_channel(guarded.grpc) as channel:
        request = message("RepositoryModelLoadRequest")(model_name=f"../{name}")
        metadata = (("authorization", "Bearer s3cret"),)
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, "RepositoryModelLoad", request, metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"POST /v2/models/ranker/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -5\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"GET /v2/health/live HTTP/1.1\r\n" + b"X: y\r\n" * 200_000,  # and no end
        b"GET /%ff%fe HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_request_costs_nobody_else(guarded, raw):
    host, port = guarded.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(65536)
        except OSError:  # it may have been closed before all was sent
            answer = b""
        assert b" 200 " not in answer[:20]
        assert b" 500 " not in answer[:20]
    assert httpx.get(f"{guarded.http}/v2/health/live").status_code == 200


def test_tls(artifact, tmp_path):
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", certificate, "-keyout", key),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not here to make a certificate")
    batch = make_batch(7)
    expected = engine_of(artifact).predict(batch)
    with running({"ranker": artifact}, ServerConfig(certificate=certificate, key=key)) as server:
        assert server.http.startswith("https://")
        trusted = ssl.create_default_context(cafile=str(certificate))
        answer = httpx.post(
            f"{server.http}/v2/models/ranker/infer", json=listed(tensors(batch)), verify=trusted
        )
        found = np.array(answer.json()["outputs"][0]["data"], np.float32)
        np.testing.assert_array_equal(found, expected)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.http)
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        with grpc.secure_channel(server.grpc, credentials) as channel:
            assert call(channel, "ServerReady", message("ServerReadyRequest")()).ready
    with pytest.raises(ValueError, match="both a certificate and its key"):
        ServerConfig(certificate=certificate)

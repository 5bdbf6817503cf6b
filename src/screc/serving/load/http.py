"""HTTP/1.1 for the open loop: requests encoded once, kept connections, one request on each at a time."""

from __future__ import annotations

import errno
import http.client
import json
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from screc.data.batch import Batch
from screc.serving.load.drive import Ended
from screc.serving.load.trace import Outcome
from screc.serving.protocol import HEADER_LENGTH, InferRequest, render_request

_RECEIVE_BYTES = 1 << 18
_SEND_BUFFER = 1 << 20
_OUTCOMES = {200: Outcome.OK, 429: Outcome.REFUSED, 503: Outcome.REFUSED, 504: Outcome.LATE}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def of_url(cls, url: str, scheme: str = "http") -> Address:
        """From ``SCHEME://HOST:PORT``.

        Raises:
            ValueError: it is none.
        """
        parts = urlsplit(url)
        if parts.scheme != scheme or not parts.hostname:
            raise ValueError(f"URL {url!r} is not {scheme}://HOST:PORT (TLS is not spoken here)")
        return cls(parts.hostname, parts.port or (8001 if scheme == "grpc" else 80))

    @property
    def text(self) -> str:
        """HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self) -> socket.socket:
        """A non-blocking socket on its way there.

        Raises:
            OSError: the host is unknown, or nobody listens.
        """
        family, kind, protocol, _, where = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[
            0
        ]
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        failure = made.connect_ex(where)
        if failure not in (0, errno.EINPROGRESS):
            made.close()
            raise OSError(failure, f"nobody answers at {self.text}: {errno.errorcode.get(failure, failure)}")
        return made


def infer_tensors(batch: Batch) -> dict[str, np.ndarray]:
    """The input tensors of a batch by name: one id for each table as ``categorical``, bags as they are."""
    tensors = {"dense": batch.dense} if batch.dense.shape[1] else {}
    if (np.diff(batch.offsets) == 1).all():
        return tensors | {"categorical": np.ascontiguousarray(batch.ids.reshape(-1, batch.batch_size).T)}
    return tensors | {"ids": batch.ids, "offsets": batch.offsets}


def infer_request(
    address: Address, model: str, batch: Batch, *, token: str | None = None, deadline_s: float = 0
) -> bytes:
    """A whole inference request with binary tensors as it goes over the wire.

    Args:
        address: of the server.
        model: its name.
        batch: the samples.
        token: bearer token.
        deadline_s: the most that it may wait for its turn, which the server is told; 0: nothing is said.
    """
    parameters = {"timeout": max(1, round(1e6 * deadline_s))} if deadline_s else {}
    asked = InferRequest(inputs=infer_tensors(batch), parameters=parameters, binary_output=True)
    body, length = render_request(asked)
    headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(length)}
    return post_request(address, f"/v2/models/{quote(model)}/infer", body, headers, token=token)


def post_request(
    address: Address, path: str, body: bytes, headers: dict[str, str], *, token: str | None = None
) -> bytes:
    """A POST as it goes over the wire."""
    fields = {"Host": address.text, **headers, "Content-Length": str(len(body))}
    if token:
        fields["Authorization"] = f"Bearer {token}"
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def probabilities(body: bytes) -> np.ndarray:
    """The predictions of an answer whose only output is binary, float32 [B]."""
    return np.frombuffer(body, "<f4", offset=_json_bytes(body))


def _json_bytes(body: bytes) -> int:
    # The JSON comes first and says how many bytes follow; its own length is in a header that is not kept.
    document, _ = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    return len(body) - document["outputs"][0]["parameters"]["binary_data_size"]


def fetch(
    address: Address, method: str, path: str, *, token: str | None = None, timeout_s: float = 10
) -> Any:
    """The JSON answer of a server to one plain request.

    Raises:
        OSError: nobody answers, or not with 200; the message has what was said.
    """
    client = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        client.request(method, path, headers=headers)
        answer = client.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"nobody answers as expected at http://{address.text}{path}: {error}") from error
    finally:
        client.close()
    if answer.status != 200:
        raise OSError(
            f"http://{address.text}{path} answered {answer.status}: {body[:200].decode('utf-8', 'replace')}"
        )
    try:
        return json.loads(body) if body else None
    except ValueError as error:
        raise OSError(f"http://{address.text}{path} did not answer with JSON: {error}") from error


class HttpConnection:
    """One kept connection. See :class:`screc.serving.load.drive.Connection`."""

    def __init__(self, address: Address) -> None:
        self._socket = address.connect()
        self._descriptor = self._socket.fileno()
        self._number: int | None = None
        self._out: memoryview | None = None
        self._head: bytes | None = None
        self._parts: list[bytes] = []
        self._missing = 0
        self._status = 0
        self._closes = False

    def fileno(self) -> int:
        return self._descriptor

    @property
    def room(self) -> int:
        return 1 if self._number is None and not self._closes else 0

    @property
    def spent(self) -> bool:
        return self._closes and self._number is None

    @property
    def unsent(self) -> bool:
        return self._out is not None

    def send(self, number: int, request: bytes) -> None:
        self._number = number
        try:
            sent = self._socket.send(request)
        except BlockingIOError:
            sent = 0
        if sent < len(request):
            self._out = memoryview(request)[sent:]

    def flush(self) -> None:
        if self._out is None:
            return
        try:
            sent = self._socket.send(self._out)
        except BlockingIOError:
            return
        self._out = self._out[sent:] if sent < len(self._out) else None

    def receive(self) -> list[Ended]:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not data or self._number is None:
            raise ConnectionError(
                "the server closed a connection" if not data else "an answer nobody asked for"
            )
        if self._head is None:
            data = b"".join((*self._parts, data))
            self._parts.clear()
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._parts.append(data)
                return []
            self._read_head(data[:end])
            data = data[end + 4 :]
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:
            return []
        if self._missing < 0:
            raise ConnectionError("an answer is longer than it said")
        number, body, status = self._number, b"".join(self._parts), self._status
        self._number = self._head = None
        self._parts.clear()
        if self._out is not None:  # answered before all was sent; what is left cannot be taken back
            self._closes = True
        outcome = _OUTCOMES.get(status, Outcome.FAILED)
        if outcome != Outcome.OK:
            body = f"{status} ".encode() + body
        return [(number, outcome, body)]

    def _read_head(self, head: bytes) -> None:
        lines = head.lower().split(b"\r\n")
        try:
            self._status = int(lines[0].split(b" ", 2)[1])
            fields = dict(line.split(b":", 1) for line in lines[1:])
            self._missing = int(fields[b"content-length"])
        except (ValueError, IndexError, KeyError) as error:
            raise ConnectionError(f"the answer's head has no status or no length: {head[:80]!r}") from error
        self._closes = fields.get(b"connection", b"").strip() == b"close"
        self._head = head

    def abandon(self, number: int) -> bool:
        self._number = None
        return False

    def in_flight(self) -> list[int]:
        return [] if self._number is None else [self._number]

    def close(self) -> None:
        self._socket.close()

"""gRPC for the open loop: unary calls over HTTP/2 (RFC 9113), their frames written and read here.

A general client library takes several times longer for a call than this does, on the cores that the server
needs too. Header blocks come without a dynamic table, as a client may ask, so that each is decoded once.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from screc.data.batch import Batch
from screc.serving.load.drive import Ended
from screc.serving.load.http import Address, infer_tensors
from screc.serving.load.trace import Outcome

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS = 0, 1, 3, 4
_PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 1, 2, 3, 4, 5
_CANCEL = 8
_FIRST_WINDOW, _LARGEST_WINDOW = 65_535, 2**31 - 1
_RECEIVE_BYTES = 1 << 18
_STREAMS = 64
_BUFFERS = 256  # that one system call is given

_OUTCOMES = {
    0: Outcome.OK,
    1: Outcome.LATE,  # CANCELLED: what a server says of a call whose deadline has passed while it was read
    4: Outcome.LATE,  # DEADLINE_EXCEEDED
    8: Outcome.REFUSED,  # RESOURCE_EXHAUSTED
    14: Outcome.REFUSED,  # UNAVAILABLE
}
METHOD = "/inference.GRPCInferenceService/ModelInfer"


def infer_message(model: str, batch: Batch) -> bytes:
    """A ``ModelInferRequest`` with raw tensors, as it goes over the wire within a DATA frame."""
    from screc.serving.messages import message

    request = message("ModelInferRequest")(model_name=model)
    for name, array in infer_tensors(batch).items():
        kind = "FP32" if array.dtype == np.float32 else "INT64"
        request.inputs.add(name=name, datatype=kind, shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return framed(request.SerializeToString())


def framed(data: bytes) -> bytes:
    """A message with gRPC's prefix: not compressed, and its length."""
    return struct.pack(">BI", 0, len(data)) + data


def probabilities(body: bytes) -> np.ndarray:
    """The predictions of an answer, float32 [B]."""
    from screc.serving.messages import message

    return np.frombuffer(message("ModelInferResponse").FromString(body).raw_output_contents[0], "<f4")


@contextmanager
def metadata_calls(
    address: Address, token: str | None = None, *, timeout_s: float = 10
) -> Iterator[Callable[..., Any]]:
    """Calls that say what a server has: ``call("ModelMetadata", name="ranker")``, not for load.

    Raises:
        OSError: from a call: nobody answers, or with an error.
    """
    import grpc

    from screc.serving.messages import SERVICE, message

    channel = grpc.insecure_channel(address.text)
    metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def call(method_name: str, /, **fields: Any) -> Any:
        method = channel.unary_unary(
            f"/{SERVICE}/{method_name}",
            request_serializer=message(f"{method_name}Request").SerializeToString,
            response_deserializer=message(f"{method_name}Response").FromString,
        )
        try:
            return method(message(f"{method_name}Request")(**fields), timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise OSError(f"grpc://{address.text} answered {error.code().name}: {error.details()}") from error

    with channel:
        yield call


def call_headers(
    address: Address, *, method: str = METHOD, token: str | None = None, timeout_s: float = 0
) -> bytes:
    """The header block of a call, HPACK (RFC 7541) without a table; it is the same for every call.

    Args:
        address: of the server.
        method: path of the call.
        token: bearer token.
        timeout_s: the call's deadline, which the server is told; 0: none.
    """
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": method,
        ":authority": address.text,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "screc-load",
    }
    if token:
        fields["authorization"] = f"Bearer {token}"
    if timeout_s:
        fields["grpc-timeout"] = f"{max(1, round(timeout_s * 1e6))}u"
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())


def _text(value: str) -> bytes:
    data = value.encode("latin-1")
    length = len(data)
    if length < 127:
        return bytes([length]) + data
    head, length = bytearray([127]), length - 127
    while length >= 128:
        head.append(length % 128 + 128)
        length //= 128
    head.append(length)
    return bytes(head) + data


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


class _Call:
    __slots__ = ("left", "number", "parts", "status", "window")

    def __init__(self, number: int, request: bytes, window: int) -> None:
        self.number, self.left, self.window = number, memoryview(request), window
        self.parts: list[bytes] = []
        self.status: tuple[int, bytes] | None = None


class GrpcConnection:
    """One HTTP/2 connection with many calls at a time. See :class:`screc.serving.load.drive.Connection`.

    Args:
        address: of the server.
        headers: from :func:`call_headers`.
    """

    def __init__(self, address: Address, headers: bytes) -> None:
        from hpack import Decoder

        self._socket = address.connect()
        self._descriptor = self._socket.fileno()
        self._headers = headers
        self._decoder = Decoder()
        self._decoder.header_table_size = self._decoder.max_allowed_table_size = 0
        self._decoded: dict[bytes, tuple[int, bytes] | None] = {}
        self._next = 1
        self._calls: dict[int, _Call] = {}
        self._streams: dict[int, int] = {}
        self._waiting: deque[int] = deque()  # streams whose data are not all sent, oldest first
        self._in = b""
        self._block: tuple[int, int, bytes] | None = None  # a header block that goes on in the next frame
        self._window, self._stream_window = _FIRST_WINDOW, _FIRST_WINDOW
        self._max_frame, self._max_streams = 16_384, _STREAMS
        self._received = 0
        self._going = False
        settings = ((_HEADER_TABLE_SIZE, 0), (_ENABLE_PUSH, 0), (_INITIAL_WINDOW, _LARGEST_WINDOW))
        payload = b"".join(struct.pack(">HI", *setting) for setting in settings)
        grant = struct.pack(">I", _LARGEST_WINDOW - _FIRST_WINDOW)
        self._out: list[bytes | memoryview] = [
            _PREFACE,
            _frame(_SETTINGS, 0, 0, payload),
            _frame(_WINDOW_UPDATE, 0, 0, grant),
        ]

    def fileno(self) -> int:
        return self._descriptor

    @property
    def room(self) -> int:
        return 0 if self._going else self._max_streams - len(self._calls)

    @property
    def spent(self) -> bool:
        return self._going and not self._calls

    @property
    def unsent(self) -> bool:
        return bool(self._out)

    def send(self, number: int, request: bytes) -> None:
        stream, self._next = self._next, self._next + 2
        if self._next >= 2**31:
            self._going = True
        self._calls[stream] = _Call(number, request, self._stream_window)
        self._streams[number] = stream
        self._out.append(_frame(_HEADERS, _END_HEADERS, stream, self._headers))
        self._waiting.append(stream)
        self._fill()
        self.flush()

    def _fill(self) -> None:
        """Makes frames of waiting data, as far as the peer's windows allow."""
        waiting, out = self._waiting, self._out
        while waiting:
            stream = waiting[0]
            call = self._calls.get(stream)
            while call is not None and call.left:
                size = min(len(call.left), self._window, call.window, self._max_frame)
                if size <= 0:
                    return
                last = size == len(call.left)
                out.append(
                    struct.pack(">HBBBI", size >> 8, size & 255, _DATA, _END_STREAM if last else 0, stream)
                )
                out.append(call.left[:size])
                call.left = call.left[size:]
                self._window -= size
                call.window -= size
            waiting.popleft()

    def flush(self) -> None:
        while self._out:
            try:
                sent = self._socket.sendmsg(self._out[:_BUFFERS])
            except BlockingIOError:
                return
            whole = 0
            for part in self._out:
                if sent < len(part):
                    break
                sent -= len(part)
                whole += 1
            del self._out[:whole]
            if sent:
                self._out[0] = memoryview(self._out[0])[sent:]

    def receive(self) -> list[Ended]:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise ConnectionError("the server closed a connection")
        data = self._in + data
        ended: list[Ended] = []
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, stream = struct.unpack_from(">HBBBI", data, at)
            size = (high << 8) + low
            if end - at < 9 + size:
                break
            self._take(kind, flags, stream & _LARGEST_WINDOW, data[at + 9 : at + 9 + size], ended)
            at += 9 + size
        self._in = data[at:]
        self._fill()
        self.flush()
        return ended

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, ended: list[Ended]) -> None:
        if self._block is not None and kind != _CONTINUATION:
            raise ConnectionError("a header block was not ended")
        if kind == _DATA:
            self._take_data(flags, stream, payload, ended)
        elif kind == _HEADERS:
            payload = _unpadded(flags, payload)
            self._take_block(flags, stream, payload[5:] if flags & _PRIORITY else payload, ended)
        elif kind == _CONTINUATION:
            if self._block is None or self._block[1] != stream:
                raise ConnectionError("a header block goes on that had not begun")
            (begun, _, block), self._block = self._block, None
            self._take_block(begun | flags & _END_HEADERS, stream, block + payload, ended)
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._take_settings(payload)
        elif kind == _WINDOW_UPDATE:
            self._take_window(stream, int.from_bytes(payload, "big"))
        elif kind == _PING:
            if not flags & _ACK:
                self._out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _RST_STREAM:
            cancelled = int.from_bytes(payload, "big") == _CANCEL
            self._end(stream, (1 if cancelled else -1, b"the server reset the call"), ended)
        elif kind == _GOAWAY:
            self._going = True
            last = int.from_bytes(payload[:4], "big") & _LARGEST_WINDOW
            for refused in [one for one in self._calls if one > last]:
                self._end(refused, (14, b"the server goes away"), ended)

    def _take_data(self, flags: int, stream: int, payload: bytes, ended: list[Ended]) -> None:
        self._received += len(payload)
        if self._received > _LARGEST_WINDOW // 4:
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received)))
            self._received = 0
        call = self._calls.get(stream)
        if call is None:
            return
        call.parts.append(_unpadded(flags, payload))
        if flags & _END_STREAM:
            self._end(stream, (-1, b"the answer has no status"), ended)

    def _take_block(self, flags: int, stream: int, block: bytes, ended: list[Ended]) -> None:
        if not flags & _END_HEADERS:
            self._block = (flags, stream, block)
            return
        status = self._decode(block)
        if flags & _END_STREAM:
            self._end(stream, status or (-1, b"the answer has no status"), ended)

    def _decode(self, block: bytes) -> tuple[int, bytes] | None:
        """``grpc-status`` and ``grpc-message`` of a block; None where it has no status."""
        if block not in self._decoded:
            from hpack import HPACKError

            try:
                fields: dict[Any, Any] = dict(self._decoder.decode(block, raw=True))
                status = fields.get(b"grpc-status")
                found = None if status is None else (int(status), fields.get(b"grpc-message", b""))
                if fields.get(b":status", b"200") != b"200":
                    found = (-1, b"HTTP status " + fields[b":status"])
            except (HPACKError, ValueError) as error:
                raise ConnectionError(f"a header block that makes no sense: {error}") from error
            if len(self._decoded) > 1000:
                self._decoded.clear()
            self._decoded[block] = found
        return self._decoded[block]

    def _take_settings(self, payload: bytes) -> None:
        if len(payload) % 6:
            raise ConnectionError("settings that make no sense")
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _MAX_STREAMS:
                self._max_streams = min(_STREAMS, value)
            elif name == _MAX_FRAME:
                self._max_frame = value
            elif name == _INITIAL_WINDOW:
                for call in self._calls.values():
                    call.window += value - self._stream_window
                self._stream_window = value
        self._out.append(_frame(_SETTINGS, _ACK, 0))

    def _take_window(self, stream: int, more: int) -> None:
        if stream == 0:
            self._window += more
        elif stream in self._calls:
            self._calls[stream].window += more

    def _end(self, stream: int, status: tuple[int, bytes], ended: list[Ended]) -> None:
        call = self._calls.pop(stream, None)
        if call is None:
            return
        del self._streams[call.number]
        if call.left:  # answered before all was sent
            self._out.append(_frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL)))
        code, said = status
        outcome = _OUTCOMES.get(code, Outcome.FAILED)
        body = b"".join(call.parts)
        if outcome == Outcome.OK:
            if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5], "big") != len(body) - 5:
                outcome, body = Outcome.FAILED, b"an answer that is not one plain message"
            else:
                body = body[5:]
        else:
            body = f"gRPC {code}: ".encode() + said if code >= 0 else said
        ended.append((call.number, outcome, body))

    def abandon(self, number: int) -> bool:
        stream = self._streams.pop(number, None)
        if stream is not None:
            del self._calls[stream]
            self._out.append(_frame(_RST_STREAM, 0, stream, struct.pack(">I", _CANCEL)))
        return True

    def in_flight(self) -> list[int]:
        return [call.number for call in self._calls.values()]

    def close(self) -> None:
        self._socket.close()


def _unpadded(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & _PADDED and payload else payload

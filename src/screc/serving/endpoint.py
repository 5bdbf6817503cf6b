"""``POST /v2/models/NAME/infer``, the call that all others are there for: straight on ASGI, since the way of
a framework from a route to an answer takes as long as the predictions of a small request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from screc.serving.errors import ClientGoneError
from screc.serving.protocol import (
    HEADER_LENGTH,
    InferResponse,
    header_length,
    parse_request,
    render_response,
)
from screc.serving.service import InferenceService
from screc.serving.signature import OUTPUT

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

# A request that waits this long is watched: its client may have gone. (Most are answered before.)
_WATCHED_AFTER_S = 0.05
_LENGTH_HEADER = HEADER_LENGTH.lower().encode()


async def infer(
    service: InferenceService,
    name: str,
    version: str,
    headers: Mapping[bytes, str],
    receive: Receive,
    send: Send,
) -> None:
    """Reads a request, predicts and answers.

    Args:
        service: the models.
        name, version: of the model.
        headers: of the request, by lower-case name.
        receive, send: ASGI's.

    Raises:
        ServingError: nothing was sent; the message says why.
    """
    service.check_load(name, version)
    body = await _read(receive)
    asked = parse_request(body, header_length(headers.get(_LENGTH_HEADER), len(body)))
    service.check_outputs(asked.outputs)
    watch = _Watch(receive)
    try:
        made = await service.infer(name, version, asked.inputs, asked.parameters)
    except asyncio.CancelledError:
        if not watch.gone:
            raise
        raise ClientGoneError("the client has gone") from None
    finally:
        watch.stop()
    outputs = {OUTPUT: made.answer.probabilities}
    response = InferResponse(model=made.model.name, version=made.model.version, outputs=outputs, id=asked.id)
    content, length = render_response(response, asked)
    kind = b"application/json" if length is None else b"application/octet-stream"
    answered = [(b"content-type", kind), (b"content-length", b"%d" % len(content))]
    if length is not None:
        answered.append((_LENGTH_HEADER, b"%d" % length))
    await send({"type": "http.response.start", "status": 200, "headers": answered})
    await send({"type": "http.response.body", "body": content})


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        part = await receive()
        if part["type"] == "http.disconnect":
            raise ClientGoneError("the client went away before its request was read")
        parts.append(part.get("body", b""))
        if not part.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


class _Watch:
    """Cancels the task that makes it when the client goes away before :meth:`stop`."""

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive, self._task = receive, asyncio.current_task()
        self._waiting: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(_WATCHED_AFTER_S, self._begin)

    def _begin(self) -> None:
        self._waiting = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._task is not None:
            self._task.cancel()

    def stop(self) -> None:
        """The answer is there, or there will be none."""
        self._timer.cancel()
        if self._waiting is not None:
            self._waiting.cancel()

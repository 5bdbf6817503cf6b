"""What every HTTP request passes first: the guard, the counters, and the short way to predictions."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from fastapi.responses import JSONResponse, Response

from screc.serving.connection import MAX_HEAD_BYTES
from screc.serving.endpoint import Receive, Scope, Send, infer
from screc.serving.errors import HeadTooLargeError, ServingError, UnsupportedEncodingError
from screc.serving.guard import Guard
from screc.serving.service import InferenceService

_INFER = re.compile(r"/v2/models/([^/]{1,128})(?:/versions/([^/]+))?/infer")


class Gate:
    """ASGI middleware that refuses what the guard refuses, and counts answers by their status.

    Args:
        app: what comes after it.
        service: its counters, and the models.
        guard: the rules.
        open_paths: what needs no token.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        service: InferenceService,
        guard: Guard,
        open_paths: Collection[str],
    ) -> None:
        self._app, self._service, self._guard, self._open = app, service, guard, frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        requests = self._service.requests
        try:
            self._check(scope, headers)
        except ServingError as error:
            requests["http", "refused", error.status] += 1
            return await error_response(error)(scope, receive, send)
        received = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            self._guard.check_bytes(received)
            return part

        found = _INFER.fullmatch(scope["path"]) if scope["method"] == "POST" else None
        if found:
            name, version = found[1], found[2] or ""
            try:
                await infer(self._service, name, version, headers, counted, send)
                requests["http", "infer", 200] += 1
            except ServingError as error:
                requests["http", "infer", error.status] += 1
                await error_response(error)(scope, receive, send)
            return

        async def watched(part: MutableMapping[str, Any]) -> None:
            if part["type"] == "http.response.start":
                route = scope.get("route")
                call = getattr(route, "name", None) or "unknown"
                requests["http", call, part["status"]] += 1
            await send(part)

        await self._app(scope, counted, watched)

    def _check(self, scope: Scope, headers: dict[bytes, str]) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
            raise HeadTooLargeError(f"the headers are over {MAX_HEAD_BYTES} bytes")
        self._guard.check_site(headers.get(b"host"), headers.get(b"origin"))
        if scope["path"] not in self._open:
            self._guard.check_token(headers.get(b"authorization"))
        if headers.get(b"content-encoding", "identity") != "identity":
            raise UnsupportedEncodingError("compressed bodies are not read; send it as it is")
        self._guard.check_length(headers.get(b"content-length"))


def error_response(error: ServingError) -> Response:
    """What is answered in the place of an error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.status, headers)

"""Structured logs: one JSON object a line, for every request and for what befalls the server."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import grpc

LOGGER = logging.getLogger("screc.serving")
REQUEST_ID = "X-Request-Id"
_MODEL_PATH = re.compile(r"/v2/models/([^/]{1,128})(?:/versions/[^/]+)?(?:/(infer|rows))?")
_VALID_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: ``time`` (seconds since the epoch), ``level``, ``event``, its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": round(record.created, 6),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


def start_logging(target: Path | None) -> logging.Handler:
    """Writes the server's records, and warnings of its parts, to a file, or to standard error.

    Raises:
        OSError: the file cannot be written.
    """
    handler: logging.Handler = (
        logging.StreamHandler(sys.stderr) if target is None else logging.FileHandler(target, delay=False)
    )
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    warnings.showwarning = _log_warning
    return handler


def _log_warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    log("warning", level=logging.WARNING, text=str(message), kind=category.__name__)


def is_listening() -> bool:
    """Whether somebody keeps the records."""
    return bool(LOGGER.handlers)


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """One record; nothing where nobody listens."""
    if is_listening():
        LOGGER.log(level, event, extra={"fields": fields})


def request_id(given: str | None) -> str:
    """The id that a client gave its request, or a new one where it gave none that can be written down."""
    if given is not None and _VALID_ID.fullmatch(given):
        return given
    return secrets.token_hex(8)


class RequestIds:
    """Logs every HTTP request under an id, its client's own or a new one, and answers with it. The outermost
    of an application's middlewares; where nobody keeps a log it only gives clients their ids back."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        key = REQUEST_ID.lower().encode()
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == key), None)
        if given is None and not is_listening():
            return await self._app(scope, receive, send)
        name, began = request_id(given), time.perf_counter()
        status, sent, received = 500, 0, 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            return part

        async def answered(part: MutableMapping[str, Any]) -> None:
            nonlocal status, sent
            if part["type"] == "http.response.start":
                status = part["status"]
                part["headers"] = [*part.get("headers", ()), (key, name.encode())]
            else:
                sent += len(part.get("body", b""))
            await send(part)

        try:
            await self._app(scope, counted, answered)
        finally:
            of_model = _MODEL_PATH.fullmatch(scope["path"])
            log(
                "request",
                request_id=name,
                protocol="http",
                method=scope["method"],
                path=scope["path"],
                call=getattr(scope.get("route"), "name", None) or (of_model and of_model[2]),
                model=of_model and of_model[1],
                status=status,
                seconds=round(time.perf_counter() - began, 6),
                bytes_in=received,
                bytes_out=sent,
            )


class RpcRequestIds(grpc.aio.ServerInterceptor):
    """The same of gRPC's calls with one request: metadata ``x-request-id``."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """The handler of a call, logged."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        inner = handler.unary_unary
        given = dict(details.invocation_metadata or ()).get(REQUEST_ID.lower())

        async def call(request: bytes, context: grpc.aio.ServicerContext) -> Any:
            name, began = request_id(given if isinstance(given, str) else None), time.perf_counter()
            await context.send_initial_metadata(((REQUEST_ID.lower(), name),))
            response = None
            try:
                response = await inner(request, context)
                return response
            finally:
                code = context.code()
                log(
                    "request",
                    request_id=name,
                    protocol="grpc",
                    call=details.method.rpartition("/")[2],
                    model=getattr(response, "model_name", None),
                    status=code.name if isinstance(code, grpc.StatusCode) else "OK",
                    seconds=round(time.perf_counter() - began, 6),
                    bytes_in=len(request),
                )

        return grpc.unary_unary_rpc_method_handler(
            call, handler.request_deserializer, handler.response_serializer
        )

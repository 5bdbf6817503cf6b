"""The Open Inference Protocol V2 over HTTP: a FastAPI application."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from screc import __version__
from screc.serving.errors import (
    BadRequestError,
    ClientGoneError,
    ServingError,
    UnavailableError,
    UnsupportedEncodingError,
)
from screc.serving.guard import Guard
from screc.serving.protocol import (
    DTYPES,
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
_OPEN_PATHS = ("/v2/health/live", "/v2/health/ready")

Name = Annotated[str, Path(min_length=1, max_length=128)]


class ErrorBody(BaseModel):
    """What every answer other than 200 says."""

    error: str


class Tensor(BaseModel):
    """A tensor: ``data``, flat or nested, or ``parameters.binary_data_size`` bytes after the JSON."""

    name: str = Field(min_length=1)
    datatype: str = Field(json_schema_extra={"enum": list(DTYPES)})
    shape: list[Annotated[int, Field(ge=0)]]
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class RequestedOutput(BaseModel):
    """An output that is wanted; ``parameters.binary_data`` says whether in binary."""

    name: str = Field(json_schema_extra={"enum": [OUTPUT]})
    parameters: dict[str, Any] | None = None


class InferBody(BaseModel):
    """A request for predictions."""

    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = None
    parameters: dict[str, Any] | None = None


class InferAnswer(BaseModel):
    """Predictions."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


class TensorDescription(BaseModel):
    """A tensor of a model; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ServerDescription(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ModelDescription(BaseModel):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorDescription]
    outputs: list[TensorDescription]


class IndexEntry(BaseModel):
    """A model and version that the repository knows."""

    name: str
    version: str
    state: str
    reason: str


def create_app(service: InferenceService, guard: Guard) -> FastAPI:
    """The application. More routers may be added to it: what they raise as ``ServingError`` is answered as
    such, and the guard stands before them."""
    app = FastAPI(
        title="SCRec",
        version=__version__,
        summary="Open Inference Protocol V2 for recommendation models",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses={
            400: {"model": ErrorBody, "description": "The request can never be answered; the text says why."},
            401: {"model": ErrorBody, "description": "The bearer token is missing or wrong."},
            403: {"model": ErrorBody, "description": "Sent by a page of another site."},
            413: {"model": ErrorBody, "description": "Beyond a limit of the server."},
            503: {"model": ErrorBody, "description": "Not loaded, or stopping."},
        },
    )
    app.include_router(_about(service))
    app.include_router(_models(service))
    app.include_router(_repository(service))
    app.add_middleware(_Gate, service=service, guard=guard)
    app.add_exception_handler(ServingError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    return app


class _Gate:
    """Refuses what the guard refuses, and counts answers by their status."""

    def __init__(self, app: Callable[..., Awaitable[None]], service: InferenceService, guard: Guard) -> None:
        self._app, self._requests, self._guard = app, service.requests, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            self._guard.check_site(headers.get(b"host"), headers.get(b"origin"))
            if scope["path"] not in _OPEN_PATHS:
                self._guard.check_token(headers.get(b"authorization"))
            if headers.get(b"content-encoding", "identity") != "identity":
                raise UnsupportedEncodingError("compressed bodies are not read; send it as it is")
            self._guard.check_length(headers.get(b"content-length"))
        except ServingError as error:
            self._requests["http", "refused", error.status] += 1
            return await _error_response(error)(scope, receive, send)
        received = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            self._guard.check_bytes(received)
            return part

        async def watched(part: MutableMapping[str, Any]) -> None:
            if part["type"] == "http.response.start":
                route = scope.get("route")
                call = getattr(route, "name", None) or "unknown"
                self._requests["http", call, part["status"]] += 1
            await send(part)

        await self._app(scope, counted, watched)


def _error_response(error: ServingError) -> Response:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError)
    return _error_response(error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = {404: f"there is nothing at {request.url.path[:200]}"}.get(error.status_code, error.detail)
    return JSONResponse({"error": detail}, error.status_code, error.headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 400)


def _about(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["server"])

    @router.get("/v2/health/live", summary="Whether the server runs")
    async def live() -> Response:
        return Response(status_code=200)

    @router.get("/v2/health/ready", summary="Whether it takes requests")
    async def ready() -> Response:
        return Response(status_code=200) if service.ready else _not_ready("no model is loaded")

    @router.get("/v2", summary="What the server is")
    async def server_metadata() -> ServerDescription:
        return ServerDescription(**service.metadata())

    return router


def _not_ready(reason: str) -> Response:
    return _error_response(UnavailableError(reason))


_NOT_FOUND = {404: {"model": ErrorBody, "description": "There is no such model or version."}}


def _models(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["models"], responses=_NOT_FOUND)
    versioned = "/v2/models/{name}/versions/{version}"

    @router.get("/v2/models/stats", summary="Counts and times of all models")
    async def all_statistics() -> dict[str, Any]:
        return {"model_stats": service.model_statistics()}

    @router.get(versioned + "/stats", summary="Counts and times of a model")
    @router.get("/v2/models/{name}/stats", summary="Counts and times of a model")
    async def model_statistics(name: Name, version: str = "") -> dict[str, Any]:
        return {"model_stats": service.model_statistics(name, version)}

    @router.get(versioned + "/ready", summary="Whether a model is loaded")
    @router.get("/v2/models/{name}/ready", summary="Whether a model is loaded")
    async def model_ready(name: Name, version: str = "") -> Response:
        loaded = service.model_ready(name, version)
        return Response(status_code=200) if loaded else _not_ready(f"model {name!r} is not loaded")

    @router.get(versioned + "/config", summary="How a model is served")
    @router.get("/v2/models/{name}/config", summary="How a model is served")
    async def model_config(name: Name, version: str = "") -> dict[str, Any]:
        return service.model_config(name, version)

    @router.get(versioned, summary="A model's tensors")
    @router.get("/v2/models/{name}", summary="A model's tensors")
    async def model_metadata(name: Name, version: str = "") -> ModelDescription:
        return ModelDescription(**service.model_metadata(name, version))

    documented = {
        "summary": "Predictions",
        "response_class": Response,
        "responses": {
            200: {
                "description": f"JSON, or JSON and binary data with the header {HEADER_LENGTH}.",
                "content": {
                    "application/json": {"schema": _inlined(InferAnswer.model_json_schema())},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            415: {"model": ErrorBody, "description": "The body is compressed."},
            429: {"model": ErrorBody, "description": "Overloaded; the header Retry-After says for how long."},
            500: {"model": ErrorBody, "description": "Rows could not be read."},
            504: {"model": ErrorBody, "description": "The request waited longer than it may."},
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": _inlined(InferBody.model_json_schema())},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            }
        },
    }

    @router.post(versioned + "/infer", **documented)
    @router.post("/v2/models/{name}/infer", **documented)
    async def infer(request: Request, name: Name, version: str = "") -> Response:
        return await _infer(service, request, name, version)

    return router


async def _infer(service: InferenceService, request: Request, name: str, version: str) -> Response:
    body = await request.body()
    asked = parse_request(body, header_length(request.headers.get(HEADER_LENGTH), len(body)))
    service.check_outputs(asked.outputs)
    async with _watch(request):
        made = await service.infer(name, version, asked.inputs, asked.parameters)
    outputs = {OUTPUT: made.answer.probabilities}
    response = InferResponse(model=made.model.name, version=made.model.version, outputs=outputs, id=asked.id)
    content, length = render_response(response, asked)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})


@contextlib.asynccontextmanager
async def _watch(request: Request):
    """Cancels what is done within when the client goes away meanwhile."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    watching: list[asyncio.Task[None]] = []
    gone = False

    async def wait() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    timer = loop.call_later(_WATCHED_AFTER_S, lambda: watching.append(loop.create_task(wait())))
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        raise ClientGoneError("the client has gone") from None
    finally:
        timer.cancel()
        for one in watching:
            one.cancel()


def _repository(service: InferenceService) -> APIRouter:
    router = APIRouter(tags=["repository"])
    body = {
        "requestBody": {
            "content": {"application/json": {"schema": {"type": "object", "additionalProperties": True}}}
        }
    }

    @router.post("/v2/repository/index", summary="All models and versions", openapi_extra=body)
    async def index(request: Request) -> list[IndexEntry]:
        only_ready = (await _document(request)).get("ready", False)
        if not isinstance(only_ready, bool):
            raise BadRequestError(f"ready: must be true or false; it is {only_ready!r:.60}")
        models = service.repository.index()
        return [IndexEntry(**one) for one in models if not only_ready or one["state"] == "READY"]

    @router.post(
        "/v2/repository/models/{name}/load",
        summary="Load a model, or swap in its artifact of now",
        responses=_NOT_FOUND,
        openapi_extra=body,
    )
    async def load(request: Request, name: Name) -> Response:
        parameters = (await _document(request)).get("parameters") or {}
        if not isinstance(parameters, dict):
            raise BadRequestError("parameters: must be a JSON object")
        await service.load(name, parameters)
        return Response(status_code=200)

    @router.post(
        "/v2/repository/models/{name}/unload",
        summary="Unload a model after its last request",
        responses=_NOT_FOUND,
        openapi_extra=body,
    )
    async def unload(request: Request, name: Name) -> Response:
        await _document(request)
        await service.repository.unload(name)
        return Response(status_code=200)

    return router


async def _document(request: Request) -> dict[str, Any]:
    """The JSON object of a body; an empty body is an empty one."""
    body = await request.body()
    if not body.strip():
        return {}
    try:
        document = from_json(body)
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise BadRequestError("the body must be a JSON object")
    return document


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without references, as it stands in the middle of a document."""
    definitions = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inline(definitions[value["$ref"].rpartition("/")[2]])
            return {key: inline(one) for key, one in value.items()}
        return [inline(one) for one in value] if isinstance(value, list) else value

    return inline(schema)

"""The Open Inference Protocol V2 over gRPC: ``inference.GRPCInferenceService``."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc
import numpy as np

from screc.serving.errors import BadRequestError, DeadlineError, ServingError
from screc.serving.guard import Guard
from screc.serving.messages import CONFIG_TYPES, SERVICE, message
from screc.serving.protocol import datatype, raw_tensor, tensor_dtype, tensor_shape
from screc.serving.service import InferenceService, Prediction
from screc.serving.signature import OUTPUT

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_OPEN_CALLS = ("ServerLive", "ServerReady", "ModelReady")
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}

Handler = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]


class Rpc:
    """The calls of the service, as handlers of a ``grpc.aio`` server."""

    def __init__(self, service: InferenceService, guard: Guard) -> None:
        self._service, self._guard = service, guard

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server is given."""
        calls: dict[str, tuple[str, Handler]] = {
            "ServerLive": ("ServerLive", self._live),
            "ServerReady": ("ServerReady", self._ready),
            "ModelReady": ("ModelReady", self._model_ready),
            "ServerMetadata": ("ServerMetadata", self._metadata),
            "ModelMetadata": ("ModelMetadata", self._model_metadata),
            "ModelConfig": ("ModelConfig", self._model_config),
            "ModelStatistics": ("ModelStatistics", self._model_statistics),
            "ModelInfer": ("ModelInfer", self._infer),
            "RepositoryIndex": ("RepositoryIndex", self._index),
            "RepositoryModelLoad": ("RepositoryModelLoad", self._load),
            "RepositoryModelUnload": ("RepositoryModelUnload", self._unload),
        }
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, handler),
                request_deserializer=message(f"{stem}Request").FromString,
                response_serializer=message(f"{stem}Response").SerializeToString,
            )
            for name, (stem, handler) in calls.items()
        }
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=message("ModelInferRequest").FromString,
            response_serializer=message("ModelStreamInferResponse").SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _check_token(self, context: grpc.aio.ServicerContext) -> None:
        if self._guard.token is not None:
            self._guard.check_token(dict(context.invocation_metadata() or ()).get("authorization"))

    def _guarded(self, name: str, handler: Handler) -> Handler:
        """A handler whose errors are gRPC's, counted, after the token was checked."""
        open_to_all, requests = name in _OPEN_CALLS, self._service.requests

        async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                if not open_to_all:
                    self._check_token(context)
                response = await handler(request, context)
            except ServingError as error:
                requests["grpc", name, error.status] += 1
                if error.retry_after is not None:
                    context.set_trailing_metadata(
                        (("retry-after", str(max(1, math.ceil(error.retry_after)))),)
                    )
                await context.abort(_CODES.get(error.status, grpc.StatusCode.INTERNAL), str(error))
            requests["grpc", name, 200] += 1
            return response

        return call

    # --------------------------------------------------------------------------------------------------
    # predictions

    async def _infer(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        left = context.time_remaining()
        if left is not None and left <= 0:
            raise DeadlineError("the request came after its deadline")
        return await self._answer(request, left)

    async def _answer(self, request: Any, timeout_s: float | None) -> Any:
        self._service.check_outputs([output.name for output in request.outputs])
        made = await self._service.infer(
            request.model_name,
            request.model_version,
            _inputs(request),
            _parameters(request.parameters) if request.parameters else {},
            timeout_s=timeout_s,
        )
        return _response(request, made)

    async def _stream(
        self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Any]:
        """Answers in the order of the requests, several of which are worked on at a time."""
        counts = self._service.requests
        try:
            self._check_token(context)
        except ServingError as error:
            counts["grpc", "ModelStreamInfer", error.status] += 1
            await context.abort(_CODES[error.status], str(error))
        answers: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(maxsize=64)

        async def answer(request: Any) -> Any:
            reply = message("ModelStreamInferResponse")()
            try:
                reply.infer_response.CopyFrom(await self._answer(request, None))
                counts["grpc", "ModelStreamInfer", 200] += 1
            except ServingError as error:
                counts["grpc", "ModelStreamInfer", error.status] += 1
                reply.error_message = str(error)
                reply.infer_response.id = request.id
            return reply

        async def read() -> None:
            async for request in requests:
                await answers.put(asyncio.create_task(answer(request)))
            await answers.put(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await answers.get()) is not None:
                yield await task
        finally:
            reader.cancel()
            while not answers.empty():
                left = answers.get_nowait()
                if left is not None:
                    left.cancel()

    # --------------------------------------------------------------------------------------------------
    # about the server and its models

    async def _live(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return message("ServerReadyResponse")(ready=self._service.ready)

    async def _model_ready(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return message("ModelReadyResponse")(ready=self._service.model_ready(request.name, request.version))

    async def _metadata(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        return message("ServerMetadataResponse")(**self._service.metadata())

    async def _model_metadata(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        found = self._service.model_metadata(request.name, request.version)
        return message("ModelMetadataResponse")(**found)

    async def _model_config(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        config = self._service.model_config(request.name, request.version)
        for tensor in (*config["input"], *config["output"]):
            tensor["data_type"] = CONFIG_TYPES[tensor["data_type"]]
        parameters = config.pop("parameters")
        response = message("ModelConfigResponse")(config=config)
        for name, value in parameters.items():
            response.config.parameters[name].string_value = value["string_value"]
        return response

    async def _model_statistics(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        found = self._service.model_statistics(request.name, request.version)
        return message("ModelStatisticsResponse")(model_stats=found)

    async def _index(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        models = self._service.repository.index()
        wanted = [one for one in models if not request.ready or one["state"] == "READY"]
        return message("RepositoryIndexResponse")(models=wanted)

    async def _load(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._service.load(request.model_name, _parameters(request.parameters))
        return message("RepositoryModelLoadResponse")()

    async def _unload(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        await self._service.repository.unload(request.model_name)
        return message("RepositoryModelUnloadResponse")()


def _parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is None:
            raise BadRequestError(f"parameters.{name}: has no value")
        found[name] = getattr(parameter, kind)
    return found


def _inputs(request: Any) -> dict[str, np.ndarray]:
    """The tensors of a request, from its raw contents where it has them."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise BadRequestError(f"raw_input_contents: {len(raw)} for {len(request.inputs)} inputs")
    if not request.inputs:
        raise BadRequestError("inputs: is missing or empty")
    tensors: dict[str, np.ndarray] = {}
    for number, tensor in enumerate(request.inputs):
        where = f"inputs[{number}] ({tensor.name!r})"
        if not tensor.name:
            raise BadRequestError(f"inputs[{number}].name: must be a text")
        if tensor.name in tensors:
            raise BadRequestError(f"{where}: the tensor is given twice")
        shape = tensor_shape(list(tensor.shape), where)
        dtype = tensor_dtype(tensor.datatype, where)
        if raw:
            if tensor.HasField("contents"):
                raise BadRequestError(f"{where}: has both contents and raw_input_contents; give one")
            tensors[tensor.name] = raw_tensor(raw[number], 0, len(raw[number]), shape, dtype, where)
        else:
            tensors[tensor.name] = _contents(tensor, shape, dtype, where)
    return tensors


def _contents(tensor: Any, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
    name = _CONTENTS.get(tensor.datatype)
    if name is None:
        raise BadRequestError(f"{where}: {tensor.datatype} has raw_input_contents only")
    values: Iterable[Any] = getattr(tensor.contents, name)
    wide = np.array(values, np.float64 if dtype.kind == "f" else np.uint64 if dtype.kind == "u" else np.int64)
    if wide.size != math.prod(shape):
        raise BadRequestError(f"{where}.contents.{name}: {wide.size} values for shape {list(shape)}")
    if dtype.kind in "iu" and wide.size:
        limits = np.iinfo(dtype)
        if int(wide.min()) < limits.min or int(wide.max()) > limits.max:
            raise BadRequestError(f"{where}.contents.{name}: a value does not fit {tensor.datatype}")
    return wide.astype(dtype).reshape(shape)


def _response(request: Any, made: Prediction) -> Any:
    """The answer, raw unless the request gave its tensors as lists."""
    response = message("ModelInferResponse")(
        model_name=made.model.name, model_version=made.model.version, id=request.id
    )
    probabilities = made.answer.probabilities
    output = response.outputs.add(name=OUTPUT, datatype=datatype(probabilities), shape=probabilities.shape)
    if request.raw_input_contents:
        response.raw_output_contents.append(probabilities.tobytes())
    else:
        output.contents.fp32_contents.extend(probabilities.tolist())
    return response

"""``POST /v2/models/NAME/rows``: new rows for ids of a table while the model is served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel

from screc.serving.engine import Engine
from screc.serving.errors import BadRequestError, ConflictError, NoRoomError, OverloadedError, ServingError
from screc.serving.protocol import HEADER_LENGTH, header_length, parse_request
from screc.serving.service import InferenceService
from screc.storage import ReplacedError

# Updates that are made durable together, and those that may wait for them.
_TOGETHER = 16
_MOST_WAITING = 256

Name = Annotated[str, Path(min_length=1, max_length=128)]


class UpdateAnswer(BaseModel):
    """Rows that are durable and are used by every prediction that begins."""

    model_name: str
    model_version: str
    table: str
    rows: int


class RowUpdates:
    """Updates of the models of a server, off the event loop's thread."""

    def __init__(self, service: InferenceService) -> None:
        self._service = service
        self._threads = ThreadPoolExecutor(_TOGETHER, thread_name_prefix="update")
        self._waiting = 0

    async def update(
        self, name: str, version: str, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]
    ) -> UpdateAnswer:
        """Gives ids of a table new rows.

        Args:
            name, version: of the model.
            inputs: ``ids`` INT64 [n] and ``rows`` FP32 [n, dim].
            parameters: ``table``, a name.

        Raises:
            BadRequestError: a tensor, an id, a value or the table is wrong; the message names it.
            ConflictError: the model was not loaded for updates, or its artifact has been replaced.
            NoRoomError: the disk, the log or the memory for updates is full.
            OverloadedError: too many updates wait.
            ServingError: the model is not there or not loaded.
        """
        model = self._service.repository.get(name, version)
        table = parameters.get("table")
        if not isinstance(table, str):
            raise BadRequestError("parameters.table: must be the name of a table")
        unknown = [one for one in parameters if one != "table"]
        if unknown:
            raise BadRequestError(f"parameters.{unknown[0]}: is not read here; 'table' is")
        ids, rows = _tensor(inputs, "ids", np.int64, 1), _tensor(inputs, "rows", np.float32, 2)
        for one in inputs:
            if one not in ("ids", "rows"):
                raise BadRequestError(f"inputs: there is no tensor {one!r}; there are 'ids' and 'rows'")
        if self._waiting >= _MOST_WAITING:
            raise OverloadedError(f"{self._waiting} updates wait already", retry_after=1)
        self._waiting += 1
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, _update, model.engine, table, ids, rows)
        finally:
            self._waiting -= 1
        return UpdateAnswer(model_name=model.name, model_version=model.version, table=table, rows=len(ids))


def _tensor(inputs: Mapping[str, np.ndarray], name: str, dtype: type, axes: int) -> np.ndarray:
    array = inputs.get(name)
    if array is None:
        raise BadRequestError(f"inputs: tensor {name!r} is missing")
    kind = "INT64" if dtype is np.int64 else "FP32"
    if array.dtype != dtype or array.ndim != axes:
        shape = "[n]" if axes == 1 else "[n, dim]"
        raise BadRequestError(
            f"inputs.{name}: must be {kind} {shape}; it is {array.dtype} {list(array.shape)}"
        )
    return np.ascontiguousarray(array)


def _update(engine: Engine, table: str, ids: np.ndarray, rows: np.ndarray) -> None:
    try:
        engine.update(table, ids, rows)
    except KeyError as error:
        raise BadRequestError(f"parameters.table: {error.args[0]}") from error
    except (ValueError, TypeError) as error:
        raise BadRequestError(str(error)) from error
    except RuntimeError as error:
        raise ConflictError(
            "the model takes no updates: the server was started without --updates, or is loading it again"
        ) from error
    except ReplacedError as error:
        raise ConflictError("another artifact is at the model's path now; load the model again") from error
    except OSError as error:
        raise NoRoomError(str(error), retry_after=30) from error
    except MemoryError as error:
        raise ServingError("memory is short") from error


def rows_router(service: InferenceService) -> APIRouter:
    """``POST /v2/models/NAME/rows``."""
    router, updates = APIRouter(tags=["models"]), RowUpdates(service)

    documented: dict[str, Any] = {
        "summary": "New rows for ids of a table",
        "responses": {
            404: {"description": "There is no such model or version."},
            409: {"description": "The model takes no updates, or its artifact was replaced."},
            415: {"description": "The body is compressed."},
            429: {"description": "Too many updates wait."},
            507: {"description": "The disk, the log or the memory for updates is full."},
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            }
        },
    }

    @router.post("/v2/models/{name}/versions/{version}/rows", **documented)
    @router.post("/v2/models/{name}/rows", **documented)
    async def rows(request: Request, name: Name, version: str = "") -> UpdateAnswer:
        body = await request.body()
        asked = parse_request(body, header_length(request.headers.get(HEADER_LENGTH), len(body)))
        return await updates.update(name, version, asked.inputs, asked.parameters)

    return router

"""What load is put on: a server over HTTP or gRPC, or an engine in this process, all behind one face."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from screc.data.batch import Batch
from screc.data.log import TableSpec
from screc.serving.engine import Engine
from screc.serving.load.content import ModelShape
from screc.serving.load.drive import Pace, drive
from screc.serving.load.grpc import GrpcConnection, call_headers, infer_message, metadata_calls
from screc.serving.load.http import Address, HttpConnection, fetch, infer_request
from screc.serving.load.trace import Outcome, Trace

_CLIENTS = 4

Run = Callable[[np.ndarray, Pace], Trace]
"""Sends prepared requests, in turn, when they are due, seconds float64 [R]."""


class Target(Protocol):
    """Something that answers requests."""

    @property
    def shape(self) -> ModelShape:
        """What its model takes."""
        ...

    def prepare(self, batches: Sequence[Batch]) -> Run:
        """Encodes requests, so that sending them takes next to nothing."""
        ...


class HttpTarget:
    """A server of the Open Inference Protocol V2 over HTTP, sent binary tensors.

    Args:
        url: ``http://HOST:PORT``.
        model: its name; None where the server has only one.
        token: bearer token.
        deadline_s: the most that a request may wait for its turn, which the server is told; 0: nothing.

    Raises:
        ValueError: the URL is none, or the model is not there or not named though there are several.
        OSError: nobody answers, or with an error.
    """

    def __init__(
        self, url: str, model: str | None = None, *, token: str | None = None, deadline_s: float = 0
    ) -> None:
        self._address, self._token, self._deadline_s = Address.of_url(url), token, deadline_s
        self.shape = _shape_over_http(self._fetch, model)

    def _fetch(self, method: str, path: str) -> Any:
        return fetch(self._address, method, path, token=self._token)

    def prepare(self, batches: Sequence[Batch]) -> Run:
        """See :class:`Target`."""
        requests = [
            infer_request(self._address, self.shape.name, one, token=self._token, deadline_s=self._deadline_s)
            for one in batches
        ]
        return lambda arrivals, pace: drive(lambda: HttpConnection(self._address), requests, arrivals, pace)


class GrpcTarget:
    """A server of the Open Inference Protocol V2 over gRPC, sent raw tensors.

    Args:
        url: ``grpc://HOST:PORT``.
        model, token, deadline_s: as :class:`HttpTarget` takes them.

    Raises:
        as :class:`HttpTarget`.
    """

    def __init__(
        self, url: str, model: str | None = None, *, token: str | None = None, deadline_s: float = 0
    ) -> None:
        self._address = Address.of_url(url, "grpc")
        self._headers = call_headers(self._address, token=token, timeout_s=deadline_s)
        with metadata_calls(self._address, token) as call:
            self.shape = _shape_over_grpc(call, model)

    def prepare(self, batches: Sequence[Batch]) -> Run:
        """See :class:`Target`."""
        requests = [infer_message(self.shape.name, one) for one in batches]
        return lambda arrivals, pace: drive(
            lambda: GrpcConnection(self._address, self._headers), requests, arrivals, pace
        )


class EngineTarget:
    """An engine in this process, without a server: what serving is measured against.

    Native threads send (``Engine.replay``); nothing is refused and nothing dropped, and requests that end
    after the timeout count as late.

    Args:
        engine: what answers.
        name: of the model.
    """

    def __init__(self, engine: Engine, name: str = "engine") -> None:
        self._engine = engine
        self.shape = ModelShape(name=name, num_dense=engine.num_dense, tables=engine.tables)

    def prepare(self, batches: Sequence[Batch]) -> Run:
        """See :class:`Target`."""
        requests = list(batches)

        def run(arrivals: np.ndarray, pace: Pace) -> Trace:
            latencies = self._engine.replay(requests, arrivals, clients=min(pace.connections, _CLIENTS))
            late = latencies > pace.timeout_s
            return Trace(
                due=arrivals,
                latencies=latencies,
                lags=np.full(len(arrivals), np.nan),  # a client that waits for the engine's turn has sent
                outcomes=np.where(late, Outcome.LATE, Outcome.OK).astype(np.uint8),
            )

        return run


def open_target(
    text: str,
    model: str | None = None,
    *,
    in_process: bool = False,
    threads: int = 0,
    token: str | None = None,
    deadline_s: float = 0,
) -> Target:
    """The target that ``screc load`` is given: ``http://…``, ``grpc://…``, or an artifact's path.

    Args:
        text: where it is.
        model, token, deadline_s: as :class:`HttpTarget` takes them.
        in_process: it is an artifact, which is opened here.
        threads: of its engine.

    Raises:
        ValueError: it is none of these.
        OSError: it cannot be reached or opened.
    """
    if in_process:
        return EngineTarget(Engine.open(text, threads=threads), Path(text).resolve().name)
    kinds = {"http": HttpTarget, "grpc": GrpcTarget}
    scheme = text.partition("://")[0]
    if scheme not in kinds:
        raise ValueError(
            f"target {text!r} is not http://HOST:PORT or grpc://HOST:PORT (--in-process: an artifact)"
        )
    return kinds[scheme](text, model, token=token, deadline_s=deadline_s)


def _only(index: Iterable[tuple[str, str]]) -> str:
    """The name of the only model that is ready, of (name, state)."""
    names = sorted({name for name, state in index if state == "READY"})
    if len(names) != 1:
        raise ValueError(f"model: name one of those served: {', '.join(names) or 'none is ready'}")
    return names[0]


def _shape_over_http(get: Callable[[str, str], Any], model: str | None) -> ModelShape:
    if model is None:
        model = _only((one["name"], one["state"]) for one in get("POST", "/v2/repository/index"))
    metadata = get("GET", f"/v2/models/{quote(model)}")
    config = get("GET", f"/v2/models/{quote(model)}/config")
    return shape_of(
        model,
        {one["name"]: one["shape"] for one in metadata["inputs"]},
        {name: value["string_value"] for name, value in config.get("parameters", {}).items()},
    )


def _shape_over_grpc(call: Callable[..., Any], model: str | None) -> ModelShape:
    if model is None:
        model = _only((one.name, one.state) for one in call("RepositoryIndex").models)
    metadata, config = call("ModelMetadata", name=model), call("ModelConfig", name=model).config
    return shape_of(
        model,
        {one.name: list(one.shape) for one in metadata.inputs},
        {name: value.string_value for name, value in config.parameters.items()},
    )


def shape_of(model: str, inputs: dict[str, list[int]], parameters: dict[str, str]) -> ModelShape:
    """A model's shape from its inputs and the parameters of its configuration.

    Raises:
        ValueError: the server does not say how many rows the tables have.
    """
    names, rows = (parameters.get(name, "") for name in ("tables", "num_embeddings"))
    if "categorical" not in inputs or not rows:
        raise ValueError(
            f"model {model!r}: its server does not say which tables it has and how many rows; "
            "is it `screc serve`?"
        )
    counts = [int(count) for count in rows.split(",")]
    named = names.split(",") if names else [str(number) for number in range(len(counts))]
    return ModelShape(
        name=model,
        num_dense=inputs["dense"][-1] if "dense" in inputs else 0,
        tables=tuple(TableSpec(name, count) for name, count in zip(named, counts, strict=True)),
    )

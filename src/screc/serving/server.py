"""``screc serve``: a server of artifacts over HTTP and gRPC, from its start to its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvicorn

from screc.serving.guard import Guard, is_loopback
from screc.serving.repository import Repository, RepositoryConfig
from screc.serving.rest import create_app
from screc.serving.rpc import Rpc
from screc.serving.service import InferenceService


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where a server listens, and for whom.

    Attributes:
        host: address of both protocols.
        port, grpc_port: 0 takes any that is free; None for gRPC leaves it out.
        token: what clients must give; None: nothing.
        certificate, key: files of TLS, PEM; both or none.
        max_bytes: of a request.
        deadline_s: most seconds that a request which names no time of its own waits; 0: no limit.
        repository: how models are opened.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    token: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    max_bytes: int = 64 * 2**20
    deadline_s: float = 0.0
    repository: RepositoryConfig = field(default_factory=RepositoryConfig)

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("TLS needs both a certificate and its key")


@dataclass(frozen=True)
class Addresses:
    """Where a server is reached.

    Attributes:
        http: URL.
        grpc: host and port; None without gRPC.
        models: names of those loaded.
    """

    http: str
    grpc: str | None
    models: tuple[str, ...]


def named_artifacts(arguments: Sequence[str]) -> dict[str, Path]:
    """Artifacts by model name, from ``ARTIFACT`` (named like its directory) and ``NAME=ARTIFACT``.

    Raises:
        ValueError: two have one name.
    """
    artifacts: dict[str, Path] = {}
    for argument in arguments:
        name, separator, path = argument.partition("=")
        found = Path(path if separator else argument)
        name = name if separator else found.resolve().name
        if name in artifacts:
            raise ValueError(f"two artifacts have the name {name!r}; say NAME=ARTIFACT")
        artifacts[name] = found
    return artifacts


async def serve(
    artifacts: Mapping[str, Path],
    config: ServerConfig,
    *,
    directory: Path | None = None,
    started: Callable[[Addresses], None] | None = None,
    stop: asyncio.Event | None = None,
) -> bool:
    """Loads all models, answers until SIGTERM, SIGINT or ``stop``, then finishes what is in flight.

    Args:
        artifacts: models by name.
        config: where and for whom.
        directory: of more models.
        started: called once requests are taken.
        stop: ends the server when it is set.

    Returns:
        Whether all requests in flight were answered.

    Raises:
        ServingError: a model cannot be loaded.
        OSError: an address is in use.
        ValueError: there is no model, or a name or directory is wrong.
    """
    repository = Repository(artifacts, directory, config.repository)
    if not repository.names():
        raise ValueError("there is no model to serve; give an artifact, or a directory of artifacts")
    ended = stop or asyncio.Event()
    service = InferenceService(repository, deadline_s=config.deadline_s)
    guard = Guard(token=config.token, max_bytes=config.max_bytes, local_only=is_loopback(config.host))
    try:
        for name in repository.names():
            await repository.load(name)
        listener = _listen(config.host, config.port)
        with contextlib.closing(listener):
            http = _HttpServer(_http_config(service, guard, config))
            rpc, rpc_port = await _start_rpc(service, guard, config)
            answering = asyncio.create_task(http.serve(sockets=[listener]))
            with _ends_on_signals(ended):
                await http.wait_started(answering)
                if started:
                    started(_addresses(config, listener, rpc_port, repository))
                await asyncio.wait(
                    {asyncio.create_task(ended.wait()), answering}, return_when=asyncio.FIRST_COMPLETED
                )
                # Health says so first; then no connection is taken, and those that ask are answered.
                http.should_exit = True
                await asyncio.gather(answering, _stop_rpc(rpc, config.repository.drain_s))
    finally:
        drained = await repository.close()
    return drained


class _HttpServer(uvicorn.Server):
    """uvicorn, whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield

    async def wait_started(self, task: asyncio.Task[None]) -> None:
        while not self.started:
            if task.done():
                await task
                raise OSError("the HTTP server did not start")
            await asyncio.sleep(0.005)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def _http_config(service: InferenceService, guard: Guard, config: ServerConfig) -> uvicorn.Config:
    return uvicorn.Config(
        create_app(service, guard),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, round(config.repository.drain_s)),
        ssl_certfile=str(config.certificate) if config.certificate else None,
        ssl_keyfile=str(config.key) if config.key else None,
    )


async def _start_rpc(
    service: InferenceService, guard: Guard, config: ServerConfig
) -> tuple[grpc.aio.Server | None, int]:
    if config.grpc_port is None:
        return None, 0
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", config.max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers((Rpc(service, guard).handlers(),))
    host = f"[{config.host}]" if ":" in config.host else config.host
    address = f"{host}:{config.grpc_port}"
    try:
        if config.certificate and config.key:
            pair = (config.key.read_bytes(), config.certificate.read_bytes())
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen on {address}: {error}") from error
    await server.start()
    return server, port


async def _stop_rpc(server: grpc.aio.Server | None, seconds: float) -> None:
    if server is not None:
        await server.stop(seconds)


def _addresses(
    config: ServerConfig, listener: socket.socket, rpc_port: int, repository: Repository
) -> Addresses:
    host = f"[{config.host}]" if ":" in config.host else config.host
    scheme = "https" if config.certificate else "http"
    return Addresses(
        http=f"{scheme}://{host}:{listener.getsockname()[1]}",
        grpc=f"{host}:{rpc_port}" if rpc_port else None,
        models=tuple(model.name for model in repository),
    )


@contextlib.contextmanager
def _ends_on_signals(ended: asyncio.Event):
    loop = asyncio.get_running_loop()
    numbers: list[Any] = [signal.SIGTERM, signal.SIGINT]
    try:
        for number in numbers:
            loop.add_signal_handler(number, ended.set)
    except (RuntimeError, ValueError):  # not the main thread: whoever runs us there has `stop`
        numbers = []
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def run(
    artifacts: Mapping[str, Path],
    config: ServerConfig,
    *,
    directory: Path | None = None,
    started: Callable[[Addresses], None] | None = None,
) -> bool:
    """:func:`serve` on an event loop of its own."""
    import uvloop

    return uvloop.run(serve(artifacts, config, directory=directory, started=started))

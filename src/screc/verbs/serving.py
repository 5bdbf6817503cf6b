"""The verb that answers over the network."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from screc.verbs.options import Io, Json, Threads, app, console_for, finish


@app.command()
def serve(
    artifacts: Annotated[
        list[str] | None, typer.Argument(help="Artifacts, each named by its directory or as NAME=ARTIFACT.")
    ] = None,
    repository: Annotated[Path | None, typer.Option(help="A directory of more artifacts.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others than this machine's: be sure.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Of HTTP; 0 = any that is free.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Of gRPC; 0 = any that is free, -1 = none.")] = 8001,
    threads: Threads = 0,
    io: Io = "auto",
    queue_depth: Annotated[int, typer.Option(help="SSD reads in flight.")] = 256,
    max_batch: Annotated[int, typer.Option(help="Most samples that requests are joined to.")] = 96,
    queue_delay_ms: Annotated[float, typer.Option(help="How long a batch waits to be full.")] = 0.0,
    split: Annotated[int, typer.Option(help="Most samples of a part of a large request.")] = 96,
    workers: Annotated[int, typer.Option(help="Batches at work at a time; 0 = by the threads.")] = 0,
    max_queued: Annotated[int, typer.Option(help="Most samples that wait; more are refused.")] = 65_536,
    deadline_ms: Annotated[
        float, typer.Option(help="Most that a request waits which names no time; 0 = no limit.")
    ] = 0.0,
    drain_s: Annotated[
        float, typer.Option(help="Most that requests in flight are waited for at the end.")
    ] = (30.0),
    token_file: Annotated[
        Path | None, typer.Option(help="File of the bearer token that clients give.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    max_request: Annotated[str, typer.Option(help="Most bytes of a request.")] = "64MB",
    max_rows: Annotated[int, typer.Option(help="Most samples of a request.")] = 65_536,
    max_ids: Annotated[int, typer.Option(help="Most look-ups of a request.")] = 8_388_608,
    as_json: Json = False,
) -> None:
    """Serve artifacts over HTTP and gRPC (Open Inference Protocol V2); SIGTERM finishes what is in flight."""
    from screc.planning import parse_bytes
    from screc.serving.batching import BatchingConfig
    from screc.serving.guard import is_loopback, read_token
    from screc.serving.repository import RepositoryConfig
    from screc.serving.server import Addresses, ServerConfig, named_artifacts, run
    from screc.serving.signature import QueryLimits

    console = console_for(as_json)

    def started(addresses: Addresses) -> None:
        console.print(f"serving {', '.join(addresses.models)} at {addresses.http}")
        if addresses.grpc:
            console.print(f"gRPC at {addresses.grpc}")
        if not is_loopback(host) and not token_file:
            console.print(f"[yellow]anyone who reaches {host} may ask[/yellow]: --token-file, --tls-cert")
        finish(as_json, addresses)
        sys.stdout.flush()

    batching = BatchingConfig(
        max_batch=max_batch,
        split=split,
        queue_delay_s=queue_delay_ms / 1e3,
        max_queued=max_queued,
        workers=workers,
    )
    models = RepositoryConfig(
        threads=threads,
        io=io,
        queue_depth=queue_depth,
        batching=batching,
        limits=QueryLimits(rows=max_rows, ids=max_ids),
        drain_s=drain_s,
    )
    config = ServerConfig(
        host=host,
        port=port,
        grpc_port=None if grpc_port < 0 else grpc_port,
        token=read_token(token_file) if token_file else None,
        certificate=tls_cert,
        key=tls_key,
        max_bytes=parse_bytes(max_request),
        deadline_s=deadline_ms / 1e3,
        repository=models,
    )
    if not run(named_artifacts(artifacts or ()), config, directory=repository, started=started):
        console.print("some requests were not answered in time")
        raise typer.Exit(1)

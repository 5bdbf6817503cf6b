"""The verb that puts load on a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from screc.verbs.options import Json, OnError, Threads, app, console_for, finish, open_data

_CURVE = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25)


@app.command()
def load(
    target: Annotated[
        str, typer.Argument(help="http://HOST:PORT, grpc://HOST:PORT, or an artifact with --in-process.")
    ],
    model: Annotated[str | None, typer.Option(help="Its name, where the server has several.")] = None,
    in_process: Annotated[bool, typer.Option("--in-process", help="Measure the engine, no server.")] = False,
    rate: Annotated[str, typer.Option(help="Requests per second, or several: 100,200,400.")] = "",
    find_max: Annotated[
        bool, typer.Option("--find-max", help="Find the highest load that keeps --sla; draw around it.")
    ] = False,
    sla: Annotated[str, typer.Option(help="What the percentile of latencies must keep to.")] = "25ms",
    percentile: Annotated[float, typer.Option(help="Of all requests, answered or not.")] = 95.0,
    seconds: Annotated[float, typer.Option(help="Of each run.")] = 5.0,
    size: Annotated[
        str,
        typer.Option(
            help="Samples of a request: 200, normal:165,16, lognormal:5.1,0.2, heavy, percentiles:FILE."
        ),
    ] = "200",
    largest: Annotated[int, typer.Option(help="Most samples of a request.")] = 1024,
    data: Annotated[
        str | None, typer.Option(help="Click log to take samples from; without it, Zipf-distributed ids.")
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option(help="Artifact or checkpoint whose feature encoder reads the log.")
    ] = None,
    zipf: Annotated[float, typer.Option(help="Exponent of the law of ids.")] = 1.05,
    pooling: Annotated[int, typer.Option(help="Ids of every bag, without a log.")] = 1,
    timeout: Annotated[str, typer.Option(help="A request not answered by then is late.")] = "10s",
    deadline: Annotated[str | None, typer.Option(help="Longest wait that the server is told of.")] = None,
    connections: Annotated[int, typer.Option(help="Most at a time.")] = 256,
    token_file: Annotated[Path | None, typer.Option(help="File of the server's bearer token.")] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals, sizes and content.")] = 0,
    picture: Annotated[Path | None, typer.Option(help="Latencies over load, .svg or .png.")] = None,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """Put load on a server: open loop, Poisson arrivals, latencies counted from when requests were due."""
    from screc.serving.guard import read_token
    from screc.serving.load import (
        LoadConfig,
        LoadGenerator,
        LogSamples,
        Pace,
        Search,
        Sla,
        ZipfSamples,
        open_target,
    )
    from screc.serving.load.durations import parse_seconds
    from screc.serving.load.report import plot, table

    console = console_for(as_json)
    if bool(rate) == find_max:
        raise typer.BadParameter("give either --rate or --find-max")
    promise = Sla(latency_s=parse_seconds(sla), percentile=percentile)
    rates = _rates(rate)
    put_on = open_target(
        target,
        model,
        in_process=in_process,
        threads=threads,
        token=read_token(token_file) if token_file else None,
        deadline_s=parse_seconds(deadline) if deadline else 0,
    )
    if data:
        log = open_data(data, encoder / "assets" if encoder else None, OnError.RAISE)
        samples = LogSamples(log, put_on.shape)
    else:
        samples = ZipfSamples(put_on.shape, exponent=zipf, pooling=pooling, seed=seed)
    pace = Pace(timeout_s=parse_seconds(timeout), connections=connections)
    config = LoadConfig(sizes=size, largest=largest, pace=pace, seed=seed)
    generator = LoadGenerator(put_on, config, samples)
    console.print(
        f"{put_on.shape.name}: {len(put_on.shape.tables)} tables, {generator.mean_size:,.0f} samples "
        "a request on average"
    )
    capacity = None
    if find_max:
        search = Search(trial_s=seconds, confirm_s=seconds)
        capacity = generator.capacity(promise, search, progress=console.print)
        console.print(
            f"highest load with p{percentile:g} within {sla}: {capacity.rate:,.0f} requests/s, "
            f"{capacity.samples_rate:,.0f} samples/s"
        )
        rates = tuple(share * capacity.rate for share in _CURVE) if picture else ()
    runs = generator.curve(rates, seconds) if rates and rates[0] else []
    if runs:
        console.print(table(runs))
        for fault, count in sorted({fault for run in runs for fault in run.faults.items()}):
            console.print(f"{count:,} x {fault}", markup=False)
    if picture and runs:
        plot(runs, picture, title=f"{put_on.shape.name}, {target}", sla=promise, capacity=capacity)
        console.print(f"picture: {picture}")
    finish(
        as_json,
        {
            "target": target,
            "model": put_on.shape.name,
            "size": size,
            "mean_size": generator.mean_size,
            "seed": seed,
            "sla": {"latency_s": promise.latency_s, "percentile": percentile},
            "capacity": capacity.as_dict() if capacity else None,
            "runs": [run.as_dict() for run in runs],
        },
    )


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise typer.BadParameter(f"--rate: '{text}' is not a list of rates such as 100,200") from None

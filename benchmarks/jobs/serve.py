"""Job ``serve``: the Kaggle model behind our server, over HTTP and gRPC, against the engine alone and against
the same model behind FastAPI and PyTorch.

Requests have 200 candidates with features of their own (52 KB); server and open-loop client share all cores.
For each server: the highest Poisson load whose p99 is within 25 ms, counted from when requests were due.
Rounds take all sides in turn; ratios are medians of the rounds' ratios. The engine's figure is its peak,
without any bound on latency, so ``serve.vs_engine`` also pays for waiting. PyTorch's best setting is chosen
beforehand, by its peak.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.comparison import wide_console
from benchmarks.peers.fastapi_pytorch import FORMS, MODES, encode
from benchmarks.served_model import Served, screc_serve, served, spared_core, write_artifact
from benchmarks.workload import Workload, kaggle
from screc.data import CRITEO_KAGGLE_ROWS, Batch
from screc.serving import Engine
from screc.serving.load import (
    Capacity,
    EngineTarget,
    GrpcTarget,
    HttpTarget,
    LoadConfig,
    LoadGenerator,
    Outcome,
    Pace,
    Search,
    Sla,
    Summary,
    drive,
)
from screc.serving.load import grpc as over_grpc
from screc.serving.load import http as over_http
from screc.serving.load.content import ModelShape
from screc.serving.load.targets import Run

CANDIDATES = 200
SLA = Sla(latency_s=0.025, percentile=99)
FOLDER = Path("run/served")
# Root mean square of (PyTorch's answers - ours), as a share of their deviation: int8 against float32.
_TOLERANCE = 0.25


class PeerTarget:
    """The FastAPI server at one of its settings, as a target of load."""

    def __init__(self, url: str, path: str, shape: ModelShape) -> None:
        self._address, self._path, self.shape = over_http.Address.of_url(url), path, shape

    def prepare(self, batches: Sequence[Batch]) -> Run:
        """Encodes requests."""
        kind = {"Content-Type": "application/octet-stream"}
        requests = [over_http.post_request(self._address, self._path, encode(one), kind) for one in batches]
        return lambda arrivals, pace: drive(
            lambda: over_http.HttpConnection(self._address), requests, arrivals, pace
        )


@dataclass(slots=True)
class _Arm:
    """One server and what was measured of it, one entry for each round."""

    name: str
    generator: LoadGenerator
    server: Served
    start: float = 0.0
    found: list[Capacity] = field(default_factory=list)
    peaks: list[Summary] = field(default_factory=list)

    def measure(self, search: Search) -> None:
        """One round: the peak, and the highest load within the limit, looked for from the last round's."""
        self.peaks.append(self.generator.peak(search.trial_s / 2))
        start = self.start or 0.85 * self.peaks[-1].answered_rate
        self.found.append(self.generator.capacity(SLA, search, start=start))
        self.start = self.found[-1].rate or start

    def samples_rates(self) -> list[float]:
        """Samples per second within the limit, by round."""
        return [one.samples_rate for one in self.found]


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    scale = 100 if quick else 1
    workload = kaggle([max(1, rows // scale) for rows in CRITEO_KAGGLE_ROWS])
    artifact = FOLDER / ("kaggle-quick" if quick else "kaggle")
    artifact.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"{sum(workload.rows):,} rows x {workload.embedding_dim}: {artifact}")
    write_artifact(workload, artifact)
    search = (
        Search(trial_s=0.4, confirm_s=0.4, confirmations=1)
        if quick
        else Search(trial_s=1.2, confirm_s=1.2, confirmations=3, tolerance=0.05)
    )
    engine = Engine.open(artifact)
    fields = {name: getattr(workload, name) for name in workload.__dataclass_fields__}
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(served(screc_serve([f"kaggle={artifact}"], *spared_core())))
        peer = stack.enter_context(
            served(["-m", "benchmarks.peers.fastapi_pytorch", json.dumps(fields)], peer=True)
        )
        _check(ours, peer, engine, workload)
        config = LoadConfig(sizes=str(CANDIDATES), pool=128 if quick else 512)
        alone = LoadGenerator(EngineTarget(engine), config)
        shape = EngineTarget(engine, "kaggle").shape
        settings = _peer_settings(peer, shape, config, seconds=0.3 if quick else 0.6)
        best = max(settings, key=settings.__getitem__)
        threads, path = best
        console.print(f"FastAPI + PyTorch: best of {len(settings)} settings is {path}, {threads} threads")
        _set_threads(peer, threads)
        assert ours.grpc is not None
        arms = [
            _Arm("grpc", LoadGenerator(GrpcTarget(ours.grpc), config), ours),
            _Arm("rest", LoadGenerator(HttpTarget(ours.http), config), ours),
            _Arm("fastapi_pytorch", LoadGenerator(PeerTarget(peer.http, path, shape), config), peer),
        ]
        engine_rates = []
        rounds = 1 if quick else 3
        for number in range(rounds):
            engine_rates.append(alone.peak(0.3 if quick else 1.5).samples_rate)
            for arm in arms[number % 3 :] + arms[: number % 3]:
                arm.measure(search)
            rates = (f"{arm.name} {arm.samples_rates()[-1]:,.0f}" for arm in arms)
            console.print(f"round {number + 1}/{rounds}: engine {engine_rates[-1]:,.0f}, {', '.join(rates)}")
        half = {arm.name: _at_half(arm, search.confirm_s) for arm in arms}
    return _report(console, workload, engine, engine_rates, arms, half, settings, best)


def _at_half(arm: _Arm, seconds: float) -> dict[str, Any]:
    """Latencies at half the load that was found, and the processor time of a request on both sides."""
    rate = 0.5 * statistics.median(one.rate for one in arm.found)
    if rate == 0:
        return {}
    server, client = arm.server.cpu_seconds(), sum(os.times()[:2])
    summary = arm.generator.run(rate, max(seconds, 50 / rate), seed=3)
    return {
        "rate": rate,
        "latency_ms": dict(summary.latency_ms),
        "server_us_a_request": 1e6 * (arm.server.cpu_seconds() - server) / summary.requests,
        "client_us_a_request": 1e6 * (sum(os.times()[:2]) - client) / summary.requests,
    }


def _check(ours: Served, peer: Served, engine: Engine, workload: Workload) -> None:
    """Every side answers for the same model: ours to the bit over both protocols, the peer nearly."""
    batch = workload.batch(np.random.default_rng(5), CANDIDATES, "zipf")
    right = engine.predict(batch)
    assert ours.grpc is not None
    http = over_http.Address.of_url(ours.http)
    grpc = over_http.Address.of_url(ours.grpc, "grpc")
    headers = over_grpc.call_headers(grpc)
    over = {
        "rest": (
            lambda: over_http.HttpConnection(http),
            over_http.infer_request(http, "kaggle", batch),
            over_http.probabilities,
        ),
        "grpc": (
            lambda: over_grpc.GrpcConnection(grpc, headers),
            over_grpc.infer_message("kaggle", batch),
            over_grpc.probabilities,
        ),
    }
    for name, (connect, request, read) in over.items():
        if read(_one(connect, request)).tobytes() != right.tobytes():
            raise RuntimeError(f"{name}: predictions are not the engine's")
    there = over_http.Address.of_url(peer.http)
    for path in [f"/{form}/{mode}" for form in FORMS for mode in MODES]:
        body = _one(
            lambda: over_http.HttpConnection(there), over_http.post_request(there, path, encode(batch), {})
        )
        error = np.sqrt(((np.frombuffer(body, "<f4") - right) ** 2).mean()) / right.std()
        if not error <= _TOLERANCE:
            raise RuntimeError(f"FastAPI {path}: predictions differ by {error:.2e}, allowed {_TOLERANCE:.2e}")


def _one(connect: Any, request: bytes) -> bytes:
    bodies: list[bytes] = []
    trace = drive(connect, [request], np.zeros(1), Pace(), answered=lambda number, body: bodies.append(body))
    if trace.outcomes[0] != Outcome.OK:
        raise RuntimeError(f"no answer: {dict(trace.faults)}")
    return bodies[0]


def _peer_settings(
    peer: Served, shape: ModelShape, config: LoadConfig, *, seconds: float
) -> dict[tuple[int, str], float]:
    """Peak samples per second of every setting: (threads, path)."""
    cores = len(os.sched_getaffinity(0))
    rates = {}
    for threads in sorted({1, cores}):
        _set_threads(peer, threads)
        for path in [f"/{form}/{mode}" for form in FORMS for mode in MODES]:
            generator = LoadGenerator(PeerTarget(peer.http, path, shape), config)
            generator.peak(seconds / 4)
            rates[threads, path] = generator.peak(seconds).samples_rate
    return rates


def _set_threads(peer: Served, threads: int) -> None:
    over_http.fetch(over_http.Address.of_url(peer.http), "POST", f"/threads/{threads}")


def _report(
    console: Console,
    workload: Workload,
    engine: Engine,
    engine_rates: list[float],
    arms: list[_Arm],
    half: dict[str, dict[str, Any]],
    settings: dict[tuple[int, str], float],
    best: tuple[int, str],
) -> dict[str, object]:
    def against(name: str, others: list[float]) -> float:
        ours = next(arm for arm in arms if arm.name == name).samples_rates()
        return statistics.median(a / b if b else float("inf") for a, b in zip(ours, others, strict=True))

    peer = next(arm for arm in arms if arm.name == "fastapi_pytorch").samples_rates()
    vs_engine = {name: against(name, engine_rates) for name in ("grpc", "rest")}
    vs_peer = {name: against(name, peer) for name in ("grpc", "rest")}
    view = Table("", "samples/s within p99 25 ms", "of the engine", "peak", "p50, p99 at half of it [ms]")
    view.add_row("engine", "-", "1.00", f"{statistics.median(engine_rates):,.0f}", "-")
    for arm in arms:
        rate = statistics.median(arm.samples_rates())
        latency = half[arm.name].get("latency_ms", {})
        view.add_row(
            arm.name,
            f"{rate:,.0f}",
            f"{against(arm.name, engine_rates):.2f}",
            f"{statistics.median(one.samples_rate for one in arm.peaks):,.0f}",
            f"{latency['p50']:.2f}, {latency['p99']:.2f}" if latency else "-",
        )
    console.print(view)
    for arm in arms:
        one = half[arm.name]
        if one:
            console.print(
                f"{arm.name} at half load: {one['server_us_a_request']:.0f} us of the server and "
                f"{one['client_us_a_request']:.0f} us of the client a request"
            )
    ratios = {
        "serve.vs_engine": max(vs_engine.values()),
        "serve.vs_fastapi_pytorch": max(vs_peer.values()),
        **{f"serve.{name}.vs_engine": ratio for name, ratio in vs_engine.items()},
        **{f"serve.{name}.vs_fastapi_pytorch": ratio for name, ratio in vs_peer.items()},
    }
    ratios = {name: round(ratio, 3) for name, ratio in ratios.items()}
    for name, ratio in ratios.items():
        console.print(f"{name} {ratio:.2f}")
    return {
        "settings": {
            "rows": sum(workload.rows),
            "embedding_dim": workload.embedding_dim,
            "candidates": CANDIDATES,
            "sla": asdict(SLA),
            "precisions": engine.precisions,
            "screc_serve": " ".join(map(str, spared_core())),
            "fastapi_pytorch": {"threads": best[0], "path": best[1]},
        },
        "fastapi_pytorch_settings": {
            f"{path}, {threads} threads": rate for (threads, path), rate in settings.items()
        },
        "results": {
            "engine": {"samples_per_s": engine_rates},
            **{
                arm.name: {
                    "samples_per_s": arm.samples_rates(),
                    "requests_per_s": [one.rate for one in arm.found],
                    "latency_ms": [dict(one.confirmed[0].latency_ms) for one in arm.found if one.confirmed],
                    "peak_samples_per_s": [one.samples_rate for one in arm.peaks],
                    "at_half": half[arm.name],
                }
                for arm in arms
            },
        },
        "ratios": ratios,
    }

"""Job ``overload``: three times the load that the server takes, for a minute.

A small float32 model (its look-ups cost little, its layers much, so that the client's share of the cores is
small) behind ``screc serve --deadline-ms``: what would wait longer is refused at once. Wanted: no crash, no
growth of memory, accepted requests within the SLA, refusals within 10 ms of being sent, all well afterwards.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import wide_console
from benchmarks.served_model import Served, run_seconds, screc_serve, served, spared_core, write_artifact
from benchmarks.workload import Workload, kaggle
from screc.data import CRITEO_KAGGLE_ROWS
from screc.serving.load import GrpcTarget, HttpTarget, LoadConfig, LoadGenerator, Pace, Summary

SLA_MS = 25.0
REFUSAL_MS = 10.0
_DEADLINE_MS = 8
_TIMES = 3
# Of what the process had after its first seconds of overload: buffers of connections come and go.
_GROWTH = 1.05
FOLDER = Path("run/served")


def small_kaggle() -> Workload:
    """The Kaggle model over a hundredth of its rows."""
    return kaggle([max(1, rows // 100) for rows in CRITEO_KAGGLE_ROWS])


class Memory:
    """Watches a server's resident memory while the block runs.

    Attributes:
        samples: (seconds since the start, bytes), every second.
    """

    def __init__(self, server: Served) -> None:
        self.samples: list[tuple[float, int]] = []
        self._server, self._over = server, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._began = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(1.0):
            self.samples.append((time.perf_counter() - self._began, self._server.resident_bytes()))

    def growth(self, after_s: float) -> float:
        """The most that it had in the last quarter of the time, as a multiple of what it had after so many
        seconds; 1 where the run was too short to tell."""
        settled = [size for seconds, size in self.samples if seconds >= after_s]
        return max(settled[-max(1, len(settled) // 4) :]) / settled[0] if len(settled) >= 2 else 1.0


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    artifact = FOLDER / "small-fp32"
    artifact.parent.mkdir(parents=True, exist_ok=True)
    write_artifact(small_kaggle(), artifact, precision="fp32")
    seconds = 4.0 if quick else run_seconds(60.0)
    results = {transport: _overload(artifact, transport, seconds, console) for transport in ("rest", "grpc")}
    return {
        "settings": {"sla_ms": SLA_MS, "refusal_ms": REFUSAL_MS, "times": _TIMES, "seconds": seconds},
        "results": results,
        "ratios": {
            f"overload.{transport}.{name}": round(one[name], 4)
            for transport, one in results.items()
            for name in ("accepted_p99_ms", "refusal_p99_ms", "memory_growth")
        },
    }


def _overload(artifact: Path, transport: str, seconds: float, console: Console) -> dict[str, Any]:
    with served(screc_serve([f"small={artifact}"], "--deadline-ms", _DEADLINE_MS, *spared_core())) as server:
        assert server.grpc is not None
        target = HttpTarget(server.http) if transport == "rest" else GrpcTarget(server.grpc)
        pace = Pace(timeout_s=5.0, connections=512)
        generator = LoadGenerator(target, LoadConfig(sizes="200", pool=256, pace=pace))
        generator.peak(0.5)
        # Few at a time, so that none waits longer than it may: refusals would look like a lower capacity.
        capacity = generator.peak(1.0 if seconds < 10 else 3.0, in_flight=3).answered_rate
        with Memory(server) as memory:
            over = generator.run(_TIMES * capacity, seconds)
        after = generator.run(0.3 * capacity, min(5.0, seconds))
    result = {
        "capacity_requests_per_s": capacity,
        "overload": over.as_dict(),
        "after": after.as_dict(),
        "accepted_p99_ms": over.latency_ms.get("p99", float("inf")),
        "refusal_p99_ms": over.refusal_after_sending_ms.get("p99", 0.0),
        "memory_growth": memory.growth(min(10.0, seconds / 4)),
        "memory_bytes": [size for _, size in memory.samples],
    }
    result["kept"] = {
        "accepted within the SLA": result["accepted_p99_ms"] <= SLA_MS,
        "refused within 10 ms of being sent": result["refusal_p99_ms"] <= REFUSAL_MS,
        "no growth of memory": result["memory_growth"] <= _GROWTH,
        "nothing failed": over.outcomes["failed"] == 0,
        "all well afterwards": after.outcomes["ok"] == after.requests,
    }
    _print(console, transport, capacity, over, result)
    return result


def _print(console: Console, transport: str, capacity: float, over: Summary, result: dict[str, Any]) -> None:
    view = Table("", "", title=f"{transport}: {over.offered_rate:,.0f}/s where {capacity:,.0f}/s is the most")
    view.add_row("outcomes", ", ".join(f"{name} {count:,}" for name, count in over.outcomes.items()))
    view.add_row("answered/s", f"{over.answered_rate:,.0f}")
    for name, values in (
        ("accepted [ms]", over.latency_ms),
        ("refused, from sending [ms]", over.refusal_after_sending_ms),
        ("refused, from when due [ms]", over.refusal_ms),
        ("client late [ms]", over.lag_ms),
    ):
        view.add_row(name, ", ".join(f"{quantile} {value:.2f}" for quantile, value in values.items()))
    view.add_row("memory", f"{result['memory_growth']:.3f} x")
    for name, kept in result["kept"].items():
        view.add_row(name, "yes" if kept else "NO")
    console.print(view)
    for fault, count in over.faults.items():
        console.print(f"{count:,} x {fault}", markup=False)

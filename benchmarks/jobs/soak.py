"""Job ``soak``: ten minutes at 70 % of what the server takes, while its model is swapped again and again.

Two versions of a small model, with other weights, take turns every few seconds. What each predicts for every
request was computed beforehand by an engine of its own (the shadow), and every answer must be, to the bit,
that of the version that it names. Wanted: no wrong answer, no failed request, flat memory.
"""

from __future__ import annotations

import http.client
import json
import threading
from urllib.parse import urlsplit

import numpy as np

from benchmarks.comparison import wide_console
from benchmarks.jobs.overload import FOLDER, Memory, small_kaggle
from benchmarks.served_model import run_seconds, screc_serve, served, spared_core, write_artifact
from screc.serving import Engine
from screc.serving.load import (
    EngineTarget,
    HttpTarget,
    LoadConfig,
    LoadGenerator,
    Outcome,
    Pace,
    ZipfSamples,
    drive,
    poisson_arrivals,
)
from screc.serving.load import http as over_http
from screc.serving.load.content import queries

_LOAD = 0.7
_POOL = 256
_SIZES = (200, 120, 1, 300)
_GROWTH = 1.05


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    repository = FOLDER / "soak"
    (repository / "ranker").mkdir(parents=True, exist_ok=True)
    versions = {str(number): repository / "ranker" / str(number) for number in (1, 2)}
    for number, path in versions.items():
        write_artifact(small_kaggle(), path, precision="fp32", seed=int(number))
    seconds, every = (6.0, 1.0) if quick else (run_seconds(600.0), 10.0)
    shape = EngineTarget(Engine.open(versions["1"], threads=1)).shape
    batches = queries(ZipfSamples(shape, seed=1), np.resize(_SIZES, _POOL))
    shadow = {}
    for number, path in versions.items():
        engine = Engine.open(path, threads=1)
        shadow[number] = [engine.predict(batch).tobytes() for batch in batches]
    with served(screc_serve(["--repository", str(repository)], *spared_core())) as server:
        address = over_http.Address.of_url(server.http)
        generator = LoadGenerator(HttpTarget(server.http), LoadConfig(sizes="200", pool=_POOL))
        generator.peak(0.5)
        capacity = generator.peak(1.0 if quick else 3.0).samples_rate / float(np.mean(_SIZES))
        requests = [over_http.infer_request(address, "ranker", batch) for batch in batches]
        answers = dict.fromkeys(versions, 0)
        wrong = 0

        def check(number: int, body: bytes) -> None:
            nonlocal wrong
            version = "2" if b'"model_version":"2"' in body[:200] else "1"
            answers[version] += 1
            right = shadow[version][number % _POOL]
            wrong += not (body.endswith(right) and len(body) < len(right) + 400)

        arrivals = poisson_arrivals(_LOAD * capacity, seconds, seed=1)
        console.print(f"{len(arrivals):,} requests in {seconds:.0f} s, {_LOAD:.0%} of {capacity:,.0f}/s")
        with Memory(server) as memory, _Swaps(server.http, every) as swaps:
            trace = drive(
                lambda: over_http.HttpConnection(address), requests, arrivals, Pace(), answered=check
            )
    outcomes = {kind.name.lower(): int((trace.outcomes == kind).sum()) for kind in Outcome}
    latency = {
        f"p{q:g}": 1e3 * float(np.quantile(trace.latencies[trace.outcomes == Outcome.OK], q / 100))
        for q in (50, 95, 99, 99.9, 100)
    }
    growth = memory.growth(min(60.0, seconds / 4))
    kept = {
        "no wrong answer": wrong == 0,
        "no failed request": outcomes["ok"] == len(arrivals),
        "both versions answered": min(answers.values()) > 0,
        "every swap was made": swaps.failed == 0 and swaps.made > 0,
        "flat memory": growth <= _GROWTH,
    }
    console.print(f"outcomes {outcomes}, wrong answers {wrong}, by version {answers}, swaps {swaps.made}")
    console.print(", ".join(f"{name} {value:.2f} ms" for name, value in latency.items()))
    console.print(f"memory at the end {growth:.3f} x that after the first minute")
    for name, well in kept.items():
        console.print(f"{name}: {'yes' if well else 'NO'}")
    return {
        "settings": {"seconds": seconds, "load": _LOAD, "swap_every_s": every, "sizes": _SIZES},
        "results": {
            "requests": len(arrivals),
            "capacity_requests_per_s": capacity,
            "outcomes": outcomes,
            "faults": dict(trace.faults),
            "wrong": wrong,
            "answers_by_version": answers,
            "swaps": swaps.made,
            "latency_ms": latency,
            "memory_bytes": [size for _, size in memory.samples],
            "kept": kept,
        },
        "ratios": {
            "soak.wrong": wrong,
            "soak.not_answered": len(arrivals) - outcomes["ok"],
            "soak.memory_growth": round(growth, 4),
        },
    }


class _Swaps:
    """Loads the other version every few seconds while the block runs.

    Attributes:
        made, failed: swaps.
    """

    def __init__(self, url: str, every: float) -> None:
        self.made = self.failed = 0
        self._where, self._every, self._over = urlsplit(url), every, threading.Event()
        self._thread = threading.Thread(target=self._swap, daemon=True)

    def __enter__(self) -> _Swaps:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _swap(self) -> None:
        version = 1
        while not self._over.wait(self._every):
            client = http.client.HTTPConnection(self._where.hostname or "", self._where.port, timeout=60)
            body = json.dumps({"parameters": {"version": str(version)}})
            try:
                client.request("POST", "/v2/repository/models/ranker/load", body)
                well = client.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                well = False
            finally:
                client.close()
            self.made, self.failed = self.made + well, self.failed + (not well)
            version = 3 - version

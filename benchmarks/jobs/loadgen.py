"""Job ``loadgen``: MLPerf's LoadGen (``mlcommons-loadgen``) drives the engine: scenarios Server and Offline.

**Not a submission**, and no result of MLPerf's: random weights, random samples, no accuracy run, short tests.
LoadGen is here as the generator that others compare by. A sample is one query of 200 candidates.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import wide_console
from benchmarks.jobs.overload import FOLDER, small_kaggle
from benchmarks.served_model import write_artifact
from screc.data import Batch
from screc.serving import Engine
from screc.serving.load import EngineTarget, LoadConfig, LoadGenerator, Search, Sla, ZipfSamples
from screc.serving.load.content import queries

CANDIDATES = 200
_POOL = 256
_LATENCY_S = 0.025


class _Sut:
    """The engine as LoadGen's system under test: one thread answers, in the order of the queries."""

    def __init__(self, loadgen: Any, engine: Engine, batches: list[Batch]) -> None:
        self._loadgen, self._engine, self._batches = loadgen, engine, batches
        self._queue: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def issue(self, samples: list[Any]) -> None:
        """LoadGen's call with queries."""
        self._queue.put(list(samples))

    def flush(self) -> None:
        """LoadGen's call at the end of a series."""

    def close(self) -> None:
        """Ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (samples := self._queue.get()) is not None:
            for sample in samples:
                answer = self._engine.predict(self._batches[sample.index])
                response = self._loadgen.QuerySampleResponse(sample.id, answer.ctypes.data, answer.nbytes)
                self._loadgen.QuerySamplesComplete([response])


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's parts."""
    console = wide_console()
    try:
        import mlperf_loadgen as loadgen
    except ImportError:
        console.print("mlcommons-loadgen is not installed: pip install 'screc[bench]'")
        return {"absent": {"loadgen": "mlcommons-loadgen is not installed"}, "ratios": {}}
    artifact = FOLDER / "small-fp32"
    artifact.parent.mkdir(parents=True, exist_ok=True)
    write_artifact(small_kaggle(), artifact, precision="fp32")
    engine = Engine.open(artifact)
    target = EngineTarget(engine)
    batches = queries(ZipfSamples(target.shape, seed=1), np.full(_POOL, CANDIDATES))
    seconds = 1.0 if quick else 20.0
    generator = LoadGenerator(target, LoadConfig(sizes=str(CANDIDATES), pool=_POOL))
    ours = generator.capacity(
        Sla(latency_s=_LATENCY_S, percentile=99), Search(trial_s=seconds / 4, confirm_s=seconds / 4)
    )
    console.print("MLPerf LoadGen; not a submission")
    results: dict[str, dict[str, float | str]] = {}
    for scenario in ("Offline", "Server"):
        results[scenario.lower()] = _test(loadgen, engine, batches, scenario, ours.rate, seconds)
        console.print(f"{scenario}: {results[scenario.lower()]}")
    offline = float(results["offline"].get("Samples per second", 0))
    return {
        "note": "not an MLPerf submission, nor a result of MLPerf's",
        "settings": {"candidates": CANDIDATES, "latency_s": _LATENCY_S, "seconds": seconds},
        "results": results | {"screc_load": {"queries_per_s": ours.rate}},
        "ratios": {"loadgen.offline.samples_per_s": round(offline * CANDIDATES, 1)},
    }


def _test(
    loadgen: Any, engine: Engine, batches: list[Batch], scenario: str, rate: float, seconds: float
) -> dict[str, float | str]:
    """One test of LoadGen's, and the numbers of its summary."""
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(1e3 * seconds)
    settings.max_duration_ms = round(3e3 * seconds)
    settings.min_query_count = 1 if scenario == "Offline" else 64
    settings.offline_expected_qps = rate
    settings.server_target_qps = 0.8 * rate
    settings.server_target_latency_ns = round(1e9 * _LATENCY_S)
    settings.server_target_latency_percentile = 0.99
    with tempfile.TemporaryDirectory() as folder:
        output = loadgen.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logs = loadgen.LogSettings()
        logs.log_output, logs.enable_trace = output, False
        system = _Sut(loadgen, engine, batches)
        sut = loadgen.ConstructSUT(system.issue, system.flush)
        library = loadgen.ConstructQSL(len(batches), len(batches), lambda _: None, lambda _: None)
        try:
            loadgen.StartTestWithLogSettings(sut, library, settings, logs)
        finally:
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(sut)
            system.close()
        return _summary((Path(folder) / "mlperf_log_summary.txt").read_text())


def _summary(text: str) -> dict[str, float | str]:
    """``name : value`` lines of LoadGen's summary, up to its list of settings."""
    found: dict[str, float | str] = {}
    for line in text.partition("Test Parameters Used")[0].splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip():
            try:
                found[name.strip()] = float(value)
            except ValueError:
                found[name.strip()] = value.strip()
    return found

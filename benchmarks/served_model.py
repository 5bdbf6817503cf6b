"""A model on disk for the jobs that measure servers: random weights in the shape of a workload, packed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.machine import PEER_ENVIRONMENT
from benchmarks.workload import RandomTables, Workload, dense_tensors
from screc.serving import Engine, PrecisionReport, arithmetic_of, calibrate
from screc.storage import DensePrecision, StoredTable, TableLayout, pack, write_checkpoint
from screc.storage.dense_precision import Precision

SEED = 1
_CALIBRATION = 16_384


def write_artifact(
    workload: Workload, path: Path, *, precision: Precision = "int8", seed: int = SEED
) -> None:
    """Packs a model of random weights, rows in float32; one that is there already is kept.

    Its dense layers are computed in ``precision``, calibrated on random samples. Whether that keeps the AUC
    of a trained model of this shape is what job ``kaggle`` measures.
    """
    if path.exists():
        return
    checkpoint = path.with_name(path.name + ".checkpoint")
    tables = RandomTables(workload.rows, workload.embedding_dim, seed=seed)
    bottom, top = workload.layers(np.random.default_rng(seed))
    try:
        write_checkpoint(
            checkpoint,
            model=workload.model,
            tables=[
                StoredTable(TableLayout.dense(f"t{number}", rows, workload.embedding_dim), "sum")
                for number, rows in enumerate(workload.rows)
            ],
            dense=dense_tensors(bottom, top),
            table_tensors=lambda table: {"band.0.rows": tables[table]},
            training={},
        )
        pack(
            checkpoint,
            None,
            None,
            path,
            choose_precision=lambda directory: _precision(directory, workload, precision),
        )
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)


def _precision(directory: Path, workload: Workload, precision: Precision) -> DensePrecision:
    engine = Engine.open(directory)
    sample = workload.batch(np.random.default_rng(SEED), _CALIBRATION, "zipf")
    arithmetic = arithmetic_of(engine, precision, calibrate(engine, [sample]))
    report = PrecisionReport(
        precision=precision, layers=dict(arithmetic.layers), num_samples=_CALIBRATION, accuracy={}
    )
    return DensePrecision(document=report.model_dump(), ranges=arithmetic.ranges)


def run_seconds(default: float) -> float:
    """How long a job of one long run lasts: ``SCREC_BENCH_SECONDS``, or the default."""
    return float(os.environ.get("SCREC_BENCH_SECONDS", default))


@dataclass(frozen=True, slots=True)
class Served:
    """A server process.

    Attributes:
        pid: of it.
        http: URL.
        grpc: URL; None where it has none.
    """

    pid: int
    http: str
    grpc: str | None

    def resident_bytes(self) -> int:
        """What it has in memory now, shared pages included."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    def cpu_seconds(self) -> float:
        """Processor time that it has used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(command: list[str], *, peer: bool = False) -> Iterator[Served]:
    """Runs a server that prints ``{"http": …, "grpc": …}`` once it takes requests, and ends it with SIGTERM.

    Args:
        command: after the interpreter.
        peer: gets the settings of memory that PyTorch users set for speed.

    Raises:
        RuntimeError: it did not start, or did not end well.
    """
    environment = {name: value for name, value in os.environ.items() if peer or name not in PEER_ENVIRONMENT}
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    )
    assert process.stdout is not None
    try:
        lines = ""
        for line in process.stdout:
            lines += line
            try:
                found = json.loads(lines)
            except ValueError:
                continue
            grpc = found.get("grpc")
            yield Served(process.pid, found["http"], f"grpc://{grpc}" if grpc else None)
            break
        else:
            raise RuntimeError(f"{' '.join(command)}: did not start")
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    if code not in (0, -signal.SIGTERM):
        raise RuntimeError(f"{' '.join(command)}: ended with code {code}")


def screc_serve(artifacts: list[str], *options: object) -> list[str]:
    """The command of our server on free ports."""
    return ["-m", "screc.cli", "serve", *artifacts, *("--port", "0", "--grpc-port", "0", "--json")] + [
        str(option) for option in options
    ]


def spared_core() -> tuple[object, ...]:
    """Options of our server: one core is for the protocols and the client, the others compute whole requests.
    On two cores the setting with the highest load and the shortest tail of those tried."""
    return ("--threads", max(1, len(os.sched_getaffinity(0)) - 1), "--split", 256, "--max-batch", 256)

"""Job ``resident``: a model many times larger than its DRAM budget, served within it.

Generates a DLRM with >= 8 GB of fp32 rows (random weights), counts accesses on generated traffic, plans with
``--dram 500MB``, packs, verifies, and predicts in a process of its own whose peak resident memory is read
from the kernel. Every step is the command a user would type.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks.machine import PEER_ENVIRONMENT
from benchmarks.workload import dense_tensors, kaggle
from screc.data import open_log
from screc.storage import StoredTable, TableLayout, write_checkpoint


def generate_checkpoint(path: Path, source: str) -> int:
    """Write a checkpoint with random weights for the generator's tables; returns the bytes of its rows."""
    log = open_log(source)
    generator = np.random.default_rng(1)
    workload = kaggle([table.num_embeddings for table in log.tables])
    dim = workload.embedding_dim
    bottom, top = workload.layers(generator)
    tables = [
        StoredTable(layout=TableLayout.dense(table.name, table.num_embeddings, dim), pooling=table.pooling)
        for table in log.tables
    ]

    def rows(table: int) -> dict[str, np.ndarray]:
        count = tables[table].layout.num_embeddings
        return {"band.0.rows": 0.1 * generator.standard_normal((count, dim), dtype=np.float32)}

    write_checkpoint(
        path,
        model=workload.model,
        tables=tables,
        dense=dense_tensors(bottom, top),
        table_tensors=rows,
        training={},
    )
    return workload.row_bytes


def screc(folder: Path, *arguments: object) -> dict:
    """Run a verb with --json in its own process in ``folder`` and return what it printed."""
    command = [sys.executable, "-m", "screc.cli", *map(str, arguments), "--json"]
    environment = {name: value for name, value in os.environ.items() if name not in PEER_ENVIRONMENT}
    result = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(result.stdout)


def run(*, quick: bool) -> dict[str, object]:
    """Generate, profile, plan, pack, verify, predict; returns the report's parts."""
    console = Console()
    scale, dram, rows = (0.25, "100MB", 20_000) if quick else (4.0, "500MB", 400_000)
    source = f"synthetic:rows={rows},seed=1,scale={scale}"
    held_out = f"synthetic:rows={rows // 4},seed=1,scale={scale},first={rows}"
    folder = Path(tempfile.mkdtemp(prefix="screc-resident-", dir=Path.cwd()))
    seconds: dict[str, float] = {}
    try:
        begin = time.perf_counter()
        row_bytes = generate_checkpoint(folder / "model", source)
        seconds["generate"] = time.perf_counter() - begin
        console.print(f"resident: {row_bytes / 1e9:.2f} GB of fp32 rows, DRAM budget {dram}")
        steps = {
            "probe": ("probe",),
            "profile": ("profile", "--data", source, "--out", "statistics"),
            # Random rows are no tensor train, so every cold row has to be read from SSD.
            "plan": (
                *("plan", "--statistics", "statistics", "--system", "system.json", "--model", "model"),
                *("--dram", dram, "--no-tt"),
            ),
            "pack": (
                *("pack", "model", "--plan", "plan.json", "--statistics", "statistics"),
                *("--out", "artifact"),
            ),
            "verify": ("verify", "artifact"),
            "predict": ("predict", "artifact", "--data", held_out, "--out", "predictions.npy"),
        }
        results = {}
        for name, command in steps.items():
            begin = time.perf_counter()
            results[name] = screc(folder, *command)
            seconds[name] = time.perf_counter() - begin
            console.print(f"  {name}: {seconds[name]:.1f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    plan = results["plan"]
    peak, budget = results["predict"]["peak_resident_bytes"], plan["budget"]["dram_bytes"]
    console.print(
        f"peak resident memory of `screc predict`: {peak / 1e6:.0f} MB for a DRAM budget of "
        f"{budget / 1e6:.0f} MB ({peak / budget:.2f}x; limit 1.25x), "
        f"{results['predict']['samples_per_s']:,.0f} samples/s"
    )
    if peak > 1.25 * budget and not quick:  # a quick budget is about the size of the interpreter
        console.print("[red]over the limit[/red]")
    return {
        "settings": {"row_bytes": row_bytes, "dram": dram, "source": source},
        "results": {
            "plan": {
                "budget": plan["budget"],
                "gap": plan["gap"],
                "predicted": {name: value for name, value in plan["predicted"].items() if name != "tables"},
            },
            "pack": results["pack"],
            "verify": results["verify"],
            "predict": results["predict"],
            "seconds": seconds,
        },
        "ratios": {
            "resident.peak_vs_budget": round(peak / budget, 4),
            "resident.row_bytes_vs_peak": round(row_bytes / peak, 3),
        },
    }

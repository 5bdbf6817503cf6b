"""Job ``kaggle``: the Criteo-Kaggle DLRM, all rows in DRAM as fp32, against PyTorch eager.

26 tables with the Kaggle row counts (33.8 M rows x 16), bottom 13-512-256-64-16, top 512-256-1, random
weights, Zipf(1.05) and uniform ids, B = 1 to 4096, all cores. Both sides read the same weight arrays (huge
pages included) and must agree within 1e-5 before anything is timed.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.interleave import Timing, measure
from benchmarks.peers.pytorch_eager import EagerDlrm, torch_inputs
from screc import _native
from screc.data import CRITEO_KAGGLE_ROWS, Batch
from screc.serving import Engine

DIM, NUM_DENSE = 16, 13
BOTTOM, TOP = (512, 256, 64, DIM), (512, 256, 1)
BATCH_SIZES = (1, 16, 128, 1024, 4096)
ZIPF_EXPONENT = 1.05
MODEL = {
    "name": "dlrm",
    "num_dense": NUM_DENSE,
    "embedding_dim": DIM,
    "bottom_mlp": list(BOTTOM),
    "top_mlp": list(TOP),
    "interaction": "dot",
}


def random_layers(generator: np.random.Generator, width: int, widths: tuple[int, ...]) -> list:
    """(weight [out, in], bias [out]) per layer, scaled so that activations neither die nor grow."""
    layers = []
    for out in widths:
        weight = generator.standard_normal((out, width), dtype=np.float32) * np.sqrt(2 / width)
        layers.append((weight.astype(np.float32), 0.1 * generator.standard_normal(out, dtype=np.float32)))
        width = out
    return layers


def dense_tensors(bottom: list, top: list) -> dict[str, np.ndarray]:
    """The layers by their names in docs/format.md."""
    return {
        f"{name}.{number}.{kind}": array
        for name, layers in (("bottom", bottom), ("top", top))
        for number, layer in enumerate(layers)
        for kind, array in zip(("weight", "bias"), layer, strict=True)
    }


def random_table(generator: np.random.Generator, rows: int) -> np.ndarray:
    """float32 [rows, DIM] in huge pages, small normal values."""
    table = _native.empty(rows * DIM * 4).view(np.float32).reshape(rows, DIM)
    generator.standard_normal(out=table, dtype=np.float32)
    table *= 0.1
    return table


def random_batch(generator: np.random.Generator, rows: list[int], size: int, skew: str) -> Batch:
    """One id per table; Zipf ranks by the bounded continuous inverse, scattered over the table."""
    ids = np.empty((len(rows), size), dtype=np.int64)
    for table, count in enumerate(rows):
        uniform = generator.random(size)
        if skew == "zipf":
            power = 1 - ZIPF_EXPONENT
            rank = (1 - uniform * (1 - (count + 1) ** power)) ** (1 / power) - 1
            rank = np.minimum(rank.astype(np.int64), count - 1)
            ids[table] = (rank * 2_654_435_761 + 12_345) % count
        else:
            ids[table] = (uniform * count).astype(np.int64)
    return Batch(
        dense=generator.standard_normal((size, NUM_DENSE), dtype=np.float32),
        ids=ids.ravel(),
        offsets=np.arange(len(rows) * size + 1, dtype=np.int64),
    )


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's ``results``, ``ratios`` and ``settings``."""
    console = Console()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    generator = np.random.default_rng(1)
    rows = [max(1, count // 100) if quick else count for count in CRITEO_KAGGLE_ROWS]
    console.print(
        f"kaggle: {sum(rows):,} rows x {DIM}, {sum(rows) * DIM * 4 / 1e9:.2f} GB fp32, {threads} threads"
    )
    tables = [random_table(generator, count) for count in rows]
    bottom = random_layers(generator, NUM_DENSE, BOTTOM)
    features = len(rows) + 1
    top = random_layers(generator, DIM + features * (features - 1) // 2, TOP)

    engine = Engine.from_arrays(MODEL, dense_tensors(bottom, top), tables, threads=threads)
    eager = EagerDlrm(tables, bottom, top).eval()
    results: dict[str, object] = {}
    ratios: dict[str, float] = {}
    flops = 2 * sum(weight.size for weight, _ in (*bottom, *top)) + features * (features - 1) * DIM
    view = Table("ids", "B", "eager ms", "screc ms", "screc samples/s", "ratio", "GFLOP/s", "spread")
    for skew in ("zipf", "uniform"):
        for size in BATCH_SIZES:
            # Many batches in turn, so that neither side finds the rows of one batch in its cache again.
            batches = [
                random_batch(generator, rows, size, skew) for _ in range(max(4, min(512, 65_536 // size)))
            ]
            inputs = [torch_inputs(batch) for batch in batches]
            turn = {"screc": 0, "eager_fp32": 0}

            def ours(batches: list = batches, turn: dict = turn) -> np.ndarray:
                turn["screc"] += 1
                return engine.predict(batches[turn["screc"] % len(batches)])

            def theirs(inputs: list = inputs, turn: dict = turn) -> torch.Tensor:
                turn["eager_fp32"] += 1
                with torch.inference_mode():
                    return eager(*inputs[turn["eager_fp32"] % len(inputs)])

            difference = float(np.abs(ours() - theirs().numpy()).max())
            if difference > 1e-5:
                raise RuntimeError(
                    f"{skew} B={size}: predictions differ by {difference:.2e}; nothing was timed"
                )
            timing = measure(
                {"screc": ours, "eager_fp32": theirs},
                rounds=3 if quick else 9,
                seconds_per_round=0.1 if quick else 0.5,
            )
            key = f"kaggle.{skew}.b{size}"
            ratio = timing["eager_fp32"].median / timing["screc"].median
            ratios[f"{key}.vs_eager_fp32"] = round(ratio, 3)
            results[key] = {name: as_dict(value, size) for name, value in timing.items()}
            results[key]["max_abs_difference"] = difference
            view.add_row(
                skew,
                str(size),
                f"{timing['eager_fp32'].median * 1e3:.3f}",
                f"{timing['screc'].median * 1e3:.3f}",
                f"{size / timing['screc'].median:,.0f}",
                f"{ratio:.2f}x",
                f"{flops * size / timing['screc'].median / 1e9:.0f}",
                f"{timing['screc'].spread:.0%}",
            )
    console.print(view)
    settings = {
        "rows": sum(rows),
        "embedding_dim": DIM,
        "threads": threads,
        "torch": torch.__version__,
        "zipf_exponent": ZIPF_EXPONENT,
        "flops_per_sample": flops,
        "row_bytes_per_sample": len(rows) * DIM * 4,
    }
    return {"settings": settings, "results": results, "ratios": ratios}


def as_dict(timing: Timing, batch_size: int) -> dict[str, object]:
    """A timing for the report: milliseconds per call and samples per second."""
    return {
        "median_ms": timing.median * 1e3,
        "rounds_ms": [seconds * 1e3 for seconds in timing.rounds],
        "fastest_ms": timing.fastest * 1e3,
        "calls": timing.calls,
        "samples_per_s": batch_size / timing.median,
    }

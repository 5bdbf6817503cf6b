"""Job ``dense``: the dense part of the Criteo-Kaggle DLRM by part, in fp32, bf16 and int8, on one thread.

Every layer of 13-512-256-64-16 and 367-512-256-1 alone, each writing as the next one reads it, and the dot
interaction of 27 features of 16, at 1, 16 and 96 rows. Two limits stand beside each precision: the best rate
that any product of the job reached stands for arithmetic, and for M = 1 the rate at which weights were read.
Layers that stay float32 (see docs/guide/precision.md) do so here.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.interleave import measure
from screc import _native
from screc.storage.dense_precision import PRECISIONS, Precision, layer_precision

LAYERS = {
    "bottom": (13, 512, 256, 64, 16),
    "top": (367, 512, 256, 1),
}
ROWS = (1, 16, 96)
FEATURES, DIM = 27, 16
STORED = {"fp32": np.float32, "bf16": np.uint16, "int8": np.uint8}
WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


def make_layer(generator: np.random.Generator, inputs: int, outputs: int, precision: Precision) -> Any:
    """A packed layer of random weights whose inputs span [-1, 4]."""
    weight = (generator.standard_normal((outputs, inputs)) / np.sqrt(inputs)).astype(np.float32)
    span = np.stack([np.full(inputs, -1), np.full(inputs, 4)]).astype(np.float32)
    return _native.Linear(weight, np.zeros(outputs, np.float32), precision, span)


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's ``results`` and ``settings``."""
    console = Console()
    generator = np.random.default_rng(0)
    arms: dict[str, Any] = {}
    work: dict[str, tuple[str, int, int, int]] = {}  # precision, rows, operations, bytes of weights

    def add(name: str, precision: str, rows: int, operations: int, weights: int, call: Any) -> None:
        arms[name], work[name] = call, (precision, rows, operations, weights)

    for rows in ROWS:
        features = generator.standard_normal((rows, FEATURES, DIM)).astype(np.float32)
        pairs = np.empty((rows, FEATURES * (FEATURES - 1) // 2), np.float32)
        add(
            f"interaction.m{rows}", "fp32", rows, rows * pairs.shape[1] * 2 * DIM, 0,
            lambda features=features, pairs=pairs: _native.interact(features, pairs),
        )  # fmt: skip
    for wanted in PRECISIONS:
        for mlp, widths in LAYERS.items():
            shapes = list(pairwise(widths))
            kinds = [layer_precision(wanted, outputs, inputs) for inputs, outputs in shapes]
            for i, (inputs, outputs) in enumerate(shapes):
                layer = make_layer(generator, inputs, outputs, kinds[i])
                written: Precision = kinds[i + 1] if i + 1 < len(kinds) else "fp32"
                following = make_layer(generator, outputs, 8, written)
                for rows in ROWS:
                    x = np.empty((rows, inputs), STORED[kinds[i]])
                    layer.encode(generator.standard_normal((rows, inputs)).astype(np.float32), x)
                    out = np.empty((rows, outputs), STORED[written])
                    add(
                        f"{wanted}.{mlp}.{i}.m{rows}", kinds[i], rows, 2 * rows * inputs * outputs,
                        inputs * outputs * WEIGHT_BYTES[kinds[i]],
                        lambda layer=layer, x=x, out=out, next=following: layer.forward(x, out, True, next),
                    )  # fmt: skip
    x, out = np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32)
    nothing = make_layer(generator, 1, 1, "fp32")
    timings = measure(
        arms | {"call": lambda: nothing.forward(x, out, True, nothing)},
        rounds=3 if quick else 9,
        seconds_per_round=0.01 if quick else 0.05,
    )
    overhead = timings["call"].fastest  # of Python, the binding and the clock
    seconds = {name: max(timings[name].fastest - overhead, 1e-9) for name in arms}
    return {
        "settings": {"rows": list(ROWS), "overhead_us": overhead * 1e6, "isa": _native.isa()},
        "results": _results(console, seconds, work),
        "ratios": {},
    }


def _results(
    console: Console, seconds: dict[str, float], work: dict[str, tuple[str, int, int, int]]
) -> dict[str, dict[str, float]]:
    results = {}
    peak = dict.fromkeys(PRECISIONS, 0.0)
    for name, (precision, rows, operations, weights) in work.items():
        rate = operations / seconds[name]
        peak[precision] = max(peak[precision], rate)
        results[name] = {
            "us": seconds[name] * 1e6,
            "us_per_row": seconds[name] / rows * 1e6,
            "giga_operations_per_s": rate / 1e9,
            "weight_gigabytes_per_s": weights / seconds[name] / 1e9,
        }
    view = Table("part", *(f"us a row, M={rows}" for rows in ROWS), "Gop/s, M=96", "of the best", "GB/s, M=1")
    for part in dict.fromkeys(name.rpartition(".")[0] for name in work):
        largest = results[f"{part}.m{ROWS[-1]}"]
        precision = work[f"{part}.m{ROWS[-1]}"][0]
        view.add_row(
            part,
            *(f"{results[f'{part}.m{rows}']['us_per_row']:.3f}" for rows in ROWS),
            f"{largest['giga_operations_per_s']:.0f} ({precision})",
            f"{largest['giga_operations_per_s'] * 1e9 / peak[precision]:.0%}",
            f"{results[f'{part}.m1']['weight_gigabytes_per_s']:.0f}",
        )
    for wanted in PRECISIONS:
        sums = [
            sum(one["us_per_row"] for name, one in results.items() if _belongs(name, wanted, rows))
            for rows in ROWS
        ]
        view.add_row(f"{wanted}, all layers", *(f"{total:.2f}" for total in sums), "", "", "")
    console.print(view)
    return results


def _belongs(name: str, wanted: str, rows: int) -> bool:
    return name.startswith(f"{wanted}.") and name.endswith(f".m{rows}")

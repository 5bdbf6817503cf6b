"""Job ``planner``: how long planning takes, and how far its plans are from a bound that holds for all plans.

Made-up access counts (pure Zipf) of tables of the sizes of the Criteo-Kaggle log, and of the 856 tables of a
production model (:mod:`screc.data.population`); machines are presets. Seconds are of this host, everything
from access counts to the checked plan included. Nothing here says that a prediction is right.
"""

from __future__ import annotations

import time

import numpy as np
from rich.table import Table

from benchmarks.comparison import wide_console
from screc.data.population import TablePopulation
from screc.planning import InfeasibleBudget, make_plan, reference_system, server, smartssd_array
from screc.statistics import AccessStatistics, TableStatistics

_KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
_SAMPLES = 1_000_000
_SEEN = 20_000
_FORMATS = ("fp32", "int8")


def _zipf(name: str, rows: int, pooling: float, exponent: float) -> TableStatistics:
    """Counts in proportion to a power of the rank."""
    seen = min(rows, _SEEN)
    weights = np.arange(1, seen + 1) ** -exponent
    counts = np.maximum(1, weights / weights.sum() * pooling * _SAMPLES).astype(np.int64)
    return TableStatistics.from_counts(name, rows, np.arange(seen), counts, num_samples=_SAMPLES)


def run(*, quick: bool) -> dict[str, object]:
    """Plan, print, and return the report's parts."""
    random = np.random.default_rng(0)
    kaggle = AccessStatistics(tuple(_zipf(f"t{n}", rows, 1.0, 1.05) for n, rows in enumerate(_KAGGLE_ROWS)))
    cases = {
        f"planner.t26_dram{percent}": (
            kaggle,
            16,
            reference_system(),
            {"dram_fraction": percent / 100, "batch_size": 2048},
        )
        for percent in (2, 5, 10, 25)
    }
    if not quick:
        population = TablePopulation.draw(1_290 * 10**9)
        large = AccessStatistics(
            tuple(
                _zipf(f"t{n}", int(rows), float(traffic), float(random.uniform(0.8, 1.3)))
                for n, (rows, traffic) in enumerate(zip(population.rows, population.traffic, strict=True))
            )
        )
        dims = {f"t{n}": int(dim) for n, dim in enumerate(population.dims)}
        more = {"row_formats": _FORMATS, "batch_size": 2048, "time_limit": 100.0}
        cases["planner.t856_c64"] = (large, dims, server(64), {"dram_bytes": 256 * 10**9, **more})
        for count in (16, 64):
            cases[f"planner.t856_d{count}"] = (
                large,
                dims,
                smartssd_array(count),
                {"dram_bytes": count * 4 * 10**9, "dense_flops": 10**6, **more},
            )
    view = Table(*("case", "tables", "devices", "seconds", "gap", "layouts", "of", "how"))
    ratios, results = {}, {}
    console = wide_console()
    for name, (statistics, dim, system, options) in cases.items():
        began = time.monotonic()
        try:
            plan = make_plan(statistics, dim, system, mip_gap=5e-3, **options)
        except InfeasibleBudget as error:  # these tables fit: a miss, and reported as one
            seconds = time.monotonic() - began
            results[name] = {"seconds": seconds, "no_plan": str(error)}
            view.add_row(
                name, str(len(statistics.tables)), str(system.devices.count), f"{seconds:.2f}", "none"
            )
            console.print(f"  {name}: {seconds:.1f} s, no plan: {error}")
            continue
        seconds = time.monotonic() - began
        ratios[f"{name}.seconds"], ratios[f"{name}.gap"] = round(seconds, 2), plan.gap
        results[name] = {
            "seconds": seconds,
            "gap": plan.gap,
            "value": plan.value,
            "lower_bound": plan.lower_bound,
            "status": plan.solver.status,
            "method": plan.solver.method,
            "layouts": len(plan.layouts),
            "candidates": plan.solver.candidates,
            "roles": [plan.assignment.memory, plan.assignment.compute],
            "bands": np.bincount([len(layout.bands) for layout in plan.layouts]).tolist(),
            "reasons": list(plan.reasons),
        }
        view.add_row(
            *(name, str(len(statistics.tables)), str(system.devices.count), f"{seconds:.2f}"),
            *(f"{plan.gap:.3%}", str(len(plan.layouts)), str(plan.solver.candidates), plan.solver.method),
        )
        console.print(f"  {name}: {seconds:.1f} s, gap {plan.gap:.3%}")
    console.print(view)
    return {"settings": {"mip_gap": 5e-3, "samples": _SAMPLES}, "results": results, "ratios": ratios}

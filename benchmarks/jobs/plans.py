"""Job ``plans``: what each planner's plan is worth on this host, at DRAM budgets of 2 to 25 % of the rows.

The Criteo-Kaggle DLRM with its large tables four times as long (135 M rows x 16, 8.6 GB of fp32 rows),
Zipf(1.05) ids, B = 1024, int8 layers. Access counts of a hundred million samples are drawn once. From them
every planner makes a plan for every budget; its artifact is served in a process of its own, whose memory,
page cache included, is limited to the budget and what a process needs. Rows on SSD are read past the page
cache.

The program's plan is measured in every group of arms, round by round beside the others; ratios are of times
taken in turn. Each planner may use the formats that stand beside it in ``benchmarks.plan_study.PLANNERS``;
in the program's plan and in three tiers tensor trains may answer ``MAX_TT_SHARE`` of the look-ups. What a
plan costs in accuracy is predicted by what was measured on recipe G's model; plans that cost more than
``MAX_LOSS`` are marked.
"""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import wide_console
from benchmarks.plan_picture import draw_plans
from benchmarks.plan_study import (
    BATCH_SIZE,
    FRACTIONS,
    HISTORY_SAMPLES,
    MAX_LOSS,
    MAX_TT_SHARE,
    OURS,
    PLANNERS,
    PROCESS_BYTES,
    Study,
)
from benchmarks.workload import ZIPF_EXPONENT


def run(*, quick: bool) -> dict[str, object]:
    """Measure what was not measured by an earlier run, print, and return the report's parts."""
    console = wide_console()
    study = Study(quick=quick, console=console)
    rows, size = sum(study.workload.rows), study.workload.row_bytes
    console.print(
        f"plans: {rows:,} rows x {study.workload.embedding_dim}, {size / 1e9:.1f} GB fp32, "
        f"B = {BATCH_SIZE}; {len(study.steps)} groups of arms"
    )
    for step in study.steps:
        if not study.measured(step).exists():
            console.print(f"  {step.budget}: {', '.join(step.arms)}")
            study.prepare(step)
            study.measure(step)
    study.clean()
    results = {budget: results_of(study, budget) for budget in FRACTIONS}
    ratios = ratios_of(results)
    print_results(console, study, results)
    picture = study.root / "plans.svg"
    titles = {budget: f"{fraction:.0%} of the fp32 rows" for budget, fraction in FRACTIONS.items()}
    draw_plans(results, titles, OURS, picture)
    console.print(f"picture: {picture}")
    return {
        "settings": {
            "rows": rows,
            "row_bytes": size,
            "batch_size": BATCH_SIZE,
            "history_samples": HISTORY_SAMPLES,
            "zipf_exponent": ZIPF_EXPONENT,
            "process_bytes": PROCESS_BYTES,
            "formats": {name: planner.formats for name, planner in PLANNERS.items()},
            "max_loss": MAX_LOSS,
            "max_tt_share": MAX_TT_SHARE,
            "refused": study.refusals,
        },
        "results": results,
        "ratios": ratios,
    }


def results_of(study: Study, budget: str) -> dict[str, dict[str, Any]]:
    """What was predicted and measured of every plan of a budget, by planner."""
    steps = [step for step in study.steps if step.budget == budget]
    found: dict[str, list[dict[str, Any]]] = {}
    beside: dict[str, float] = {}
    for step in steps:
        measured = json.loads(study.measured(step).read_text())
        ours = statistics.median(measured[OURS]["rounds_ms"])
        for name, entry in measured.items():
            found.setdefault(name, []).append(entry)
            beside[name] = statistics.median(entry["rounds_ms"]) / ours
    results: dict[str, dict[str, Any]] = {}
    for name, plan in study.plans[budget].items():
        same = study.same_as(budget, name)
        if same is not None:
            results[name] = {"same_as": same} | {
                key: value for key, value in results[same].items() if key != "same_as"
            }
            continue
        rounds = [one for entry in found[name] for one in entry["rounds_ms"]]
        median, predicted = statistics.median(rounds), study.predicted(plan)
        predicted_ms = 1e3 * predicted.seconds_per_batch
        results[name] = {
            "median_ms": median,
            "rounds_ms": rounds,
            "samples_per_s": 1e3 * BATCH_SIZE / median,
            "time_over_ours": beside[name],
            "predicted_ms": predicted_ms,
            "predicted_over_measured": predicted_ms / median,
            "predicted_pages_per_batch": predicted.pages_per_batch,
            "loss": study.loss(plan),
            "tt_share": predicted.tt_share,
            "dram_bytes": plan.predicted.dram_bytes,
            "row_cache_bytes": plan.options.row_cache_bytes,
            "ssd_bytes": plan.predicted.ssd_bytes,
            "limit_bytes": study.limit_bytes(budget),
            "peak_bytes": max(entry["peak_bytes"] for entry in found[name]),
            "relative_error": found[name][0]["relative_error"],
            "stats": found[name][0]["stats"],
        }
    return results


def ratios_of(results: dict[str, dict[str, dict[str, Any]]]) -> dict[str, float]:
    """``plans.d2.vs_recshard_fp32`` and its like (above 1 = ours is faster); errors of predicted times."""
    ratios: dict[str, float] = {}
    for budget, entries in results.items():
        ratios[f"plans.{budget}.samples_per_s"] = round(entries[OURS]["samples_per_s"])
        for name, entry in entries.items():
            if name != OURS:
                ratios[f"plans.{budget}.vs_{name}"] = round(entry["time_over_ours"], 3)
    errors = [
        abs(math.log(entry["predicted_over_measured"]))
        for entries in results.values()
        for entry in entries.values()
        if "same_as" not in entry
    ]
    ratios["plans.prediction_error_mean"] = round(math.exp(statistics.fmean(errors)) - 1, 3)
    ratios["plans.prediction_error_worst"] = round(math.exp(max(errors)) - 1, 3)
    return ratios


def print_results(console: Console, study: Study, results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """A table for each budget."""
    for budget, entries in results.items():
        view = Table(
            *("planner", "formats", "samples/s", "time / ours", "ms a batch", "predicted"),
            *("pages a sample", "cache hits", "loss", "DRAM", "resident"),
            title=f"{FRACTIONS[budget]:.0%} of the fp32 rows: "
            f"{FRACTIONS[budget] * study.workload.row_bytes / 1e9:.2f} GB",
        )
        for name, entry in entries.items():
            if "same_as" in entry:
                view.add_row(name, "", f"as {entry['same_as']}")
                continue
            stats = entry["stats"]
            held, missed = stats["cache_hits_per_sample"], stats["cache_misses_per_sample"]
            hits = f"{held / (held + missed):.1%}" if entry["row_cache_bytes"] else "-"
            over = " (over)" if entry["loss"] > MAX_LOSS * (1 + 1e-6) else ""
            view.add_row(
                *(name, " ".join(PLANNERS[name].formats), f"{entry['samples_per_s']:,.0f}"),
                *(
                    f"{entry['time_over_ours']:.2f}",
                    f"{entry['median_ms']:.2f}",
                    f"{entry['predicted_ms']:.2f}",
                ),
                *(f"{stats['pages_read_per_sample']:.4f}", hits),
                f"{entry['loss']:.1e}{over}",
                f"{(entry['dram_bytes'] + entry['row_cache_bytes']) / 1e9:.2f} GB",
                f"{stats['resident_bytes'] / 1e9:.2f} GB",
            )
        console.print(view)
    for what, reason in study.refusals.items():
        console.print(f"  {what}: {reason}")

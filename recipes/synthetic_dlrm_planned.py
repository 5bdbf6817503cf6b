"""The main job, end to end: click log -> training -> statistics -> plan -> artifact -> predictions.

``python -m recipes.synthetic_dlrm_planned --out run`` (``make run``) generates a Criteo-shaped click log
whose exact click probabilities are known, trains a DLRM with full tables, plans its rows into a tenth of
their bytes of DRAM, trains it again in the planned form, packs it, and predicts the held-out day from the
artifact.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from screc.data import ClickLog, SyntheticClickLog, SyntheticConfig, bayes_auc
from screc.models import DLRM, DlrmConfig
from screc.planning import make_plan, plan_summary, plot_plan, probe
from screc.serving import Engine
from screc.statistics import AccessStatistics, plot_statistics
from screc.storage import pack, verify
from screc.training import TrainingConfig, TrainingReport, predict, train


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Sizes of the main job; the defaults fit five minutes on two cores.

    Attributes:
        rows, held_out_rows: samples of the training days and of the day that is predicted.
        scale: cardinalities as a share of Criteo-Kaggle's.
        dram_fraction: DRAM budget as a share of the fp32 embedding bytes.
        max_tt_share: largest share of look-ups that tensor trains may answer; the rest of the cold rows go to
            SSD, so that all three memories take part.
        model: widths of the DLRM.
        batch_size: samples per call that the plan is made and speed is measured for.
        seed: of the click log and of training.
    """

    rows: int = 1_000_000
    held_out_rows: int = 200_000
    scale: float = 0.05
    dram_fraction: float = 0.10
    max_tt_share: float = 0.02
    model: DlrmConfig = field(default_factory=lambda: DlrmConfig(num_dense=13))
    batch_size: int = 2048
    seed: int = 1


def run(config: RunConfig, out: Path, console: Console) -> dict[str, Any]:
    """Run every stage into ``out``; returns the report that ``out/report.json`` holds."""
    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    training_days = SyntheticClickLog(
        SyntheticConfig(num_rows=config.rows, seed=config.seed, scale=config.scale)
    )
    held_out_source = (
        f"synthetic:rows={config.held_out_rows},seed={config.seed},scale={config.scale},first={config.rows}"
    )
    held_out = SyntheticClickLog(SyntheticConfig.parse(held_out_source.partition(":")[2]))
    labels, bayes = _labels_and_probabilities(held_out)
    embedding_bytes = (
        sum(table.num_embeddings for table in training_days.tables) * config.model.embedding_dim * 4
    )
    console.print(
        f"[bold]1[/bold] click log: {config.rows:,} samples to train on, {config.held_out_rows:,} held out, "
        f"{len(training_days.tables)} tables, {embedding_bytes / 1e6:.0f} MB of fp32 rows"
    )

    console.print("[bold]2[/bold] training with full tables")
    full = DLRM.build(config.model, training_days.tables, seed=config.seed)
    _train(full, training_days, config, out / "full", console)

    console.print("[bold]3[/bold] counting accesses, probing this host, planning")
    counted = AccessStatistics.collect(training_days)
    counted.save(out / "statistics")
    plot_statistics(counted, out / "access.svg")
    with _progress(console, "probing") as report:
        system = probe(out, seconds=5, progress=lambda _, *step: report(*step))
    system.save(out / "system.json")
    plan = make_plan(
        counted,
        config.model.embedding_dim,
        system,
        dram_fraction=config.dram_fraction,
        max_tt_share=config.max_tt_share,
        batch_size=config.batch_size,
        dense_flops=2 * sum(w.numel() for w in full.dense_tensors().values() if w.ndim == 2),
    )
    plan.save(out / "plan.json")
    plot_plan(plan, out / "plan.svg")
    plan_summary(plan, console)

    console.print("[bold]4[/bold] training with the plan: hot rows, tensor-train middle, cold rows")
    planned = DLRM.build(
        config.model,
        training_days.tables,
        layouts=plan.layouts,
        band_ids=counted.band_ids(plan.layouts),
        seed=config.seed,
    )
    _train(planned, training_days, config, out / "planned", console)

    console.print("[bold]5[/bold] packing, verifying, predicting the held-out day from the artifact")
    with _progress(console, "packing") as report:
        packed = pack(out / "planned", counted, plan, out / "artifact", progress=report)
    verified = verify(out / "artifact")
    if not verified.ok:
        raise RuntimeError(f"the artifact is damaged: {verified.damages}")
    scored = _predict_in_a_process_of_its_own(
        out / "artifact", held_out_source, out / "predictions.npy", config
    )

    p_full, p_planned = predict(full, held_out), predict(planned, held_out)
    p_packed = np.load(out / "predictions.npy")
    speed = _speed(full, Engine.open(out / "artifact"), held_out, config.batch_size)
    report = {
        "auc_full": _auc(labels, p_full),
        "auc_planned": _auc(labels, p_planned),
        "auc_packed": scored["metrics"]["auc"],
        "bayes_auc": bayes_auc(bayes),
        "max_abs_difference_packed_planned": float(np.abs(p_packed - p_planned).max()),
        "embedding_bytes": embedding_bytes,
        "dram_bytes": packed.dram_bytes,
        "ssd_bytes": packed.ssd_bytes,
        "tt_bytes": packed.tt_bytes,
        "index_bytes": packed.index_bytes,
        "peak_rss_bytes": scored["peak_resident_bytes"],
        "samples_per_s": speed,
        "plan": {"gap": plan.gap, "predicted_seconds_per_batch": plan.predicted.seconds_per_batch},
        "seconds": time.perf_counter() - begin,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    _print_report(report, console)
    console.print(f"written: {out / 'report.json'}, {out / 'access.svg'}, {out / 'plan.svg'}")
    return report


def _train(model: DLRM, log: ClickLog, config: RunConfig, out: Path, console: Console) -> TrainingReport:
    training = TrainingConfig(seed=config.seed, num_threads=len(os.sched_getaffinity(0)))
    with _progress(console, out.name) as report:
        result = train(
            model,
            log,
            training,
            out=out,
            resume=False,
            progress=lambda state: report(state.samples, state.total_samples),
        )
    if result.interrupted:
        raise KeyboardInterrupt
    console.print(f"  {result.samples_per_second:,.0f} samples/s, training log-loss {result.train_loss:.4f}")
    return result


def _labels_and_probabilities(log: SyntheticClickLog) -> tuple[np.ndarray, np.ndarray]:
    labels, probabilities = [], []
    for batch, probability in log.batches_with_probability(65_536):
        labels.append(batch.labels)
        probabilities.append(probability)
    return np.concatenate(labels), np.concatenate(probabilities)


def _auc(labels: np.ndarray, predictions: np.ndarray) -> float:
    from screc.statistics.metrics import area_under_curve

    return area_under_curve(predictions, labels)


def _predict_in_a_process_of_its_own(
    artifact: Path, source: str, predictions: Path, config: RunConfig
) -> dict[str, Any]:
    """``screc predict``, so that its peak resident memory is that of serving alone."""
    command = [sys.executable, "-m", "screc.cli", "predict", artifact, "--data", source, "--json"]
    command += ["--out", predictions, "--batch-size", config.batch_size]
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)


def _speed(model: DLRM, engine: Engine, log: ClickLog, batch_size: int) -> dict[str, float]:
    """Samples per second of the full model in PyTorch eager and of the packed one in the engine.

    The two take turns on the same batches; medians over all calls.
    """
    batches = [batch for batch in log.batches(batch_size) if batch.batch_size == batch_size]
    inputs = [tuple(torch.from_numpy(a) for a in (b.dense, b.ids, b.offsets)) for b in batches]

    def eager(number: int) -> None:
        with torch.inference_mode():
            torch.sigmoid(model(*inputs[number]))

    def native(number: int) -> None:
        engine.predict(batches[number])

    seconds: dict[str, list[float]] = {"pytorch_eager": [], "screc": []}
    for warm_up in (True, False):
        for number in range(len(batches)):
            for name, call in (("pytorch_eager", eager), ("screc", native)):
                begin = time.perf_counter()
                call(number)
                if not warm_up:
                    seconds[name].append(time.perf_counter() - begin)
    return {name: batch_size / statistics.median(times) for name, times in seconds.items()}


def _print_report(report: dict[str, Any], console: Console) -> None:
    def megabytes(key: str) -> str:
        return f"{report[key] / 1e6:,.1f} MB"

    table = Table("", "full model, PyTorch eager", "packed, SCRec engine", title="held-out day")
    table.add_row("embedding bytes in DRAM", megabytes("embedding_bytes"), megabytes("dram_bytes"))
    table.add_row("embedding bytes on SSD", "-", megabytes("ssd_bytes"))
    table.add_row("AUC", f"{report['auc_full']:.4f}", f"{report['auc_packed']:.4f}")
    rates = report["samples_per_s"]
    table.add_row("samples/s", f"{rates['pytorch_eager']:,.0f}", f"{rates['screc']:,.0f}")
    console.print(table)
    console.print(
        f"AUC of the planned model in PyTorch {report['auc_planned']:.4f} (largest difference of a "
        f"prediction {report['max_abs_difference_packed_planned']:.1e}), best possible "
        f"{report['bayes_auc']:.4f}; "
        f"peak resident memory {megabytes('peak_rss_bytes')}; {report['seconds']:.0f} s in all"
    )


@contextmanager
def _progress(console: Console, title: str) -> Iterator[Callable[[int, int | None], None]]:
    columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total=None: bars.update(task, completed=done, total=total)


def main() -> int:
    """Command line of ``make run``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("run"), help="directory for everything")
    parser.add_argument("--rows", type=int, default=RunConfig.rows, help="training samples")
    parser.add_argument("--held-out-rows", type=int, default=RunConfig.held_out_rows)
    arguments = parser.parse_args()
    config = RunConfig(rows=arguments.rows, held_out_rows=arguments.held_out_rows)
    try:
        run(config, arguments.out, Console())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

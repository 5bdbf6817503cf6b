"""One cell of a comparison, measured in a process of its own: ``python -m screc.training.compare.cell``.

Reads a JSON object from standard input (settings, cell, file of the counts, file of the result), prints
``samples total`` as it goes on, and writes the result whole or not at all.
"""

from __future__ import annotations

import copy
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from screc.data.batch import Batch
from screc.data.log import ClickLog, TableSpec
from screc.data.part import LogPart
from screc.embeddings import BudgetError, Method, make_method
from screc.embeddings.budget import full_bytes
from screc.models import ClickModel
from screc.storage.atomic import replace_file
from screc.training.compare.grid import Cell, Settings, parse_method
from screc.training.compare.memory import MemoryMeter
from screc.training.evaluation import batch_tensors, evaluate
from screc.training.loop import Progress, TrainingConfig, train

_LOOKUP_BATCH, _LOOKUP_ROUNDS = 2048, 9


def count_lookups(log: ClickLog, batch_size: int = 65_536) -> list[np.ndarray]:
    """Look-ups of each id of each table, int64 [num_embeddings] a table."""
    sizes = [spec.num_embeddings for spec in log.tables]
    starts = np.cumsum([0, *sizes])
    total = np.zeros(starts[-1], np.int64)
    for batch in log.batches(batch_size):
        own = np.diff(batch.offsets[:: batch.batch_size])
        total += np.bincount(batch.ids + np.repeat(starts[:-1], own), minlength=len(total))
    return np.split(total, starts[1:-1])


def measure_cell(
    settings: Settings, cell: Cell, counts: list[np.ndarray], *, progress: Progress | None = None
) -> dict[str, Any]:
    """Train and test one cell.

    Returns:
        JSON values; ``status`` is ``"done"``, or ``"unreachable"`` where the method cannot keep the budget,
        with the smallest that works.
    """
    torch.set_num_threads(1)
    began = time.perf_counter()
    log, validation, test = settings.logs()
    name, options = parse_method(cell.method)
    whole = full_bytes(log.tables, settings.dim)
    result: dict[str, Any] = {"full_bytes": whole, "budget_bytes": int(whole / cell.ratio)}
    meter = MemoryMeter()
    try:
        tables = make_method(
            name,
            log.tables,
            settings.dim,
            ratio=cell.ratio,
            counts=counts,
            seed=cell.seed,
            **options,
        )
    except BudgetError as error:
        return {"status": "unreachable", "smallest_bytes": error.smallest_bytes, **result}
    kind, config = settings.model_config(cell.model, log.num_dense)
    model = kind(config, tables, generator=torch.Generator().manual_seed(cell.seed))
    run = _Run(model, settings, cell, meter, progress)
    result |= run.streamed(log, validation) if test is None else run.tested(log, validation, test)
    taken = tables.footprint()
    return {
        "status": "done",
        **result,
        "ratio": whole / taken.serving.total,
        "serving_bytes": asdict(taken.serving),
        "training_bytes": asdict(taken.training),
        "lookup_us": lookup_microseconds(tables, log if test is None else test),
        "seconds": time.perf_counter() - began,
    }


class _Run:
    """Training with tests in between."""

    def __init__(
        self,
        model: ClickModel,
        settings: Settings,
        cell: Cell,
        meter: MemoryMeter,
        progress: Progress | None,
    ) -> None:
        self.model, self.settings, self.cell = model, settings, cell
        self.meter, self.progress = meter, progress
        self._apart = 0.0  # processor seconds that were not training
        self._epoch, self._best, self._found = 0, -1.0, {}
        assert isinstance(model.tables, Method)
        shares = [stage.share for stage in model.tables.stages]
        self._last_begins = sum(shares[:-1]) / sum(shares)

    def tested(self, log: ClickLog, validation: ClickLog, test: ClickLog) -> dict[str, Any]:
        """Train until the validation samples say that it gets worse; the test metrics of the best pass.

        A pass is judged by a copy that was made ready to serve, from the last stage of the method on.
        """

        def after_epoch() -> bool:
            with _Apart(self):
                self._epoch += 1
                if self.model.tables.progress < self._last_begins:
                    return False
                ready = copy.deepcopy(self.model)
                ready.tables.finish()
                auc = evaluate(ready, validation).auc
                if auc > self._best:
                    metrics = evaluate(ready, test)
                    self._best = auc
                    self._found = {
                        "auc": metrics.auc,
                        "log_loss": metrics.log_loss,
                        "validation_auc": auc,
                        "best_epoch": self._epoch,
                    }
            return self._epoch - self._found["best_epoch"] >= self.settings.patience

        costs = self._train(log, validation, after_epoch if self.settings.epochs > 1 else None)
        if self.settings.epochs == 1:
            metrics = evaluate(self.model, test)
            self._found = {"auc": metrics.auc, "log_loss": metrics.log_loss, "best_epoch": 1}
        return {**self._found, **costs}

    def streamed(self, log: ClickLog, first_day: ClickLog) -> dict[str, Any]:
        """Train on day after day, each tested first; the means over the days but the first."""
        days = _TestedDays(self, log)
        costs = self._train(days, first_day, None)
        return {
            "auc": statistics.fmean(day["auc"] for day in days.found),
            "log_loss": statistics.fmean(day["log_loss"] for day in days.found),
            "best_epoch": 1,
            "days": days.found,
            **costs,
        }

    def _train(self, log: ClickLog, validation: ClickLog, after_epoch: Any) -> dict[str, Any]:
        settings, before = self.settings, time.process_time()
        report = train(
            self.model,
            log,
            TrainingConfig(
                batch_size=settings.batch_size,
                epochs=settings.epochs,
                dense_lr=settings.dense_lr,
                table_lr=settings.table_lr,
                seed=self.cell.seed,
                num_threads=1,
                bf16_matmul=settings.bf16,
                shuffle_window=settings.shuffle,
                log_every=50,
            ),
            out=None,
            validation=validation,
            progress=self.progress,
            after_epoch=after_epoch,
        )
        if report.interrupted:
            raise KeyboardInterrupt
        seconds = time.process_time() - before - self._apart
        return {
            "epochs": report.epochs,
            # Of the processor, on one thread: other processes on the machine do not change it much.
            "train_s_per_epoch": seconds / report.epochs,
            "peak_memory_bytes": self.meter.pause(),
        }


class _Apart:
    """What happens inside counts neither for the time nor for the memory of training."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def __enter__(self) -> None:
        self._run.meter.pause()
        self._began = time.process_time()

    def __exit__(self, *error: object) -> None:
        self._run._apart += time.process_time() - self._began
        self._run.meter.resume()


class _TestedDays:
    """A log whose days are predicted before their batches are given out."""

    def __init__(self, run: _Run, log: ClickLog) -> None:
        self._run, self._log = run, log
        self.found: list[dict[str, float]] = []

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        return self._log.tables

    @property
    def num_dense(self) -> int:
        return self._log.num_dense

    @property
    def num_samples(self) -> int | None:
        return self._log.num_samples

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        day, total = self._run.settings.day_samples, self._log.num_samples
        assert total is not None  # checked by Settings.logs
        for first in range(0, total, day):
            part = LogPart(self._log, first, min(day, total - first))
            if first:
                with _Apart(self._run):
                    metrics = evaluate(self._run.model, part)
                    self.found.append({"auc": metrics.auc, "log_loss": metrics.log_loss})
            yield from part.batches(batch_size)


def lookup_microseconds(tables: Method, log: ClickLog) -> float:
    """Processor time of pooling all tables for one sample, in batches of 2048 on one thread; the median."""
    batch = next(log.batches(_LOOKUP_BATCH))
    _, ids, offsets = batch_tensors(batch)
    times = []
    with torch.inference_mode():
        for _ in range(_LOOKUP_ROUNDS + 1):
            before = time.process_time_ns()
            tables(ids, offsets)
            times.append(time.process_time_ns() - before)
    return statistics.median(times[1:]) / 1e3 / batch.batch_size  # the first warms up


def main() -> int:
    """Measure the cell that standard input describes."""
    asked = json.load(sys.stdin)
    cell = Cell(**asked["cell"])
    with np.load(asked["counts"]) as arrays:
        counts = [arrays[f"table_{number}"] for number in range(len(arrays.files))]
    result = measure_cell(
        Settings.from_dict(asked["settings"]),
        cell,
        counts,
        progress=lambda state: print(state.samples, state.total_samples or 0, flush=True),
    )
    with replace_file(Path(asked["result"])) as temporary:
        temporary.write_text(json.dumps({"cell": asked["cell"], **result}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Choosing the precision of a model's dense layers by what it costs in accuracy, measured on a sample."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from screc import storage
from screc.data import Batch, ClickLog
from screc.data.log import Progress, check_log
from screc.serving.arithmetic import Accuracy, PrecisionReport
from screc.serving.calibration import arithmetic_of, calibrate
from screc.serving.engine import Engine
from screc.statistics.metrics import StreamingMetrics
from screc.storage.dense_precision import PRECISIONS, Precision, check_precision

# Samples that the ranges of int8 layers are taken from.
_CALIBRATION_SAMPLES = 16_384
_BATCH = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionChoice:
    """Which precision is wanted, and what it may cost.

    Attributes:
        precision: "fp32", "bf16", "int8", or "auto" for the fastest on this host within the limits.
        max_auc_loss: most that the AUC on the sample may fall below float32's.
        max_log_loss_rise: most that the log-loss on the sample may rise above float32's.
    """

    precision: Precision | Literal["auto"] = "fp32"
    max_auc_loss: float = 1e-4
    max_log_loss_rise: float = 1e-4

    def __post_init__(self) -> None:
        if self.precision != "auto":
            check_precision("precision", self.precision)
        for name in ("max_auc_loss", "max_log_loss_rise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must not be negative, got {getattr(self, name)}")


def choose_precision(
    engine: Engine, sample: ClickLog, choice: PrecisionChoice, *, progress: Progress | None = None
) -> storage.DensePrecision:
    """Measure every precision on a sample and take the wanted one, or refuse it.

    Args:
        engine: the model in float32.
        sample: labelled samples like those that will be served; its first 16,384 calibrate int8.
        choice: what is wanted and what it may cost.
        progress: called with (samples done, total or None).

    Raises:
        ValueError: the precision costs more than it may; the message has the numbers. Or the sample does not
            fit the model, or has labels of one kind only.
    """
    check_log(sample, engine.tables, engine.num_dense)
    batches = sample.batches(_BATCH)
    ranges = calibrate(engine, islice(batches, _CALIBRATION_SAMPLES // _BATCH))
    candidates = {one: arithmetic_of(engine, one, ranges) for one in PRECISIONS}
    accuracy, num_samples = _measure(
        {one: engine.with_arithmetic(how) for one, how in candidates.items()}, sample, progress
    )
    within = {one: _excess(accuracy[one], choice) is None for one in PRECISIONS}
    if choice.precision == "auto":
        taken = max((one for one in PRECISIONS if within[one]), key=lambda one: accuracy[one].samples_per_s)
    else:
        taken = choice.precision
        if (excess := _excess(accuracy[taken], choice)) is not None:
            raise ValueError(
                f"precision {taken}: on {num_samples} samples {excess}; allow more, or take one within the "
                f"limits: {', '.join(one for one in PRECISIONS if within[one])}"
            )
    report = PrecisionReport(
        precision=taken,
        layers=dict(candidates[taken].layers),
        num_samples=num_samples,
        accuracy=accuracy,
    )
    return storage.DensePrecision(document=report.model_dump(), ranges=candidates[taken].ranges)


def packed_precision(
    sample: ClickLog, choice: PrecisionChoice, *, threads: int = 0, progress: Progress | None = None
) -> Callable[[Path], storage.DensePrecision]:
    """:func:`choose_precision` as ``screc.storage.pack`` calls it."""
    return lambda path: choose_precision(
        Engine.open(path, threads=threads), sample, choice, progress=progress
    )


def _measure(
    engines: dict[Precision, Engine], sample: ClickLog, progress: Progress | None
) -> tuple[dict[Precision, Accuracy], int]:
    quality = {one: StreamingMetrics() for one in engines}
    seconds = dict.fromkeys(engines, 0.0)
    done = 0
    order = list(engines)
    for batch in _labelled(sample):
        order.append(order.pop(0))  # the first to see a batch waits for its rows
        for one in order:
            begin = time.perf_counter()
            predictions = engines[one].predict(batch)
            seconds[one] += time.perf_counter() - begin
            quality[one].update(predictions, batch.labels)
        done += batch.batch_size
        if progress:
            progress(done, sample.num_samples)
    results = {one: metrics.result() for one, metrics in quality.items()}
    exact = results["fp32"]
    if math.isnan(exact.auc):
        raise ValueError(
            f"sample: all {done} labels are the same, so there is no AUC; use one with clicks and non-clicks"
        )
    return {
        one: Accuracy(
            auc=result.auc,
            log_loss=result.log_loss,
            auc_loss=exact.auc - result.auc,
            log_loss_rise=result.log_loss - exact.log_loss,
            samples_per_s=done / seconds[one],
        )
        for one, result in results.items()
    }, done


def _labelled(sample: ClickLog) -> Iterator[Batch]:
    for batch in sample.batches(_BATCH):
        if batch.labels is None:
            raise ValueError("sample: it has no labels, which accuracy is measured with; use a labelled log")
        yield batch


def _excess(accuracy: Accuracy, choice: PrecisionChoice) -> str | None:
    """What is beyond the limits, in words; None where nothing is."""
    parts = []
    if accuracy.auc_loss > choice.max_auc_loss:
        parts.append(f"AUC falls by {accuracy.auc_loss:.2e} (limit {choice.max_auc_loss:.2e})")
    if accuracy.log_loss_rise > choice.max_log_loss_rise:
        parts.append(f"log-loss rises by {accuracy.log_loss_rise:.2e} (limit {choice.max_log_loss_rise:.2e})")
    return " and ".join(parts) or None

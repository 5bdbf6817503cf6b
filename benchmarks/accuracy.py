"""What a row format and a precision of the MLPs cost in accuracy, on a model that has learnt something.

Trains the Kaggle-shaped DLRM on the generator's click log and scores held-out samples with the engine in
every (row format, precision): speed counts only where the AUC stays within :data:`AUC_LIMIT` of fp32.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.ours import Form, build_engines
from screc.data import Batch, SyntheticClickLog, SyntheticConfig
from screc.models import DLRM, DlrmConfig
from screc.statistics.metrics import area_under_curve
from screc.training import TrainingConfig, train

AUC_LIMIT = 1e-4
_SEED, _SCALE = 1, 0.05
_CALIBRATION_ROWS = 16_384


def accuracy_of_forms(forms: Sequence[Form], *, quick: bool = False) -> dict[str, object]:
    """Train, then score the held-out samples in each form.

    Args:
        forms: fp32 rows with fp32 MLPs first, the reference.
        quick: few samples; says nothing of the accuracy.

    Returns:
        ``training_rows``, ``test_rows``, ``seconds`` and ``forms``: name -> ``auc``, ``auc_loss`` (fp32's AUC
        minus its own) and ``within_limit``.
    """
    begin = time.perf_counter()
    training_rows, test_rows = (20_000, 20_000) if quick else (400_000, 250_000)
    days = SyntheticClickLog(SyntheticConfig(num_rows=training_rows, seed=_SEED, scale=_SCALE))
    held_out = SyntheticClickLog(
        SyntheticConfig(num_rows=test_rows, seed=_SEED, scale=_SCALE, first_row=training_rows)
    )
    model = DLRM.build(DlrmConfig(num_dense=days.num_dense), days.tables, seed=_SEED)
    config = TrainingConfig(seed=_SEED, num_threads=len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        train(model, days, config, out=Path(folder) / "model")
    tables = [model.tables.table(t).tensors()["band.0.rows"] for t in range(len(days.tables))]
    dense = {name: weight.detach().numpy() for name, weight in model.dense_tensors().items()}
    calibration = next(iter(days.batches(_CALIBRATION_ROWS)))
    batches = list(held_out.batches(8192))
    labels = np.concatenate([batch.labels for batch in batches])
    engines = build_engines(forms, model.model_dict(), dense, tables, calibration=calibration)
    scores = {
        form.name: area_under_curve(_predict(engine, batches), labels) for form, engine in engines.items()
    }
    reference = scores[forms[0].name]
    return {
        "training_rows": training_rows,
        "test_rows": test_rows,
        "seconds": time.perf_counter() - begin,
        "forms": {
            name: {
                "auc": auc,
                "auc_loss": reference - auc,
                "within_limit": abs(reference - auc) <= AUC_LIMIT,
            }
            for name, auc in scores.items()
        },
    }


def _predict(engine: object, batches: Sequence[Batch]) -> np.ndarray:
    return np.concatenate([engine.predict(batch) for batch in batches])

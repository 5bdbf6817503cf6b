"""Predictions of a model for a click log, and their quality."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from screc.data.batch import Batch
from screc.data.log import check_log
from screc.models import ClickModel
from screc.statistics.metrics import Metrics, StreamingMetrics

if TYPE_CHECKING:
    from screc.data.log import ClickLog


def batch_tensors(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Dense features, ids and offsets of a batch as tensors; views of arrays that may be written."""
    return _tensor(batch.dense), _tensor(batch.ids), _tensor(batch.offsets)


def label_tensor(batch: Batch, first: int) -> Tensor:
    """Labels of a batch, float32 [B].

    Raises:
        ValueError: they are unknown; ``first`` (the number of its first sample) is named.
    """
    if batch.labels is None:
        raise ValueError(f"labels: the samples from {first} on have none; use a log with labels")
    return _tensor(batch.labels)


def _tensor(array: np.ndarray) -> Tensor:
    # torch cannot mark a tensor read-only and warns; arrays from files may be.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _predicted(model: ClickModel, log: ClickLog, batch_size: int) -> Iterator[tuple[Batch, np.ndarray]]:
    check_log(log, model.table_specs, model.config.num_dense)
    sizes = model.tables.num_embeddings
    for batch in log.batches(batch_size):
        batch.validate(sizes, log.num_dense)
        with torch.inference_mode():
            yield batch, torch.sigmoid(model(*batch_tensors(batch))).numpy()


def evaluate(model: ClickModel, log: ClickLog, batch_size: int = 8192) -> Metrics:
    """Metrics of the model on a whole log.

    Raises:
        ValueError: the log does not fit the model, has no labels or no samples, or a prediction is NaN.
    """
    metrics, first = StreamingMetrics(), 0
    for batch, predictions in _predicted(model, log, batch_size):
        metrics.update(predictions, label_tensor(batch, first).numpy())
        first += batch.batch_size
    return metrics.result()


def predict(model: ClickModel, log: ClickLog, batch_size: int = 8192) -> np.ndarray:
    """Probability of a click for every sample of a log, float32 [n]; labels are not needed.

    Raises:
        ValueError: the log does not fit the model.
    """
    parts = [predictions for _, predictions in _predicted(model, log, batch_size)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)

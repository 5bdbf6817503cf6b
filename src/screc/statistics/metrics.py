"""How good predictions are: exact AUC, log-loss and normalised entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Predictions are float32: nearer to 0 or 1 than this they cannot be told from it.
_CLIP = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Quality of predicted probabilities on a set of samples.

    Attributes:
        auc: area under the ROC curve, ties counted half; NaN if all labels are the same.
        log_loss: mean cross-entropy in nats, probabilities clipped to [1e-7, 1 - 1e-7].
        normalized_entropy: log-loss over the entropy of the base rate (He et al., ADKDD 2014); below 1 is
            better than always predicting the base rate. NaN if all labels are the same.
        base_rate: share of positive labels.
        num_samples: samples seen.
    """

    auc: float
    log_loss: float
    normalized_entropy: float
    base_rate: float
    num_samples: int


def area_under_curve(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Exact AUC: the chance that a positive is ranked above a negative, ties counted half.

    Args:
        predictions: float [n], any monotone score.
        labels: 0 and 1 [n].

    Raises:
        ValueError: the arrays do not fit, a prediction is NaN, or there are labels of one kind only.
    """
    predictions, labels = _checked(predictions, labels)
    positives = int(np.count_nonzero(labels))
    negatives = labels.size - positives
    if not positives or not negatives:
        raise ValueError(
            f"labels: AUC needs both kinds, got {positives} positive and {negatives} negative; "
            "evaluate on more samples"
        )
    order = np.argsort(predictions)
    ranked = predictions[order]
    # Ends of the runs of equal predictions; a run's members all get the run's mean rank.
    ends = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1) + 1
    begins = np.append(0, ends[:-1])
    positives_per_run = np.add.reduceat(labels[order] > 0, begins, dtype=np.int64)
    # Twice the sum of the positives' ranks (from 1), in integers: exact.
    rank_sum = int(np.sum(positives_per_run * (begins + ends + 1)))
    return (rank_sum - positives * (positives + 1)) / 2 / (positives * negatives)


class StreamingMetrics:
    """Metrics of predictions that arrive in batches; holds 8 bytes per sample."""

    def __init__(self) -> None:
        self._predictions: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._num_samples = 0

    def update(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Add probabilities [n] and labels of 0 and 1 [n].

        Raises:
            ValueError: the arrays do not fit, a prediction is NaN or outside [0, 1], a label is not 0 or 1.
        """
        predictions, labels = _checked(predictions, labels, first=self._num_samples)
        wrong = (predictions < 0) | (predictions > 1)
        if wrong.any():
            where = int(np.argmax(wrong))
            raise ValueError(
                f"predictions[{self._num_samples + where}] = {predictions[where]} is not a probability; "
                "apply the sigmoid to logits first"
            )
        self._predictions.append(predictions.astype(np.float32))
        self._labels.append(labels.astype(np.float32))
        self._num_samples += labels.size

    def predictions(self) -> np.ndarray:
        """All predictions so far, float32 [n]."""
        return np.concatenate(self._predictions) if self._predictions else np.empty(0, dtype=np.float32)

    def result(self) -> Metrics:
        """The metrics of everything so far.

        Raises:
            ValueError: there are no samples.
        """
        if not self._num_samples:
            raise ValueError("no samples to evaluate; the log gave none")
        predictions, labels = self.predictions(), np.concatenate(self._labels)
        clipped = np.clip(predictions.astype(np.float64), _CLIP, 1 - _CLIP)
        loss = -float(np.mean(np.where(labels > 0, np.log(clipped), np.log1p(-clipped))))
        rate = float(np.mean(labels, dtype=np.float64))
        if rate in (0.0, 1.0):
            auc = normalized = math.nan
        else:
            auc = area_under_curve(predictions, labels)
            normalized = loss / -(rate * math.log(rate) + (1 - rate) * math.log1p(-rate))
        return Metrics(
            auc=auc,
            log_loss=loss,
            normalized_entropy=normalized,
            base_rate=rate,
            num_samples=self._num_samples,
        )


def _checked(predictions: np.ndarray, labels: np.ndarray, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.ndim != 1 or predictions.shape != labels.shape:
        raise ValueError(
            f"predictions and labels must be one-dimensional and of one length, "
            f"got shapes {list(predictions.shape)} and {list(labels.shape)}"
        )
    bad = np.isnan(predictions)
    if bad.any():
        raise ValueError(
            f"predictions[{first + int(np.argmax(bad))}] is NaN ({int(bad.sum())} of {bad.size}); "
            "the model has diverged or was fed missing values"
        )
    strange = (labels != 0) & (labels != 1)
    if strange.any():
        where = int(np.argmax(strange))
        raise ValueError(f"labels[{first + where}] = {labels[where]} is neither 0 nor 1")
    return predictions, labels

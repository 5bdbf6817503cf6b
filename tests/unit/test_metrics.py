from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screc.training import StreamingMetrics, area_under_curve


def pairwise_auc(predictions: np.ndarray, labels: np.ndarray) -> float:
    """The definition: every positive against every negative."""
    positive, negative = predictions[labels > 0][:, None], predictions[labels == 0][None]
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
@settings(deadline=None)
def test_auc_equals_the_definition_with_ties(samples: list[tuple[int, bool]]) -> None:
    predictions = np.array([p / 5 for p, _ in samples], dtype=np.float32)
    labels = np.array([label for _, label in samples], dtype=np.float32)
    if labels.min() == labels.max():
        with pytest.raises(ValueError, match="AUC needs both kinds"):
            area_under_curve(predictions, labels)
    else:
        assert area_under_curve(predictions, labels) == pytest.approx(pairwise_auc(predictions, labels))


def test_auc_of_constant_perfect_and_reversed_predictions() -> None:
    labels = np.array([0, 0, 1, 1])
    assert area_under_curve(np.full(4, 0.3), labels) == 0.5
    assert area_under_curve(np.array([0.1, 0.2, 0.8, 0.9]), labels) == 1.0
    assert area_under_curve(np.array([0.9, 0.8, 0.2, 0.1]), labels) == 0.0
    assert area_under_curve(np.array([-np.inf, 0, 0, np.inf]), labels) == 0.875


def test_streaming_equals_the_definitions() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(1000) < 0.2).astype(np.float32)
    predictions = rng.random(1000).astype(np.float32).round(2).clip(0.01, 0.99)
    metrics = StreamingMetrics()
    for start in range(0, 1000, 333):
        metrics.update(predictions[start : start + 333], labels[start : start + 333])
    result = metrics.result()
    assert result.num_samples == 1000
    assert result.auc == pytest.approx(pairwise_auc(predictions, labels), abs=1e-12)
    p = predictions.astype(np.float64)
    loss = -np.mean(labels * np.log(p) + (1 - labels) * np.log(1 - p))
    rate = labels.astype(np.float64).mean()
    assert result.base_rate == pytest.approx(rate)
    assert result.log_loss == pytest.approx(loss, rel=1e-9)
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert result.normalized_entropy == pytest.approx(loss / entropy, rel=1e-9)
    np.testing.assert_array_equal(metrics.predictions(), predictions)


def test_base_rate_predictions_have_normalized_entropy_one() -> None:
    metrics = StreamingMetrics()
    metrics.update(np.full(8, 0.25, dtype=np.float32), np.array([1, 0, 0, 0, 1, 0, 0, 0]))
    assert metrics.result().normalized_entropy == pytest.approx(1.0)


def test_labels_of_one_kind() -> None:
    metrics = StreamingMetrics()
    metrics.update(np.array([0.5, 0.5]), np.zeros(2))
    result = metrics.result()
    assert math.isnan(result.auc)
    assert math.isnan(result.normalized_entropy)
    assert result.log_loss == pytest.approx(math.log(2))


def test_certain_predictions_have_a_finite_loss() -> None:
    metrics = StreamingMetrics()
    metrics.update(np.array([0.0, 1.0], dtype=np.float32), np.array([1, 0]))
    assert metrics.result().log_loss == pytest.approx(-math.log(1e-7), rel=1e-6)


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0.5, math.nan], [0, 1], r"predictions\[4\] is NaN \(1 of 2\); the model has diverged"),
        ([0.5, 1.5], [0, 1], r"predictions\[4\] = 1.5 is not a probability; apply the sigmoid"),
        ([-0.1, 0.5], [0, 1], r"predictions\[3\] = -0.1 is not a probability"),
        ([0.5, 0.5], [0, 2], r"labels\[4\] = 2 is neither 0 nor 1"),
        ([0.5, 0.5], [0, math.nan], r"labels\[4\] = nan is neither 0 nor 1"),
        ([0.5], [0, 1], r"got shapes \[1\] and \[2\]"),
        ([[0.5]], [[0]], "must be one-dimensional"),
    ],
)
def test_bad_input(predictions: list[float], labels: list[float], message: str) -> None:
    metrics = StreamingMetrics()
    metrics.update(np.full(3, 0.5), np.array([0, 1, 0]))
    with pytest.raises(ValueError, match=message):
        metrics.update(np.array(predictions), np.array(labels))
    assert metrics.result().num_samples == 3


def test_no_samples() -> None:
    with pytest.raises(ValueError, match="no samples to evaluate"):
        StreamingMetrics().result()

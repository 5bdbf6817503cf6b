"""Training, evaluation and checkpoints of models (needs torch)."""

from screc.statistics.metrics import Metrics, StreamingMetrics, area_under_curve
from screc.training.checkpointing import load_model, save_model
from screc.training.evaluation import evaluate, predict
from screc.training.loop import (
    DivergedError,
    Progress,
    TrainingConfig,
    TrainingProgress,
    TrainingReport,
    train,
)

__all__ = [
    "DivergedError",
    "Metrics",
    "Progress",
    "StreamingMetrics",
    "TrainingConfig",
    "TrainingProgress",
    "TrainingReport",
    "area_under_curve",
    "evaluate",
    "load_model",
    "predict",
    "save_model",
    "train",
]

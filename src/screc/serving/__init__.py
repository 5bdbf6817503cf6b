"""Serving: predictions from an artifact, without torch."""

from screc.serving.arithmetic import Accuracy, Arithmetic, PrecisionReport
from screc.serving.calibration import arithmetic_of, calibrate
from screc.serving.engine import Engine, Roles
from screc.serving.precision import PrecisionChoice, choose_precision, packed_precision
from screc.serving.scoring import (
    ScoringReport,
    Throughput,
    choose_data_flow,
    choose_roles,
    counters,
    measure,
    score,
)
from screc.serving.sensitivity import SensitivityConfig, measure_sensitivity

__all__ = [
    "Accuracy",
    "Arithmetic",
    "Engine",
    "PrecisionChoice",
    "PrecisionReport",
    "Roles",
    "ScoringReport",
    "SensitivityConfig",
    "Throughput",
    "arithmetic_of",
    "calibrate",
    "choose_data_flow",
    "choose_precision",
    "choose_roles",
    "counters",
    "measure",
    "measure_sensitivity",
    "packed_precision",
    "score",
]

"""Serving: predictions from an artifact, without torch."""

from screc.serving.arithmetic import Accuracy, Arithmetic, PrecisionReport
from screc.serving.calibration import arithmetic_of, calibrate
from screc.serving.engine import Engine, Roles
from screc.serving.precision import PrecisionChoice, choose_precision, packed_precision
from screc.serving.scoring import ScoringReport, Throughput, choose_roles, counters, measure, score

__all__ = [
    "Accuracy",
    "Arithmetic",
    "Engine",
    "PrecisionChoice",
    "PrecisionReport",
    "Roles",
    "ScoringReport",
    "Throughput",
    "arithmetic_of",
    "calibrate",
    "choose_precision",
    "choose_roles",
    "counters",
    "measure",
    "packed_precision",
    "score",
]

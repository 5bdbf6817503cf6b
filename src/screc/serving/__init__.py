"""Serving: predictions from an artifact, without torch."""

from screc.serving.engine import Engine, Roles
from screc.serving.scoring import ScoringReport, Throughput, counters, measure, score

__all__ = ["Engine", "Roles", "ScoringReport", "Throughput", "counters", "measure", "score"]

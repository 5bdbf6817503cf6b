"""Serving: predictions from an artifact, without torch."""

from screc.serving.engine import Engine
from screc.serving.scoring import ScoringReport, Throughput, counters, measure, score

__all__ = ["Engine", "ScoringReport", "Throughput", "counters", "measure", "score"]

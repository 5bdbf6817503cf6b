"""Serving: predictions from an artifact, without torch."""

from screc.serving.engine import Engine

__all__ = ["Engine"]

"""SCRec: train, plan, pack and serve recommendation models whose embedding tables do not fit in memory."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "compress"]


def __getattr__(name: str) -> Any:
    # Of the training rooms, which need torch: loaded when it is asked for.
    if name == "compress":
        return importlib.import_module("screc.embeddings").compress
    raise AttributeError(f"module 'screc' has no attribute {name!r}")

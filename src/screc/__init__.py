"""SCRec: train, plan, pack and serve recommendation models whose embedding tables do not fit in memory."""

__version__ = "0.1.0"

__all__ = ["__version__"]

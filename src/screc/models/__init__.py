"""Recommendation models (needs torch)."""

from screc.models.dlrm import DLRM, DlrmConfig

__all__ = ["DLRM", "DlrmConfig"]

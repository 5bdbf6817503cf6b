"""Recommendation models (needs torch)."""

from screc.models.click_model import ClickModel
from screc.models.dcn import Dcn, DcnConfig
from screc.models.dlrm import DLRM, DlrmConfig
from screc.models.mem_rec import MemRecConfig, MemRecModel
from screc.models.wide_deep import WideDeep, WideDeepConfig

#: Model and configuration by the ``name`` of a checkpoint's ``model`` entry.
MODELS = {
    "dlrm": (DLRM, DlrmConfig),
    "wide_deep": (WideDeep, WideDeepConfig),
    "dcn": (Dcn, DcnConfig),
    "mem_rec": (MemRecModel, MemRecConfig),
}

__all__ = [
    "DLRM",
    "MODELS",
    "ClickModel",
    "Dcn",
    "DcnConfig",
    "DlrmConfig",
    "MemRecConfig",
    "MemRecModel",
    "WideDeep",
    "WideDeepConfig",
]

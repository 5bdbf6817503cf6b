"""What flows in: batches, click-log readers, feature encoders and the synthetic click log."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from screc.data.batch import Batch
from screc.data.log import ClickLog, TableSpec, open_log
from screc.data.schema import AVAZU, CRITEO, CategoricalColumn, DenseColumn, Schema

if TYPE_CHECKING:
    from screc.data.encoder import FeatureEncoder, fit_encoder
    from screc.data.reuse_trace import ReuseTraceConfig, ReuseTraceLog
    from screc.data.synthetic import (
        CRITEO_KAGGLE_ROWS,
        SyntheticClickLog,
        SyntheticConfig,
        bayes_auc,
    )
    from screc.data.write import write_criteo, write_parquet

# Imported at first use: they bring pyarrow or work that a serving process has no need of.
_LAZY = {
    "CRITEO_KAGGLE_ROWS": "screc.data.synthetic",
    "FeatureEncoder": "screc.data.encoder",
    "ReuseTraceConfig": "screc.data.reuse_trace",
    "ReuseTraceLog": "screc.data.reuse_trace",
    "SyntheticClickLog": "screc.data.synthetic",
    "SyntheticConfig": "screc.data.synthetic",
    "bayes_auc": "screc.data.synthetic",
    "fit_encoder": "screc.data.encoder",
    "write_criteo": "screc.data.write",
    "write_parquet": "screc.data.write",
}

__all__ = [
    "AVAZU",
    "CRITEO",
    "CRITEO_KAGGLE_ROWS",
    "Batch",
    "CategoricalColumn",
    "ClickLog",
    "DenseColumn",
    "FeatureEncoder",
    "ReuseTraceConfig",
    "ReuseTraceLog",
    "Schema",
    "SyntheticClickLog",
    "SyntheticConfig",
    "TableSpec",
    "bayes_auc",
    "fit_encoder",
    "open_log",
    "write_criteo",
    "write_parquet",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'screc.data' has no attribute '{name}'")

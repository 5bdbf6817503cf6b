"""Where rows live: layouts, remaps, checkpoints, artifacts, the row store. Knows rows, never models."""

from .artifact import Artifact, DensePrecision, PackedTable
from .atomic import ReplacedError, replace_directory, replace_file
from .checkpoint import Checkpoint, StoredTable, write_checkpoint
from .checksum import DamagedFileError
from .layout import Band, PageGeometry, TableLayout, TtShape, index_bytes, index_kind
from .mapping import DataFlow, TableCores
from .pack import FitError, PackReport, pack
from .page_order import PageOrder
from .remap import TableRemap
from .row_store import RowStore, Ticket
from .strategy import STRATEGIES, fastest_strategy, lookup_ns
from .tensors import TensorFile, TensorSpec, write_arrays, write_tensors
from .updates import UpdateOptions, UpdateStats
from .verify import Damage, VerifyReport, verify

__all__ = [
    "STRATEGIES",
    "Artifact",
    "Band",
    "Checkpoint",
    "Damage",
    "DamagedFileError",
    "DataFlow",
    "DensePrecision",
    "FitError",
    "PackReport",
    "PackedTable",
    "PageGeometry",
    "PageOrder",
    "ReplacedError",
    "RowStore",
    "StoredTable",
    "TableCores",
    "TableLayout",
    "TableRemap",
    "TensorFile",
    "TensorSpec",
    "Ticket",
    "TtShape",
    "UpdateOptions",
    "UpdateStats",
    "VerifyReport",
    "fastest_strategy",
    "index_bytes",
    "index_kind",
    "lookup_ns",
    "pack",
    "replace_directory",
    "replace_file",
    "verify",
    "write_arrays",
    "write_checkpoint",
    "write_tensors",
]

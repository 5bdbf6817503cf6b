"""Where rows live: layouts, remaps, checkpoints, artifacts, the row store. Knows rows, never models."""

from .atomic import replace_directory, replace_file
from .checkpoint import Checkpoint, StoredTable, write_checkpoint
from .checksum import DamagedFileError
from .layout import Band, PageGeometry, TableLayout, TtShape, index_bytes, index_kind
from .remap import TableRemap
from .tensors import TensorFile, TensorSpec, write_arrays, write_tensors

__all__ = [
    "Band",
    "Checkpoint",
    "DamagedFileError",
    "PageGeometry",
    "StoredTable",
    "TableLayout",
    "TableRemap",
    "TensorFile",
    "TensorSpec",
    "TtShape",
    "index_bytes",
    "index_kind",
    "replace_directory",
    "replace_file",
    "write_arrays",
    "write_checkpoint",
    "write_tensors",
]

"""DRAM for the sparse tables of a checkpoint: what tells their written pages on SSD from holes."""

from __future__ import annotations

from collections.abc import Sequence

from screc.storage import StoredTable, TableLayout
from screc.storage.layout import Band
from screc.storage.row_format import ROW_FORMATS


def sparse_index_bytes(tables: Sequence[StoredTable]) -> int:
    """The most DRAM that an artifact takes beyond its plan for sparse tables whose last bands go to SSD.

    A plan does not know how many pages will be written, so that it is made with this much less than there is.
    Every known row has at most a page of its own, and no index takes more than 9 bits for every 8 pages.

    Args:
        tables: those of the checkpoint that will be packed.
    """
    return sum(
        max(_index_bytes(table.layout, table.known_rows, row_format) for row_format in ROW_FORMATS)
        for table in tables
        if table.known_rows is not None
    )


def _index_bytes(layout: TableLayout, known_rows: int, row_format: str) -> int:
    band = Band(start=0, stop=layout.num_embeddings, format=row_format, memory="ssd")
    on_ssd = TableLayout(**{**dict(layout), "bands": (band,)})
    return on_ssd.with_written(min(known_rows, on_ssd.page_groups(0))).dram_bytes

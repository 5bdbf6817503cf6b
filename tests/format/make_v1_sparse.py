"""Writes tests/format/v1_sparse: an artifact of format version 1 with sparse tables, and its answers.

    PYTHONPATH=src python tests/format/make_v1_sparse.py DIRECTORY

Rows are small integers that span exactly the codes of their format, and the default row of table t is t + 1
(of int8 rows 255), 0, 0 and so on, so that no format rounds them. Git keeps no holes: in a checkout they are
zeros, as in any copy that fills them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from screc.storage import Band, RowStore, StoredTable, TableLayout, pack, write_arrays, write_checkpoint


def tables() -> list[tuple[TableLayout, list[int]]]:
    """Layouts and the known ids of their last bands: pages of few rows with hot rows in DRAM, rows of two
    pages, a scale for each row and one for all, and a table of which nothing is known."""

    def table(name: str, rows: int, dim: int, form: str, hot: int = 0, scale: str = "row") -> TableLayout:
        bands = [Band(start=0, stop=hot, format="fp32", memory="dram")] if hot else []
        bands.append(Band(start=hot, stop=rows, format=form, memory="ssd", scale=scale))
        return TableLayout(table=name, num_embeddings=rows, embedding_dim=dim, bands=tuple(bands))

    return [
        (table("pages", 42, 150, "fp32", hot=2), [1, 13, 14, 40]),
        (table("long", 5, 1100, "fp32"), [3]),
        (table("int8", 30, 400, "int8"), [0, 29]),
        (table("shared", 30, 800, "int4", scale="table"), [11, 12, 13]),
        (table("nothing", 8, 500, "bf16"), []),
    ]


def main(target: Path) -> None:
    rng = np.random.default_rng(3)
    stored, tensors, rows = [], [], []
    for number, (layout, known) in enumerate(tables()):
        dim, hot = layout.embedding_dim, layout.bands[0].num_rows if len(layout.bands) > 1 else 0
        default = np.zeros(dim, np.float32)
        span = 255 if layout.bands[-1].format == "int8" else 15
        default[0] = 255 if span == 255 else number + 1
        whole = np.tile(default, (layout.num_embeddings, 1))
        own = rng.integers(0, span + 1, (len(known), dim)).astype(np.float32)
        own[:, :2] = 0, span
        whole[known] = own
        last = f"band.{len(layout.bands) - 1}"
        held = {f"{last}.ids": np.array(known, np.int64), f"{last}.rows": own, f"{last}.default": default}
        if hot:
            held["band.0.ids"] = np.array([0, 30])
            whole[[0, 30]] = held["band.0.rows"] = rng.integers(-9, 9, (hot, dim)).astype(np.float32)
        stored.append(StoredTable(layout, "sum", len(known)))
        tensors.append(held)
        rows.append(whole)
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(
            Path(scratch, "checkpoint"),
            model={"name": "golden"},
            tables=stored,
            dense={},
            table_tensors=lambda t: tensors[t],
            training={},
        )
        pack(Path(scratch, "checkpoint"), None, None, target / "artifact")
    write_arrays(
        target / "answers.safetensors", {f"rows.{t}": a.astype(np.int16) for t, a in enumerate(rows)}
    )
    store = RowStore.open(target / "artifact", threads=1)
    for t, expected in enumerate(rows):
        assert np.array_equal(store.gather(t, np.arange(len(expected))), expected), stored[t].layout.table


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Writes tests/format/v1_formats: an artifact of format version 1 with rows of every format, and its answers.

    PYTHONPATH=src python tests/format/make_v1_formats.py DIRECTORY

All rows are small integers that span exactly the codes of their format, so that no format rounds them and
every instruction set gives the same sums.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screc.storage import Band, RowStore, StoredTable, TableLayout, pack, write_arrays, write_checkpoint

SAMPLES = 3
SPANS = {"fp32": 200, "fp16": 200, "bf16": 200, "int8": 255, "int4": 15}


@dataclass(frozen=True)
class Ranks:
    """Statistics, as far as packing asks: the ids in the order of their ranks."""

    name: str
    num_embeddings: int
    order: np.ndarray

    def ids_in_ranks(self, start: int, stop: int) -> np.ndarray:
        return self.order[start:stop]

    def shares_in_ranks(self, start: int, stop: int) -> np.ndarray:
        return np.full(stop - start, 1 / self.num_embeddings)


@dataclass(frozen=True)
class Statistics:
    tables: list[Ranks]


@dataclass(frozen=True)
class Plan:
    layouts: list[TableLayout]

    def to_dict(self) -> dict[str, Any]:
        return {"note": "rows of every format"}


def layouts() -> list[TableLayout]:
    """Odd and even dimensions, DRAM and SSD, a scale for each row and one for the band, mixed formats."""

    def table(name: str, rows: int, dim: int, *bands: tuple[int, str, str, str]) -> TableLayout:
        starts = [0, *(stop for stop, *_ in bands)]
        placed = tuple(
            Band(start=start, stop=stop, format=row_format, memory=memory, scale=scale)
            for start, (stop, row_format, memory, scale) in zip(starts, bands, strict=False)
        )
        return TableLayout(table=name, num_embeddings=rows, embedding_dim=dim, bands=placed)

    return [
        table("fp16", 9, 5, (9, "fp16", "dram", "row")),
        table("bf16", 9, 4, (9, "bf16", "ssd", "row")),
        table("int8", 40, 3, (7, "int8", "dram", "row"), (40, "int8", "ssd", "row")),
        table("int4", 40, 7, (7, "int4", "dram", "row"), (40, "int4", "ssd", "row")),
        table("shared", 30, 6, (5, "int8", "dram", "table"), (30, "int4", "ssd", "table")),
        table(
            "mixed",
            50,
            4,
            (4, "fp32", "dram", "row"),
            (20, "int8", "dram", "row"),
            (50, "fp16", "ssd", "row"),
        ),
    ]


def rows_of(layout: TableLayout, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Integers; with a shared scale all rows of a band begin with the band's bounds, else with their own."""
    rows = np.empty((layout.num_embeddings, layout.embedding_dim), np.float32)
    for band in layout.bands:
        ids, span = order[band.start : band.stop], SPANS[band.format]
        low = rng.integers(-9, 9, (len(ids), 1)) if band.scale == "row" else np.full((len(ids), 1), -4)
        rows[ids] = low + rng.integers(0, span + 1, (len(ids), layout.embedding_dim))
        rows[ids, :1], rows[ids, 1:2] = low, low + span
    return rows


def main(target: Path) -> None:
    rng = np.random.default_rng(2)
    tables = layouts()
    orders = [rng.permutation(table.num_embeddings) for table in tables]
    rows = [rows_of(table, order, rng) for table, order in zip(tables, orders, strict=True)]
    ranks = [
        Ranks(table.table, table.num_embeddings, order) for table, order in zip(tables, orders, strict=True)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(
            Path(scratch, "checkpoint"),
            model={"name": "golden"},
            tables=[
                StoredTable(TableLayout.dense(one.table, one.num_embeddings, one.embedding_dim), "sum")
                for one in tables
            ],
            dense={},
            table_tensors=lambda t: {"band.0.rows": rows[t]},
            training={},
        )
        report = pack(Path(scratch, "checkpoint"), Statistics(ranks), Plan(tables), target / "artifact")
    assert all(error.error == 0 for error in report.fit_errors)
    lengths = rng.integers(0, 4, (len(tables), SAMPLES))
    ids = [rng.integers(0, t.num_embeddings, n.sum()) for t, n in zip(tables, lengths, strict=True)]
    answers = {f"rows.{t}": table.astype(np.int16) for t, table in enumerate(rows)}
    answers["ids"] = np.concatenate(ids)
    answers["offsets"] = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    pooled = [np.zeros((SAMPLES, table.embedding_dim), np.float32) for table in tables]
    for t, own in enumerate(ids):
        for sample, bag in enumerate(np.split(own, np.cumsum(lengths[t])[:-1])):
            pooled[t][sample] = rows[t][bag].sum(axis=0)
    answers["pooled"] = np.concatenate(pooled, axis=1)
    write_arrays(target / "answers.safetensors", answers)
    store = RowStore.open(target / "artifact", threads=1)
    for t, expected in enumerate(rows):
        assert np.array_equal(store.gather(t, np.arange(len(expected))), expected), tables[t].table


if __name__ == "__main__":
    main(Path(sys.argv[1]))

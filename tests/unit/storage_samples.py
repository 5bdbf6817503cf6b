"""Small checkpoints, statistics and plans for the storage tests, and a numpy oracle of the rows they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screc.storage import Band, StoredTable, TableLayout, TtShape, write_checkpoint


@dataclass(frozen=True)
class RankedTable:
    """The rank order of one table, as statistics give it."""

    name: str
    order: np.ndarray

    @property
    def num_embeddings(self) -> int:
        return len(self.order)

    def ids_in_ranks(self, start: int, stop: int) -> np.ndarray:
        return self.order[start:stop].copy()

    def shares_in_ranks(self, start: int, stop: int) -> np.ndarray:
        return np.full(stop - start, 1 / self.num_embeddings)


@dataclass(frozen=True)
class Ranks:
    """Statistics, as far as packing asks."""

    tables: Sequence[RankedTable]


@dataclass(frozen=True)
class Plan:
    """A plan, as far as packing asks."""

    layouts: Sequence[TableLayout]

    def to_dict(self) -> dict[str, Any]:
        return {"layouts": [layout.model_dump(mode="json") for layout in self.layouts]}


def layout(table: str, rows: int, dim: int, *cuts: tuple[int, str]) -> TableLayout:
    """A layout of bands that end at the given ranks: 'tt', or a memory with the rows' format and the owner of
    their scale, as 'dram', 'ssd/fp16' or 'dram/int8/table'."""
    bands, start = [], 0
    for position, (stop, kind) in enumerate(cuts):
        slots = rows if position == len(cuts) - 1 else stop - start
        tt = TtShape.balanced(slots, dim, 6) if kind == "tt" else None
        placement = "dram/tt" if tt else kind
        memory, row_format, scale = placement.split("/") + ["fp32", "row"][placement.count("/") :]
        bands.append(Band(start=start, stop=stop, format=row_format, memory=memory, scale=scale, tt=tt))
        start = stop
    return TableLayout(table=table, num_embeddings=rows, embedding_dim=dim, bands=tuple(bands))


def whole_tables(layouts: Sequence[TableLayout], seed: int = 0) -> list[np.ndarray]:
    """Random rows for every table."""
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal((one.num_embeddings, one.embedding_dim)).astype(np.float32) for one in layouts
    ]


def write_whole(path: Path, layouts: Sequence[TableLayout], tables: Sequence[np.ndarray], **more) -> Path:
    """A checkpoint whose tables were trained whole."""
    stored = [
        StoredTable(TableLayout.dense(one.table, one.num_embeddings, one.embedding_dim), pooling)
        for one, pooling in zip(layouts, ["sum", "mean"] * len(layouts), strict=False)
    ]
    arguments = {
        "model": {"name": "dlrm", "num_dense": 2},
        "dense": {"top.0.weight": np.ones((1, 3), np.float32), "top.0.bias": np.zeros(1, np.float32)},
        "training": {"samples": 10},
        "table_tensors": lambda t: {"band.0.rows": tables[t]},
    }
    write_checkpoint(path, tables=stored, **{**arguments, **more})
    return path


def random_ranks(layouts: Sequence[TableLayout], seed: int = 1) -> Ranks:
    """A random rank order for every table."""
    rng = np.random.default_rng(seed)
    return Ranks([RankedTable(one.table, rng.permutation(one.num_embeddings)) for one in layouts])


def sample_layouts() -> list[TableLayout]:
    """Bands of every kind: hash and bitmap indices, SSD and TT last, long rows, one band, one row."""
    return [
        layout("three", 3000, 8, (10, "dram"), (900, "tt"), (3000, "ssd")),
        layout("bitmap", 1000, 4, (300, "dram"), (1000, "ssd")),
        layout("tt-last", 700, 6, (20, "dram"), (700, "tt")),
        layout("long", 12, 1500, (2, "ssd"), (12, "ssd")),
        layout("plain", 50, 3, (50, "dram")),
        layout("one", 1, 5, (1, "ssd")),
    ]

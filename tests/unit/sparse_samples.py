"""Sparse tables for tests: a checkpoint that knows some rows of huge tables, and what any id should give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from storage_samples import Ranks, layout

from screc.storage import StoredTable, TableLayout, write_checkpoint

# Two thousand rows are known of a billion: pages of 15, 63 and 507 rows, rows of a page each and of two.
ROWS = 1_000_000_000
LAYOUTS = [
    layout("ssd", ROWS, 64, (ROWS, "ssd")),
    layout("hot", ROWS, 16, (40, "dram"), (90, "tt"), (ROWS, "ssd")),
    layout("int8", ROWS, 4, (30, "dram/int8"), (60, "ssd/int8"), (ROWS, "ssd/int8")),
    layout("page", 3_000_000, 1500, (3_000_000, "ssd/fp16")),
    layout("long", 3_000_000, 1500, (3_000_000, "ssd")),
    layout("shared", 5_000_000, 8, (5_000_000, "ssd/int4/table")),
    layout("untouched", ROWS, 16, (ROWS, "ssd")),
    layout("small", 300, 16, (300, "dram")),
]
UNTOUCHED = 6


@dataclass(frozen=True)
class FirstRanks:
    """The rank order of a huge table's first rows: all that packing asks for."""

    name: str
    num_embeddings: int
    order: np.ndarray

    def ids_in_ranks(self, start: int, stop: int) -> np.ndarray:
        assert stop <= len(self.order), "no packer needs the ranks of the last band"
        return self.order[start:stop].copy()

    def shares_in_ranks(self, start: int, stop: int) -> np.ndarray:
        return np.full(stop - start, 1 / self.num_embeddings)


def write_tables(
    path: Path, stored: Sequence[StoredTable], tensors: Callable[[int], Mapping[str, np.ndarray]]
) -> Path:
    """A checkpoint with these tensors of its tables."""
    write_checkpoint(
        path,
        model={"name": "dlrm", "num_dense": 2},
        tables=stored,
        dense={"top.0.weight": np.ones((1, 3), np.float32), "top.0.bias": np.zeros(1, np.float32)},
        table_tensors=tensors,
        training={},
    )
    return path


class SparseTables:
    """Known rows and default rows of tables with these layouts."""

    def __init__(self, layouts: list[TableLayout] = LAYOUTS, num_known: int = 2000, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.layouts = layouts
        self.ids: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        self.defaults: list[np.ndarray] = []
        for one in layouts:
            last, dim = one.num_embeddings - 1, one.embedding_dim
            known = min(num_known, one.num_embeddings // 2, 2_000_000 // dim)
            # All over the table, with neighbours and both ends.
            ids = np.concatenate((rng.integers(0, last + 1, known), [0, 7, 8, 9, last - 1, last]))
            ids = np.unique(ids) if one.table != "untouched" else np.zeros(0, np.int64)
            self.ids.append(ids)
            self.rows.append(rng.standard_normal((len(ids), dim)).astype(np.float32))
            self.defaults.append((np.arange(dim) % 8 / 8 - 0.25).astype(np.float32))

    def stored(self) -> list[StoredTable]:
        return [
            StoredTable(TableLayout.dense(one.table, one.num_embeddings, one.embedding_dim), "sum", len(ids))
            for one, ids in zip(self.layouts, self.ids, strict=True)
        ]

    def write(self, path: Path) -> Path:
        return write_tables(path, self.stored(), self.tensors)

    def tensors(self, table: int) -> dict[str, np.ndarray]:
        return {
            "band.0.ids": self.ids[table],
            "band.0.rows": self.rows[table],
            "band.0.default": self.defaults[table],
        }

    def ranks(self) -> Ranks:
        """Some known ids first, in any order, and one that is not known."""
        rng = np.random.default_rng(1)
        return Ranks(
            [
                FirstRanks(one.table, one.num_embeddings, rng.permutation(np.append(ids[:100], 123)))
                for one, ids in zip(self.layouts, self.ids, strict=True)
            ]
        )

    def expected(self, table: int, ids: np.ndarray) -> np.ndarray:
        """The float32 rows of ids."""
        known, out = self.ids[table], np.tile(self.defaults[table], (len(ids), 1))
        rows = {int(row): number for number, row in enumerate(known)}
        for place, row in enumerate(ids.tolist()):
            if row in rows:
                out[place] = self.rows[table][rows[row]]
        return out

    def some_ids(self, table: int, seed: int = 2) -> np.ndarray:
        """Known ids, their neighbours, which share their pages, and ids from all over the table."""
        rows, rng = self.layouts[table].num_embeddings, np.random.default_rng(seed)
        near = np.concatenate((self.ids[table], self.ids[table] + 1, self.ids[table] - 2)) % rows
        return rng.permutation(np.concatenate((near, rng.integers(0, rows, 500), [0, 123, rows - 1])))

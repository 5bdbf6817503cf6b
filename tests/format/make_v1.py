"""Writes tests/format/v1: a small artifact of format version 1 and the answers it must give for ever.

    PYTHONPATH=src python tests/format/make_v1.py DIRECTORY

All numbers are small integers (halves for means), so that every instruction set gives the same bits.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screc.storage import (
    Band,
    RowStore,
    StoredTable,
    TableLayout,
    TtShape,
    pack,
    write_arrays,
    write_checkpoint,
)
from screc.storage.checkpoint import tensor_specs

SAMPLES = 2


@dataclass(frozen=True)
class Plan:
    """A plan, as far as packing asks."""

    layouts: list[TableLayout]

    def to_dict(self) -> dict[str, Any]:
        return {"note": "the plan that made the golden artifact"}


def band(start: int, stop: int, memory: str, tt: TtShape | None = None) -> Band:
    return Band(start=start, stop=stop, format="tt" if tt else "fp32", memory=memory, tt=tt)


def layouts() -> list[TableLayout]:
    """Hash and bitmap indices, 2 to 4 cores, rows of one and of two pages, a table of one band."""
    three = TtShape(row_factors=(3, 4, 5), col_factors=(1, 1, 3), ranks=(1, 2, 3, 1))
    two = TtShape(row_factors=(9, 12), col_factors=(1, 3), ranks=(1, 2, 1))
    four = TtShape(row_factors=(2, 2, 2, 2), col_factors=(2, 1, 1, 2), ranks=(1, 2, 2, 2, 1))
    tables = [
        ("mixed", 330, 3, (band(0, 2, "dram"), band(2, 60, "dram", three), band(60, 330, "ssd"))),
        ("tt-last", 100, 3, (band(0, 60, "dram"), band(60, 100, "dram", two))),
        ("long", 2, 1100, (band(0, 2, "ssd"),)),
        ("plain", 6, 2, (band(0, 6, "dram"),)),
        ("ssd-first", 40, 4, (band(0, 8, "ssd"), band(8, 20, "dram", four), band(20, 40, "dram"))),
    ]
    return [
        TableLayout(table=name, num_embeddings=rows, embedding_dim=dim, bands=bands)
        for name, rows, dim, bands in tables
    ]


def tensors(layout: TableLayout, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Small integers for everything, a random choice of ids for the bands."""
    order, result = rng.permutation(layout.num_embeddings), {}
    for name, spec in tensor_specs(layout).items():
        _, number, kind, *_ = name.split(".")
        if kind == "ids":
            placed = layout.bands[int(number)]
            result[name] = np.sort(order[placed.start : placed.stop])
        else:
            result[name] = rng.integers(-8, 9, spec.shape).astype(np.float32)
    return result


def rows_of(layout: TableLayout, stored: dict[str, np.ndarray]) -> np.ndarray:
    """Every row by the definitions of docs/format.md, in float64 (exact)."""
    rows = np.empty((layout.num_embeddings, layout.embedding_dim), np.float32)
    for number in reversed(range(len(layout.bands))):
        placed = layout.bands[number]
        ids = stored.get(f"band.{number}.ids", np.arange(layout.num_embeddings))
        for slot, row in enumerate(ids):
            if placed.tt is None:
                rows[row] = stored[f"band.{number}.rows"][slot]
                continue
            product = np.ones((1, 1))
            for core, digit in enumerate(np.unravel_index(slot, placed.tt.row_factors)):
                chosen = stored[f"band.{number}.tt.{core}"][:, digit].astype(np.float64)
                product = np.tensordot(product, chosen, axes=(-1, 0)).reshape(-1, chosen.shape[-1])
            rows[row] = product[:, 0]
    return rows


def main(target: Path) -> None:
    rng = np.random.default_rng(1)
    tables = layouts()
    stored = [tensors(table, rng) for table in tables]
    poolings = ["sum", "sum", "mean", "mean", "sum"]
    with tempfile.TemporaryDirectory() as scratch:
        assets = Path(scratch, "assets")
        assets.mkdir()
        (assets / "note.txt").write_text("assets are opaque\n")
        write_checkpoint(
            Path(scratch, "checkpoint"),
            model={"name": "golden", "numbers": [1, 2.5]},
            tables=[StoredTable(table, pooling) for table, pooling in zip(tables, poolings, strict=True)],
            dense={"bottom.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3)},
            table_tensors=lambda t: stored[t],
            training={},
            assets=assets,
        )
        pack(Path(scratch, "checkpoint"), None, Plan(tables), target / "artifact")
    rows = [rows_of(table, tensors) for table, tensors in zip(tables, stored, strict=True)]
    lengths = rng.choice([0, 1, 2, 4], (len(tables), SAMPLES))  # means are exact
    ids = [rng.integers(0, t.num_embeddings, n.sum()) for t, n in zip(tables, lengths, strict=True)]
    answers = {f"rows.{t}": table.astype(np.int16) for t, table in enumerate(rows)}
    answers["ids"] = np.concatenate(ids)
    answers["offsets"] = np.concatenate([[0], np.cumsum(lengths.reshape(-1))])
    pooled = []
    for table in range(len(tables)):
        start = table * SAMPLES
        for sample in range(SAMPLES):
            bag = answers["ids"][answers["offsets"][start + sample] : answers["offsets"][start + sample + 1]]
            total = rows[table][bag].sum(axis=0, dtype=np.float32)
            pooled.append(total / max(len(bag), 1) if poolings[table] == "mean" else total)
    by_table = [np.stack(pooled[SAMPLES * t : SAMPLES * (t + 1)]) for t in range(len(tables))]
    answers["pooled"] = np.concatenate(by_table, axis=1)
    write_arrays(target / "answers.safetensors", answers)
    store = RowStore.open(target / "artifact", threads=1)
    for table, expected in enumerate(rows):
        found = store.gather(table, np.arange(len(expected)))
        assert np.array_equal(found, expected), f"table {tables[table].table}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What a benchmark runs: the shape of a DLRM, its random weights, and batches of Zipf or uniform ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from screc import _native
from screc.data import Batch
from screc.statistics import AccessStatistics, TableStatistics
from screc.statistics.curve import AccessCurve

Layers = list[tuple[np.ndarray, np.ndarray]]
Skew = Literal["zipf", "uniform"]
SKEWS: tuple[Skew, ...] = ("zipf", "uniform")
ZIPF_EXPONENT = 1.05
_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The shape of a DLRM with dot interaction, and how many ids a bag has.

    Attributes:
        rows: rows of each table.
        embedding_dim: columns of every table.
        num_dense: dense features of a sample.
        bottom, top: output widths of the MLPs; the top's last is 1.
        pooling: ids of every bag.
    """

    rows: tuple[int, ...]
    embedding_dim: int
    num_dense: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    pooling: int = 1

    @property
    def model(self) -> dict[str, Any]:
        """The model dict of ``screc.serving.Engine``."""
        return {
            "name": "dlrm",
            "num_dense": self.num_dense,
            "embedding_dim": self.embedding_dim,
            "bottom_mlp": list(self.bottom),
            "top_mlp": list(self.top),
            "interaction": "dot",
        }

    @property
    def top_inputs(self) -> int:
        """Width of the top MLP's input: the bottom output and one product for each pair of features."""
        features = len(self.rows) + 1
        return self.embedding_dim + features * (features - 1) // 2

    @property
    def interaction_flops(self) -> int:
        """Multiplications and additions per sample of the pairs' inner products."""
        return 2 * (self.top_inputs - self.embedding_dim) * self.embedding_dim

    @property
    def flops(self) -> int:
        """Multiplications and additions per sample of both MLPs and of the interaction."""
        widths = ((self.num_dense, *self.bottom), (self.top_inputs, *self.top))
        return self.interaction_flops + 2 * sum(a * b for mlp in widths for a, b in pairwise(mlp))

    @property
    def lookups(self) -> int:
        """Rows read per sample."""
        return len(self.rows) * self.pooling

    @property
    def row_bytes(self) -> int:
        """Bytes of all tables as fp32."""
        return sum(self.rows) * self.embedding_dim * 4

    def layers(self, generator: np.random.Generator) -> tuple[Layers, Layers]:
        """Random weights of the bottom and the top MLP."""
        return (
            random_layers(generator, self.num_dense, self.bottom),
            random_layers(generator, self.top_inputs, self.top),
        )

    def batch(self, generator: np.random.Generator, size: int, skew: Skew) -> Batch:
        """One batch; Zipf ranks by the bounded continuous inverse, scattered over the table."""
        per_table = size * self.pooling
        ids = np.empty((len(self.rows), per_table), dtype=np.int64)
        for table, count in enumerate(self.rows):
            uniform = generator.random(per_table)
            if skew == "zipf":
                power = 1 - ZIPF_EXPONENT
                rank = (1 - uniform * (1 - (count + 1) ** power)) ** (1 / power) - 1
                rank = np.minimum(rank.astype(np.int64), count - 1)
                ids[table] = _scattered(rank, count)
            else:
                ids[table] = (uniform * count).astype(np.int64)
        return Batch(
            dense=generator.standard_normal((size, self.num_dense), dtype=np.float32),
            ids=ids.ravel(),
            offsets=np.arange(0, ids.size + 1, self.pooling, dtype=np.int64),
        )

    def access_statistics(self, samples: int, generator: np.random.Generator) -> AccessStatistics:
        """Counts of so many samples of :meth:`batch`'s Zipf ids, drawn rank by rank; table i is ``t{i}``."""
        tables = []
        power = 1 - ZIPF_EXPONENT
        for number, rows in enumerate(self.rows):
            edges = np.arange(1, rows + 2, dtype=np.float64) ** power
            counts = generator.poisson(samples * self.pooling * np.diff(edges) / (edges[-1] - edges[0]))
            seen = np.flatnonzero(counts)
            tables.append(
                TableStatistics.from_counts(
                    f"t{number}", rows, _scattered(seen, rows), counts[seen], num_samples=samples
                )
            )
        return AccessStatistics(tables=tuple(tables))

    def zipf_curve(self, table: int) -> AccessCurve:
        """The law that Zipf ids of a table are drawn from, by rank, in some thousand runs."""
        rows, power = self.rows[table], 1 - ZIPF_EXPONENT
        ends = np.concatenate((np.arange(1, 1000), np.geomspace(1000, max(rows, 1000), 4000)))
        boundaries = np.unique(np.append(ends[ends < rows].astype(np.int64), (0, rows)))
        mass = np.diff((boundaries + 1.0) ** power) / ((rows + 1.0) ** power - 1)
        return AccessCurve(boundaries, mass / np.diff(boundaries))

    def ids_by_rank(self, table: int) -> np.ndarray:
        """The ids of a table from the most to the least likely, int64 [rows]."""
        return _scattered(np.arange(self.rows[table]), self.rows[table])

    def batches(self, generator: np.random.Generator, size: int, skew: Skew) -> list[Batch]:
        """Batches to take in turn: so many that the rows of one are not waiting in the cache at its next."""
        count = max(4, min(512, 65_536 // (size * self.pooling)))
        return [self.batch(generator, size, skew) for _ in range(count)]


def _scattered(rank: np.ndarray, rows: int) -> np.ndarray:
    """The ids of ranks: no row keeps its rank as its id."""
    return (rank * 2_654_435_761 + 12_345) % rows


def kaggle(rows: Sequence[int]) -> Workload:
    """The Criteo-Kaggle DLRM over tables of these rows: MLPs 13-512-256-64-16 and 512-256-1."""
    return Workload(
        rows=tuple(rows), embedding_dim=16, num_dense=13, bottom=(512, 256, 64, 16), top=(512, 256, 1)
    )


def random_layers(generator: np.random.Generator, width: int, widths: Sequence[int]) -> Layers:
    """(weight [out, in], bias [out]) per layer, scaled so that activations neither die nor grow."""
    layers = []
    for out in widths:
        weight = generator.standard_normal((out, width), dtype=np.float32) * np.sqrt(2 / width)
        layers.append((weight.astype(np.float32), 0.1 * generator.standard_normal(out, dtype=np.float32)))
        width = out
    return layers


def dense_tensors(bottom: Layers, top: Layers) -> dict[str, np.ndarray]:
    """The layers by their names in docs/format.md."""
    return {
        f"{name}.{number}.{kind}": array
        for name, layers in (("bottom", bottom), ("top", top))
        for number, layer in enumerate(layers)
        for kind, array in zip(("weight", "bias"), layer, strict=True)
    }


class RandomTables(Sequence[np.ndarray]):
    """Random float32 tables, made when they are asked for: a list of them need not fit in memory.

    Every table repeats one block of normal numbers, each time with another factor and offset, so that no two
    rows of the tables are alike; the same (seed, table) gives the same numbers.

    Args:
        rows: rows of each table.
        dim: columns.
        deviation: about the standard deviation of the numbers.
        seed: of the block, the factors and the offsets.
    """

    def __init__(self, rows: Sequence[int], dim: int, *, deviation: float = 0.1, seed: int = 1) -> None:
        self._rows, self._dim, self._deviation, self._seed = tuple(rows), dim, deviation, seed
        generator = np.random.default_rng(seed)
        self._block = generator.standard_normal((_BLOCK_ROWS, dim), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, table: int) -> np.ndarray:  # type: ignore[override]
        """float32 [rows, dim] in huge pages; a new array at every call."""
        count = self._rows[table]
        out = _native.empty(count * self._dim * 4).view(np.float32).reshape(count, self._dim)
        for block, (factor, offset) in enumerate(self._changes(table)):
            part = out[block * _BLOCK_ROWS : (block + 1) * _BLOCK_ROWS]
            np.multiply(self._block[: len(part)], factor, out=part)
            part += offset
        return out

    def rows(self, table: int, ids: np.ndarray) -> np.ndarray:
        """Rows of ids int64 [n], float32 [n, dim], without making the table."""
        factors, offsets = np.array(self._changes(table), np.float32).T
        out = self._block[ids % _BLOCK_ROWS]
        out *= factors[ids // _BLOCK_ROWS, None]
        out += offsets[ids // _BLOCK_ROWS, None]
        return out

    def _changes(self, table: int) -> list[tuple[np.float32, np.float32]]:
        """Factor and offset of each time that the block is repeated."""
        generator = np.random.default_rng([self._seed, table])
        return [
            (
                np.float32(self._deviation * generator.uniform(0.5, 1.0)),
                np.float32(generator.normal(scale=self._deviation / 4)),
            )
            for _ in range(0, self._rows[table], _BLOCK_ROWS)
        ]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[table] for table in range(len(self)))

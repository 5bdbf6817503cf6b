"""Frequency split: the hottest ids have rows of their own, all others share (the baseline of CAFE)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError, largest_within
from screc.embeddings.hash import HashRows
from screc.embeddings.hashing import buckets
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, normal_rows, register
from screc.storage.layout import index_bytes

Cold = Literal["shared", "per-table"]


@register
class HotCold(Method):
    """A static split by counts taken before training (SIGMOD 2024, arXiv 2312.03256, baseline "Offline").

    The index from hot ids to rows is charged as the store holds it. The cold ids of all tables share one
    hashed table, or each table has its own part of it.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        hot: numbers of the hot ids over all tables (starts of the tables + id), int64, ascending.
        cold_rows: rows that each table's cold ids share; one number for all tables together.
        salt: of the hash.
        init_std, generator: of the rows.
    """

    name = "hot-cold"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        hot: np.ndarray,
        cold_rows: Sequence[int],
        *,
        salt: int = 0,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        if len(cold_rows) not in (1, len(specs)):
            raise ValueError(f"cold_rows: expected 1 or {len(specs)} numbers, got {len(cold_rows)}")
        self.register_buffer("hot", torch.from_numpy(np.ascontiguousarray(hot, dtype=np.int64)))
        self.register_buffer("salt", torch.tensor(salt))
        cold = torch.tensor(cold_rows)
        self.register_buffer("_cold", cold, persistent=False)
        self.register_buffer("_colds", len(hot) + cold.cumsum(0) - cold, persistent=False)
        self.weight = normal_rows(len(hot) + int(cold.sum()), embedding_dim, init_std, generator)

    @classmethod
    def fit(cls, brief: Brief, *, hot_share: float = 0.7, cold: Cold = "shared", **options: Any) -> HotCold:
        """See :meth:`Method.fit`; needs ``counts``.

        Options: ``hot_share``, the part of the budget for hot rows and their index; ``cold``, ``"shared"`` or
        ``"per-table"``; ``salt``.
        """
        counts = brief.known_counts(cls.name)
        if not 0 <= hot_share < 1:
            raise ValueError(f"hot_share must be at least 0 and below 1, got {hot_share}")
        if cold not in ("shared", "per-table"):
            raise ValueError(f"cold must be 'shared' or 'per-table', got {cold!r}")
        row = brief.row_bytes
        parts = 1 if cold == "shared" else len(brief.specs)
        if brief.budget < row * parts:
            raise BudgetError.below(cls.name, brief.budget, row * parts)
        order = np.argsort(-np.concatenate(counts), kind="stable")
        table_of = np.repeat(np.arange(len(brief.specs)), brief.sizes)[order]
        for_hot = min(int(brief.budget * hot_share), brief.budget - row * parts)

        def taken(num_hot: int) -> int:
            own = np.bincount(table_of[:num_hot], minlength=len(brief.specs)).tolist()
            return row * num_hot + _index_bytes(brief.specs, own)

        num_hot = largest_within(taken, for_hot, 0, len(order))
        left = (brief.budget - taken(num_hot)) // row
        if cold == "shared":
            cold_rows = [left]
        else:
            shared_out = HashRows.shared_out(brief.sizes, left)
            assert shared_out is not None  # there is a row for each
            cold_rows = shared_out
        options.setdefault("salt", brief.salt())
        return cls(
            brief.specs,
            brief.embedding_dim,
            np.sort(order[:num_hot]),
            cold_rows,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        part = wanted.tables if self._cold.numel() > 1 else torch.zeros_like(wanted.tables)
        places = buckets(whole, self._cold[part], self.salt) + self._colds[part]
        if self.hot.numel():
            slots = torch.searchsorted(self.hot, whole).clamp(max=self.hot.numel() - 1)
            places = torch.where(self.hot[slots] == whole, slots, places)
        return self.gather(self.weight, places)

    def footprint(self) -> Footprint:
        tables = torch.bucketize(self.hot, self._starts[1:], right=True)
        own = torch.bincount(tables, minlength=self.num_tables).tolist()
        taken = ByteCount(parameters=4 * self.weight.numel(), remap=_index_bytes(self.specs, own))
        return Footprint(taken, taken)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]


def _index_bytes(specs: Sequence[TableSpec], hot: Sequence[int]) -> int:
    """Bytes of the indices from ids to hot rows; a table that is hot as a whole needs none."""
    return sum(
        index_bytes(spec.num_embeddings, count)
        for spec, count in zip(specs, hot, strict=True)
        if 0 < count < spec.num_embeddings
    )

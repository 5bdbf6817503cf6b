"""Compositional embeddings: a row is composed of a quotient's and a remainder's (arXiv 1909.02107)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, register

Composition = Literal["product", "sum"]


@register
class QuotientRemainder(Method):
    """``Q[id // c] * R[id % c]`` (section 3; or their sum): every id has a row of its own from few.

    One number of remainders c for all tables (VLDB'24 study, card CompoEmb); a table that it would not make
    smaller stays whole.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        remainders: c.
        composition: ``"product"`` or ``"sum"``.
        init_std: of the entries of the composed rows.
        generator: of the rows.
    """

    name = "qr"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        remainders: int,
        *,
        composition: Composition = "product",
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        if composition not in ("product", "sum"):
            raise ValueError(f"composition must be 'product' or 'sum', got {composition!r}")
        self.remainders, self.composition = remainders, composition
        sizes = [spec.num_embeddings for spec in specs]
        composed = torch.tensor([_composed_rows(n, remainders) < n for n in sizes])
        quotients = torch.tensor([math.ceil(n / remainders) for n in sizes])
        firsts = torch.where(composed, quotients, self._sizes)
        seconds = torch.where(composed, remainders, 0)
        self.register_buffer("_composed", composed, persistent=False)
        self.register_buffer("_firsts", firsts.cumsum(0) - firsts, persistent=False)
        self.register_buffer("_seconds", seconds.cumsum(0) - seconds, persistent=False)
        # Factors near zero would make products peak there: a product starts with remainders near one.
        first = torch.empty(int(firsts.sum()), embedding_dim)
        second = torch.empty(int(seconds.sum()), embedding_dim)
        if composition == "product":
            first.normal_(0.0, init_std, generator=generator)
            second.normal_(1.0, 0.1, generator=generator)
        else:
            first.normal_(0.0, init_std / math.sqrt(2), generator=generator)
            second.normal_(0.0, init_std / math.sqrt(2), generator=generator)
        self.quotient_rows, self.remainder_rows = nn.Parameter(first), nn.Parameter(second)

    @classmethod
    def fit(cls, brief: Brief, **options: Any) -> QuotientRemainder:
        """See :meth:`Method.fit`; the option is ``composition``."""
        sizes = np.array(brief.sizes)
        total = brief.budget // brief.row_bytes
        # Rows fall with c down to c = sqrt(n) and rise again beyond: the largest form has the smallest c.
        candidates = np.unique(np.geomspace(1, max(2, int(sizes.max())), 4096).round().astype(np.int64))
        rows = np.array([_total_rows(sizes, int(c)) for c in candidates])
        fitting = np.flatnonzero(rows <= total)
        if not fitting.size:
            raise BudgetError.below(cls.name, brief.budget, int(rows.min()) * brief.row_bytes)
        best = int(candidates[fitting[np.argmax(rows[fitting])]])
        return cls(
            brief.specs,
            brief.embedding_dim,
            best,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        composed = self._composed[wanted.tables]
        quotients = torch.where(composed, wanted.ids // self.remainders, wanted.ids)
        first = self.gather(self.quotient_rows, quotients + self._firsts[wanted.tables])
        if not bool(composed.any()):
            return first
        places = composed.nonzero()[:, 0]
        remainders = wanted.ids[places] % self.remainders + self._seconds[wanted.tables[places]]
        second = self.gather(self.remainder_rows, remainders)
        if self.composition == "sum":
            return first.index_add(0, places, second)
        return first.index_copy(0, places, first.index_select(0, places) * second)

    def footprint(self) -> Footprint:
        taken = ByteCount(parameters=4 * (self.quotient_rows.numel() + self.remainder_rows.numel()))
        return Footprint(taken, taken)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.quotient_rows, self.remainder_rows]


def _composed_rows(num_embeddings: int, remainders: int) -> int:
    return math.ceil(num_embeddings / remainders) + remainders


def _total_rows(sizes: np.ndarray, remainders: int) -> int:
    return int(np.minimum(sizes, -(-sizes // remainders) + remainders).sum())

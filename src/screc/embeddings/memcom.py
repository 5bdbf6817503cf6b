"""MEmCom: shared rows, each id with a scalar of its own (Pansare et al., MLSys 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from screc.embeddings.budget import largest_within
from screc.embeddings.method import Brief, ByteCount, normal_rows, register
from screc.embeddings.per_table import PerTable, Rows, WholeRows

_FINEST = 10**6


class ScaledRows(Rows):
    """``U[id % m] * V[id] (+ W[id])``: ids that share a row differ by a factor, and by an offset."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        shared: int,
        *,
        bias: bool,
        init_std: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.shared = normal_rows(shared, embedding_dim, init_std, generator)
        # Factors about one: at the start an id's row is nearly the shared one.
        self.factors = nn.Parameter(torch.empty(num_embeddings, 1).normal_(1.0, 0.1, generator=generator))
        self.offsets = nn.Parameter(torch.zeros(num_embeddings, 1)) if bias else None

    def rows(self, ids: Tensor) -> Tensor:
        made = self.gather(self.shared, ids % self.shared.shape[0]) * self.gather(self.factors, ids)
        return made if self.offsets is None else made + self.gather(self.offsets, ids)

    def bytes_when_served(self) -> ByteCount:
        return ByteCount(parameters=4 * sum(p.numel() for p in self.parameters()))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return list(self.parameters())


@register
class MEmCom(PerTable):
    """Shared rows in proportion to the tables' sizes; never below one number per id."""

    name = "memcom"

    @classmethod
    def fit(cls, brief: Brief, *, bias: bool = False) -> MEmCom:
        """See :meth:`Method.fit`; the option is ``bias``, W in the formula."""
        scalars = 2 if bias else 1

        def shared(rows: int, part: int) -> int:
            return max(1, rows * part // _FINEST)

        def numbers(rows: int, part: int) -> int:
            return min(rows * brief.embedding_dim, shared(rows, part) * brief.embedding_dim + scalars * rows)

        sizes = brief.sizes
        part = largest_within(
            lambda part: 4 * sum(numbers(n, part) for n in sizes), brief.budget, 0, _FINEST, method=cls.name
        )
        tables: list[Rows] = []
        for n in sizes:
            if numbers(n, part) == n * brief.embedding_dim:
                tables.append(WholeRows(n, brief.embedding_dim, brief.init_std, brief.generator))
            else:
                m = shared(n, part)
                tables.append(
                    ScaledRows(
                        n,
                        brief.embedding_dim,
                        m,
                        bias=bias,
                        init_std=brief.init_std,
                        generator=brief.generator,
                    )
                )
        return cls(brief.specs, brief.embedding_dim, tables)

"""Tensor ring: a tensor train whose ends are joined (arXiv 1606.05535), as rows of a table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from screc.embeddings.budget import largest_within
from screc.embeddings.method import Brief, ByteCount, register
from screc.embeddings.per_table import PerTable, Rows, WholeRows
from screc.storage.layout import TtShape

_MOST_RANK = 256


class RingRows(Rows):
    """Three cores [p_k, R, q_k, R]; an entry of a row is the trace of the product of its three slices."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        *,
        init_std: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        # The even factors of the tensor train of the same table.
        shape = TtShape.balanced(num_embeddings, embedding_dim, 1)
        self.row_factors, self.col_factors = shape.row_factors, shape.col_factors
        # An entry sums R^3 products of three numbers.
        std = (init_std / rank**1.5) ** (1 / 3)
        self.cores = nn.ParameterList(
            nn.Parameter(torch.empty(p, rank, q, rank).normal_(0.0, std, generator=generator))
            for p, q in zip(self.row_factors, self.col_factors, strict=True)
        )

    def rows(self, ids: Tensor) -> Tensor:
        digits, rest = [], ids
        for factor in self.row_factors[:0:-1]:
            digits.insert(0, rest % factor)
            rest = rest // factor
        first, second, third = (
            core.index_select(0, digit) for core, digit in zip(self.cores, [rest, *digits], strict=True)
        )
        joined = torch.einsum("naib,nbjc->naijc", first, second)
        return torch.einsum("naijc,ncka->nijk", joined, third).reshape(ids.numel(), -1)

    def bytes_when_served(self) -> ByteCount:
        return ByteCount(parameters=4 * sum(core.numel() for core in self.cores))


def ring_numbers(num_embeddings: int, embedding_dim: int, rank: int) -> int:
    """Parameters of the ring of a table."""
    shape = TtShape.balanced(num_embeddings, embedding_dim, 1)
    return rank * rank * sum(map(math.prod, zip(shape.row_factors, shape.col_factors, strict=True)))


@register
class TensorRing(PerTable):
    """One rank R for all tables, as large as the budget allows; small tables stay whole."""

    name = "tensor-ring"

    @classmethod
    def fit(cls, brief: Brief) -> TensorRing:
        """See :meth:`Method.fit`; there are no options."""
        sizes = brief.sizes

        def numbers(rank: int) -> list[int]:
            return [min(n * brief.embedding_dim, ring_numbers(n, brief.embedding_dim, rank)) for n in sizes]

        rank = largest_within(lambda r: 4 * sum(numbers(r)), brief.budget, 1, _MOST_RANK, method=cls.name)
        tables: list[Rows] = []
        for n, taken in zip(sizes, numbers(rank), strict=True):
            if taken == n * brief.embedding_dim:
                tables.append(WholeRows(n, brief.embedding_dim, brief.init_std, brief.generator))
            else:
                tables.append(
                    RingRows(n, brief.embedding_dim, rank, init_std=brief.init_std, generator=brief.generator)
                )
        return cls(brief.specs, brief.embedding_dim, tables)

"""Mixed dimensions: shorter rows for larger tables, projected to the common length (arXiv 1909.11810)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from screc.embeddings.budget import largest_within
from screc.embeddings.method import Brief, ByteCount, normal_rows, register
from screc.embeddings.per_table import PerTable, Rows, WholeRows

_STEPS = 4096  # of the exponent


class ShortRows(Rows):
    """Rows of ``short`` numbers times a matrix [short, d]."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        short: int,
        *,
        init_std: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.weight = normal_rows(num_embeddings, short, init_std, generator)
        self.projection = normal_rows(short, embedding_dim, 1 / math.sqrt(short), generator)

    def rows(self, ids: Tensor) -> Tensor:
        return self.gather(self.weight, ids) @ self.projection

    def bytes_when_served(self) -> ByteCount:
        return ByteCount(parameters=4 * (self.weight.numel() + self.projection.numel()))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]


def short_dims(sizes: Sequence[int], embedding_dim: int, exponent: float) -> list[int]:
    """``d (n_min / n)^exponent`` (section 3.3), at least 1."""
    smallest = min(sizes)
    return [max(1, math.floor(embedding_dim * (smallest / n) ** exponent + 1e-9)) for n in sizes]


@register
class MixedDimension(PerTable):
    """The least exponent that keeps the budget; never below one number per id."""

    name = "mde"

    @classmethod
    def fit(cls, brief: Brief) -> MixedDimension:
        """See :meth:`Method.fit`; there are no options."""
        sizes = brief.sizes

        def numbers(n: int, short: int) -> int:
            return min(n * brief.embedding_dim, (n + brief.embedding_dim) * short)

        def dims(step: int) -> list[int]:
            # Exponents up to 2 give every table but the smallest one number per row.
            return short_dims(sizes, brief.embedding_dim, 2 * (1 - step / _STEPS))

        step = largest_within(
            lambda step: 4 * sum(map(numbers, sizes, dims(step))), brief.budget, 0, _STEPS, method=cls.name
        )
        tables: list[Rows] = []
        for n, short in zip(sizes, dims(step), strict=True):
            if numbers(n, short) == n * brief.embedding_dim:
                tables.append(WholeRows(n, brief.embedding_dim, brief.init_std, brief.generator))
            else:
                tables.append(
                    ShortRows(
                        n, brief.embedding_dim, short, init_std=brief.init_std, generator=brief.generator
                    )
                )
        return cls(brief.specs, brief.embedding_dim, tables)

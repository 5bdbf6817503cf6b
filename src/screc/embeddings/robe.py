"""ROBE: all rows of all tables are pieces of one short array (arXiv 2108.02191)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.hashing import buckets, mix
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, normal_rows, register


@register
class Robe(Method):
    """ROBE-Z (section 3): block k of a row is the block of Z numbers that a hash of (table, id, k) says.

    Blocks begin at multiples of Z here, not anywhere: each is then a row of a table [blocks, Z], within one
    cache line for Z = 16, with a gradient that is sparse in blocks. A hashed sign keeps colliding blocks from
    pulling together.

    Args:
        specs: the tables.
        embedding_dim: d, a multiple of ``block``.
        num_blocks: length of the array / Z.
        block: Z.
        salt: of the hash.
        init_std, generator: of the array.
    """

    name = "robe"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        num_blocks: int,
        *,
        block: int,
        salt: int = 0,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        _check_block(embedding_dim, block)
        self.block = block
        self.register_buffer("salt", torch.tensor(salt))
        self.register_buffer("_within", torch.arange(embedding_dim // block), persistent=False)
        self.weight = normal_rows(num_blocks, block, init_std, generator)

    @classmethod
    def fit(cls, brief: Brief, *, block: int | None = None, **options: Any) -> Robe:
        """See :meth:`Method.fit`; the options are ``block`` (half a row if not given) and ``salt``."""
        if block is None:
            block = brief.embedding_dim // 2 if brief.embedding_dim % 2 == 0 else brief.embedding_dim
        _check_block(brief.embedding_dim, block)
        if brief.budget < 4 * block:
            raise BudgetError.below(cls.name, brief.budget, 4 * block)
        options.setdefault("salt", brief.salt())
        return cls(
            brief.specs,
            brief.embedding_dim,
            brief.budget // (4 * block),
            block=block,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        keys = whole[:, None] * self._within.numel() + self._within
        places = buckets(keys, self.weight.shape[0], self.salt)
        signs = (mix(keys, self.salt + 1) & 1) * 2 - 1
        blocks = self.gather(self.weight, places.flatten()) * signs.view(-1, 1)
        return blocks.view(-1, self.embedding_dim)

    def footprint(self) -> Footprint:
        taken = ByteCount(parameters=4 * self.weight.numel())
        return Footprint(taken, taken)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]


def _check_block(embedding_dim: int, block: int) -> None:
    if block < 1 or embedding_dim % block:
        raise ValueError(f"block must divide embedding_dim {embedding_dim}, got {block}")

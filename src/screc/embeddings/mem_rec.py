"""MEM-REC: ids of all tables hashed into one table of tokens and one of weights (arXiv 2305.07205)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.hashing import buckets
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, normal_rows, register


@register
class MemRec(Method):
    """A row is the sum of its ``num_tokens`` token rows times its weight, all found by hashing (table, id).

    This is the variant with a vector for every table, which models with pairwise interactions need. The paper
    sums tokens and weights over all tables of a sample before they are multiplied: ``pooled`` rows are the
    tokens with the weight behind them, for the model that does so (:class:`screc.models.MemRecModel`). Tokens
    are salted with 64 bits: the number of the id over all tables.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        num_rows: token rows, and weights.
        num_tokens: K, hashes of an id into the tokens.
        pooled: rows are not multiplied; their last number is the weight.
        salt: of the hashes.
        init_std, generator: of the tokens; weights start near one.
    """

    name = "mem-rec"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        num_rows: int,
        *,
        num_tokens: int = 1,
        pooled: bool = False,
        salt: int = 0,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, got {num_tokens}")
        self.register_buffer("salt", torch.tensor(salt))
        self.register_buffer("_hashes", torch.arange(num_tokens), persistent=False)
        if pooled and embedding_dim < 2:
            raise ValueError(
                f"pooled: rows of {embedding_dim} number have no room for a weight; use 2 or more"
            )
        self.pooled = pooled
        length = embedding_dim - pooled
        self.tokens = normal_rows(num_rows, length, init_std / num_tokens**0.5, generator)
        # Pooled weights add up over the tables, to about one at the start.
        mean = 1.0 / len(specs) if pooled else 1.0
        drawn = torch.empty(num_rows, 1).normal_(mean, 0.1 * mean, generator=generator)
        self.weights = nn.Parameter(drawn)

    @classmethod
    def fit(cls, brief: Brief, **options: Any) -> MemRec:
        """See :meth:`Method.fit`; the options are ``num_tokens``, ``pooled`` and ``salt``."""
        row = 4 * (brief.embedding_dim + (not options.get("pooled")))
        if brief.budget < row:
            raise BudgetError.below(cls.name, brief.budget, row)
        options.setdefault("salt", brief.salt())
        return cls(
            brief.specs,
            brief.embedding_dim,
            brief.budget // row,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        tokens, weights = self._parts(wanted)
        return torch.cat([tokens, weights], dim=1) if self.pooled else tokens * weights

    def _parts(self, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """Tokens and weights [n, 1]."""
        whole = wanted.ids + self._starts[wanted.tables]
        places = buckets(
            whole[:, None] * self._hashes.numel() + self._hashes, self.tokens.shape[0], self.salt
        )
        tokens = self.gather(self.tokens, places.flatten())
        tokens = tokens.view(-1, self._hashes.numel(), self.tokens.shape[1]).sum(dim=1)
        return tokens, self.gather(self.weights, buckets(whole, self.weights.shape[0], self.salt + 1))

    def footprint(self) -> Footprint:
        taken = ByteCount(parameters=4 * (self.tokens.numel() + self.weights.numel()))
        return Footprint(taken, taken)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.tokens, self.weights]

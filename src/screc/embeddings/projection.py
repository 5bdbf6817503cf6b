"""Random projection: fixed random signs by id, times a small learned matrix (Johnson-Lindenstrauss)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from screc.embeddings.budget import BudgetError
from screc.embeddings.hash import HashRows
from screc.embeddings.hashing import mix
from screc.embeddings.method import Brief, ByteCount, normal_rows, register
from screc.embeddings.per_table import PerTable, Rows, WholeRows

_WORD = 63  # signs taken from one hashed word


class ProjectedRows(Rows):
    """``signs(id) @ A / sqrt(m)``: rows of signs are nearly orthogonal, so ids interfere little and evenly.

    Nothing is stored by id; the signs are bits of its hash.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_rows: int,
        *,
        salt: int,
        init_std: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.register_buffer("salt", torch.tensor(salt))
        self.matrix = normal_rows(num_rows, embedding_dim, init_std, generator)

    def rows(self, ids: Tensor) -> Tensor:
        count = self.matrix.shape[0]
        words = torch.arange(-(-count // _WORD), device=ids.device)
        hashed = mix(ids[:, None] * words.numel() + words, self.salt)
        bits = (hashed[:, :, None] >> torch.arange(_WORD, device=ids.device)) & 1
        signs = (bits.view(ids.numel(), -1)[:, :count] * 2 - 1).to(self.matrix.dtype)
        return signs @ self.matrix / math.sqrt(count)

    def bytes_when_served(self) -> ByteCount:
        return ByteCount(parameters=4 * self.matrix.numel())


@register
class Projection(PerTable):
    """One learned matrix a table, rows in proportion to its size; tables that fit stay whole."""

    name = "jl"

    @classmethod
    def fit(cls, brief: Brief) -> Projection:
        """See :meth:`Method.fit`; there are no options."""
        sizes = brief.sizes
        shared_out = HashRows.shared_out(sizes, brief.budget // brief.row_bytes)
        if shared_out is None:
            raise BudgetError.below(cls.name, brief.budget, brief.row_bytes * len(brief.specs))
        tables: list[Rows] = []
        for n, kept in zip(sizes, shared_out, strict=True):
            if kept >= n:
                tables.append(WholeRows(n, brief.embedding_dim, brief.init_std, brief.generator))
            else:
                salt = brief.salt()
                tables.append(
                    ProjectedRows(
                        brief.embedding_dim,
                        kept,
                        salt=salt,
                        init_std=brief.init_std,
                        generator=brief.generator,
                    )
                )
        return cls(brief.specs, brief.embedding_dim, tables)

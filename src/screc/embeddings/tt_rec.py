"""TT-Rec: large tables as tensor trains, small ones whole (arXiv 2101.11714)."""

from __future__ import annotations

import torch
from torch import Tensor

from screc.embeddings.budget import BudgetError
from screc.embeddings.method import Brief, ByteCount, register
from screc.embeddings.per_table import PerTable, Rows, WholeRows
from screc.embeddings.tensor_train import TensorTrain
from screc.storage.layout import TtShape

_MOST_RANK = 256


class TrainRows(Rows):
    """The rows of a :class:`TensorTrain`."""

    def __init__(
        self, num_embeddings: int, shape: TtShape, init_std: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        layout = TensorTrain.layout_of("rows", num_embeddings, shape)
        self.train_of_cores = TensorTrain(layout, init_std=init_std, generator=generator)

    def rows(self, ids: Tensor) -> Tensor:
        return self.train_of_cores.rows(ids)

    def bytes_when_served(self) -> ByteCount:
        return ByteCount(parameters=4 * self.train_of_cores.shape.num_parameters)


@register
class TtRec(PerTable):
    """One TT rank for all large tables, the largest that the budget allows (section 3).

    Tables of at most ``whole_below`` rows stay whole where the budget allows it; where it does not, the limit
    is halved until it does.
    """

    name = "tt-rec"

    @classmethod
    def fit(cls, brief: Brief, *, whole_below: int = 10_000, num_cores: int = 3) -> TtRec:
        """See :meth:`Method.fit`; the options are ``whole_below`` and ``num_cores``."""
        if whole_below < 0 or num_cores < 2:
            raise ValueError(
                f"whole_below must be at least 0 and num_cores at least 2, got {whole_below} and {num_cores}"
            )
        sizes = brief.sizes

        def shape(n: int, rank: int) -> TtShape:
            return TtShape.balanced(n, brief.embedding_dim, rank, num_cores)

        def taken(limit: int, rank: int) -> list[int]:
            return [
                brief.row_bytes * n
                if n <= limit
                else min(brief.row_bytes * n, 4 * shape(n, rank).num_parameters)
                for n in sizes
            ]

        limit = whole_below
        while sum(taken(limit, 1)) > brief.budget:
            if limit == 0:
                raise BudgetError.below(cls.name, brief.budget, sum(taken(0, 1)))
            limit //= 2
        rank = max(r for r in range(1, _MOST_RANK + 1) if sum(taken(limit, r)) <= brief.budget)
        tables: list[Rows] = []
        for n, size in zip(sizes, taken(limit, rank), strict=True):
            if size == brief.row_bytes * n:
                tables.append(WholeRows(n, brief.embedding_dim, brief.init_std, brief.generator))
            else:
                tables.append(TrainRows(n, shape(n, rank), brief.init_std, brief.generator))
        return cls(brief.specs, brief.embedding_dim, tables)

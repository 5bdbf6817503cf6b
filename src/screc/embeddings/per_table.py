"""Methods that compress every table on its own: a module of rows for each, whole where that is smaller."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.method import ByteCount, Footprint, Method, Wanted, normal_rows


class Rows(nn.Module):
    """The rows of one table, however they are made.

    Attributes:
        sparse: whether the gradients of :meth:`sparse_parameters` are sparse; set by :class:`PerTable`.
    """

    sparse: bool = True

    @abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """Rows [n, d] of distinct ascending ids int64 [n]."""

    @abstractmethod
    def bytes_when_served(self) -> ByteCount:
        """What they take."""

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Parameters whose gradients are sparse in rows."""
        return []

    def gather(self, weight: Tensor, places: Tensor) -> Tensor:
        """As :meth:`Method.gather`."""
        return nn.functional.embedding(places, weight, sparse=self.sparse and weight.requires_grad)


class WholeRows(Rows):
    """Every row as it is."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, init_std: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.weight = normal_rows(num_embeddings, embedding_dim, init_std, generator)

    def rows(self, ids: Tensor) -> Tensor:
        return self.gather(self.weight, ids)

    def bytes_when_served(self) -> ByteCount:
        return ByteCount(parameters=4 * self.weight.numel())

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]


class PerTable(Method):
    """A method given by a module of rows for each table."""

    def __init__(self, specs: Sequence[TableSpec], embedding_dim: int, tables: Sequence[Rows]) -> None:
        super().__init__(specs, embedding_dim)
        self.tables = nn.ModuleList(tables)

    def rows(self, wanted: Wanted) -> Tensor:
        pieces = []
        for number, table in enumerate(self.tables):
            table.sparse = self.sparse
            ids = wanted.of(number)
            if ids.numel() or (not pieces and number == self.num_tables - 1):
                pieces.append(table.rows(ids))
        return torch.cat(pieces)

    def footprint(self) -> Footprint:
        kinds = ("parameters", "remap", "codes", "sketch")
        taken = [table.bytes_when_served() for table in self.tables]
        total = ByteCount(**{kind: sum(getattr(one, kind) for one in taken) for kind in kinds})
        return Footprint(total, total)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [p for table in self.tables for p in table.sparse_parameters()]

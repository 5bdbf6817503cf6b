"""AdaptEmb: rows of their own for a table's frequent ids, the rare ones share (VLDB 2024 study)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError, largest_within
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, normal_rows, register


@register
class AdaptEmb(Method):
    """Rare ids of a table share rows by their rank among the rare ones, so that the load is even.

    That takes a pointer of 4 bytes for every id, which is charged: the method cannot be smaller than that. A
    table that would not be smaller stays whole.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        slots: int32 [num_embeddings] for every table, the row of each id; None for a table that stays whole.
        init_std, generator: of the rows.
    """

    name = "adapt"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        slots: Sequence[np.ndarray | None],
        *,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        pointers = [
            np.arange(n, dtype=np.int32) if own is None else own
            for n, own in zip(self.num_embeddings, slots, strict=True)
        ]
        rows = [int(own.max()) + 1 for own in pointers]
        self._charged = sum(own.nbytes for own in slots if own is not None)
        self.register_buffer("slots", torch.from_numpy(np.concatenate(pointers)))
        self.register_buffer("_firsts", torch.tensor(rows).cumsum(0) - torch.tensor(rows), persistent=False)
        self.weight = normal_rows(sum(rows), embedding_dim, init_std, generator)

    @classmethod
    def fit(cls, brief: Brief, *, frequent: float = 0.5) -> AdaptEmb:
        """See :meth:`Method.fit`; needs ``counts``. Option: ``frequent``, the part of the rows for them."""
        counts = brief.known_counts(cls.name)
        if not 0 <= frequent < 1:
            raise ValueError(f"frequent must be at least 0 and below 1, got {frequent}")
        sizes, row = brief.sizes, brief.row_bytes
        finest = max(sizes)

        def kept(n: int, part: int) -> int:
            return max(1, n * part // finest)

        def taken(n: int, part: int) -> int:
            return min(row * n, row * kept(n, part) + 4 * n)

        try:
            part = largest_within(lambda part: sum(taken(n, part) for n in sizes), brief.budget, 0, finest)
        except BudgetError as error:
            raise BudgetError.below(cls.name, brief.budget, error.smallest_bytes) from None
        slots = [
            None if taken(n, part) == row * n else _slots(array, kept(n, part), frequent)
            for n, array in zip(sizes, counts, strict=True)
        ]
        return cls(
            brief.specs, brief.embedding_dim, slots, init_std=brief.init_std, generator=brief.generator
        )

    def rows(self, wanted: Wanted) -> Tensor:
        own = self.slots[wanted.ids + self._starts[wanted.tables]]
        return self.gather(self.weight, own + self._firsts[wanted.tables])

    def footprint(self) -> Footprint:
        taken = ByteCount(parameters=4 * self.weight.numel(), remap=self._charged)
        return Footprint(taken, taken)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]


def _slots(counts: np.ndarray, rows: int, frequent: float) -> np.ndarray:
    """The row of each id: one of its own for the most frequent, the others in turn on what is left."""
    private = min(int(rows * frequent), rows - 1)
    order = np.argsort(-counts, kind="stable")
    slots = np.empty(len(counts), np.int32)
    slots[order[:private]] = np.arange(private)
    slots[order[private:]] = private + np.arange(len(counts) - private) % (rows - private)
    return slots

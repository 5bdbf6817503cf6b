"""The hashing trick: ids of a table share rows by chance (Weinberger et al., 2009). The others' baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError, largest_within
from screc.embeddings.hashing import buckets
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, normal_rows, register


@register
class HashRows(Method):
    """Every table has fewer rows than ids; an id takes the row that its hash says.

    A table that keeps all its rows is not hashed.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        num_rows: rows that each table keeps.
        salt: of the hash.
        init_std, generator: of the rows.
    """

    name = "hash"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        num_rows: Sequence[int],
        *,
        salt: int = 0,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        self.register_buffer("salt", torch.tensor(salt))
        kept = torch.tensor(num_rows)
        self.register_buffer("_kept", kept, persistent=False)
        self.register_buffer("_hashed", kept < self._sizes, persistent=False)
        self.register_buffer("_firsts", kept.cumsum(0) - kept, persistent=False)
        self.weight = normal_rows(int(kept.sum()), embedding_dim, init_std, generator)

    @classmethod
    def fit(cls, brief: Brief, *, salt: int | None = None) -> HashRows:
        """See :meth:`Method.fit`; the option ``salt`` is drawn where it is not given."""
        if salt is None:
            salt = brief.salt()
        num_rows = cls.shared_out(brief.sizes, brief.budget // brief.row_bytes)
        if num_rows is None:
            raise BudgetError.below(cls.name, brief.budget, brief.row_bytes * len(brief.specs))
        return cls(
            brief.specs,
            brief.embedding_dim,
            num_rows,
            salt=salt,
            init_std=brief.init_std,
            generator=brief.generator,
        )

    @classmethod
    def shared_out(cls, sizes: Sequence[int], total: int) -> list[int] | None:
        """At most ``total`` rows over tables of these sizes; None where there is not one for each.

        Here in proportion to their sizes.
        """
        whole = sum(sizes)
        if total < len(sizes):
            return None
        # The shift by one row a table keeps the sum within the total and every table at one row at least.
        return [min(n, 1 + (total - len(sizes)) * n // whole) for n in sizes]

    def rows(self, wanted: Wanted) -> Tensor:
        hashed = buckets(wanted.ids + self._starts[wanted.tables], self._kept[wanted.tables], self.salt)
        places = torch.where(self._hashed[wanted.tables], hashed, wanted.ids)
        return self.gather(self.weight, places + self._firsts[wanted.tables])

    def footprint(self) -> Footprint:
        taken = ByteCount(parameters=4 * self.weight.numel())
        return Footprint(taken, taken)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]


@register
class EqualCapHash(HashRows):
    """The hashing trick with one cap on the rows of all tables: small tables stay whole.

    A much stronger baseline than rows in proportion, wherever table sizes differ much.
    """

    name = "hash-cap"

    @classmethod
    def shared_out(cls, sizes: Sequence[int], total: int) -> list[int] | None:
        """The largest equal cap whose rows are at most ``total``."""
        if total < len(sizes):
            return None
        cap = largest_within(lambda rows: sum(min(n, rows) for n in sizes), total, 1, max(sizes))
        return [min(n, cap) for n in sizes]

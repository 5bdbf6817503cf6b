"""No compression: every table whole. What the others are compared with."""

from __future__ import annotations

from screc.embeddings.budget import BudgetError, full_bytes
from screc.embeddings.method import Brief, register
from screc.embeddings.per_table import PerTable, WholeRows


@register
class WholeTables(PerTable):
    """Every row of every table in float32, whatever the budget beyond that."""

    name = "full"

    @classmethod
    def fit(cls, brief: Brief) -> WholeTables:
        """See :meth:`Method.fit`; there are no options."""
        smallest = full_bytes(brief.specs, brief.embedding_dim)
        if brief.budget < smallest:
            raise BudgetError.below(cls.name, brief.budget, smallest)
        rows = [WholeRows(n, brief.embedding_dim, brief.init_std, brief.generator) for n in brief.sizes]
        return cls(brief.specs, brief.embedding_dim, rows)

"""Pruning: most numbers of the rows become zero and are not stored (DeepLight and PEP)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, normal_rows, register

_STEPS_BETWEEN = 10


def column_bytes(embedding_dim: int) -> int:
    """Bytes of the place of a number within its row."""
    return 1 if embedding_dim <= 256 else 2


def sparse_bytes(num_rows: int, embedding_dim: int, kept: int) -> tuple[int, int]:
    """(values, places) in bytes of rows with ``kept`` numbers that are not zero.

    The smaller of a bit for every number, and a list for every row with its end (compressed sparse rows).
    """
    bits = num_rows * math.ceil(embedding_dim / 8) + 4 * num_rows
    lists = kept * column_bytes(embedding_dim) + 4 * num_rows
    return 4 * kept, min(bits, lists)


class SparseRows(Method):
    """Rows of which only ``kept`` numbers, over all tables, are not zero when they are served.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        kept: numbers that stay.
        init_std, generator: of the rows.
    """

    trains_within_budget = False

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        kept: int,
        *,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        self.kept = kept
        self.weight = normal_rows(sum(self.num_embeddings), embedding_dim, init_std, generator)

    @classmethod
    def fit(cls, brief: Brief, **options: Any) -> SparseRows:
        """See :meth:`Method.fit`: as many numbers as fit with their places."""
        rows = sum(spec.num_embeddings for spec in brief.specs)
        smallest = sum(sparse_bytes(rows, brief.embedding_dim, 1))
        if brief.budget < smallest:
            raise BudgetError.below(cls.name, brief.budget, smallest)
        kept = (brief.budget - 4 * rows) // (4 + column_bytes(brief.embedding_dim))
        kept = max(
            kept, (brief.budget - sparse_bytes(rows, brief.embedding_dim, rows * brief.embedding_dim)[1]) // 4
        )
        while sum(sparse_bytes(rows, brief.embedding_dim, kept)) > brief.budget:  # where the two forms meet
            kept -= 1
        kept = min(kept, rows * brief.embedding_dim)
        return cls(
            brief.specs,
            brief.embedding_dim,
            kept,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        return self.gather(self.weight, wanted.ids + self._starts[wanted.tables])

    def footprint(self) -> Footprint:
        training = ByteCount(parameters=4 * sum(p.numel() for p in self.parameters()))
        values, places = sparse_bytes(self.weight.shape[0], self.embedding_dim, self.kept)
        return Footprint(training, ByteCount(parameters=values, remap=places))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]

    def keep_largest(self, kept: int) -> None:
        """Set all but the ``kept`` largest numbers of all tables to zero."""
        if kept >= self.weight.numel():
            return
        with torch.no_grad():
            flat = self.weight.view(-1)
            # The places of the smallest, so that exactly so many stay whatever is equal.
            smallest = flat.abs().topk(flat.numel() - kept, largest=False, sorted=False).indices
            flat[smallest] = 0.0

    def finish(self) -> None:
        self.keep_largest(self.kept)


@register
class DeepLight(SparseRows):
    """Magnitude pruning while training: what is zeroed may grow again until the end (arXiv 2002.06987).

    The share that is zeroed rises with the run's progress p as 1 - (1 - p)^3. The paper's schedule approaches
    its target by a fixed number of steps, tens of thousands, whatever the length of the run.
    """

    name = "deeplight"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register_buffer("steps", torch.tensor(0))

    def after_step(self) -> None:
        self.steps += 1
        if int(self.steps) % _STEPS_BETWEEN == 0:
            whole = self.weight.numel()
            share = 1 - (1 - self.progress) ** 3
            self.keep_largest(whole - int((whole - self.kept) * share))


@register
class LearnedThreshold(SparseRows):
    """PEP: numbers below a learned threshold of their table are cut, others shrink by it (arXiv 2101.07577).

    ``sign(w) relu(|w| - sigmoid(s))``. When training ends, the largest that the budget allows stay.
    """

    name = "pep"

    def __init__(self, *args: Any, threshold: float = 1e-3, **options: Any) -> None:
        super().__init__(*args, **options)
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1, got {threshold}")
        self.thresholds = nn.Parameter(torch.full((self.num_tables,), math.log(threshold / (1 - threshold))))
        self.register_buffer("finished", torch.tensor(False))

    def rows(self, wanted: Wanted) -> Tensor:
        rows = super().rows(wanted)
        if bool(self.finished):
            return rows
        cut = torch.sigmoid(self.thresholds)[wanted.tables][:, None]
        return rows.sign() * torch.relu(rows.abs() - cut)

    def finish(self) -> None:
        with torch.no_grad():
            for rows, cut in zip(
                self.weight.split(self.num_embeddings), torch.sigmoid(self.thresholds), strict=True
            ):
                rows.copy_(rows.sign() * torch.relu(rows.abs() - cut))
        self.finished.fill_(True)
        self.keep_largest(self.kept)

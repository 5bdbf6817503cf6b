"""AutoDim: the length of each table's rows is searched for, then trained anew (arXiv 2006.14827)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Stage, Wanted, normal_rows, register

_ROUNDS = 60


@register
class AutoDim(Method):
    """Candidates 1, 2, 4, ... d for the length of a table's rows, each with a matrix to d, mixed by weights.

    The candidates of a table share its rows: a shorter one has the first numbers of each (the paper's weight
    sharing). Their mixture is learned on validation samples, with a temperature that falls from 1 to 0.05;
    there is no noise and no normalisation over the batch in it, since a row may not depend on its batch.
    Then the likeliest lengths that together keep the budget are trained anew. (In the paper the size is what
    comes out.)

    Args:
        specs: the tables.
        embedding_dim: d.
        budget: bytes when served.
        init_std, generator: of the rows.
    """

    name = "auto-dim"
    trains_within_budget = False
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(name="search", share=0.4, searches=True),
        Stage(name="train", share=0.6, fresh=True),
    )

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        budget: int,
        *,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        self.budget, self.init_std = budget, init_std
        self.lengths = candidate_lengths(embedding_dim)
        self.weight = normal_rows(sum(self.num_embeddings), embedding_dim, init_std, generator)
        shape = (self.num_tables, len(self.lengths), embedding_dim, embedding_dim)
        self.matrices = nn.Parameter(torch.empty(shape))
        self.mixture = nn.Parameter(torch.zeros(self.num_tables, len(self.lengths)))
        ones = torch.arange(embedding_dim)[None, :] < torch.tensor(self.lengths)[:, None]
        self.register_buffer("_used", ones[:, :, None].float(), persistent=False)  # [K, d, 1]
        self.register_buffer("seed", torch.randint(1 << 31, (1,), generator=generator))
        self.register_buffer("chosen", torch.full((self.num_tables,), -1))
        self._draw_matrices(generator)

    @classmethod
    def fit(cls, brief: Brief) -> AutoDim:
        """See :meth:`Method.fit`; there are no options."""
        smallest = sum(_bytes(n, 1, brief.embedding_dim) for n in brief.sizes)
        if brief.budget < smallest:
            raise BudgetError.below(cls.name, brief.budget, smallest)
        return cls(
            brief.specs,
            brief.embedding_dim,
            brief.budget,
            init_std=brief.init_std,
            generator=brief.generator,
        )

    def _draw_matrices(self, generator: torch.Generator | None) -> None:
        with torch.no_grad():
            for number, length in enumerate(self.lengths):
                self.matrices[:, number].normal_(0.0, 1 / math.sqrt(length), generator=generator)

    def begin(self, stage: Stage) -> None:
        if not stage.fresh:
            return
        self.chosen.copy_(torch.tensor(self._choose()))
        generator = torch.Generator().manual_seed(int(self.seed))
        with torch.no_grad():
            self.weight.normal_(0.0, self.init_std, generator=generator)
        self._draw_matrices(generator)

    def _choose(self) -> list[int]:
        """Of every table the candidate: the likeliest ones together that keep the budget."""
        likely = torch.log_softmax(self.mixture.detach().double(), dim=1).cpu()
        taken = torch.tensor(
            [[_bytes(n, k, self.embedding_dim) for k in self.lengths] for n in self.num_embeddings],
            dtype=torch.float64,
        )
        best, low, high = torch.zeros(self.num_tables, dtype=torch.int64), 1e-12, 1e3
        for _ in range(_ROUNDS):  # of a price per byte
            price = math.sqrt(low * high)
            found = (likely - price * taken).argmax(dim=1)
            fits = float(taken.gather(1, found[:, None]).sum()) <= self.budget
            if fits:
                best, high = found, price
            else:
                low = price
        return best.tolist()

    def rows(self, wanted: Wanted) -> Tensor:
        rows = self.gather(self.weight, wanted.ids + self._starts[wanted.tables])
        matrices = self._matrix_of_each()
        pieces = [
            rows[start:stop] @ matrices[table]
            for table, (start, stop) in enumerate(zip(wanted.bounds, wanted.bounds[1:], strict=False))
            if stop > start
        ]
        return torch.cat(pieces) if pieces else rows

    def _matrix_of_each(self) -> Tensor:
        """What each table's rows are multiplied with now, [T, d, d]."""
        masked = self.matrices * self._used
        if int(self.chosen[0]) >= 0:
            return masked[torch.arange(self.num_tables, device=masked.device), self.chosen]
        temperature = max(0.05, 1.0 - 0.95 * min(1.0, self.progress / 0.4))
        shares = torch.softmax(self.mixture / temperature, dim=1)
        return (shares[:, :, None, None] * masked).sum(dim=1)

    def footprint(self) -> Footprint:
        training = 4 * sum(p.numel() for p in self.parameters())
        chosen = self.chosen.tolist() if int(self.chosen[0]) >= 0 else self._choose()
        serving = sum(
            _bytes(n, self.lengths[number], self.embedding_dim)
            for n, number in zip(self.num_embeddings, chosen, strict=True)
        )
        return Footprint(ByteCount(parameters=training), ByteCount(parameters=serving))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self.mixture]


def candidate_lengths(embedding_dim: int) -> list[int]:
    """1, 2, 4, ... and ``embedding_dim``."""
    return [*(1 << k for k in range((embedding_dim - 1).bit_length())), embedding_dim]


def _bytes(num_embeddings: int, length: int, embedding_dim: int) -> int:
    """Of rows and matrix; a matrix of full rows is multiplied into them."""
    if length == embedding_dim:
        return 4 * num_embeddings * embedding_dim
    return 4 * length * (num_embeddings + embedding_dim)

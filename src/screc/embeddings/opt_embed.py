"""OptEmbed: which rows a table needs, and how long they are, found in one supernet (arXiv 2208.04482)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Stage, Wanted, normal_rows, register
from screc.storage.layout import index_bytes

_PENALTY, _SLOPE = 1e-4, 10.0


@register
class OptEmbed(Method):
    """Rows below a learned threshold of their table are dropped, and the others are cut to a prefix.

    In the search a row counts only if its L1 norm is above its table's threshold (the gradient of the step is
    that of a steep sigmoid), and thresholds are rewarded for rising (``sum exp(-t)``). At every step each
    table has a prefix length drawn at random, so that shorter rows are trained too. How much each number of a
    table's rows matters is measured by the square of the loss's first-order change without it, on training
    and validation samples, and the lengths of the greatest sum within the budget are trained anew, with the
    rows that were kept.

    The paper finds the lengths by evolution, with a full validation for each of some hundred candidates, and
    draws a prefix for every sample; a row here is the same for all samples of a batch.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        budget: bytes when served.
        init_std, generator: of the rows.
    """

    name = "opt-embed"
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
        count = sum(self.num_embeddings)
        self.weight = normal_rows(count, embedding_dim, init_std, generator)
        self.thresholds = nn.Parameter(torch.zeros(self.num_tables))
        #: One everywhere; their gradient says how much each number matters.
        self.gates = nn.Parameter(torch.ones(self.num_tables, embedding_dim))
        self.register_buffer("seed", torch.randint(1 << 31, (1,), generator=generator))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("matters", torch.zeros(self.num_tables, embedding_dim))
        self.register_buffer("lengths", torch.full((self.num_tables,), embedding_dim))
        self.register_buffer("stays", torch.ones(count, dtype=torch.bool))
        self.register_buffer("searching", torch.tensor(True))

    @classmethod
    def fit(cls, brief: Brief) -> OptEmbed:
        """See :meth:`Method.fit`; there are no options."""
        smallest = sum(_bytes(n, 1, 1) for n in brief.sizes)
        if brief.budget < smallest:
            raise BudgetError.below(cls.name, brief.budget, smallest)
        return cls(
            brief.specs, brief.embedding_dim, brief.budget, init_std=brief.init_std, generator=brief.generator
        )

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        rows = self.gather(self.weight, whole)
        places = torch.arange(self.embedding_dim, device=rows.device)
        rows = rows * (places < self.lengths[wanted.tables][:, None])
        if not bool(self.searching):
            return rows * self.stays[whole][:, None]
        above = rows.abs().sum(dim=1) - self.thresholds[wanted.tables]
        soft = torch.sigmoid(_SLOPE * above)
        kept = soft + ((above > 0).to(soft) - soft).detach()
        return rows * kept[:, None] * self.gates[wanted.tables]

    def extra_loss(self) -> Tensor | None:
        return _PENALTY * torch.exp(-self.thresholds).sum() if bool(self.searching) else None

    def after_backward(self) -> None:
        if bool(self.searching) and self.gates.grad is not None:
            # Of this batch, and of the validation samples since the last one.
            self.matters += self.gates.grad.square().to(self.matters.dtype)
            self.gates.grad = None

    def after_step(self) -> None:
        if not bool(self.searching):
            return
        self.steps += 1
        generator = torch.Generator().manual_seed(int(self.seed) + int(self.steps))
        drawn = torch.randint(1, self.embedding_dim + 1, (self.num_tables,), generator=generator)
        self.lengths.copy_(drawn)
        with torch.no_grad():
            self.gates.fill_(1.0)  # the optimiser of the architecture has moved them

    @torch.no_grad()
    def begin(self, stage: Stage) -> None:
        if not stage.fresh:
            return
        norms = self.weight.abs().sum(dim=1)
        tables = torch.repeat_interleave(torch.arange(self.num_tables, device=norms.device), self._sizes)
        margin = norms - self.thresholds[tables]
        stays, lengths = self._choose(margin)
        self.stays.copy_(stays)
        self.lengths.copy_(lengths)
        self.searching.fill_(False)
        generator = torch.Generator().manual_seed(int(self.seed))
        self.weight.normal_(0.0, self.init_std, generator=generator)

    def _choose(self, margin: Tensor) -> tuple[Tensor, Tensor]:
        """Which rows stay, bool [N], and the lengths, int64 [T], so that the budget is kept.

        Rows above the threshold stay; where even rows of one number would be too many, the ones farthest
        above it do.
        """
        stays = margin > 0
        for own in stays.split(self.num_embeddings):
            own[0] |= not bool(own.any())  # a table without a row would be of no length
        while sum(self._costs(stays, [1] * self.num_tables)) > self.budget:
            held = stays.nonzero()[:, 0]
            cut = held[margin[held].argsort()[: max(1, held.numel() // 10)]]
            stays[cut] = False
            for own in stays.split(self.num_embeddings):
                own[0] |= not bool(own.any())
            if int(stays.sum()) <= self.num_tables:
                break
        lengths = [1] * self.num_tables
        taken = self._costs(stays, lengths)
        kept = [max(1, int(own.sum())) for own in stays.split(self.num_embeddings)]
        gain = self.matters + 1e-12
        growing = {t for t in range(self.num_tables) if self.embedding_dim > 1}
        while growing:
            # Of the next numbers the one that matters most for its bytes.
            best = max(growing, key=lambda t: float(gain[t, lengths[t]]) / kept[t])
            longer = _bytes(self.num_embeddings[best], kept[best], lengths[best] + 1)
            if sum(taken) - taken[best] + longer > self.budget:
                growing.discard(best)
                continue
            taken[best], lengths[best] = longer, lengths[best] + 1
            if lengths[best] == self.embedding_dim:
                growing.discard(best)
        return stays, torch.tensor(lengths)

    def _costs(self, stays: Tensor, lengths: Sequence[int]) -> list[int]:
        return [
            _bytes(n, int(own.sum()), length)
            for n, own, length in zip(
                self.num_embeddings, stays.split(self.num_embeddings), lengths, strict=True
            )
        ]

    def footprint(self) -> Footprint:
        parameters = 4 * sum(p.numel() for p in self.parameters())
        training = ByteCount(parameters=parameters, remap=self.stays.numel())
        if bool(self.searching):  # not decided yet
            return Footprint(training, ByteCount(parameters=self.budget))
        rows, remap = 0, 0
        for n, own, length in zip(
            self.num_embeddings, self.stays.split(self.num_embeddings), self.lengths.tolist(), strict=True
        ):
            rows += 4 * length * int(own.sum())
            remap += _bytes(n, int(own.sum()), 0)
        return Footprint(training, ByteCount(parameters=rows, remap=remap))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self.gates]


def _bytes(num_embeddings: int, kept: int, length: int) -> int:
    """Of kept rows and of the index to them."""
    index = index_bytes(num_embeddings, kept) if kept < num_embeddings else 0
    return 4 * kept * length + index

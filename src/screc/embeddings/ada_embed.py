"""AdaEmbed: the ids that matter most have rows, all others none, decided again and again (OSDI 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.importance import Importance, ScoredMethod
from screc.embeddings.method import Brief, ByteCount, Footprint, Wanted, normal_rows, register
from screc.storage.layout import index_bytes

_PER_ID = 8  # bytes of a score and of a pointer
_PERCENTILE, _CHANGED = 0.95, 0.05


@register
class AdaEmbed(ScoredMethod):
    """A score and a pointer for every id, and rows for the ids of the highest scores over all tables.

    Every ``check_every`` steps scores are compared, each table's in units of its 95th percentile. If more
    than a twentieth of the rows would go to other ids they do, and start from zero there. Ids without a row
    look up zeros. Until the first check ids drawn at random have the rows.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        num_rows: rows.
        importance: see :class:`ScoredMethod`.
        check_every: steps between two checks; the paper's 4,096 are for runs of a hundred thousand steps.
        decay: factor of all scores at every fourth check.
        init_std, generator: of the rows.
    """

    name = "ada-embed"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        num_rows: int,
        *,
        importance: Importance = "gradient",
        check_every: int = 50,
        decay: float = 0.8,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim, importance)
        if check_every < 1:
            raise ValueError(f"check_every must be at least 1 step, got {check_every}")
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
        self.check_every, self.decay = check_every, decay
        count = int(self._starts[-1])
        pointers = torch.full((count,), -1, dtype=torch.int32)
        drawn = torch.randperm(count, generator=generator)[:num_rows]
        pointers[drawn] = torch.arange(len(drawn), dtype=torch.int32)
        self.register_buffer("pointers", pointers)
        self.register_buffer("scores", torch.zeros(count))
        self.register_buffer("steps", torch.tensor(0))
        self.weight = normal_rows(num_rows, embedding_dim, init_std, generator)

    @classmethod
    def fit(cls, brief: Brief, **options: Any) -> AdaEmbed:
        """See :meth:`Method.fit`; the options are those of the constructor."""
        count = sum(brief.sizes)
        smallest = _PER_ID * count + brief.row_bytes
        if brief.budget < smallest:
            raise BudgetError.below(cls.name, brief.budget, smallest)
        num_rows = min(count, (brief.budget - _PER_ID * count) // brief.row_bytes)
        return cls(
            brief.specs,
            brief.embedding_dim,
            num_rows,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        self.note(whole, wanted.lookups)
        places = self.pointers[whole].long()
        return self.gather(self.weight, places.clamp(min=0)) * (places >= 0)[:, None]

    def after_step(self) -> None:
        scored = self.take_scores()
        if scored is None:
            return
        whole, scores = scored
        self.scores[whole] += scores.to(self.scores.dtype)
        self.steps += 1
        step = int(self.steps)
        if step % self.check_every == 0:
            self._check()
        if step % (4 * self.check_every) == 0:
            self.scores *= self.decay

    @torch.no_grad()
    def _check(self) -> None:
        """Give the rows to the ids of the highest scores, where enough would change."""
        comparable = torch.cat([_in_percentiles(own) for own in self.scores.split(self.num_embeddings)])
        count = self.weight.shape[0]
        wanted = torch.zeros_like(self.pointers, dtype=torch.bool)
        wanted[comparable.topk(min(count, comparable.numel()), sorted=False).indices] = True
        admitted = (wanted & (self.pointers < 0) & (comparable > 0)).nonzero()[:, 0]
        evicted = (~wanted & (self.pointers >= 0)).nonzero()[:, 0]
        moved = min(admitted.numel(), evicted.numel())
        if moved <= _CHANGED * count:
            return
        admitted, evicted = admitted[:moved], evicted[:moved]
        rows = self.pointers[evicted]
        self.pointers[evicted] = -1
        self.pointers[admitted] = rows
        self.weight[rows.long()] = 0.0

    def footprint(self) -> Footprint:
        parameters, count = 4 * self.weight.numel(), self.pointers.numel()
        training = ByteCount(parameters=parameters, remap=4 * count, sketch=4 * count)
        own = (self.pointers >= 0).view(-1)
        remap = sum(
            index_bytes(part.numel(), int(part.sum()))
            for part in own.split(self.num_embeddings)
            if 0 < int(part.sum()) < part.numel()
        )
        return Footprint(training, ByteCount(parameters=parameters, remap=min(remap, 4 * count)))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]


def _in_percentiles(scores: Tensor) -> Tensor:
    """Scores over the 95th percentile of those that are not zero."""
    positive = scores[scores > 0]
    if not positive.numel():
        return scores
    place = min(positive.numel(), int(_PERCENTILE * positive.numel()) + 1)
    return scores / positive.kthvalue(place).values

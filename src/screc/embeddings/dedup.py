"""Dedup: blocks of rows that are alike are stored once (VLDB 2024 study, arXiv 2311.15578)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError, largest_within
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Stage, Wanted, normal_rows, register

_PROJECTIONS, _NEIGHBOURS = 12, 2
_ALIKE = 0.7
_CHUNK = 1 << 15


@register
class Dedup(Method):
    """Trains whole tables, then keeps some blocks of rows, and every other block becomes one of those.

    Two blocks are alike by the share of their numbers that differ by at most ``close``. First to go are the
    blocks that are alike (0.7) to one of larger numbers, then those of the smallest numbers (75th
    percentile), until the rest fits the budget. Each becomes the kept block that it is most like; of equals,
    the nearest. Only blocks beside each other in one of twelve random projections are compared (a
    locality-sensitive hash). Then training goes on.

    The study's rule stops at a similarity, and its size is what comes out; here the budget decides.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        block_rows: rows of a block, over all tables one after the other.
        kept: blocks that stay.
        close: how far two numbers may differ to count as the same.
        init_std, generator: of the rows.
    """

    name = "dedup"
    trains_within_budget = False
    stages: ClassVar[tuple[Stage, ...]] = (Stage(name="train", share=0.7), Stage(name="share", share=0.3))

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        block_rows: int,
        kept: int,
        *,
        close: float = 0.01,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        if not close >= 0:
            raise ValueError(f"close must not be negative, got {close}")
        self.block_rows, self.close = block_rows, close
        blocks = -(-sum(self.num_embeddings) // block_rows)
        self.weight = normal_rows(blocks * block_rows, embedding_dim, init_std, generator)
        self.kept = nn.Parameter(torch.zeros(kept * block_rows, embedding_dim))
        self.register_buffer("blocks", torch.zeros(blocks, dtype=torch.int32))
        self.register_buffer("shared", torch.tensor(False))
        self.register_buffer("seed", torch.randint(1 << 31, (1,), generator=generator))

    @classmethod
    def fit(cls, brief: Brief, *, block_rows: int = 8, close: float = 0.01) -> Dedup:
        """See :meth:`Method.fit`; the options are ``block_rows`` and ``close``."""
        if block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, got {block_rows}")
        blocks = -(-sum(brief.sizes) // block_rows)
        try:
            kept = largest_within(
                lambda k: _bytes(k, blocks, block_rows * brief.row_bytes), brief.budget, 1, blocks
            )
        except BudgetError as error:
            raise BudgetError.below(cls.name, brief.budget, error.smallest_bytes) from None
        return cls(
            brief.specs,
            brief.embedding_dim,
            block_rows,
            kept,
            close=close,
            init_std=brief.init_std,
            generator=brief.generator,
        )

    def begin(self, stage: Stage) -> None:
        if stage.name == "share":
            self._share()

    @torch.no_grad()
    def _share(self) -> None:
        blocks = self.weight.view(len(self.blocks), -1)
        kept = self.kept.shape[0] // self.block_rows
        generator = torch.Generator().manual_seed(int(self.seed))
        directions = torch.randn(blocks.shape[1], _PROJECTIONS, generator=generator).to(blocks)
        size = torch.cat([part.abs().quantile(0.75, dim=1) for part in blocks.split(_CHUNK)])
        place = size.argsort(stable=True).argsort()  # 0 for the smallest numbers
        _, likeness = most_alike(blocks, blocks, directions, self.close, only_above=place)
        own = (place + len(blocks) * (likeness < _ALIKE)).topk(kept).indices.sort().values
        self.kept.copy_(blocks[own].view_as(self.kept))
        others = torch.ones(len(blocks), dtype=torch.bool, device=blocks.device)
        others[own] = False
        others = others.nonzero()[:, 0]
        self.blocks[own] = torch.arange(kept, dtype=torch.int32, device=blocks.device)
        self.blocks[others] = most_alike(blocks[others], blocks[own], directions, self.close)[0].int()
        self.shared.fill_(True)

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        if not bool(self.shared):
            return self.gather(self.weight, whole)
        block = self.blocks[whole // self.block_rows].long()
        return self.gather(self.kept, block * self.block_rows + whole % self.block_rows)

    def footprint(self) -> Footprint:
        training = ByteCount(
            parameters=4 * (self.weight.numel() + self.kept.numel()), remap=4 * self.blocks.numel()
        )
        parameters, blocks = 4 * self.kept.numel(), self.blocks.numel()
        remap = _bytes(self.kept.shape[0] // self.block_rows, blocks, 0)
        return Footprint(training, ByteCount(parameters=parameters, remap=remap))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight, self.kept]


def most_alike(
    blocks: Tensor, kept: Tensor, directions: Tensor, close: float, *, only_above: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """For each of ``blocks`` the most alike of ``kept``.

    Args:
        blocks, kept: numbers of blocks, [n, m] and [k, m].
        directions: [m, p] of the projections in which neighbours are candidates.
        close: how far two numbers may differ to count as the same.
        only_above: where both are the same blocks, int64 [n]: a block is compared with those of larger ones.

    Returns:
        Its place int64 [n], and the share of its numbers that are close, [n]; -1 where none was compared.
    """
    best = torch.zeros(len(blocks), dtype=torch.int64, device=blocks.device)
    share = blocks.new_full((len(blocks),), -1.0)
    for direction in directions.T:
        along, order = (kept @ direction).sort()
        for start in range(0, len(blocks), _CHUNK):
            inside = slice(start, start + _CHUNK)
            part = blocks[inside]
            place = torch.searchsorted(along, part @ direction)
            for step in range(-_NEIGHBOURS, _NEIGHBOURS + 1):
                candidate = order[(place + step).clamp(0, len(kept) - 1)]
                apart = (part - kept[candidate]).abs()
                # The distance only tells equals apart: it adds less than one number more that is close.
                near = 0.5 / apart.shape[1] / (1 + apart.sum(dim=1))
                likeness = (apart <= close).float().mean(dim=1) + near
                if only_above is not None:
                    likeness[only_above[candidate] <= only_above[inside]] = -1.0
                better = likeness > share[inside]
                best[inside] = torch.where(better, candidate, best[inside])
                share[inside] = torch.where(better, likeness, share[inside])
    return best, share


def _bytes(kept: int, blocks: int, block_bytes: int) -> int:
    """Of kept blocks, and of a pointer for every block unless all are kept."""
    return kept * block_bytes + (4 * blocks if kept < blocks else 0)

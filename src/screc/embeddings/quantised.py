"""Training with quantised rows: full-precision rows are kept, look-ups see what few bits would hold.

Three ways to choose the grid's step: the largest value of the table (DQRM, arXiv 2410.20046), a learned step
(LSQ, arXiv 1902.08153) and a learned clipping value (PACT, arXiv 1805.06085).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, normal_rows, register
from screc.embeddings.rounding import largest_code, round_through, scaled_gradient

BITS = (16, 8, 4, 2)


def packed_bytes(specs: Sequence[TableSpec], embedding_dim: int, bits: int) -> int:
    """Bytes of all rows with so many bits a number, in whole bytes each, and one float32 scale a table."""
    return sum(s.num_embeddings for s in specs) * math.ceil(embedding_dim * bits / 8) + 4 * len(specs)


class QuantisedRows(Method):
    """Rows that are rounded to ``bits`` bits when they are looked up, with one scale a table.

    Only looked-up rows are ever quantised (DQRM, section 3.2). The gradient passes the rounding unchanged.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        bits: of a number.
        init_std, generator: of the rows.
    """

    trains_within_budget = False

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        bits: int,
        *,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        if bits not in BITS:
            raise ValueError(f"bits must be one of {', '.join(map(str, BITS))}, got {bits}")
        self.bits = bits
        self.weight = normal_rows(sum(self.num_embeddings), embedding_dim, init_std, generator)

    @classmethod
    def fit(cls, brief: Brief, **options: Any) -> QuantisedRows:
        """See :meth:`Method.fit`: the most bits of 16, 8, 4 and 2 that fit."""
        for bits in BITS:
            if packed_bytes(brief.specs, brief.embedding_dim, bits) <= brief.budget:
                return cls(
                    brief.specs,
                    brief.embedding_dim,
                    bits,
                    init_std=brief.init_std,
                    generator=brief.generator,
                    **options,
                )
        raise BudgetError.below(
            cls.name, brief.budget, packed_bytes(brief.specs, brief.embedding_dim, BITS[-1])
        )

    @abstractmethod
    def quantise(self, rows: Tensor, tables: Tensor) -> Tensor:
        """Rows [n, d] of these tables int64 [n] on their grids."""

    def rows(self, wanted: Wanted) -> Tensor:
        rows = self.gather(self.weight, wanted.ids + self._starts[wanted.tables])
        return self.quantise(rows, wanted.tables)

    def footprint(self) -> Footprint:
        training = 4 * sum(p.numel() for p in self.parameters()) + 4 * self.num_tables
        serving = packed_bytes(self.specs, self.embedding_dim, self.bits)
        return Footprint(ByteCount(parameters=training), ByteCount(parameters=serving))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]

    def largest_values(self) -> Tensor:
        """Largest absolute value of each table, [T]; not 0."""
        with torch.no_grad():
            parts = [rows.abs().amax() for rows in self.weight.split(self.num_embeddings)]
            return torch.stack(parts).clamp(min=1e-8)


@register
class Dqrm(QuantisedRows):
    """DQRM's grid: symmetric, min-max, its scale taken anew every ``period`` steps (section 3.2)."""

    name = "dqrm"

    def __init__(self, *args: Any, period: int = 200, **options: Any) -> None:
        super().__init__(*args, **options)
        if period < 1:
            raise ValueError(f"period must be at least 1 step, got {period}")
        self.period = period
        self.register_buffer("scales", self.largest_values() / largest_code(self.bits))
        self.register_buffer("steps", torch.tensor(0))

    def quantise(self, rows: Tensor, tables: Tensor) -> Tensor:
        top = largest_code(self.bits)
        scale = self.scales[tables][:, None]
        # Rows may have grown beyond the scale since it was taken; the straight-through gradient lets them.
        quantised = (rows / scale).round().clamp(-top - 1, top) * scale
        return rows + (quantised - rows).detach()

    def after_step(self) -> None:
        self.steps += 1
        if int(self.steps) % self.period == 0:
            self.finish()

    def finish(self) -> None:
        self.scales.copy_(self.largest_values() / largest_code(self.bits))


@register
class LearnedStep(QuantisedRows):
    """LSQ: the step of each table's grid is learned with the gradient of section 2.1."""

    name = "lsq"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        with torch.no_grad():
            means = [rows.abs().mean() for rows in self.weight.split(self.num_embeddings)]
            # The paper's start: 2 <|w|> / sqrt(Q_P).
            steps = 2 * torch.stack(means).clamp(min=1e-8) / math.sqrt(largest_code(self.bits))
        self.step_sizes = nn.Parameter(steps)

    def quantise(self, rows: Tensor, tables: Tensor) -> Tensor:
        top = largest_code(self.bits)
        # Section 2.2: the gradient of a step is the smaller, the more numbers share it and the finer it is.
        factor = 1 / (self._sizes.to(rows.dtype) * self.embedding_dim * top).sqrt()
        step = scaled_gradient(self.step_sizes, factor).abs().clamp(min=1e-8)[tables][:, None]
        return round_through((rows / step).clamp(-top - 1, top)) * step


@register
class LearnedClip(QuantisedRows):
    """PACT: rows are clipped to a learned range, which the grid covers; a penalty keeps the range small."""

    name = "pact"

    def __init__(self, *args: Any, penalty: float = 1e-4, **options: Any) -> None:
        super().__init__(*args, **options)
        if penalty < 0:
            raise ValueError(f"penalty must not be negative, got {penalty}")
        self.penalty = penalty
        self.clips = nn.Parameter(self.largest_values())

    def quantise(self, rows: Tensor, tables: Tensor) -> Tensor:
        clip = self.clips.abs().clamp(min=1e-8)[tables][:, None]
        clipped = torch.maximum(torch.minimum(rows, clip), -clip)
        scale = (clip / largest_code(self.bits)).detach()
        return round_through(clipped / scale) * scale

    def extra_loss(self) -> Tensor:
        return self.penalty * self.clips.square().sum()

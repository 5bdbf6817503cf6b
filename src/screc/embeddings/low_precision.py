"""Training of integer rows, without full-precision ones beside them (low-precision training, and ALPT)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, register
from screc.embeddings.rounding import largest_code, round_by_chance

_BITS = (16, 8)


@register
class IntegerRows(Method):
    """Integer rows with one step a table; updates are written back with stochastic rounding.

    Rows exist in float only while a batch uses them. They are therefore updated here, after the backward
    pass, by Adagrad with one accumulator a row, not by the run's optimiser of rows.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        bits: 16 or 8.
        lr: learning rate of the rows.
        limit: largest value that a code stands for.
        init_std, generator: of the rows; the generator's seed decides all later roundings too.
    """

    name = "int"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        bits: int,
        *,
        lr: float = 0.02,
        limit: float = 1.0,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        if bits not in _BITS:
            raise ValueError(f"bits must be 16 or 8, got {bits}")
        if not (lr > 0 and limit > 0):
            raise ValueError(f"lr and limit must be positive, got {lr} and {limit}")
        self.bits, self.lr = bits, lr
        count = sum(self.num_embeddings)
        self._generator = torch.Generator().manual_seed(
            int(torch.randint(1 << 31, (1,), generator=generator))
        )
        self.register_buffer("rounding", self._generator.get_state())
        self.register_buffer("steps", self._first_steps(limit))
        self.register_buffer("squares", torch.zeros(count))
        dtype = torch.int16 if bits == 16 else torch.int8
        self.register_buffer("codes", torch.zeros(count, embedding_dim, dtype=dtype))
        for start in range(0, count, 1 << 18):  # in pieces: the float rows are never all there
            stop = min(count, start + (1 << 18))
            drawn = torch.empty(stop - start, embedding_dim).normal_(0.0, init_std, generator=generator)
            whole = torch.arange(start, stop)
            self.codes[start:stop] = self._rounded(drawn, self._steps_of(whole))
        self._used: tuple[Tensor, Tensor] | None = None

    @classmethod
    def fit(cls, brief: Brief, **options: Any) -> IntegerRows:
        """See :meth:`Method.fit`: 16 bits where they fit, else 8; the options are ``lr`` and ``limit``."""
        for bits in _BITS:
            if cls._bytes(brief.specs, brief.embedding_dim, bits) <= brief.budget:
                return cls(
                    brief.specs,
                    brief.embedding_dim,
                    bits,
                    init_std=brief.init_std,
                    generator=brief.generator,
                    **options,
                )
        raise BudgetError.below(
            cls.name, brief.budget, cls._bytes(brief.specs, brief.embedding_dim, _BITS[-1])
        )

    @classmethod
    def _bytes(cls, specs: Sequence[TableSpec], embedding_dim: int, bits: int) -> int:
        return sum(s.num_embeddings for s in specs) * embedding_dim * bits // 8 + 4 * len(specs)

    def _first_steps(self, limit: float) -> Tensor:
        return torch.full((self.num_tables,), limit / largest_code(self.bits))

    def _steps_of(self, whole: Tensor) -> Tensor:
        """The steps of rows by their numbers over all tables, [n, 1]."""
        return self.steps[torch.bucketize(whole, self._starts[1:], right=True)][:, None]

    def _rounded(self, rows: Tensor, steps: Tensor) -> Tensor:
        top = largest_code(self.bits)
        rounded = round_by_chance(rows / steps, self._generator).clamp(-top - 1, top)
        return rounded.to(self.codes.dtype)

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        rows = self.codes[whole].to(self.steps.dtype) * self._steps_of(whole)
        if torch.is_grad_enabled():
            rows.requires_grad_()
            self._used = (whole, rows)
        return rows

    def after_backward(self) -> None:
        if self._used is None or self._used[1].grad is None:
            return
        whole, rows = self._used
        self._used = None
        self._generator.set_state(self.rounding.cpu())
        with torch.no_grad():
            gradient = rows.grad
            self.squares[whole] += gradient.square().mean(dim=1)
            rate = self.lr / (self.squares[whole].sqrt() + 1e-10)
            self._write_back(whole, rows - rate[:, None] * gradient, gradient)
        self.rounding.copy_(self._generator.get_state())

    def _write_back(self, whole: Tensor, updated: Tensor, gradient: Tensor) -> None:
        """Round the updated rows [n, d] to codes; ``gradient`` is that of the rows before."""
        self.codes[whole] = self._rounded(updated, self._steps_of(whole))

    def footprint(self) -> Footprint:
        taken = ByteCount(parameters=self._bytes(self.specs, self.embedding_dim, self.bits))
        return Footprint(taken, taken)


@register
class AdaptiveSteps(IntegerRows):
    """ALPT: integer rows, each with a step of its own that is learned (arXiv 2212.05735).

    The paper looks the updated rows up a second time for the gradient of the steps. Here it is taken at the
    updated rows from the gradient that the batch has already: half the cost, and the same to first order.
    """

    name = "alpt"

    def __init__(self, *args: Any, step_lr: float = 2e-5, **options: Any) -> None:
        self.step_lr = step_lr
        super().__init__(*args, **options)

    @classmethod
    def _bytes(cls, specs: Sequence[TableSpec], embedding_dim: int, bits: int) -> int:
        rows = sum(s.num_embeddings for s in specs)
        return rows * (embedding_dim * bits // 8 + 4)

    def _first_steps(self, limit: float) -> Tensor:
        return torch.full((sum(self.num_embeddings),), limit / largest_code(self.bits))

    def _steps_of(self, whole: Tensor) -> Tensor:
        return self.steps[whole][:, None]

    def _write_back(self, whole: Tensor, updated: Tensor, gradient: Tensor) -> None:
        top = largest_code(self.bits)
        steps = self._steps_of(whole)
        scaled = updated / steps
        clipped = scaled.clamp(-top - 1, top)
        # LSQ's gradient of a step: the bound where a number is clipped, else the rounding error.
        slope = torch.where(scaled == clipped, scaled.round() - scaled, clipped)
        factor = 1 / math.sqrt(max(1, whole.numel()) * self.embedding_dim * top)
        moved = steps[:, 0] - self.step_lr * factor * (gradient * slope).sum(dim=1)
        self.steps[whole] = moved.clamp(min=1e-8)
        self.codes[whole] = self._rounded(updated, self._steps_of(whole))

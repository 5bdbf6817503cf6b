"""CAFE with three levels: ids of middle importance have the sum of two hashed rows (CAFE-ML)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from screc.embeddings.budget import BudgetError
from screc.embeddings.cafe import SKETCH_BYTES, Cafe
from screc.embeddings.hashing import buckets
from screc.embeddings.method import Brief, ByteCount, Footprint, Wanted, register

_MEDIUM = 0.2  # of the threshold


@register
class CafeLevels(Cafe):
    """CAFE's multi-level hash (arXiv 2312.03256, section 3.5).

    Hot ids have rows of their own; those with a fifth of the threshold's score the sum of two hashed rows;
    all others the first of the two. The second starts at zero, so that nothing jumps when an id rises. Who is
    of the middle is asked of the sketch, which is therefore served too.

    Args:
        args, options: those of :class:`Cafe`.
        num_second: rows of the second hashed table.
    """

    name = "cafe-ml"

    def __init__(self, *args: Any, num_second: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.second = nn.Parameter(torch.zeros(num_second, self.embedding_dim))

    @classmethod
    def fit(
        cls, brief: Brief, *, hash_share: float = 0.3, second_share: float = 0.3, **options: Any
    ) -> CafeLevels:
        """See :meth:`Method.fit`.

        Options: ``hash_share``, the part of the budget for both hashed tables; ``second_share``, the second
        one's part of that; and those of :class:`Cafe`.
        """
        for name, share in (("hash_share", hash_share), ("second_share", second_share)):
            if not 0 < share < 1:
                raise ValueError(f"{name} must be between 0 and 1, got {share}")
        row = brief.row_bytes
        hot_row = row + SKETCH_BYTES
        if brief.budget < 2 * row + hot_row:
            raise BudgetError.below(cls.name, brief.budget, 2 * row + hot_row)
        hashed = max(2, int(brief.budget * hash_share) // row)
        num_hot = max(1, (brief.budget - row * hashed) // hot_row)
        hashed = (brief.budget - hot_row * num_hot) // row
        num_second = min(hashed - 1, max(1, int(hashed * second_share)))
        options.setdefault("salt", brief.salt())
        return cls(
            brief.specs,
            brief.embedding_dim,
            num_hot,
            hashed - num_second,
            num_second=num_second,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        rows = super().rows(wanted)
        whole = wanted.ids + self._starts[wanted.tables]
        medium = self._is_medium(whole).nonzero()[:, 0]
        if not medium.numel():
            return rows
        return rows.index_add(0, medium, self.gather(self.second, self._second_rows(whole[medium])))

    def _is_medium(self, whole: Tensor) -> Tensor:
        ids = whole.cpu().numpy()
        scores = np.empty(len(ids), np.float32)
        self._sketch.scores(ids, scores)
        medium = (scores >= _MEDIUM * self._sketch.threshold) & (self._hot_rows(whole) < 0)
        return torch.from_numpy(medium).to(whole.device)

    def _second_rows(self, whole: Tensor) -> Tensor:
        return buckets(whole, self.second.shape[0], self.salt + 1)

    def _insert(self, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self._before = (ids, self._is_medium(torch.from_numpy(ids)))
        return super()._insert(ids, scores)

    def _when_promoted(self, whole: Tensor) -> Tensor:
        ids, medium = self._before  # ascending
        was = medium[torch.searchsorted(torch.from_numpy(ids), whole.cpu())].to(whole.device)
        return super()._when_promoted(whole) + was[:, None] * self.second[self._second_rows(whole)]

    def footprint(self) -> Footprint:
        rows = 4 * (self.weight.numel() + self.second.numel())
        taken = ByteCount(parameters=rows, sketch=SKETCH_BYTES * self._sketch.num_buckets)
        return Footprint(taken, taken)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight, self.second]

"""How much each looked-up id matters to the batch, for methods that give rows to those that matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from screc.data.log import TableSpec
from screc.embeddings.method import Method

Importance = Literal["gradient", "frequency"]


class ScoredMethod(Method):
    """A method that is told after every step what the ids of the batch were worth.

    An id's score is the sum of the norms of its look-ups' gradients, each table's scaled to a mean of one a
    look-up (CAFE, arXiv 2312.03256, section 3.2), or the number of its look-ups. Subclasses call
    :meth:`note` in ``rows`` and :meth:`take_scores` in ``after_step``.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        importance: ``"gradient"`` or ``"frequency"``.
    """

    def __init__(self, specs: Sequence[TableSpec], embedding_dim: int, importance: Importance) -> None:
        super().__init__(specs, embedding_dim)
        if importance not in ("gradient", "frequency"):
            raise ValueError(f"importance must be 'gradient' or 'frequency', got {importance!r}")
        self.importance = importance
        self._looked_up: tuple[Tensor, Tensor] | None = None  # numbers over all tables, look-ups
        self._inverse: Tensor | None = None
        self._scores: Tensor | None = None

    def note(self, whole: Tensor, lookups: Tensor) -> None:
        """Remember the distinct ids of a batch by their numbers over all tables, and their look-ups."""
        if torch.is_grad_enabled():
            self._looked_up = (whole, lookups)

    def take_scores(self) -> tuple[Tensor, Tensor] | None:
        """Numbers int64 [n] and scores float [n] of the last batch, once; None if there was none."""
        if self._looked_up is None:
            return None
        whole, lookups = self._looked_up
        scores = lookups.float() if self._scores is None else self._scores
        self._looked_up, self._scores = None, None
        return whole, scores

    def _distinct(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        rows, self._inverse = super()._distinct(whole)
        return rows, self._inverse

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        features = super().forward(ids, offsets)
        if features.requires_grad and self.importance == "gradient":
            inverse, lookups = self._inverse, offsets.diff()
            features.register_hook(lambda gradient: self._score(gradient, lookups, inverse))
        return features

    def _score(self, gradient: Tensor, lengths: Tensor, inverse: Tensor | None) -> None:
        """Importance of the distinct ids of the batch from the gradient of the features, [B, T, d]."""
        assert inverse is not None
        norms = gradient.detach().norm(dim=2).T  # [T, B]
        lengths = lengths.view(norms.shape)
        norms = torch.where(self._mean[:, None], norms / lengths.clamp(min=1), norms)
        total = (norms * lengths).sum(dim=1)
        scaled = norms * (lengths.sum(dim=1) / total.clamp(min=1e-30))[:, None]
        each = torch.repeat_interleave(scaled.flatten(), lengths.flatten())
        assert self._looked_up is not None
        scores = each.new_zeros(self._looked_up[0].numel())
        self._scores = scores.index_add_(0, inverse, each)

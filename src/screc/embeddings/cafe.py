"""CAFE: a sketch finds the hot ids while the model trains; they have rows of their own (arXiv 2312.03256)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from screc import _native
from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.hashing import buckets
from screc.embeddings.importance import Importance, ScoredMethod
from screc.embeddings.method import Brief, ByteCount, Footprint, Wanted, normal_rows, register
from screc.storage.layout import index_bytes

SKETCH_BYTES = 64  # of a bucket; there is one for every hot row


@register
class Cafe(ScoredMethod):
    """Hot ids of all tables share a pool of rows, all others a hashed table (section 3).

    Who reaches the sketch's threshold by its scores (:class:`ScoredMethod`) gets a row, which starts as a
    copy of its hashed one; who falls below it goes back to the hashed row as it is.

    The threshold tunes itself: when more ids have reached it than there are rows, it rises to the score of
    the last one that there is a row for (CAFE+). Scores decay, so that ids no longer hot give way.

    The sketch lives on the CPU, whatever the device of the rows.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        num_hot: rows of the pool, and buckets of the sketch.
        num_cold: rows of the hashed table.
        importance: ``"gradient"`` or ``"frequency"``.
        threshold: score at which an id becomes hot at the start, in average look-ups.
        decay: factor of all scores whenever as much has been added as ten thresholds a bucket.
        salt: of the hash.
        init_std, generator: of the rows.
    """

    name = "cafe"

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        num_hot: int,
        num_cold: int,
        *,
        importance: Importance = "gradient",
        threshold: float = 2.0,
        decay: float = 0.98,
        salt: int = 0,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim, importance)
        if not 0 < decay <= 1:
            raise ValueError(f"decay must be above 0 and at most 1, got {decay}")
        self.num_hot, self.num_cold = num_hot, num_cold
        self.decay = decay
        self.register_buffer("salt", torch.tensor(salt))
        self.register_buffer("_since_decay", torch.zeros((), dtype=torch.float64))
        self.weight = normal_rows(num_hot + num_cold, embedding_dim, init_std, generator)
        self._sketch = _native.HotSketch(num_buckets=num_hot, num_rows=num_hot, threshold=threshold)

    @classmethod
    def fit(cls, brief: Brief, *, hash_share: float = 0.3, **options: Any) -> Cafe:
        """See :meth:`Method.fit`.

        Options: ``hash_share``, the part of the budget for the hashed table (section 5.1; less for larger
        ratios), and those of the constructor.
        """
        if not 0 < hash_share < 1:
            raise ValueError(f"hash_share must be between 0 and 1, got {hash_share}")
        row = brief.row_bytes
        # Of a hot row: itself, and its bucket while training or its place in the index when it is served.
        hot_row = row + SKETCH_BYTES
        if brief.budget < row + hot_row:
            raise BudgetError.below(cls.name, brief.budget, row + hot_row)
        num_cold = max(1, int(brief.budget * hash_share) // row)
        num_hot = max(1, (brief.budget - row * num_cold) // hot_row)
        num_cold = (brief.budget - hot_row * num_hot) // row
        options.setdefault("salt", brief.salt())
        return cls(
            brief.specs,
            brief.embedding_dim,
            num_hot,
            num_cold,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    # ---- look-ups

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        hot = torch.from_numpy(self._hot_rows(whole)).to(whole.device)
        self.note(whole, wanted.lookups)
        return self.gather(self.weight, torch.where(hot >= 0, hot.long(), self._cold_rows(whole)))

    def _hot_rows(self, whole: Tensor) -> np.ndarray:
        ids = whole.cpu().numpy()
        rows = np.empty(len(ids), np.int32)
        self._sketch.query(ids, rows)
        return rows

    def _cold_rows(self, whole: Tensor) -> Tensor:
        return self.num_hot + buckets(whole, self.num_cold, self.salt)

    # ---- migration

    def after_step(self) -> None:
        scored = self.take_scores()
        if scored is None:
            return
        whole, scores = scored
        numbers = np.ascontiguousarray(scores.cpu().numpy(), dtype=np.float32)
        ids, rows = self._insert(whole.cpu().numpy(), numbers)
        if len(ids):
            with torch.no_grad():
                hot = torch.from_numpy(rows).long().to(self.weight.device)
                self.weight[hot] = self._when_promoted(torch.from_numpy(ids).to(self.weight.device))
        self._since_decay += float(numbers.sum(dtype=np.float64))
        if float(self._since_decay) > 10 * self.num_hot * self._sketch.threshold:
            self._given_back(*self._sketch.decay(self.decay))
            self._since_decay.zero_()
        self._given_back(*self._sketch.retune())

    def _insert(self, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add scores to ids; ids and rows of those that were lent one."""
        return self._sketch.insert(ids, scores)

    def _given_back(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Told of ids that have lost their rows; here they go back to their hashed rows as these are."""

    def _when_promoted(self, whole: Tensor) -> Tensor:
        """What the rows of ids that become hot start from."""
        return self.weight[self._cold_rows(whole)]

    # ---- what it is

    def footprint(self) -> Footprint:
        rows = ByteCount(parameters=4 * self.weight.numel(), sketch=SKETCH_BYTES * self._sketch.num_buckets)
        # Served, the lent rows are found by one index over all tables.
        remap = index_bytes(max(1, sum(self.num_embeddings)), self.num_hot)
        return Footprint(rows, ByteCount(parameters=4 * self.weight.numel(), remap=remap))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]

    def get_extra_state(self) -> Tensor:
        """The sketch: its threshold, then its buckets."""
        threshold = np.array([self._sketch.threshold], np.float32).view(np.uint8)
        return torch.from_numpy(np.concatenate([threshold, self._sketch.state()]))

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` gave."""
        whole = np.ascontiguousarray(state.cpu().numpy())
        self._sketch.restore(whole[4:].copy(), float(whole[:4].copy().view(np.float32)[0]))

    def __getstate__(self) -> dict[str, Any]:
        # For copies; the sketch is native, and travels as its bytes.
        return {**self.__dict__, "_sketch": self.get_extra_state(), "_looked_up": None, "_scores": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        sketch, self._sketch = self._sketch, _native.HotSketch(self.num_hot, self.num_hot, 1.0)
        self.set_extra_state(sketch)

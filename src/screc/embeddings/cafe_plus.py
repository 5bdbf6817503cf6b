"""CAFE+: new ids prove themselves in a filter before they enter the sketch (TOIS 2025)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from screc import _native
from screc.embeddings.cafe import Cafe
from screc.embeddings.method import ByteCount, Footprint, register

_BUCKET_BYTES = 64
_KEPT = 5.0  # score from which on an id that is displaced from the filter enters the sketch


@register
class CafePlus(Cafe):
    """CAFE whose sketch is spared the ids that come once.

    A tenth of the buckets are a filter of least recently seen ids. An id enters the sketch when its score
    reaches the sketch's threshold, or when it is displaced from the filter with a score of 5 at least. The
    threshold tunes itself, as :class:`Cafe`'s does.

    Args:
        args, options: those of :class:`Cafe`.
    """

    name = "cafe-plus"

    def __init__(self, *args: Any, threshold: float = 1.0, **options: Any) -> None:
        super().__init__(*args, threshold=threshold, **options)
        filtering = self.num_hot // 10
        if filtering:
            self._sketch = _native.HotSketch(self.num_hot - filtering, self.num_hot, threshold)
        self._filter = _native.RecencyFilter(filtering) if filtering else None

    def _insert(self, ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._filter is None:  # too few buckets to part them
            return super()._insert(ids, scores)
        known = np.empty(len(ids), np.float32)
        self._sketch.scores(ids, known)
        new = known < 0
        entering, with_scores = self._filter.insert(
            np.ascontiguousarray(ids[new]), np.ascontiguousarray(scores[new]), self._sketch.threshold, _KEPT
        )
        return self._sketch.insert(
            np.concatenate([ids[~new], entering]), np.concatenate([scores[~new], with_scores])
        )

    def footprint(self) -> Footprint:
        taken = super().footprint()
        sketch = _BUCKET_BYTES * self.num_hot  # of both parts
        training = ByteCount(parameters=taken.training.parameters, sketch=sketch)
        return Footprint(training, taken.serving)

    def get_extra_state(self) -> Tensor:
        """The filter, then the sketch."""
        if self._filter is None:
            return super().get_extra_state()
        return torch.cat([torch.from_numpy(self._filter.state()), super().get_extra_state()])

    def set_extra_state(self, state: Tensor) -> None:
        if self._filter is not None:
            own = _BUCKET_BYTES * (self.num_hot // 10) + 8
            self._filter.restore(np.ascontiguousarray(state[:own].cpu().numpy()))
            state = state[own:]
        super().set_extra_state(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_filter": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        filtering = state["num_hot"] // 10
        saved = state["_sketch"]
        torch.nn.Module.__setstate__(self, state)
        self._sketch = _native.HotSketch(self.num_hot - filtering, self.num_hot, 1.0)
        self._filter = _native.RecencyFilter(filtering) if filtering else None
        self.set_extra_state(saved)

"""Rows trained as they will be served: rounded to their band's format in every look-up.

Quantisation-aware training with a straight-through estimator (Bengio et al., arXiv 1308.3432; of embedding
tables: Guan et al., arXiv 1911.02079): rows are kept and updated in float32, a look-up gives what their
encoded form decodes to, and gradients pass through the rounding as if it were not there. Only the rows that a
batch looks up are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from screc.embeddings.bags import gather_distinct
from screc.embeddings.contract import Pooling, TableModule, copy_tensor
from screc.embeddings.full import FullTable
from screc.storage.layout import TableLayout
from screc.storage.row_format import RowFormat, Scale, decode_rows, encode_rows
from screc.storage.shared_scale import BandValues, shared_scale

# A shared scale is chosen again after this many steps and this share of all steps, whichever is more.
_STEPS_BETWEEN, _SHARE_BETWEEN = 16, 0.5
# Values that the choice looks at while training: a sixteenth of what packing takes.
_SAMPLE_VALUES = 1 << 16
_ROWS_AT_ONCE = 1 << 16


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, row_format: RowFormat, scale: Scale | None) -> Tensor:
        values = rows.detach().numpy()
        rounded = torch.from_numpy(
            decode_rows(encode_rows(values, row_format, scale), row_format, rows.shape[1], scale)
        )
        if scale is not None:
            ctx.save_for_backward(rows - rounded)
        ctx.half_step = None if scale is None else 0.501 * scale[0]
        return rounded

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.half_step is not None:
            # Values beyond the codes' span may come back but go no further out, where nothing would show it.
            (beyond,) = ctx.saved_tensors
            grad = grad.masked_fill((beyond.abs() > ctx.half_step) & (beyond * grad < 0), 0.0)
        return grad, None, None


class RoundedTable(FullTable):
    """A table of one band of rows in any format but tensor-train.

    Args:
        layout: a layout of one band of rows; its format and scale say how look-ups round.
        pooling: ``"sum"`` or ``"mean"``.
        unused: ids whose rows are never looked up, int64, ascending: they have no say in a shared scale.
        init_std, generator: as for :class:`FullTable`.
    """

    def __init__(
        self,
        layout: TableLayout,
        pooling: Pooling = "sum",
        *,
        unused: np.ndarray | None = None,
        init_std: float | None = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, pooling, init_std=init_std, generator=generator)
        band = layout.bands[0]
        assert band.format != "tt"
        self._format: RowFormat = band.format
        self._unused = np.zeros(0, np.int64) if unused is None else unused
        # Scale and bias that all rows share.
        self._scale: np.ndarray | None = None
        if band.scale == "table":
            self._scale = np.zeros(2, np.float32)
            if init_std is not None:
                self._choose_scale()

    def rows(self, ids: Tensor) -> Tensor:
        rows = gather_distinct(self.weight, ids)
        if self._format == "fp32":
            return rows
        try:
            return _Round.apply(rows, self._format, self._shared)
        except ValueError as error:
            raise ValueError(
                f"table {self.layout.table}: {error}; train with a lower learning rate, or plan its rows in "
                "another format"
            ) from error

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return TableModule.forward(self, ids, offsets)

    def before_step(self, step: int) -> None:
        if self._scale is not None and scale_is_due(step):
            self._choose_scale()

    def tensors(self) -> Mapping[str, np.ndarray]:
        own = {} if self._scale is None else {"band.0.scale": self._scale}
        return {**super().tensors(), **own}

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        super().load(tensors)
        if self._scale is not None:
            copy_tensor(self.layout.table, "band.0.scale", tensors, torch.from_numpy(self._scale))

    @property
    def _shared(self) -> Scale | None:
        return None if self._scale is None else (float(self._scale[0]), float(self._scale[1]))

    def _choose_scale(self) -> None:
        """Takes the scale that rounds all used rows best, as they are now."""
        weight = self.weight.detach().numpy()
        values = BandValues(self.embedding_dim, sample_values=_SAMPLE_VALUES)
        for start in range(0, len(weight), _ROWS_AT_ONCE):
            rows = weight[start : start + _ROWS_AT_ONCE]
            first, last = np.searchsorted(self._unused, [start, start + len(rows)])
            values.add(np.delete(rows, self._unused[first:last] - start, axis=0))
        assert self._scale is not None
        self._scale[:] = shared_scale(values, self._format)


def scale_is_due(step: int) -> bool:
    """Whether shared scales are chosen again before a training step: a function of its number alone, so that
    a run that was interrupted chooses them when it would have."""
    due = 0
    while due < step:
        due += max(_STEPS_BETWEEN, int(due * _SHARE_BETWEEN))
    return due == step

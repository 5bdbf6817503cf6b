"""The uncompressed table: one float32 row per id."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from screc.embeddings.bags import check_bags, gather_distinct, sum_bags
from screc.embeddings.contract import Pooling, TableModule, copy_tensor
from screc.storage.layout import TableLayout


class FullTable(TableModule):
    """A table of one fp32 band, trained with sparse gradients.

    Args:
        layout: a layout of one fp32 band (:meth:`TableLayout.dense`).
        pooling: ``"sum"`` or ``"mean"``.
        init_std: rows are drawn from N(0, init_std^2); None leaves them unset, to be loaded.
        generator: source of the random numbers; torch's global one by default.
        weight: float32 [N, d] to use in place of new memory (it is not initialised, nor copied).
    """

    def __init__(
        self,
        layout: TableLayout,
        pooling: Pooling = "sum",
        *,
        init_std: float | None = 0.05,
        generator: torch.Generator | None = None,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__(layout, pooling)
        if len(layout.bands) != 1 or layout.bands[0].tt is not None:
            raise ValueError(f"table {layout.table}: FullTable takes a layout of one band of rows")
        shape = (layout.num_embeddings, layout.embedding_dim)
        if weight is None:
            weight = torch.empty(shape)
            if init_std is not None:
                weight.normal_(0.0, init_std, generator=generator)
        elif weight.dtype != torch.float32 or tuple(weight.shape) != shape:
            raise ValueError(
                f"table {layout.table}: weight is {weight.dtype} {list(weight.shape)}, "
                f"expected torch.float32 {list(shape)}"
            )
        self.weight = nn.Parameter(weight)

    @property
    def num_bytes(self) -> int:
        return self.weight.numel() * self.weight.element_size()

    def rows(self, ids: Tensor) -> Tensor:
        return gather_distinct(self.weight, ids)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(ids, offsets)
        check_bags(ids, offsets, self.num_embeddings)
        pooled = sum_bags(self.weight, ids, offsets)
        return pooled / offsets.diff().clamp(min=1)[:, None] if self.pooling == "mean" else pooled

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {"band.0.rows": self.weight.detach().numpy()}

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        copy_tensor(self.layout.table, "band.0.rows", tensors, self.weight)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]

    def dense_parameters(self) -> list[nn.Parameter]:
        return []

"""The plain PyTorch DLRM: one ``embedding_bag`` per table, ``nn.Linear`` layers, eager inference.

Three forms: float32; everything in bfloat16, tables too; and float32 under ``torch.autocast``, which converts
at every use. Which of the two bfloat16 forms is faster depends on the batch size, so both are measured.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from benchmarks.peers.torch_dense import Bags, TorchDense, per_table_inputs
from benchmarks.workload import Layers


class EagerDlrm(nn.Module):
    """DLRM with dot interaction over given weights.

    Args:
        tables: float32 [rows, dim] each; shared, or copied one by one where the dtype is another.
        bottom, top: (weight [out, in], bias [out]) per layer.
        dtype: of tables and layers.
        autocast: run under ``torch.autocast`` to bfloat16.
    """

    def __init__(
        self,
        tables: Iterable[np.ndarray],
        bottom: Layers,
        top: Layers,
        *,
        dtype: torch.dtype = torch.float32,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self.tables = [torch.from_numpy(rows).to(dtype) for rows in tables]
        self.dense = TorchDense(bottom, top, len(self.tables), dtype)
        self._autocast = autocast

    def forward(self, dense: torch.Tensor, bags: Bags) -> torch.Tensor:
        """Probabilities [B]."""
        pooled = [
            nn.functional.embedding_bag(ids, rows, offsets, mode="sum", include_last_offset=True)
            for rows, (ids, offsets) in zip(self.tables, bags, strict=True)
        ]
        return self.dense(dense, torch.stack(pooled, dim=1))

    inputs = staticmethod(per_table_inputs)

    @torch.inference_mode()
    def predict(self, inputs: tuple[torch.Tensor, Bags]) -> torch.Tensor:
        """Probabilities [B] of a batch's inputs."""
        if not self._autocast:
            return self(*inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self(*inputs)

"""What all PyTorch peers share: the MLPs and the dot interaction in torch, after the rows were pooled."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmarks.workload import Layers
from screc.data import Batch


class TorchDense(nn.Module):
    """Bottom MLP, dot interaction, top MLP and sigmoid of a DLRM over given weights.

    Args:
        bottom, top: (weight float32 [out, in], bias [out]) per layer; shared in float32, else converted.
        num_tables: T.
        dtype: of the weights; inputs of another dtype are converted.
    """

    def __init__(self, bottom: Layers, top: Layers, num_tables: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.bottom = _mlp(bottom, dtype, last_relu=True)
        self.top = _mlp(top, dtype, last_relu=False)
        self.dtype = dtype
        features = num_tables + 1
        i, j = torch.tril_indices(features, features, offset=-1)
        self.register_buffer("pairs", i * features + j)

    def forward(self, dense: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Probabilities float32 [B] of dense [B, num_dense] and pooled rows [B, T, d]."""
        x = self.bottom(dense.to(self.dtype))
        features = torch.cat([x.unsqueeze(1), pooled.to(x.dtype)], dim=1)
        products = torch.bmm(features, features.transpose(1, 2))
        # On the flat products: half the time of indexing with rows and columns.
        interactions = products.flatten(1).index_select(1, self.pairs)
        logits = self.top(torch.cat([x, interactions], dim=1))
        return torch.sigmoid(logits.float()).squeeze(1)


def _mlp(layers: Layers, dtype: torch.dtype, *, last_relu: bool) -> nn.Sequential:
    modules: list[nn.Module] = []
    for number, (weight, bias) in enumerate(layers):
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
        linear.weight = nn.Parameter(torch.from_numpy(weight).to(dtype), requires_grad=False)
        linear.bias = nn.Parameter(torch.from_numpy(bias).to(dtype), requires_grad=False)
        modules.append(linear)
        if last_relu or number < len(layers) - 1:
            modules.append(nn.ReLU(inplace=True))
    return nn.Sequential(*modules)


Bags = list[tuple[torch.Tensor, torch.Tensor]]


def per_table_inputs(batch: Batch, index: type[np.integer] = np.int64) -> tuple[torch.Tensor, Bags]:
    """The batch as tensors: dense [B, num_dense] and for each table (ids, offsets [B + 1])."""
    bags = [
        (
            torch.from_numpy(batch.table_ids(table).astype(index)),
            torch.from_numpy(batch.table_offsets(table).astype(index)),
        )
        for table in range(batch.num_tables)
    ]
    return torch.from_numpy(batch.dense), bags


def flat_inputs(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch as tensors: dense, ids of all tables and offsets [T * B + 1], both int32."""
    return (
        torch.from_numpy(batch.dense),
        torch.from_numpy(batch.ids.astype(np.int32)),
        torch.from_numpy(batch.offsets.astype(np.int32)),
    )

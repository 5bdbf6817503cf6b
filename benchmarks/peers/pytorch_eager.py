"""The plain PyTorch DLRM: one nn.EmbeddingBag per table, nn.Linear layers, eager fp32 inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from screc.data import Batch

Layers = Sequence[tuple[np.ndarray, np.ndarray]]


class EagerDlrm(nn.Module):
    """DLRM with dot interaction over given weights; the arrays are shared, not copied.

    Args:
        tables: float32 [rows, dim] each.
        bottom, top: (weight [out, in], bias [out]) per layer.
    """

    def __init__(self, tables: Sequence[np.ndarray], bottom: Layers, top: Layers) -> None:
        super().__init__()
        self.bags = nn.ModuleList(
            nn.EmbeddingBag.from_pretrained(torch.from_numpy(rows), mode="sum", include_last_offset=True)
            for rows in tables
        )
        self.bottom = _mlp(bottom, last_relu=True)
        self.top = _mlp(top, last_relu=False)
        features = len(tables) + 1
        self.register_buffer("pairs", torch.tril_indices(features, features, offset=-1))

    def forward(self, dense: torch.Tensor, bags: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """Probabilities [B]."""
        x = self.bottom(dense)
        rows = [bag(ids, offsets) for bag, (ids, offsets) in zip(self.bags, bags, strict=True)]
        features = torch.stack([x, *rows], dim=1)
        products = torch.bmm(features, features.transpose(1, 2))
        interactions = products[:, self.pairs[0], self.pairs[1]]
        return torch.sigmoid(self.top(torch.cat([x, interactions], dim=1))).squeeze(1)


def _mlp(layers: Layers, *, last_relu: bool) -> nn.Sequential:
    modules: list[nn.Module] = []
    for number, (weight, bias) in enumerate(layers):
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
        linear.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
        linear.bias = nn.Parameter(torch.from_numpy(bias), requires_grad=False)
        modules.append(linear)
        if last_relu or number < len(layers) - 1:
            modules.append(nn.ReLU())
    return nn.Sequential(*modules)


def torch_inputs(batch: Batch) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """The batch as tensors: dense and per table (ids, offsets)."""
    bags = [
        (torch.from_numpy(batch.table_ids(t)), torch.from_numpy(batch.table_offsets(t)))
        for t in range(batch.num_tables)
    ]
    return torch.from_numpy(batch.dense), bags

"""PyTorch's own quantised bags: 8-bit or 4-bit rows with a scale and a bias each, layers in torch.

``torch.ops.quantized.embedding_bag_{byte,4bit}_rowwise_offsets`` on weights that were packed beforehand; the
kernels are fbgemm's. Ids are int32, the kernels' native width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch

from benchmarks.peers.torch_dense import Bags, TorchDense, per_table_inputs
from benchmarks.workload import Layers
from screc.data import Batch


def int32_inputs(batch: Batch) -> tuple[torch.Tensor, Bags]:
    """Dense features and for each table (ids, offsets), int32."""
    return per_table_inputs(batch, np.int32)


class QuantizedBagDlrm:
    """DLRM over quantised tables.

    Args:
        tables: float32 [rows, dim] each; quantised one by one.
        bottom, top: (weight [out, in], bias [out]) per layer.
        bits: of a row's numbers.
    """

    def __init__(
        self,
        tables: Iterable[np.ndarray],
        bottom: Layers,
        top: Layers,
        *,
        bits: Literal[4, 8],
    ) -> None:
        quantized = torch.ops.quantized
        prepack = quantized.embedding_bag_byte_prepack if bits == 8 else quantized.embedding_bag_4bit_prepack
        self._bag = (
            quantized.embedding_bag_byte_rowwise_offsets
            if bits == 8
            else quantized.embedding_bag_4bit_rowwise_offsets
        )
        self._tables = [prepack(torch.from_numpy(rows)) for rows in tables]
        self._layers = (bottom, top)
        self._dense = TorchDense(bottom, top, len(self._tables), torch.float32)

    def with_layers(self, dtype: torch.dtype) -> QuantizedBagDlrm:
        """The same over the same tables, with its layers in another dtype."""
        other = copy.copy(self)
        other._dense = TorchDense(*self._layers, len(self._tables), dtype)
        return other

    inputs = staticmethod(int32_inputs)

    @torch.inference_mode()
    def predict(self, inputs: tuple[torch.Tensor, Bags]) -> torch.Tensor:
        """Probabilities [B]."""
        dense, bags = inputs
        pooled = [
            self._bag(rows, ids, offsets, include_last_offset=True)
            for rows, (ids, offsets) in zip(self._tables, bags, strict=True)
        ]
        return self._dense(dense, torch.stack(pooled, dim=1))

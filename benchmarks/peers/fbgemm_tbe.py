"""fbgemm's table-batched embeddings: one call pools the rows of all tables; layers in torch.

``IntNBitTableBatchedEmbeddingBagsCodegen`` on the CPU with rows in fp32, int8 or int4 (scale and bias in fp16
before each row, as it deploys them). Its best settings: int32 ids, output in float32 without a conversion,
no check of ids. The CPU operator uses one thread.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch

from benchmarks.peers import AbsentError
from benchmarks.peers.torch_dense import TorchDense, flat_inputs
from benchmarks.workload import Layers

try:
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
        IntNBitTableBatchedEmbeddingBagsCodegen,
    )
except (ImportError, OSError) as error:  # OSError: built for another torch
    raise AbsentError(
        f"fbgemm-gpu-cpu cannot be imported ({error}); with torch 2.13.0: "
        "pip install --no-deps fbgemm-gpu-cpu==1.8.0"
    ) from error

RowFormat = Literal["fp32", "int8", "int4"]


class TbeDlrm:
    """DLRM over one table-batched operator.

    Args:
        rows: rows of each table.
        dim: columns of each.
        tables: float32 [rows, dim] each; converted one by one.
        bottom, top: (weight [out, in], bias [out]) per layer.
        row_format: of the tables.
    """

    def __init__(
        self,
        rows: Iterable[int],
        dim: int,
        tables: Iterable[np.ndarray],
        bottom: Layers,
        top: Layers,
        *,
        row_format: RowFormat,
    ) -> None:
        kind = SparseType(row_format)
        specs = [(str(t), count, dim, kind, EmbeddingLocation.HOST) for t, count in enumerate(rows)]
        self._bags = IntNBitTableBatchedEmbeddingBagsCodegen(
            specs,
            device="cpu",
            output_dtype=SparseType.FP32,
            bounds_check_mode=BoundsCheckMode.NONE,
        )
        self._bags.initialize_weights()
        places = self._bags.split_embedding_weights(split_scale_shifts=True)
        for (codes, scales), table in zip(places, tables, strict=True):
            _fill(codes, scales, torch.from_numpy(table), row_format)
        self._shape = (len(specs), dim)
        self._layers = (bottom, top)
        self._dense = TorchDense(bottom, top, len(specs), torch.float32)

    def with_layers(self, dtype: torch.dtype) -> TbeDlrm:
        """The same over the same tables, with its layers in another dtype."""
        other = copy.copy(self)
        other._dense = TorchDense(*self._layers, self._shape[0], dtype)
        return other

    inputs = staticmethod(flat_inputs)

    @torch.inference_mode()
    def predict(self, inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Probabilities [B]."""
        dense, ids, offsets = inputs
        pooled = self._bags(ids, offsets)
        return self._dense(dense, pooled.view(len(dense), *self._shape))


def _fill(
    codes: torch.Tensor, scales: torch.Tensor | None, rows: torch.Tensor, row_format: RowFormat
) -> None:
    """Quantise a table into its place: codes uint8 [rows, bytes], scale and bias uint8 [rows, 4]."""
    if row_format == "fp32":
        codes.copy_(rows.view(torch.uint8))
    elif row_format == "int8":
        quantized = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows)
        codes.copy_(quantized[:, : codes.shape[1]])
        scales.copy_(quantized[:, -8:].contiguous().view(torch.float32).half().view(torch.uint8))
    else:
        quantized = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(rows, 4)
        codes.copy_(quantized[:, : codes.shape[1]])
        scales.copy_(quantized[:, -4:])

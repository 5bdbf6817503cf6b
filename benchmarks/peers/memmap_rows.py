"""Rows in one file that is mapped into memory, PyTorch on top: the system's page cache is the cache.

The mapping is told that reads are random (``MADV_RANDOM``): without it a missed row reads 128 KiB. Rows are
pooled by ``embedding_bag`` straight from the mapping, so that all of torch's threads wait for pages.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.peers.torch_dense import Bags, TorchDense, per_table_inputs
from benchmarks.workload import Layers

_FILE = "rows.f32"


class MemmapDlrm:
    """DLRM over a mapped file of rows.

    Args:
        directory: what :meth:`build` wrote.
        rows: rows of each table.
        dim: columns.
        bottom, top: (weight [out, in], bias [out]) per layer.
    """

    def __init__(self, directory: Path, rows: Sequence[int], dim: int, bottom: Layers, top: Layers) -> None:
        mapped = np.memmap(directory / _FILE, dtype=np.float32, mode="c", shape=(sum(rows), dim))
        mapped._mmap.madvise(mmap.MADV_RANDOM)
        self._tables = torch.from_numpy(mapped).split(list(rows))
        self._dense = TorchDense(bottom, top, len(rows), torch.float32)

    @staticmethod
    def build(directory: Path, tables: Iterable[np.ndarray]) -> None:
        """Write the tables (float32 [rows, dim] each) one after the other."""
        directory.mkdir(parents=True, exist_ok=True)
        with open(directory / _FILE, "wb") as file:
            for rows in tables:
                rows.tofile(file)

    inputs = staticmethod(per_table_inputs)

    @torch.inference_mode()
    def predict(self, inputs: tuple[torch.Tensor, Bags]) -> torch.Tensor:
        """Probabilities [B]."""
        dense, bags = inputs
        pooled = [
            nn.functional.embedding_bag(ids, rows, offsets, mode="sum", include_last_offset=True)
            for rows, (ids, offsets) in zip(self._tables, bags, strict=True)
        ]
        return self._dense(dense, torch.stack(pooled, dim=1))

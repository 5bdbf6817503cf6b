"""What every kind of embedding table is to the models, the optimisers and the checkpoint."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from screc.embeddings.bags import check_bags, pool_bags
from screc.storage.layout import TableLayout
from screc.storage.manifest import Pooling


class TableModule(nn.Module):
    """One embedding table with the semantics of :class:`torch.nn.EmbeddingBag`.

    Attributes:
        layout: the bands of the table; a table trained whole has one.
        pooling: ``"sum"`` or ``"mean"`` of the rows of a bag.
    """

    def __init__(self, layout: TableLayout, pooling: Pooling) -> None:
        super().__init__()
        if pooling not in ("sum", "mean"):
            raise ValueError(f"table {layout.table}: pooling must be 'sum' or 'mean', got {pooling!r}")
        self.layout = layout
        self.pooling: Pooling = pooling

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return self.layout.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Length of a row."""
        return self.layout.embedding_dim

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Bytes the table takes while training: parameters and indices, without optimiser state."""

    @abstractmethod
    def rows(self, ids: Tensor) -> Tensor:
        """The rows [n, d] of distinct ascending ``ids`` int64 [n], differentiable in the parameters."""

    @abstractmethod
    def tensors(self) -> Mapping[str, np.ndarray]:
        """The table's tensors by their keys in docs/format.md ("Checkpoint"); views where possible."""

    @abstractmethod
    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy tensors as :meth:`tensors` gives them into the table.

        Raises:
            ValueError: a tensor is missing or has another shape, dtype or set of ids.
        """

    @abstractmethod
    def sparse_parameters(self) -> list[nn.Parameter]:
        """Parameters whose gradients are sparse in rows; driven by the table optimiser."""

    @abstractmethod
    def dense_parameters(self) -> list[nn.Parameter]:
        """Parameters that every batch changes as a whole; driven by the optimiser of the MLPs."""

    def before_step(self, step: int) -> None:
        """Called before every training step with its number in all runs, from 0."""

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Pool bags of rows.

        Args:
            ids: int64 [nnz].
            offsets: int64 [B + 1]; bag b is ``ids[offsets[b] : offsets[b + 1]]`` and may be empty.

        Returns:
            float32 [B, d]; zeros for an empty bag.

        Raises:
            TypeError: ``ids`` or ``offsets`` is not int64.
            ValueError: a wrong shape, offset or id.
        """
        check_bags(ids, offsets, self.num_embeddings)
        distinct, inverse = torch.unique(ids, return_inverse=True)
        return pool_bags(self.rows(distinct), inverse, offsets, mean=self.pooling == "mean")


def copy_tensor(table: str, key: str, tensors: Mapping[str, np.ndarray], into: Tensor) -> None:
    """Copy ``tensors[key]`` into ``into`` after checking that it is there and fits.

    Raises:
        ValueError: it is missing, or has another dtype or shape.
    """
    if key not in tensors:
        raise ValueError(f"table {table}: tensor {key!r} is missing; there are {sorted(tensors)}")
    array = tensors[key]
    if array.dtype != np.float32 or array.shape != tuple(into.shape):
        raise ValueError(
            f"table {table}: tensor {key!r} is {array.dtype} {list(array.shape)}, "
            f"expected float32 {list(into.shape)}"
        )
    # Through NumPy, because checkpoints are read-only memory maps.
    np.copyto(into.detach().numpy(), array)

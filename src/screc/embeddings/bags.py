"""Gathering and pooling rows with gradients that cost no more than the distinct rows they touch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def check_bags(ids: Tensor, offsets: Tensor, num_embeddings: int) -> None:
    """Raise unless ``ids`` and ``offsets`` are bags of rows of a table with ``num_embeddings`` rows.

    Args:
        ids: int64 [nnz].
        offsets: int64 [B + 1], from 0 to nnz, not decreasing.

    Raises:
        TypeError: a dtype is not int64.
        ValueError: a shape, an offset or an id is wrong; the message names it and its place.
    """
    check_offsets(ids, offsets)
    if ids.numel():
        wrong = (ids < 0) | (ids >= num_embeddings)
        if wrong.any():
            where = int(wrong.nonzero()[0])
            raise ValueError(f"ids[{where}] = {int(ids[where])} is out of range for {num_embeddings} rows")


def check_offsets(ids: Tensor, offsets: Tensor) -> None:
    """The part of :func:`check_bags` that does not depend on the table."""
    for name, tensor in (("ids", ids), ("offsets", offsets)):
        if tensor.dtype != torch.int64:
            raise TypeError(f"{name}: expected torch.int64, got {tensor.dtype}; convert it with .long()")
        if tensor.dim() != 1:
            raise ValueError(f"{name}: expected 1 dimension, got shape {list(tensor.shape)}")
    if offsets.numel() < 1:
        raise ValueError("offsets: expected one entry per bag and a last one, got none")
    first, last = int(offsets[0]), int(offsets[-1])
    if first != 0 or last != ids.numel():
        raise ValueError(
            f"offsets: must run from 0 to the number of ids ({ids.numel()}), got {first} to {last}"
        )
    falls = offsets[1:] < offsets[:-1]
    if falls.any():
        where = int(falls.nonzero()[0]) + 1
        raise ValueError(
            f"offsets[{where}] = {int(offsets[where])} is below offsets[{where - 1}] = "
            f"{int(offsets[where - 1])}; offsets must not decrease"
        )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = weight.shape
        return weight.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        # The rows are distinct and ascending, so the gradient is coalesced as it stands: saying so saves
        # the optimiser a sort of every look-up of the batch.
        return torch.sparse_coo_tensor(
            rows[None], grad, ctx.shape, is_coalesced=True, check_invariants=False
        ), None


def gather_distinct(weight: Tensor, rows: Tensor) -> Tensor:
    """``weight[rows]`` [n, d] for distinct ascending ``rows``; the gradient of ``weight`` is sparse."""
    return _Gather.apply(weight, rows)


class _SumBags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inverse: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(inverse, offsets)
        ctx.num_rows = rows.shape[0]
        return sum_bags(rows, inverse, offsets)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        inverse, offsets = ctx.saved_tensors
        if not _one_per_bag(offsets, inverse.numel()):
            bags = torch.arange(offsets.numel() - 1, device=offsets.device)
            grad = grad.index_select(0, torch.repeat_interleave(bags, offsets.diff()))
        # An order of magnitude faster on CPUs than the dense gradient of F.embedding_bag, which sorts.
        out = grad.new_zeros(ctx.num_rows, grad.shape[1])
        return out.index_add_(0, inverse, grad), None, None


def _one_per_bag(offsets: Tensor, num_ids: int) -> bool:
    return num_ids == offsets.numel() - 1 and bool((offsets.diff() == 1).all())


def sum_bags(rows: Tensor, ids: Tensor, offsets: Tensor) -> Tensor:
    """Sum ``rows[ids]`` per bag, [B, d], without gradients; an empty bag gives zeros."""
    if not ids.numel():
        return rows.new_zeros(offsets.numel() - 1, rows.shape[1])
    return torch.nn.functional.embedding_bag(ids, rows, offsets, mode="sum", include_last_offset=True)


def pool_bags(rows: Tensor, inverse: Tensor, offsets: Tensor, *, mean: bool = False) -> Tensor:
    """Pool ``rows[inverse]`` per bag with gradients to ``rows``.

    Args:
        rows: float32 [n, d].
        inverse: int64 [nnz], indices into ``rows``.
        offsets: int64 [B + 1].
        mean: divide by the number of ids of the bag.

    Returns:
        float32 [B, d]; an empty bag gives zeros.
    """
    pooled = _SumBags.apply(rows, inverse, offsets)
    return pooled / offsets.diff().clamp(min=1)[:, None] if mean else pooled

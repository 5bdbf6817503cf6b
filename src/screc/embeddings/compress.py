"""Compressing the tables of any PyTorch model, without a change to the model's code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import full_bytes
from screc.embeddings.method import Method, make_method

_Model = TypeVar("_Model", bound=nn.Module)


class CompressedBag(nn.Module):
    """One table of a method in the place of a :class:`torch.nn.EmbeddingBag`, with its arguments.

    Attributes:
        method: shared with the other tables that were compressed together.
        table: its number there.
    """

    def __init__(self, method: Method, table: int, replaced: nn.EmbeddingBag) -> None:
        super().__init__()
        # A list, so that the method is not a submodule of every bag: the first one owns it.
        self._method = [method]
        self.table = table
        self.num_embeddings, self.embedding_dim = replaced.num_embeddings, replaced.embedding_dim
        self.mode, self.include_last_offset = replaced.mode, replaced.include_last_offset
        self.padding_idx = replaced.padding_idx
        if table == 0:
            self.owned = method

    @property
    def method(self) -> Method:
        """The method that holds the rows."""
        return self._method[0]

    def forward(
        self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None
    ) -> Tensor:
        """As :meth:`torch.nn.EmbeddingBag.forward`: bags [B, L] of one length, or ids [nnz] with offsets."""
        ids, weights = input, per_sample_weights
        if ids.dim() == 2:
            if offsets is not None:
                raise ValueError("offsets: must be None for bags of equal length, given as 2 dimensions")
            size, length = ids.shape
            offsets = torch.arange(0, (size + 1) * length, max(1, length), device=ids.device)[: size + 1]
            if not length:
                offsets = torch.zeros(size + 1, dtype=torch.int64, device=ids.device)
            ids = ids.reshape(-1)
            weights = None if weights is None else weights.reshape(-1)
        elif offsets is None:
            raise ValueError("offsets: needed for ids of 1 dimension")
        elif not self.include_last_offset:
            offsets = torch.cat([offsets, offsets.new_tensor([ids.numel()])])
        ids, offsets = ids.long(), offsets.long()
        if self.padding_idx is not None:
            kept = ids != self.padding_idx
            before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])
            ids, offsets = ids[kept], before[offsets]
            weights = None if weights is None else weights[kept]
        return self.method.bags(self.table, ids, offsets, weights=weights, pooling=self.mode)


def compress(
    model: _Model,
    method: str,
    budget: float,
    *,
    counts: Sequence[np.ndarray] | None = None,
    seed: int = 0,
    **options: Any,
) -> _Model:
    """Put a compression method in the place of every :class:`torch.nn.EmbeddingBag` of a model, in place.

    Tables of one dimension are compressed together; those of different dimensions share the budget in
    proportion to their bytes. Rows start anew: compress before training. In the training loop call
    :meth:`Method.after_backward` and :meth:`Method.after_step` of every one of :func:`methods_of`.

    Args:
        model: any module; it is changed and returned.
        method: a name of :data:`screc.embeddings.METHODS`.
        budget: how many times smaller than float32 rows (10, 100, ...) if above 1, else the fraction that is
            left.
        counts: look-ups of each id, one array per table in the order of ``model.modules()``.
        seed: of all random numbers.
        options: the method's own.

    Raises:
        ValueError: the model has no EmbeddingBag, or one of a kind that no method can replace
            (``mode="max"``, ``max_norm``, ``scale_grad_by_freq``).
        BudgetError: the method cannot be that small.
    """
    if not budget > 0:
        raise ValueError(
            f"budget must be positive, got {budget}; 100 is a hundredth of all rows, and so is 0.01"
        )
    ratio = budget if budget > 1 else 1 / budget
    places = [
        (parent, key, child)
        for parent in model.modules()
        for key, child in parent.named_children()
        if isinstance(child, nn.EmbeddingBag)
    ]
    if not places:
        raise ValueError("model: it has no torch.nn.EmbeddingBag to compress")
    names = {id(module): name for name, module in model.named_modules()}
    for _, _, bag in places:
        _check_kind(names[id(bag)], bag)
    for dim in sorted({bag.embedding_dim for _, _, bag in places}):
        group = [i for i, (_, _, bag) in enumerate(places) if bag.embedding_dim == dim]
        specs = [
            TableSpec(names[id(places[i][2])], places[i][2].num_embeddings, places[i][2].mode) for i in group
        ]
        made = make_method(
            method,
            specs,
            dim,
            budget=int(full_bytes(specs, dim) / ratio),
            counts=None if counts is None else [counts[i] for i in group],
            seed=seed,
            **options,
        )
        made.sparse = all(places[i][2].sparse for i in group)
        device = places[group[0]][2].weight.device
        made.to(device)
        for table, i in enumerate(group):
            parent, key, bag = places[i]
            setattr(parent, key, CompressedBag(made, table, bag))
    return model


def methods_of(model: nn.Module) -> list[Method]:
    """The methods that hold a model's compressed tables."""
    return [module for module in model.modules() if isinstance(module, Method)]


def _check_kind(name: str, bag: nn.EmbeddingBag) -> None:
    if bag.mode not in ("sum", "mean"):
        raise ValueError(f"{name}: mode is {bag.mode!r}; only 'sum' and 'mean' can be compressed")
    if bag.max_norm is not None:
        raise ValueError(
            f"{name}: max_norm is {bag.max_norm}; compressed rows have no norm to cut, leave it out"
        )
    if bag.scale_grad_by_freq:
        raise ValueError(f"{name}: scale_grad_by_freq is not supported; leave it out")

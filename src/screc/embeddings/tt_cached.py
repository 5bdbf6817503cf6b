"""TT-Rec with its cache: the rows that are looked up most are held whole beside the tensor trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from screc.embeddings.budget import BudgetError
from screc.embeddings.cafe import SKETCH_BYTES, Cafe
from screc.embeddings.method import Brief, ByteCount, Footprint, Wanted, register
from screc.embeddings.tt_rec import TrainRows, TtRec
from screc.storage.layout import index_bytes

_ROUNDS = 4  # of fitting the cores to rows that come back


@register
class CachedTtRec(Cafe):
    """Tensor trains, and a cache of whole rows for the ids of large tables that are looked up most.

    A sketch counts look-ups; who is among the most frequent gets a row of the cache, which starts as the
    trains have it and is then trained by itself. A row that leaves the cache is **written back**: the cores
    are moved towards it, so that what it learned is not lost (the reference code drops it).

    Args:
        args, options: those of :class:`Cafe`, with no hashed rows.
        trains: the tensor trains, and the small tables, whole.
    """

    name = "tt-rec-cached"

    def __init__(self, *args: Any, trains: TtRec, **options: Any) -> None:
        super().__init__(*args, 0, importance="frequency", **options)
        self.trains = trains
        large = torch.tensor([isinstance(table, TrainRows) for table in trains.tables])
        self.register_buffer("_large", large, persistent=False)

    @classmethod
    def fit(
        cls,
        brief: Brief,
        *,
        cache_share: float = 0.1,
        whole_below: int = 10_000,
        num_cores: int = 3,
        **options: Any,
    ) -> CachedTtRec:
        """See :meth:`Method.fit`.

        Options: ``cache_share``, the part of the budget for cached rows and what finds them; ``whole_below``
        and ``num_cores`` of :class:`TtRec`; ``threshold`` and ``decay`` of :class:`Cafe`.
        """
        if not 0 < cache_share < 1:
            raise ValueError(f"cache_share must be between 0 and 1, got {cache_share}")
        cached_row = brief.row_bytes + SKETCH_BYTES
        num_cached = max(1, int(brief.budget * cache_share) // cached_row)
        rest = Brief(
            specs=brief.specs,
            embedding_dim=brief.embedding_dim,
            budget=max(0, brief.budget - num_cached * cached_row),
            counts=brief.counts,
            init_std=brief.init_std,
            generator=brief.generator,
        )
        try:
            trains = TtRec.fit(rest, whole_below=whole_below, num_cores=num_cores)
        except BudgetError as error:
            # The least budget whose share for the trains is enough.
            smallest = error.smallest_bytes + cached_row
            while (
                smallest - max(1, int(smallest * cache_share) // cached_row) * cached_row
                < error.smallest_bytes
            ):
                smallest += 1
            raise BudgetError.below(cls.name, brief.budget, smallest) from None
        return cls(
            brief.specs,
            brief.embedding_dim,
            num_cached,
            trains=trains,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        large = self._large[wanted.tables]
        self.note(whole[large], wanted.lookups[large])
        cached = torch.from_numpy(self._hot_rows(whole)).to(whole.device).long()
        inside, outside = (cached >= 0).nonzero()[:, 0], (cached < 0).nonzero()[:, 0]
        if not inside.numel():
            return self._from_trains(wanted)
        rows = self.weight.new_zeros(len(whole), self.embedding_dim)
        rows = rows.index_copy(0, inside, self.gather(self.weight, cached[inside]))
        if not outside.numel():
            return rows
        return rows.index_copy(0, outside, self._from_trains(self._part(wanted, outside)))

    def _part(self, wanted: Wanted, places: Tensor) -> Wanted:
        tables = wanted.tables[places]
        ends = torch.arange(self.num_tables + 1, device=tables.device)
        bounds = torch.searchsorted(tables, ends)
        return Wanted(wanted.ids[places], tables, tuple(bounds.tolist()), wanted.lookups[places])

    def _from_trains(self, wanted: Wanted) -> Tensor:
        self.trains.sparse = self.sparse
        return self.trains.rows(wanted)

    def _when_promoted(self, whole: Tensor) -> Tensor:
        order = whole.argsort()
        ordered = whole[order]
        tables = torch.bucketize(ordered, self._starts[1:], right=True)
        bounds = torch.searchsorted(ordered, self._starts).tolist()
        wanted = Wanted(ordered - self._starts[tables], tables, tuple(bounds), torch.ones_like(ordered))
        return torch.empty_like(self.weight[: len(whole)]).index_copy_(0, order, self._from_trains(wanted))

    def _given_back(self, ids: np.ndarray, rows: np.ndarray) -> None:
        whole = torch.from_numpy(ids).to(self.weight.device)
        order = whole.argsort()
        values = self.weight.detach()[torch.from_numpy(rows).long().to(whole.device)][order]
        tables = torch.bucketize(whole[order], self._starts[1:], right=True)
        for table in tables.unique().tolist():
            own = tables == table
            local = whole[order][own] - self._starts[table]
            write_back(self.trains.tables[table], local, values[own])

    def footprint(self) -> Footprint:
        base, cache = self.trains.footprint(), 4 * self.weight.numel()
        training = ByteCount(
            parameters=base.training.parameters + cache, sketch=SKETCH_BYTES * self._sketch.num_buckets
        )
        remap = index_bytes(max(1, sum(self.num_embeddings)), self.num_hot)
        return Footprint(training, ByteCount(parameters=base.serving.parameters + cache, remap=remap))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight, *self.trains.sparse_parameters()]


def write_back(table: nn.Module, ids: Tensor, rows: Tensor) -> None:
    """Move the cores of a table towards rows [n, d] of distinct ascending ids int64 [n].

    Gradient descent on the squared distance with Polyak's steps, which would remove a distance that is linear
    in them; a step that does not lessen it is halved.
    """
    cores = [parameter for parameter in table.parameters() if parameter.requires_grad]

    def distance() -> Tensor:
        return (table.rows(ids) - rows).square().sum()

    for _ in range(_ROUNDS):
        with torch.enable_grad():
            before = distance()
            gradients = torch.autograd.grad(before, cores)
        slope = sum(float(one.square().sum()) for one in gradients)
        if slope <= 1e-20:
            return
        step = float(before.detach()) / slope
        with torch.no_grad():
            for core, gradient in zip(cores, gradients, strict=True):
                core.sub_(gradient, alpha=step)
            while step > 1e-12 and not float(distance()) < float(before):
                for core, gradient in zip(cores, gradients, strict=True):
                    core.add_(gradient, alpha=step / 2)
                step /= 2

"""All embedding tables of a model, looked up together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.bags import check_offsets, gather_distinct, pool_bags, sum_bags
from screc.embeddings.banded import BandedTable
from screc.embeddings.contract import Pooling, TableModule
from screc.embeddings.full import FullTable
from screc.embeddings.tensor_train import TensorTrain
from screc.storage.layout import TableLayout


class EmbeddingCollection(nn.Module):
    """T tables of one dimension.

    The tables that are trained whole in float32 share one weight matrix, so that a batch costs one sort, one
    gather and one sparse gradient for all of them; :meth:`table` gives each as a view.

    Args:
        layouts: one per table; all of the same ``embedding_dim``.
        pooling: one per table.
        band_ids: for tables of several bands, by table number: the ids of every band but the last
            (:class:`BandedTable`).
        init_std: standard deviation of the entries of every row at the start; None leaves them unset.
        generator: source of the random numbers; torch's global one by default.

    Raises:
        ValueError: there are no tables, or dimensions, pooling or ``band_ids`` do not fit the layouts.
    """

    def __init__(
        self,
        layouts: Sequence[TableLayout],
        pooling: Sequence[Pooling],
        *,
        band_ids: Mapping[int, Sequence[np.ndarray]] | None = None,
        init_std: float | None = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not layouts:
            raise ValueError("layouts: expected at least one table, got none")
        for t, pool in enumerate(pooling):
            if pool not in ("sum", "mean"):
                raise ValueError(f"pooling[{t}] must be 'sum' or 'mean', got {pool!r}")
        if len(pooling) != len(layouts):
            raise ValueError(f"pooling: expected {len(layouts)} entries, one per table, got {len(pooling)}")
        dims = {layout.embedding_dim for layout in layouts}
        if len(dims) != 1:
            raise ValueError(f"layouts: all tables must have the same embedding_dim, got {sorted(dims)}")
        self.embedding_dim: int = dims.pop()
        self.layouts = tuple(layouts)
        self.pooling: tuple[Pooling, ...] = tuple(pooling)
        whole = [_is_whole(layout) for layout in layouts]
        self._fused = [t for t, is_whole in enumerate(whole) if is_whole]
        rows = [layouts[t].num_embeddings for t in self._fused]
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(rows, out=starts[1:])
        self._starts: list[int] = starts.tolist()
        self._rows_of = torch.tensor([layout.num_embeddings for layout in layouts])
        self._mean = torch.tensor([p == "mean" for p in pooling])
        weight = torch.empty(self._starts[-1], self.embedding_dim)
        if init_std is not None:
            weight.normal_(0.0, init_std, generator=generator)
        self.weight = nn.Parameter(weight)
        others: dict[str, TableModule] = {}
        for t, layout in enumerate(layouts):
            if whole[t]:
                continue
            if len(layout.bands) == 1 and layout.bands[0].tt is not None:
                others[str(t)] = TensorTrain(layout, pooling[t], init_std=init_std, generator=generator)
                continue
            ids = (band_ids or {}).get(t, [] if len(layout.bands) == 1 else None)
            if ids is None:
                raise ValueError(f"band_ids: table {t} ({layout.table}) has several bands; give their ids")
            others[str(t)] = BandedTable(layout, ids, pooling[t], init_std=init_std, generator=generator)
        self._others = nn.ModuleDict(others)

    @property
    def specs(self) -> tuple[TableSpec, ...]:
        """Name, rows and pooling of every table."""
        return tuple(
            TableSpec(layout.table, layout.num_embeddings, pooling)
            for layout, pooling in zip(self.layouts, self.pooling, strict=True)
        )

    @property
    def num_tables(self) -> int:
        """T."""
        return len(self.layouts)

    @property
    def num_embeddings(self) -> tuple[int, ...]:
        """Rows of each table."""
        return tuple(layout.num_embeddings for layout in self.layouts)

    @property
    def num_bytes(self) -> int:
        """Bytes of parameters and indices of all tables, without optimiser state."""
        return 4 * self.weight.numel() + sum(table.num_bytes for table in self._others.values())

    def table(self, index: int) -> TableModule:
        """Table ``index``; a table trained whole is a view of the shared weights."""
        if str(index) in self._others:
            return self._others[str(index)]
        place = self._fused.index(index)
        rows = self.weight.detach()[self._starts[place] : self._starts[place + 1]]
        return FullTable(self.layouts[index], self.pooling[index], weight=rows)

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Parameters for the table optimiser."""
        own = [self.weight] if self._fused else []
        return own + [p for table in self._others.values() for p in table.sparse_parameters()]

    def dense_parameters(self) -> list[nn.Parameter]:
        """Parameters of the tables for the optimiser of the MLPs (tensor-train cores)."""
        return [p for table in self._others.values() for p in table.dense_parameters()]

    def before_step(self, step: int) -> None:
        """To be called before every training step with its number in all runs, from 0."""
        for table in self._others.values():
            table.before_step(step)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Pooled rows of every sample and table.

        Args:
            ids: int64 [nnz], table by table.
            offsets: int64 [T * B + 1], table-major (:class:`screc.data.batch.Batch`).

        Returns:
            float32 [B, T, d].

        Raises:
            TypeError: ``ids`` or ``offsets`` is not int64.
            ValueError: a wrong shape, offset or id.
        """
        check_offsets(ids, offsets)
        size, rest = divmod(offsets.numel() - 1, self.num_tables)
        if rest:
            raise ValueError(
                f"offsets: expected a multiple of {self.num_tables} tables + 1 entries, got {offsets.numel()}"
            )
        bounds = offsets[::size] if size else offsets.expand(self.num_tables + 1)
        counts = bounds.diff()
        self._check_ids(ids, counts)
        if not self._others:
            starts = torch.repeat_interleave(torch.tensor(self._starts[:-1]), counts)
            return self._pool_fused(ids + starts, offsets, size).transpose(0, 1)
        pooled: list[Tensor | None] = [None] * self.num_tables
        begins = bounds.tolist()
        if self._fused:
            rows, lengths = [], []
            for place, t in enumerate(self._fused):
                rows.append(ids[begins[t] : begins[t + 1]] + self._starts[place])
                lengths.append(offsets[t * size : (t + 1) * size + 1].diff())
            own = torch.zeros(len(self._fused) * size + 1, dtype=torch.int64)
            torch.cumsum(torch.cat(lengths), 0, out=own[1:])
            for t, features in zip(
                self._fused, self._pool_fused(torch.cat(rows), own, size).unbind(), strict=True
            ):
                pooled[t] = features
        for key, table in self._others.items():
            t = int(key)
            own = offsets[t * size : (t + 1) * size + 1] - begins[t]
            pooled[t] = table(ids[begins[t] : begins[t + 1]], own)
        return torch.stack(pooled, dim=1)

    def _pool_fused(self, rows: Tensor, offsets: Tensor, size: int) -> Tensor:
        """Pooled features [tables, B, d] of the tables trained whole; ``rows`` are rows of the weight."""
        if torch.is_grad_enabled():
            distinct, inverse = torch.unique(rows, return_inverse=True)
            features = pool_bags(gather_distinct(self.weight, distinct), inverse, offsets)
        else:
            features = sum_bags(self.weight, rows, offsets)
        features = features.view(len(self._fused), size, self.embedding_dim)
        mean = self._mean[self._fused]
        if mean.any():
            lengths = offsets.diff().view(len(self._fused), size)
            features = features / torch.where(mean[:, None], lengths.clamp(min=1), 1)[:, :, None]
        return features

    def _check_ids(self, ids: Tensor, counts: Tensor) -> None:
        limits = torch.repeat_interleave(self._rows_of, counts)
        wrong = (ids < 0) | (ids >= limits)
        if wrong.any():
            where = int(wrong.nonzero()[0])
            t = int((counts.cumsum(0) <= where).sum())
            raise ValueError(
                f"ids[{where}] = {int(ids[where])} is out of range for table {t} "
                f"({self.layouts[t].table}) with {self.num_embeddings[t]} rows"
            )


def _is_whole(layout: TableLayout) -> bool:
    return len(layout.bands) == 1 and layout.bands[0].format == "fp32"

"""The tensor-train table: rows are products of one slice from each of a few small cores (TT-Rec)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from screc.embeddings.contract import Pooling, TableModule, copy_tensor
from screc.storage.layout import Band, TableLayout, TtShape

_THRESHOLD = 2.0
# P(X < -2) and E[x^2 | |x| > 2] of a standard Gaussian: the latter is 1 + 2 phi(2) / P(X > 2).
_TAIL = 0.5 * math.erfc(_THRESHOLD / math.sqrt(2))
_SECOND_MOMENT = 1 + _THRESHOLD * math.exp(-(_THRESHOLD**2) / 2) / math.sqrt(2 * math.pi) / _TAIL


class TensorTrain(TableModule):
    """A table of one tensor-train band (TT-Rec, arXiv 2101.11714, section 3).

    The cores are held slice first, [p_k, r_k, q_k * r_{k+1}], so that a batch gathers whole slices; they are
    stored as docs/format.md says, [r_k, p_k, q_k, r_{k+1}].

    Args:
        layout: a layout of one tt band.
        pooling: ``"sum"`` or ``"mean"``.
        init_std: standard deviation of the entries of the *rebuilt rows* at the start; None leaves the cores
            unset, to be loaded.
        generator: source of the random numbers; torch's global one by default.
    """

    def __init__(
        self,
        layout: TableLayout,
        pooling: Pooling = "sum",
        *,
        init_std: float | None = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout, pooling)
        if len(layout.bands) != 1 or layout.bands[0].tt is None:
            raise ValueError(f"table {layout.table}: TensorTrain takes a layout of one tt band")
        self.shape: TtShape = layout.bands[0].tt
        cores = []
        for k in range(self.shape.num_cores):
            before, rows, columns, after = self.shape.core_shape(k)
            cores.append(nn.Parameter(torch.empty(rows, before, columns * after)))
        self.cores = nn.ParameterList(cores)
        if init_std is not None:
            self._initialise(init_std, generator)

    @classmethod
    def layout_of(cls, table: str, num_embeddings: int, shape: TtShape) -> TableLayout:
        """The layout of a whole table in one tensor train."""
        band = Band(start=0, stop=num_embeddings, format="tt", memory="dram", tt=shape)
        return TableLayout(
            table=table, num_embeddings=num_embeddings, embedding_dim=shape.embedding_dim, bands=(band,)
        )

    def _initialise(self, std: float, generator: torch.Generator | None) -> None:
        """Sampled Gaussian (TT-Rec, section 3.3): core entries are Gaussian with |x| < 2 left out.

        Core entries near zero would make the distribution of their products peak at zero. An entry of a row
        sums prod(ranks) products of one entry per core, so its variance is prod(ranks) * (scale^2 *
        E[x^2])^cores; the scale is solved from that.
        """
        paths = math.prod(self.shape.ranks)
        scale = math.sqrt((std * std / paths) ** (1 / self.shape.num_cores) / _SECOND_MOMENT)
        with torch.no_grad():
            for core in self.cores:
                # Inverse transform of the tail; 1 - u is in (0, 1], which keeps ndtri finite.
                uniform = 1 - torch.rand(core.shape, dtype=torch.float64, generator=generator)
                sign = torch.randint(0, 2, core.shape, generator=generator) * 2 - 1
                core.copy_(-torch.special.ndtri(uniform * _TAIL) * sign * scale)

    @property
    def num_bytes(self) -> int:
        return 4 * self.shape.num_parameters

    def rows(self, ids: Tensor) -> Tensor:
        # Neighbouring ids share their leading digits: each distinct prefix is multiplied once.
        prefixes, parents = [ids], []
        for factor in self.shape.row_factors[:0:-1]:
            shorter, parent = torch.unique_consecutive(
                torch.div(prefixes[0], factor, rounding_mode="floor"), return_inverse=True
            )
            prefixes.insert(0, shorter)
            parents.insert(0, parent)
        product = self.cores[0].index_select(0, prefixes[0])
        product = product.reshape(-1, self.shape.col_factors[0], self.shape.ranks[1])
        columns = self.shape.col_factors[0]
        for k, parent in enumerate(parents, start=1):
            slices = self.cores[k].index_select(0, prefixes[k] % self.shape.row_factors[k])
            columns *= self.shape.col_factors[k]
            product = torch.bmm(product.index_select(0, parent), slices)
            product = product.reshape(-1, columns, self.shape.ranks[k + 1])
        return product.reshape(-1, self.embedding_dim)

    def _slices(self, k: int) -> Tensor:
        """Core k as a view [p_k, r_k, q_k, r_{k+1}]."""
        before, rows, columns, after = self.shape.core_shape(k)
        return self.cores[k].detach().view(rows, before, columns, after)

    def tensors(self) -> Mapping[str, np.ndarray]:
        return {
            f"band.0.tt.{k}": self._slices(k).transpose(0, 1).contiguous().numpy()
            for k in range(self.shape.num_cores)
        }

    def load(self, tensors: Mapping[str, np.ndarray]) -> None:
        for k in range(self.shape.num_cores):
            copy_tensor(self.layout.table, f"band.0.tt.{k}", tensors, self._slices(k).transpose(0, 1))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return []

    def dense_parameters(self) -> list[nn.Parameter]:
        return list(self.cores)

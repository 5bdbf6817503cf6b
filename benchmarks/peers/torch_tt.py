"""Tensor-train rows in PyTorch: batched matrix products over the slices of every look-up, as TT layers do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

# A chunk's largest tensor stays below this: twice as fast as 64 MiB, as the products stay in the caches; a
# whole batch's would take gigabytes at large TT ranks.
_CHUNK_BYTES = 4 << 20


class TorchTt:
    """Rows of three cores [r_k, p_k, q_k, r_(k+1)], rebuilt by ``torch.bmm``.

    Args:
        cores: float32; held slice by slice, [p_k, r_k, q_k * r_(k+1)], so that choosing slices copies rows.
    """

    def __init__(self, cores: Sequence[np.ndarray]) -> None:
        first, middle, last = (torch.from_numpy(np.ascontiguousarray(c.transpose(1, 0, 2, 3))) for c in cores)
        self.columns = tuple(core.shape[2] for core in (first, middle, last))
        self.rank = first.shape[3]
        self.next_rank = middle.shape[3]
        self.first = first.reshape(first.shape[0], self.columns[0], self.rank)
        self.middle = middle.reshape(middle.shape[0], self.rank, -1)
        self.last = last.reshape(last.shape[0], self.next_rank, self.columns[2])
        self.dim = self.columns[0] * self.columns[1] * self.columns[2]
        self.chunk = max(256, _CHUNK_BYTES // (4 * self.rank * self.columns[1] * self.next_rank))

    def direct(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [n, dim]: two products for every look-up."""
        rows = []
        for part in ids.split(self.chunk):
            prefix = part.div(len(self.last), rounding_mode="floor")
            rows.append(self._rows(self._products(prefix), part))
        return torch.cat(rows)

    def grouped(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [n, dim]: the first product once for every distinct pair of leading digits."""
        distinct, inverse = ids.div(len(self.last), rounding_mode="floor").unique(return_inverse=True)
        products = torch.cat([self._products(part) for part in distinct.split(self.chunk)])
        chunks = zip(ids.split(self.chunk), inverse.split(self.chunk), strict=True)
        return torch.cat([self._rows(products[place], part) for part, place in chunks])

    def distinct(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [n, dim]: as ``grouped``, of every distinct id once, then gathered."""
        once, inverse = ids.unique(return_inverse=True)
        return self.grouped(once).index_select(0, inverse)

    def _products(self, prefix: torch.Tensor) -> torch.Tensor:
        """[n, q_0 * q_1, r_2] of the first two cores."""
        second = len(self.middle)
        left = self.first[prefix.div(second, rounding_mode="floor")]
        return torch.bmm(left, self.middle[prefix % second]).view(len(prefix), -1, self.next_rank)

    def _rows(self, products: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return torch.bmm(products, self.last[ids % len(self.last)]).view(len(ids), self.dim)

"""Product codes that are learned with the rows: DPQ (arXiv 1908.09756) and MGQE (arXiv 2002.08530)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.budget import BudgetError
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, normal_rows, register
from screc.embeddings.per_table import PerTable, Rows, WholeRows

_CODEWORDS = 256
_COLD_CODEWORDS = 64
_CHUNK = 1 << 14


class CodedRows(Rows):
    """A row is a codeword for each of its parts, the nearest to the part of a row that is learned beside it.

    Look-ups give codewords; the gradient passes to the learned row (straight-through), and codewords follow
    the rows that chose them by :attr:`attraction`. When training ends the choices become codes and the
    learned rows go.

    Args:
        num_embeddings: rows.
        embedding_dim: length of a row.
        parts: of a row, a divisor of its length.
        hot: whether each row may choose from all codewords or from the first 64 only, bool [num_embeddings];
            None for all.
        init_std, generator: of the rows and codewords.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        parts: int,
        *,
        hot: Tensor | None,
        init_std: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.weight = normal_rows(num_embeddings, embedding_dim, init_std, generator)
        words = torch.empty(parts, _CODEWORDS, embedding_dim // parts)
        self.codewords = nn.Parameter(words.normal_(0.0, init_std, generator=generator))
        self.register_buffer("hot", hot)
        self.register_buffer("codes", torch.zeros(num_embeddings, parts, dtype=torch.uint8))
        self.register_buffer("finished", torch.tensor(False))
        self.attraction: Tensor | None = None

    def rows(self, ids: Tensor) -> Tensor:
        if bool(self.finished):
            return self._words(self.codes[ids].long()).flatten(1)
        rows = self.gather(self.weight, ids)
        words = self._words(self._nearest(rows.detach(), ids)).flatten(1)
        if torch.is_grad_enabled():
            self.attraction = (words - rows.detach()).square().sum(dim=1).mean()
        return rows + (words - rows).detach()

    def _words(self, codes: Tensor) -> Tensor:
        """Codewords [n, parts, d / parts] of codes int64 [n, parts]."""
        part = torch.arange(self.parts, device=codes.device)
        return self.codewords[part, codes]

    def _nearest(self, rows: Tensor, ids: Tensor) -> Tensor:
        found = []
        for piece, own in zip(rows.split(_CHUNK), ids.split(_CHUNK), strict=True):
            divided = piece.view(len(piece), self.parts, -1).transpose(0, 1)
            # |w|^2 - 2 r.w orders codewords as their distance to r does.
            words = self.codewords.detach()
            far = words.square().sum(dim=2)[:, None] - 2 * divided @ words.transpose(1, 2)
            if self.hot is not None:
                far[:, ~self.hot[own], _COLD_CODEWORDS:] = torch.inf
            found.append(far.argmin(dim=2).T)
        return torch.cat(found) if found else ids.new_zeros(0, self.parts)

    @torch.no_grad()
    def freeze(self) -> None:
        """Make the choices of all rows their codes."""
        every = torch.arange(len(self.codes), device=self.codes.device)
        for ids in every.split(1 << 18):
            self.codes[ids] = self._nearest(self.weight[ids], ids).to(torch.uint8)
        self.finished.fill_(True)

    def bytes_when_served(self) -> ByteCount:
        count = len(self.codes)
        words = 4 * self.codewords.numel()
        if self.hot is None:
            return ByteCount(parameters=words, codes=count * self.parts)
        num_hot = int(self.hot.sum())
        codes = num_hot * self.parts + -(-(count - num_hot) * self.parts * 6 // 8)
        return ByteCount(parameters=words, codes=codes, remap=-(-count // 8))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]


@register
class ProductCodes(PerTable):
    """DPQ-VQ: codes of 8 bits for as many parts as the budget allows; tables that fit stay whole.

    The least budget is one code a row and a codebook of 256 rows a table that is coded.
    """

    name = "dpq"
    trains_within_budget = False
    hot_share: float | None = None

    @classmethod
    def fit(cls, brief: Brief) -> Method:
        """See :meth:`Method.fit`; there are no options."""
        masks: list[Tensor | None] = [None] * len(brief.specs)
        if cls.hot_share is not None:
            counts = brief.known_counts(cls.name)
            masks = [_hottest(array, cls.hot_share) for array in counts]

        def coded(spec: TableSpec, mask: Tensor | None, parts: int) -> int:
            n = spec.num_embeddings
            words = 4 * _CODEWORDS * brief.embedding_dim
            if mask is None:
                return words + n * parts
            hot = int(mask.sum())
            return words + hot * parts + -(-(n - hot) * parts * 6 // 8) + -(-n // 8)

        sizes: list[int] = []
        for parts in (p for p in range(brief.embedding_dim, 0, -1) if brief.embedding_dim % p == 0):
            sizes = [coded(spec, mask, parts) for spec, mask in zip(brief.specs, masks, strict=True)]
            whole = [brief.row_bytes * spec.num_embeddings for spec in brief.specs]
            if sum(map(min, sizes, whole)) <= brief.budget:
                break
        else:
            raise BudgetError.below(cls.name, brief.budget, sum(map(min, sizes, whole)))
        tables: list[Rows] = []
        for spec, mask, size, full in zip(brief.specs, masks, sizes, whole, strict=True):
            if full <= size:
                tables.append(
                    WholeRows(spec.num_embeddings, brief.embedding_dim, brief.init_std, brief.generator)
                )
            else:
                tables.append(
                    CodedRows(
                        spec.num_embeddings,
                        brief.embedding_dim,
                        parts,
                        hot=mask,
                        init_std=brief.init_std,
                        generator=brief.generator,
                    )
                )
        return cls(brief.specs, brief.embedding_dim, tables)

    def extra_loss(self) -> Tensor | None:
        pulls = [table.attraction for table in self._coded() if table.attraction is not None]
        for table in self._coded():
            table.attraction = None
        return torch.stack(pulls).sum() if pulls else None

    def finish(self) -> None:
        for table in self._coded():
            table.freeze()

    def footprint(self) -> Footprint:
        serving = super().footprint().serving
        training = 4 * sum(p.numel() for p in self.parameters())
        codes = sum(table.codes.numel() for table in self._coded())
        return Footprint(ByteCount(parameters=training, codes=codes, remap=serving.remap), serving)

    def _coded(self) -> list[CodedRows]:
        return [table for table in self.tables if isinstance(table, CodedRows)]


@register
class MultiGranularCodes(ProductCodes):
    """MGQE: the hottest tenth of a table's ids choose from 256 codewords, the others from the first 64.

    Codes of cold ids take 6 bits; a bit an id says which it is.
    """

    name = "mgqe"
    hot_share = 0.1


def _hottest(counts: np.ndarray, share: float) -> Tensor:
    """Which ids are among the hottest, bool [n]."""
    hot = np.zeros(len(counts), bool)
    hot[np.argsort(-counts, kind="stable")[: int(share * len(counts))]] = True
    return torch.from_numpy(hot)

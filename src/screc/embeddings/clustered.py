"""Shared rows by clustering: a table trained whole is cut down to the centres of its clusters (k-means)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from screc.embeddings.budget import largest_within
from screc.embeddings.method import Brief, ByteCount, Footprint, Stage, normal_rows, register
from screc.embeddings.per_table import PerTable, Rows, WholeRows

_ROUNDS = 15
_MOST_FITTED = 1 << 17
_CHUNK = 1 << 14


def nearest_centres(rows: Tensor, centres: Tensor) -> Tensor:
    """The nearest of ``centres`` [k, d] to each of ``rows`` [n, d], int64 [n]."""
    norms = centres.square().sum(dim=1)
    parts = [(norms - 2 * piece @ centres.T).argmin(dim=1) for piece in rows.split(_CHUNK)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=rows.device)


def cluster_centres(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` centres of rows [n, d] by Lloyd's algorithm, from rows drawn at random.

    Of many rows a part is drawn. A centre that no row is nearest to takes the row farthest from its own.
    """
    drawn = torch.randperm(len(rows), generator=generator)[:_MOST_FITTED].to(rows.device)
    fitted = rows[drawn]
    centres = fitted[:count].clone()
    for _ in range(_ROUNDS):
        nearest = nearest_centres(fitted, centres)
        sizes = torch.bincount(nearest, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, nearest, fitted)
        empty = (sizes == 0).nonzero()[:, 0]
        far = (fitted - centres[nearest]).square().sum(dim=1)
        centres = sums / sizes.clamp(min=1)[:, None]
        if empty.numel():
            centres[empty] = fitted[far.topk(empty.numel()).indices]
    return centres


class ClusteredRows(Rows):
    """Every row, then the centre of its cluster.

    Args:
        num_embeddings: rows.
        embedding_dim: length of a row.
        clusters: centres that are kept.
        init_std, generator: of the rows.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        clusters: int,
        *,
        init_std: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.weight = normal_rows(num_embeddings, embedding_dim, init_std, generator)
        self.centres = nn.Parameter(torch.zeros(clusters, embedding_dim))
        self.register_buffer("codes", torch.zeros(num_embeddings, dtype=torch.int32))
        self.register_buffer("shared", torch.tensor(False))

    def rows(self, ids: Tensor) -> Tensor:
        if bool(self.shared):
            return self.gather(self.centres, self.codes[ids].long())
        return self.gather(self.weight, ids)

    @torch.no_grad()
    def share(self) -> None:
        """Replace rows by the centres of their clusters."""
        generator = torch.Generator().manual_seed(0)
        self.centres.copy_(cluster_centres(self.weight, len(self.centres), generator))
        self.codes.copy_(nearest_centres(self.weight, self.centres))
        self.shared.fill_(True)

    def bytes_when_served(self) -> ByteCount:
        return ByteCount(
            parameters=4 * self.centres.numel(), codes=code_bytes(len(self.codes), len(self.centres))
        )

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight, self.centres]


def code_bytes(count: int, clusters: int) -> int:
    """Bytes of ``count`` codes with just the bits that tell ``clusters`` apart."""
    return -(-count * max(1, math.ceil(math.log2(clusters))) // 8)


@register
class Clustered(PerTable):
    """Trains whole tables, clusters their rows and goes on with their centres; one cap for all tables."""

    name = "kmeans"
    trains_within_budget = False
    stages: ClassVar[tuple[Stage, ...]] = (Stage(name="train", share=0.7), Stage(name="share", share=0.3))

    @classmethod
    def fit(cls, brief: Brief) -> Clustered:
        """See :meth:`Method.fit`; there are no options."""
        sizes = brief.sizes

        def clusters(n: int, most: int) -> int:
            return max(2, min(most, n // 2))

        def taken(n: int, most: int) -> int:
            k = clusters(n, most)
            return min(brief.row_bytes * n, brief.row_bytes * k + code_bytes(n, k))

        most = largest_within(
            lambda most: sum(taken(n, most) for n in sizes),
            brief.budget,
            2,
            max(2, max(sizes)),
            method=cls.name,
        )
        tables: list[Rows] = []
        for n in sizes:
            if taken(n, most) == brief.row_bytes * n:
                tables.append(WholeRows(n, brief.embedding_dim, brief.init_std, brief.generator))
            else:
                tables.append(
                    ClusteredRows(
                        n,
                        brief.embedding_dim,
                        clusters(n, most),
                        init_std=brief.init_std,
                        generator=brief.generator,
                    )
                )
        return cls(brief.specs, brief.embedding_dim, tables)

    def begin(self, stage: Stage) -> None:
        if stage.name == "share":
            for table in self.tables:
                if isinstance(table, ClusteredRows):
                    table.share()

    def footprint(self) -> Footprint:
        serving = super().footprint().serving
        training = 4 * sum(p.numel() for p in self.parameters())
        codes = sum(4 * t.codes.numel() for t in self.tables if isinstance(t, ClusteredRows))
        return Footprint(ByteCount(parameters=training, codes=codes), serving)

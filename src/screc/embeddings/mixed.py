"""Mixed: one budget over bands of every table, few bits for many rows where that is worth most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from screc.data.log import TableSpec
from screc.embeddings.hashing import buckets
from screc.embeddings.method import Brief, ByteCount, Footprint, Method, Wanted, normal_rows, register
from screc.embeddings.mixed_bands import SCALE_BYTES, Bands, Worth, plan_bands, scale_groups
from screc.embeddings.rounding import largest_code

_SAMPLE = 1024  # rows of a group whose error is measured
_RANGES = torch.linspace(0.3, 1.0, 15)  # of the largest number, that the codes may reach
_FINE, _HEADROOM = 8, 1.25
_EARLY_STEPS, _EARLY_PERIOD = 400, 25


@register
class Mixed(Method):
    """The planner's bands as one trainable method: hot ids have rows of 8 or 4 bits, those in the middle of 4
    to 2, all others share rows by hash. Which, :func:`plan_bands` says from the look-ups of the ids.

    Look-ups see rows as their bits would hold them; the gradient passes the rounding unchanged, to full rows.
    The hottest 64 rows of a band share a scale, the next 256 one, and so on: rows of like look-ups are of
    like size. A scale of 8 bits reaches the largest number, with a quarter more to grow into while training;
    one of fewer bits is that of the least squared error. They are taken anew every ``period`` steps, and
    every 25 at first, while rows grow fast.

    Args:
        specs: the tables.
        embedding_dim: length of a row.
        bands: of each table.
        ids: int64, the ids of each table that have own rows, hottest first.
        period: steps between two choices of the scales.
        salt: of the hash.
        init_std, generator: of the rows.
    """

    name = "mixed"
    trains_within_budget = False

    def __init__(
        self,
        specs: Sequence[TableSpec],
        embedding_dim: int,
        bands: Sequence[Bands],
        ids: Sequence[np.ndarray],
        *,
        period: int = 100,
        salt: int = 0,
        init_std: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(specs, embedding_dim)
        if period < 1:
            raise ValueError(f"period must be at least 1 step, got {period}")
        self.bands, self.period = tuple(bands), period
        places = np.full(int(self._starts[-1]), -1, np.int32)
        groups: list[tuple[int, int]] = []  # bits and rows
        firsts, row = [], 0
        for start, own, hottest in zip(self._starts.tolist()[:-1], bands, ids, strict=True):
            places[start + hottest] = row + np.arange(len(hottest), dtype=np.int32)
            firsts.append(row + own.num_own)
            for bits, rows in (*own.own, (own.shared_bits, own.shared)):
                groups += [(bits, size) for size in scale_groups(rows)]
                row += rows
        sizes = torch.tensor([size for _, size in groups])
        bits = torch.tensor([bits for bits, _ in groups])
        self.register_buffer("salt", torch.tensor(salt))
        self.register_buffer("places", torch.from_numpy(places))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("_shared", torch.tensor([one.shared for one in bands]), persistent=False)
        self.register_buffer("_firsts", torch.tensor(firsts), persistent=False)
        self.register_buffer("_ends", sizes.cumsum(0), persistent=False)
        self.register_buffer("_bits", bits, persistent=False)
        tops = torch.tensor([largest_code(int(one)) for one in bits], dtype=torch.get_default_dtype())
        self.register_buffer("_tops", tops, persistent=False)
        # Few codes lie evenly around zero, none on it; of many, one is zero.
        self.register_buffer("_shift", torch.where(bits <= 3, 0.5, 0.0), persistent=False)
        self.weight = normal_rows(row, embedding_dim, init_std, generator)
        self.register_buffer("scales", torch.ones(len(groups)))
        self._choose_scales()

    @classmethod
    def fit(
        cls,
        brief: Brief,
        *,
        half_learned: float = 100.0,
        seldom: float = 1.5,
        formats: str = "8,4,3,2",
        **options: Any,
    ) -> Mixed:
        """See :meth:`Method.fit`; needs ``counts``.

        Options: ``half_learned`` and ``seldom``, see :class:`Worth`; ``formats``, the bits that own rows may
        have; ``period`` and ``salt``.
        """
        counts = brief.known_counts(cls.name)
        bands = plan_bands(
            counts,
            brief.embedding_dim,
            brief.budget,
            worth=Worth(half_learned=half_learned, seldom=seldom),
            formats=[int(bits) for bits in str(formats).split(",")],
            method=cls.name,
        )
        ids = [np.argsort(-one, kind="stable")[: own.num_own] for one, own in zip(counts, bands, strict=True)]
        options.setdefault("salt", brief.salt())
        return cls(
            brief.specs,
            brief.embedding_dim,
            bands,
            ids,
            init_std=brief.init_std,
            generator=brief.generator,
            **options,
        )

    def rows(self, wanted: Wanted) -> Tensor:
        whole = wanted.ids + self._starts[wanted.tables]
        own = self.places[whole].long()
        shared = self._firsts[wanted.tables] + buckets(
            whole, self._shared[wanted.tables].clamp(min=1), self.salt
        )
        places = torch.where(own >= 0, own, shared)
        rows = self.gather(self.weight, places)
        group = torch.bucketize(places, self._ends, right=True)
        rounded = self._rounded(rows.detach(), self.scales[group], group)
        return rows + (rounded - rows).detach() if torch.is_grad_enabled() else rounded

    def _rounded(self, rows: Tensor, scales: Tensor, groups: Tensor) -> Tensor:
        """Rows [..., n, d] as the bits of their groups hold them, with scales [..., n]."""
        top, shift = self._tops[groups][:, None], self._shift[groups][:, None]
        step = scales[..., None]
        codes = torch.clamp((rows / step - shift).round(), -top - 1, top)
        return (codes + shift) * step

    @torch.no_grad()
    def _choose_scales(self, headroom: float = _HEADROOM) -> None:
        first = 0
        for number, (end, bits) in enumerate(zip(self._ends.tolist(), self._bits.tolist(), strict=True)):
            rows, first = self.weight[first:end].detach(), end
            if not len(rows):
                continue
            top, shift = self._tops[number], self._shift[number]
            largest = rows.abs().amax().clamp(min=1e-8) / (top + shift)
            if bits >= _FINE:
                self.scales[number] = largest * headroom
                continue
            steps = (largest * _RANGES.to(largest))[:, None, None]
            rows = rows[:: max(1, len(rows) // _SAMPLE)]
            codes = torch.clamp((rows / steps - shift).round(), -top - 1, top)
            errors = ((codes + shift) * steps - rows).square().sum(dim=(1, 2))
            self.scales[number] = steps[errors.argmin(), 0, 0]

    def after_step(self) -> None:
        self.steps += 1
        step = int(self.steps)
        if step % self.period == 0 or (step <= _EARLY_STEPS and step % _EARLY_PERIOD == 0):
            self._choose_scales()

    def finish(self) -> None:
        self._choose_scales(headroom=1.0)

    def footprint(self) -> Footprint:
        rows = sum(one.row_bytes(self.embedding_dim) for one in self.bands)
        serving = ByteCount(parameters=rows, remap=sum(one.remap_bytes() for one in self.bands))
        training = ByteCount(
            parameters=4 * self.weight.numel() + SCALE_BYTES * self.scales.numel(),
            remap=4 * self.places.numel(),
        )
        return Footprint(training, serving)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.weight]

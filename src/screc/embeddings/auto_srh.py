"""AutoSrh: groups of ids by frequency share learned factors for every dimension, then numbers are cut."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from screc.embeddings.method import Brief, Stage, Wanted, register
from screc.embeddings.pruned import SparseRows


@register
class AutoSrh(SparseRows):
    """Factors of the dimensions, one set for each group of ids of like frequency (arXiv 2204.11349).

    Warm-up; then a search in which the factors are trained on validation samples, between 0 and 1; then
    training goes on with them fixed, and of ``row * factor`` the largest numbers stay. Groups are of nearly
    equal numbers of ids over all tables; ids of equal frequency stay together.

    Args:
        args, options: those of :class:`SparseRows`.
        groups: of every id over all tables, int64.
        shrink: by how much all factors fall at every step of the search, which is what makes them sparse.
    """

    name = "auto-srh"
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(name="warm-up", share=0.4),
        Stage(name="search", share=0.3, searches=True),
        Stage(name="train", share=0.3),
    )

    def __init__(self, *args: Any, groups: np.ndarray, shrink: float = 1e-4, **options: Any) -> None:
        super().__init__(*args, **options)
        if shrink < 0:
            raise ValueError(f"shrink must not be negative, got {shrink}")
        self.shrink = shrink
        self.register_buffer("groups", torch.from_numpy(groups.astype(np.int8)))
        self.register_buffer("searching", torch.tensor(False))
        self.register_buffer("finished", torch.tensor(False))
        self.factors = nn.Parameter(torch.ones(int(groups.max()) + 1, self.embedding_dim))

    @classmethod
    def fit(cls, brief: Brief, *, num_groups: int = 6, **options: Any) -> AutoSrh:
        """See :meth:`Method.fit`; needs ``counts``. Options: ``num_groups``, and those of the constructor."""
        if not 1 <= num_groups <= 127:
            raise ValueError(f"num_groups must be from 1 to 127, got {num_groups}")
        counts = np.concatenate(brief.known_counts(cls.name))
        made = super().fit(brief, groups=frequency_groups(counts, num_groups), **options)
        assert isinstance(made, cls)
        return made

    def begin(self, stage: Stage) -> None:
        self.searching.fill_(stage.searches)

    def rows(self, wanted: Wanted) -> Tensor:
        rows = super().rows(wanted)
        if bool(self.finished):
            return rows
        return rows * self.factors[self.groups[wanted.ids + self._starts[wanted.tables]].long()]

    def after_step(self) -> None:
        if bool(self.searching):
            with torch.no_grad():
                self.factors.sub_(self.shrink).clamp_(0.0, 1.0)

    def finish(self) -> None:
        if bool(self.finished):
            return
        with torch.no_grad():
            for rows, groups in zip(self.weight.split(1 << 18), self.groups.split(1 << 18), strict=True):
                rows.mul_(self.factors[groups.long()])
        self.finished.fill_(True)
        super().finish()

    def architecture_parameters(self) -> list[nn.Parameter]:
        return [self.factors]


def frequency_groups(counts: np.ndarray, number: int) -> np.ndarray:
    """Group of every id, 0 the most frequent; of nearly equal size, equal counts together."""
    _, inverse, sizes = np.unique(-counts, return_inverse=True, return_counts=True)
    before = np.cumsum(sizes) - sizes
    groups = np.minimum(before * number // len(counts), number - 1)
    # Where many ids are alike, groups are passed over.
    return np.unique(groups, return_inverse=True)[1][inverse]

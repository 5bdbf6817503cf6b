"""The fits of one table by a family of tensor trains: for planning, which asks what each would lose.

The fit of the largest TT rank is made from the start; the next smaller one begins at its truncation, and the
fits of a band that begins at a later rank begin at those of the band before. Each then takes a sweep or two
over the rows, which is a fraction of a fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from screc import _native

from .layout import TtShape
from .tt_band import RowSource
from .tt_fit import Fitting, TtFit, check_sweeps
from .tt_sweep import truncated


@dataclass(frozen=True, slots=True)
class FamilyMember:
    """One fit of a family: of a last band that begins at rank ``cut``, with TT rank ``tt_rank``."""

    cut: int
    tt_rank: int
    fit: TtFit


def fit_tt_family(
    rows: RowSource | np.ndarray,
    num_rows: int,
    embedding_dim: int,
    *,
    tt_ranks: Sequence[int],
    weights: np.ndarray | None = None,
    cuts: Sequence[int] = (0,),
    max_sweeps: int = 2,
    memory_bytes: int = 1 << 30,
    seed: int = 0,
    pool: _native.ThreadPool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[FamilyMember]:
    """Fits a table for every cut and TT rank, cuts outside and ascending, TT ranks inside and descending.

    A cut c stands for the last band of a table whose c heaviest rows are held elsewhere: slots are ids and
    the shape is :meth:`TtShape.balanced` for all of them, but these rows do not count.

    Args:
        rows: float32 [num_rows, embedding_dim] or a function, as :func:`~screc.storage.tt_fit.fit_tt` takes.
        num_rows: of the table.
        embedding_dim: of a row.
        tt_ranks: positive, in any order.
        weights: what each row counts, [num_rows]; rows of equal weight keep their order. 1 when None.
        cuts: numbers of rows left out, each below ``num_rows``, in any order.
        max_sweeps: over the whole table for a member; the first one takes up to twice as many.
        memory_bytes: as of ``fit_tt``, beside 16 bytes a row for their order.
        seed: of the start.
        pool: threads; one per core when None.
        progress: called with rows passed and rows to pass at most.

    Raises:
        ValueError: as ``fit_tt`` does, or no TT rank, no cut, one that is not positive or out of range, or a
            cut that leaves nothing that counts.
    """
    ranks, cuts = sorted(set(tt_ranks), reverse=True), sorted(set(cuts))
    if not ranks or ranks[-1] < 1:
        raise ValueError(f"tt_ranks: give one or more, all positive, got {list(tt_ranks)}")
    if not cuts or cuts[0] < 0 or cuts[-1] >= num_rows:
        raise ValueError(f"cuts: give one or more, from 0 to below the {num_rows} rows, got {list(cuts)}")
    check_sweeps(max_sweeps)
    shapes = {rank: TtShape.balanced(num_rows, embedding_dim, rank) for rank in ranks}
    left = np.ones(num_rows, np.float32) if weights is None else np.array(weights, np.float32)
    fitting = Fitting(rows, num_rows, shapes[ranks[0]], weights=left, memory_bytes=memory_bytes, pool=pool)
    fitting.expect_rows(progress, (len(cuts) * len(ranks) + 1) * max_sweeps * num_rows)
    order = np.argsort(-left, kind="stable")
    if not left[order[cuts[-1]]] > 0:
        raise ValueError(f"cuts: beyond the {cuts[-1]} heaviest rows none has a weight; leave this cut out")
    cores: dict[int, list[np.ndarray]] = {}
    for cut in cuts:
        left[order[:cut]] = 0
        fitting.band = fitting.band.without(left)
        for number, rank in enumerate(ranks):
            sweeps = max_sweeps
            if rank not in cores and number == 0:
                cores[rank], sweeps = fitting.start(seed), 2 * max_sweeps
            elif rank not in cores:
                cores[rank] = truncated(cores[ranks[number - 1]], shapes[rank].ranks)
            fit = fitting.swept(cores[rank], max_sweeps=sweeps, tolerance=0.01)
            cores[rank] = [core.astype(np.float64) for core in fit.cores]
            yield FamilyMember(cut, rank, fit)
    fitting.finish()


def tt_errors(
    rows: RowSource | np.ndarray,
    num_rows: int,
    embedding_dim: int,
    *,
    tt_ranks: Sequence[int],
    cuts: Sequence[int] = (0,),
    **arguments: object,
) -> np.ndarray:
    """The relative weighted error of every member of a family, float64 [cuts, TT ranks], both in the order
    given. Arguments and errors are those of :func:`fit_tt_family`."""
    members = fit_tt_family(rows, num_rows, embedding_dim, tt_ranks=tt_ranks, cuts=cuts, **arguments)  # type: ignore[arg-type]
    errors = {(member.cut, member.tt_rank): member.fit.error for member in members}
    return np.array([[errors[cut, rank] for rank in tt_ranks] for cut in cuts])

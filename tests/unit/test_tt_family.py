"""Families of tensor trains against fits of their own."""

from __future__ import annotations

import numpy as np
import pytest

from screc.storage.layout import TtShape
from screc.storage.tt_family import fit_tt_family, tt_errors
from screc.storage.tt_fit import fit_tt, rebuild_rows

ROWS, DIM = 900, 16
RANKS, CUTS = (2, 8, 4), (0, 300, 30)


def table_and_weights() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    table = rng.standard_normal((ROWS, 3)) @ rng.standard_normal((3, DIM))
    table += rng.standard_normal((ROWS, DIM))
    return table.astype(np.float32), rng.permutation(1 / (1 + np.arange(ROWS)))


def test_members_are_nearly_as_good_as_fits_of_their_own():
    table, weights = table_and_weights()
    order = np.argsort(-weights, kind="stable")
    errors = tt_errors(table, ROWS, DIM, tt_ranks=RANKS, cuts=CUTS, weights=weights)
    assert errors.shape == (3, 3)
    for c, cut in enumerate(CUTS):
        left = weights.copy()
        left[order[:cut]] = 0
        for r, rank in enumerate(RANKS):
            own = fit_tt(table, ROWS, TtShape.balanced(ROWS, DIM, rank), weights=left)
            assert errors[c, r] == pytest.approx(own.error, rel=0.05)
    by_rank = errors[:, np.argsort(RANKS)]
    assert (np.diff(by_rank, axis=1) < 0).all()  # a larger TT rank loses less


def test_members_come_with_their_cores():
    table, weights = table_and_weights()
    order = np.argsort(-weights, kind="stable")
    members = list(fit_tt_family(table.__getitem__, ROWS, DIM, tt_ranks=RANKS, cuts=CUTS, weights=weights))
    expected = [(cut, rank) for cut in sorted(CUTS) for rank in sorted(RANKS, reverse=True)]
    assert [(member.cut, member.tt_rank) for member in members] == expected
    for member in members:
        shape = TtShape.balanced(ROWS, DIM, member.tt_rank)
        assert [core.shape for core in member.fit.cores] == [shape.core_shape(k) for k in range(3)]
        kept = order[member.cut :]
        wrong = (rebuild_rows(member.fit.cores, 0, ROWS) - table)[kept]
        used = weights[kept]
        error = np.sqrt(used @ (wrong**2).sum(axis=1) / (used @ (table[kept] ** 2).sum(axis=1)))
        assert member.fit.error == pytest.approx(error, rel=1e-4)


def test_progress_ends_at_its_total():
    table, weights = table_and_weights()
    seen: list[tuple[int, int]] = []
    tt_errors(table, ROWS, DIM, tt_ranks=RANKS, weights=weights, progress=lambda *a: seen.append(a))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_bad_input_is_named():
    table, weights = table_and_weights()
    with pytest.raises(ValueError, match=r"tt_ranks: give one or more, all positive, got \[\]"):
        tt_errors(table, ROWS, DIM, tt_ranks=[])
    with pytest.raises(ValueError, match=r"tt_ranks: .* got \[4, 0\]"):
        tt_errors(table, ROWS, DIM, tt_ranks=[4, 0])
    for wrong in (ROWS, -1):
        with pytest.raises(ValueError, match="cuts: give one or more, from 0 to below the 900 rows"):
            tt_errors(table, ROWS, DIM, tt_ranks=[4], cuts=[wrong])
    weights[weights < np.sort(weights)[-10]] = 0
    with pytest.raises(ValueError, match="cuts: beyond the 10 heaviest rows none has a weight"):
        tt_errors(table, ROWS, DIM, tt_ranks=[4], cuts=[10], weights=weights)
    with pytest.raises(ValueError, match="max_sweeps: must be at least 1, got 0"):
        tt_errors(table, ROWS, DIM, tt_ranks=[4], max_sweeps=0)

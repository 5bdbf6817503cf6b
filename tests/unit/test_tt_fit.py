"""The streaming TT-SVD against the textbook one."""

import math

import numpy as np
import pytest

from screc.storage.layout import TtShape
from screc.storage.tt_fit import fit_tt, rebuild_rows


def textbook_tt_svd(tensor: np.ndarray, shape: TtShape) -> list[np.ndarray]:
    """Oseledets' algorithm with plain SVDs in float64 on the whole matrix [slots, dim]."""
    cores = shape.num_cores
    digits = tensor.reshape(*shape.row_factors, *shape.col_factors)
    rest = digits.transpose([axis for k in range(cores) for axis in (k, cores + k)]).astype(np.float64)
    result = []
    for k in range(cores - 1):
        rest = rest.reshape(shape.ranks[k] * shape.row_factors[k] * shape.col_factors[k], -1)
        u, s, v = np.linalg.svd(rest, full_matrices=False)
        rank = shape.ranks[k + 1]
        result.append(u[:, :rank].reshape(shape.core_shape(k)))
        rest = s[:rank, None] * v[:rank]
    return [*result, rest.reshape(shape.core_shape(cores - 1))]


def row_by_row(cores, slot: int, row_factors) -> np.ndarray:
    """One row by the definition in docs/format.md."""
    digits = np.unravel_index(slot, row_factors)
    row = np.ones((1, 1))
    for core, digit in zip(cores, digits, strict=True):
        row = np.tensordot(row, core[:, digit].astype(np.float64), axes=(-1, 0))
        row = row.reshape(-1, core.shape[3])
    return row[:, 0]


def random_cores(shape: TtShape, rng) -> list[np.ndarray]:
    return [
        rng.standard_normal(shape.core_shape(k)).astype(np.float32) / math.sqrt(shape.ranks[k])
        for k in range(shape.num_cores)
    ]


SHAPES = [
    TtShape(row_factors=(9, 14), col_factors=(2, 4), ranks=(1, 6, 1)),
    TtShape(row_factors=(5, 6, 7), col_factors=(2, 2, 3), ranks=(1, 5, 6, 1)),
    TtShape(row_factors=(20, 4, 2), col_factors=(4, 1, 2), ranks=(1, 7, 3, 1)),
    TtShape(row_factors=(3, 4, 3, 5), col_factors=(2, 2, 2, 2), ranks=(1, 4, 8, 4, 1)),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rebuild_rows_follows_the_definition(shape):
    cores = random_cores(shape, np.random.default_rng(0))
    start, stop = shape.num_rows // 5, shape.num_rows - 3
    expected = [row_by_row(cores, slot, shape.row_factors) for slot in range(start, stop)]
    np.testing.assert_allclose(rebuild_rows(cores, start, stop), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("max_gram_rows", [4096, 1], ids=["gram", "iterated"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_recovers_a_table_that_is_a_tensor_train(shape, max_gram_rows):
    cores = random_cores(shape, np.random.default_rng(1))
    table = rebuild_rows(cores, 0, shape.num_rows)
    fit = fit_tt(table.__getitem__, shape.num_rows, shape, max_gram_rows=max_gram_rows, chunk_bytes=4096)
    assert fit.error < 1e-5
    np.testing.assert_allclose(rebuild_rows(fit.cores, 0, shape.num_rows), table, atol=1e-4)
    assert [core.shape for core in fit.cores] == [shape.core_shape(k) for k in range(shape.num_cores)]
    assert all(core.dtype == np.float32 for core in fit.cores)


@pytest.mark.parametrize("max_gram_rows", [4096, 1], ids=["gram", "iterated"])
@pytest.mark.parametrize("missing", [0, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_that_of_the_textbook(shape, missing, max_gram_rows):
    rng = np.random.default_rng(2)
    rows = shape.num_rows - missing
    table = rng.standard_normal((rows, shape.embedding_dim)).astype(np.float32)
    table *= np.linspace(2, 0.1, rows, dtype=np.float32)[:, None]
    padded = np.concatenate([table, np.zeros((missing, shape.embedding_dim), np.float32)])
    reference = rebuild_rows(textbook_tt_svd(padded, shape), 0, rows)
    expected = np.linalg.norm(reference - table) / np.linalg.norm(table)
    fit = fit_tt(table.__getitem__, rows, shape, max_gram_rows=max_gram_rows, chunk_bytes=4096)
    assert fit.error == pytest.approx(expected, rel=0.01)
    rebuilt = rebuild_rows(fit.cores, 0, rows)
    assert fit.error == pytest.approx(np.linalg.norm(rebuilt - table) / np.linalg.norm(table), rel=1e-5)


def test_chunks_do_not_change_the_fit():
    shape = SHAPES[1]
    table = np.random.default_rng(3).standard_normal((205, 12)).astype(np.float32)
    fits = [fit_tt(table.__getitem__, 205, shape, chunk_bytes=size) for size in (1, 3000, 1 << 20)]
    for fit in fits[1:]:
        assert fit.error == pytest.approx(fits[0].error, rel=1e-9)


def test_unused_slots_are_left_out():
    shape = SHAPES[1]
    rng = np.random.default_rng(4)
    table = rng.standard_normal((210, 12)).astype(np.float32)
    unused = rng.random(210) < 0.3
    asked = []

    def rows(slots):
        asked.append(slots)
        return table[slots]

    fit = fit_tt(rows, 210, shape, used=lambda slots: ~unused[slots])
    assert not np.isin(np.concatenate(asked), np.flatnonzero(unused)).any()
    zeroed = table * ~unused[:, None]
    rebuilt = rebuild_rows(textbook_tt_svd(zeroed, shape), 0, 210)
    expected = np.linalg.norm((rebuilt - table)[~unused]) / np.linalg.norm(zeroed)
    assert fit.error == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("max_gram_rows", [4096, 1], ids=["gram", "iterated"])
def test_ranks_beyond_need_are_exact(max_gram_rows):
    shape = TtShape(row_factors=(3, 2, 2), col_factors=(2, 1, 2), ranks=(1, 9, 7, 1))
    table = np.random.default_rng(5).standard_normal((11, 4)).astype(np.float32)
    fit = fit_tt(table.__getitem__, 11, shape, max_gram_rows=max_gram_rows)
    assert fit.error < 1e-6


def test_a_band_of_zeros_fits_exactly():
    fit = fit_tt(lambda slots: np.zeros((len(slots), 12), np.float32), 200, SHAPES[1])
    assert fit.error == 0.0
    assert not rebuild_rows(fit.cores, 0, 200).any()


def test_progress_ends_at_its_total():
    seen = []
    table = np.ones((210, 12), np.float32)
    fit_tt(table.__getitem__, 210, SHAPES[1], chunk_bytes=4096, progress=lambda *a: seen.append(a))
    assert seen[-1] == (630, 630)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="row_factors address 210 rows, the band has 211"):
        fit_tt(lambda slots: np.zeros((len(slots), 12), np.float32), 211, SHAPES[1])
    with pytest.raises(ValueError, match=r"rows: expected \[210, 12\], got \[210, 11\]"):
        fit_tt(lambda slots: np.zeros((len(slots), 11), np.float32), 210, SHAPES[1])

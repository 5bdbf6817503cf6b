"""The weighted tensor-train fit against the textbook's TT-SVD and alternating least squares in NumPy."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from screc import _native
from screc.storage.layout import TtShape
from screc.storage.tt_fit import fit_tt, rebuild_rows
from screc.storage.tt_sweep import centred, left_orthogonal, truncated


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


def textbook_sweep(table, weights, cores, shape) -> list[np.ndarray]:
    """One sweep of weighted alternating least squares, core by core, each slice by a dense solve."""
    cores = [core.astype(np.float64) for core in cores]
    digits = np.array(np.unravel_index(np.arange(len(table)), shape.row_factors))
    for k in range(shape.num_cores):
        for digit in range(shape.row_factors[k]):
            slots = np.flatnonzero((digits[k] == digit) & (weights > 0))
            if not slots.size:
                continue
            blocks = []
            for slot in slots:  # the row as a linear function of the slice [r_k, q_k, r_{k+1}]
                left, right = np.ones((1, 1)), np.ones((1, 1))
                for core, d in zip(cores[:k], digits[:k, slot], strict=True):
                    left = np.einsum("ca,aqb->cqb", left, core[:, d]).reshape(-1, core.shape[3])
                for core, d in zip(cores[:k:-1], digits[:k:-1, slot], strict=True):
                    right = np.einsum("aqb,bc->aqc", core[:, d], right).reshape(core.shape[0], -1)
                eye = np.eye(shape.col_factors[k])
                design = np.einsum("ca,qp,bd->cqdapb", left, eye, right)
                blocks.append(design.reshape(shape.embedding_dim, -1) * math.sqrt(weights[slot]))
            target = (table[slots] * np.sqrt(weights[slots])[:, None]).reshape(-1)
            found = np.linalg.lstsq(np.concatenate(blocks), target, rcond=None)[0]
            cores[k][:, digit] = found.reshape(cores[k][:, digit].shape)
    return cores


def error_of(cores, table, weights) -> float:
    """The weighted relative error by its definition; rows of weight 0 may hold anything."""
    used = weights > 0
    rows, wrong = table[used], rebuild_rows(cores, 0, len(table))[used].astype(np.float64) - table[used]
    weights = weights[used].astype(np.float64)
    total = (weights * (rows.astype(np.float64) ** 2).sum(axis=1)).sum()
    return math.sqrt((weights * (wrong**2).sum(axis=1)).sum() / total)


def random_cores(shape: TtShape, rng) -> list[np.ndarray]:
    return [
        rng.standard_normal(shape.core_shape(k)).astype(np.float32) / math.sqrt(shape.ranks[k])
        for k in range(shape.num_cores)
    ]


def zipf(count: int, rng) -> np.ndarray:
    """Look-up counts in random order, some of them 0."""
    return rng.permutation(100 / (1 + np.arange(count)) ** 1.05).astype(np.int64)


SHAPES = [
    TtShape(row_factors=(9, 14), col_factors=(2, 4), ranks=(1, 6, 1)),
    TtShape(row_factors=(5, 6, 7), col_factors=(2, 2, 3), ranks=(1, 5, 6, 1)),
    TtShape(row_factors=(20, 4, 2), col_factors=(4, 1, 2), ranks=(1, 7, 3, 1)),
    TtShape(row_factors=(3, 4, 3, 5), col_factors=(2, 2, 2, 2), ranks=(1, 4, 8, 4, 1)),
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_isa = pytest.mark.parametrize("isa", _native.supported_isas())


@each_shape
def test_rebuild_rows_follows_the_definition(shape):
    cores = random_cores(shape, np.random.default_rng(0))
    start, stop = shape.num_rows // 5, shape.num_rows - 3
    expected = [row_by_row(cores, slot, shape.row_factors) for slot in range(start, stop)]
    np.testing.assert_allclose(rebuild_rows(cores, start, stop), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@each_shape
def test_recovers_a_table_that_is_a_tensor_train(shape, weighted):
    rng = np.random.default_rng(1)
    cores = random_cores(shape, rng)
    table = rebuild_rows(cores, 0, shape.num_rows)
    weights = 1 + zipf(len(table), rng) if weighted else None
    fit = fit_tt(table, shape.num_rows, shape, weights=weights, max_sweeps=100, tolerance=1e-4)
    assert fit.error < 1e-4
    np.testing.assert_allclose(rebuild_rows(fit.cores, 0, shape.num_rows), table, atol=1e-2)
    assert [core.shape for core in fit.cores] == [shape.core_shape(k) for k in range(shape.num_cores)]
    assert all(core.dtype == np.float32 for core in fit.cores)


@pytest.mark.parametrize("missing", [0, 4])
@each_shape
def test_without_weights_it_is_as_good_as_the_tt_svd(shape, missing):
    rng = np.random.default_rng(2)
    rows = shape.num_rows - missing
    table = rng.standard_normal((rows, shape.embedding_dim)).astype(np.float32)
    table *= np.linspace(2, 0.1, rows, dtype=np.float32)[:, None]
    padded = np.concatenate([table, np.zeros((missing, shape.embedding_dim), np.float32)])
    expected = error_of(textbook_tt_svd(padded, shape), table, np.ones(rows))
    fit = fit_tt(table, rows, shape, max_sweeps=20, tolerance=1e-3)
    assert fit.error < 1.02 * expected
    assert fit.error == pytest.approx(error_of(fit.cores, table, np.ones(rows)), rel=1e-5)


@each_shape
def test_weighted_sweeps_do_as_well_as_the_textbooks(shape):
    """From the textbook's start and with as many sweeps, a few per cent of what weighting gains at most."""
    rng = np.random.default_rng(3)
    table = rng.standard_normal((shape.num_rows, shape.embedding_dim)).astype(np.float32)
    weights = zipf(len(table), rng)
    assert (weights == 0).any()
    start = textbook_tt_svd(table, shape)
    unweighted, cores = error_of(start, table, weights), start
    for _ in range(6):
        cores = textbook_sweep(table, weights, cores, shape)
    expected = error_of(cores, table, weights)
    fit = fit_tt(table, len(table), shape, weights=weights, max_sweeps=12, tolerance=1e-4)
    assert fit.error == pytest.approx(error_of(fit.cores, table, weights), rel=1e-4)
    assert fit.error < expected + 0.1 * (unweighted - expected)


@each_shape
def test_no_sweep_raises_the_error(shape):
    rng = np.random.default_rng(4)
    table = rng.standard_normal((shape.num_rows, shape.embedding_dim)).astype(np.float32)
    fit = fit_tt(table, len(table), shape, weights=zipf(len(table), rng), max_sweeps=15, tolerance=-1.0)
    assert len(fit.history) == 15
    assert all(b <= a * (1 + 1e-5) for a, b in zip(fit.history, fit.history[1:], strict=False))
    assert fit.history[-1] < fit.history[0]


def test_rows_of_weight_zero_are_neither_asked_for_nor_counted():
    shape, rng = SHAPES[1], np.random.default_rng(5)
    table = rng.standard_normal((210, 12)).astype(np.float32)
    weights = zipf(210, rng)
    asked = []

    def rows(slots):
        asked.append(slots)
        return table[slots]

    fit = fit_tt(rows, 210, shape, weights=lambda slots: weights[slots])
    assert set(np.concatenate(asked).tolist()) == set(np.flatnonzero(weights).tolist())
    assert all((np.diff(slots) > 0).all() for slots in asked)
    unused = np.where(weights[:, None] > 0, table, np.nan)
    same = fit_tt(unused, 210, shape, weights=weights)
    assert same.error == pytest.approx(fit.error, rel=1e-6)
    np.testing.assert_array_equal(same.cores[0], fit.cores[0])


def test_answers_do_not_depend_on_how_rows_come_or_on_threads():
    """From an array or a function, kept or asked for again, in small pieces, on one thread or three."""
    shape = TtShape(row_factors=(13, 40, 16), col_factors=(2, 2, 4), ranks=(1, 4, 5, 1))
    rng = np.random.default_rng(6)
    table = rng.standard_normal((8300, 16)).astype(np.float32)
    weights = 1 + zipf(8300, rng)
    expected = fit_tt(table, 8300, shape, weights=weights)
    for rows in (table, table.__getitem__):
        for memory in (1 << 30, least_memory(rows, 8300, shape) + (1 << 19)):
            fit = fit_tt(rows, 8300, shape, weights=weights, memory_bytes=memory)
            assert fit.error == pytest.approx(expected.error, rel=0.02)
    for threads in (1, 3):
        fit = fit_tt(table, 8300, shape, weights=weights, pool=_native.ThreadPool(threads))
        np.testing.assert_array_equal(fit.cores[1], expected.cores[1])


def least_memory(rows, num_rows: int, shape: TtShape) -> int:
    with pytest.raises(ValueError, match="memory_bytes: fitting this band takes at least") as refused:
        fit_tt(rows, num_rows, shape, memory_bytes=1)
    return int(str(refused.value).split("at least ")[1].split(",")[0])


def test_a_band_larger_than_its_memory_is_fitted_within_it():
    """NumPy's part of it, as tracemalloc sees; the process as a whole is measured in the benchmark."""
    shape = TtShape(row_factors=(60, 60, 60), col_factors=(4, 4, 4), ranks=(1, 4, 4, 1))

    def rows(slots):
        return np.sin(slots[:, None] * 0.01 + np.arange(64)).astype(np.float32)

    least = least_memory(rows, shape.num_rows, shape)
    assert least < shape.num_rows * 256 / 4
    tracemalloc.start()
    fit_tt(rows, shape.num_rows, shape, memory_bytes=least, max_sweeps=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < least
    with pytest.raises(ValueError, match=f"at least {least}, got {least - 1}"):
        fit_tt(rows, shape.num_rows, shape, memory_bytes=least - 1)


def test_ranks_beyond_need_are_exact():
    shape = TtShape(row_factors=(3, 2, 2), col_factors=(2, 1, 2), ranks=(1, 9, 7, 1))
    table = np.random.default_rng(7).standard_normal((11, 4)).astype(np.float32)
    assert fit_tt(table, 11, shape, max_sweeps=20).error < 1e-3


def test_a_band_of_zeros_fits_exactly():
    fit = fit_tt(lambda slots: np.zeros((len(slots), 12), np.float32), 200, SHAPES[1])
    assert fit.error == 0.0
    assert not rebuild_rows(fit.cores, 0, 200).any()


def test_one_row_with_a_weight():
    table = np.random.default_rng(8).standard_normal((210, 12)).astype(np.float32)
    weights = np.zeros(210)
    weights[77] = 3
    assert fit_tt(table, 210, SHAPES[1], weights=weights).error < 1e-3


def test_progress_ends_at_its_total():
    seen = []
    fit_tt(np.ones((210, 12), np.float32), 210, SHAPES[1], progress=lambda *a: seen.append(a))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len({total for _, total in seen}) == 1


def test_it_can_be_interrupted():
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_tt(np.ones((210, 12), np.float32), 210, SHAPES[1], progress=interrupt)


def test_bad_input_is_named():
    table = np.ones((210, 12), np.float32)
    with pytest.raises(ValueError, match="row_factors address 210 rows, the band has 211"):
        fit_tt(np.zeros((211, 12), np.float32), 211, SHAPES[1])
    with pytest.raises(ValueError, match=r"rows: expected \[210, 12\], got \[210, 11\]"):
        fit_tt(lambda slots: np.zeros((len(slots), 11), np.float32), 210, SHAPES[1])
    with pytest.raises(ValueError, match=r"rows: expected \[210, 12\], got \[209, 12\]"):
        fit_tt(table[1:], 210, SHAPES[1])
    with pytest.raises(TypeError, match="rows: expected a C-contiguous float32 array, got float64"):
        fit_tt(table.astype(np.float64), 210, SHAPES[1])
    with pytest.raises(ValueError, match="a band has at least 1 row, got 0"):
        fit_tt(table[:0], 0, SHAPES[1])
    with pytest.raises(ValueError, match="max_sweeps: must be at least 1, got 0"):
        fit_tt(table, 210, SHAPES[1], max_sweeps=0)
    for value in (np.nan, np.inf):
        wrong = table.copy()
        wrong[123, 4] = value
        with pytest.raises(ValueError, match=f"slot 123 holds {value}"):
            fit_tt(wrong, 210, SHAPES[1])
        with pytest.raises(ValueError, match=f"slot 123 holds {value}"):
            fit_tt(wrong.__getitem__, 210, SHAPES[1])
    wrong[123, 4] = 1e30
    with pytest.raises(ValueError, match="slot 123 holds numbers too large to be squared"):
        fit_tt(wrong, 210, SHAPES[1])
    for value, said in ((-1.0, "-1.0"), (np.nan, "nan"), (np.inf, "inf")):
        weights = np.ones(210)
        weights[57] = value
        with pytest.raises(ValueError, match=f"weights: slot 57 has {said}"):
            fit_tt(table, 210, SHAPES[1], weights=weights)
    with pytest.raises(ValueError, match="weights: all are 0"):
        fit_tt(table, 210, SHAPES[1], weights=np.zeros(210))
    with pytest.raises(ValueError, match=r"weights: expected shape \[210\], got \[209\]"):
        fit_tt(table, 210, SHAPES[1], weights=np.ones(209))
    with pytest.raises(ValueError, match=r"weights: expected shape \[\d+\], got \[1\]"):
        fit_tt(table, 210, SHAPES[1], weights=lambda slots: np.ones(1))


@each_shape
def test_gauges_change_cores_and_not_rows(shape):
    cores = [core.astype(np.float64) for core in random_cores(shape, np.random.default_rng(9))]
    expected = rebuild_rows(cores, 0, shape.num_rows)
    for changed in (left_orthogonal(cores), centred(cores), truncated(cores, shape.ranks)):
        np.testing.assert_allclose(rebuild_rows(changed, 0, shape.num_rows), expected, atol=1e-9)
    for core in left_orthogonal(cores)[:-1]:
        columns = core.reshape(-1, core.shape[3])
        np.testing.assert_allclose(columns.T @ columns, np.eye(core.shape[3]), atol=1e-6)


def test_truncation_is_near_the_best():
    shape = SHAPES[1]
    cores = [core.astype(np.float64) for core in random_cores(shape, np.random.default_rng(10))]
    table = rebuild_rows(cores, 0, shape.num_rows)
    small = shape.model_copy(update={"ranks": (1, 3, 3, 1)})
    best = error_of(textbook_tt_svd(table, small), table, np.ones(len(table)))
    kept = truncated(cores, small.ranks)
    assert [core.shape for core in kept] == [small.core_shape(k) for k in range(3)]
    assert error_of(kept, table, np.ones(len(table))) < math.sqrt(2) * best

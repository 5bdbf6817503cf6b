"""The native contractions of a tensor-train fit, on every instruction set, against NumPy in float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from screc import _native

each_isa = pytest.mark.parametrize("isa", _native.supported_isas())


@dataclass(frozen=True)
class Case:
    """Lefts, middles and slices; columns of the cores before the last two, of those two; TT ranks."""

    lefts: int
    middles: int
    slices: int
    columns: tuple[int, int, int]
    inner: int
    rank: int

    @property
    def prefixes(self) -> int:
        return self.lefts * self.middles

    @property
    def left_columns(self) -> int:
        return self.columns[0] * self.columns[1]


CASES = [
    Case(3, 4, 5, (2, 3, 4), 3, 5),
    Case(5, 7, 9, (4, 4, 4), 8, 8),
    Case(2, 200, 3, (4, 4, 4), 4, 6),  # several pieces
    Case(6, 5, 60, (2, 2, 4), 6, 16),
    Case(2, 3, 100, (1, 5, 5), 1, 7),  # columns that are no power of two
    Case(2, 3, 4, (1, 2, 20), 2, 4),  # more of them than a vector holds
    Case(2, 9, 30, (1, 3, 1), 2, 9),
    Case(12, 2, 6, (4, 4, 8), 20, 20),  # unknowns in several blocks
    Case(4, 2, 5, (2, 8, 16), 4, 40),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@dataclass(frozen=True)
class Data:
    rows: np.ndarray
    weights: np.ndarray
    last: np.ndarray  # [rank, slices, columns]
    left: np.ndarray  # [lefts, before, inner]
    middle: np.ndarray  # [inner, middles, own, rank]


def data_of(case: Case) -> Data:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    slots = case.prefixes * case.slices
    weights = rng.random(slots).astype(np.float32)
    weights[rng.random(slots) < 0.2] = 0
    rows = random(slots, case.left_columns * case.columns[2])
    rows[weights == 0] = np.nan  # they are not looked at
    return Data(
        rows,
        weights,
        random(case.rank, case.slices, case.columns[2]),
        random(case.lefts, case.columns[0], case.inner),
        random(case.inner, case.middles, case.columns[1], case.rank),
    )


def shaped(case: Case, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Rows [prefixes, slices, left columns, columns] and weights [prefixes, slices] in float64."""
    rows = np.where(data.weights[:, None] > 0, data.rows, 0).astype(np.float64)
    weights = data.weights.astype(np.float64).reshape(case.prefixes, case.slices)
    return rows.reshape(case.prefixes, case.slices, case.left_columns, case.columns[2]), weights


def triangles(matrices: np.ndarray) -> np.ndarray:
    return matrices[..., *np.tril_indices(matrices.shape[-1])]


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@each_isa
@each_case
def test_projection(isa, case):
    data, pool = data_of(case), _native.ThreadPool(2)
    z = np.full((case.prefixes, case.left_columns, case.rank), np.nan, np.float32)
    e = np.full((case.prefixes, case.rank * (case.rank + 1) // 2), np.nan, np.float32)
    projection = _native.RowProjection(data.last, case.left_columns, pool, isa)
    energy = projection.add(data.rows, np.arange(case.prefixes), data.weights, z, e)
    rows, weights = shaped(case, data)
    last = data.last.astype(np.float64)
    close(z, np.einsum("xi,xicj,bij->xcb", weights, rows, last, optimize=True))
    close(e, triangles(np.einsum("xi,aij,bij->xab", weights, last, last, optimize=True)))
    assert energy == pytest.approx(np.einsum("xi,xicj,xicj->", weights, rows, rows), rel=1e-6)


def normal_equations(isa, case, data, threads=2) -> tuple[np.ndarray, np.ndarray]:
    pool = _native.ThreadPool(threads)
    correlation = _native.RowCorrelation(data.left, data.middle, case.slices, case.columns[2], pool, isa)
    whole, cut = case.lefts // 2, case.lefts // 2 * case.middles * case.slices
    prefixes = np.arange(case.prefixes)
    correlation.add(data.rows, prefixes[: whole * case.middles], data.weights[:cut], 0, 0, case.middles)
    for middle in range(case.middles):  # the rest one middle at a time
        some = prefixes[whole * case.middles :].reshape(-1, case.middles)[:, middle].copy()
        weights = data.weights.reshape(-1, case.slices)[some].reshape(-1)
        correlation.add(data.rows, some, weights, whole, middle, 1)
    right = np.empty((case.slices, case.rank, case.columns[2]))
    normal = np.empty((case.slices, case.rank * (case.rank + 1) // 2))
    correlation.sums(right, normal)
    return right, normal


@each_isa
@each_case
def test_correlation(isa, case):
    data = data_of(case)
    right, normal = normal_equations(isa, case, data)
    rows, weights = shaped(case, data)
    product = np.einsum("mca,aijb->micjb", data.left.astype(np.float64), data.middle.astype(np.float64))
    product = product.reshape(case.prefixes, case.left_columns, case.rank)
    close(right, np.einsum("xi,xicj,xca->iaj", weights, rows, product, optimize=True))
    close(normal, triangles(np.einsum("xi,xca,xcb->iab", weights, product, product, optimize=True)))


def test_sums_do_not_depend_on_the_threads():
    data = data_of(CASES[2])
    one, three = (normal_equations(None, CASES[2], data, threads) for threads in (1, 3))
    np.testing.assert_array_equal(one[0], three[0])
    np.testing.assert_array_equal(one[1], three[1])


@dataclass(frozen=True)
class Middle:
    """What slices are solved from: e [lefts, middles, rank, rank], z [lefts, middles, C, Q, rank]."""

    e: np.ndarray
    z: np.ndarray

    def objective(self, case: Case, left: np.ndarray, slices: np.ndarray) -> np.ndarray:
        """Of every slice, by the definition."""
        product = np.einsum("mca,iajb->micjb", left.astype(np.float64), slices.astype(np.float64))
        square = np.einsum("micja,miab,micjb->i", product, self.e, product, optimize=True)
        return square - 2 * np.einsum("micjb,micjb->i", product, self.z)


def middle_of(case: Case) -> Middle:
    rng = np.random.default_rng(1)
    roots = rng.standard_normal((case.lefts, case.middles, case.rank, 2 * case.rank))
    shape = (case.lefts, case.middles, case.columns[0], case.columns[1], case.rank)
    z = rng.standard_normal(shape).astype(np.float32)
    return Middle(
        (roots @ roots.swapaxes(-1, -2)).astype(np.float32).astype(np.float64), z.astype(np.float64)
    )


def solve(isa, case, left, middle, slices) -> tuple[np.ndarray, np.ndarray]:
    e_out = np.zeros((case.lefts, case.inner, case.inner))
    z_out = np.zeros((case.lefts, case.columns[0], case.inner))
    solver = _native.MiddleSolver(left, case.columns[1], case.rank, _native.ThreadPool(2), isa)
    e = np.ascontiguousarray(triangles(middle.e), np.float32)
    solver.solve(e, middle.z.astype(np.float32), slices, e_out, z_out)
    return e_out, z_out


@each_isa
@each_case
def test_middle_slices(isa, case):
    """A round lowers the objective, many find the least, and what is passed on is that of the slices."""
    data, middle = data_of(case), middle_of(case)
    slices = np.ascontiguousarray(data.middle.transpose(1, 0, 2, 3))
    before = middle.objective(case, data.left, slices)
    e_out, z_out = solve(isa, case, data.left, middle, slices)
    after = middle.objective(case, data.left, slices)
    assert (after < before).all()
    exact = slices.astype(np.float64)
    close(e_out, np.einsum("iajr,mirs,ibjs->mab", exact, middle.e, exact, optimize=True))
    close(z_out, np.einsum("micjb,iajb->mca", middle.z, exact, optimize=True))
    for _ in range(40):
        solve(isa, case, data.left, middle, slices)
        before, after = after, middle.objective(case, data.left, slices)
        assert (after <= before + 1e-5 * np.abs(before)).all()
    grams = np.einsum("mca,mcb->mab", data.left, data.left, dtype=np.float64)
    for i in range(case.middles):
        size = case.inner * case.rank
        matrix = np.einsum("mab,mrs->arbs", grams, middle.e[:, i], optimize=True).reshape(size, size)
        right = np.einsum("mca,mcjb->abj", data.left, middle.z[:, i], dtype=np.float64).reshape(size, -1)
        least = -(right * np.linalg.lstsq(matrix, right, rcond=1e-9)[0]).sum()
        assert after[i] == pytest.approx(least, rel=1e-3)


@each_isa
def test_slices_that_nothing_depends_on_become_zero(isa):
    case = CASES[0]
    data, middle = data_of(case), middle_of(case)
    middle.e[:, 1] = middle.z[:, 1] = 0
    slices = np.ascontiguousarray(data.middle.transpose(1, 0, 2, 3))
    solve(isa, case, data.left, middle, slices)
    assert not slices[1].any()
    assert slices[0].any()


def test_bad_arguments_are_named():
    case = CASES[0]
    data, pool = data_of(case), _native.ThreadPool(1)
    z = np.empty((case.prefixes, case.left_columns, case.rank), np.float32)
    e = np.empty((case.prefixes, 15), np.float32)
    projection = _native.RowProjection(data.last, case.left_columns, pool)
    prefixes = np.arange(case.prefixes)
    with pytest.raises(ValueError, match=r"rows: expected shape \[60, 24\], got \[60, 23\]"):
        projection.add(np.ascontiguousarray(data.rows[:, 1:]), prefixes, data.weights, z, e)
    with pytest.raises(ValueError, match=r"weights: expected shape \[60\], got \[59\]"):
        projection.add(data.rows, prefixes, data.weights[:-1], z, e)
    ones = np.ones_like(data.weights)
    for bad in (12, -1):
        with pytest.raises(ValueError, match=rf"prefixes\[11\] = {bad} has a weight where there is no row"):
            projection.add(data.rows, np.append(prefixes[:-1], bad), ones, z, e)
    with pytest.raises(TypeError, match="weights: expected dtype float32"):
        projection.add(data.rows, prefixes, ones.astype(np.float64), z, e)
    with pytest.raises(ValueError, match=r"middle: expected first dimension 3, got \[2, 4, 3, 5\]"):
        _native.RowCorrelation(data.left, data.middle[:2].copy(), case.slices, 4, pool)
    correlation = _native.RowCorrelation(data.left, data.middle, case.slices, 4, pool)
    with pytest.raises(ValueError, match="the prefixes are not all the cores'"):
        correlation.add(data.rows, prefixes, data.weights, 1, 0, case.middles)

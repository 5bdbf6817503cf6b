"""Alternating least squares on the cores of a tensor train, the rows of a band weighted.

One sweep lowers sum_i w_i |row_i - tt(i)|^2 core by core (Holtz, Rohwedder, Schneider, SIAM J. Sci. Comput.
34(2), 2012, with weights): the last core being fixed, the rows contracted with it are a far smaller problem
for all cores before it, so that a sweep of any number of cores is two passes over the rows. Each step solves
its least-squares problem, or lowers it, so that a sweep never raises the error but by rounding.

Cores are float64 [r_k, p_k, q_k, r_{k+1}] here; sums over rows are taken natively, in float32 over some
hundred rows and in float64 beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from screc import _native

from .layout import TtShape
from .tt_band import Chunk, TtRows

_RIDGE = 1e-7  # of the trace, towards the core as it was


@dataclass(frozen=True, slots=True)
class Energy:
    """Sums over the rows of a band: of weight * |row|^2, and of weight * |row - rebuilt row|^2."""

    total: float
    wrong: float

    @property
    def error(self) -> float:
        """Relative root of the weighted mean square; 0 for rows of zeros rebuilt as zeros."""
        wrong = max(self.wrong, 0.0)
        return math.sqrt(wrong / self.total) if self.total > 0 else math.sqrt(wrong)


class Sweeper:
    """Sweeps over the cores of one band.

    Args:
        band: the rows and weights.
        pool: the threads.
        memory: float32 [n], where contracted rows are held: those of as many middles at once as find room.
        progress: called with the rows passed since the last call.
    """

    def __init__(
        self,
        band: TtRows,
        pool: _native.ThreadPool,
        memory: np.ndarray,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.band, self.pool, self.memory, self.progress = band, pool, memory, progress

    def sweep(self, cores: Sequence[np.ndarray]) -> tuple[list[np.ndarray], Energy]:
        """One sweep: better cores, in another gauge, and what is left wrong.

        Raises:
            ValueError: a row or a weight is not finite, or a weight negative.
        """
        cores = centred(cores)
        total = self._solve_before_last(cores)
        cores = left_orthogonal(cores)
        return cores, Energy(total, total + self._solve_last(cores))

    def _solve_before_last(self, cores: list[np.ndarray]) -> float:
        """Improves all cores but the last, in place; returns the energy of the rows."""
        band = self.band
        rank, _, own, after = cores[-2].shape
        left = _product(cores[:-2])
        before = left.shape[1]
        projection = _native.RowProjection(_float32(cores[-1][..., 0]), before * own, self.pool)
        solver = _native.MiddleSolver(left, own, after, self.pool)
        e_left = np.zeros((band.lefts, rank, rank))
        z_left = np.zeros((band.lefts, before, rank))
        total = 0.0
        for first, stop in self._blocks(cores):
            middles = stop - first
            z, e = self._contracted(band.lefts * middles, before * own, after)
            for chunk in band.chunks(first, stop):
                at = chunk.left * middles + chunk.middle - first
                end = at + len(chunk.places)
                energy = projection.add(chunk.rows, chunk.places, chunk.weights, z[at:end], e[at:end])
                if not math.isfinite(energy):
                    self._refuse(chunk)
                total += energy
                self._advance(chunk)
            slices = _float32(cores[-2][:, first:stop].transpose(1, 0, 2, 3))
            shaped = z.reshape(band.lefts, middles, before, own, after)
            solver.solve(e.reshape(band.lefts, middles, -1), shaped, slices, e_left, z_left)
            cores[-2][:, first:stop] = slices.transpose(1, 0, 2, 3)
        self._solve_front(cores[:-2], e_left, z_left)
        return total

    def _blocks(self, cores: Sequence[np.ndarray]) -> list[tuple[int, int]]:
        """The middles whose contracted rows find room at once, as ranges."""
        most = self.memory.size // contracted_floats(self.band.shape, cores[-2].shape[-1])
        middles = self.band.middles
        return [(first, min(first + most, middles)) for first in range(0, middles, most)]

    def _contracted(self, prefixes: int, columns: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Memory for z [prefixes, columns, rank] and e [prefixes, rank (rank + 1) / 2]."""
        cut, pairs = prefixes * columns * rank, rank * (rank + 1) // 2
        z, e = self.memory[:cut], self.memory[cut : cut + prefixes * pairs]
        return z.reshape(prefixes, columns, rank), e.reshape(prefixes, pairs)

    def _solve_front(self, cores: list[np.ndarray], e: np.ndarray, z: np.ndarray) -> None:
        """Improves these cores, in place, given what the rows are contracted to beyond them."""
        if not cores:
            return
        rank, factor, own, after = cores[-1].shape
        left = _product(cores[:-1])
        lefts, before = left.shape[:2]
        e_left, z_left = np.zeros((lefts, rank, rank)), np.zeros((lefts, before, rank))
        slices = _float32(cores[-1].transpose(1, 0, 2, 3))
        triangles = _float32(e.reshape(lefts, factor, after, after)[:, :, *np.tril_indices(after)])
        z = _float32(z.reshape(lefts, factor, before, own, after))
        _native.MiddleSolver(left, own, after, self.pool).solve(triangles, z, slices, e_left, z_left)
        cores[-1][...] = slices.transpose(1, 0, 2, 3)
        self._solve_front(cores[:-1], e_left, z_left)

    def _solve_last(self, cores: list[np.ndarray]) -> float:
        """Solves for the last core, in place; returns <tt, tt> - 2 <tt, rows>."""
        band = self.band
        rank, slices, columns, _ = cores[-1].shape
        correlation = _native.RowCorrelation(
            _product(cores[:-2]), _float32(cores[-2]), slices, columns, self.pool
        )
        for first, stop in self._blocks(cores):
            for chunk in band.chunks(first, stop):
                correlation.add(
                    chunk.rows, chunk.places, chunk.weights, chunk.left, chunk.middle, chunk.middles
                )
                self._advance(chunk)
        right = np.empty((slices, rank, columns))
        packed = np.empty((slices, rank * (rank + 1) // 2))
        correlation.sums(right, packed)
        normal = np.empty((slices, rank, rank))
        row, column = np.tril_indices(rank)
        normal[:, row, column] = normal[:, column, row] = packed
        core = cores[-1][..., 0].transpose(1, 0, 2)  # [slices, rank, columns], a view
        trace = np.trace(normal, axis1=1, axis2=2)
        core[trace <= 0] = 0  # nothing depends on it
        ridge = np.where(trace > 0, _RIDGE * trace, 1.0)[:, None, None] * np.eye(rank)
        core += np.linalg.solve(normal + ridge, right - normal @ core)
        return float(((normal @ core - 2 * right) * core).sum())

    def _advance(self, chunk: Chunk) -> None:
        if self.progress is not None:
            self.progress(chunk.weights.size)

    def _refuse(self, chunk: Chunk) -> None:
        """Names the row for which the energy of a chunk is no number."""
        rows, used = self.band.rows(chunk)
        slots = self.band.slots(chunk)[used]
        finite = np.isfinite(rows)
        if finite.all():
            slot = slots[np.argmax(np.abs(rows).max(axis=1))]
            raise ValueError(
                f"rows: slot {slot} holds numbers too large to be squared in float32; scale them"
            )
        row = int(np.argmin(finite.all(axis=1)))
        value = rows[row, np.argmin(finite[row])]
        raise ValueError(f"rows: slot {slots[row]} holds {value}; leave it out by weight 0, or train again")


def contracted_floats(shape: TtShape, rank: int) -> int:
    """Float32 numbers that the contracted rows of one middle are, the last TT rank being ``rank``."""
    columns = math.prod(shape.col_factors[:-1])
    return math.prod(shape.row_factors[:-2]) * (columns * rank + rank * (rank + 1) // 2)


def left_orthogonal(cores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same tensor train, every core but the last with orthonormal columns."""
    cores = list(cores)
    for k in range(len(cores) - 1):
        _move_right(cores, k)
    return cores


def centred(cores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same tensor train, the cores before the last two with orthonormal columns, the last with rows."""
    cores = list(cores)
    for k in range(len(cores) - 2):
        _move_right(cores, k)
    rank, rows, columns, after = cores[-1].shape
    last = cores[-1].reshape(rank, -1)
    factor = _factor(last @ last.T)
    cores[-1] = np.linalg.solve(factor, last).reshape(rank, rows, columns, after)
    cores[-2] = cores[-2] @ factor
    return cores


def truncated(cores: Sequence[np.ndarray], ranks: Sequence[int]) -> list[np.ndarray]:
    """The tensor train of smaller TT ranks nearest to this one, up to a factor sqrt(cores - 1) (Oseledets,
    SIAM J. Sci. Comput. 33, 2011, algorithm 2).

    Args:
        cores: of any gauge.
        ranks: [cores + 1], each at most that of ``cores``.
    """
    cores = left_orthogonal(cores)
    for k in range(len(cores) - 1, 0, -1):
        rank, rows, columns, after = cores[k].shape
        core = cores[k].reshape(rank, -1)
        _, vectors = np.linalg.eigh(core @ core.T)  # ascending
        kept = vectors[:, ::-1][:, : ranks[k]]
        cores[k] = (kept.T @ core).reshape(ranks[k], rows, columns, after)
        cores[k - 1] = cores[k - 1] @ kept
    return cores


def _move_right(cores: list[np.ndarray], k: int) -> None:
    """Gives core k orthonormal columns, as far as they are independent, and core k + 1 what that takes."""
    rank, rows, columns, after = cores[k].shape
    core = cores[k].reshape(-1, after)
    factor = _factor(core.T @ core)
    cores[k] = np.linalg.solve(factor, core.T).T.reshape(rank, rows, columns, after)
    cores[k + 1] = np.tensordot(factor.T, cores[k + 1], 1)


def _factor(gram: np.ndarray) -> np.ndarray:
    """The lower triangle L with L L^T = gram, or a little more where that is singular."""
    scale = float(np.trace(gram)) or 1.0
    return np.linalg.cholesky(gram + 1e-13 * scale * np.eye(len(gram)))


def _product(cores: Sequence[np.ndarray]) -> np.ndarray:
    """The product of leading cores, float32 [all their rows, all their columns, rank]; [1, 1, 1] of none."""
    product = np.ones((1, 1, 1))
    for core in cores:
        product = np.einsum("mca,aijb->micjb", product, core, optimize=True)
        lefts, rows, before, own, rank = product.shape
        product = product.reshape(lefts * rows, before * own, rank)
    return _float32(product)


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)

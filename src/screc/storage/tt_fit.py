"""TT-SVD of a band of rows in bounded memory.

The truncated tensor-train decomposition of Oseledets (SIAM J. Sci. Comput. 33, 2011, algorithm 1) for the
tensor whose mode k pairs row digit i_k with column digit j_k (TT-Rec, arXiv 2101.11714, section 3). The rows
are only ever seen in chunks: the first cut, whose matrix is the whole band, comes from its Gram matrix (or,
where that would be large, from a subspace iteration over passes through the rows); what is left
after projection is smaller by p_0 q_0 / r_1 and is cut in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .layout import TtShape

# Rows of a float64 Gram matrix that is still cheap to hold and to diagonalise (128 MiB, tens of seconds).
_MAX_GRAM_ROWS = 4096
_CHUNK_BYTES = 32 << 20

RowSource = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class TtFit:
    """Cores float32 [r_k, p_k, q_k, r_{k+1}] and the relative Frobenius error of the rows they rebuild."""

    cores: tuple[np.ndarray, ...]
    error: float


def fit_tt(
    rows: RowSource,
    num_rows: int,
    shape: TtShape,
    *,
    used: Callable[[np.ndarray], np.ndarray] | None = None,
    max_gram_rows: int = _MAX_GRAM_ROWS,
    chunk_bytes: int = _CHUNK_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> TtFit:
    """Fits tensor-train cores of the given shape to rows.

    Peak memory is a few ``chunk_bytes``, the Gram matrix, and the projected band of
    ``4 * r_1 * num_rows * dim / (p_0 * q_0)`` bytes.

    Args:
        rows: gives the rows of slots int64 [n] as float32 [n, dim]; called with slots below ``num_rows``,
            several times each.
        num_rows: slots of the band; slots that ``shape`` addresses beyond them count as zero rows in the fit
            and not at all in the error.
        shape: the cores' shape.
        used: tells of slots int64 [n] which (bool [n]) hold a row; the others count as zero rows in the fit
            and not at all in the error. All do when None.
        max_gram_rows: largest first-cut matrix (p_0 q_0 rows) that goes through its Gram matrix.
        chunk_bytes: size of the pieces in which rows are asked for.
        progress: called with slots done and slots to do, over all passes.

    Raises:
        ValueError: ``shape`` addresses fewer than ``num_rows`` rows, or the rows have another dimension.
    """
    if shape.num_rows < num_rows:
        raise ValueError(f"shape: row_factors address {shape.num_rows} rows, the band has {num_rows}")
    source = _Unfolding(rows, num_rows, shape, used, chunk_bytes, progress)
    first = shape.row_factors[0] * shape.col_factors[0]
    gram = first <= max_gram_rows
    iterations = 8
    source.expect_passes(3 if gram else 3 + iterations)
    if gram:
        basis = _gram_basis(source, shape.ranks[1])
    else:
        basis = _iterated_basis(source, shape.ranks[1], iterations)
    basis = _padded(basis, shape.ranks[1])
    cores = [basis.astype(np.float32)]
    rest = np.empty((shape.ranks[1], source.num_columns), np.float32)
    for columns, chunk in source.chunks():
        rest[:, columns] = basis.T @ chunk
    for core in range(1, shape.num_cores - 1):
        rest = rest.reshape(shape.ranks[core] * shape.row_factors[core] * shape.col_factors[core], -1)
        basis = _padded(_leading_basis(rest, shape.ranks[core + 1]), shape.ranks[core + 1])
        cores.append(basis.astype(np.float32))
        rest = _project(basis, rest)
    cores.append(rest)
    shaped = tuple(np.ascontiguousarray(c.reshape(shape.core_shape(k))) for k, c in enumerate(cores))
    return TtFit(shaped, _error(source, shaped))


def rebuild_rows(cores: tuple[np.ndarray, ...] | list[np.ndarray], start: int, stop: int) -> np.ndarray:
    """The rows of slots [start, stop), float32 [stop - start, dim].

    Consecutive slots share all but the last core, so that most of the work is one matrix product.
    """
    last = cores[-1]
    rank, factor, columns, _ = last.shape
    first_prefix, last_prefix = start // factor, -(-stop // factor)
    digits = np.arange(first_prefix, last_prefix)
    left: np.ndarray | None = None
    radix = math.prod(core.shape[1] for core in cores[:-1])
    for core in cores[:-1]:
        radix //= core.shape[1]
        slices = core[:, digits // radix % core.shape[1]].transpose(1, 0, 2, 3)  # [n, r, q, r']
        if left is None:
            left = slices[:, 0]
        else:
            left = left @ slices.reshape(len(digits), core.shape[0], -1)
            left = left.reshape(len(digits), -1, core.shape[3])
    assert left is not None  # a shape has two cores or more
    width = left.shape[1]
    rows = left.reshape(-1, rank) @ last.reshape(rank, factor * columns)
    rows = rows.reshape(len(digits), width, factor, columns).transpose(0, 2, 1, 3)
    offset = first_prefix * factor
    return rows.reshape(-1, width * columns)[start - offset : stop - offset]


class _Unfolding:
    """The band as the first cut's matrix [p_0 q_0, (slots / p_0) (dim / q_0)], in pieces of its columns.

    Columns run in the order (i_1, ..., j_1, ...) within a piece; over the whole they are put where TT-SVD's
    next unfolding expects them, (i_1, j_1, i_2, j_2, ...).
    """

    def __init__(
        self,
        rows: RowSource,
        num_rows: int,
        shape: TtShape,
        used: Callable[[np.ndarray], np.ndarray] | None,
        chunk_bytes: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.rows, self.num_rows, self.shape, self.used = rows, num_rows, shape, used
        self.chunk_bytes, self.progress = chunk_bytes, progress
        self.minor = math.prod(shape.row_factors[1:])  # slots that share a first digit
        self.right = shape.embedding_dim // shape.col_factors[0]
        self.num_columns = self.minor * self.right
        self._done = self._to_do = 0

    def expect_passes(self, passes: int) -> None:
        """Says how many times the rows will be read, for the progress reports."""
        self._to_do = passes * self.num_rows

    def fetch(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows float32 [n, dim] of slots, zero where there is none, and whether there is one."""
        there = slots < self.num_rows
        if self.used is not None:
            there[there] = self.used(slots[there])
        dim = self.shape.embedding_dim
        found = self.rows(slots[there]) if there.any() else np.empty((0, dim), np.float32)
        if found.shape != (int(there.sum()), dim):
            raise ValueError(f"rows: expected [{int(there.sum())}, {dim}], got {list(found.shape)}")
        if self.progress is not None:
            self._done += int((slots < self.num_rows).sum())
            self.progress(min(self._done, self._to_do), self._to_do)
        if there.all():
            return found, there
        rows = np.zeros((len(slots), self.shape.embedding_dim), np.float32)
        rows[there] = found
        return rows, there

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pieces of the matrix, float64 [p_0 q_0, columns], each with the columns' places."""
        shape = self.shape
        head, head_columns = shape.row_factors[0], shape.col_factors[0]
        step = max(1, self.chunk_bytes // (8 * head * shape.embedding_dim))
        for start in range(0, self.minor, step):
            minor = np.arange(start, min(start + step, self.minor))
            slots = (np.arange(head)[:, None] * self.minor + minor).reshape(-1)
            rows, _ = self.fetch(slots)
            piece = rows.reshape(head, len(minor), head_columns, self.right).transpose(0, 2, 1, 3)
            yield self._places(minor), piece.reshape(head * head_columns, -1).astype(np.float64)

    def _places(self, minor: np.ndarray) -> np.ndarray:
        """Where the columns of slots (i_1, i_2, ..) and dims (j_1, j_2, ..) stand in (i_1, j_1, i_2, ..)."""
        rows, columns = self.shape.row_factors[1:], self.shape.col_factors[1:]
        weight = math.prod(rows) * math.prod(columns)
        row_radix, column_radix = math.prod(rows), math.prod(columns)
        right = np.arange(self.right)
        places = np.zeros((len(minor), self.right), np.int64)
        for p, q in zip(rows, columns, strict=True):
            row_radix, column_radix = row_radix // p, column_radix // q
            weight //= p
            places += (minor // row_radix % p * weight)[:, None]
            weight //= q
            places += right // column_radix % q * weight
        return places.reshape(-1)


def _gram_basis(source: _Unfolding, rank: int) -> np.ndarray:
    """Leading left singular vectors of the band, float64 [p_0 q_0, rank], from its Gram matrix."""
    size = source.shape.row_factors[0] * source.shape.col_factors[0]
    gram = np.zeros((size, size))
    for _, chunk in source.chunks():
        gram += chunk @ chunk.T
    return _top_eigenvectors(gram, rank)


def _iterated_basis(source: _Unfolding, rank: int, iterations: int) -> np.ndarray:
    """The same by block subspace iteration with Rayleigh-Ritz (Halko et al., SIAM Review 53, 2011, section
    4.5); each iteration is one pass over the rows."""
    size = source.shape.row_factors[0] * source.shape.col_factors[0]
    width = min(size, 2 * rank + 8)
    block = np.linalg.qr(np.random.default_rng(0).standard_normal((size, width)))[0]
    for _ in range(iterations):
        image = np.zeros_like(block)
        for _, chunk in source.chunks():
            image += chunk @ (chunk.T @ block)
        block = np.linalg.qr(image)[0]
    small = np.zeros((width, width))
    for _, chunk in source.chunks():
        coefficients = block.T @ chunk
        small += coefficients @ coefficients.T
    return block @ _top_eigenvectors(small, rank)


def _leading_basis(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Leading left singular vectors of a float32 matrix in memory, float64 [rows, rank].

    The Gram matrix of the shorter side is taken in float64. From the right side the basis is that of A V,
    made orthonormal by QR, which also holds where singular values vanish.
    """
    rows, columns = matrix.shape
    if rows <= columns:
        gram = np.zeros((rows, rows))
        step = max(1, _CHUNK_BYTES // (8 * rows))
        for start in range(0, columns, step):
            piece = matrix[:, start : start + step].astype(np.float64)
            gram += piece @ piece.T
        return _top_eigenvectors(gram, rank)
    gram = np.zeros((columns, columns))
    step = max(1, _CHUNK_BYTES // (8 * columns))
    for start in range(0, rows, step):
        piece = matrix[start : start + step].astype(np.float64)
        gram += piece.T @ piece
    right = _top_eigenvectors(gram, rank)
    image = np.concatenate(
        [matrix[start : start + step].astype(np.float64) @ right for start in range(0, rows, step)]
    )
    return np.linalg.qr(image)[0]


def _project(basis: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """basis^T matrix as float32, summed in float64 piece by piece."""
    result = np.empty((basis.shape[1], matrix.shape[1]), np.float32)
    step = max(1, _CHUNK_BYTES // (8 * matrix.shape[0]))
    for start in range(0, matrix.shape[1], step):
        result[:, start : start + step] = basis.T @ matrix[:, start : start + step].astype(np.float64)
    return result


def _top_eigenvectors(gram: np.ndarray, rank: int) -> np.ndarray:
    _, vectors = np.linalg.eigh(gram)  # ascending
    return np.ascontiguousarray(vectors[:, ::-1][:, :rank])


def _padded(basis: np.ndarray, rank: int) -> np.ndarray:
    """Zero columns for a TT rank above the rank that an unfolding can have."""
    return np.pad(basis, ((0, 0), (0, rank - basis.shape[1])))


def _error(source: _Unfolding, cores: tuple[np.ndarray, ...]) -> float:
    """Relative Frobenius error over the slots that hold a row; 0 for a band of zeros rebuilt as zeros."""
    wrong = total = 0.0
    step = max(1, source.chunk_bytes // (4 * source.shape.embedding_dim))
    for start in range(0, source.num_rows, step):
        stop = min(start + step, source.num_rows)
        rows, there = source.fetch(np.arange(start, stop))
        rebuilt = rebuild_rows(cores, start, stop)
        difference = np.subtract(rows, rebuilt, dtype=np.float64)[there]
        wrong += float(np.vdot(difference, difference))
        total += float(np.einsum("ij,ij->", rows, rows, dtype=np.float64))
    return math.sqrt(wrong / total) if total > 0 else math.sqrt(wrong)

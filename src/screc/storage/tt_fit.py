"""Fitting a tensor train to a band of rows, weighted by what each row counts, in bounded memory.

The tensor has mode k pair row digit i_k with column digit j_k (TT-Rec, arXiv 2101.11714, section 3); the fit
minimises sum_i w_i |row_i - tt(i)|^2. A randomised TT-SVD of a sample of the band (Halko, Martinsson, Tropp,
SIAM Review 53, 2011, section 4.5: a few rounds of subspace iteration at a larger rank, which are unweighted
sweeps of :mod:`~screc.storage.tt_sweep`, then truncation) gives the start; weighted sweeps over the sample,
which is an eighth of the band, come near the answer; sweeps over the band finish it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from screc import _native

from .layout import TtShape
from .tt_band import RowSource, TtBand, TtRows, TtSample, WeightSource
from .tt_sweep import Energy, Sweeper, contracted_floats, truncated

# Of the band's prefixes, those a sample holds; and the rows below which the band is its own sample.
_SAMPLE_SHARE, _SAMPLE_ROWS = 8, 1 << 17
_OVERSAMPLING = 8  # TT ranks beyond those wanted, at the start
_START_SWEEPS, _SAMPLE_SWEEPS = 2, 2
# Of rows between two reports of progress, and of those asked for at once at most.
_CHUNK_BYTES, _COPIED_BYTES = 256 << 20, 16 << 20
# Below this error what rounding leaves of the sums is no longer it; the rows are rebuilt and compared.
_SMALL_ERROR = 1e-2


@dataclass(frozen=True, slots=True)
class TtFit:
    """A fitted tensor train.

    Attributes:
        cores: float32 [r_k, p_k, q_k, r_{k+1}].
        error: relative error of the rows they rebuild, sqrt(sum w |row - rebuilt|^2 / sum w |row|^2).
        history: the error after each sweep over the whole band, never rising but by rounding.
    """

    cores: tuple[np.ndarray, ...]
    error: float
    history: tuple[float, ...]


def fit_tt(
    rows: RowSource | np.ndarray,
    num_rows: int,
    shape: TtShape,
    *,
    weights: WeightSource | np.ndarray | None = None,
    memory_bytes: int = 1 << 30,
    max_sweeps: int = 6,
    tolerance: float = 0.01,
    seed: int = 0,
    pool: _native.ThreadPool | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TtFit:
    """Fits tensor-train cores of the given shape to rows.

    The answer depends on the rows, the weights and the seed; not on the threads, and on ``memory_bytes`` only
    by rounding and, where it is short, by a smaller sample at the start.

    Args:
        rows: float32 [num_rows, dim], or a function that gives the rows of slots int64 [n] as float32 [n,
            dim]; it is called with ascending slots below ``num_rows`` whose weight is not 0, many times.
        num_rows: slots of the band; slots that ``shape`` addresses beyond them do not count.
        shape: the cores' shape.
        weights: what each row counts, such as its look-ups: numbers [num_rows], or a function that gives them
            for slots int64 [n]. Rows of weight 0 do not count. 1 for every row when None.
        memory_bytes: what the fit may hold, beside ``rows`` and ``weights`` where these are arrays. Rows from
            a function are kept for the next pass as far as this goes.
        max_sweeps: sweeps over the whole band, of two passes each.
        tolerance: a sweep that lowers the error by a smaller share is the last one.
        seed: of the start.
        pool: threads; one per core when None.
        progress: called with rows passed and rows to pass at most.

    Raises:
        ValueError: ``shape`` addresses fewer than ``num_rows`` rows, the rows have another dimension, a row
            is not finite, a weight is negative or not finite, all weights are 0, or ``memory_bytes`` is not
            enough; the message says how many are.
        TypeError: rows that are not float32.
    """
    check_sweeps(max_sweeps)
    fitting = Fitting(rows, num_rows, shape, weights=weights, memory_bytes=memory_bytes, pool=pool)
    fitting.expect_rows(progress, max_sweeps * num_rows)
    fit = fitting.swept(fitting.start(seed), max_sweeps=max_sweeps, tolerance=tolerance)
    fitting.finish()
    return fit


def check_sweeps(max_sweeps: int) -> None:
    """Raises unless there is a sweep to make."""
    if max_sweeps < 1:
        raise ValueError(f"max_sweeps: must be at least 1, got {max_sweeps}")


def rebuild_rows(cores: Sequence[np.ndarray], start: int, stop: int) -> np.ndarray:
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


class Fitting:
    """A band with the threads and the memory to fit it in; arguments as of :func:`fit_tt`, ``shape`` with the
    largest TT ranks that will be asked for."""

    def __init__(
        self,
        rows: RowSource | np.ndarray,
        num_rows: int,
        shape: TtShape,
        *,
        weights: WeightSource | np.ndarray | None,
        memory_bytes: int,
        pool: _native.ThreadPool | None,
    ) -> None:
        self.pool = _native.ThreadPool(0) if pool is None else pool
        copies = not isinstance(rows, np.ndarray)
        budget = _Budget(num_rows, shape, memory_bytes, self.pool, copies=copies)
        self.band = TtBand(
            rows, weights, num_rows, shape, chunk_bytes=budget.chunk_bytes, kept_bytes=budget.kept_bytes
        )
        self._sample_middles = budget.sample_middles
        self._memory = _native.empty(4 * budget.contracted_floats).view(np.float32)
        self._report: Callable[[int, int], None] | None = None
        self._done = self._to_do = 0

    def expect_rows(self, report: Callable[[int, int], None] | None, swept: int) -> None:
        """Reports progress from here on: rows passed, of those of a start and ``swept`` in sweeps at most."""
        start = (_START_SWEEPS + _SAMPLE_SWEEPS) * self.band.num_rows * self._sample_middles
        self._report, self._to_do = report, 2 * (swept + start // self.band.middles)

    def finish(self) -> None:
        """Reports that nothing is left to do."""
        if self._report is not None:
            self._report(self._to_do, self._to_do)

    def start(self, seed: int) -> list[np.ndarray]:
        """Cores that fit a sample of the band: a randomised TT-SVD, then weighted sweeps."""
        sample = self._sample()
        shape, ranks = sample.shape, [1]
        for cut in range(1, shape.num_cores):
            left = math.prod(shape.row_factors[:cut]) * math.prod(shape.col_factors[:cut])
            right = math.prod(shape.row_factors[cut:]) * math.prod(shape.col_factors[cut:])
            ranks.append(max(shape.ranks[cut], min(shape.ranks[cut] + _OVERSAMPLING, left, right)))
        ranks.append(1)
        generator = np.random.default_rng(seed)
        cores = [
            generator.standard_normal((ranks[k], shape.row_factors[k], shape.col_factors[k], ranks[k + 1]))
            for k in range(shape.num_cores)
        ]
        cores[-2][...] = 0  # solved for first
        sweeper = self._sweeper(sample.unweighted())
        for _ in range(_START_SWEEPS):
            cores, _ = sweeper.sweep(cores)
        cores = truncated(cores, shape.ranks)
        sweeper = self._sweeper(sample)
        for _ in range(_SAMPLE_SWEEPS):
            cores, _ = sweeper.sweep(cores)
        if sample.middles < self.band.middles:
            # The middles that were not sampled are solved for first of all.
            rank, _, columns, after = cores[-2].shape
            cores[-2] = np.zeros((rank, self.band.middles, columns, after))
        return cores

    def swept(self, cores: list[np.ndarray], *, max_sweeps: int, tolerance: float) -> TtFit:
        """The fit from these cores on."""
        sweeper, history = self._sweeper(self.band), []
        while True:
            cores, energy = sweeper.sweep(cores)
            history.append(energy.error)
            done = len(history) == max_sweeps or energy.error == 0
            if done or (len(history) > 1 and history[-1] > (1 - tolerance) * history[-2]):
                break
        fitted = tuple(np.ascontiguousarray(core, np.float32) for core in cores)
        if energy.error < _SMALL_ERROR:
            energy = self._rebuilt(fitted)
        return TtFit(fitted, energy.error, tuple(history))

    def _sample(self) -> TtSample:
        """Some middles of the band: of each run of them the one whose rows weigh most."""
        band, count = self.band, self._sample_middles
        weights = band.middle_weights()
        if not weights.any():
            raise ValueError("weights: all are 0; give at least one row a weight")
        cuts = np.arange(count + 1) * band.middles // count
        runs = itertools.pairwise(cuts.tolist())
        return band.sample(np.array([start + int(np.argmax(weights[start:stop])) for start, stop in runs]))

    def _sweeper(self, rows: TtRows) -> Sweeper:
        return Sweeper(rows, self.pool, self._memory, self._passed)

    def _passed(self, slots: int) -> None:
        self._done += slots
        if self._report is not None:
            self._report(min(self._done, self._to_do), self._to_do)

    def _rebuilt(self, cores: Sequence[np.ndarray]) -> Energy:
        """What is wrong with the rows of a near perfect fit, each rebuilt."""
        total = wrong = 0.0
        for chunk in self.band.chunks(0, self.band.middles):
            rows, used = self.band.rows(chunk)
            rebuilt = np.empty_like(rows)
            _native.tt_rows(list(cores), self.band.slots(chunk)[used], rebuilt, self.pool)
            rebuilt -= rows
            weights = chunk.weights[used].astype(np.float64)
            wrong += float(weights @ np.einsum("ij,ij->i", rebuilt, rebuilt, dtype=np.float64))
            total += float(weights @ np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        return Energy(total, wrong)


class _Budget:
    """How a fit spends its memory.

    Attributes:
        chunk_bytes: of rows asked for at once.
        contracted_floats: of the rows contracted with the last core.
        sample_middles: middles of the sample.
        kept_bytes: for rows that come from a function.
    """

    def __init__(
        self, num_rows: int, shape: TtShape, memory_bytes: int, pool: _native.ThreadPool, *, copies: bool
    ) -> None:
        lefts, (middles, slices) = math.prod(shape.row_factors[:-2]), shape.row_factors[-2:]
        before, (own, columns) = math.prod(shape.col_factors[:-2]), shape.col_factors[-2:]
        ranks = [rank + _OVERSAMPLING for rank in shape.ranks[1:-1]]
        inner, rank = (1, ranks[0]) if len(ranks) == 1 else ranks[-2:]
        square, width, dim = rank * rank, before * own * rank, shape.embedding_dim
        parameters = sum(
            p * q * a * b
            for p, q, a, b in zip(shape.row_factors, shape.col_factors, [1, *ranks], [*ranks, 1], strict=True)
        )
        prefix_bytes = 4 * dim * slices * copies  # three chunks of rows are held while they are copied
        fixed = (
            48 * parameters  # the cores in float64, several times over while they change gauge
            + _native.MiddleSolver.bytes(lefts, before, inner, own, rank, pool)
            + slices * (40 * square + 64 * rank + 24 * columns * rank)  # the last core's equations
            + 1024 * (width + square + slices)  # a piece of RowCorrelation
            + lefts * inner * (24 * inner + 24 * before)  # what the middle core leaves to those before it
            + 3 * prefix_bytes
        )
        block_bytes = 4 * contracted_floats(shape, rank)
        sample_bytes = 4 * lefts * slices * (dim * copies + 2)
        room = memory_bytes - fixed
        if room < block_bytes + sample_bytes:
            raise ValueError(
                f"memory_bytes: fitting this band takes at least {fixed + block_bytes + sample_bytes}, got "
                f"{memory_bytes}"
            )
        self.chunk_bytes = _CHUNK_BYTES
        if copies:
            self.chunk_bytes = max(
                prefix_bytes, min(_COPIED_BYTES, (room - block_bytes - sample_bytes) // 16)
            )
            room -= 3 * (self.chunk_bytes - prefix_bytes)
        block = max(1, min(middles, room // 4 // block_bytes))
        self.contracted_floats = block * block_bytes // 4
        wanted = -(-middles // _SAMPLE_SHARE)
        wanted = max(wanted, min(middles, -(-middles * _SAMPLE_ROWS // max(num_rows, 1))))
        self.sample_middles = max(1, min(wanted, (room - block * block_bytes) // sample_bytes))
        self.kept_bytes = room - block * block_bytes

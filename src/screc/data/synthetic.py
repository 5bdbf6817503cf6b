"""A synthetic click log whose best possible AUC is known (docs/guide/data.md, "The generator").

Thirteen dense counts and 26 categorical fields with the Criteo-Kaggle cardinalities, ids Zipf-distributed
within each field, labels drawn from a logistic teacher in which every id, rare ones too, has its own weight.
The only noise is the label's draw, so every sample's true probability is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from screc.data.batch import Batch
from screc.data.hashing import coprime, mix, mix_integers
from screc.data.log import TableSpec, check_batch_arguments, parse_settings

CRITEO_KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
"""Distinct values of C1 .. C26 in the Criteo-Kaggle training file; 33,762,577 in all."""

NUM_DENSE = 13
CHUNK_ROWS = 65_536
"""Rows drawn together. Part of the recipe: within a chunk, columns are drawn one after the other."""

CLICK_RATE = 0.25
_STRONG_CARDINALITY, _STRONG, _WEAK = 100_000, 0.22, 0.13
_PAIR_CARDINALITY, _PAIR_PROBABILITY, _PAIR_STRENGTH = 100, 0.04, 0.35
_DENSE_STRENGTH = 1.05
_LATENT_DIM = 4
_PILOT_CHUNKS = 4
_PILOT_FIRST = 1 << 62  # chunk numbers that no log reaches
_SQRT3 = math.sqrt(3.0)
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0  # of a table: how far a rank's next id is from its last


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticConfig:
    """Which rows of which log.

    Attributes:
        num_rows: samples.
        seed: of the teacher and of the rows.
        scale: tables have ``max(min(C, 1000), ceil(C * scale))`` rows for the cardinality C of the real
            field; 1.0 is the real list, more than 1 is allowed.
        first_row: the log is rows [first_row, first_row + num_rows) of an endless stream, so that a test
            set is the training set's configuration with ``first_row`` at its end.
        day_rows: rows of a day; 0 for a stream without days.
        drift: from one day to the next, the share of every table's ranks that pass to other ids. What an id
            means for the label stays, only its popularity changes.
    """

    num_rows: int
    seed: int = 1
    scale: float = 0.05
    first_row: int = 0
    day_rows: int = 0
    drift: float = 0.0

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"num_rows: must be at least 1, got {self.num_rows}")
        if not 0 <= self.seed < 1 << 50:
            raise ValueError(f"seed: must be in [0, 2^50), got {self.seed}")
        if not (math.isfinite(self.scale) and 0 < self.scale <= 100):
            raise ValueError(f"scale: must be above 0 and at most 100, got {self.scale}")
        if self.first_row < 0 or self.first_row + self.num_rows > 1 << 60:
            raise ValueError(f"first_row: must be in [0, 2^60 - num_rows], got {self.first_row}")
        if self.day_rows < 0 or not 0 <= self.drift <= 1:
            raise ValueError(
                f"day_rows must not be negative and drift in [0, 1], got {self.day_rows} and {self.drift}"
            )
        if self.drift and not self.day_rows:
            raise ValueError(f"drift: {self.drift} of the ids change from day to day; say how long a day is")

    @classmethod
    def parse(cls, text: str) -> SyntheticConfig:
        """Read ``rows=1000000,seed=1,scale=0.05,first=0,day=0,drift=0`` (all but rows optional)."""
        kinds = {"rows": ("num_rows", int), "seed": ("seed", int)}
        kinds |= {"scale": ("scale", float), "first": ("first_row", int)}
        kinds |= {"day": ("day_rows", int), "drift": ("drift", float)}
        return cls(**parse_settings("synthetic", text, kinds))


def table_rows(scale: float) -> tuple[int, ...]:
    """Rows of the 26 tables at a scale; 1,694,491 in all at 0.05."""
    # Rounded before ceil, or 0.05 * 20 could take one row too many.
    return tuple(max(min(c, 1000), math.ceil(round(c * scale, 6))) for c in CRITEO_KAGGLE_ROWS)


@dataclass(frozen=True, slots=True)
class _Field:
    """One categorical field's constants."""

    rows: int
    exponent: float
    strength: float
    multiplier: int
    addend: int
    bias_key: int
    latent_key: int

    def ids(self, uniform: np.ndarray, turns: np.ndarray | None = None) -> np.ndarray:
        """int64 ids of uniform numbers: a bounded Zipf rank by closed-form inverse, scattered.

        ``turns``, float64 of the same shape: how often each rank has passed to another id, on average over
        the ranks. Each rank changes hands at a time of its own.
        """
        power = 1.0 - self.exponent
        ranks = uniform * ((self.rows + 1.0) ** power - 1.0)
        ranks += 1.0
        np.power(ranks, 1.0 / power, out=ranks)
        ids = ranks.astype(np.int64)
        ids -= 1
        np.clip(ids, 0, self.rows - 1, out=ids)
        handed_on = None if turns is None else self._handed_on(ids, turns)
        ids *= self.multiplier
        ids += self.addend
        if handed_on is not None:
            ids += handed_on
        ids %= self.rows
        return ids

    def _handed_on(self, ranks: np.ndarray, turns: np.ndarray) -> np.ndarray:
        """How far the ids of ranks have moved on, int64."""
        own = (_hash_ids(ranks, self.latent_key + 1) >> np.uint64(11)) * 2.0**-53  # in [0, 1)
        times = np.floor(turns + own).astype(np.int64)
        return times * max(1, int(self.rows * _GOLDEN))

    def biases(self, ids: np.ndarray) -> np.ndarray:
        """float64, about N(0, 1): half the sum of four uniform lanes of each id's hash."""
        hashed = _hash_ids(ids, self.bias_key)
        pairs = (hashed & np.uint64(0x0000FFFF0000FFFF)) + (
            (hashed >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
        )
        total = (pairs + (pairs >> np.uint64(32))) & np.uint64(0xFFFFFFFF)
        biases = total.astype(np.float64)
        biases -= 2.0 * 65535.0
        biases *= 0.5 * _SQRT3 / 32767.5
        return biases

    def latents(self, ids: np.ndarray) -> np.ndarray:
        """float64 [n, 4], each lane uniform with unit variance."""
        lanes = _hash_ids(ids, self.latent_key).astype("<u8", copy=False).view("<u2").reshape(-1, _LATENT_DIM)
        return (lanes.astype(np.float64) - 32767.5) * (_SQRT3 / 32767.5)


def _hash_ids(ids: np.ndarray, key: int) -> np.ndarray:
    hashed = ids.astype(np.uint64)
    hashed *= np.uint64(0x9E3779B97F4A7C15)
    hashed += np.uint64(key)
    return mix(hashed)


@dataclass(frozen=True, slots=True)
class _Chunk:
    """n = ``CHUNK_ROWS`` samples: ids int64 [T, n], counts and dense [n, 13], logits without b0 [n]."""

    ids: np.ndarray
    counts: np.ndarray
    dense: np.ndarray
    logits: np.ndarray
    uniform: np.ndarray


class Teacher:
    """The constants of one (seed, scale) and the drawing of chunks.

    Everything but the ids' scatter is the same at every scale: strong fields are those with C > 100,000 (at
    scale 0.05: more than 5,000 rows) and interacting fields those with C >= 100.
    """

    def __init__(self, seed: int, scale: float) -> None:
        self.seed = seed
        rows = table_rows(scale)
        if max(rows) >= 1 << 31:
            raise ValueError(f"scale: {scale} gives a table of {max(rows)} rows; keep tables below 2^31 rows")
        stream = np.random.Generator(np.random.Philox(key=seed * 1000 + 7))
        count = len(rows)
        exponents = stream.uniform(1.05, 1.2, count)
        base = np.where(np.array(CRITEO_KAGGLE_ROWS) > _STRONG_CARDINALITY, _STRONG, _WEAK)
        strengths = base * stream.uniform(0.7, 1.3, count)
        multipliers, addends = stream.random(count), stream.random(count)
        kept = stream.random((count, count)) < _PAIR_PROBABILITY
        fields = []
        for f, size in enumerate(rows):
            fields.append(
                _Field(
                    rows=size,
                    exponent=float(exponents[f]),
                    strength=float(strengths[f]),
                    multiplier=coprime(1 + int(multipliers[f] * (size - 1)), size),
                    addend=int(addends[f] * size),
                    bias_key=mix_integers(seed, f, 0),
                    latent_key=mix_integers(seed, f, 1),
                )
            )
        self.fields = tuple(fields)
        large = [f for f, cardinality in enumerate(CRITEO_KAGGLE_ROWS) if cardinality >= _PAIR_CARDINALITY]
        self.pairs = tuple((f, g) for f in large for g in large if f < g and kept[f, g])
        self.means = stream.uniform(0.5, 4.0, NUM_DENSE)
        self.deviations = stream.uniform(0.6, 1.6, NUM_DENSE)
        direction = stream.standard_normal(NUM_DENSE)
        self.weights = _DENSE_STRENGTH * direction / math.sqrt(float((direction**2).sum()))
        self._shift, self._spread = _log_moments(self.means, self.deviations)
        self.intercept = self._calibrate()

    def _calibrate(self) -> float:
        """b0 such that the mean probability over the pilot chunks is ``CLICK_RATE``, by bisection."""
        logits = np.concatenate([self.chunk(_PILOT_FIRST + c).logits for c in range(_PILOT_CHUNKS)])
        low, high = -10.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if _sigmoid(logits + middle).mean() < CLICK_RATE else (low, middle)
        return (low + high) / 2

    def chunk(self, number: int, turns: np.ndarray | None = None) -> _Chunk:
        """Draw one chunk; the same number always gives the same bits. ``turns``: see :meth:`_Field.ids`."""
        stream = np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, number]))
        ids = np.empty((len(self.fields), CHUNK_ROWS), dtype=np.int64)
        logits = np.zeros(CHUNK_ROWS)
        for f, field in enumerate(self.fields):
            ids[f] = field.ids(stream.random(CHUNK_ROWS), turns)
            logits += field.strength * field.biases(ids[f])
        logits += self.interactions(ids)
        normal = stream.standard_normal((CHUNK_ROWS, NUM_DENSE))
        logits += self.dense_logits(normal)
        # In place: a chunk's temporaries are most of the memory of reading this log.
        counts = normal
        counts *= self.deviations
        counts += self.means
        np.floor(np.exp(counts, out=counts), out=counts)
        dense = np.empty((CHUNK_ROWS, NUM_DENSE), dtype=np.float32)
        for column in range(NUM_DENSE):
            scaled = np.log1p(counts[:, column]) - self._shift[column]
            dense[:, column] = scaled / self._spread[column]
        return _Chunk(ids, counts, dense, logits, stream.random(CHUNK_ROWS))

    def interactions(self, ids: np.ndarray) -> np.ndarray:
        """The pairs' part of the logit, float64 [n], of ids [T, n]."""
        total = np.zeros(ids.shape[1])
        for f, g in self.pairs:
            total += np.einsum("nk,nk->n", self.fields[f].latents(ids[f]), self.fields[g].latents(ids[g]))
        total *= 0.5 * _PAIR_STRENGTH / math.sqrt(max(1, len(self.pairs)))
        return total

    def dense_logits(self, normal: np.ndarray) -> np.ndarray:
        """The dense part of the logit, float64 [n], of the normals [n, 13]."""
        # einsum, not BLAS, whose last bits may depend on the number of threads.
        linear = np.einsum("nj,j->n", normal, self.weights)
        return linear + 0.5 * _DENSE_STRENGTH * normal[:, 0] * normal[:, 1]


@lru_cache(maxsize=8)
def teacher(seed: int, scale: float) -> Teacher:
    """The teacher of a (seed, scale); kept, since calibrating b0 takes about a second."""
    return Teacher(seed, scale)


class SyntheticClickLog:
    """The generator as a click log; chunks are drawn as they are read, none are kept.

    ``skip`` costs nothing: chunks passed over are never drawn.
    """

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.teacher = teacher(config.seed, config.scale)

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """C1 .. C26, one look-up per sample each."""
        return tuple(TableSpec(f"C{f + 1}", field.rows) for f, field in enumerate(self.teacher.fields))

    @property
    def num_dense(self) -> int:
        """13, standardised log1p of counts."""
        return NUM_DENSE

    @property
    def num_samples(self) -> int:
        """Rows of the configuration."""
        return self.config.num_rows

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """See :class:`screc.data.log.ClickLog`."""
        for batch, _ in self.batches_with_probability(batch_size, skip=skip):
            yield batch

    def _turns(self, chunk: int) -> np.ndarray | None:
        """How often ranks have changed hands by the days of a chunk's rows; None where they never do."""
        if not self.config.drift:
            return None
        rows = chunk * CHUNK_ROWS + np.arange(CHUNK_ROWS, dtype=np.int64)
        return (rows // self.config.day_rows) * self.config.drift

    def batches_with_probability(
        self, batch_size: int, *, skip: int = 0
    ) -> Iterator[tuple[Batch, np.ndarray]]:
        """Batches, each with its samples' true click probabilities, float64 [B]."""
        for ids, _, dense, probability, labels in self._slices(batch_size, skip):
            offsets = np.arange(ids.size + 1, dtype=np.int64)
            yield Batch(dense=dense, ids=ids.reshape(-1), offsets=offsets, labels=labels), probability

    def raw(self, batch_size: int, *, skip: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(ids int64 [26, B], counts int64 [B, 13], labels float32 [B]): before the dense transform."""
        for ids, counts, _, _, labels in self._slices(batch_size, skip):
            yield ids, counts.astype(np.int64), labels

    def _slices(self, batch_size: int, skip: int) -> Iterator[tuple[np.ndarray, ...]]:
        check_batch_arguments(batch_size, skip)
        start = self.config.first_row + skip
        end = self.config.first_row + self.config.num_rows
        number, chunk, parts = -1, None, ()
        while start < end:
            stop = min(start + batch_size, end)
            pieces = []
            while start < stop:
                if start // CHUNK_ROWS != number:
                    number = start // CHUNK_ROWS
                    chunk, parts = None, ()  # the old one goes before the new one is drawn
                    chunk = self.teacher.chunk(number, self._turns(number))
                    probability = _sigmoid(chunk.logits + self.teacher.intercept)
                    labels = (chunk.uniform < probability).astype(np.float32)
                    parts = (chunk.ids, chunk.counts, chunk.dense, probability, labels)
                low = start - number * CHUNK_ROWS
                high = min(CHUNK_ROWS, low + stop - start)
                # Copies: a view would keep the whole chunk while the next one is drawn.
                pieces.append(
                    [(part[:, low:high] if i == 0 else part[low:high]).copy() for i, part in enumerate(parts)]
                )
                start += high - low
            if len(pieces) == 1:
                yield tuple(pieces[0])
            else:
                columns = enumerate(zip(*pieces, strict=True))
                yield tuple(np.concatenate(column, axis=1 if i == 0 else 0) for i, column in columns)


def bayes_auc(probability: np.ndarray) -> float:
    """The AUC of the true probabilities themselves, averaged over all labels they could have drawn.

    With p sorted: sum_i p_i (sum_{j<i} (1 - p_j) + (1 - p_i) / 2) / (sum p * sum (1 - p)); no label noise, so
    far less variance than an AUC on drawn labels.

    Args:
        probability: float [n] in [0, 1].
    """
    p = np.sort(np.asarray(probability, dtype=np.float64))
    if not p.size or p[0] < 0 or not p[-1] <= 1:
        raise ValueError("probability: expected a non-empty array of numbers in [0, 1]")
    against = 1.0 - p
    below = np.cumsum(against) - against / 2
    total = p.sum() * against.sum()
    if total == 0:
        raise ValueError("probability: all 0 or all 1, so there is no AUC")
    return float((p * below).sum() / total)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-values))


def _log_moments(means: np.ndarray, deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log1p(floor(exp(mean + deviation * g))), g normal, by trapezoids."""
    points = np.linspace(-8.0, 8.0, (1 << 16) + 1)
    density = np.exp(-0.5 * points**2)
    density /= density.sum()
    moments = []
    for mean, deviation in zip(means, deviations, strict=True):
        values = np.log1p(np.floor(np.exp(mean + deviation * points)))
        center = (values * density).sum()
        moments.append((center, np.sqrt(((values - center) ** 2 * density).sum())))
    center, spread = np.array(moments).T
    return center, spread

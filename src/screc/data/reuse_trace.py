"""Look-ups that reuse rows as Meta's production-like embedding trace does (docs/guide/data.md).

Meta published how often rows are looked up within one batch of its embedding look-up data set
(facebookresearch/dlrm_datasets, MIT), summed over all its tables. Batches drawn here have that histogram.
Each row has an intensity, the look-ups that it is expected to have in one published batch, and look-ups are
drawn independently. Rows by intensity were fitted to the histograms (``recipes/fit_reuse_trace.py``): so many
in each octave [2^k, 2^(k + 1)), spread evenly over its logarithm, and a rest so cold that a batch hardly ever
asks twice for one of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from screc.data.batch import Batch
from screc.data.hashing import coprime
from screc.data.log import TableSpec, check_batch_arguments, parse_settings, rebatch

CHUNK_ROWS = 4096
"""Samples drawn together; part of the recipe. A sixteenth of it where there are more than ``_FEW_TABLES``."""
_FEW_TABLES = 64
# The coldest rows' intensity at most: of these, one in 16 that a batch asks for is asked for twice or more.
_MOST_COLD = 0.125
_LN2 = math.log(2.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReuseProfile:
    """What was published of a batch, and what was fitted to it.

    Attributes:
        source: the file it describes.
        batch_size: samples of the batch.
        num_tables: its tables.
        lookups: its look-ups in all tables.
        distinct: its different rows in all tables.
        row_shares: share of the different rows by look-ups of a row in the batch: 1, 2, 3-4, 5-8, ...,
            16385-32768, more; rounded to 0.001.
        lookup_shares: share of the look-ups that these rows have, likewise.
        first_octave: k of the coldest fitted octave.
        octave_rows: rows with intensity in [2^k, 2^(k + 1)) / ``distinct``, from the coldest octave on.
        cold_lookups: look-ups of the rows below / ``distinct``.
    """

    source: str
    batch_size: int
    num_tables: int
    lookups: int
    distinct: int
    row_shares: tuple[float, ...]
    lookup_shares: tuple[float, ...]
    first_octave: int
    octave_rows: tuple[float, ...]
    cold_lookups: float


PROFILES = {
    "2021": ReuseProfile(
        source="embedding_bag/2021/fbgemm_t856_bs65536.pt",
        batch_size=65_536,
        num_tables=856,
        lookups=887_017_990,
        distinct=128_435_723,
        row_shares=(
            *(0.473, 0.152, 0.139, 0.112, 0.072, 0.032, 0.011, 0.005, 0.002, 0.001),
            *(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        ),
        lookup_shares=(
            *(0.069, 0.044, 0.068, 0.101, 0.121, 0.104, 0.073, 0.058, 0.052, 0.050),
            *(0.049, 0.048, 0.048, 0.043, 0.031, 0.023, 0.019),
        ),
        first_octave=-2,
        octave_rows=(
            *(0.25, 0.289, 0.284, 0.122, 0.139, 0.0713, 0.0297, 0.0101, 0.00425, 0.00191),
            *(9.25e-4, 4.55e-4, 2.23e-4, 1.12e-4, 5.02e-5, 1.81e-5, 6.72e-6, 2.77e-6),
        ),
        cold_lookups=0.192,
    ),
    "2022": ReuseProfile(
        source="embedding_bag/2022/fbgemm_t788_bs131072_0.pt",
        batch_size=131_072,
        num_tables=788,
        lookups=1_405_163_864,
        distinct=110_259_238,
        row_shares=(
            *(0.342, 0.144, 0.149, 0.138, 0.112, 0.068, 0.029, 0.010, 0.004, 0.002),
            *(0.001, 0.001, 0.0, 0.0, 0.0, 0.0, 0.0),
        ),
        lookup_shares=(
            *(0.027, 0.023, 0.040, 0.068, 0.105, 0.120, 0.099, 0.070, 0.059, 0.054),
            *(0.040, 0.072, 0.064, 0.047, 0.021, 0.017, 0.076),
        ),
        first_octave=-2,
        octave_rows=(
            *(0.195, 0.256, 0.24, 0.157, 0.159, 0.12, 0.0669, 0.0263, 0.00917, 0.00398),
            *(1.85e-3, 6.73e-4, 6.21e-4, 2.75e-4, 1.01e-4, 2.26e-5, 9.15e-6, 9.87e-6, 5.29e-6),
        ),
        cold_lookups=0.0942,
    ),
}
"""By year. Within a year the batches hardly differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReuseTraceConfig:
    """Which samples of which trace.

    Attributes:
        num_rows: samples.
        year: the published batch, "2021" or "2022".
        tables: embedding tables; each has its part of the published batch's rows and look-ups.
        table_rows: rows of each table, one number for all or one for each. How many there are beyond those
            that a batch asks for was not published, so it is free: the coldest rows share their look-ups.
        traffic: look-ups and different rows of each table as a multiple of a published table's mean; 1 for
            all by default.
        seed: of the tables and of the look-ups.
        first_row: the log is samples [first_row, first_row + num_rows) of an endless stream.
    """

    num_rows: int
    year: str = "2021"
    tables: int = 8
    table_rows: int | tuple[int, ...] = 4_000_000
    traffic: tuple[float, ...] = ()
    seed: int = 1
    first_row: int = 0

    def __post_init__(self) -> None:
        if self.year not in PROFILES:
            raise ValueError(f"year: expected one of {', '.join(PROFILES)}, got {self.year!r}")
        for field in ("num_rows", "tables"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field}: must be at least 1, got {getattr(self, field)}")
        for field, numbers in (("table_rows", self.sizes), ("traffic", self.traffic)):
            if numbers and len(numbers) != self.tables:
                raise ValueError(f"{field}: has {len(numbers)} entries for {self.tables} tables")
        if min(self.sizes) < 1:
            raise ValueError(f"table_rows: must be at least 1, got {min(self.sizes)}")
        if max(self.sizes) > 1 << 40:
            raise ValueError(f"table_rows: must be at most 2^40, got {max(self.sizes)}")
        for part in self.traffic:
            if not 0 < part < math.inf:
                raise ValueError(f"traffic: must be positive and finite, got {part}")
        if not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed: must be in [0, 2^63), got {self.seed}")
        if self.first_row < 0 or self.first_row + self.num_rows > 1 << 60:
            raise ValueError(f"first_row: must be in [0, 2^60 - num_rows], got {self.first_row}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of every table."""
        return (self.table_rows,) * self.tables if isinstance(self.table_rows, int) else self.table_rows

    @classmethod
    def parse(cls, text: str) -> ReuseTraceConfig:
        """Read ``rows=1000000,year=2021,tables=8,table_rows=4000000,seed=1,first=0`` (only rows required)."""
        kinds = {"rows": ("num_rows", int), "year": ("year", str), "tables": ("tables", int)}
        kinds |= {"table_rows": ("table_rows", int), "seed": ("seed", int), "first": ("first_row", int)}
        return cls(**parse_settings("meta-reuse", text, kinds))


@dataclass(frozen=True, slots=True)
class _Table:
    """One table's classes of rows, hottest first; the last holds the cold rows.

    Attributes:
        num_embeddings: rows of the table.
        starts, rows: float64 [classes], first rank and number of rows of each class.
        cumulative: float64 [classes], share of the look-ups that end in this class or before.
        pooling: look-ups per sample, mean.
        multiplier, addend: from rank to id.
    """

    num_embeddings: int
    starts: np.ndarray
    rows: np.ndarray
    cumulative: np.ndarray
    pooling: float
    multiplier: int
    addend: int

    def ids(self, uniform: np.ndarray) -> np.ndarray:
        """int64 ids of uniform numbers; the array is used up."""
        found = np.searchsorted(self.cumulative, uniform, side="right")
        np.minimum(found, self.cumulative.size - 1, out=found)
        before = np.concatenate(([0.0], self.cumulative[:-1]))
        uniform -= before[found]
        uniform /= (self.cumulative - before)[found]
        # Intensity falls by half along an octave's rows, so look-ups up to place u are 2 (1 - 2^-u) of all.
        hot = found < self.cumulative.size - 1
        place = np.where(hot, -np.log2(1.0 - uniform / 2.0), uniform)
        ranks = (place * self.rows[found]).astype(np.int64)
        np.minimum(ranks, self.rows[found].astype(np.int64) - 1, out=ranks)
        ranks += self.starts[found].astype(np.int64)
        ranks *= self.multiplier
        ranks += self.addend
        ranks %= self.num_embeddings
        return ranks


def _draw_tables(config: ReuseTraceConfig) -> tuple[_Table, ...]:
    profile = PROFILES[config.year]
    stream = np.random.Generator(np.random.Philox(key=config.seed, counter=[0, 0, 1, 0]))
    octaves = np.arange(profile.first_octave, profile.first_octave + len(profile.octave_rows))[::-1]
    distinct = profile.distinct / profile.num_tables  # of one table
    expected = distinct * np.array(profile.octave_rows)[::-1]
    traffic = np.array(config.traffic or (1.0,) * config.tables)
    # Hot rows are fewer than tables: who has one is up to the phase, and their number to the tables.
    before = np.concatenate(([0.0], np.cumsum(traffic)))
    edges = np.floor(expected * before[:, None] + stream.random(octaves.size))
    tables = []
    for number, (rows, size) in enumerate(zip(np.diff(edges, axis=0), config.sizes, strict=True)):
        cold_lookups = distinct * profile.cold_lookups * traffic[number]
        least = int(rows.sum() + math.ceil(cold_lookups / _MOST_COLD))
        if size < least:
            raise ValueError(
                f"table_rows: a batch of {config.year} asks for so many rows of table T{number + 1} that it "
                f"needs at least {least}, got {size}"
            )
        lookups = np.append(rows * 2.0**octaves / _LN2, cold_lookups)
        starts = np.concatenate(([0.0], np.cumsum(rows)))
        most = min(size, (1 << 61) // size)  # times a rank it must fit 63 bits
        tables.append(
            _Table(
                num_embeddings=size,
                starts=starts,
                rows=np.append(rows, size - starts[-1]),
                cumulative=np.cumsum(lookups) / lookups.sum(),
                pooling=float(lookups.sum()) / profile.batch_size,
                multiplier=coprime(1 + int(stream.integers(most)), size),
                addend=int(stream.integers(size)),
            )
        )
    return tuple(tables)


def least_rows(year: str, traffic: float) -> int:
    """Rows that a table needs to have this traffic, about: those that a published batch asks for, and enough
    cold ones."""
    profile = PROFILES[year]
    rows = sum(profile.octave_rows) + profile.cold_lookups / _MOST_COLD
    return math.ceil(traffic * profile.distinct / profile.num_tables * rows)


class ReuseTraceLog:
    """The trace as a click log without dense features and labels; chunks are drawn as they are read.

    ``skip`` costs nothing: chunks passed over are never drawn.

    Raises:
        ValueError: the tables have fewer rows than a batch asks for; the message says how many do.
    """

    def __init__(self, config: ReuseTraceConfig) -> None:
        self.config = config
        self._tables = _draw_tables(config)
        self._chunk_rows = CHUNK_ROWS if config.tables <= _FEW_TABLES else CHUNK_ROWS // 16

    num_dense = 0

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """T1, T2, and so on."""
        return tuple(TableSpec(f"T{number + 1}", rows) for number, rows in enumerate(self.config.sizes))

    @property
    def num_samples(self) -> int:
        """Samples of the configuration."""
        return self.config.num_rows

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """See :class:`screc.data.log.ClickLog`."""
        check_batch_arguments(batch_size, skip)
        first = self.config.first_row + skip
        chunks = self._chunks(first // self._chunk_rows, self.config.first_row + self.config.num_rows)
        return rebatch(chunks, batch_size, skip=first % self._chunk_rows)

    def _chunks(self, number: int, end: int) -> Iterator[Batch]:
        while number * self._chunk_rows < end:
            yield self._chunk(number).rows(0, end - number * self._chunk_rows)
            number += 1

    def _chunk(self, number: int) -> Batch:
        stream = np.random.Generator(np.random.Philox(key=self.config.seed, counter=[0, 0, 0, number]))
        pooling = np.array([table.pooling for table in self._tables])
        lengths = stream.poisson(pooling[:, None], (pooling.size, self._chunk_rows))
        ids = [table.ids(stream.random(own.sum())) for table, own in zip(self._tables, lengths, strict=True)]
        offsets = np.zeros(lengths.size + 1, np.int64)
        np.cumsum(lengths.ravel(), out=offsets[1:])
        return Batch(np.zeros((self._chunk_rows, 0), np.float32), np.concatenate(ids), offsets)

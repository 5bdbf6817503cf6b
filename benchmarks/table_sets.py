"""Sets of small and middle tables with a trace of ids each, and the same bags with ids drawn otherwise.

What a private cache can hold of a set is what the asymmetric data flow is about, so each set has a few
megabytes that are looked up often: more than one second-level cache of 2 MiB, less than two.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from benchmarks.workload import ZIPF_EXPONENT
from screc.data import CRITEO, CRITEO_KAGGLE_ROWS, Batch, FeatureEncoder, open_log
from screc.data.encoder import HashIds
from screc.data.reuse_trace import PROFILES
from screc.statistics.curve import AccessCurve

Distribution = Literal["trace", "uniform", "zipf", "one_row"]
DISTRIBUTIONS: tuple[Distribution, ...] = ("trace", "uniform", "zipf", "one_row")
SAMPLES = 16_384
NUM_DENSE = 13


@dataclass(frozen=True, kw_only=True, eq=False)
class TableSet:
    """Tables, and bags of ids of them.

    Attributes:
        name: for keys.
        what: the tables and where the trace's ids come from, for people.
        real: whether the trace's ids are those of a real log.
        rows: of each table.
        embedding_dim: columns of every table.
        ids, lengths: for each table, the trace's ids int64 [look-ups], and the bags' lengths int64 [samples].
    """

    name: str
    what: str
    real: bool
    rows: tuple[int, ...]
    embedding_dim: int
    ids: tuple[np.ndarray, ...]
    lengths: tuple[np.ndarray, ...]

    @property
    def num_samples(self) -> int:
        """Samples of the trace."""
        return len(self.lengths[0])

    @property
    def poolings(self) -> list[float]:
        """Mean look-ups per sample of each table."""
        return [float(lengths.mean()) for lengths in self.lengths]

    def batches(self, size: int, distribution: Distribution, seed: int = 5) -> list[Batch]:
        """All whole batches of the trace; of another distribution, its bags with other ids."""
        generator = np.random.default_rng(seed)
        columns = [
            own if distribution == "trace" else _drawn(generator, rows, len(own), distribution)
            for rows, own in zip(self.rows, self.ids, strict=True)
        ]
        ends = [np.concatenate(([0], np.cumsum(lengths))) for lengths in self.lengths]
        batches = []
        for first in range(0, self.num_samples - size + 1, size):
            parts = [own[end[first] : end[first + size]] for own, end in zip(columns, ends, strict=True)]
            lengths = np.concatenate([own[first : first + size] for own in self.lengths])
            batches.append(
                Batch(
                    dense=generator.standard_normal((size, NUM_DENSE), dtype=np.float32),
                    ids=np.concatenate(parts),
                    offsets=np.concatenate(([0], np.cumsum(lengths))),
                )
            )
        return batches

    def curve(self, table: int, distribution: Distribution) -> AccessCurve:
        """The access curve that the look-ups of a table are drawn from; of the trace, as counted."""
        rows = self.rows[table]
        if distribution == "trace":
            counts = np.sort(np.bincount(self.ids[table], minlength=rows))[::-1]
            return AccessCurve.of_counts(rows, counts[counts > 0].astype(np.int64), 0.0)
        if distribution == "uniform":
            return AccessCurve(np.array([0, rows]), np.array([1 / rows]))
        if distribution == "one_row":
            boundaries = np.array([0, 1, rows] if rows > 1 else [0, 1])
            return AccessCurve(boundaries, np.array([1.0, 0.0])[: len(boundaries) - 1])
        edges = np.arange(1, rows + 2, dtype=np.float64) ** (1 - ZIPF_EXPONENT)
        return AccessCurve(np.arange(rows + 1), (edges[:-1] - edges[1:]) / (edges[0] - edges[-1]))


def _drawn(generator: np.random.Generator, rows: int, count: int, distribution: Distribution) -> np.ndarray:
    if distribution == "one_row":
        return np.full(count, rows // 2, np.int64)
    uniform = generator.random(count)
    if distribution == "uniform":
        return (uniform * rows).astype(np.int64)
    power = 1 - ZIPF_EXPONENT
    ranks = (1 - uniform * (1 - (rows + 1) ** power)) ** (1 / power) - 1
    return (np.minimum(ranks.astype(np.int64), rows - 1) * 2_654_435_761 + 12_345) % rows


def meta_reuse(*, tables: int = 10, rows: int = 1000, pooling: int = 32, samples: int = SAMPLES) -> TableSet:
    """Tables like those of job ``rm2``, but of 1000 rows x 64 (2.6 MB fp32 in all), 32 ids a bag; the rows'
    look-ups are spread as in Meta's production-like trace of 2021.

    The intensities that ``screc.data.reuse_trace`` fitted to the published histogram of all 856 tables are
    sampled, a row each: tables this small were not published by themselves.
    """
    generator = np.random.default_rng(3)
    profile = PROFILES["2021"]
    octaves = np.arange(profile.first_octave, profile.first_octave + len(profile.octave_rows))
    share = np.array(profile.octave_rows) / sum(profile.octave_rows)
    columns = []
    for _ in range(tables):
        intensity = 2.0 ** (generator.choice(octaves, rows, p=share) + generator.random(rows))
        columns.append(generator.choice(rows, samples * pooling, p=intensity / intensity.sum()))
    return TableSet(
        name="meta",
        what=f"{tables} tables x {rows} x 64, {pooling} ids a bag; reuse as in Meta's trace of 2021 (fitted)",
        real=False,
        rows=(rows,) * tables,
        embedding_dim=64,
        ids=tuple(columns),
        lengths=(np.full(samples, pooling),) * tables,
    )


def movielens(*, embedding_dim: int = 128, samples: int = SAMPLES) -> TableSet | None:
    """MovieLens-1M: the user, the film, and three windows of the user's history (the last 50 films, the 100
    before, the 250 before those), each with a table of its own; real ids, lengths and order.

    5.7 MB of fp32 rows of films in the windows, of which a quarter of the rows has 72 % of the look-ups.

    Returns:
        None where ``SCREC_DATA`` does not hold it.
    """
    path = Path(os.environ.get("SCREC_DATA", "nowhere")) / "ml1m" / "interactions_time_ordered.parquet"
    if not path.exists():
        return None
    log = pq.read_table(path)
    users, films, places = (log[name].to_numpy() for name in ("user_id", "item_id", "pos"))
    order = np.lexsort((places, users))
    users, films, places = users[order], films[order], places[order]
    users, films = (np.unique(column, return_inverse=True)[1].astype(np.int64) for column in (users, films))
    # The data set has no times across users: requests come in a random order.
    asked = np.random.default_rng(0).permutation(len(users))[:samples]
    columns, lengths = [users[asked], films[asked]], [np.ones(samples, np.int64)] * 2
    for newest, oldest in ((0, 50), (50, 150), (150, 400)):
        begin = asked - np.minimum(places[asked], oldest)
        end = np.maximum(begin, asked - newest)
        columns.append(np.concatenate([films[a:b] for a, b in zip(begin, end, strict=True)]))
        lengths.append(end - begin)
    num_films = int(films.max()) + 1
    return TableSet(
        name="movielens",
        what=f"MovieLens-1M: user, film, 3 windows of the history (43 + 56 + 65 ids), x {embedding_dim}",
        real=True,
        rows=(int(users.max()) + 1, *(num_films,) * 4),
        embedding_dim=embedding_dim,
        ids=tuple(columns),
        lengths=tuple(lengths),
    )


def criteo_small(*, most_rows: int = 15_000) -> TableSet | None:
    """The 18 tables of Criteo-Kaggle with at most 15,000 rows, x 16 (3.0 MB fp32), one id each; real values
    (8,000 rows of the log), hashed to the Kaggle tables' numbers of rows.

    Returns:
        None where ``SCREC_DATA`` does not hold them.
    """
    path = Path(os.environ.get("SCREC_DATA", "nowhere")) / "criteo_dac_8k" / "*.tsv.gz"
    if not list(path.parent.glob(path.name)):
        return None
    rules = [HashIds(rows, 1) for rows in CRITEO_KAGGLE_ROWS]
    log = open_log(f"criteo:{path}", FeatureEncoder(CRITEO, rules))
    batch = next(iter(log.batches(1 << 20)))
    small = [number for number, rows in enumerate(CRITEO_KAGGLE_ROWS) if rows <= most_rows]
    ids = tuple(batch.table_ids(number) for number in small)
    return TableSet(
        name="criteo",
        what=f"Criteo-Kaggle's {len(small)} tables of at most {most_rows:,} rows, x 16, 1 id a bag",
        real=True,
        rows=tuple(CRITEO_KAGGLE_ROWS[number] for number in small),
        embedding_dim=16,
        ids=ids,
        lengths=(np.ones(batch.batch_size, np.int64),) * len(small),
    )


def all_sets(*, quick: bool = False) -> Sequence[TableSet]:
    """Those whose data is there."""
    samples = 2048 if quick else SAMPLES
    return [one for one in (movielens(samples=samples), meta_reuse(samples=samples), criteo_small()) if one]

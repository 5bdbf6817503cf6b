"""Access statistics: how often every row of every table is looked up, counted exactly from a click log.

SCRec's Data Statistic Analyzer (arXiv 2504.00520) and the inputs of RecShard (arXiv 2201.10095): the
cumulative access curve, the mean pooling factor and the coverage of each table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from screc.statistics.counting import make_counter
from screc.statistics.curve import AccessCurve
from screc.storage import DamagedFileError, TableLayout, TensorFile, replace_file, write_arrays

if TYPE_CHECKING:
    from screc.data.log import ClickLog, Progress

_FORMAT, _VERSION = "screc-statistics", 1


@dataclass(frozen=True, eq=False, kw_only=True)
class TableStatistics:
    """Exact look-up counts of one table.

    Attributes:
        name: the table.
        num_embeddings: rows of the table, looked up or not.
        num_samples: samples that were counted.
        num_lookups: look-ups in all of them (a row twice in one bag counts twice).
        num_nonempty: samples whose bag was not empty.
        ids: int64 [seen], the rows that were looked up, in rank order (count descending, ties by id).
        counts: int64 [seen], their look-ups.
    """

    name: str
    num_embeddings: int
    num_samples: int
    num_lookups: int
    num_nonempty: int
    ids: np.ndarray
    counts: np.ndarray

    def __post_init__(self) -> None:
        where = f"table {self.name}"
        if self.num_embeddings < 1:
            raise ValueError(f"{where}: num_embeddings must be at least 1, got {self.num_embeddings}")
        for field in ("ids", "counts"):
            array = getattr(self, field)
            if array.dtype != np.int64 or array.ndim != 1:
                raise TypeError(f"{where}: {field} must be int64 [seen], got {array.dtype} {array.shape}")
        if self.ids.size != self.counts.size or self.ids.size > self.num_embeddings:
            raise ValueError(
                f"{where}: {self.ids.size} ids and {self.counts.size} counts for {self.num_embeddings} rows; "
                "give one count per looked-up row"
            )
        if self.ids.size and (self.ids.min() < 0 or self.ids.max() >= self.num_embeddings):
            raise ValueError(f"{where}: ids must lie in [0, {self.num_embeddings})")
        if self.counts.size and (self.counts[-1] < 1 or (np.diff(self.counts) > 0).any()):
            raise ValueError(
                f"{where}: counts must be positive and descending; use from_counts to order them"
            )
        if int(self.counts.sum()) != self.num_lookups:
            raise ValueError(
                f"{where}: counts sum to {int(self.counts.sum())}, num_lookups says {self.num_lookups}"
            )
        if not 0 <= self.num_nonempty <= self.num_samples:
            raise ValueError(f"{where}: num_nonempty {self.num_nonempty} of {self.num_samples} samples")

    @classmethod
    def from_counts(
        cls,
        name: str,
        num_embeddings: int,
        ids: np.ndarray,
        counts: np.ndarray,
        *,
        num_samples: int,
        num_nonempty: int | None = None,
    ) -> TableStatistics:
        """Statistics from counts in any order; rows with count 0 are dropped.

        Args:
            name: the table.
            num_embeddings: its rows.
            ids: int64 [n], different row ids.
            counts: int64 [n], look-ups of each.
            num_samples: samples counted.
            num_nonempty: samples with a non-empty bag; default all of them (none without look-ups).
        """
        seen = counts > 0
        ids, counts = ids[seen], counts[seen]
        if ids.size > 1 and (np.diff(ids) <= 0).any():
            order = np.argsort(ids, kind="stable")
            ids, counts = ids[order], counts[order]
            if (np.diff(ids) == 0).any():
                raise ValueError(
                    f"table {name}: ids hold row {ids[:-1][np.diff(ids) == 0][0]} more than once"
                )
        order = np.argsort(-counts, kind="stable")
        total = int(counts.sum())
        return cls(
            name=name,
            num_embeddings=num_embeddings,
            num_samples=num_samples,
            num_lookups=total,
            num_nonempty=(num_samples if total else 0) if num_nonempty is None else num_nonempty,
            ids=ids[order].astype(np.int64, copy=False),
            counts=counts[order].astype(np.int64, copy=False),
        )

    @property
    def num_seen(self) -> int:
        """Rows that were looked up at least once."""
        return self.ids.size

    @property
    def mean_pooling(self) -> float:
        """Look-ups per sample, empty bags included; 0 without samples."""
        return self.num_lookups / self.num_samples if self.num_samples else 0.0

    @property
    def coverage(self) -> float:
        """Share of the samples with a non-empty bag; 0 without samples."""
        return self.num_nonempty / self.num_samples if self.num_samples else 0.0

    @property
    def unseen_share(self) -> float:
        """Estimated probability that a look-up asks for a row that was never seen.

        Good-Turing: look-ups of rows seen once / all look-ups, taking at least one such row, so that a cold
        band is never predicted to cost nothing. It is capped at unseen * seen / (rows * look-ups): an unseen
        row is never taken to be more likely than a row seen once. 0 where all rows were seen, 1 where none
        was.
        """
        unseen = self.num_embeddings - self.num_seen
        if unseen == 0:
            return 0.0
        if self.num_lookups == 0:
            return 1.0
        singletons = self.num_seen - int(np.searchsorted(-self.counts, -1, side="left"))
        most = unseen * self.num_seen / (self.num_embeddings * self.num_lookups)
        return min(max(singletons, 1) / self.num_lookups, most)

    @cached_property
    def curve(self) -> AccessCurve:
        """The counted access curve: unseen rows have probability 0 (all rows 1/N in a table never seen)."""
        return AccessCurve.of_counts(self.num_embeddings, self.counts, 0.0)

    @cached_property
    def smoothed_curve(self) -> AccessCurve:
        """The access curve for predictions: :attr:`unseen_share` of the look-ups fall on the unseen rows.

        All seen rows lose the same probability to them (absolute discounting), for it is among the rows seen
        a few times that a count overstates what comes next.
        """
        return AccessCurve.of_counts(self.num_embeddings, self.counts, self.unseen_share)

    def share(self, ranks: np.ndarray | int) -> np.ndarray:
        """Counted share of the look-ups that fall on the first ``ranks`` rows (the CDF), vectorised.

        Args:
            ranks: numbers of rows, 0 to num_embeddings. A table never looked up gives ranks / rows.
        """
        ranks = np.asarray(ranks)
        if ranks.size and (ranks.min() < 0 or ranks.max() > self.num_embeddings):
            wrong = ranks.min() if ranks.min() < 0 else ranks.max()
            raise ValueError(f"table {self.name}: ranks must be 0 to {self.num_embeddings}, got {wrong}")
        return self.curve.share(ranks)

    @cached_property
    def _unseen_below(self) -> np.ndarray:
        # Unseen ids below each seen id, ascending: the k-th unseen id is k + (seen ids it lies above).
        return np.sort(self.ids) - np.arange(self.num_seen)

    def ids_in_ranks(self, start: int, stop: int) -> np.ndarray:
        """The ids of ranks [start, stop), int64, in rank order; never-seen ids follow in ascending id order.

        Memory: 8 bytes per returned id; the first call past the seen rows keeps 8 bytes per seen row.

        Raises:
            ValueError: the range is not within 0 to num_embeddings.
        """
        if not 0 <= start <= stop <= self.num_embeddings:
            raise ValueError(
                f"table {self.name}: ranks [{start}, {stop}) are not within its {self.num_embeddings} rows"
            )
        seen = self.ids[start : min(stop, self.num_seen)]
        if stop <= self.num_seen:
            return seen.copy()
        wanted = np.arange(max(start - self.num_seen, 0), stop - self.num_seen, dtype=np.int64)
        unseen = wanted + np.searchsorted(self._unseen_below, wanted, side="right")
        return np.concatenate((seen, unseen)) if seen.size else unseen

    def ranks_of(self, ids: np.ndarray) -> np.ndarray:
        """The ranks of ids int64 [n]: the inverse of :meth:`ids_in_ranks`.

        Memory: 16 bytes per seen row, for the length of the call.

        Raises:
            ValueError: an id is not a row of the table.
        """
        if ids.size and (ids.min() < 0 or ids.max() >= self.num_embeddings):
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"table {self.name}: row {wrong} is not one of its {self.num_embeddings}")
        order = np.argsort(self.ids)
        ascending = self.ids[order]
        below = np.searchsorted(ascending, ids)
        ranks = self.num_seen + ids - below  # of unseen rows: those seen that lie below are not before them
        place = np.minimum(below, max(self.num_seen - 1, 0))
        seen = ascending[place] == ids if self.num_seen else np.zeros(ids.shape, bool)
        ranks[seen] = order[place[seen]]
        return ranks


@dataclass(frozen=True, eq=False)
class AccessStatistics:
    """Access statistics of all tables of a model, in the model's order."""

    tables: tuple[TableStatistics, ...]

    @classmethod
    def collect(
        cls,
        log: ClickLog,
        *,
        batch_size: int = 65536,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> AccessStatistics:
        """Count the look-ups of a click log in one streaming pass.

        Memory: 8 bytes per row of each table up to 64 M rows; above that 16 bytes per row actually looked
        up plus a buffer of 32 MB (see :mod:`screc.statistics.counting`).

        Args:
            log: what to count.
            batch_size: samples read at a time.
            limit: stop after this many samples.
            progress: called with (samples counted, samples in all or None) after every batch.

        Raises:
            ValueError: a batch holds an id outside its table, or a different number of tables.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if limit is not None and limit < 0:
            raise ValueError(f"limit must not be negative, got {limit}")
        total = log.num_samples if limit is None else limit
        if limit is not None and log.num_samples is not None:
            total = min(limit, log.num_samples)
        counters = [make_counter(spec.name, spec.num_embeddings) for spec in log.tables]
        nonempty = [0] * len(counters)
        samples = 0
        for batch in log.batches(batch_size) if limit != 0 else ():
            if limit is not None and samples + batch.batch_size > limit:
                batch = batch.rows(0, limit - samples)
            if batch.batch_size == 0:
                continue
            if batch.num_tables != len(counters):
                raise ValueError(
                    f"sample {samples}: the batch has {batch.num_tables} tables, the log says {len(counters)}"
                )
            for table, counter in enumerate(counters):
                counter.add(batch.table_ids(table))
                nonempty[table] += int(np.count_nonzero(np.diff(batch.table_offsets(table))))
            samples += batch.batch_size
            if progress is not None:
                progress(samples, total)
            if samples == limit:
                break
        tables = []
        for table, spec in enumerate(log.tables):
            ids, counts = counters[table].result()
            counters[table] = None  # frees its memory before the next table is ordered
            tables.append(
                TableStatistics.from_counts(
                    spec.name,
                    spec.num_embeddings,
                    ids,
                    counts,
                    num_samples=samples,
                    num_nonempty=nonempty[table],
                )
            )
        return cls(tuple(tables))

    @property
    def num_samples(self) -> int:
        """Samples counted; 0 without tables."""
        return max((table.num_samples for table in self.tables), default=0)

    @property
    def num_lookups(self) -> int:
        """Look-ups of all tables."""
        return sum(table.num_lookups for table in self.tables)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, sizes and counts (hexadecimal); says which statistics a plan was made from."""
        digest = hashlib.sha256(json.dumps(_describe(self.tables), sort_keys=True).encode())
        for table in self.tables:
            digest.update(np.ascontiguousarray(table.ids).data)
            digest.update(np.ascontiguousarray(table.counts).data)
        return digest.hexdigest()

    def band_ids(self, layouts: Sequence[TableLayout]) -> dict[int, list[np.ndarray]]:
        """The ids of every band but the last, table by table: what training with a plan needs.

        Raises:
            ValueError: the layouts are of other tables.
        """
        ours = [(table.name, table.num_embeddings) for table in self.tables]
        theirs = [(layout.table, layout.num_embeddings) for layout in layouts]
        if ours != theirs:
            raise ValueError(
                f"the statistics are of tables {ours}, the layouts of {theirs}; use those of the same log"
            )
        return {
            number: [table.ids_in_ranks(band.start, band.stop) for band in layout.bands[:-1]]
            for number, (table, layout) in enumerate(zip(self.tables, layouts, strict=True))
        }

    def to_dict(self) -> dict[str, Any]:
        """A summary for programs: what each table holds, without ids and counts."""
        return {
            "num_samples": self.num_samples,
            "num_lookups": self.num_lookups,
            "tables": [
                {
                    "name": table.name,
                    "num_embeddings": table.num_embeddings,
                    "num_lookups": table.num_lookups,
                    "num_seen": table.num_seen,
                    "mean_pooling": table.mean_pooling,
                    "coverage": table.coverage,
                }
                for table in self.tables
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write one safetensors file (``{t}.ids`` and ``{t}.counts``, the rest as metadata), atomically."""
        metadata = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "tables": json.dumps(_describe(self.tables)),
            "sha256": self.digest,
        }
        tensors = {}
        for number, table in enumerate(self.tables):
            tensors[f"{number}.ids"] = table.ids
            tensors[f"{number}.counts"] = table.counts
        with replace_file(path) as temporary:
            write_arrays(temporary, tensors, metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> AccessStatistics:
        """Read what :meth:`save` wrote; ids and counts are read-only maps of the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is truncated, damaged, of a later version or not access statistics.
        """
        path = Path(path)
        try:
            file = TensorFile(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{path}: no such file; collect access statistics first") from error
        except DamagedFileError as error:
            raise ValueError(f"{path}: truncated, damaged or not access statistics ({error})") from error
        metadata = file.metadata
        if metadata.get("format") != _FORMAT:
            raise ValueError(f"{path}: not access statistics; write them with AccessStatistics.save")
        if metadata.get("version") != str(_VERSION):
            raise ValueError(
                f"{path}: statistics version {metadata.get('version')!r}, this release reads {_VERSION}; "
                "collect them again or use a later release"
            )
        try:
            described = json.loads(metadata["tables"])
            statistics = cls(
                tuple(
                    TableStatistics(**entry, ids=file[f"{number}.ids"], counts=file[f"{number}.counts"])
                    for number, entry in enumerate(described)
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged access statistics ({error}); collect them again") from error
        if statistics.digest != metadata.get("sha256"):
            raise ValueError(f"{path}: damaged access statistics (checksum differs); collect them again")
        return statistics


def _describe(tables: Sequence[TableStatistics]) -> list[dict[str, str | int]]:
    fields = ("name", "num_embeddings", "num_samples", "num_lookups", "num_nonempty")
    return [{field: getattr(table, field) for field in fields} for table in tables]

"""Access statistics: how often every row of every table is looked up, counted from a click log.

SCRec's Data Statistic Analyzer (arXiv 2504.00520) and the inputs of RecShard (arXiv 2201.10095): the
cumulative access curve, the mean pooling factor and the coverage of each table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from screc import _native
from screc.statistics.counting import DEFAULT_MEMORY, make_counters
from screc.statistics.distinct import DistinctRows, DistinctSampler
from screc.statistics.table import TableStatistics
from screc.statistics.tail import Tail
from screc.storage import DamagedFileError, TableLayout, TensorFile, replace_file, write_arrays

if TYPE_CHECKING:
    from screc.data.log import ClickLog, Progress

_FORMAT, _VERSION = "screc-statistics", 2
TOP_SHARES = (0.0001, 0.001, 0.01, 0.1)
"""Shares of a table's rows, hottest first, of which a summary tells the share of the look-ups."""


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
        memory_limit: int = DEFAULT_MEMORY,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> AccessStatistics:
        """Count the look-ups of a click log in one streaming pass and bounded memory.

        Counts are exact as long as the rows that occur fit into their table's part of the memory (see
        :func:`~screc.statistics.counting.make_counters`); beyond, the tables' rarest rows become a
        :class:`~screc.statistics.tail.Tail`.

        Args:
            log: what to count.
            batch_size: samples read at a time; different rows are measured for batches of up to so many.
            limit: stop after this many samples.
            memory_limit: bytes that counters and the statistics they become take at most, besides what
                reading the log takes.
            threads: 0 means one per core.
            progress: called with (samples counted, samples in all or None) after every batch.

        Raises:
            ValueError: a batch holds an id outside its table, or a different number of tables; or the
                memory is too little to count anything.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if limit is not None and limit < 0:
            raise ValueError(f"limit must not be negative, got {limit}")
        total = log.num_samples if limit is None else limit
        if limit is not None and log.num_samples is not None:
            total = min(limit, log.num_samples)
        specs = [(spec.name, spec.num_embeddings) for spec in log.tables]
        counters: list[_native.RowCounter | None] = [*make_counters(specs, memory_limit)]
        sampler = DistinctSampler(len(specs))
        pool = _native.ThreadPool(threads)
        nonempty = np.zeros(len(specs), np.int64)
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
            nonempty += _native.count_batch(counters, batch.ids, batch.offsets, batch.batch_size, pool)
            sampler.add(batch, pool)
            samples += batch.batch_size
            if progress is not None:
                progress(samples, total)
            if samples == limit:
                break
        tables = []
        for table, (name, num_embeddings) in enumerate(specs):
            counter, counters[table] = counters[table], None  # frees its memory before the next one ends
            assert counter is not None
            ranked = counter.finish()
            tables.append(
                TableStatistics(
                    name=name,
                    num_embeddings=num_embeddings,
                    num_samples=samples,
                    num_lookups=counter.num_lookups,
                    num_nonempty=int(nonempty[table]),
                    ids=ranked.ids,
                    counts=ranked.counts,
                    count_errors=None if counter.exact else ranked.errors,
                    tail=None if counter.exact else _tail(ranked),
                    distinct=sampler.result(table),
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
        """SHA-256 over all that was counted (hexadecimal); says which statistics a plan was made from."""
        digest = hashlib.sha256(json.dumps(_describe(self.tables), sort_keys=True).encode())
        for array in _arrays(self.tables).values():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def check_tables(self, tables: Sequence[tuple[str, int]]) -> None:
        """Raise unless the statistics are of tables of these names and rows.

        Raises:
            ValueError: they are not; the message names the first difference.
        """
        ours = [(table.name, table.num_embeddings) for table in self.tables]
        for own, other in zip_longest(ours, tables):
            if own != other:
                words = [f"{one[0]} of {one[1]} rows" if one else "no further table" for one in (own, other)]
                raise ValueError(
                    f"statistics: they are of {words[0]} where {words[1]} is expected; use those of a log "
                    "that was encoded alike"
                )

    def band_ids(self, layouts: Sequence[TableLayout]) -> dict[int, list[np.ndarray]]:
        """The ids of every band but the last, table by table: what training with a plan needs.

        Raises:
            ValueError: the layouts are of other tables.
        """
        self.check_tables([(layout.table, layout.num_embeddings) for layout in layouts])
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
                    "num_ranked": table.num_ranked,
                    "exact": table.exact,
                    "max_count_error": table.max_count_error,
                    "unseen_share": table.unseen_share,
                    "mean_pooling": table.mean_pooling,
                    "coverage": table.coverage,
                    "top_shares": {
                        f"{share:g}": float(table.share(int(np.ceil(share * table.num_embeddings))))
                        for share in TOP_SHARES
                    },
                    "distinct": [asdict(one) | {"share": one.share} for one in table.distinct],
                }
                for table in self.tables
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically: arrays as ``{t}.ids`` and so on, the rest as metadata."""
        metadata = {
            "format": _FORMAT,
            "version": str(_VERSION),
            "tables": json.dumps(_describe(self.tables)),
            "sha256": self.digest,
        }
        with replace_file(path) as temporary:
            write_arrays(temporary, _arrays(self.tables), metadata=metadata)

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
                tuple(_read_table(entry, file, number) for number, entry in enumerate(described))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged access statistics ({error}); collect them again") from error
        if statistics.digest != metadata.get("sha256"):
            raise ValueError(f"{path}: damaged access statistics (checksum differs); collect them again")
        return statistics


# Arrays of a table in the document, and those of its tail.
_TABLE_ARRAYS, _TAIL_ARRAYS = ("ids", "counts", "count_errors"), ("counts", "rows")


def _tail(ranked: _native.RankedRows) -> Tail:
    counts, rows = np.unique(ranked.unranked_sample, return_counts=True)
    return Tail(
        counts=counts,
        rows=rows,
        sampling=2.0**-ranked.sample_level,
        sample_rows=ranked.sample_rows,
        sample_singletons=ranked.sample_singletons,
        bound=ranked.unranked_bound,
    )


def _describe(tables: Sequence[TableStatistics]) -> list[dict[str, Any]]:
    """All of each table but its arrays, as JSON."""
    described = []
    for table in tables:
        fields = ("name", "num_embeddings", "num_samples", "num_lookups", "num_nonempty")
        entry: dict[str, Any] = {field: getattr(table, field) for field in fields}
        entry["distinct"] = [asdict(one) for one in table.distinct]
        if table.tail:
            fields = ("sampling", "sample_rows", "sample_singletons", "bound")
            entry["tail"] = {field: getattr(table.tail, field) for field in fields}
        described.append(entry)
    return described


def _arrays(tables: Sequence[TableStatistics]) -> dict[str, np.ndarray]:
    arrays = {}
    for number, table in enumerate(tables):
        found = {field: getattr(table, field) for field in _TABLE_ARRAYS}
        found |= {f"tail.{field}": getattr(table.tail, field, None) for field in _TAIL_ARRAYS}
        arrays |= {f"{number}.{name}": array for name, array in found.items() if array is not None}
    return arrays


def _read_table(entry: dict[str, Any], file: TensorFile, number: int) -> TableStatistics:
    entry = dict(entry)
    entry["distinct"] = tuple(DistinctRows(**one) for one in entry["distinct"])
    if tail := entry.pop("tail", None):
        arrays = {field: file[f"{number}.tail.{field}"] for field in _TAIL_ARRAYS}
        entry |= {"tail": Tail(**tail, **arrays), "count_errors": file[f"{number}.count_errors"]}
    return TableStatistics(**entry, ids=file[f"{number}.ids"], counts=file[f"{number}.counts"])

"""Job ``profile``: look-ups per second of access statistics, exact and in bounded memory, all cores.

A reuse trace of two tables (docs/guide/data.md), held in memory, is counted and ranked: a counter for each of
4 M rows, or a map of the rows that occur, of 10^9 rows, with enough memory for them and with too little. The
peer is NumPy: ``bincount`` into an array per table, or ``unique`` of each batch and one merge of the batches'
runs; it does not rank the rows. ``profile`` arms do all that ``screc profile`` does once the log is read:
different rows per batch are most of it in a log as short as this. Last, an order by co-access.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.interleave import measure
from recipes.page_orders import planted_bags
from screc import _native
from screc.data import Batch, ClickLog, TableSpec, open_log
from screc.statistics import AccessStatistics
from screc.statistics.coaccess import co_access_order
from screc.statistics.counting import DEFAULT_MEMORY, make_counters

TABLES, SMALL, GIANT = 2, 4_000_000, 10**9
BATCH = 65_536


class HeldLog:
    """The batches of a log, kept in memory: what reading costs is not measured."""

    num_dense = 0

    def __init__(self, log: ClickLog) -> None:
        self.tables: tuple[TableSpec, ...] = log.tables
        self.num_samples = log.num_samples
        self.held = list(log.batches(BATCH))

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """All batches, as they were read."""
        assert (batch_size, skip) == (BATCH, 0)
        return iter(self.held)


def count(log: HeldLog, memory: int) -> None:
    """Counts and ranks."""
    counters = make_counters([(table.name, table.num_embeddings) for table in log.tables], memory)
    pool = _native.ThreadPool(0)
    for batch in log.held:
        _native.count_batch(counters, batch.ids, batch.offsets, batch.batch_size, pool)
    for counter in counters:
        counter.finish()


def numpy_dense(log: HeldLog) -> list[np.ndarray]:
    """An array of counts per table."""
    counts = [np.zeros(table.num_embeddings, np.int64) for table in log.tables]
    for batch in log.held:
        for number, total in enumerate(counts):
            total += np.bincount(batch.table_ids(number), minlength=total.size)
    return counts


def numpy_sparse(log: HeldLog) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ids that occur and their counts, per table: each batch's, merged at the end."""
    found = []
    for number in range(len(log.tables)):
        runs = [np.unique(batch.table_ids(number), return_counts=True) for batch in log.held]
        ids, place = np.unique(np.concatenate([run[0] for run in runs]), return_inverse=True)
        counts = np.bincount(place, weights=np.concatenate([run[1] for run in runs])).astype(np.int64)
        found.append((ids, counts))
    return found


def run(*, quick: bool) -> dict[str, object]:
    """Measure and print; returns the report's ``results``, ``ratios`` and ``settings``."""
    samples = (2 if quick else 8) * BATCH
    small, giant = (
        HeldLog(open_log(f"meta-reuse:rows={samples},tables={TABLES},table_rows={rows}"))
        for rows in (SMALL, GIANT)
    )
    memory = (4 if quick else 16) << 20
    bounded = AccessStatistics.collect(giant, memory_limit=memory)
    exact = AccessStatistics.collect(giant)
    assert all(table.exact for table in exact.tables)
    assert not any(table.exact for table in bounded.tables)
    for table, (ids, counts) in zip(exact.tables, numpy_sparse(giant), strict=True):
        order = np.lexsort((ids, -counts))
        assert (table.ids == ids[order]).all()
        assert (table.counts == counts[order]).all()
    bags = planted_bags(20_000 if quick else 200_000)[0]
    rows = 100_000
    flat = bags.astype(np.uint32).ravel()
    bag_of = np.repeat(np.arange(len(bags)), bags.shape[1])
    frequency = np.argsort(-np.bincount(flat, minlength=rows), kind="stable").astype(np.uint32)

    arms: dict[str, Any] = {
        "array": lambda: count(small, DEFAULT_MEMORY),
        "array_numpy": lambda: numpy_dense(small),
        "array_profile": lambda: AccessStatistics.collect(small),
        "map": lambda: count(giant, DEFAULT_MEMORY),
        "map_numpy": lambda: numpy_sparse(giant),
        "map_profile": lambda: AccessStatistics.collect(giant),
        "bounded": lambda: count(giant, memory),
        "bounded_profile": lambda: AccessStatistics.collect(giant, memory_limit=memory),
        "co_access": lambda: co_access_order(flat, bag_of, frequency, 15),
    }
    sizes = {
        name: sum(batch.ids.size for batch in (small if name.startswith("array") else giant).held)
        for name in arms
    }
    sizes["co_access"] = flat.size
    timings = measure(arms, rounds=2 if quick else 5, seconds_per_round=0.1)
    view = Table("arm", "look-ups", "seconds", "million look-ups/s", "spread")
    results = {}
    for name, timing in timings.items():
        rate = sizes[name] / timing.median
        results[name] = {
            "lookups": sizes[name],
            "seconds": timing.median,
            "million_lookups_per_s": rate / 1e6,
            "spread": timing.spread,
        }
        view.add_row(
            name, f"{sizes[name]:,}", f"{timing.median:.3f}", f"{rate / 1e6:.1f}", f"{timing.spread:.0%}"
        )
    Console().print(view)
    return {
        "settings": {
            "samples": samples,
            "bounded_memory": memory,
            "rows_seen": sum(table.num_seen for table in exact.tables),
            "rows_ranked": sum(table.num_ranked for table in bounded.tables),
            "max_count_error": max(table.max_count_error for table in bounded.tables),
        },
        "results": results,
        "ratios": {
            f"profile.{name}.vs_numpy": timings[f"{name}_numpy"].median / timings[name].median
            for name in ("array", "map")
        },
    }

"""Orders of rows in blocks that are fetched whole: made from a log's first part, judged on its last.

A block is what a look-up brings in for one row and others could share: a page on SSD, or the rows whose
tensor-train product has all digits but the last in common.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from screc import _native
from screc.statistics.coaccess import CoAccessSample, co_access_order
from screc.storage import PageGeometry, PageOrder, TtShape

if TYPE_CHECKING:
    from screc.data.log import ClickLog, Progress
    from screc.storage.layout import PageOrderKind

_SAMPLES_PER_STEP = 65536
# More look-ups than these teach next to nothing about a table, and its order is made the sooner.
_LOOKUPS_PER_ROW, _LEAST_LOOKUPS = 64, 1 << 20
MOST_ROWS = 1 << 32
"""Tables with so many rows have no orders: places in them are 32 bits wide."""
# Smaller tables gain nothing that matters.
_LEAST_ROWS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class PageOrderConfig:
    """How orders are made and judged.

    Attributes:
        samples_per_call: samples that are served as one call; blocks are counted per call.
        held_out_share: the last share of the log, which is not counted but measured on.
        hot_share: share of a table's rows, the hottest, that a co-access order keeps in front by frequency
            (EL-Rec keeps 0.05 so); blocks of hot rows are wanted by most calls anyway.
        min_saving: a table keeps the order of its ids, which costs nothing, unless its calls read fewer pages
            by at least this share of them.
        max_lookups: look-ups kept in memory, 12 bytes each, of all tables together; calls are thinned evenly.
            While an order is made, those of its table take about 40 bytes each.
        iterations: see :func:`~screc.statistics.coaccess.co_access_order`.
        threads: 0 means one per core.
    """

    samples_per_call: int = 256
    held_out_share: float = 0.1
    hot_share: float = 0.0
    min_saving: float = 0.05
    max_lookups: int = 1 << 24
    iterations: int = 10
    threads: int = 0

    def __post_init__(self) -> None:
        for name in ("samples_per_call", "max_lookups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 1, got {getattr(self, name)}")
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"held_out_share: must be between 0 and 1, got {self.held_out_share}")
        for name in ("hot_share", "min_saving"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}: must be at least 0 and below 1, got {getattr(self, name)}")


@dataclass(slots=True)
class OrderedTable:
    """One table while its orders are made and measured.

    Attributes:
        number: its place in the log.
        name: for messages.
        num_embeddings: its rows, below MOST_ROWS.
        block_rows: rows of a block; several are measured, and co-access orders are made for the first.
        left_out: bool [num_embeddings], rows that are fetched otherwise and come last; None for none.
        orders: the id at each place, uint32 [num_embeddings], by kind.
        calls: calls measured.
        rows: different rows that they wanted.
        fewest: for each of ``block_rows``, blocks that these rows would fill.
        blocks: for each of ``block_rows``, blocks that were wanted, by kind of order.
    """

    number: int
    name: str
    num_embeddings: int
    block_rows: tuple[int, ...]
    left_out: np.ndarray | None = None
    orders: dict[PageOrderKind, np.ndarray] = field(default_factory=dict)
    calls: int = 0
    rows: int = 0
    fewest: list[int] = field(default_factory=list)
    blocks: list[dict[PageOrderKind, int]] = field(default_factory=list)

    def by_frequency(self, ranked: np.ndarray) -> np.ndarray:
        """``ranked`` (ids by descending count), then rows that were not counted, then those left out."""
        counted = np.zeros(self.num_embeddings, np.uint8)
        if self.left_out is not None:
            counted[self.left_out] = 2
        counted[ranked] = 1
        parts = (ranked, np.flatnonzero(counted == 0), np.flatnonzero(counted == 2))
        return np.concatenate([part.astype(np.uint32) for part in parts])

    def wanted(self, ids: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The look-ups of rows that are not left out."""
        if self.left_out is None:
            return ids, samples
        kept = ~self.left_out[ids]
        return ids[kept], samples[kept]

    def count_blocks(
        self, ids: np.ndarray, calls: np.ndarray, places: dict[PageOrderKind, np.ndarray]
    ) -> None:
        """Adds the blocks of look-ups ``ids`` in ``calls``, int64 [n] both; ``places`` of ids by order."""
        keys = np.unique(calls * self.num_embeddings + ids)
        calls, ids = np.divmod(keys, self.num_embeddings)
        self.rows += ids.size
        if not self.blocks:
            self.fewest = [0 for _ in self.block_rows]
            self.blocks = [{"id": 0} | dict.fromkeys(self.orders, 0) for _ in self.block_rows]
        sizes = np.unique(calls, return_counts=True)[1]
        for position, rows in enumerate(self.block_rows):
            self.fewest[position] += int(np.sum(-(-sizes // rows)))
            num_blocks = -(-self.num_embeddings // rows)
            for kind in self.blocks[position]:
                place = places[kind][ids] if kind in places else ids
                self.blocks[position][kind] += np.unique(calls * num_blocks + place // rows).size


def split_log(log: ClickLog, config: PageOrderConfig, limit: int | None = None) -> tuple[int, int]:
    """Samples that are counted, a whole number of calls, and samples in all, ``limit`` at most.

    Raises:
        ValueError: the log is too short for both.
    """
    total = log.num_samples
    if total is None:
        total = sum(batch.batch_size for batch in log.batches(_SAMPLES_PER_STEP))
    total = total if limit is None else min(total, limit)
    size = config.samples_per_call
    counted = int(total * (1 - config.held_out_share)) // size * size
    if counted == 0 or total - counted < size:
        raise ValueError(
            f"log: {total} samples are too few to count calls of {size} and to hold out "
            f"{config.held_out_share:.0%} of them; give a longer log or smaller calls"
        )
    return counted, total


def make_orders(
    tables: Sequence[OrderedTable],
    log: ClickLog,
    counted: int,
    config: PageOrderConfig,
    *,
    co_access: bool,
    progress: Progress | None = None,
) -> None:
    """Makes the order by frequency of every table, and that by co-access, from the log's first samples."""
    share = config.max_lookups // max(len(tables), 1)
    needed = [max(_LOOKUPS_PER_ROW * table.num_embeddings, _LEAST_LOOKUPS) for table in tables]
    kept = [CoAccessSample(config.samples_per_call, min(share, enough)) for enough in needed]
    # Exact: an order takes 4 bytes a row anyway.
    counters: list[_native.RowCounter | None] = [
        _native.RowCounter(table.name, rows := table.num_embeddings, max(16 * rows, 2048)) for table in tables
    ]
    for done, found in _lookups(tables, log, 0, counted, config):
        for counter, sample, (ids, samples) in zip(counters, kept, found, strict=True):
            assert counter is not None
            counter.add(ids)
            if co_access:
                sample.add(ids, samples)
        if progress is not None:
            progress(done, counted)
    for number, (table, sample) in enumerate(zip(tables, kept, strict=True)):
        counter, counters[number] = counters[number], None  # frees its memory before the next order is made
        assert counter is not None
        table.orders["frequency"] = table.by_frequency(counter.finish().ids)
        if co_access:
            table.orders["co-access"] = co_access_order(
                *sample.result(),
                table.orders["frequency"],
                table.block_rows[0],
                hot_rows=int(config.hot_share * table.num_embeddings),
                samples_per_call=config.samples_per_call,
                iterations=config.iterations,
                threads=config.threads,
            )


def measure_orders(
    tables: Sequence[OrderedTable],
    log: ClickLog,
    counted: int,
    total: int,
    config: PageOrderConfig,
    *,
    progress: Progress | None = None,
) -> None:
    """Counts what the calls after the first ``counted`` samples want under every order of every table."""
    last = counted + (total - counted) // config.samples_per_call * config.samples_per_call
    places = [
        {kind: PageOrder(table.name, kind, order).slots() for kind, order in table.orders.items()}
        for table in tables
    ]
    for done, found in _lookups(tables, log, counted, last, config):
        for table, own, (ids, samples) in zip(tables, places, found, strict=True):
            table.count_blocks(ids, samples // config.samples_per_call, own)
            table.calls = (done - counted) // config.samples_per_call
        if progress is not None:
            progress(done - counted, last - counted)


def _lookups(
    tables: Sequence[OrderedTable], log: ClickLog, first: int, last: int, config: PageOrderConfig
) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray]]]]:
    """Samples done after each step, and each table's wanted look-ups: ids and samples, int64 [n] both."""
    size = config.samples_per_call
    step = max(1, _SAMPLES_PER_STEP // size) * size  # whole calls
    for batch in log.batches(step, skip=first):
        batch = batch if first + batch.batch_size <= last else batch.rows(0, last - first)
        numbers = np.arange(first, first + batch.batch_size)
        found = []
        for table in tables:
            lengths = np.diff(batch.table_offsets(table.number))
            found.append(table.wanted(batch.table_ids(table.number), np.repeat(numbers, lengths)))
        first += batch.batch_size
        yield first, found
        if first >= last:
            return


# ----------------------------------------------------------------------------------------------------
# what orders would be worth, before anything is planned


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockReads:
    """Blocks of one size that a call wants of one table, mean.

    Attributes:
        block: what a block stands for.
        block_rows: rows of a block.
        fewest: blocks that the call's different rows would fill: no order can do with fewer.
        by_id, by_frequency, by_co_access: blocks with rows in these orders.
    """

    block: str
    block_rows: int
    fewest: float
    by_id: float
    by_frequency: float
    by_co_access: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CoAccess:
    """What ordering one table's rows by co-access would be worth.

    Attributes:
        table: its name.
        calls: calls measured, all from the held-out part of the log.
        rows: different rows per call, mean.
        reads: blocks per call, by size.
    """

    table: str
    calls: int
    rows: float
    reads: tuple[BlockReads, ...]


def blocks_of(num_embeddings: int) -> dict[str, int]:
    """Rows of each kind of block of a table."""
    return {
        "256-byte rows": PageGeometry.of(256).rows_per_page,
        "64-byte rows": PageGeometry.of(64).rows_per_page,
        "TT prefix": TtShape.balanced(num_embeddings, 1, 1).row_factors[-1],
    }


def measure_co_access(
    log: ClickLog,
    config: PageOrderConfig | None = None,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[CoAccess, ...]:
    """What calls want of every table of 1,000 to 2^32 rows, with rows by id, by frequency and by co-access.

    Blocks are the pages of 4 KiB that hold rows of 256 and of 64 bytes, and the rows of a tensor train over
    the whole table (:meth:`TtShape.balanced`, three cores) that share all but their last digit, whose product
    of the first two cores is computed once. Memory: as for :func:`make_page_orders`.

    Args:
        log: its first part is counted, its last measured on.
        config: see :class:`PageOrderConfig`.
        limit: read the first samples only.
        progress: called with (samples done, samples in all), twice over the log.

    Raises:
        ValueError: the log is too short.
    """
    config = config or PageOrderConfig()
    tables, names = [], []
    for number, spec in enumerate(log.tables):
        if _LEAST_ROWS <= spec.num_embeddings < MOST_ROWS:
            kinds = blocks_of(spec.num_embeddings)
            tables.append(OrderedTable(number, spec.name, spec.num_embeddings, tuple(kinds.values())))
            names.append(tuple(kinds))
    counted, total = split_log(log, config, limit)
    make_orders(tables, log, counted, config, co_access=True, progress=progress)
    measure_orders(tables, log, counted, total, config, progress=progress)
    return tuple(
        CoAccess(
            table=table.name,
            calls=table.calls,
            rows=table.rows / table.calls,
            reads=tuple(
                BlockReads(
                    block=name,
                    block_rows=rows,
                    fewest=fewest / table.calls,
                    by_id=blocks["id"] / table.calls,
                    by_frequency=blocks["frequency"] / table.calls,
                    by_co_access=blocks["co-access"] / table.calls,
                )
                for name, rows, fewest, blocks in zip(
                    kinds, table.block_rows, table.fewest, table.blocks, strict=True
                )
            ),
        )
        for table, kinds in zip(tables, names, strict=True)
    )

"""The row store: rows by table and id, from whichever memory they live in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from screc import _native

from .artifact import Artifact, index_specs, load_artifact, read_manifest, written_kind, written_specs
from .layout import TableLayout
from .mapping import DataFlow, TableCores, set_mapping
from .strategy import set_strategies
from .updates import UpdateOptions, Updates, UpdateStats, WriterLock, replay

CachePolicy = Literal["sketch", "lru"]


class Ticket:
    """A look-up that has begun (:meth:`RowStore.prefetch`). One that is dropped unfinished is given up."""

    def __init__(self, native: Any, out: np.ndarray) -> None:
        self._native = native
        self._out = out

    def poll(self) -> None:
        """Lets reads go on without waiting: at most ``queue_depth`` of them are in flight at a time."""
        self._native.poll()

    def finish(self) -> np.ndarray:
        """Waits for the rows and returns them, float32 [batch_size, sum of the tables' dims].

        Raises:
            OSError: a page is damaged or cannot be read; the message names table, page and file.
            RuntimeError: it was called before.
        """
        self._native.finish()
        return self._out


class RowStore:
    """The embedding tables of an artifact, opened for look-ups.

    A row comes back exactly as its format stores it: fp32 rows bit by bit from DRAM and SSD, rows of the
    other formats as what they decode to, tensor-train rows as the product of their cores. Calls may come
    from several threads, and look-ups may be begun before others are finished (:meth:`prefetch`): their rows
    on SSD are read meanwhile.

    Attributes:
        native: the compiled store, for the engine.
        tables: names of the tables in order.
        layouts: where their rows are.
    """

    def __init__(self, native: Any, layouts: Sequence[TableLayout]) -> None:
        self.native = native
        self.layouts = tuple(layouts)
        self.tables = tuple(layout.table for layout in layouts)
        self._dims = tuple(layout.embedding_dim for layout in layouts)
        self._updates: Updates | None = None

    @classmethod
    def open(
        cls,
        path: Artifact | Path | str,
        *,
        io: str = "auto",
        queue_depth: int = 256,
        threads: int = 0,
        cache_bytes: int = 0,
        cache_policy: CachePolicy = "sketch",
        strategies: str | Mapping[str, str] = "gather",
        updates: UpdateOptions | bool = False,
    ) -> RowStore:
        """Opens the tables of an artifact: loads and checks what lives in DRAM, opens the SSD bands.

        Args:
            path: the artifact or its directory.
            io: "auto", "io_uring" or "pread"; how SSD pages are read.
            queue_depth: reads in flight at most, of each look-up.
            threads: threads for look-ups and the engine; 0 means one per available core.
            cache_bytes: DRAM for a cache of rows that stand on SSD, its bookkeeping included; 0 for none.
            cache_policy: which rows stay in it: "sketch", those wanted most often lately, or "lru", those
                wanted last.
            strategies: how the rows of tables whose only band is in DRAM are fetched: one of
                ``screc.storage.STRATEGIES`` for each table that can have it, strategies by table name, or
                "measured": small tables of fp32 rows are timed now, some milliseconds each, and take the
                fastest. The others are gathered.
            updates: whether rows may be updated (:meth:`update`), and how much that may take. One process at
                a time can; the others that open the artifact have the updates of before.

        Updates in the artifact's log are made again. A path whose artifact is replaced meanwhile is opened
        again, so that the rows are of one artifact.

        Raises:
            FileNotFoundError: there is no artifact at ``path``.
            DamagedFileError: a file is missing, cut or changed, or the update log is damaged.
            BlockingIOError: another process has opened the artifact for updates.
            ReplacedError: the artifact given as ``path`` was replaced since it was opened.
            OSError: SSD bands cannot be opened, or ``io`` is refused here.
            ValueError: an argument is out of range, or a named table cannot have its strategy.
            KeyError: ``strategies`` names no table.
        """

        def load(artifact: Artifact) -> RowStore:
            return cls._load(
                artifact, io, queue_depth, threads, cache_bytes, cache_policy, strategies, lock, options
            )

        options = UpdateOptions() if isinstance(updates, bool) else updates
        directory = Path(path.path if isinstance(path, Artifact) else path)
        read_manifest(directory)  # before a lock is left beside what is no artifact
        lock = WriterLock(directory) if updates else None
        try:
            if isinstance(path, Artifact):
                return path.unreplaced(lambda: load(path))
            return load_artifact(path, load)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    @classmethod
    def _load(
        cls,
        artifact: Artifact,
        io: str,
        queue_depth: int,
        threads: int,
        cache_bytes: int,
        cache_policy: CachePolicy,
        strategies: str | Mapping[str, str],
        lock: WriterLock | None,
        options: UpdateOptions,
    ) -> RowStore:
        native = _native.RowStore(
            io=io,
            queue_depth=queue_depth,
            threads=threads,
            cache_bytes=cache_bytes,
            cache_policy=cache_policy,
        )
        tensors = artifact.load_tables()
        for number, table in enumerate(artifact.tables):
            layout = table.layout
            native.add_table(layout.num_embeddings, layout.embedding_dim, table.pooling == "mean")
            for position, band in enumerate(layout.bands):
                prefix = f"{number}.{position}"
                kind = table.indices[position]
                index = None
                if kind is not None:
                    names = index_specs(layout, position)
                    index = (kind, *(tensors[f"{prefix}.index.{name}"] for name in names))
                scale = tuple(tensors[f"{prefix}.scale"].tolist()) if band.scale == "table" else None
                if band.tt is not None:
                    cores = [tensors[f"{prefix}.tt.{core}"] for core in range(band.tt.num_cores)]
                    native.add_tt_band(number, cores, index)
                elif band.memory == "dram":
                    rows = tensors[f"{prefix}.rows"]
                    native.add_dram_band(number, rows, index, format=band.format, scale=scale)
                    native.allow_updates(number, position, rows)
                else:
                    written, default_row = None, None
                    if (form := written_kind(layout, position)) is not None:
                        names = written_specs(layout, position)
                        written = (form, *(tensors[f"{prefix}.pages.{name}"] for name in names))
                        default_row = tensors[f"{prefix}.default"].view(np.uint8)
                    native.add_ssd_band(
                        number,
                        str(artifact.pages_path(number, position)),
                        position,
                        index,
                        format=band.format,
                        scale=scale,
                        written=written,
                        default_row=default_row,
                    )
        names = tuple(table.layout.table for table in artifact.tables)
        single = {
            number: tensors[f"{number}.0.rows"]
            for number, table in enumerate(artifact.tables)
            if len(table.layout.bands) == 1 and f"{number}.0.rows" in tensors
        }
        set_strategies(native, strategies, names, single, threads=threads)
        store = cls(native, [table.layout for table in artifact.tables])
        end, updated = replay(artifact, native, writer=lock is not None)
        if lock is not None:
            store._updates = Updates(artifact, native, tensors, end, updated, lock, options)
        return store

    def gather(self, table: int | str, ids: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The rows of ids int64 [n] of one table (number or name), float32 [n, dim].

        Raises:
            KeyError: there is no such table.
            ValueError: an id out of range, or ``out`` of another shape.
            OSError: a page is damaged or cannot be read; the message names table, page and file.
        """
        number = self._number(table)
        if out is None:
            out = np.empty((len(ids), self._dims[number]), np.float32)
        self.native.gather(number, ids, out)
        return out

    def set_mapping(self, mapping: Sequence[TableCores]) -> None:
        """Says whose each table is in the asymmetric data flow, in any order; an empty one: no such flow.

        Copies of the rows that belong to cores are made now, and worker threads stay on cores of their own.

        Raises:
            KeyError: a name is no table's.
            ValueError: a table is missing or twice there, or cannot be looked up as the mapping says.
        """
        set_mapping(self.native, mapping, self.tables)

    def lookup(
        self,
        ids: np.ndarray,
        offsets: np.ndarray,
        batch_size: int,
        out: np.ndarray | None = None,
        *,
        data_flow: DataFlow = "symmetric",
    ) -> np.ndarray:
        """Pools the bags of a batch, float32 [batch_size, sum of the tables' dims].

        Args:
            ids: int64 [nnz], table by table.
            offsets: int64 [tables * batch_size + 1], table-major, as in :class:`screc.data.Batch`.
            batch_size: samples.
            out: where to write; made when None.
            data_flow: "asymmetric" looks up as the mapping says (:meth:`set_mapping`); the bits are the same.

        Raises:
            ValueError: ids or offsets out of range; the message names table, position and value.
            OSError: a page is damaged or cannot be read; the message names table, page and file.
            RuntimeError: the asymmetric data flow without a mapping.
        """
        if out is None:
            out = np.empty((batch_size, sum(self._dims)), np.float32)
        self.native.lookup(ids, offsets, batch_size, out, data_flow)
        return out

    def prefetch(
        self, ids: np.ndarray, offsets: np.ndarray, batch_size: int, out: np.ndarray | None = None
    ) -> Ticket:
        """Begins what :meth:`lookup` does: starts reads from SSD and does all that need not wait for them.

        ``ids`` and ``offsets`` must not change, and ``out`` is undefined, until :meth:`Ticket.finish`
        returns it.

        Raises:
            ValueError: ids or offsets out of range; the message names table, position and value.
            RuntimeError: 8 tickets are in flight already.
        """
        if out is None:
            out = np.empty((batch_size, sum(self._dims)), np.float32)
        return Ticket(self.native.begin(ids, offsets, batch_size, out), out)

    def update(self, table: int | str, ids: np.ndarray, rows: np.ndarray) -> None:
        """Gives ids of one table (number or name) new rows.

        When it returns, the rows are durable and every look-up that begins sees them; one in progress sees
        the old or the new of each row. Several threads' updates are made durable together. Rows are written
        as the format of their place holds rows: fp32 bit by bit, others rounded as packing would; rows of
        tensor trains are kept in fp32. They come back so from now on.

        Ids are those of the table: rows that exist, and rows of a sparse table that were not known. Ids past
        the table's end are refused: pack the table with room, as a sparse one.

        Args:
            table: number or name.
            ids: int64 [n]; of an id that is there twice, the last row counts.
            rows: float32 [n, dim].

        Raises:
            KeyError: there is no such table.
            TypeError, ValueError: an id, or a value that is not finite or that the format cannot hold; the
                message names its position. Or more than 1 GiB. Nothing is updated.
            ReplacedError: another artifact has been put at the path. Nothing is updated.
            OSError: the disk is full or failing, or there is no room for more updates (``UpdateOptions``).
                Nothing is updated.
            RuntimeError: the store was not opened for updates.
        """
        self._writer().update(self._number(table), ids, rows)

    def compact(self) -> None:
        """Writes updated rows into the artifact now, whose next generation takes its place, and cuts the log.

        Look-ups and updates go on meanwhile. Rows of tensor trains stay in the log and in memory.

        Raises:
            DamagedFileError: a page that is to be changed is damaged; the message names it.
            OSError: the disk is or would be full. The artifact and the log are as they were.
            RuntimeError: the store was not opened for updates.
        """
        self._writer().compact()

    def update_stats(self) -> UpdateStats | None:
        """What updates have done since the store was opened; None where it is not open for them."""
        updates = self._updates
        return None if updates is None else updates.stats()

    def close(self) -> None:
        """Ends updates, so that another process can make some; look-ups go on. Needed for nothing else."""
        if self._updates is not None:
            self._updates.close()
            self._updates = None

    def __enter__(self) -> RowStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _writer(self) -> Updates:
        if self._updates is None:
            raise RuntimeError("the store was not opened for updates; use RowStore.open(path, updates=True)")
        return self._updates

    def stats(self) -> Any:
        """Counts since the store was opened, with units in their documentation;
        ``dram_rows + tt_rows + ssd_rows == lookups``."""
        return self.native.stats()

    @property
    def dram_bytes(self) -> int:
        """Bytes of rows, cores, indices and cache in DRAM."""
        return self.stats().dram_bytes

    def _number(self, table: int | str) -> int:
        if isinstance(table, str):
            if table not in self.tables:
                raise KeyError(f"no table '{table}'; the artifact has {', '.join(self.tables)}")
            return self.tables.index(table)
        if not 0 <= table < len(self.tables):
            raise KeyError(f"no table {table}; the artifact has {len(self.tables)}")
        return table

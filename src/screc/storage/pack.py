"""Packing: a checkpoint and a plan become an artifact."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screc import _native

from .artifact import (
    ASSETS,
    DENSE_FILE,
    FORMAT,
    MANIFEST_FILE,
    RANGES_FILE,
    TABLES_FILE,
    VERSION,
    DensePrecision,
    Manifest,
    PackedTable,
    dram_specs,
    index_kinds,
    index_specs,
    pages_file,
    write_manifest,
    written_specs,
)
from .atomic import replace_directory
from .band_encoding import band_cores, band_scale, encode_band, encode_default
from .band_source import BandSource, RankedTable, same_bands
from .checkpoint import Checkpoint, table_file
from .checksum import FileEntry
from .layout import PAGE_BYTES, PageGeometry, TableLayout
from .matching import PlacementPlan, RankedTables, check_sparse, match_layouts, match_statistics
from .page_order import PageOrder, ordered_layouts
from .remap import bitmap_index, hash_index
from .row_format import EncodingError, Scale, decode_rows
from .sparse import group_index, runs
from .tensors import TensorFile, TensorSpec, write_arrays, write_tensors

_CHUNK_BYTES = 8 << 20

Progress = Callable[[int, int], None]
# Chooses a precision, given the directory of an artifact that is complete but for it.
ChoosePrecision = Callable[[Path], DensePrecision]


@dataclass(frozen=True, slots=True)
class FitError:
    """Relative Frobenius error of rows that are not float32, or of a tensor-train band that was fitted, there
    with each row weighted by its expected look-ups."""

    table: str
    band: int
    error: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PackReport:
    """What was packed.

    Attributes:
        path: the artifact.
        dram_bytes: bytes the tables take in DRAM when served: rows, cores and indices.
        ssd_bytes: bytes of the page files, holes included.
        written_bytes: bytes of their pages that were written; less than ``ssd_bytes`` in sparse tables.
        tt_bytes: bytes of tensor-train cores, part of ``dram_bytes``.
        index_bytes: bytes of the indices, part of ``dram_bytes``.
        dense_bytes: bytes of the weights outside the tables.
        fit_errors: one entry for every tensor train that was fitted and every band whose rows are not
            float32.
        precision: what was decided on the layers outside the tables; None means float32, undecided.
        seconds: wall-clock time.
    """

    path: Path
    dram_bytes: int
    ssd_bytes: int
    written_bytes: int
    tt_bytes: int
    index_bytes: int
    dense_bytes: int
    fit_errors: tuple[FitError, ...]
    precision: dict[str, Any] | None
    seconds: float


def pack(
    checkpoint: Checkpoint | Path | str,
    statistics: RankedTables | None,
    plan: PlacementPlan | None,
    out: Path | str,
    *,
    page_orders: Sequence[PageOrder] = (),
    choose_precision: ChoosePrecision | None = None,
    progress: Progress | None = None,
) -> PackReport:
    """Writes the artifact that serves a checkpoint under a plan; one at ``out`` is replaced atomically.

    A table trained whole is cut into the plan's bands by ``statistics``; tensor-train bands are fitted to its
    rows, each counting as its expected look-ups. A table trained with the plan's bands is taken over bit by
    bit, but for rows that the plan wants in another format than float32, which are rounded to it. Of a sparse
    table's last band on SSD only the pages with known rows are written, the rest of the file being holes.
    Memory does not grow with the table beyond its remap (16 bytes per row of its indexed bands, 8 per row of
    an ordered table, 8 per known row of a sparse table), 4 bytes per slot of a tensor train that is fitted
    and a gigabyte for its fit.

    Args:
        checkpoint: the trained model.
        statistics: the rank order of each table's rows and their look-ups; may be None where no whole table
            has to be cut.
        plan: the layout of each table, matched by name; with None every table stays as it was trained.
        out: the directory to write.
        page_orders: the order of the rows in the pages of some tables' last bands; 4 bytes of DRAM a row.
            Tables without one keep the order of their ids.
        choose_precision: called with the directory before it takes its place, complete but for the precision
            that it returns; what it raises keeps the artifact from being put there. None means float32.
        progress: called with bytes done and bytes to do.

    Raises:
        ValueError: the plan or the statistics do not fit the checkpoint, a table was trained with other
            bands, or a row is not finite; the message names the table.
        DamagedFileError: a file of the checkpoint is not what was written.
        FileExistsError: ``out`` holds something other than an artifact.
        ReplacedError: the checkpoint was replaced meanwhile; an artifact at ``out`` is unchanged.
        OSError: the disk is or would be full; an artifact at ``out`` is unchanged.
    """
    began = time.perf_counter()
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.open(checkpoint)
    trained = [table.layout for table in checkpoint.tables]
    layouts = trained if plan is None else match_layouts(checkpoint, plan.layouts)
    orders = {order.table: order for order in page_orders}
    if len(orders) != len(page_orders):
        raise ValueError("page_orders: two are of the same table")
    layouts = ordered_layouts(layouts, orders)
    check_sparse(checkpoint, layouts)
    ranks = match_statistics(checkpoint, layouts, statistics)
    if checkpoint.path.resolve().is_relative_to(Path(out).resolve()):
        raise ValueError(f"out: {out} holds the checkpoint {checkpoint.path}; choose another path")
    with replace_directory(out, holding=MANIFEST_FILE) as directory:
        packer = _Packer(checkpoint, layouts, ranks, orders, directory, progress)
        manifest = checkpoint.unreplaced(lambda: packer.write(None if plan is None else plan.to_dict()))
        if choose_precision is not None:
            manifest = _with_precision(directory, manifest, choose_precision(directory))
    layouts = packer.layouts
    return PackReport(
        path=Path(out),
        dram_bytes=sum(layout.dram_bytes for layout in layouts),
        ssd_bytes=sum(layout.ssd_bytes for layout in layouts),
        written_bytes=sum(layout.ssd_written_bytes for layout in layouts),
        tt_bytes=sum(
            layout.band_bytes(b) for layout in layouts for b, band in enumerate(layout.bands) if band.tt
        ),
        index_bytes=sum(layout.index_bytes(b) for layout in layouts for b in range(len(layout.bands))),
        dense_bytes=packer.dense_bytes,
        fit_errors=tuple(FitError(layouts[t].table, b, e) for (t, b), e in packer.fit_errors.items()),
        precision=manifest.precision,
        seconds=time.perf_counter() - began,
    )


def _with_precision(directory: Path, manifest: Manifest, precision: DensePrecision) -> Manifest:
    """Adds a precision to the artifact in a directory; returns its new manifest."""
    files = manifest.files
    if precision.ranges:
        files += (write_arrays(directory / RANGES_FILE, precision.ranges),)
    manifest = manifest.model_copy(update={"files": files, "precision": precision.document})
    write_manifest(directory, manifest)
    return manifest


class _Packer:
    """Writes the files of one artifact into a directory."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        layouts: list[TableLayout],
        ranks: Sequence[RankedTable | None],
        orders: Mapping[str, PageOrder],
        directory: Path,
        progress: Progress | None,
    ) -> None:
        self.checkpoint, self.layouts, self.ranks = checkpoint, layouts, ranks
        self.orders, self.directory, self.progress = orders, directory, progress
        self.fit_errors: dict[tuple[int, int], float] = {}
        self.dense_bytes = 0
        self._source: tuple[int, BandSource] | None = None
        self._written: tuple[int, dict[str, np.ndarray]] | None = None
        self._index: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None
        self._cores: tuple[tuple[int, int], Sequence[np.ndarray]] | None = None
        self._scales: dict[tuple[int, int], Scale | None] = {}
        self._done = self._to_do = 0

    def write(self, plan: dict[str, Any] | None) -> Manifest:
        """Writes everything, the manifest last, and returns that."""
        for table in range(len(self.layouts)):
            self.checkpoint.check(table_file(table))  # a damaged table is found before it is packed
            self.layouts[table] = self._with_holes(table)
        self._plan_work()
        dense = self.checkpoint.dense()
        for name, weight in dense.items():
            if not np.isfinite(weight).all():
                raise ValueError(f"dense weight {name} is not finite; train the model again")
        self.dense_bytes = sum(weight.nbytes for weight in dense.values())
        files = [write_arrays(self.directory / DENSE_FILE, dense)]
        files.append(self._write_tables())
        (self.directory / "pages").mkdir()
        for table, layout in enumerate(self.layouts):
            for band, placed in enumerate(layout.bands):
                if placed.memory == "ssd":
                    files.append(self._write_pages(table, band))
        files += self._copy_assets()
        tables = tuple(
            PackedTable(
                layout,
                self.checkpoint.tables[t].pooling,
                index_kinds(layout),
                tuple(self.fit_errors.get((t, b)) for b in range(len(layout.bands))),
            )
            for t, layout in enumerate(self.layouts)
        )
        self._check_bytes(files)
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            model=self.checkpoint.model,
            tables=tables,
            files=tuple(files),
            plan=plan,
        )
        write_manifest(self.directory, manifest)
        return manifest

    def source(self, table: int) -> BandSource:
        """The rows of a table; only the last one asked for stays open."""
        if self._source is None or self._source[0] != table:
            self._source = None
            file = self.checkpoint.table_tensors(table)
            stored = self.checkpoint.tables[table].layout
            self._source = (table, BandSource(file, stored, self.layouts[table], self.ranks[table]))
        return self._source[1]

    def _with_holes(self, table: int) -> TableLayout:
        """The table's layout, which says how many pages are written where only some of its rows are known."""
        layout = self.layouts[table]
        if self.checkpoint.tables[table].known_rows is None:
            return layout
        groups = self.source(table).written_groups
        return layout if groups is None else layout.with_written(len(groups))

    def _plan_work(self) -> None:
        """Counts the bytes to be written and to be fitted; refuses before the work what would not fit."""
        written = sum(layout.dram_bytes + layout.ssd_written_bytes for layout in self.layouts)
        needed = written + sum(
            entry.bytes
            for entry in self.checkpoint.files
            if entry.path == DENSE_FILE or entry.path.startswith(f"{ASSETS}/")
        )
        free = shutil.disk_usage(self.directory).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({needed} bytes needed, {free} free)")
        self._to_do = written + sum(
            layout.num_embeddings * layout.embedding_dim * 4
            for t, layout in enumerate(self.layouts)
            for b in range(len(layout.bands))
            if self._fitted(t, b)
        )

    def _fitted(self, table: int, band: int) -> bool:
        layout = self.layouts[table]
        return layout.bands[band].tt is not None and not same_bands(
            self.checkpoint.tables[table].layout, layout
        )

    def _write_tables(self) -> FileEntry:
        specs: dict[str, TensorSpec] = {}
        for table, layout in enumerate(self.layouts):
            specs.update(dram_specs(table, layout))
        return write_tensors(self.directory / TABLES_FILE, specs, self._produce)

    def _produce(self, name: str) -> np.ndarray | Iterable[np.ndarray]:
        first, second, kind, *rest = name.split(".")
        table, band = int(first), int(second)
        if kind == "rows":
            return self._row_chunks(table, band)
        if kind == "scale":
            found = np.array(self._scale(table, band), np.float32)
        elif kind == "index":
            found = self._index_arrays(table, band)[rest[0]]
        elif kind == "pages":
            found = self._written_arrays(table, band)[rest[0]]
        elif kind == "default":
            found = encode_default(self.source(table), band, self._scale(table, band))
        else:
            found = self._tt(table, band)[int(rest[0])]
        self._advance(found.nbytes)
        return found

    def _row_chunks(self, table: int, band: int) -> Iterable[np.ndarray]:
        step = max(1, _CHUNK_BYTES // (4 * self.layouts[table].embedding_dim))
        for _, rows in self._encoded(table, band, step):
            yield rows
            self._advance(rows.nbytes)

    def _encoded(self, table: int, band: int, step: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """The stored rows of a band in its format, ``step`` at a time, with their slots; notes what the
        format loses."""
        layout, source = self.layouts[table], self.source(table)
        row_format, dim = layout.bands[band].format, layout.embedding_dim
        assert row_format != "tt"
        # In a last band, whatever its order, the source knows rows by their ids.
        order = None if layout.bands[band].order == "id" else self.orders[layout.table].ids
        scale, error = self._scale(table, band), EncodingError()
        for slots in source.stored_slots(band, step):
            places = slots if order is None else order[slots].astype(np.int64)
            rows = source.rows(band, places)
            if row_format == "fp32":
                yield slots, rows
                continue
            encoded = encode_band(source, band, places, rows, scale)
            used = source.used(band, places)
            error.add(rows[used], decode_rows(encoded, row_format, dim, scale)[used])
            yield slots, encoded
        if row_format != "fp32":
            self.fit_errors[table, band] = error.relative

    def _scale(self, table: int, band: int) -> Scale | None:
        """What the rows of a band share; None where each has its own or none is needed."""
        if (table, band) not in self._scales:
            self._scales[table, band] = band_scale(self.source(table), band)
        return self._scales[table, band]

    def _index_arrays(self, table: int, band: int) -> dict[str, np.ndarray]:
        if self._index is None or self._index[0] != (table, band):
            self._index = None
            layout, kind = self.layouts[table], index_kinds(self.layouts[table])[band]
            arrays: Sequence[np.ndarray]
            if kind == "order":
                arrays = (self.orders[layout.table].slots(),)
            else:
                ids = self.source(table).ids(band)
                if kind == "bitmap":
                    arrays = bitmap_index(ids, layout.num_embeddings)
                else:
                    arrays = hash_index(ids, np.arange(len(ids), dtype=np.uint32))
            named = dict(zip(index_specs(layout, band), arrays, strict=True))
            self._index = ((table, band), named)
        return self._index[1]

    def _written_arrays(self, table: int, band: int) -> dict[str, np.ndarray]:
        if self._written is None or self._written[0] != table:
            self._written = None
            layout = self.layouts[table]
            groups = self.source(table).written_groups
            assert groups is not None
            arrays = group_index(groups, layout.page_groups(band))
            self._written = (table, dict(zip(written_specs(layout, band), arrays, strict=True)))
        return self._written[1]

    def _tt(self, table: int, band: int) -> Sequence[np.ndarray]:
        if self._cores is None or self._cores[0] != (table, band):
            self._cores = None
            source = self.source(table)
            if source.taken_over:
                cores: Sequence[np.ndarray] = source.cores(band)
            else:
                layout = self.layouts[table]
                work, before = layout.num_embeddings * layout.embedding_dim * 4, self._done
                fit = band_cores(
                    source,
                    band,
                    progress=lambda done, total: self._advance_to(before + work * done // total),
                )
                self._advance_to(before + work)
                cores, self.fit_errors[table, band] = fit.cores, fit.error
            self._cores = ((table, band), cores)
        return self._cores[1]

    def _write_pages(self, table: int, band: int) -> FileEntry:
        layout = self.layouts[table]
        geometry = PageGeometry.of(layout.row_bytes(band))
        step = max(1, _CHUNK_BYTES // (PAGE_BYTES * geometry.pages_per_row)) * geometry.rows_per_page
        name, num_bytes = pages_file(table, band), layout.band_bytes(band)
        buffer = np.empty((geometry.num_pages(min(step, layout.slots(band))), PAGE_BYTES), np.uint8)
        checksum = done = 0
        with open(self.directory / name, "wb") as file:
            file.truncate(num_bytes)
            for slots, rows in self._encoded(table, band, step):
                for start, stop in runs(slots):
                    page = int(slots[start]) // geometry.rows_per_page * geometry.pages_per_row
                    pages = buffer[: geometry.num_pages(stop - start)]
                    _native.fill_pages(rows[start:stop].view(np.uint8), table, band, page, pages)
                    file.seek(page * PAGE_BYTES)  # what is passed over stays a hole
                    file.write(memoryview(pages).cast("B"))
                    checksum = _native.crc32c_zeros(page * PAGE_BYTES - done, checksum)
                    checksum = _native.crc32c(pages, checksum)
                    done = page * PAGE_BYTES + pages.nbytes
                    self._advance(pages.nbytes)
        return FileEntry(path=name, bytes=num_bytes, crc32c=_native.crc32c_zeros(num_bytes - done, checksum))

    def _copy_assets(self) -> list[FileEntry]:
        files = []
        for entry in self.checkpoint.files:
            if entry.path.startswith(f"{ASSETS}/"):
                target = self.directory / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.checkpoint.path / entry.path, target)
                entry.check(self.directory)
                files.append(entry)
        return files

    def _check_bytes(self, files: Sequence[FileEntry]) -> None:
        """What was written takes exactly the bytes that planning was told."""
        tensors = TensorFile(self.directory / TABLES_FILE)
        sizes = {entry.path: entry.bytes for entry in files}
        for table, layout in enumerate(self.layouts):
            dram = sum(tensors.spec(n).num_bytes for n in tensors.names if n.startswith(f"{table}."))
            ssd = sum(sizes.get(pages_file(table, band), 0) for band in range(len(layout.bands)))
            if (dram, ssd) != (layout.dram_bytes, layout.ssd_bytes):
                raise RuntimeError(
                    f"internal error: table {layout.table} takes {dram} DRAM and {ssd} SSD bytes, its layout "
                    f"says {layout.dram_bytes} and {layout.ssd_bytes}; please report this"
                )

    def _advance(self, num_bytes: int) -> None:
        self._advance_to(self._done + num_bytes)

    def _advance_to(self, done: int) -> None:
        self._done = done
        if self.progress is not None:
            self.progress(done, self._to_do)

"""Compaction: an artifact with updated rows becomes the next generation of itself."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screc import _native

from .artifact import (
    MANIFEST_FILE,
    TABLES_FILE,
    Artifact,
    ArtifactUpdates,
    Manifest,
    PackedTable,
    dram_specs,
    pages_file,
    read_manifest,
    write_manifest,
    written_kind,
    written_specs,
)
from .atomic import ReplacedError, identity, replace_directory
from .checksum import DamagedFileError, FileEntry
from .layout import PAGE_BYTES, PAGE_HEADER_BYTES, PageGeometry, TableLayout
from .manifest import parse_manifest
from .sparse import data_ranges, group_index, indexed_groups
from .tensors import write_tensors

_CHUNK_BYTES = 8 << 20
_COPY_BYTES = 1 << 30
_ONES = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class BandRows:
    """Rows of an SSD band that take the place of others: slots int64 [n], ascending, and rows uint8
    [n, row_bytes], as the band holds them."""

    slots: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True, slots=True)
class Written:
    """A generation that was written.

    Attributes:
        artifact: it, opened.
        tensors: those of its index arrays that are not as they were, by name.
        bytes: bytes written, those of linked files not counted.
    """

    artifact: Artifact
    tensors: Mapping[str, np.ndarray]
    bytes: int


def write_generation(
    artifact: Artifact,
    tensors: Mapping[str, np.ndarray],
    bands: Mapping[tuple[int, int], BandRows],
    *,
    rows_changed: bool,
    guard: AbstractContextManager[object],
    ready: Callable[[tuple[int, ...]], object] = lambda identity: None,
) -> Written:
    """Writes the next generation of an artifact and puts it in the artifact's place.

    Files without changes are linked, page files with changes copied (shared, where the file system can) and
    changed. A crash leaves this generation or the next.

    Args:
        artifact: this generation.
        tensors: what a store has in DRAM of it, by name, with the updated rows.
        bands: new rows of SSD bands by table and band.
        rows_changed: whether some rows among ``tensors`` have changed.
        guard: held while some of them are copied, so that no update changes them meanwhile.
        ready: called with the identity of the next generation before it takes its place.

    Raises:
        DamagedFileError: a page that is to be changed is damaged.
        ReplacedError: another artifact has taken this one's place; it is untouched.
        OSError: the disk is or would be full; this generation is in place.
    """
    writer = _Writer(artifact, tensors, bands, rows_changed, guard)
    with replace_directory(artifact.path, holding=MANIFEST_FILE) as directory:
        writer.write(directory)
        if identity(artifact.path / MANIFEST_FILE) != artifact.identity:
            raise ReplacedError(artifact.path)
        ready(identity(directory / MANIFEST_FILE))
    return Written(Artifact.open(artifact.path), writer.new_tensors, writer.bytes)


class _Writer:
    """Writes the files of one generation into a directory."""

    def __init__(
        self,
        artifact: Artifact,
        tensors: Mapping[str, np.ndarray],
        bands: Mapping[tuple[int, int], BandRows],
        rows_changed: bool,
        guard: AbstractContextManager[object],
    ) -> None:
        self.artifact, self.tensors, self.guard = artifact, tensors, guard
        self.pages = {pages_file(*where): (where, rows) for where, rows in bands.items() if len(rows.slots)}
        self.rows_changed = rows_changed
        self.layouts = [table.layout for table in artifact.tables]
        self.new_tensors: dict[str, np.ndarray] = {}
        self.bytes = 0

    def write(self, directory: Path) -> None:
        self._check_room()
        entries = {}
        for name in self.pages:
            (directory / name).parent.mkdir(exist_ok=True)
            entries[name] = self._write_pages(directory, name)
        for entry in self.artifact.files:
            if entry.path in entries:
                continue
            (directory / entry.path).parent.mkdir(parents=True, exist_ok=True)
            if entry.path == TABLES_FILE and (self.rows_changed or self.new_tensors):
                entries[entry.path] = self._write_tables(directory)
            else:
                _link(self.artifact.path / entry.path, directory / entry.path)
                entries[entry.path] = entry
        before = parse_manifest(
            Manifest, self.artifact.path / MANIFEST_FILE, read_manifest(self.artifact.path)
        )
        manifest = before.model_copy(
            update={
                "files": tuple(entries[entry.path] for entry in self.artifact.files),
                "tables": tuple(
                    PackedTable(layout, table.pooling, table.indices, table.fit_errors)
                    for layout, table in zip(self.layouts, self.artifact.tables, strict=True)
                ),
                "updates": ArtifactUpdates(
                    origin=self.artifact.origin, generation=self.artifact.generation + 1
                ),
            }
        )
        write_manifest(directory, manifest)

    def _check_room(self) -> None:
        """Refuses before the work what would not fit."""
        needed = sum(
            _allocated(self.artifact.path / name) + rows.slots.size * PAGE_BYTES
            for name, (_, rows) in self.pages.items()
        )
        if self.rows_changed:
            needed += self.artifact.entry(TABLES_FILE).bytes
        free = shutil.disk_usage(self.artifact.path).free
        if needed > free:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({needed} bytes needed, {free} free)")

    def _write_tables(self, directory: Path) -> FileEntry:
        specs = {}
        for number, layout in enumerate(self.layouts):
            specs.update(dram_specs(number, layout))
        entry = write_tensors(directory / TABLES_FILE, specs, self._produce)
        self.bytes += entry.bytes
        return entry

    def _produce(self, name: str) -> np.ndarray | Iterator[np.ndarray]:
        array = self.new_tensors.get(name, self.tensors[name])
        return self._chunks(array) if name.endswith(".rows") else array

    def _chunks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        step = max(1, _CHUNK_BYTES // max(1, rows.strides[0]))
        for start in range(0, len(rows), step):
            with self.guard:
                chunk = rows[start : start + step].copy()
            yield chunk

    def _write_pages(self, directory: Path, name: str) -> FileEntry:
        (table, band), rows = self.pages[name]
        layout, entry = self.layouts[table], self.artifact.entry(name)
        source, target = self.artifact.path / name, directory / name
        _copy_data(source, target, entry.bytes)
        kind, prefix = written_kind(layout, band), f"{table}.{band}"
        groups = default = None
        if kind is not None:
            names = written_specs(layout, band)
            groups = indexed_groups(kind, [self.tensors[f"{prefix}.pages.{name}"] for name in names])
            default = self.tensors[f"{prefix}.default"].view(np.uint8)
        with open(target, "r+b", buffering=0) as file:
            patch = _PagePatch(source, file.fileno(), layout, table, band, groups, default)
            checksum = patch.apply(rows, entry)
        self.bytes += _allocated(target)
        if groups is not None:
            self._note_groups(table, band, np.union1d(groups, patch.touched))
        return FileEntry(path=name, bytes=entry.bytes, crc32c=checksum)

    def _note_groups(self, table: int, band: int, groups: np.ndarray) -> None:
        """The band has these written groups from now on."""
        if len(groups) == self.layouts[table].bands[band].written:
            return
        layout = self.layouts[table] = self.layouts[table].with_written(len(groups))
        arrays = group_index(groups, layout.page_groups(band))
        for last, array in zip(written_specs(layout, band), arrays, strict=True):
            self.new_tensors[f"{table}.{band}.pages.{last}"] = array


class _PagePatch:
    """Puts rows into the pages of a band's file.

    Attributes:
        touched: the page groups that were written, int64, ascending.
    """

    def __init__(
        self,
        source: Path,
        descriptor: int,
        layout: TableLayout,
        table: int,
        band: int,
        groups: np.ndarray | None,
        default: np.ndarray | None,
    ) -> None:
        self.source, self.descriptor, self.table, self.band = source, descriptor, table, band
        self.geometry = PageGeometry.of(layout.row_bytes(band))
        self.num_rows = layout.slots(band)
        self.groups, self.default = groups, default
        self.touched = np.empty(0, np.int64)

    def apply(self, rows: BandRows, entry: FileEntry) -> int:
        """Writes the pages and returns the file's CRC32C, from what it was and what has changed."""
        of_row = rows.slots // self.geometry.rows_per_page
        self.touched, starts = np.unique(of_row, return_index=True)
        known = np.ones(len(self.touched), bool)
        if self.groups is not None:
            known = np.isin(self.touched, self.groups, assume_unique=True)
        # CRCs are linear: that of the difference, begun with zeros, is the difference of the CRCs.
        difference, done = _ONES, 0
        for g, group in enumerate(self.touched.tolist()):
            some = slice(starts[g], starts[g + 1] if g + 1 < len(starts) else len(of_row))
            first = group * self.geometry.pages_per_row
            before = self._read(first)
            after = self._filled(group, first, before if known[g] else None, rows, some)
            os.pwrite(self.descriptor, memoryview(after).cast("B"), first * PAGE_BYTES)
            difference = _native.crc32c_zeros(first * PAGE_BYTES - done, difference)
            difference = _native.crc32c(before ^ after, difference)
            done = first * PAGE_BYTES + after.nbytes
        return entry.crc32c ^ _native.crc32c_zeros(entry.bytes - done, difference) ^ _ONES

    def _read(self, first: int) -> np.ndarray:
        pages = self.geometry.pages_per_row
        data = os.pread(self.descriptor, pages * PAGE_BYTES, first * PAGE_BYTES)
        if len(data) < pages * PAGE_BYTES:
            raise DamagedFileError(self.source, "is truncated")
        return np.frombuffer(data, np.uint8).reshape(pages, PAGE_BYTES)

    def _filled(
        self, group: int, first: int, before: np.ndarray | None, rows: BandRows, some: slice
    ) -> np.ndarray:
        """The group's pages with the rows."""
        geometry = self.geometry
        if before is not None and (bad := _native.check_pages(before, self.table, self.band, first)) >= 0:
            raise DamagedFileError(
                self.source, f"has a damaged page {first + bad} (table {self.table}, band {self.band})"
            )
        start = group * geometry.rows_per_page
        count = min(geometry.rows_per_page, self.num_rows - start)
        if geometry.pages_per_row > 1:
            body = rows.rows[some]
        elif before is not None:
            used = before[0, PAGE_HEADER_BYTES : PAGE_HEADER_BYTES + count * geometry.row_bytes]
            body = used.reshape(count, geometry.row_bytes).copy()
            body[rows.slots[some] - start] = rows.rows[some]
        else:
            assert self.default is not None
            body = np.tile(self.default, (count, 1))
            body[rows.slots[some] - start] = rows.rows[some]
        pages = np.empty((geometry.pages_per_row, PAGE_BYTES), np.uint8)
        _native.fill_pages(np.ascontiguousarray(body), self.table, self.band, first, pages)
        return pages


def _allocated(file: Path) -> int:
    """Bytes of a file that are not holes."""
    return min(os.stat(file).st_size, os.stat(file).st_blocks * 512)


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        _copy_data(source, target, os.stat(source).st_size)


def _copy_data(source: Path, target: Path, size: int) -> None:
    """Copies a file, leaving its holes."""
    with open(source, "rb", buffering=0) as from_file, open(target, "wb", buffering=0) as to_file:
        os.ftruncate(to_file.fileno(), size)
        for start, stop in data_ranges(from_file.fileno(), size):
            _copy_range(from_file.fileno(), to_file.fileno(), start, stop)


def _copy_range(source: int, target: int, start: int, stop: int) -> None:
    while start < stop:
        try:
            copied = os.copy_file_range(source, target, min(stop - start, _COPY_BYTES), start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            copied = os.pwrite(target, os.pread(source, min(stop - start, _CHUNK_BYTES), start), start)
        if copied == 0:
            raise OSError(errno.EIO, "a file ended while it was copied")
        start += copied

"""Verification: every byte of an artifact against its checksums, and all damage found, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from screc import _native

from .artifact import (
    MANIFEST_FILE,
    TABLES_FILE,
    Artifact,
    check_digest,
    pages_file,
    read_manifest,
    written_kind,
    written_specs,
)
from .atomic import identity, read_unreplaced
from .checksum import DamagedFileError, FileEntry
from .layout import PAGE_BYTES, PageGeometry, TableLayout
from .sparse import indexed_groups, pages_with_data, runs
from .tensor_checks import tensor_faults
from .tensors import TensorFile
from .update_log import read_log
from .updates import log_path

_PAGES_PER_STEP = 2048

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Damage:
    """One damaged file, or one damaged page of an SSD band.

    Attributes:
        file: path inside the artifact.
        fault: what is wrong, for people.
        table: the table's name, where a page is damaged.
        band: the band's number, where a page is damaged.
        page: the page's number in the file, where a page is damaged.
    """

    file: str
    fault: str
    table: str | None = None
    band: int | None = None
    page: int | None = None

    def __str__(self) -> str:
        if self.page is None:
            return f"{self.file} {self.fault}"
        return f"page {self.page} of {self.file} (table {self.table}, band {self.band}) {self.fault}"


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verification looked at and what it found.

    Attributes:
        path: the artifact.
        files: files read whole.
        bytes: bytes read; holes of sparse bands are not.
        pages: pages checked.
        holes: pages of sparse bands that were never written.
        damages: everything that is wrong, by file and page.
    """

    path: Path
    files: int
    bytes: int
    pages: int
    holes: int
    damages: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


def verify(path: Path | str, progress: Progress | None = None) -> VerifyReport:
    """Reads all of an artifact, and its update log, and reports every damaged file and page.

    Args:
        path: the artifact.
        progress: called with bytes read and bytes to read.

    Raises:
        FileNotFoundError: there is no artifact at ``path``.
        ValueError: it has another version.
        ReplacedError: it was replaced meanwhile; verify again.
        OSError: a file cannot be read.
    """
    path = Path(path)
    known = identity(path / MANIFEST_FILE)
    return read_unreplaced(path / MANIFEST_FILE, lambda: _with_log(_verify(path, progress)), known=known)


def _with_log(report: VerifyReport) -> VerifyReport:
    """Adds what is wrong with the update log beside an artifact."""
    log = log_path(report.path)
    try:
        read_log(log, lambda entry: None)
    except FileNotFoundError:
        return report
    except DamagedFileError as error:
        damages = (*report.damages, Damage(f"../{log.name}", error.fault))
        return replace(report, files=report.files + 1, damages=damages)
    return replace(report, files=report.files + 1)


def _verify(path: Path, progress: Progress | None) -> VerifyReport:
    data = read_manifest(path)
    damages: list[Damage] = []
    try:
        check_digest(path, data)
    except DamagedFileError as error:
        damages.append(_damage(path, error))
    try:
        artifact = Artifact.parse(path, data)
    except ValueError as error:
        # Without a manifest nothing else can be judged; an intact one of another version is no damage.
        if not damages and not isinstance(error, DamagedFileError):
            raise
        if isinstance(error, DamagedFileError):
            damages.append(_damage(path, error))
        return VerifyReport(path, 1, len(data), 0, 0, tuple(damages))
    check = _Check(artifact, progress)
    # The tensors before the pages: they tell which pages of a sparse band there are.
    for entry in sorted(artifact.files, key=lambda entry: entry.path in check.bands):
        try:
            entry.check_size(path)
        except DamagedFileError as error:
            damages.append(_damage(path, error))
            if not (path / entry.path).is_file():
                continue
        if entry.path not in check.bands:
            damages += check.whole(entry)
            if entry.path == TABLES_FILE and not any(damage.file == TABLES_FILE for damage in damages):
                damages += check.tensors()
        else:
            damages += check.pages(entry)
    return VerifyReport(
        path=path,
        files=len(artifact.files) + 1,
        bytes=len(data) + check.bytes_read,
        pages=check.pages_read,
        holes=check.holes,
        damages=tuple(damages),
    )


@dataclass(frozen=True, slots=True)
class _Band:
    """An SSD band and whose it is."""

    table: int
    name: str
    number: int
    layout: TableLayout

    def damage(self, entry: FileEntry, page: int, fault: str = "is damaged") -> Damage:
        """A damaged page of it."""
        return Damage(entry.path, fault, self.name, self.number, page)


class _Check:
    """Reads files piece by piece, counting."""

    def __init__(self, artifact: Artifact, progress: Progress | None) -> None:
        self.artifact, self.path, self.progress = artifact, artifact.path, progress
        self.bytes_read = self.pages_read = self.holes = 0
        self.bands = {
            pages_file(t, b): _Band(t, table.layout.table, b, table.layout)
            for t, table in enumerate(artifact.tables)
            for b, band in enumerate(table.layout.bands)
            if band.memory == "ssd"
        }
        self._to_do = sum(
            self.bands[entry.path].layout.written_bytes(self.bands[entry.path].number)
            if entry.path in self.bands
            else entry.bytes
            for entry in artifact.files
        )
        # The tensors' file, once nothing is wrong with it.
        self._tensors: TensorFile | None = None

    def whole(self, entry: FileEntry) -> Iterator[Damage]:
        """Compares a file's checksum."""
        checksum = 0
        for piece in self._pieces(entry.path):
            checksum = _native.crc32c(piece, checksum)
        yield from self._compare(entry, checksum)

    def tensors(self) -> Iterator[Damage]:
        """Checks what tables.safetensors says."""
        try:
            tensors = self.artifact.tables_file()
        except DamagedFileError as error:
            yield _damage(self.path, error)
            return
        damages = [Damage(TABLES_FILE, fault) for fault in tensor_faults(self.artifact, tensors)]
        if not damages:
            self._tensors = tensors
        yield from damages

    def pages(self, entry: FileEntry) -> Iterator[Damage]:
        """Checks every page of a band, and its file's checksum where no page is found damaged."""
        band = self.bands[entry.path]
        if (kind := written_kind(band.layout, band.number)) is None:
            yield from self._all_pages(entry, band)
        elif self._tensors is None:
            fault = f"cannot be checked: the index of its pages is in {TABLES_FILE}, which is damaged"
            yield Damage(entry.path, fault)
        else:
            prefix = f"{band.table}.{band.number}.pages"
            arrays = [self._tensors[f"{prefix}.{name}"] for name in written_specs(band.layout, band.number)]
            yield from self._written_pages(entry, band, indexed_groups(kind, arrays))

    def _all_pages(self, entry: FileEntry, band: _Band) -> Iterator[Damage]:
        checksum, first, found = 0, 0, False
        for piece in self._pieces(entry.path):
            checksum = _native.crc32c(piece, checksum)
            pages = np.frombuffer(piece, np.uint8, len(piece) // PAGE_BYTES * PAGE_BYTES)
            pages = pages.reshape(-1, PAGE_BYTES)
            for number in self._damaged(pages, band, first):
                found = True
                yield band.damage(entry, number)
            first += len(pages)
            self.pages_read += len(pages)
        if not found:
            yield from self._compare(entry, checksum)

    def _written_pages(self, entry: FileEntry, band: _Band, groups: np.ndarray) -> Iterator[Damage]:
        """The pages of a sparse band: the written ones as any others, and zeros everywhere else."""
        size = (self.path / entry.path).stat().st_size
        if size % PAGE_BYTES:
            return  # cut or grown, as its size has told
        geometry = PageGeometry.of(band.layout.row_bytes(band.number))
        numbers = (groups[:, None] * geometry.pages_per_row + np.arange(geometry.pages_per_row)).reshape(-1)
        self.holes += band.layout.band_bytes(band.number) // PAGE_BYTES - len(numbers)
        numbers = numbers[: np.searchsorted(numbers, size // PAGE_BYTES)]  # it may have been cut
        reader = _native.PageReader(self.path / entry.path)
        checksum, done, found = 0, 0, False
        for start in range(0, len(numbers), _PAGES_PER_STEP):
            some = numbers[start : start + _PAGES_PER_STEP]
            pages = np.empty((len(some), PAGE_BYTES), np.uint8)
            reader.read(some, pages)
            for first, stop in runs(some):
                page = int(some[first])
                for number in self._damaged(pages[first:stop], band, page):
                    found = True
                    yield band.damage(entry, number)
                checksum = _native.crc32c_zeros(PAGE_BYTES * page - done, checksum)
                checksum = _native.crc32c(pages[first:stop], checksum)
                done = PAGE_BYTES * (page + stop - first)
            self.pages_read += len(some)
            self._count(pages.nbytes)
        for number in self._filled_holes(entry, numbers, size):
            found = True
            yield band.damage(entry, number, "holds data, and no page was written there")
        if not found:
            yield from self._compare(entry, _native.crc32c_zeros(max(0, size - done), checksum))

    def _filled_holes(self, entry: FileEntry, written: np.ndarray, size: int) -> Iterator[int]:
        """Pages that are not zeros though they were never written. Holes are not read, but a copy of the file
        may have filled them with zeros."""
        with open(self.path / entry.path, "rb") as file:
            for numbers in pages_with_data(file.fileno(), size):
                strange = np.setdiff1d(numbers, written, assume_unique=True)
                self._to_do += strange.size * PAGE_BYTES
                for start, stop in runs(strange):
                    for first in range(start, stop, _PAGES_PER_STEP):
                        some = strange[first : min(first + _PAGES_PER_STEP, stop)]
                        file.seek(int(some[0]) * PAGE_BYTES)
                        data = np.frombuffer(file.read(some.size * PAGE_BYTES), np.uint8)
                        yield from some[data.reshape(-1, PAGE_BYTES).any(axis=1)].tolist()
                        self._count(data.nbytes)

    def _damaged(self, pages: np.ndarray, band: _Band, first: int) -> Iterator[int]:
        """The damaged ones of consecutive pages, uint8 [n, 4096], from page ``first`` on."""
        position = 0
        while (bad := _native.check_pages(pages[position:], band.table, band.number, first + position)) >= 0:
            position += bad
            yield first + position
            position += 1

    def _pieces(self, name: str) -> Iterator[bytes]:
        with open(self.path / name, "rb") as file:
            while piece := file.read(_PAGES_PER_STEP * PAGE_BYTES):
                self._count(len(piece))
                yield piece

    def _count(self, num_bytes: int) -> None:
        self.bytes_read += num_bytes
        if self.progress is not None:
            self.progress(self.bytes_read, self._to_do)

    def _compare(self, entry: FileEntry, checksum: int) -> Iterator[Damage]:
        try:
            entry.check_crc32c(self.path, checksum)
        except DamagedFileError as error:
            yield _damage(self.path, error)


def _damage(path: Path, error: DamagedFileError) -> Damage:
    file = error.path.relative_to(path).as_posix() if error.path.is_relative_to(path) else MANIFEST_FILE
    return Damage(file, error.fault)

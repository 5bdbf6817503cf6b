"""Verification: every byte of an artifact against its checksums, and all damage found, not only the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screc import _native

from .artifact import (
    MANIFEST_FILE,
    TABLES_FILE,
    Artifact,
    check_digest,
    index_specs,
    pages_file,
    read_manifest,
)
from .atomic import identity, read_unreplaced
from .checksum import DamagedFileError, FileEntry
from .layout import PAGE_BYTES
from .page_order import is_permutation

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
        bytes: bytes read.
        pages: pages checked.
        damages: everything that is wrong, by file and page.
    """

    path: Path
    files: int
    bytes: int
    pages: int
    damages: tuple[Damage, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages


def verify(path: Path | str, progress: Progress | None = None) -> VerifyReport:
    """Reads all of an artifact and reports every damaged file and page.

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
    return read_unreplaced(path / MANIFEST_FILE, lambda: _verify(path, progress), known=known)


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
        return VerifyReport(path, 1, len(data), 0, tuple(damages))
    check = _Check(path, sum(entry.bytes for entry in artifact.files), progress)
    bands = {}
    for number, table in enumerate(artifact.tables):
        for position, band in enumerate(table.layout.bands):
            if band.memory == "ssd":
                bands[pages_file(number, position)] = (number, table.layout.table, position)
    for entry in artifact.files:
        try:
            entry.check_size(path)
        except DamagedFileError as error:
            damages.append(_damage(path, error))
            if not (path / entry.path).is_file():
                continue
        if entry.path in bands:
            damages += check.pages(entry, *bands[entry.path])
        else:
            damages += check.whole(entry)
    if not any(damage.file == TABLES_FILE for damage in damages):
        damages += _check_tensors(artifact)
    read = len(data) + check.bytes_read
    return VerifyReport(path, len(artifact.files) + 1, read, check.pages_read, tuple(damages))


class _Check:
    """Reads files piece by piece, counting."""

    def __init__(self, path: Path, to_do: int, progress: Progress | None) -> None:
        self.path, self.to_do, self.progress = path, to_do, progress
        self.bytes_read = self.pages_read = 0

    def pieces(self, name: str) -> Iterator[bytes]:
        with open(self.path / name, "rb") as file:
            while piece := file.read(_PAGES_PER_STEP * PAGE_BYTES):
                self.bytes_read += len(piece)
                yield piece
                if self.progress is not None:
                    self.progress(self.bytes_read, self.to_do)

    def whole(self, entry: FileEntry) -> Iterator[Damage]:
        checksum = 0
        for piece in self.pieces(entry.path):
            checksum = _native.crc32c(piece, checksum)
        try:
            entry.check_crc32c(self.path, checksum)
        except DamagedFileError as error:
            yield _damage(self.path, error)

    def pages(self, entry: FileEntry, table: int, name: str, band: int) -> Iterator[Damage]:
        checksum, first, found = 0, 0, False
        for piece in self.pieces(entry.path):
            checksum = _native.crc32c(piece, checksum)
            pages = np.frombuffer(piece, np.uint8, len(piece) // PAGE_BYTES * PAGE_BYTES)
            pages = pages.reshape(-1, PAGE_BYTES)
            position = 0
            while (bad := _native.check_pages(pages[position:], table, band, first + position)) >= 0:
                position += bad
                found = True
                yield Damage(entry.path, "is damaged", name, band, first + position)
                position += 1
            first += len(pages)
            self.pages_read += len(pages)
        if not found:
            try:
                entry.check_crc32c(self.path, checksum)
            except DamagedFileError as error:
                yield _damage(self.path, error)


def _check_tensors(artifact: Artifact) -> Iterator[Damage]:
    """Each index against its band: as many ids as rows, every slot once,
    counts that add up; and shared scales."""
    try:
        tensors = artifact.tables_file()
    except DamagedFileError as error:
        yield _damage(artifact.path, error)
        return
    for number, table in enumerate(artifact.tables):
        for position, kind in enumerate(table.indices):
            if table.layout.bands[position].scale == "table":
                shared = tensors[f"{number}.{position}.scale"]
                if not np.isfinite(shared).all() or shared[0] < 0:
                    fault = f"has a wrong scale for table {table.layout.table}, band {position}"
                    yield Damage(TABLES_FILE, fault)
            if kind is None:
                continue
            rows = table.layout.bands[position].num_rows
            arrays = [tensors[f"{number}.{position}.index.{n}"] for n in index_specs(table.layout, position)]
            if kind == "order":
                good = is_permutation(*arrays)
            else:
                check = _bitmap_good if kind == "bitmap" else _hash_good
                good = check(*arrays, table.layout.num_embeddings, rows)
            if not good:
                fault = f"has a wrong {kind} index for table {table.layout.table}, band {position}"
                yield Damage(TABLES_FILE, fault)


def _bitmap_good(bits: np.ndarray, directory: np.ndarray, num_embeddings: int, rows: int) -> bool:
    blocks = _ones_in_blocks(bits)
    beyond = int(bits[-1]) >> (num_embeddings % 64) if num_embeddings % 64 else 0
    return bool(
        beyond == 0
        and directory[0] == 0
        and int(directory[-1]) == rows
        and (np.cumsum(blocks) == directory[1:]).all()
    )


def _ones_in_blocks(words: np.ndarray) -> np.ndarray:
    """The number of ones in every 512 bits, the last block being as long as it is."""
    per_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
    blocks = np.zeros(-(-words.size // 8), np.int64)
    step = 1 << 20  # words at a time, a multiple of the block
    for start in range(0, words.size, step):
        ones = per_byte[words[start : start + step].view(np.uint8)]
        sums = np.add.reduceat(ones, np.arange(0, ones.size, 64), dtype=np.int64)
        blocks[start // 8 : start // 8 + sums.size] = sums
    return blocks


def _hash_good(keys: np.ndarray, slots: np.ndarray, num_embeddings: int, rows: int) -> bool:
    taken = keys != -1
    ids, places = keys[taken], slots[taken]
    if len(ids) != rows or ids.min() < 0 or ids.max() >= num_embeddings or places.max() >= rows:
        return False
    return len(np.unique(ids)) == rows and len(np.unique(places)) == rows


def _damage(path: Path, error: DamagedFileError) -> Damage:
    file = error.path.relative_to(path).as_posix() if error.path.is_relative_to(path) else MANIFEST_FILE
    return Damage(file, error.fault)

"""The log of updates: what makes an update last before it is seen (docs/format.md, "Update log")."""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from screc import _native

from .atomic import replace_file
from .checksum import DamagedFileError

VERSION = 1
_HEADER = struct.Struct("<I4sHHIQQ32s")  # checksum, magic, version, flags, 0, generation, nonce, origin
_GROUP = struct.Struct("<I4sQQQII")  # checksum, magic, bytes, sequence, nonce, entries, 0
_ENTRY = struct.Struct("<IIQ")  # table, dim, rows
HEADER_BYTES = _HEADER.size
_MAGIC, _GROUP_MAGIC = b"SCRU", b"SCRG"
_CHECKSUM_BYTES = 4
_ALIGNMENT = 8
# A group that says that it is longer is none.
MOST_GROUP_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class LogHeader:
    """Which artifact a log belongs to.

    Attributes:
        origin: SHA-256 of the manifest that was packed, 32 bytes; compaction keeps it.
        generation: of the artifact when the log was begun; updates before it are in the artifact.
        nonce: tells the groups of this log from all other bytes.
    """

    origin: bytes
    generation: int
    nonce: int

    @classmethod
    def new(cls, origin: bytes, generation: int) -> LogHeader:
        """A header with a nonce of its own."""
        return cls(origin, generation, secrets.randbits(64))


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One update: float32 rows [n, dim] for int64 ids [n] of a table, by number."""

    table: int
    ids: np.ndarray
    rows: np.ndarray

    @property
    def num_bytes(self) -> int:
        """Size in the log."""
        size = _ENTRY.size + self.ids.nbytes + self.rows.nbytes
        return -(-size // _ALIGNMENT) * _ALIGNMENT


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a log ends: the header, the end of its last whole group in bytes, the number of the next group,
    and the bytes behind the end, which a writer left that was stopped."""

    header: LogHeader
    end: int
    sequence: int
    torn: int


def read_log(
    path: Path,
    entry: Callable[[LogEntry], object],
    *,
    start: int = 0,
    begin: Callable[[LogHeader], bool] = lambda header: True,
) -> LogEnd | None:
    """Passes the updates of a log to ``entry`` in order.

    A group that was not written to its end, which only the last can be, is left out: nobody was told that its
    updates are there.

    Args:
        path: the log.
        entry: called with each update.
        start: the end of a group, to begin behind it; 0 for the beginning.
        begin: called with the header first; whether to go on.

    Returns:
        Where it ends; None where ``begin`` has said no.

    Raises:
        FileNotFoundError: there is no log.
        DamagedFileError: the log is damaged before its last group; the message says where. Updates before
            that were passed on.
        ValueError: the log has another version.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(path, file.read(_HEADER.size))
        if not begin(header):
            return None
        # Behind `start` the first group's number is not known; the nonce tells that it is one.
        at, expected = max(start, _HEADER.size), None if start > _HEADER.size else 1
        while at < size:
            group = _group(_read(file, at, _GROUP.size), lambda n, at=at: _read(file, at, n), header.nonce)
            if group is None:
                _refuse_damage(path, _read(file, at, size - at), at, header.nonce)
                break
            if expected is not None and group.sequence != expected:
                raise DamagedFileError(
                    path, f"is damaged before byte {at}: group {group.sequence} follows, not {expected}"
                )
            expected = group.sequence + 1
            for one in _entries(path, at, group):
                entry(one)
            at += len(group.data)
    return LogEnd(header, at, 1 if expected is None else expected, size - at)


@dataclass(frozen=True, slots=True)
class _Group:
    data: bytes
    sequence: int
    entries: int


def _read(file: BinaryIO, start: int, count: int) -> bytes:
    """Bytes of a file that somebody may be writing on; fewer where it ends."""
    file.seek(start)
    return file.read(count)


def _read_header(path: Path, data: bytes) -> LogHeader:
    if len(data) < _HEADER.size:
        raise DamagedFileError(path, f"is no update log: it ends within its header of {_HEADER.size} bytes")
    checksum, magic, version, flags, _, generation, nonce, origin = _HEADER.unpack(data)
    if magic != _MAGIC or checksum != _native.crc32c(data[_CHECKSUM_BYTES:]):
        raise DamagedFileError(path, "is no update log, or its header is damaged")
    if (version, flags) != (VERSION, 0):
        raise ValueError(
            f"{path} has version {version} (flags {flags}), this release reads version {VERSION}; "
            "use the release that wrote it"
        )
    return LogHeader(origin, generation, nonce)


def _group(head: bytes, read: Callable[[int], bytes], nonce: int) -> _Group | None:
    """The group whose first bytes these are, if it is whole; ``read(n)`` gives its first n bytes."""
    if len(head) < _GROUP.size:
        return None
    checksum, magic, num_bytes, sequence, found, entries, _ = _GROUP.unpack(head)
    if magic != _GROUP_MAGIC or found != nonce or num_bytes < _GROUP.size or num_bytes % _ALIGNMENT:
        return None
    data = read(num_bytes) if num_bytes <= MOST_GROUP_BYTES else b""
    if len(data) < num_bytes or _native.crc32c(memoryview(data)[_CHECKSUM_BYTES:]) != checksum:
        return None
    return _Group(data, sequence, entries)


def _entries(path: Path, at: int, group: _Group) -> Iterable[LogEntry]:
    place, data = _GROUP.size, group.data
    for _ in range(group.entries):
        if len(data) - place < _ENTRY.size:
            raise DamagedFileError(path, f"holds a group at byte {at} whose updates pass its end")
        table, dim, count = _ENTRY.unpack_from(data, place)
        place += _ENTRY.size
        if count * (8 + 4 * dim) > len(data) - place:
            raise DamagedFileError(path, f"holds a group at byte {at} whose updates pass its end")
        ids = np.frombuffer(data, "<i8", count, place)
        place += 8 * count
        rows = np.frombuffer(data, "<f4", count * dim, place).reshape(count, dim)
        place += -(-4 * count * dim // _ALIGNMENT) * _ALIGNMENT
        yield LogEntry(table, ids, rows)


def _refuse_damage(path: Path, data: bytes, at: int, nonce: int) -> None:
    """Raises where a whole group follows byte ``at``, at which none begins: what was being written when the
    writer stopped has nothing behind it."""
    found = _CHECKSUM_BYTES
    while (found := data.find(_GROUP_MAGIC, found + 1)) >= 0:
        start = found - _CHECKSUM_BYTES
        group = _group(data[start : start + _GROUP.size], lambda n, i=start: data[i : i + n], nonce)
        if group is not None:
            raise DamagedFileError(
                path,
                f"is damaged at byte {at}: no whole group of updates begins there, and group "
                f"{group.sequence}, at byte {at + start}, was acknowledged after it",
            )


def _group_bytes(entries: Sequence[LogEntry], sequence: int, nonce: int) -> bytes:
    parts = [b""]
    num_bytes = _GROUP.size
    for entry in entries:
        parts.append(_ENTRY.pack(entry.table, entry.rows.shape[1], len(entry.ids)))
        parts.append(entry.ids.tobytes())
        parts.append(entry.rows.tobytes())
        parts.append(bytes(-entry.rows.nbytes % _ALIGNMENT))
        num_bytes += entry.num_bytes
    head = _GROUP.pack(0, _GROUP_MAGIC, num_bytes, sequence, nonce, len(entries), 0)[_CHECKSUM_BYTES:]
    parts[0] = head
    body = b"".join(parts)
    return _native.crc32c(body).to_bytes(_CHECKSUM_BYTES, "little") + body


def write_log(path: Path, header: LogHeader, groups: Iterable[Sequence[LogEntry]] = ()) -> None:
    """Writes a log whole; one that is there is replaced atomically.

    Raises:
        OSError: the disk is full; a log that was there is unchanged.
    """
    fields = (_MAGIC, VERSION, 0, 0, header.generation, header.nonce, header.origin)
    head = _HEADER.pack(0, *fields)[_CHECKSUM_BYTES:]
    with replace_file(path) as temporary, open(temporary, "wb") as file:
        file.write(_native.crc32c(head).to_bytes(_CHECKSUM_BYTES, "little") + head)
        for number, entries in enumerate(groups, 1):
            file.write(_group_bytes(entries, number, header.nonce))


class UpdateLog:
    """A log that is written on. One thread at a time.

    Attributes:
        header: which artifact it belongs to.
        end: its size in bytes.
    """

    def __init__(self, path: Path, end: LogEnd) -> None:
        """Opens a log where :func:`read_log` found its end, and cuts what stands behind that."""
        self.path, self.header, self.end = path, end.header, end.end
        self._sequence = end.sequence
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115
        self._usable = True
        if end.torn:
            self._cut()

    def append(self, entries: Sequence[LogEntry]) -> None:
        """Writes updates as one group: when it returns they are durable, all of them.

        Raises:
            OSError: they are not there: the disk is full or failing.
        """
        if not self._usable:
            raise OSError(f"{self.path} could not be written to before; open the artifact again")
        data = memoryview(_group_bytes(entries, self._sequence, self.header.nonce))
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._file.fileno(), data[done:], self.end + done)
            os.fdatasync(self._file.fileno())
        except OSError as error:
            self._usable = False  # unless half a group can be taken back
            self._cut()
            self._usable = True
            raise OSError(
                error.errno,
                f"{error.strerror} while writing {self.path}; the update was not made, those before it are "
                "kept; free space there",
            ) from error
        self._sequence += 1
        self.end += len(data)

    def _cut(self) -> None:
        os.ftruncate(self._file.fileno(), self.end)
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

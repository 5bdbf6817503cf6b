"""Updates of an artifact's rows while it is served: one writer, a log, compaction in the background."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .artifact import MANIFEST_FILE, Artifact, written_kind, written_specs
from .atomic import ReplacedError, identity
from .generation import BandRows, write_generation
from .update_log import HEADER_BYTES, LogEnd, LogEntry, LogHeader, UpdateLog, read_log, write_log

# The most bytes of one update, and about those of what is made durable together.
MOST_UPDATE_BYTES = 1 << 30
_GROUP_BYTES = 64 << 20
# Updates that find the log or the memory full try a compaction again so long after one that failed.
_RETRY_SECONDS = 30.0
# Compactions for one update: others may take the room that one has made.
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateOptions:
    """How much updates may take.

    Attributes:
        memory_bytes: DRAM for updated rows of SSD bands and tensor trains, which are held beside them; those
            of SSD bands until the next compaction.
        log_bytes: size of the log.
        compact: whether a compaction begins by itself when half of either is in use. Without, updates are
            refused when one is full, until :meth:`screc.storage.RowStore.compact` is called.
    """

    memory_bytes: int = 256 << 20
    log_bytes: int = 1 << 30
    compact: bool = True

    def __post_init__(self) -> None:
        for name in ("memory_bytes", "log_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateStats:
    """What updates have done since the store was opened.

    Attributes:
        updates: calls that were acknowledged.
        rows: rows of these.
        commits: writes to the log that made some of them durable together.
        log_bytes: size of the log.
        generation: of the artifact: how often updated rows have been written into it.
        compactions: of these, since the store was opened.
        compacted_bytes: bytes written for them.
        compaction_seconds: time of the last one.
        failed_compactions: that changed nothing.
        last_error: what the last failed one said, empty where one has succeeded since.
    """

    updates: int
    rows: int
    commits: int
    log_bytes: int
    generation: int
    compactions: int
    compacted_bytes: int
    compaction_seconds: float
    failed_compactions: int
    last_error: str


def log_path(artifact: Path | str) -> Path:
    """The update log of the artifact at a path; there may be none."""
    path = Path(os.path.realpath(artifact))
    return path.with_name(f"{path.name}.updates")


class WriterLock:
    """The right to update an artifact: a lock on a file beside it, which ends with its process."""

    def __init__(self, artifact: Path | str) -> None:
        """Takes it.

        Raises:
            BlockingIOError: somebody else has it; the message says who.
        """
        path = log_path(artifact)
        self._file = open(path.with_name(f"{path.name}.lock"), "a+")  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise BlockingIOError(
                error.errno,
                f"{artifact} is being updated by process {holder}; stop that one, or open the artifact "
                "without updates",
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        """Gives it up."""
        self._file.close()


def replay(artifact: Artifact, native: Any, *, writer: bool) -> tuple[LogEnd | None, set[int]]:
    """Makes the updates of an artifact's log in a native store.

    A log that belongs to another artifact, which this one has replaced, is none of its own: a writer renames
    it, so that nothing is lost.

    Returns:
        The log's end, None where there is no log; and the numbers of the tables that it updates.

    Raises:
        DamagedFileError: the log is damaged, but for its last group.
        ValueError: the artifact is older than its log.
    """
    path, tables = log_path(artifact.path), set[int]()

    def apply(entry: LogEntry) -> None:
        native.apply_update(native.prepare_update(entry.table, entry.ids, entry.rows))
        tables.add(entry.table)

    def begin(header: LogHeader) -> bool:
        if header.origin != bytes.fromhex(artifact.origin):
            return False
        if header.generation > artifact.generation:
            raise ValueError(
                f"{artifact.path} is older than its update log {path}: the artifact has generation "
                f"{artifact.generation}, the log was begun for generation {header.generation}; bring back "
                "that one, or move the log away to serve the artifact without its updates"
            )
        return True

    try:
        end = read_log(path, apply, begin=begin)
    except FileNotFoundError:
        return None, tables
    if end is not None:
        return end, tables
    if not writer:
        warnings.warn(f"{path} belongs to another artifact than {artifact.path}; not used", stacklevel=2)
        return None, tables
    aside = path.with_name(f"{path.name}.of-another-{time.time_ns()}")
    os.rename(path, aside)
    warnings.warn(f"{path} belonged to an artifact that was replaced; it is {aside} now", stacklevel=2)
    return None, tables


@dataclass(slots=True)
class _Pending:
    """An update on its way."""

    entry: LogEntry
    native: Any
    done: bool = False
    error: BaseException | None = field(default=None)


class Updates:
    """The writer of an artifact that is served. Safe to share between threads.

    An update is encoded as its rows' bands hold rows, written to the log, made durable together with those
    that came meanwhile, seen by look-ups, and acknowledged, in this order. Compaction writes the artifact's
    next generation and then cuts the log: an update that the artifact has already may be made again.
    """

    def __init__(
        self,
        artifact: Artifact,
        native: Any,
        tensors: Mapping[str, np.ndarray],
        end: LogEnd | None,
        tables: set[int],
        lock: WriterLock,
        options: UpdateOptions,
    ) -> None:
        """Begins or goes on with the log of an artifact.

        Args:
            artifact: it.
            native: the store that serves it, with what the log holds.
            tensors: what that has in DRAM, by name.
            end: of the log, as :func:`replay` found it.
            tables: numbers of the tables that it updates.
            lock: the writer's.
            options: limits.
        """
        self._artifact, self._native, self._lock, self.options = artifact, native, lock, options
        # What may be at its path: it, or the next generation, which is about to take its place.
        self._known = {artifact.identity}
        self._tensors, self._touched = dict(tensors), tables
        path = log_path(artifact.path)
        if end is None:
            write_log(path, LogHeader.new(bytes.fromhex(artifact.origin), artifact.generation))
            end = read_log(path, lambda entry: None)
            assert end is not None
        self._log = UpdateLog(path, end)
        # Held while the log, or rows in DRAM, are written.
        self._writing = threading.Lock()
        self._state = threading.Condition()
        self._queue: list[_Pending] = []
        self._leading = False
        self._promised = 0  # bytes of held rows of updates on their way
        # Bytes of held rows and of the log that the last compaction left: rows of tensor trains.
        self._floor = 0, 0
        self._fault = ""  # why nothing more can be written
        self._closed = False
        self._compacting: threading.Thread | None = None
        self._failed_at = 0.0
        self._counts = dict.fromkeys(
            ("updates", "rows", "commits", "compactions", "compacted_bytes", "failed_compactions"), 0
        )
        self._seconds, self._last_error = 0.0, ""

    def update(self, table: int, ids: np.ndarray, rows: np.ndarray) -> None:
        """See :meth:`screc.storage.RowStore.update`."""
        native = self._native.prepare_update(table, ids, rows)
        entry = LogEntry(table, ids, rows)
        if entry.num_bytes > MOST_UPDATE_BYTES:
            raise ValueError(
                f"rows: {len(ids)} rows take {entry.num_bytes} bytes, at most {MOST_UPDATE_BYTES} are "
                "updated at once; update them in several calls"
            )
        if len(ids) == 0:
            return
        self._make_room(native.held_bytes, entry.num_bytes)
        try:
            self._commit(_Pending(entry, native))
        finally:
            with self._state:
                self._promised -= native.held_bytes
                self._state.notify_all()
        if self.options.compact and self._half_full():
            self._start_compaction()

    def compact(self) -> None:
        """See :meth:`screc.storage.RowStore.compact`."""
        with self._state:
            while self._compacting is not None:
                self._state.wait()
            if self._closed:
                raise RuntimeError("the store is closed for updates")
            self._compacting = threading.current_thread()
        self._compact()

    def stats(self) -> UpdateStats:
        """What was done since the store was opened."""
        with self._state:
            return UpdateStats(
                **self._counts,
                log_bytes=self._log.end,
                generation=self._artifact.generation,
                compaction_seconds=self._seconds,
                last_error=self._last_error,
            )

    def close(self) -> None:
        """Ends the writer, when a compaction that is under way has ended."""
        with self._state:
            self._closed = True
            self._state.notify_all()
            while self._compacting is not None or self._leading:
                self._state.wait()
        self._log.close()
        self._lock.release()

    # ------------------------------------------------------------------------------------------- commits

    def _commit(self, pending: _Pending) -> None:
        """Makes an update durable and seen, with those that wait: whoever comes first does it for all."""
        with self._state:
            self._queue.append(pending)
            while self._leading and not pending.done:
                self._state.wait()
            leads = not pending.done
            self._leading = self._leading or leads
        try:
            while not pending.done:
                batch = self._next_batch()
                self._write(batch)
                with self._state:
                    for one in batch:
                        one.done = True
                    self._state.notify_all()
        finally:
            if leads:
                with self._state:
                    self._leading = False
                    self._state.notify_all()
        if pending.error is not None:
            raise pending.error

    def _next_batch(self) -> list[_Pending]:
        """Updates that wait, in order."""
        with self._state:
            count, size = 0, 0
            for one in self._queue:
                size += one.entry.num_bytes
                if count > 0 and size > _GROUP_BYTES:
                    break
                count += 1
            batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    def _write(self, batch: list[_Pending]) -> None:
        try:
            with self._writing:
                self._check_usable()
                self._log.append([one.entry for one in batch])
                try:
                    for one in batch:
                        self._native.apply_update(one.native)
                        self._touched.add(one.entry.table)
                except BaseException as error:
                    self._fault = f"an update could not be made in memory ({error}); open the artifact again"
                    raise
                self._counts["commits"] += 1
                self._counts["updates"] += len(batch)
                self._counts["rows"] += sum(len(one.entry.ids) for one in batch)
        except BaseException as error:
            for one in batch:
                one.error = error

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("the store is closed for updates")
        if self._fault:
            raise OSError(f"{self._artifact.path} takes no more updates: {self._fault}")
        if identity(self._artifact.path / MANIFEST_FILE) not in self._known:
            raise ReplacedError(self._artifact.path)

    # ---------------------------------------------------------------------------------------------- room

    def _free(self, held: int, logged: int) -> bool:
        """Whether so many more bytes fit, in memory and in the log."""
        memory = self._native.stats().held_bytes + self._promised + held
        return memory <= self.options.memory_bytes and self._log.end + logged <= self.options.log_bytes

    def _half_full(self) -> bool:
        """Whether half of what a compaction can free is in use, of memory or of the log."""
        held, logged = self._floor
        return not self._free((self.options.memory_bytes - held) // 2, (self.options.log_bytes - logged) // 2)

    def _make_room(self, held: int, logged: int) -> None:
        """Waits for room; promises it."""
        attempts = 0
        while True:
            with self._state:
                if self._closed:
                    raise RuntimeError("the store is closed for updates")
                if self._free(held, logged):
                    self._promised += held
                    return
                if self._compacting is not None:
                    self._state.wait()
                    continue
                if self._fault or attempts == _ATTEMPTS or not self.options.compact or not self._may_retry():
                    raise OSError(self._full(held, logged))
            self._start_compaction()
            attempts += 1

    def _may_retry(self) -> bool:
        return not self._last_error or time.monotonic() > self._failed_at + _RETRY_SECONDS

    def _full(self, held: int, logged: int) -> str:
        stats = self._native.stats()
        why = (
            f"the last compaction failed: {self._last_error}"
            if self._last_error
            else "compaction is left to the caller: call compact()"
            if not self.options.compact
            else self._fault
            or "rows of tensor trains stay in memory: pack the table again, or give updates more"
        )
        return (
            f"no room for an update of {held} bytes in memory and {logged} in the log: {stats.held_bytes} of "
            f"{self.options.memory_bytes} and {self._log.end} of {self.options.log_bytes} are in use; {why}"
        )

    # ---------------------------------------------------------------------------------------- compaction

    def _start_compaction(self) -> None:
        with self._state:
            if self._compacting is not None or self._closed or self._fault or not self._may_retry():
                return
            self._compacting = threading.Thread(target=self._compact_quietly, name="compaction", daemon=True)
        self._compacting.start()

    def _compact_quietly(self) -> None:
        try:
            self._compact()
        except Exception as error:
            warnings.warn(f"compaction of {self._artifact.path} failed: {error}", stacklevel=1)

    def _compact(self) -> None:
        """A compaction by the thread that is noted as doing it."""
        began = time.perf_counter()
        try:
            written = self._write_next()
        except BaseException as error:
            with self._state:
                self._counts["failed_compactions"] += 1
                self._last_error, self._failed_at = str(error), time.monotonic()
            raise
        else:
            with self._state:
                self._counts["compactions"] += 1
                self._counts["compacted_bytes"] += written
                self._last_error, self._seconds = "", time.perf_counter() - began
        finally:
            with self._state:
                self._compacting = None
                self._state.notify_all()

    def _write_next(self) -> int:
        """Writes the next generation with all updates so far, cuts them from the log and from memory."""
        with self._writing:
            self._check_usable()
            if self._log.end == HEADER_BYTES:
                return 0
            stamp, position = self._native.last_stamp, self._log.end
            touched, self._touched = self._touched, set()
        bands = {(t, b): self._held(t, b, stamp) for t, b in self._bands("ssd")}
        in_dram = any(t in touched for t, _ in self._bands("dram"))
        before = self._artifact
        try:
            written = write_generation(
                before,
                self._tensors,
                bands,
                rows_changed=in_dram,
                guard=self._writing,
                ready=self._known.add,
            )
        except BaseException:
            with self._writing:
                self._touched |= touched
                self._known = {before.identity}
                if identity(before.path / MANIFEST_FILE) != before.identity:
                    self._fault = "it was replaced, or its compaction broke off; open it again"
            raise
        with self._writing:
            self._artifact = written.artifact
            self._known = {written.artifact.identity}
            self._tensors.update(written.tensors)
            self._cut_log(position)
        for (table, band), rows in bands.items():
            if len(rows.slots):
                self._serve_pages(table, band, stamp)
        self._floor = self._native.stats().held_bytes, self._log.end
        return written.bytes

    def _bands(self, memory: str) -> list[tuple[int, int]]:
        return [
            (t, b)
            for t, table in enumerate(self._artifact.tables)
            for b, band in enumerate(table.layout.bands)
            if band.memory == memory and (memory == "ssd" or band.tt is None)
        ]

    def _held(self, table: int, band: int, stamp: int) -> BandRows:
        slots, _, rows = self._native.held_rows(table, band, stamp)
        return BandRows(slots, rows.reshape(len(slots), -1) if len(slots) else rows.reshape(0, 1))

    def _cut_log(self, position: int) -> None:
        """A new log of what the artifact has not: rows of tensor trains, and updates behind a position."""
        artifact, path = self._artifact, self._log.path
        groups: list[list[LogEntry]] = []
        for t, table in enumerate(artifact.tables):
            for b, band in enumerate(table.layout.bands):
                if band.tt is None:
                    continue
                _, ids, rows = self._native.held_rows(t, b, self._native.last_stamp)
                values = rows.view(np.float32).reshape(len(ids), -1) if len(ids) else rows
                step = max(1, _GROUP_BYTES // (8 + 4 * table.layout.embedding_dim))
                for start in range(0, len(ids), step):
                    some = slice(start, start + step)
                    groups.append([LogEntry(t, ids[some], values[some])])
        read_log(path, lambda entry: groups.append([entry]), start=position)
        write_log(path, LogHeader.new(bytes.fromhex(artifact.origin), artifact.generation), groups)
        end = read_log(path, lambda entry: None)
        assert end is not None
        self._log.close()
        self._log = UpdateLog(path, end)

    def _serve_pages(self, table: int, band: int, stamp: int) -> None:
        layout = self._artifact.tables[table].layout
        kind, written, default = written_kind(layout, band), None, None
        if kind is not None:
            prefix = f"{table}.{band}"
            names = written_specs(layout, band)
            written = (kind, *(self._tensors[f"{prefix}.pages.{name}"] for name in names))
            default = self._tensors[f"{prefix}.default"].view(np.uint8)
        path = self._artifact.pages_path(table, band)
        self._native.replace_pages(table, band, path, stamp, written=written, default_row=default)

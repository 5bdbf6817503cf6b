"""The SSD: random reads of a temporary file at growing queue depths, past the page cache."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screc import _native
from screc.planning.rates.clock import Clock
from screc.planning.system import ReadRate
from screc.storage.layout import PAGE_BYTES, PageGeometry

_QUEUE_DEPTHS = (1, 4, 16, 64, 256)
_FILE_BYTES = 2**30
_SMALLEST_FILE_BYTES = 2**26
_BLOCK_PAGES = 2**12
#: Columns of the fp32 rows in the file's pages.
FILE_DIM = 16
_PART = 0.03


@dataclass(frozen=True, slots=True)
class SsdFigures:
    """What :func:`measure_reads` finds.

    Attributes:
        backend: how reads are asked for.
        reads: rates by queue depth.
        adjacent: cost of a page that is read together with the one before it, in lone pages.
    """

    backend: str
    reads: tuple[ReadRate, ...]
    adjacent: float


def measure_reads(clock: Clock, path: Path) -> SsdFigures:
    """Random reads of the file's pages, and of every other one of a range in a row.

    Raises:
        OSError: the file system has no direct reads; names the directory.
    """
    random = np.random.default_rng(0)
    reads: list[ReadRate] = []
    for depth in _QUEUE_DEPTHS:
        reader = _native.PageReader(str(path), queue_depth=depth)
        if not reader.direct:
            raise OSError(
                errno.EOPNOTSUPP,
                f"{path.parent}: its file system has no direct reads, so the SSD cannot be measured; "
                "probe a directory on the SSD itself, or leave it out with ssd=False",
            )
        count = min(max(32, 8 * depth), 1024)
        out = np.empty((count, PAGE_BYTES), dtype=np.uint8)

        def run(reader=reader, count=count, out=out) -> None:
            # In ascending order, as the store asks.
            reader.read(np.sort(random.integers(0, reader.num_pages, count)), out)

        seconds, spread = clock.time(f"reads at queue depth {depth}", _PART, run)
        rate = count / seconds
        reads.append(
            ReadRate(
                queue_depth=depth,
                pages_per_second=rate,
                latency_seconds=min(depth, count) / rate,
                spread=spread,
            )
        )
    count = min(1024, reader.num_pages // 2)
    out = np.empty((count, PAGE_BYTES), dtype=np.uint8)

    def dense() -> None:
        first = int(random.integers(0, reader.num_pages - 2 * count + 1))
        reader.read(first + np.sort(random.choice(2 * count, count, replace=False)), out)

    seconds, _ = clock.time("reads of pages side by side", _PART, dense)
    runs = count / 2
    adjacent = (seconds * reads[-1].pages_per_second - runs) / (count - runs)
    return SsdFigures(reader.backend, tuple(reads), float(np.clip(adjacent, 0.0, 1.0)))


@contextmanager
def page_file(directory: Path) -> Iterator[Path]:
    """A file of checksummed pages of fp32 rows on the disk, deleted at the end.

    Raises:
        OSError: the directory has no room for it or cannot be written; names it.
    """
    size = min(_FILE_BYTES, shutil.disk_usage(directory).free // 2)
    if size < _SMALLEST_FILE_BYTES:
        raise OSError(errno.ENOSPC, _no_room(directory))
    try:
        file = tempfile.NamedTemporaryFile(prefix=".screc-probe-", dir=directory)  # noqa: SIM115
    except OSError as error:
        raise OSError(error.errno, f"{directory}: cannot write there ({error.strerror})") from error
    with file:
        try:
            for block in _blocks(size // PAGE_BYTES):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise OSError(error.errno, _no_room(directory)) from error
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        yield Path(file.name)


def _blocks(num_pages: int) -> Iterator[memoryview]:
    """Pages of table 0, band 0, their rows incompressible."""
    random = np.random.default_rng(0)
    per_page = PageGeometry.of(4 * FILE_DIM).rows_per_page
    for first in range(0, num_pages, _BLOCK_PAGES):
        pages = min(_BLOCK_PAGES, num_pages - first)
        rows = random.random((pages * per_page, FILE_DIM), dtype=np.float32)
        block = np.empty((pages, PAGE_BYTES), np.uint8)
        _native.fill_pages(rows.view(np.uint8), 0, 0, first, block)
        yield block.data


def _no_room(directory: Path) -> str:
    return (
        f"{directory}: no room for the probe's test file ({2 * _SMALLEST_FILE_BYTES >> 20} MiB free "
        f"at least, {_FILE_BYTES >> 20} MiB used where there is more); free some, or probe another directory"
    )

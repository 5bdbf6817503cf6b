"""Sparse bands: page files of which only the pages of known rows are written (docs/format.md)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

import numpy as np

from .layout import PAGE_BYTES, PageGeometry, index_kind
from .remap import bitmap_index, hash_index

# Pages of data that are looked at together.
_PAGES_PER_STEP = 1 << 16


def written_groups(ids: np.ndarray, geometry: PageGeometry) -> np.ndarray:
    """The page groups that hold rows ``ids`` (int64 [n], ascending), int64, ascending, each once."""
    groups = ids // geometry.rows_per_page
    return groups[np.flatnonzero(np.diff(groups, prepend=-1))]


def group_index(groups: np.ndarray, num_groups: int) -> Sequence[np.ndarray]:
    """The index of the written page groups (int64 [n], ascending): the arrays of the smaller form."""
    if index_kind(num_groups, len(groups)) == "bitmap":
        return bitmap_index(groups, num_groups)
    return hash_index(groups, np.arange(len(groups), dtype=np.uint32))


def indexed_groups(kind: str, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """What :func:`group_index` was made from."""
    if kind == "hash":
        keys = arrays[0]
        return np.sort(keys[keys >= 0])
    bits = arrays[0]
    words = np.flatnonzero(bits)
    ones = np.unpackbits(bits[words].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    word, bit = np.nonzero(ones)
    return words[word] * 64 + bit


def runs(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers of an ascending array, as positions [start, stop) in it."""
    cuts = np.flatnonzero(np.diff(numbers) != 1) + 1
    start = 0
    for stop in (*cuts.tolist(), len(numbers)):
        if stop > start:
            yield start, stop
        start = stop


def pages_with_data(descriptor: int, size: int) -> Iterator[np.ndarray]:
    """The pages of a file that are not holes, int64, ascending, piece by piece; all of them where the file
    system cannot tell."""
    found: list[np.ndarray] = []
    held = last = 0
    for start, stop in data_ranges(descriptor, size):
        # A hole may begin inside a page where the file system's blocks are smaller.
        first, end = max(last, start // PAGE_BYTES), -(-stop // PAGE_BYTES)
        last = max(last, end)
        while first < end:
            piece = np.arange(first, min(end, first + _PAGES_PER_STEP - held))
            found.append(piece)
            held += len(piece)
            first += len(piece)
            if held == _PAGES_PER_STEP:
                yield np.concatenate(found)
                found, held = [], 0
    if held:
        yield np.concatenate(found)


def data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Byte ranges [start, stop) of a file that are not holes."""
    stop = 0
    while stop < size:
        try:
            start = os.lseek(descriptor, stop, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            start = stop
        try:
            stop = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError:
            stop = size
        yield start, min(stop, size)

"""The address remapper: from a row's id to its band and slot, in numpy and as the indices that are stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from screc import _native

from .layout import hash_capacity, index_kind

_BLOCK_BITS = 512
_CHUNK_IDS = 1 << 24  # a multiple of the block


class TableRemap:
    """Where the rows of one table live.

    Bands are those of :class:`~screc.storage.layout.TableLayout`: all but the last are given by their
    ids, slot i of the band being ``ids[i]``; the last is addressed by the id itself and takes all others.

    Args:
        num_embeddings: rows of the table.
        band_ids: int64 [rows] for every band but the last, in any order; disjoint, unique and in range.

    Raises:
        TypeError: ids that are not int64.
        ValueError: an id out of range, twice in a band, or in two bands; the message names band and id.
    """

    def __init__(self, num_embeddings: int, band_ids: Sequence[np.ndarray]) -> None:
        self.num_embeddings = num_embeddings
        self.num_bands = len(band_ids) + 1
        if self.num_bands > 127:
            raise ValueError(f"band_ids: at most 126 indexed bands, got {len(band_ids)}")
        total = sum(len(ids) for ids in band_ids)
        merged = np.empty(total, np.int64)
        bands = np.empty(total, np.int8)
        slots = np.empty(total, np.int64)
        start = 0
        for band, ids in enumerate(band_ids):
            check_ids(ids, num_embeddings, f"band_ids[{band}]")
            stop = start + len(ids)
            merged[start:stop], bands[start:stop], slots[start:stop] = ids, band, np.arange(len(ids))
            start = stop
        order = np.argsort(merged, kind="stable")
        self._ids, self._bands, self._slots = merged[order], bands[order], slots[order]
        twice = np.flatnonzero(self._ids[1:] == self._ids[:-1])
        if twice.size:
            first = int(twice[0])
            raise ValueError(
                f"band_ids: id {self._ids[first]} is in band {self._bands[first]} and again in band "
                f"{self._bands[first + 1]}; every id belongs to one band"
            )

    def locate(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Band (int8 [n]) and slot (int64 [n]) of each id (int64 [n]).

        Raises:
            TypeError: ids that are not int64.
            ValueError: an id out of range; the message names its position and value.
        """
        check_ids(ids, self.num_embeddings, "ids")
        band = np.full(ids.shape, self.num_bands - 1, np.int8)
        slot = ids.copy()
        if self._ids.size and ids.size:
            position = np.searchsorted(self._ids, ids)
            position[position == self._ids.size] = 0
            known = self._ids[position] == ids
            position = position[known]
            band[known] = self._bands[position]
            slot[known] = self._slots[position]
        return band, slot


def check_ids(ids: np.ndarray, num_embeddings: int, name: str) -> None:
    """Raises unless ``ids`` is int64 [n] with all values in [0, num_embeddings)."""
    if not isinstance(ids, np.ndarray) or ids.dtype != np.int64:
        raise TypeError(f"{name}: expected an int64 array, got {getattr(ids, 'dtype', type(ids).__name__)}")
    if ids.ndim != 1:
        raise ValueError(f"{name}: expected 1 dimension, got shape {list(ids.shape)}")
    if ids.size and (ids.min() < 0 or ids.max() >= num_embeddings):
        where = int(np.argmax((ids < 0) | (ids >= num_embeddings)))
        raise ValueError(f"{name}[{where}] = {ids[where]} is out of range for {num_embeddings} rows")


def slot_order(num_embeddings: int, ids: np.ndarray, *, ranked: bool) -> np.ndarray:
    """The ids of a band in the order of its slots (docs/format.md, "Layouts and addressing").

    Args:
        num_embeddings: rows of the table.
        ids: int64 [n], the band's ids in rank order.
        ranked: whether the band's rows may follow rank order (fp32 bands; tensor-train bands may not).
    """
    if ranked and index_kind(num_embeddings, len(ids)) == "hash":
        return ids
    return np.sort(ids)


def bitmap_index(ids: np.ndarray, num_embeddings: int) -> tuple[np.ndarray, np.ndarray]:
    """The bitmap index of a band whose slots follow ascending ids.

    Args:
        ids: int64 [n], ascending.
        num_embeddings: rows of the table.

    Returns:
        bits uint64 [ceil(N / 64)] and directory uint32 [ceil(words / 8) + 1].
    """
    words = -(-num_embeddings // 64)
    blocks = -(-words // 8)
    packed = np.zeros(blocks * _BLOCK_BITS // 8, np.uint8)
    directory = np.zeros(blocks + 1, np.uint32)
    for start in range(0, num_embeddings, _CHUNK_IDS):
        stop = min(start + _CHUNK_IDS, num_embeddings)
        first, last = np.searchsorted(ids, (start, stop))
        mask = np.zeros(-(-(stop - start) // _BLOCK_BITS) * _BLOCK_BITS, bool)
        mask[ids[first:last] - start] = True
        packed[start // 8 : start // 8 + mask.size // 8] = np.packbits(mask, bitorder="little")
        ones = mask.reshape(-1, _BLOCK_BITS).sum(axis=1)
        block = start // _BLOCK_BITS
        directory[block + 1 : block + 1 + ones.size] = directory[block] + np.cumsum(ones).astype(np.uint32)
    return packed.view(np.dtype("<u8"))[:words].copy(), directory


def hash_index(ids: np.ndarray, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hash index that maps ``ids[i]`` (int64, unique) to ``slots[i]`` (uint32).

    Returns:
        keys int64 [capacity] (-1 = empty) and slots uint32 [capacity].
    """
    capacity = hash_capacity(len(ids))
    keys_out, slots_out = np.empty(capacity, np.int64), np.empty(capacity, np.uint32)
    _native.build_hash_index(ids, slots, keys_out, slots_out)
    return keys_out, slots_out

"""Seeded 64-bit hashing, vectorised: of integers (splitmix64) and of byte strings."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_LANES = np.arange(8)
# Masks that keep the first k bytes of a little-endian word.
_KEEP = np.array([(1 << (8 * k)) - 1 for k in range(9)], dtype=np.uint64)


def mix(values: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser of every uint64; works in place and returns its argument."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


@lru_cache(maxsize=1024)
def mix_integers(*values: int) -> int:
    """One well-mixed uint64 of several integers (order matters)."""
    state = 0
    for value in values:
        word = np.array([(state ^ (value & _MASK)) + _GOLDEN & _MASK], dtype=np.uint64)
        state = int(mix(word)[0])
    return state


def coprime(start: int, modulus: int) -> int:
    """The first integer from ``start`` that shares no factor with ``modulus``, to scatter ids by."""
    while math.gcd(start, modulus) != 1:
        start += 1
    return start


def hash_bytes(values: pa.Array, seed: int) -> np.ndarray:
    """uint64 [n] hashes of a binary or string array (32- or 64-bit offsets, no nulls).

    The hash depends on the bytes and the seed alone, so it is the same on every machine and in every version
    of this file format. Works word by word over all values at once.
    """
    import pyarrow as pa

    large = pa.types.is_large_binary(values.type) or pa.types.is_large_string(values.type)
    _, offset_buffer, data_buffer = values.buffers()
    count = len(values)
    if not count:
        return np.zeros(0, dtype=np.uint64)
    width = np.int64 if large else np.int32
    offsets = np.frombuffer(offset_buffer, dtype=width)[values.offset : values.offset + count + 1]
    offsets = offsets.astype(np.int64)
    data = np.frombuffer(data_buffer or b"", dtype=np.uint8)[: offsets[-1]]
    lengths = np.diff(offsets)
    state = mix(lengths.astype(np.uint64) + np.uint64(mix_integers(seed)))
    if not data.size:
        return state
    active = np.flatnonzero(lengths > 0)
    word = 0
    while active.size:
        starts = offsets[active] + 8 * word
        places = np.minimum(starts[:, None] + _LANES, data.size - 1)
        words = data[places].view("<u8").ravel().astype(np.uint64, copy=False)
        words &= _KEEP[np.minimum(lengths[active] - 8 * word, 8)]
        words ^= state[active]
        words += np.uint64(_GOLDEN)
        state[active] = mix(words)
        word += 1
        active = active[lengths[active] > 8 * word]
    return state

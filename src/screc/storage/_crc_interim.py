"""CRC32C in numpy until the compiled module has it. Deleted once it has."""

from __future__ import annotations

import numpy as np

_TABLE = np.arange(256, dtype=np.uint32)
for _ in range(8):
    _TABLE = np.where(_TABLE & 1, (_TABLE >> np.uint32(1)) ^ np.uint32(0x82F63B78), _TABLE >> np.uint32(1))


def _feed(states, column):
    return _TABLE[(states ^ column) & np.uint32(255)] ^ (states >> np.uint32(8))


def _apply(matrix, vector):
    out = np.zeros_like(vector)
    for bit in range(32):
        out ^= np.where((vector >> np.uint32(bit)) & np.uint32(1), matrix[bit], np.uint32(0))
    return out


def _shift(num_bytes):
    result = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = _feed(result.copy(), np.uint32(0))
    while num_bytes:
        if num_bytes & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        num_bytes >>= 1
    return result


def crc32c(data, seed=0):
    data = np.frombuffer(data, np.uint8)
    lanes = 1 << max(0, min(16, data.size.bit_length() - 8))
    length = -(-data.size // lanes)
    padded = np.zeros(lanes * length, np.uint32)
    padded[padded.size - data.size :] = data
    padded = padded.reshape(lanes, length).T.copy()
    states = np.zeros(lanes, np.uint32)
    for column in padded:
        states = _feed(states, column)
    while states.size > 1:
        states = _apply(_shift(length), states[::2]) ^ states[1::2]
        length *= 2
    start = np.array([seed ^ 0xFFFFFFFF], np.uint32)
    return int(states[0] ^ _apply(_shift(data.size), start)[0] ^ np.uint32(0xFFFFFFFF))

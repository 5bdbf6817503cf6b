"""Seeded hashing of ids on any torch device; the native store computes the same slots (native/store)."""

from __future__ import annotations

import torch
from torch import Tensor

_GOLDEN = -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as int64
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # the multipliers of splitmix64
_LARGEST = torch.iinfo(torch.int64).max


def mix(values: Tensor, salt: Tensor | int = 0) -> Tensor:
    """splitmix64 of ``values`` int64, any shape, with a salt (int64): int64 of well-mixed bits."""
    golden = (salt + 1) * _GOLDEN
    state = values + (golden if isinstance(golden, Tensor) else _wrapped(golden))
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def buckets(values: Tensor, count: Tensor | int, salt: Tensor | int = 0) -> Tensor:
    """Buckets from 0 to ``count - 1`` (one number, or int64 of the values' shape) by the low 63 bits."""
    return (mix(values, salt) & _LARGEST) % count


def _shifted(values: Tensor, bits: int) -> Tensor:
    """The shift of unsigned words."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _wrapped(value: int) -> int:
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)

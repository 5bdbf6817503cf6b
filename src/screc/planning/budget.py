"""Byte budgets as people write them: ``500MB``, ``1.5GiB``, ``10%``."""

from __future__ import annotations

import math
import re

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*|%)\s*", re.ASCII)


def parse_bytes(text: str | int, *, whole: int | None = None) -> int:
    """Bytes meant by a budget.

    Args:
        text: an amount with a unit (B, KB, MB, GB, TB = powers of 1000; KiB, MiB, GiB, TiB = powers of
            1024; no unit = bytes), or a percentage of ``whole``.
        whole: bytes that a percentage refers to (every row of every table in float32).

    Raises:
        ValueError: the text is not an amount; names it.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise TypeError(f"budget: expected text or an int, got {text!r}")
    match = _AMOUNT.fullmatch(str(text))
    if match is None:
        raise ValueError(f"budget {text!r} is not an amount; write it like 500MB, 1.5GiB or 10%")
    number, unit = match.groups()
    if unit == "%":
        if whole is None:
            raise ValueError(
                f"budget {text!r}: a percentage needs tables to refer to; give bytes, like 500MB"
            )
        return math.floor(float(number) / 100 * whole)
    if unit.lower() not in _UNITS:
        raise ValueError(
            f"budget {text!r}: unknown unit {unit!r}; use B, KB, MB, GB, TB, KiB, MiB, GiB, TiB or %"
        )
    scale = _UNITS[unit.lower()]
    return int(number) * scale if number.isdigit() else math.floor(float(number) * scale)


def format_bytes(count: int) -> str:
    """Bytes for people, in powers of 1000: ``12.3 MB``."""
    size = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"

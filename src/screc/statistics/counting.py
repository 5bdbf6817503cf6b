"""Counters of row ids that share a given memory; how they count is ``native/statistics/row_counter.h``."""

from __future__ import annotations

from collections.abc import Sequence

from screc import _native

DEFAULT_MEMORY = 2 << 30
# A row that was counted takes 16 bytes, its id and its count.
_ROW_BYTES = 16
# With less a counter would soon know next to nothing.
_LEAST_BYTES = 64 << 10


def make_counters(tables: Sequence[tuple[str, int]], memory_limit: int) -> list[_native.RowCounter]:
    """One counter for each (name, rows) that together, and with their results, keep within a limit.

    A table is counted exactly where 16 bytes for each of its rows fit into its part of the memory, and
    otherwise as long as the rows that occur do (about 23 bytes each). Small tables get what they need first,
    the others equal parts of the rest. Ending one counter takes its part once more, so the largest part
    counts twice: a table alone has half of the limit.

    Raises:
        ValueError: the limit is too small; the message names the smallest that would do.
    """
    needed = sorted(_ROW_BYTES * rows for _, rows in tables)
    least = sum(min(one, _LEAST_BYTES) for one in needed) + min(max(needed, default=0), _LEAST_BYTES)
    if memory_limit < least:
        raise ValueError(
            f"memory_limit: counting {len(tables)} tables needs at least {least} bytes, got {memory_limit}"
        )
    part = _LEAST_BYTES
    granted = 0  # to the tables before this one, which get all they need
    for place, one in enumerate(needed):
        # What each of the tables from here on would get, and the largest of them once more.
        even = (memory_limit - granted) // (len(needed) - place + 1)
        part = max(part, even)
        if one > even:
            break
        granted += one
    return [_native.RowCounter(name, rows, part) for name, rows in tables]

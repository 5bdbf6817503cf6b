"""Which core has which table: the mapping of the asymmetric data flow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import NonNegativeInt

from screc import _native
from screc.storage.frozen import Frozen
from screc.storage.strategy import STRATEGIES

#: Which threads look what up: each a part of the samples in all tables, or all samples in its core's tables
#: (arXiv 2507.01676; native/store/core_tables.h).
DataFlow = Literal["symmetric", "asymmetric"]


class TableCores(Frozen):
    """Whose a table is in the asymmetric data flow, and how its rows are fetched there."""

    table: str
    cores: tuple[NonNegativeInt, ...] = ()
    """Ascending numbers of threads; none: whoever comes looks it up. Only a table that is one array of rows
    in DRAM can have cores."""
    split: Literal["columns", "samples"] = "columns"
    """What each of several cores has: some columns of every row (strategy ``private``), or all of the table
    and a part of the samples."""
    strategy: Literal[STRATEGIES] = "gather"  # type: ignore[valid-type]
    """One of ``screc.storage.STRATEGIES``; ``private`` and ``private_stream`` need a core."""


def set_mapping(native: _native.RowStore, mapping: Sequence[TableCores], names: Sequence[str]) -> None:
    """Give a native store the mapping of its tables, in any order; an empty one takes it off.

    Raises:
        KeyError: a name is no table's.
        ValueError: a table is missing or twice there, or cannot be looked up as the mapping says.
    """
    by_name = {table.table: table for table in mapping}
    for name, count in Counter(table.table for table in mapping).items():
        if name not in names:
            raise KeyError(f"mapping: no table '{name}'; there are {', '.join(names)}")
        if count > 1:
            raise ValueError(f"mapping: table '{name}' is there {count} times")
    missing = [name for name in names if name not in by_name]
    if mapping and missing:
        raise ValueError(f"mapping: table '{missing[0]}' is missing; give it no cores if it is for all")
    entries: list[Any] = [
        (by_name[name].strategy, list(by_name[name].cores), by_name[name].split) for name in names if mapping
    ]
    native.set_mapping(entries)

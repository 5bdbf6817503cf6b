"""The order of a table's rows in the pages of its last band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .layout import PageOrderKind, TableLayout


@dataclass(frozen=True, eq=False, slots=True)
class PageOrder:
    """Which row stands at which slot of a table's last band.

    Attributes:
        table: the table's name.
        kind: what the order follows, "frequency" or "co-access".
        ids: uint32 [num_embeddings], the id at each slot: every id once. Ids of earlier bands have slots too,
            which nobody reads; they do best at the end.

    Raises:
        ValueError: ``ids`` is not such an order; the message names the table.
        TypeError: ``ids`` is not uint32.
    """

    table: str
    kind: PageOrderKind
    ids: np.ndarray

    def __post_init__(self) -> None:
        if self.ids.dtype != np.uint32 or self.ids.ndim != 1:
            raise TypeError(
                f"table {self.table}: ids of a page order are uint32 [num_embeddings], got {self.ids.dtype} "
                f"{list(self.ids.shape)}"
            )
        if self.kind == "id":
            raise ValueError(f"table {self.table}: the order of the ids needs no page order; leave it out")
        if not is_permutation(self.ids):
            raise ValueError(
                f"table {self.table}: the page order must hold every id from 0 to {self.ids.size - 1} once"
            )

    @property
    def index_bytes(self) -> int:
        """DRAM that the index takes."""
        return self.ids.nbytes

    def slots(self) -> np.ndarray:
        """The slot of every id, uint32 [num_embeddings]: the index that is stored."""
        slots = np.empty_like(self.ids)
        slots[self.ids] = np.arange(self.ids.size, dtype=np.uint32)
        return slots


def is_permutation(numbers: np.ndarray) -> bool:
    """Whether ``numbers`` (uint32 [n]) holds every number from 0 to n - 1 once."""
    seen = np.zeros(numbers.size, bool)
    seen[numbers[numbers < numbers.size]] = True
    return bool(seen.all())


def ordered_layouts(layouts: Sequence[TableLayout], orders: Mapping[str, PageOrder]) -> list[TableLayout]:
    """The layouts with the page orders of these tables, and with the ids' order in all others.

    Raises:
        ValueError: an order of a table that there is not, that has another number of rows, or whose last
            band is not on SSD.
    """
    strange = orders.keys() - {layout.table for layout in layouts}
    if strange:
        raise ValueError(f"page_orders: there is no table {sorted(strange)[0]}")
    result = []
    for layout in layouts:
        order = orders.get(layout.table)
        if order is not None and order.ids.size != layout.num_embeddings:
            raise ValueError(
                f"table {layout.table}: the page order has {order.ids.size} ids, the table "
                f"{layout.num_embeddings} rows; make it from this table's statistics"
            )
        result.append(layout.with_order("id" if order is None else order.kind))
    return result

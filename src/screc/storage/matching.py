"""Whether a plan and statistics fit the checkpoint that is to be packed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .band_source import RankedTable, same_bands, trained_whole
from .checkpoint import Checkpoint
from .layout import TableLayout


class RankedTables(Protocol):
    """What packing asks of access statistics."""

    @property
    def tables(self) -> Sequence[RankedTable]:
        """One entry per table."""


class PlacementPlan(Protocol):
    """What packing asks of a plan."""

    @property
    def layouts(self) -> Sequence[TableLayout]:
        """One layout per table."""

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values, kept in the manifest."""


def match_layouts(checkpoint: Checkpoint, planned: Sequence[TableLayout]) -> list[TableLayout]:
    """The plan's layouts in the checkpoint's order, checked against it."""
    by_name: dict[str, TableLayout] = {}
    for layout in planned:
        if layout.table in by_name:
            raise ValueError(
                f"plan: table {layout.table} is split over several devices; what is packed here holds whole "
                "tables, plan for a host whose memories are shared"
            )
        by_name[layout.table] = layout
        if any(band.memory == "llc" for band in layout.bands):
            raise ValueError(
                f"plan: table {layout.table} has a band in llc, memory of a device's own, which nothing that "
                "is packed here has; plan for a host"
            )
    result = []
    for stored in (table.layout for table in checkpoint.tables):
        layout = by_name.pop(stored.table, None)
        if layout is None:
            raise ValueError(f"table {stored.table}: the plan has no layout for it; plan for this checkpoint")
        for field in ("num_embeddings", "embedding_dim"):
            if getattr(layout, field) != getattr(stored, field):
                raise ValueError(
                    f"table {stored.table}: {field} is {getattr(stored, field)} in the checkpoint and "
                    f"{getattr(layout, field)} in the plan; plan for this checkpoint"
                )
        if not trained_whole(stored) and not same_bands(stored, layout):
            raise ValueError(
                f"table {stored.table}: it was trained with the bands {_bands_text(stored)}, the plan has "
                f"{_bands_text(layout)}; pack with the plan it was trained for, or train it with this one"
            )
        result.append(layout)
    if by_name:
        raise ValueError(f"table {next(iter(by_name))}: it is in the plan and not in the checkpoint")
    return result


def match_statistics(
    checkpoint: Checkpoint, layouts: Sequence[TableLayout], statistics: RankedTables | None
) -> list[RankedTable | None]:
    by_name = {} if statistics is None else {table.name: table for table in statistics.tables}
    result: list[RankedTable | None] = []
    for stored, layout in zip((table.layout for table in checkpoint.tables), layouts, strict=True):
        table = by_name.get(layout.table)
        if table is not None and table.num_embeddings != layout.num_embeddings:
            raise ValueError(
                f"table {layout.table}: the statistics count {table.num_embeddings} rows, the table has "
                f"{layout.num_embeddings}; collect them with this model's encoder"
            )
        if table is None and not same_bands(stored, layout) and len(layout.bands) > 1:
            raise ValueError(
                f"table {layout.table}: cutting it into bands needs its access statistics; collect them and "
                "pass them to pack"
            )
        result.append(table)
    return result


def check_sparse(checkpoint: Checkpoint, layouts: Sequence[TableLayout]) -> None:
    """Refuses what a table of which only some rows are known cannot become."""
    for stored, layout in zip(checkpoint.tables, layouts, strict=True):
        if stored.known_rows is None:
            continue
        if not same_bands(stored.layout, layout) and layout.bands[-1].tt is not None:
            raise ValueError(
                f"table {layout.table}: only {stored.known_rows} of its rows are known, and the plan makes a "
                "tensor train of all that are left; plan with tt=False, or train with the plan"
            )
        if layout.bands[-1].order != "id":
            raise ValueError(
                f"table {layout.table}: only {stored.known_rows} of its rows are known, so that its pages "
                "keep the order of the ids; leave it out of page_orders"
            )


def _bands_text(layout: TableLayout) -> str:
    return ", ".join(f"{band.start}-{band.stop} {band.format}" for band in layout.bands)

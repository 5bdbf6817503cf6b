"""What else a table of a plan could have become: its costs whole in every placement open to the plan."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from screc.planning.costs import Placement, TableCosts
from screc.planning.places import band_name
from screc.planning.plan import Plan
from screc.planning.prediction import table_models
from screc.planning.sensitivity import Sensitivity
from screc.statistics.access import AccessStatistics
from screc.storage.layout import TableLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A layout of one table, per batch; the other tables stay as planned.

    Attributes:
        name: what its rows become.
        device_seconds: how long one device is busy with it.
        pages: 4 KiB reads.
        dram_bytes, ssd_bytes: of rows, cores, pages and indices.
        loss: rise of the mean log-loss, nats a sample; None without a sensitivity.
    """

    name: str
    device_seconds: float
    pages: float
    dram_bytes: int
    ssd_bytes: int
    loss: float | None

    def to_dict(self) -> dict[str, object]:
        """As JSON types."""
        return asdict(self)


def table_alternatives(
    plan: Plan, table: str, statistics: AccessStatistics, sensitivity: Sensitivity | None = None
) -> list[Alternative]:
    """The planned layout of a table, and the table whole in each placement that the plan's options allow.

    Args:
        plan: the plan.
        table: its name; a table in several parts has no alternatives but its own parts.
        statistics: those the plan was made from.
        sensitivity: likewise, where the plan had one.

    Raises:
        KeyError: the plan has no such table; names those it has.
    """
    numbers = numbers_of(plan, table)
    models = table_models(plan.layouts, plan.assignment, statistics, plan.system, plan.options, sensitivity)
    found = [
        _costed(
            models[n],
            plan.layouts[n],
            "as planned" if len(numbers) == 1 else f"part {k} as planned",
            sensitivity,
        )
        for k, n in enumerate(numbers)
    ]
    if len(numbers) > 1:
        return found
    layout, model, options = plan.layouts[numbers[0]], models[numbers[0]], plan.options
    placements = [
        Placement(row_format, "dram", scale=options.row_scale if row_format in ("int8", "int4") else "row")
        for row_format in options.row_formats
    ]
    if options.tt:
        placements += [Placement("tt", "dram", tt_rank=rank) for rank in options.tt_ranks]
    if options.ssd and plan.system.ssd is not None:
        placements += [Placement(p.format, "ssd", scale=p.scale) for p in placements if p.tt_rank is None]
    rows = layout.num_embeddings
    for placement in placements:
        band = placement.band(0, rows, rows, layout.embedding_dim)
        whole = TableLayout(
            table=table, num_embeddings=rows, embedding_dim=layout.embedding_dim, bands=(band,)
        )
        found.append(_costed(model, whole, f"whole: {band_name(band)}", sensitivity))
    return found


def numbers_of(plan: Plan, table: str) -> list[int]:
    """Places of a table's layouts in a plan: one, or one for each part.

    Raises:
        KeyError: the plan has no such table.
    """
    numbers = [n for n, layout in enumerate(plan.layouts) if layout.table == table]
    if not numbers:
        names = ", ".join(dict.fromkeys(layout.table for layout in plan.layouts))
        raise KeyError(f"table: the plan has no table {table!r}; there are {names}")
    return numbers


def _costed(
    model: TableCosts, layout: TableLayout, name: str, sensitivity: Sensitivity | None
) -> Alternative:
    costs = model.of_layout(layout)
    return Alternative(
        name=name,
        device_seconds=float(costs.seconds.sum()),
        pages=float(costs.pages.sum()),
        dram_bytes=layout.dram_bytes,
        ssd_bytes=layout.ssd_bytes,
        loss=None if sensitivity is None else float(costs.loss.sum()),
    )

"""The plan: which layout every table gets, what that is predicted to cost, and how good it is known to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from screc.planning.documents import Document
from screc.planning.system import SystemSpec
from screc.statistics.access import AccessStatistics
from screc.storage.frozen import Frozen
from screc.storage.layout import TableLayout
from screc.storage.page_order import PageOrder, ordered_layouts
from screc.storage.row_format import RowFormat, ScaleOf


class PlanError(ValueError):
    """A plan that does not hold what it promises; the message says which table and why."""


class BandPrediction(Frozen):
    """One band of a table."""

    rows: PositiveInt
    lookup_share: float = Field(ge=0, le=1.0 + 1e-9)
    """Share of the table's look-ups (smoothed) that end in this band."""
    num_bytes: NonNegativeInt
    """Bytes of rows, cores or pages in the band's memory."""
    index_bytes: NonNegativeInt
    """DRAM bytes of the band's index."""


class TablePrediction(Frozen):
    """One table, per batch."""

    table: str
    lookups: NonNegativeFloat
    """Look-ups per batch."""
    seconds: NonNegativeFloat
    dram_seconds: NonNegativeFloat
    tt_seconds: NonNegativeFloat
    ssd_seconds: NonNegativeFloat
    index_seconds: NonNegativeFloat
    pages: NonNegativeFloat
    """4 KiB reads per batch."""
    bands: tuple[BandPrediction, ...] = Field(min_length=1)


class Prediction(Frozen):
    """What the plan is predicted to take; seconds and counts per batch of ``options.batch_size`` samples."""

    seconds_per_batch: NonNegativeFloat
    """embedding_seconds + dense_seconds + ssd_wait_seconds."""
    embedding_seconds: NonNegativeFloat
    """What the planner minimises: all tables' seconds."""
    dense_seconds: NonNegativeFloat
    """The MLPs, equal for every plan."""
    ssd_wait_seconds: NonNegativeFloat
    """One read's latency, times the chance that a batch needs a read at all."""
    lookups_per_batch: NonNegativeFloat
    pages_per_batch: NonNegativeFloat
    dram_bytes: NonNegativeInt
    """Rows, cores and indices."""
    ssd_bytes: NonNegativeInt
    tt_bytes: NonNegativeInt
    index_bytes: NonNegativeInt
    tt_share: float = Field(ge=0, le=1.0 + 1e-6)
    """Share of all look-ups that TT bands answer."""
    tables: tuple[TablePrediction, ...]


class Budget(Frozen):
    """What the plan had to fit into."""

    dram_bytes: NonNegativeInt
    ssd_bytes: NonNegativeInt
    max_tt_share: float = Field(ge=0, le=1)


class PlanOptions(Frozen):
    """What the plan was asked for."""

    batch_size: PositiveInt = 1024
    tt_ranks: tuple[PositiveInt, ...] = (8, 16, 32)
    ssd: bool = True
    tt: bool = True
    dense_flops: NonNegativeInt = 0
    queue_depth: PositiveInt = 256
    row_cache_bytes: NonNegativeInt = 0
    """DRAM of the budget that is kept for the cache of rows on SSD."""
    roles: tuple[PositiveInt, PositiveInt] | None = None
    """Threads that look rows up and threads that compute; None: every thread does both."""
    time_limit: float = Field(default=60.0, gt=0)
    mip_gap: float = Field(default=1e-4, ge=0, lt=1)
    row_format: RowFormat = "fp32"
    row_scale: ScaleOf = "row"
    """Whether each int8 or int4 row has its own scale and bias, or all rows of a band share one."""


class SolverReport(Frozen):
    """How the plan was found."""

    status: str
    """``optimal``, ``time limit`` or ``bound`` (see :class:`screc.planning.mip.Choice`)."""
    candidates: NonNegativeInt
    """Layouts left of all tables after dominated ones were removed."""
    columns: NonNegativeInt
    """Of these, columns that the solver was given."""


class Plan(Document):
    """A placement of every row of every table, as versioned JSON."""

    format: Literal["screc-plan"] = "screc-plan"
    version: Literal[1] = 1
    created: str
    layouts: tuple[TableLayout, ...]
    predicted: Prediction
    budget: Budget
    options: PlanOptions
    gap: float = Field(ge=0, le=1)
    """(embedding_seconds - lower_bound_seconds) / embedding_seconds, over the candidate layouts."""
    lower_bound_seconds: NonNegativeFloat
    solver: SolverReport
    system: SystemSpec
    statistics_digest: str
    statistics_samples: NonNegativeInt

    @model_validator(mode="after")
    def _matching(self) -> Plan:
        names = [layout.table for layout in self.layouts]
        predicted = [table.table for table in self.predicted.tables]
        if names != predicted:
            raise ValueError(f"layouts are of tables {names}, predictions of {predicted}")
        for layout, table in zip(self.layouts, self.predicted.tables, strict=True):
            if [band.num_rows for band in layout.bands] != [band.rows for band in table.bands]:
                raise ValueError(f"table {layout.table}: layout and prediction differ in their bands")
        return self


def check_plan(plan: Plan, statistics: AccessStatistics) -> None:
    """Check a plan from its layouts alone: every row covered once, every capacity kept, bytes as predicted.

    Raises:
        PlanError: with the table and the reason.
    """
    if len(plan.layouts) != len(statistics.tables):
        raise PlanError(f"the plan has {len(plan.layouts)} tables, the statistics {len(statistics.tables)}")
    lookups = statistics.num_lookups
    in_tt = 0.0
    for layout, table in zip(plan.layouts, statistics.tables, strict=True):
        if (layout.table, layout.num_embeddings) != (table.name, table.num_embeddings):
            raise PlanError(
                f"the plan has table {layout.table} with {layout.num_embeddings} rows where the statistics "
                f"have {table.name} with {table.num_embeddings}"
            )
        covered = 0
        for number, band in enumerate(layout.bands):
            if band.start != covered:
                raise PlanError(f"table {layout.table}: rank {covered} is in no band, or in two")
            covered = band.stop
            last = number == len(layout.bands) - 1
            if band.memory == "ssd" and not last:
                raise PlanError(f"table {layout.table}: band {number} on SSD is not the last")
            if band.tt is not None:
                if band.tt.num_rows < (table.num_embeddings if last else band.num_rows):
                    raise PlanError(f"table {layout.table}: the cores of band {number} do not reach all rows")
                shares = table.smoothed_curve.share([band.start, band.stop])
                in_tt += table.num_lookups * float(shares[1] - shares[0])
        if covered != table.num_embeddings:
            raise PlanError(f"table {layout.table}: {covered} of {table.num_embeddings} rows are in a band")
    dram = sum(layout.dram_bytes for layout in plan.layouts)
    ssd = sum(layout.ssd_bytes for layout in plan.layouts)
    cache = plan.options.row_cache_bytes
    for memory, used, predicted, limit in (
        ("DRAM", dram, plan.predicted.dram_bytes, plan.budget.dram_bytes - cache),
        ("SSD", ssd, plan.predicted.ssd_bytes, plan.budget.ssd_bytes),
    ):
        if used != predicted:
            raise PlanError(f"the layouts take {used} bytes of {memory}, the plan predicts {predicted}")
        if used > limit:
            beside = f" beside the row cache's {cache}" if memory == "DRAM" and cache else ""
            raise PlanError(f"the layouts take {used} bytes of {memory}, the budget is {limit}{beside}")
    if lookups and in_tt / lookups > plan.budget.max_tt_share + 1e-6:
        raise PlanError(
            f"TT bands answer {in_tt / lookups:.4f} of the look-ups, at most {plan.budget.max_tt_share} may"
        )


def check_page_orders(plan: Plan, orders: Sequence[PageOrder]) -> None:
    """Check that a plan's DRAM budget has room for the indices of page orders.

    Raises:
        PlanError: it has not; the message says how much less the plan may take.
    """
    ordered = ordered_layouts(plan.layouts, {order.table: order for order in orders})
    used = sum(layout.dram_bytes for layout in ordered) + plan.options.row_cache_bytes
    limit = plan.budget.dram_bytes
    if used > limit:
        more = sum(order.index_bytes for order in orders)
        raise PlanError(
            f"page orders of {len(orders)} tables take {more} bytes of DRAM, {used - limit} more than the "
            f"plan leaves of its {limit}; plan with {limit - more}, or keep the order of the ids"
        )

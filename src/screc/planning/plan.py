"""The plan: which layout every table gets, what that is predicted to cost, and how good it is known to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from screc.planning.documents import Document
from screc.planning.machine import is_private
from screc.planning.system import DensePrecision, SystemSpec
from screc.storage.frozen import Frozen
from screc.storage.layout import TableLayout
from screc.storage.mapping import TableCores
from screc.storage.row_format import RowFormat, ScaleOf
from screc.storage.row_store import CachePolicy
from screc.storage.strategy import STRATEGIES

Objective = Literal["throughput", "latency", "memory"]
#: The planner's choice, every device does both, or (memory devices, compute devices).
Roles = Literal["auto", "mixed"] | tuple[PositiveInt, PositiveInt]


class BandPrediction(Frozen):
    """One band of a table, per batch."""

    rows: PositiveInt
    lookup_share: float = Field(ge=0, le=1.0 + 1e-9)
    """Share of the table's look-ups (smoothed) that end in this band."""
    num_bytes: NonNegativeInt
    """Bytes of rows, cores or pages in the band's memory."""
    index_bytes: NonNegativeInt
    """Bytes of the band's index: in DRAM, of a band in llc there."""
    row_seconds: NonNegativeFloat
    """Device-seconds to fetch, decode or rebuild its rows."""
    index_seconds: NonNegativeFloat
    """Device-seconds to ask its index about every look-up that no earlier band answered."""
    pages: NonNegativeFloat
    """4 KiB reads."""
    loss: NonNegativeFloat | None = None
    """Rise of the mean log-loss, nats a sample; None where it was not measured."""


class TablePrediction(Frozen):
    """One table, or one row-shard of it, per batch."""

    table: str
    lookups: NonNegativeFloat
    device_seconds: NonNegativeFloat
    """How long one device is busy with it. Over several devices that share it: divided by their number."""
    pages: NonNegativeFloat
    """4 KiB reads."""
    loss: NonNegativeFloat | None = None
    bands: tuple[BandPrediction, ...] = Field(min_length=1)


class DevicePrediction(Frozen):
    """A number of devices that do the same, per batch."""

    role: Literal["memory", "compute", "both"]
    first: NonNegativeInt
    """Number of the first of them."""
    count: PositiveInt
    lookup_seconds: NonNegativeFloat = 0.0
    """Each device's, and likewise below."""
    dense_seconds: NonNegativeFloat = 0.0
    ssd_seconds: NonNegativeFloat = 0.0
    """Time of the drive that they read: of its own pages, or of everybody's where it is shared."""
    traffic_seconds: NonNegativeFloat = 0.0
    """Time that the bytes from DRAM take at the memory's full rate."""
    seconds: NonNegativeFloat
    """The stage: look-ups and dense work, what of the drive's time is not hidden behind them, or the DRAM
    traffic if that takes longer."""
    llc_bytes: NonNegativeInt = 0
    """Of memory that each device has for itself, and likewise below."""
    dram_bytes: NonNegativeInt = 0
    ssd_bytes: NonNegativeInt = 0


class Prediction(Frozen):
    """What the plan is predicted to take; seconds and counts per batch of ``options.batch_size`` samples."""

    seconds_per_batch: NonNegativeFloat
    """When batches follow each other: the slowest device's seconds, and ``batch_seconds``."""
    latency_seconds: NonNegativeFloat
    """Of one batch alone: look-ups, the drive's time that they do not hide, ``ssd_wait_seconds``, the dense
    part, ``batch_seconds``."""
    lookup_seconds: NonNegativeFloat
    """Of the device that has most, and likewise the next three."""
    dense_seconds: NonNegativeFloat
    ssd_seconds: NonNegativeFloat
    traffic_seconds: NonNegativeFloat
    ssd_wait_seconds: NonNegativeFloat
    """One read's latency, times the chance that a batch needs a read at all."""
    batch_seconds: NonNegativeFloat
    """What every batch takes whatever is in it."""
    lookups_per_batch: NonNegativeFloat
    pages_per_batch: NonNegativeFloat
    llc_bytes: NonNegativeInt
    dram_bytes: NonNegativeInt
    """Rows, cores and indices."""
    ssd_bytes: NonNegativeInt
    tt_bytes: NonNegativeInt
    index_bytes: NonNegativeInt
    tt_share: float = Field(ge=0, le=1.0 + 1e-6)
    """Share of all look-ups that TT bands answer."""
    loss: NonNegativeFloat | None
    """Rise of the mean log-loss, nats a sample; None without a sensitivity."""
    devices: tuple[DevicePrediction, ...]
    tables: tuple[TablePrediction, ...]
    """In the order of the layouts."""


class TableAssignment(Frozen):
    """Whose a table is."""

    table: str
    device: NonNegativeInt | None = None
    """The device that holds it; None: every device that looks up takes its share of the look-ups."""
    part: NonNegativeInt = 0
    parts: PositiveInt = 1
    """A table in several parts is dealt out by rank: part p has the ranks p, p + parts, p + 2 parts, ..."""
    strategy: Literal[STRATEGIES] = "gather"  # type: ignore[valid-type]
    """How its rows are looked up."""


class Assignment(Frozen):
    """Roles of the devices, and the device of every table."""

    memory: NonNegativeInt = 0
    """Devices 0 to memory - 1 look up, the next ``compute`` ones compute; 0 and 0: all do both."""
    compute: NonNegativeInt = 0
    tables: tuple[TableAssignment, ...]
    """In the order of the layouts."""

    @classmethod
    def shared(cls, layouts: Sequence[TableLayout], *, memory: int = 0, compute: int = 0) -> Assignment:
        """Every table is shared by all devices that look up."""
        tables = tuple(TableAssignment(table=layout.table) for layout in layouts)
        return cls(memory=memory, compute=compute, tables=tables)

    @model_validator(mode="after")
    def _consistent(self) -> Assignment:
        if (self.memory == 0) != (self.compute == 0):
            raise ValueError(
                f"memory and compute must both be positive, or 0 for devices that do both, got {self.memory} "
                f"and {self.compute}"
            )
        for table in self.tables:
            if table.part >= table.parts:
                raise ValueError(f"table {table.table}: part {table.part} of {table.parts}")
        return self

    def check(self, layouts: Sequence[TableLayout], system: SystemSpec) -> None:
        """Check that it fits layouts and a machine.

        Raises:
            ValueError: it does not; says where.
        """
        names = [layout.table for layout in layouts]
        if [table.table for table in self.tables] != names:
            raise ValueError(
                f"the assignment is of tables {[t.table for t in self.tables]}, the layouts of {names}"
            )
        count = system.devices.count
        if self.memory + self.compute not in (0, count):
            raise ValueError(
                f"{self.memory} memory and {self.compute} compute devices are not the machine's {count}"
            )
        lookers = self.memory or count
        owned = any(is_private(system, memory) for memory in ("llc", "dram", "ssd"))
        parts: dict[str, set[int]] = {}
        for table in self.tables:
            if table.device is None and owned and lookers > 1:
                raise ValueError(
                    f"table {table.table}: it has no device, and devices here have memories of their own"
                )
            if table.device is not None and table.device >= lookers:
                raise ValueError(
                    f"table {table.table}: device {table.device} is none of the {lookers} that look up"
                )
            if table.part in parts.setdefault(table.table, set()):
                raise ValueError(f"table {table.table}: part {table.part} is assigned twice")
            parts[table.table].add(table.part)
        for table in self.tables:
            if len(parts[table.table]) != table.parts:
                raise ValueError(
                    f"table {table.table}: {len(parts[table.table])} of its {table.parts} parts are assigned"
                )


class Budget(Frozen):
    """What the plan had to fit into: the machine's bytes or fewer."""

    llc_bytes: NonNegativeInt = 0
    """Of all devices together, where the plan says what their fast memory holds."""
    dram_bytes: NonNegativeInt
    ssd_bytes: NonNegativeInt
    max_tt_share: float | None = Field(default=None, ge=0, le=1)
    """Without a sensitivity: most look-ups that TT bands may answer, as a share of all."""
    max_loss: NonNegativeFloat | None = None
    """With one: most rise of the mean log-loss, nats a sample."""


class PlanOptions(Frozen):
    """What the plan was asked for."""

    objective: Objective = "throughput"
    samples_per_second: PositiveFloat | None = None
    """Of objective ``memory``: what the plan had to reach."""
    batch_size: PositiveInt = 1024
    row_formats: tuple[RowFormat, ...] = ("fp32",)
    row_scale: ScaleOf = "row"
    """Whether each int8 or int4 row has its own scale and bias, or all rows of a band share one."""
    tt_ranks: tuple[PositiveInt, ...] = (8, 16, 32)
    ssd: bool = True
    tt: bool = True
    dense_flops: NonNegativeInt = 0
    dense_precision: DensePrecision = "fp32"
    queue_depth: PositiveInt = 256
    row_cache_bytes: NonNegativeInt = 0
    """DRAM of the budget that is kept for the cache of rows on SSD."""
    row_cache_policy: CachePolicy = "sketch"
    """Which rows stay in it: those wanted most often lately, or (``lru``) those wanted last."""
    roles: Roles = "mixed"
    time_limit: float = Field(default=60.0, gt=0)
    mip_gap: float = Field(default=1e-3, ge=0, lt=1)


class ResourceUse(Frozen):
    """One limit of the program, and what it is worth."""

    name: str
    used: NonNegativeFloat
    limit: NonNegativeFloat
    price: NonNegativeFloat
    """What the objective would gain, by the program's relaxation, from one more unit of it."""


class SolverReport(Frozen):
    """How the plan was found."""

    status: str
    """``optimal`` (within the gap asked for), ``time limit``, or ``bound`` where our own bounds met."""
    method: str
    """Where the candidate layouts came from."""
    candidates: NonNegativeInt
    """Layouts of all tables that were looked at."""
    columns: NonNegativeInt
    """Of these, columns that the solver was given."""
    seconds: NonNegativeFloat = 0.0


class Plan(Document):
    """A placement of every row of every table, as versioned JSON."""

    format: Literal["screc-plan"] = "screc-plan"
    version: Literal[2] = 2
    created: str
    layouts: tuple[TableLayout, ...]
    """One of each table, or of each of its row-shards."""
    assignment: Assignment
    mapping: tuple[TableCores, ...] | None = None
    """Whose each table is in the asymmetric data flow, in which the engine then looks up; None: in the
    symmetric one."""
    predicted: Prediction
    budget: Budget
    options: PlanOptions
    value: NonNegativeFloat
    """What was minimised: seconds per batch (throughput), of one batch alone (latency), or bytes (memory)."""
    lower_bound: NonNegativeFloat
    """No plan of the candidate layouts has a smaller value."""
    gap: float = Field(ge=0, le=1)
    """(value - lower_bound) / value."""
    resources: tuple[ResourceUse, ...]
    reasons: tuple[str, ...]
    """Why it is as it is, in sentences."""
    solver: SolverReport
    system: SystemSpec
    statistics_digest: str
    statistics_samples: NonNegativeInt
    sensitivity_digest: str | None = None

    @model_validator(mode="after")
    def _matching(self) -> Plan:
        names = [layout.table for layout in self.layouts]
        for other, what in ((self.predicted.tables, "predictions"), (self.assignment.tables, "assignment")):
            if (theirs := [table.table for table in other]) != names:
                raise ValueError(f"layouts are of tables {names}, {what} of {theirs}")
        for layout, table in zip(self.layouts, self.predicted.tables, strict=True):
            if [band.num_rows for band in layout.bands] != [band.rows for band in table.bands]:
                raise ValueError(f"table {layout.table}: layout and prediction differ in their bands")
        return self

    @property
    def strategies(self) -> dict[str, str]:
        """How each table is looked up, where not by gathering its rows."""
        return {one.table: one.strategy for one in self.assignment.tables if one.strategy != "gather"}

"""What a machine can do: its devices, its memories, and the rates that predictions are made from.

A machine is a number of identical devices (cores, SmartSSDs, GPUs) with memories of their own and shared
ones. Rates are *device-nanoseconds*: how long one device is busy with a piece of work while all the others do
the same. Work that is spread evenly over the devices takes device-nanoseconds / devices on the clock.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from screc.planning.documents import Document
from screc.storage.frozen import Frozen
from screc.storage.layout import IndexKind, TtShape
from screc.storage.row_format import RowFormat, ScaleOf
from screc.storage.strategy import MAX_TIMED_BYTES, STRATEGIES, fastest_strategy

#: Where a device finds a row: in fast memory of its own (a core's second-level cache, an FPGA's on-chip
#: memory, a GPU's HBM), in the cache that all share, or in DRAM.
Where = Literal["private", "llc", "dram"]
#: What dense layers multiply in.
DensePrecision = Literal["fp32", "bf16", "int8"]
DeviceKind = Literal["core", "smartssd", "gpu"]

_PLACES: tuple[Where, ...] = get_args(Where)


class Capacities(Frozen):
    """Bytes of memory, 0 where there is none."""

    llc_bytes: NonNegativeInt = 0
    dram_bytes: NonNegativeInt = 0
    ssd_bytes: NonNegativeInt = 0


class DeviceSpec(Frozen):
    """The devices of a machine, all alike."""

    kind: DeviceKind
    count: PositiveInt
    fixed_role: bool = False
    """Whether a device's role, memory or compute, is fixed when it is configured (the bitstream of an FPGA).
    Else a device may do both in turn."""
    private: Capacities = Capacities()
    """Memories of each device; its ``llc_bytes`` are the fast memory that ``where="private"`` means."""


class RowRate(Frozen):
    """Device-ns of one look-up: a row of a format is fetched and added to its bag."""

    where: Where
    row_format: RowFormat
    scale: ScaleOf = "row"
    embedding_dim: PositiveInt
    ns: PositiveFloat
    spread: NonNegativeFloat = 0.0
    """Interquartile range / median of the rounds, here and in the other rates."""
    busy: PositiveInt
    """Devices that did the same at once."""


class BagRate(Frozen):
    """Device-ns of a bag besides the look-ups in it."""

    embedding_dim: PositiveInt
    ns: NonNegativeFloat
    spread: NonNegativeFloat = 0.0


class IndexRate(Frozen):
    """Device-ns to ask an index whether it holds an id, the index and the rows in the same place."""

    kind: IndexKind
    where: Where
    ns: PositiveFloat
    spread: NonNegativeFloat = 0.0


class TtRate(Frozen):
    """Device-ns to rebuild one row from tensor-train cores and add it to its bag."""

    tt_rank: PositiveInt
    embedding_dim: PositiveInt
    flops_per_row: PositiveInt
    ns: PositiveFloat
    spread: NonNegativeFloat = 0.0


class DenseRate(Frozen):
    """Device-ns of the dense part of a DLRM (MLPs and interaction) for one sample."""

    precision: DensePrecision
    samples: PositiveInt
    """Samples that each device had at once."""
    flops: PositiveInt
    """Float operations of the sample."""
    ns: PositiveFloat
    spread: NonNegativeFloat = 0.0


class ReadRate(Frozen):
    """Random 4 KiB reads at one queue depth."""

    queue_depth: PositiveInt
    pages_per_second: PositiveFloat
    latency_seconds: PositiveFloat
    """Mean time of one read at this depth: depth / pages_per_second."""
    spread: NonNegativeFloat = 0.0


class SsdSpec(Frozen):
    """The SSD that is shared, or that of each device where it has its own."""

    backend: str
    reads: tuple[ReadRate, ...] = Field(min_length=1)
    adjacent: float = Field(default=1.0, ge=0, le=1)
    """Drive's time of a page that is read together with the one before it, in lone pages."""
    page_ns: NonNegativeFloat = 0.0
    """Device-ns that a page costs besides the drive's time: to ask for it, to check it, to copy its row."""


class StrategyRate(Frozen):
    """Device-ns of a look-up in a small fp32 table by one strategy."""

    strategy: Literal[STRATEGIES]  # type: ignore[valid-type]
    rows: PositiveInt
    embedding_dim: PositiveInt
    pooling: PositiveInt
    """Look-ups in each bag."""
    ns: PositiveFloat


class OverlapSpec(Frozen):
    """How much of one kind of work is hidden behind another when an engine serves, 0 to 1."""

    ssd: float = Field(default=0.0, ge=0, le=1)
    """Of the shorter of the drive's time and the devices' time."""


class SystemSpec(Document):
    """Devices, memories and rates of a machine, measured or preset, as versioned JSON without a host name."""

    format: Literal["screc-system"] = "screc-system"
    version: Literal[2] = 2
    source: str
    """``probe`` or the name of a preset."""
    date: str
    machine: str
    """What kind of machine: the processor's name, its cores."""
    isa: str
    devices: DeviceSpec
    shared: Capacities
    """Memories of all devices together; ``llc_bytes`` is a cache that the hardware manages."""
    dram_bytes_per_second: PositiveFloat
    """Most that all devices together read from the shared DRAM, or each from its own."""
    rows: tuple[RowRate, ...] = Field(min_length=1)
    index: tuple[IndexRate, ...] = ()
    bags: tuple[BagRate, ...] = ()
    tt: tuple[TtRate, ...] = Field(min_length=1)
    dense: tuple[DenseRate, ...] = Field(min_length=1)
    ssd: SsdSpec | None
    """None where there is no SSD to plan with."""
    strategies: tuple[StrategyRate, ...] = ()
    """Empty where they were not measured."""
    batch_ns: NonNegativeFloat = 0.0
    """Nanoseconds on the clock that every batch takes whatever is in it."""
    overlap: OverlapSpec = OverlapSpec()
    assumed: dict[str, str] = Field(default_factory=dict)
    """Of a preset: which figures were not measured on such a machine, and where they come from."""

    @model_validator(mode="after")
    def _ordered(self) -> SystemSpec:
        if self.ssd is not None:
            depths = [read.queue_depth for read in self.ssd.reads]
            if any(a >= b for a, b in itertools.pairwise(depths)):
                raise ValueError(f"ssd.reads must be in ascending order, got {depths}")
        if not self._row_curve("fp32", "row", "dram"):
            raise ValueError("rows must hold rates of fp32 rows in dram, which others are compared with")
        if not self._dense_rates("fp32"):
            raise ValueError("dense must hold rates of fp32, which others are compared with")
        return self

    # ------------------------------------------------------------------------------------------------
    # capacities

    def num_bytes(self, memory: Literal["llc", "dram", "ssd"]) -> int:
        """Bytes of a memory in the whole machine, shared and of all devices."""
        field = f"{memory}_bytes"
        return getattr(self.shared, field) + self.devices.count * getattr(self.devices.private, field)

    # ------------------------------------------------------------------------------------------------
    # rates

    def row_ns(
        self,
        row_format: RowFormat = "fp32",
        embedding_dim: int = 16,
        scale: ScaleOf = "row",
        where: Where = "dram",
        *,
        busy: int | None = None,
    ) -> float:
        """Device-ns of one look-up of a row that stands in ``where``.

        Interpolated over the measured dimensions; beyond the largest in proportion, below the smallest as
        there. A place that was not measured counts as the next slower one, a format as fp32.

        Args:
            row_format, embedding_dim, scale: of the row.
            where: where the device finds it.
            busy: devices that look rows up at once; all by default. Between the measured numbers it is
                interpolated.
        """
        for place in _PLACES[_PLACES.index(where) :]:
            if curves := self._row_curve(row_format, scale, place):
                break
        else:
            return self.row_ns("fp32", embedding_dim, "row", where, busy=busy)
        times = [_over_dims(embedding_dim, points) for points in curves.values()]
        return float(np.interp(max(curves) if busy is None else busy, list(curves), times))

    def index_ns(self, kind: IndexKind, where: Where = "dram") -> float:
        """Device-ns to ask an index of this kind that stands in ``where`` about one id.

        Where that was not measured, what a cache line takes longer from there than from the farthest place
        that was. No index measured: a cache line.
        """
        line_ns = {place: self.row_ns("fp32", 16, "row", place) for place in _PLACES}
        known = {rate.where: rate.ns for rate in self.index if rate.kind == kind}
        if not known:
            return line_ns[where]
        nearest = where if where in known else max(known, key=_PLACES.index)
        return known[nearest] + max(0.0, line_ns[where] - line_ns[nearest])

    def bag_ns(self, embedding_dim: int) -> float:
        """Device-ns of a bag besides the look-ups in it, interpolated as :meth:`row_ns`; 0 where none was
        measured."""
        points = sorted((rate.embedding_dim, rate.ns) for rate in self.bags)
        return _over_dims(embedding_dim, points) if points else 0.0

    def tt_ns(self, shape: TtShape) -> float:
        """Device-ns to rebuild one row of this shape.

        Among the measurements of the nearest embedding dimension, interpolated over the flops of a row
        (log-log); outside them in proportion to the flops above and constant below.
        """
        dim = shape.embedding_dim
        nearest = min(self.tt, key=lambda rate: abs(math.log(rate.embedding_dim / dim))).embedding_dim
        rates = sorted((rate.flops_per_row, rate.ns) for rate in self.tt if rate.embedding_dim == nearest)
        flops = np.array([rate[0] for rate in rates], dtype=np.float64)
        times = np.array([rate[1] for rate in rates])
        wanted = max(1, shape.flops_per_row)
        if wanted > flops[-1]:
            return float(times[-1] * wanted / flops[-1])
        return float(np.exp(np.interp(np.log(wanted), np.log(flops), np.log(times))))

    def dense_ns(self, batch_size: int, flops: int, precision: DensePrecision = "fp32") -> float:
        """Device-ns of the dense part of a batch: MLPs and interaction, of ``flops`` operations a sample.

        At the rate of the measured model of nearest flops with as many samples for each device, in proportion
        to the flops; a precision that was not measured counts as fp32. Models of as many flops differ by
        their shape, bf16 and int8 by up to threefold: see :func:`screc.planning.probe_dense`.
        """
        rates = self._dense_rates(precision) or self._dense_rates("fp32")
        wanted = math.log(max(1, flops))
        nearest = min(rates, key=lambda rate: abs(math.log(rate.flops) - wanted)).flops
        curve = [(math.log(rate.samples), rate.ns / rate.flops) for rate in rates if rate.flops == nearest]
        samples = max(1.0, batch_size / self.devices.count)
        per_flop = np.interp(math.log(samples), *np.transpose(sorted(curve)))
        return batch_size * flops * float(per_flop)

    def pages_per_second(self, queue_depth: int) -> float:
        """Random 4 KiB reads per second at a queue depth, interpolated over log depth; 0 without an SSD."""
        if self.ssd is None:
            return 0.0
        depths = np.log([rate.queue_depth for rate in self.ssd.reads])
        return float(np.interp(math.log(queue_depth), depths, [r.pages_per_second for r in self.ssd.reads]))

    def lone_reads(self, groups: np.ndarray, num_groups: np.ndarray, pages_per_group: int = 1) -> np.ndarray:
        """Random reads of single pages that take the drive as long as pages scattered over a file.

        Of different pages some lie side by side, more of them the denser they are, and such neighbours are
        read together.

        Args:
            groups: that are read, each of ``pages_per_group`` pages side by side.
            num_groups: of the file.
            pages_per_group: 1, or more for rows longer than a page.
        """
        adjacent = self.ssd.adjacent if self.ssd is not None else 1.0
        lone = groups * (1.0 - np.minimum(1.0, groups / np.maximum(num_groups, 1)))
        return lone + adjacent * (groups * pages_per_group - lone)

    @property
    def page_ns(self) -> float:
        """Device-ns of a page besides the drive's time; 0 without an SSD."""
        return self.ssd.page_ns if self.ssd is not None else 0.0

    @property
    def ssd_latency_seconds(self) -> float:
        """Time of one read at the lowest measured queue depth; 0 without an SSD."""
        return self.ssd.reads[0].latency_seconds if self.ssd is not None else 0.0

    def strategy_ns(self, rows: int, dim: int, pooling: float = 1.0) -> dict[str, float]:
        """Device-ns of a look-up by each strategy that an fp32 table in DRAM of ``rows`` rows of ``dim``
        columns can have.

        Of the measured table nearest in dimension and pooling, and of those the smallest with as many rows,
        so that what was possible there is possible here. Empty for larger tables than any measured.
        """
        as_large = [rate for rate in self.strategies if rate.rows >= rows]
        if not as_large or 4 * rows * dim > MAX_TIMED_BYTES:
            return {}

        def distance(rate: StrategyRate) -> tuple[float, float, int]:
            return (
                abs(math.log(rate.embedding_dim / dim)),
                abs(math.log(rate.pooling / max(pooling, 1.0))),
                rate.rows,
            )

        nearest = distance(min(as_large, key=distance))
        return {rate.strategy: rate.ns for rate in as_large if distance(rate) == nearest}

    def best_strategy(self, rows: int, dim: int, pooling: float = 1.0) -> str:
        """The fastest of :meth:`strategy_ns`; large tables are gathered."""
        nanoseconds = self.strategy_ns(rows, dim, pooling)
        return fastest_strategy(nanoseconds) if nanoseconds else "gather"

    # ------------------------------------------------------------------------------------------------

    def _row_curve(self, row_format: str, scale: str, where: str) -> dict[int, list[tuple[int, float]]]:
        """For each number of busy devices (dimension, ns) in ascending order."""
        curves: dict[int, list[tuple[int, float]]] = {}
        for rate in self.rows:
            if (rate.row_format, rate.scale, rate.where) == (row_format, scale, where):
                curves.setdefault(rate.busy, []).append((rate.embedding_dim, rate.ns))
        return {busy: sorted(curves[busy]) for busy in sorted(curves)}

    def _dense_rates(self, precision: str) -> list[DenseRate]:
        return [rate for rate in self.dense if rate.precision == precision]


def _over_dims(dim: int, points: list[tuple[int, float]]) -> float:
    """Interpolated over (dimension, ns); beyond the largest in proportion, below the smallest as there."""
    dims, times = zip(*points, strict=True)
    if dim > dims[-1]:
        return times[-1] * dim / dims[-1]
    return float(np.interp(dim, dims, times))

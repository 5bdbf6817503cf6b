"""What a plan is asked for, checked: every argument of the planner within its range, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from screc.planning.machine import is_private, num_bytes
from screc.planning.plan import Budget, Objective, PlanOptions
from screc.planning.sensitivity import Sensitivity
from screc.planning.system import SystemSpec
from screc.statistics.access import AccessStatistics
from screc.storage.row_format import LARGEST_CODE, ROW_FORMATS, SCALE_OWNERS, RowFormat, ScaleOf

DEFAULT_TT_SHARE = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A plan's task.

    Attributes:
        statistics: access counts of every table.
        dims: embedding dimension of each.
        budget: bytes, and accuracy to lose.
        options: all else.
        roles: devices that look up and that compute; (0, 0): all do both, or the planner's choice.
        ssd: whether rows may go to the SSD.
        sensitivity: what each table loses in each format, if it was measured.
    """

    statistics: AccessStatistics
    dims: list[int]
    budget: Budget
    options: PlanOptions
    roles: tuple[int, int]
    ssd: bool
    sensitivity: Sensitivity | None


def checked_options(
    statistics: AccessStatistics,
    dims: Mapping[str, int] | int,
    system: SystemSpec,
    *,
    dram_bytes: int | None,
    dram_fraction: float | None,
    objective: Objective,
    samples_per_second: float | None,
    batch_size: int,
    tt_ranks: Sequence[int],
    max_tt_share: float | None,
    sensitivity: Sensitivity | None,
    max_loss: float | None,
    ssd: bool,
    tt: bool,
    dense_flops: int,
    queue_depth: int,
    row_cache_bytes: int,
    roles: tuple[int, int] | Literal["auto"] | None,
    row_formats: RowFormat | Sequence[RowFormat] | None,
    row_scale: ScaleOf,
    time_limit: float,
    mip_gap: float,
) -> Asked:
    """The arguments of :func:`screc.planning.make_plan`, checked.

    Raises:
        ValueError: one is out of range; names it, its value and the remedy.
    """
    if not statistics.tables:
        raise ValueError("statistics hold no tables; there is nothing to plan")
    names = [table.name for table in statistics.tables]
    if len(set(names)) != len(names):
        raise ValueError(f"statistics: table names must differ, got {names}")
    sizes = table_dims(names, dims)
    has_ssd = ssd and system.ssd is not None
    budget = Budget(
        llc_bytes=num_bytes(system, "llc"),
        dram_bytes=_at_most(system, dram_budget(statistics, sizes, dram_bytes, dram_fraction)),
        ssd_bytes=num_bytes(system, "ssd") if has_ssd else 0,
        **_accuracy(names, sensitivity, max_loss, max_tt_share),
    )
    _check_objective(objective, samples_per_second)
    if tt and (not tt_ranks or min(tt_ranks) < 1):
        raise ValueError(f"tt_ranks must be positive and not empty, got {list(tt_ranks)}; or give tt=False")
    for field, value in (("batch_size", batch_size), ("queue_depth", queue_depth)):
        if value < 1:
            raise ValueError(f"{field} must be at least 1, got {value}")
    if not 0 <= row_cache_bytes <= budget.dram_bytes:
        raise ValueError(
            f"row_cache_bytes must be from 0 to the DRAM budget of {budget.dram_bytes} bytes, "
            f"got {row_cache_bytes}"
        )
    if roles not in (None, "auto") and (len(roles) != 2 or min(roles) < 1):
        raise ValueError(f"roles must be two positive numbers of threads or None, got {roles}")
    if dense_flops < 0:
        raise ValueError(f"dense_flops must not be negative, got {dense_flops}")
    formats = _formats(row_formats, row_scale, known=sensitivity is not None)
    if time_limit <= 0:
        raise ValueError(f"time_limit must be positive, got {time_limit}")
    options = PlanOptions(
        objective=objective,
        samples_per_second=samples_per_second,
        batch_size=batch_size,
        tt_ranks=tuple(sorted(set(tt_ranks))) if tt else (),
        ssd=ssd,
        tt=tt,
        dense_flops=dense_flops,
        queue_depth=queue_depth,
        row_cache_bytes=int(row_cache_bytes),
        roles=roles or "mixed",
        time_limit=time_limit,
        mip_gap=mip_gap,
        row_formats=formats,
        row_scale=row_scale,
    )
    return Asked(
        statistics=statistics,
        dims=sizes,
        budget=budget,
        options=options,
        roles=roles if isinstance(roles, tuple) else (0, 0),
        ssd=has_ssd,
        sensitivity=sensitivity,
    )


def _at_most(system: SystemSpec, dram_bytes: int) -> int:
    """No more than there is, where each device has its own; a host's DRAM is the caller's to promise."""
    return min(dram_bytes, num_bytes(system, "dram")) if is_private(system, "dram") else dram_bytes


def table_dims(names: Sequence[str], dims: Mapping[str, int] | int) -> list[int]:
    """Dimension of each table.

    Raises:
        ValueError: one is missing or not positive.
    """
    if isinstance(dims, int):
        dims = dict.fromkeys(names, dims)
    for name in names:
        if name not in dims:
            raise ValueError(f"dims: no embedding dimension for table {name}; give one")
        if dims[name] < 1:
            raise ValueError(f"dims: table {name} has dimension {dims[name]}; it must be at least 1")
    return [dims[name] for name in names]


def dram_budget(
    statistics: AccessStatistics, dims: Sequence[int], dram_bytes: int | None, dram_fraction: float | None
) -> int:
    """Bytes of DRAM, given as such or as a fraction of all rows in float32.

    Raises:
        ValueError: neither or both are given, or one is out of range.
    """
    if (dram_bytes is None) == (dram_fraction is None):
        raise ValueError("give either dram_bytes or dram_fraction")
    if dram_bytes is not None:
        if dram_bytes < 0:
            raise ValueError(f"dram_bytes must not be negative, got {dram_bytes}")
        return int(dram_bytes)
    assert dram_fraction is not None
    if not 0 <= dram_fraction < float("inf"):
        raise ValueError(f"dram_fraction must be 0 or more, got {dram_fraction}; 0.1 is a tenth of all rows")
    whole = sum(4 * dim * table.num_embeddings for dim, table in zip(dims, statistics.tables, strict=True))
    return int(whole * dram_fraction)


def _accuracy(
    names: Sequence[str],
    sensitivity: Sensitivity | None,
    max_loss: float | None,
    max_tt_share: float | None,
) -> dict[str, float]:
    if sensitivity is None:
        if max_loss is not None:
            raise ValueError(
                f"max_loss {max_loss} needs a sensitivity to measure loss by; give one, or limit max_tt_share"
            )
        share = DEFAULT_TT_SHARE if max_tt_share is None else max_tt_share
        if not 0 <= share <= 1:
            raise ValueError(f"max_tt_share must be between 0 and 1, got {share}")
        return {"max_tt_share": float(share)}
    if max_tt_share is not None:
        raise ValueError(
            f"max_tt_share {max_tt_share} stands in for a sensitivity, and one is given; give max_loss "
            "in its place"
        )
    if max_loss is None or not 0 <= max_loss < float("inf"):
        raise ValueError(
            f"max_loss must be given with a sensitivity, 0 or more (nats a sample), got {max_loss}"
        )
    measured = {table.table for table in sensitivity.tables}
    for name in names:
        if name not in measured:
            raise ValueError(f"sensitivity: table {name} was not measured; measure it again")
    return {"max_loss": float(max_loss)}


def _check_objective(objective: str, samples_per_second: float | None) -> None:
    if objective not in get_args(Objective):
        raise ValueError(f"objective must be one of {', '.join(get_args(Objective))}, got {objective!r}")
    if (objective == "memory") != (samples_per_second is not None):
        raise ValueError(
            "samples_per_second goes with objective 'memory', and with no other: got objective "
            f"{objective!r} and {samples_per_second}"
        )
    if samples_per_second is not None and not 0 < samples_per_second < float("inf"):
        raise ValueError(f"samples_per_second must be positive, got {samples_per_second}")


def _formats(
    row_formats: RowFormat | Sequence[RowFormat] | None, row_scale: ScaleOf, *, known: bool
) -> tuple[RowFormat, ...]:
    if row_formats is None:
        formats: tuple[RowFormat, ...] = tuple(ROW_FORMATS) if known else ("fp32",)
    else:
        formats = (row_formats,) if isinstance(row_formats, str) else tuple(row_formats)
    if not formats:
        raise ValueError(f"row_formats must hold at least one of {', '.join(ROW_FORMATS)}")
    for row_format in formats:
        if row_format not in ROW_FORMATS:
            raise ValueError(f"row_formats must be of {', '.join(ROW_FORMATS)}, got {row_format!r}")
    if row_scale not in SCALE_OWNERS:
        raise ValueError(f"row_scale must be one of {', '.join(SCALE_OWNERS)}, got {row_scale!r}")
    if row_scale == "table" and not any(row_format in LARGEST_CODE for row_format in formats):
        raise ValueError(
            f"row_scale is 'table' and row_formats {list(formats)}, whose rows have no scale to share; "
            f"add {' or '.join(map(repr, LARGEST_CODE))}, or give row_scale='row'"
        )
    return formats

"""Two plans side by side: what the second takes and gives more or less than the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from screc.planning.places import band_name
from screc.planning.plan import Plan
from screc.storage.layout import TableLayout

#: What is compared: label, attribute of the prediction or the plan, kind of number.
MEASURES = (
    ("samples a second", "samples_per_second", "rate"),
    ("a batch", "seconds_per_batch", "seconds"),
    ("a batch alone", "latency_seconds", "seconds"),
    ("look-ups", "lookup_seconds", "seconds"),
    ("MLPs", "dense_seconds", "seconds"),
    ("SSD", "ssd_seconds", "seconds"),
    ("pages a batch", "pages_per_batch", "number"),
    ("DRAM", "dram_bytes", "bytes"),
    ("of it TT cores", "tt_bytes", "bytes"),
    ("of it indices", "index_bytes", "bytes"),
    ("SSD bytes", "ssd_bytes", "bytes"),
    ("rise of the log-loss", "loss", "number"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One number of both plans; None where a plan does not know it."""

    label: str
    kind: str
    first: float | None
    second: float | None

    @property
    def ratio(self) -> float | None:
        """Second / first; None where that says nothing."""
        return self.second / self.first if self.first and self.second is not None else None


@dataclass(frozen=True, slots=True)
class TableChange:
    """A table whose layout differs, as text; None where a plan has no such table."""

    table: str
    first: str | None
    second: str | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The numbers of both plans, and the tables whose layouts differ."""

    numbers: tuple[Difference, ...]
    tables: tuple[TableChange, ...]
    same_statistics: bool
    same_system: bool

    def to_dict(self) -> dict[str, object]:
        """As JSON types."""
        return asdict(self)


def compare_plans(first: Plan, second: Plan) -> Comparison:
    """Compare two plans, of the same tables or not."""
    numbers = [
        Difference(label, kind, _number(first, name), _number(second, name)) for label, name, kind in MEASURES
    ]
    ours, theirs = _texts(first), _texts(second)
    names = dict.fromkeys((*ours, *theirs))
    tables = [
        TableChange(name, ours.get(name), theirs.get(name))
        for name in names
        if ours.get(name) != theirs.get(name)
    ]
    return Comparison(
        numbers=tuple(numbers),
        tables=tuple(tables),
        same_statistics=first.statistics_digest == second.statistics_digest,
        same_system=first.system == second.system,
    )


def layout_text(layout: TableLayout) -> str:
    """A layout in a few words: ``0.4% DRAM fp32, 12% DRAM TT r16, SSD int8``; the last band is the rest."""
    shares = [f"{band.num_rows / layout.num_embeddings:.2%} " for band in layout.bands[:-1]]
    return ", ".join(share + band_name(band) for share, band in zip((*shares, ""), layout.bands, strict=True))


def _texts(plan: Plan) -> dict[str, str]:
    texts: dict[str, str] = {}
    for layout in plan.layouts:
        text = layout_text(layout)
        known = texts.get(layout.table)
        texts[layout.table] = text if known is None or known == text else f"{known}; {text}"
    return texts


def _number(plan: Plan, name: str) -> float | None:
    if name == "samples_per_second":
        seconds = plan.predicted.seconds_per_batch
        return plan.options.batch_size / seconds if seconds else None
    return getattr(plan.predicted, name)


@dataclass(frozen=True, slots=True)
class PlannedRate:
    """What a plan promised: samples a second at its batch size."""

    batch_size: int
    samples_per_s: float


def planned_rate(plan: Mapping[str, Any] | None) -> PlannedRate | None:
    """The promise of the plan in an artifact (JSON values); None without one that this release reads."""
    if plan is None or plan.get("version") != Plan.model_fields["version"].default:
        return None
    made = Plan.from_dict(dict(plan), source="the artifact's plan")
    seconds = made.predicted.seconds_per_batch
    size = made.options.batch_size
    return PlannedRate(size, size / seconds) if seconds else None

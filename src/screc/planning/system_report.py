"""A system spec for people: its rates as tables on the terminal, each with its spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from screc.planning.budget import format_bytes
from screc.planning.system import SystemSpec
from screc.storage.row_format import LARGEST_CODE

if TYPE_CHECKING:
    from rich.console import Console


def system_summary(system: SystemSpec, console: Console) -> None:
    """Print what a machine can do: device-ns, with the spread of each measurement, and what was assumed."""
    devices, shared, private = system.devices, system.shared, system.devices.private
    console.print(f"{system.machine}: {devices.count} x {devices.kind}, {system.isa}", style="bold")
    memories = [
        f"{name} {format_bytes(getattr(owner, field))}{of}"
        for owner, of in ((private, " each"), (shared, " shared"))
        for name, field in (("cache", "llc_bytes"), ("DRAM", "dram_bytes"), ("SSD", "ssd_bytes"))
        if getattr(owner, field)
    ]
    console.print(
        f"{', '.join(memories)}; DRAM {system.dram_bytes_per_second / 1e9:.1f} GB/s; {system.source}, "
        f"{system.date}",
        highlight=False,
    )
    grids = (
        ("look-ups, ns", _lookups(system)),
        ("asking an index, ns", {(one.kind, one.where): _ns(one.ns, one.spread) for one in system.index}),
        (
            "a bag besides its look-ups, ns",
            {("", f"dim {one.embedding_dim}"): _ns(one.ns, one.spread) for one in system.bags},
        ),
        (
            "tensor-train rows, ns",
            {
                (f"dim {one.embedding_dim}", f"TT rank {one.tt_rank}"): _ns(one.ns, one.spread)
                for one in system.tt
            },
        ),
        (
            "dense part, ns a sample",
            {
                (f"{one.flops / 1e6:.2f} MFLOP, {one.precision}", f"{one.samples} each"): _ns(
                    one.ns, one.spread
                )
                for one in sorted(system.dense, key=lambda one: (one.flops, one.samples))
            },
        ),
        (
            "look-ups in small tables, ns",
            {
                (f"{one.rows} x {one.embedding_dim}, {one.pooling} to a bag", one.strategy): _ns(one.ns)
                for one in system.strategies
            },
        ),
        (
            f"reads, {system.ssd.backend}, 1/s" if system.ssd else "",
            {
                ("", f"depth {one.queue_depth}"): f"{one.pages_per_second:,.0f} {_spread(one.spread)}"
                for one in (system.ssd.reads if system.ssd else ())
            },
        ),
    )
    for title, cells in grids:
        if cells:
            _print_grid(title, cells, console)
    if system.ssd is not None:
        console.print(
            f"a page costs {system.page_ns:,.0f} ns besides the drive's time, one beside another "
            f"{system.ssd.adjacent:.2f} of a read; {system.overlap.ssd:.0%} of the shorter of the drive's "
            "and the devices' time is hidden",
            highlight=False,
        )
    console.print(f"a batch in stages costs {1e-3 * system.batch_ns:,.1f} us more", highlight=False)
    for figure, source in system.assumed.items():
        console.print(f"assumed: {figure}: {source}", highlight=False)


def _lookups(system: SystemSpec) -> dict[tuple[str, str], str]:
    cells = {}
    for one in system.rows:
        scale = f", scale of a {one.scale}" if one.row_format in LARGEST_CODE else ""
        alone = "" if one.busy == system.devices.count else f", {one.busy} at work"
        row = f"{one.row_format} x {one.embedding_dim}{scale}{alone}"
        cells[row, one.where] = _ns(one.ns, one.spread)
    return cells


def _ns(ns: float, spread: float | None = None) -> str:
    number = f"{ns:,.0f}" if ns >= 100 else f"{ns:.1f}"
    return number if spread is None else f"{number} {_spread(spread)}"


def _spread(spread: float) -> str:
    return f"±{spread:.0%}"


def _print_grid(title: str, cells: dict[tuple[str, str], str], console: Console) -> None:
    """A table of texts by row and column, in the order in which they first come."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    columns = list(dict.fromkeys(column for _, column in cells))
    view = Table(box=SIMPLE_HEAD, pad_edge=False)
    view.add_column(title)
    for column in columns:
        view.add_column(column, justify="right")
    for row in dict.fromkeys(row for row, _ in cells):
        view.add_row(row, *(cells.get((row, column), "") for column in columns))
    console.print(view)

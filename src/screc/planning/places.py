"""Where bands are, as people see it: a memory and a format, with a name and a colour."""

from __future__ import annotations

from screc.planning.machine import MEMORIES
from screc.planning.plan import Plan
from screc.storage.layout import Band

# Colours of formats in fast memory, in DRAM and on SSD; bands are stacked in this order.
COLOURS = {
    "fp32": ("#0b3c5d", "#1b6ca8", "#5c677d"),
    "fp16": ("#14746f", "#2a9d8f", "#748094"),
    "bf16": ("#14746f", "#52b69a", "#7d8aa0"),
    "int8": ("#2d6a4f", "#6aab73", "#8d99ae"),
    "int4": ("#55751f", "#a7c957", "#b4bdcc"),
    "tt": ("#b06f00", "#f0a202", "#f0a202"),
}
Place = tuple[str, str]


def place_of(band: Band) -> Place:
    """(memory, format) of a band."""
    return band.memory, band.format


def name_of(place: Place) -> str:
    """As in ``DRAM int8``."""
    memory, row_format = place
    return f"{'fast' if memory == 'llc' else memory.upper()} {'TT' if row_format == 'tt' else row_format}"


def band_name(band: Band) -> str:
    """The place, with the TT rank or the shared scale if there is one."""
    name = name_of(place_of(band))
    if band.tt is not None:
        return f"{name} r{max(band.tt.ranks)}"
    return name + (", one scale" if band.scale == "table" else "")


def places_of(*plans: Plan) -> list[Place]:
    """Where the plans' bands are, from the fastest memory to the slowest."""
    found = {place_of(band) for plan in plans for layout in plan.layouts for band in layout.bands}
    return [
        (memory, row_format) for memory in MEMORIES for row_format in COLOURS if (memory, row_format) in found
    ]

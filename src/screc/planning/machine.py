"""A system's memories as the planner deals with them: whose each is, and how much of it there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from screc.planning.system import SystemSpec
from screc.storage.layout import Memory

if TYPE_CHECKING:
    from screc.planning.plan import Budget

MEMORIES: tuple[Memory, ...] = ("llc", "dram", "ssd")


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Bytes of a memory that a plan may use: of each device where it is private, else of all together."""

    memory: Memory
    num_bytes: int
    private: bool


def manages_llc(system: SystemSpec) -> bool:
    """Whether the plan says what a device's fast memory holds. A core's caches are the hardware's."""
    return system.devices.kind != "core" and system.devices.private.llc_bytes > 0


def is_private(system: SystemSpec, memory: Memory) -> bool:
    """Whether each device has a memory of this kind of its own, which only its own tables can use."""
    if memory == "llc":
        return manages_llc(system)
    return getattr(system.devices.private, f"{memory}_bytes") > 0


def num_bytes(system: SystemSpec, memory: Memory) -> int:
    """Bytes of a memory that can be planned with, of all devices together."""
    if is_private(system, memory):
        return system.devices.count * getattr(system.devices.private, f"{memory}_bytes")
    return 0 if memory == "llc" else getattr(system.shared, f"{memory}_bytes")


def memory_limits(system: SystemSpec, budget: Budget) -> list[MemoryLimit]:
    """The limits that a budget sets; one on private memories holds for each device, in equal parts."""
    limits = []
    for memory in MEMORIES:
        private = is_private(system, memory)
        size = getattr(budget, f"{memory}_bytes")
        limits.append(MemoryLimit(memory, size // system.devices.count if private else size, private))
    return limits

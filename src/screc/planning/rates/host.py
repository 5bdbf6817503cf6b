"""What the system tells of this host without measuring: processor, cores, caches, memory."""

from __future__ import annotations

import os
from pathlib import Path


def machine() -> str:
    """The processor's name and the number of cores that this process may use."""
    name = "processor of unknown name"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def llc_bytes() -> int:
    """Bytes of the last-level cache that the system names; 32 MiB where it names none.

    On a virtual machine this may be all of a server's cache, of which the cores get a part.
    """
    sizes = _cache_sizes()
    return sizes[max(sizes)] if sizes else 2**25


def core_cache_bytes() -> int:
    """Bytes of a core's own second-level cache; 1 MiB where the system names none."""
    return _cache_sizes().get(2, 2**20)


def _cache_sizes() -> dict[int, int]:
    sizes = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            text = (index / "size").read_text().strip()
            level = int((index / "level").read_text())
            scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
            sizes[level] = int(text.rstrip("KMG")) * scale
        except (OSError, ValueError):
            continue
    return sizes


def total_bytes() -> int:
    """DRAM that this process may use: the machine's, or its container's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return min(total, int(limit))
    except (OSError, ValueError):
        return total


def available_bytes() -> int:
    """DRAM that is free or can be freed now."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, total_bytes())
    except (OSError, ValueError):
        pass
    return total_bytes() // 2

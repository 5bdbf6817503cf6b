"""What a report must say of the machine it was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

import numpy as np

from screc import __version__, _native

# glibc gives freed memory back and maps it again for every large tensor; these settings and huge pages are
# what PyTorch users set for speed, so the peers get them. They are read at process start: see run.py.
PEER_ENVIRONMENT = {
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(1 << 26),
}


def describe() -> dict[str, object]:
    """CPU, memory, instruction set, versions, commit and date."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in cpuinfo.splitlines() if "model name" in line), "?")
    memory = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024
    thp = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "screc": __version__,
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory,
        "isa": _native.isa(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "transparent_huge_pages": thp.read_text().strip() if thp.exists() else "absent",
        "environment": {name: os.environ.get(name) for name in PEER_ENVIRONMENT},
    }


def _commit() -> str:
    root = Path(__file__).parent
    head = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True
    )
    return head.stdout.strip() or "unknown"


def peak_resident_bytes(pid: int | str = "self") -> int:
    """Largest resident set the process has had (VmHWM), in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

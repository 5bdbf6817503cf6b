"""How much memory a part of a process's life takes at most."""

from __future__ import annotations

import resource
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class MemoryMeter:
    """Most resident memory above what was resident when the meter was made, in bytes.

    Where the kernel does not let a process reset its own high-water mark, the mark of its whole life is used.
    """

    def __init__(self) -> None:
        self._before = _resident("VmRSS")
        self._peak = 0
        self.resume()

    def resume(self) -> None:
        """Count from now on."""
        try:
            _CLEAR.write_text("5")
        except OSError:
            return

    def pause(self) -> int:
        """Most so far; what comes until :meth:`resume` does not count."""
        self._peak = max(self._peak, _resident("VmHWM") - self._before)
        return self._peak


def _resident(field: str) -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

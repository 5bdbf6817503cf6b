"""The tail of latencies that a machine allows: what its cores' pauses do to requests that take no longer than
they must.

A core of a virtual machine is taken away for interrupts and by its host, microseconds to milliseconds at a
time. A request that meets a pause waits it out, and those that arrive meanwhile queue on the cores that are
left; no engine can answer earlier.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.limits import compile_loops

# Reading the clock takes a twentieth of it.
_SHORTEST_SECONDS = 1e-6
_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class Pauses:
    """When one core was away: ``begins`` and ``lengths``, seconds, ascending, of ``seconds`` watched."""

    seconds: float
    begins: np.ndarray
    lengths: np.ndarray

    def share(self, longer_than: float = 0.0) -> float:
        """The share of the time that fell on pauses longer than this many seconds."""
        return float(self.lengths[self.lengths > longer_than].sum()) / self.seconds


def record_pauses(cores: Sequence[int], seconds: float) -> list[Pauses] | None:
    """Watches cores side by side; None where there is no C compiler."""
    with tempfile.TemporaryDirectory() as folder:
        library = compile_loops(Path(folder))
        if library is None:
            return None
        function = library.pauses
        function.restype = ctypes.c_long
        function.argtypes = [ctypes.c_int, *[ctypes.c_double] * 2, *[ctypes.c_void_p] * 2, ctypes.c_long]

        def watch(core: int) -> Pauses:
            begins, lengths = np.zeros((2, _MOST))
            count = function(core, seconds, _SHORTEST_SECONDS, begins.ctypes.data, lengths.ctypes.data, _MOST)
            return Pauses(seconds, begins[:count].copy(), lengths[:count].copy())

        with ThreadPoolExecutor(len(cores)) as pool:
            return list(pool.map(watch, cores))


def available_cores() -> list[int]:
    """Cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def allowed_latencies(arrivals: np.ndarray, service: float, cores: Sequence[Pauses]) -> np.ndarray:
    """Latencies of requests that each take ``service`` seconds of one core, first come, first served.

    Each goes to the core that will be done with it first, as if its pauses were known beforehand; there is no
    other overhead. Pauses repeat after the time that was watched.

    Args:
        arrivals: seconds, ascending, float64 [n].
        service: of a core that is never away.
        cores: the pauses of each.
    """
    clocks = [_Clock(pauses) for pauses in cores]
    free = [0.0] * len(clocks)
    latencies = np.empty(len(arrivals))
    for i, arrival in enumerate(arrivals.tolist()):
        done = [clock.after(max(arrival, at), service) for clock, at in zip(clocks, free, strict=True)]
        core = min(range(len(done)), key=done.__getitem__)
        free[core] = done[core]
        latencies[i] = done[core] - arrival
    return latencies


class _Clock:
    """Time of the day against the time that a core was there for."""

    def __init__(self, pauses: Pauses) -> None:
        ends = pauses.begins + pauses.lengths
        self._day = np.concatenate(([0.0], np.stack((pauses.begins, ends), axis=1).ravel(), [pauses.seconds]))
        here = np.diff(self._day)
        here[1::2] = 0.0
        self._there = np.concatenate(([0.0], np.cumsum(here)))

    def after(self, begin: float, work: float) -> float:
        """When work that begins then is done."""
        rounds, at = divmod(begin, self._day[-1])
        more, there = divmod(float(np.interp(at, self._day, self._there)) + work, self._there[-1])
        # The first moment by which the core was there for so long: before a pause, not after it.
        place = int(np.searchsorted(self._there, there))
        return (rounds + more) * self._day[-1] + self._day[place] - (self._there[place] - there)

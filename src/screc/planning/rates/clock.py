"""Measuring one figure: how long a call takes, as the median of many rounds, with their spread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Progress = Callable[[str, int, int], None]

_LEAST_ROUNDS = 5


class Timing(NamedTuple):
    """Median seconds of a call, and interquartile range / median of the rounds."""

    seconds: float
    spread: float


class Clock:
    """Measures, and tells how far the probe has come.

    Args:
        seconds: what the whole probe may take, about.
        progress: called with (what is measured next, percent of the time planned so far, 100).
    """

    def __init__(self, seconds: float, progress: Progress | None) -> None:
        self._seconds = seconds
        self._progress = progress
        self._done = 0.0

    def announce(self, what: str, part: float) -> None:
        """Say what takes the next ``part`` (0 to 1) of the probe."""
        if self._progress is not None:
            self._progress(what, min(99, int(100 * self._done)), 100)
        self._done += part

    def time(self, what: str, part: float, run: Callable[[], object]) -> Timing:
        """Call ``run`` again and again for ``part`` (0 to 1) of the probe's seconds, at least five times."""
        return self.compare(what, part, run)[0]

    def compare(self, what: str, part: float, *runs: Callable[[], object]) -> list[Timing]:
        """As :meth:`time`, for several calls that take turns: what disturbs one disturbs all."""
        self.announce(what, part)
        rounds: list[list[float]] = [[] for _ in runs]
        for run in runs:
            run()
        end = time.perf_counter() + self._seconds * part
        while len(rounds[0]) < _LEAST_ROUNDS or time.perf_counter() < end:
            for run, times in zip(runs, rounds, strict=True):
                begun = time.perf_counter()
                run()
                times.append(time.perf_counter() - begun)
        timings = []
        for times in rounds:
            quarter, median, three = np.quantile(times, (0.25, 0.5, 0.75))
            timings.append(Timing(float(median), float((three - quarter) / median)))
        return timings

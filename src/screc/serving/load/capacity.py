"""Latency-bounded throughput: the highest load at which a percentile of latencies stays within a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from screc.serving.load.trace import Summary

Trial = Callable[[float, float, int], Summary]
"""Runs so many requests per second for so many seconds with arrivals of this seed."""
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sla:
    """What is promised.

    Attributes:
        latency_s: at most.
        percentile: of all requests, e.g. 95; those that were refused, failed or late count as never answered.
    """

    latency_s: float
    percentile: float = 95.0

    def __post_init__(self) -> None:
        if not self.latency_s > 0:
            raise ValueError(f"sla: must be a positive time, got {self.latency_s} s")
        if not 0 < self.percentile < 100:
            raise ValueError(f"percentile: must be above 0 and below 100, got {self.percentile}")

    def latency_of(self, summary: Summary) -> float:
        """The latency that is promised about, in seconds; infinite where too few were answered."""
        return summary.latency_at(self.percentile / 100)

    def kept(self, summary: Summary) -> bool:
        """Whether a run keeps it."""
        return self.latency_of(summary) <= self.latency_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How the highest load is looked for.

    Attributes:
        trial_s: seconds of each try.
        attempts: a load whose first try breaks the promise is tried so often in all; one that keeps counts. A
            pause of the machine breaks a short try at any load, and confirmation does not forgive it.
        tolerance: ends when the bracket is this narrow, as a share of the load.
        confirm_s: seconds of each run that confirms what was found.
        confirmations: such runs; the median of their percentiles must be within the limit.
        step: how much lower the next load is, as a share, where that fails.
    """

    trial_s: float = 3.0
    attempts: int = 2
    tolerance: float = 0.03
    confirm_s: float = 5.0
    confirmations: int = 3
    step: float = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What was found.

    Attributes:
        rate: requests per second; 0 where even a thousandth of the first try was too much.
        confirmed: the runs at that rate that confirm it.
        tried: (requests per second, whether the limit was kept, the latency in question in seconds) in the
            order of the tries, without those that confirm.
    """

    rate: float
    confirmed: tuple[Summary, ...]
    tried: tuple[tuple[float, bool, float], ...]

    @property
    def samples_rate(self) -> float:
        """Samples per second at that rate, the median over the runs that confirm it."""
        return median(one.samples_rate for one in self.confirmed) if self.confirmed else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rate": self.rate,
            "samples_rate": self.samples_rate,
            "confirmed": [one.as_dict() for one in self.confirmed],
            "tried": [
                {"rate": rate, "kept": kept, "latency_s": seconds} for rate, kept, seconds in self.tried
            ],
        }


def find_capacity(
    trial: Trial, sla: Sla, start: float, search: Search | None = None, *, progress: Progress | None = None
) -> Capacity:
    """The highest rate of requests at which a promise is kept.

    A bracket is grown from ``start`` and halved until it is narrow; then runs with other arrivals confirm the
    lower end, or it is lowered until they do: a single short run at the edge is kept or broken by chance.

    Args:
        trial: runs a load.
        sla: the promise.
        start: requests per second of the first try, such as the peak of a closed loop.
        search: how.
        progress: told of every try.

    Raises:
        ValueError: ``start`` is not positive.
    """
    if not start > 0:
        raise ValueError(f"start: must be a positive number of requests per second, got {start}")
    search = search or Search()
    tried: list[tuple[float, bool, float]] = []

    def kept(rate: float) -> bool:
        for _ in range(search.attempts):
            summary = trial(rate, search.trial_s, len(tried))
            tried.append((rate, sla.kept(summary), sla.latency_of(summary)))
            if progress:
                progress(_line(sla, *tried[-1]))
            if tried[-1][1]:
                return True
        return False

    low, high = 0.0, start
    if kept(start):
        low, high = start, 1.2 * start
        while kept(high):
            low, high = high, 1.2 * high
    while high > start / 1000 and (low == 0 or high / low > 1 + search.tolerance):
        middle = (low * high) ** 0.5 if low else high / 1.5
        if kept(middle):
            low = middle
        else:
            high = middle
    while low > start / 1000:
        runs = [
            trial(low, search.confirm_s, 1000 + len(tried) * search.confirmations + number)
            for number in range(search.confirmations)
        ]
        latency = median(sla.latency_of(run) for run in runs)
        if progress:
            progress("confirming " + _line(sla, low, latency <= sla.latency_s, latency))
        if latency <= sla.latency_s:
            return Capacity(rate=low, confirmed=tuple(runs), tried=tuple(tried))
        tried.append((low, False, latency))
        low *= 1 - search.step
    return Capacity(rate=0.0, confirmed=(), tried=tuple(tried))


def _line(sla: Sla, rate: float, kept: bool, latency: float) -> str:
    return (
        f"{rate:,.0f} requests/s: p{sla.percentile:g} {1e3 * latency:.1f} ms, {'kept' if kept else 'broken'}"
    )

"""What became of the requests of a run, and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


class Outcome(IntEnum):
    """How a request ended."""

    OK = 0
    """Answered with predictions."""
    REFUSED = 1
    """Turned away at once: HTTP 429 or 503, gRPC UNAVAILABLE or RESOURCE_EXHAUSTED."""
    FAILED = 2
    """An error, or a broken connection."""
    LATE = 3
    """No predictions within the client's timeout, or dropped by the server since its time was over."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """The requests of a run in the order in which they were due; arrays have one entry for each.

    Attributes:
        due: seconds after the start, float64.
        latencies: seconds from when it was due to its end, float64.
        lags: seconds from when it was due to when its sending began; NaN where that never came.
        outcomes: of :class:`Outcome`, uint8.
        faults: what servers and sockets said of those that were not answered, and how often.
    """

    due: np.ndarray
    latencies: np.ndarray
    lags: np.ndarray
    outcomes: np.ndarray
    faults: Mapping[str, int] = field(default_factory=dict)


def quantile(values: np.ndarray, q: float) -> float:
    """The smallest value that a share ``q`` of the values does not exceed; NaN of none."""
    if not len(values):
        return float("nan")
    return float(np.quantile(values, q, method="inverted_cdf"))


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A run in numbers.

    Attributes:
        offered_rate: requests per second that were due.
        seconds: from the first arrival to the last end.
        requests: in all.
        outcomes: how many by outcome.
        answered_rate: requests answered with predictions per second.
        samples_rate: samples of those per second.
        latency_ms: of those, by quantile: :data:`QUANTILES`.
        refusal_ms: from when a refused request was due to its refusal, by quantile.
        refusal_after_sending_ms: the same from when it was sent.
        lag_ms: how much later than due requests were sent, by quantile: the client's own part, waits for a
            free connection included.
        faults: as in :class:`Trace`.
    """

    offered_rate: float
    seconds: float
    requests: int
    outcomes: Mapping[str, int]
    answered_rate: float
    samples_rate: float
    latency_ms: Mapping[str, float]
    refusal_ms: Mapping[str, float]
    refusal_after_sending_ms: Mapping[str, float]
    lag_ms: Mapping[str, float]
    faults: Mapping[str, int]
    _ordered: np.ndarray = field(repr=False, compare=False)

    @classmethod
    def of(cls, trace: Trace, sizes: np.ndarray, *, seconds: float) -> Summary:
        """Of a run.

        Args:
            trace: the run.
            sizes: samples of each request.
            seconds: that requests were due for.
        """
        ok, refused = trace.outcomes == Outcome.OK, trace.outcomes == Outcome.REFUSED
        lasted = float((trace.due + trace.latencies).max()) if len(trace.due) else 0.0
        lasted = max(lasted, seconds)
        return cls(
            offered_rate=len(trace.due) / seconds if seconds else float("inf"),
            seconds=lasted,
            requests=len(trace.due),
            outcomes={kind.name.lower(): int((trace.outcomes == kind).sum()) for kind in Outcome},
            answered_rate=float(ok.sum()) / lasted if lasted else 0.0,
            samples_rate=float(sizes[ok].sum()) / lasted if lasted else 0.0,
            latency_ms=_quantiles(trace.latencies[ok]),
            refusal_ms=_quantiles(trace.latencies[refused]),
            refusal_after_sending_ms=_quantiles((trace.latencies - trace.lags)[refused]),
            lag_ms=_quantiles(trace.lags[~np.isnan(trace.lags)]),
            faults=trace.faults,
            _ordered=np.sort(np.where(ok, trace.latencies, np.inf)),
        )

    def latency_at(self, share: float) -> float:
        """Seconds within which this share of *all* requests were answered; infinite where fewer were.

        Requests that were refused, failed or late count as never answered, so a server cannot keep a promise
        by turning requests away.
        """
        return quantile(self._ordered, share)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            name: dict(value) if isinstance(value, Mapping) else value
            for name, value in vars(self).items()
            if not name.startswith("_")
        }


def _quantiles(seconds: np.ndarray) -> dict[str, float]:
    return {name: 1e3 * quantile(seconds, q) for name, q in QUANTILES.items()} if len(seconds) else {}

"""Requests of many native clients: their peak rate, and their latencies at a given rate.

An open loop: arrivals are drawn beforehand (one Poisson stream), whichever client is free takes the next, and
a late request is sent at once, so that waiting behind slow answers is part of the latency, as for a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screc.data import Batch
from screc.serving import Engine


def peak_rate(engine: Engine, batches: Sequence[Batch], *, clients: int, seconds: float) -> float:
    """Requests per second when every client sends its next request at once, over ``seconds`` or more."""
    count = 1000
    while True:
        taken = engine.replay(batches, np.zeros(count), clients=clients).max()
        if taken >= seconds:
            return count / taken
        count = int(count * min(10.0, max(1.5, 1.2 * seconds / taken)))


@dataclass(frozen=True, slots=True)
class Load:
    """What an open loop has seen.

    Attributes:
        arrivals: when each request was due, seconds, not decreasing.
        latencies: seconds from then to its answer.
    """

    arrivals: np.ndarray
    latencies: np.ndarray

    def in_flight(self) -> np.ndarray:
        """Requests that have arrived and are not answered, itself included, as each arrival finds them."""
        answered = np.sort(self.arrivals + self.latencies)
        return np.arange(1, len(self.arrivals) + 1) - np.searchsorted(answered, self.arrivals, side="right")


def open_loop(
    engine: Engine,
    batches: Sequence[Batch],
    *,
    rate: float,
    clients: int,
    seconds: float,
    seed: int = 0,
) -> Load:
    """Sends about ``rate * seconds`` requests.

    Args:
        engine: what answers.
        batches: requests, sent in turn.
        rate: requests per second of all clients together.
        clients: threads that send.
        seconds: how long to send.
        seed: of the arrivals.
    """
    gaps = np.random.default_rng(seed).exponential(1 / rate, round(rate * seconds))
    arrivals = np.cumsum(gaps)
    return Load(arrivals, engine.replay(batches, arrivals, clients=clients))

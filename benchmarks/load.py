"""Requests of many clients at a fixed rate: latency counted from when a request should have been sent.

An open loop: arrivals are drawn beforehand (one Poisson stream), whichever client is free takes the next, and
a late request is sent at once, so that waiting behind slow answers is part of the latency, as for a user.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from screc.data import Batch

Predict = Callable[[Batch], object]
_PR_SET_TIMERSLACK = 29


def peak_rate(predict: Predict, batches: Sequence[Batch], *, clients: int, seconds: float) -> float:
    """Requests per second when every client sends its next request at once."""
    end = time.perf_counter() + seconds

    def client(number: int) -> int:
        done = 0
        while time.perf_counter() < end:
            predict(batches[(number + done * clients) % len(batches)])
            done += 1
        return done

    begin = time.perf_counter()
    total = sum(_in_threads(client, clients))
    return total / (time.perf_counter() - begin)


def open_loop(
    predict: Predict,
    batches: Sequence[Batch],
    *,
    rate: float,
    clients: int,
    seconds: float,
    seed: int = 0,
) -> np.ndarray:
    """Latencies in seconds, float64 [requests], of about ``rate * seconds`` requests.

    Args:
        predict: one request; called by all clients.
        batches: requests, sent in turn.
        rate: requests per second of all clients together.
        clients: threads that send.
        seconds: how long to send.
        seed: of the arrivals.
    """
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1 / rate, round(rate * seconds))
    arrivals = (time.perf_counter() + 0.05 + np.cumsum(gaps)).tolist()
    requests = itertools.count()  # taken under the interpreter's lock

    def client(_: int) -> list[float]:
        # Sleeps end up to 50 us late by default, as much as a request takes.
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        latencies = []
        while (request := next(requests)) < len(arrivals):
            arrival = arrivals[request]
            wait = arrival - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            predict(batches[request % len(batches)])
            latencies.append(time.perf_counter() - arrival)
        return latencies

    return np.concatenate(_in_threads(client, clients))


def _in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))

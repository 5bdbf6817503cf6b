"""When requests come: a Poisson process, drawn before the first one is sent."""

from __future__ import annotations

import numpy as np


def poisson_arrivals(rate: float, seconds: float, seed: int) -> np.ndarray:
    """Arrival times of a Poisson process, float64, ascending, within [0, ``seconds``).

    Gaps are exponential, as those of many users who know nothing of each other. (DeepRecSys, arXiv
    2001.02772, says Poisson; its program draws whole milliseconds from a Poisson law, whose gaps vary much
    less.)

    Args:
        rate: requests per second, on average.
        seconds: how long requests come.
        seed: the same gives the same times.

    Raises:
        ValueError: the rate or the time is not positive.
    """
    if not (rate > 0 and np.isfinite(rate)):
        raise ValueError(f"rate: must be a positive number of requests per second, got {rate}")
    if not (seconds > 0 and np.isfinite(seconds)):
        raise ValueError(f"seconds: must be a positive number, got {seconds}")
    generator = np.random.default_rng(seed)
    expected = rate * seconds
    times = np.empty(0)
    last = 0.0
    while last < seconds:
        gaps = generator.exponential(1 / rate, int(expected + 4 * expected**0.5) + 16)
        more = last + np.cumsum(gaps)
        times, last = np.concatenate((times, more)), float(more[-1])
    return times[: np.searchsorted(times, seconds)]

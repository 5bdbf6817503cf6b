"""The load generator: queries of given sizes and content, sent to a target at given rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from screc.serving.load.arrivals import poisson_arrivals
from screc.serving.load.capacity import Capacity, Search, Sla, find_capacity
from screc.serving.load.content import Samples, ZipfSamples, queries
from screc.serving.load.drive import Pace
from screc.serving.load.sizes import SizeDistribution
from screc.serving.load.targets import Target
from screc.serving.load.trace import Summary, Trace

_POOL_SAMPLES = 200_000
_FEWEST_QUERIES, _MOST_QUERIES = 64, 4096
_CLOSED_LOOP, _FOREVER_S = 16, 3600.0


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """What is sent.

    Attributes:
        sizes: samples of a query, as ``SizeDistribution.parse`` reads it.
        largest: most samples of a query.
        pace: timeout and connections.
        seed: of sizes, content and arrivals.
        pool: different queries, sent in turn; 0: so many that they have about 200,000 samples.
    """

    sizes: str = "200"
    largest: int = 1024
    pace: Pace = field(default_factory=Pace)
    seed: int = 0
    pool: int = 0


class LoadGenerator:
    """Puts load on a target. Queries are drawn and encoded once, when it is made.

    Args:
        target: what answers.
        config: what is sent.
        samples: what queries ask; None: Zipf-distributed ids.

    Raises:
        ValueError: a setting is out of range; the message names it.
    """

    def __init__(self, target: Target, config: LoadConfig, samples: Samples | None = None) -> None:
        self._config = config
        sizes = SizeDistribution.parse(config.sizes, largest=config.largest)
        generator = np.random.default_rng([config.seed, 1])
        count = config.pool
        if count == 0:
            mean = sizes.draw(np.random.default_rng([config.seed, 1]), 1000).mean()
            count = int(np.clip(_POOL_SAMPLES / mean, _FEWEST_QUERIES, _MOST_QUERIES))
        self._sizes = sizes.draw(generator, count)
        samples = samples or ZipfSamples(target.shape, seed=config.seed)
        self._run = target.prepare(queries(samples, self._sizes))

    @property
    def mean_size(self) -> float:
        """Samples of a query, on average."""
        return float(self._sizes.mean())

    def trace(self, arrivals: np.ndarray) -> Trace:
        """Every request of a run whose arrivals, seconds float64 [R], are given."""
        return self._run(arrivals, self._config.pace)

    def run(self, rate: float, seconds: float, seed: int = 0) -> Summary:
        """Poisson arrivals at a rate, in requests per second.

        Raises:
            ValueError: the rate or the time is not positive, or so short that no request came.
            OSError: nobody answers.
        """
        arrivals = poisson_arrivals(rate, seconds, _one_seed(self._config.seed, seed))
        if not len(arrivals):
            raise ValueError(f"no request is due within {seconds} s at {rate} requests/s; use more of either")
        return self._summary(self.trace(arrivals), seconds)

    def peak(self, seconds: float = 2.0, *, in_flight: int = _CLOSED_LOOP) -> Summary:
        """The peak rate: a closed loop that keeps so many requests in flight, for about so many seconds. Its
        latencies say nothing."""
        count = 64
        pace = Pace(timeout_s=_FOREVER_S, connections=in_flight, in_flight=in_flight)
        while True:
            summary = self._summary(self._run(np.zeros(count), pace), 0.0)
            if summary.seconds >= 0.8 * seconds or summary.outcomes["ok"] == 0:
                return summary
            count = int(count * min(10.0, max(1.5, seconds / summary.seconds)))

    def curve(
        self, rates: Sequence[float], seconds: float, *, progress: Callable[[str], None] | None = None
    ) -> list[Summary]:
        """One run for each rate."""
        runs = []
        for number, rate in enumerate(rates):
            runs.append(self.run(rate, seconds, seed=2000 + number))
            if progress:
                progress(f"{rate:,.0f} requests/s: p95 {runs[-1].latency_ms.get('p95', float('nan')):.2f} ms")
        return runs

    def capacity(
        self,
        sla: Sla,
        search: Search | None = None,
        *,
        start: float | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Capacity:
        """The highest rate at which a promise is kept, looked for from ``start`` or from the peak rate.

        Raises:
            ValueError: nothing at all is answered.
            OSError: nobody answers.
        """
        if start is None:
            start = self.peak().answered_rate
            if start == 0:
                raise ValueError("no request was answered, so there is no load that is kept up with")
            if progress:
                progress(f"closed loop: {start:,.0f} requests/s")
        return find_capacity(self.run, sla, start, search, progress=progress)

    def _summary(self, trace: Trace, seconds: float) -> Summary:
        sizes = np.resize(self._sizes, len(trace.due))
        return Summary.of(trace, sizes, seconds=seconds)


def _one_seed(first: int, second: int) -> int:
    """One seed of two."""
    return int(np.random.SeedSequence([first, second]).generate_state(1, np.uint64)[0])

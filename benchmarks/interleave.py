"""Timing of alternatives side by side: every round runs every arm, so that slow moments hit all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call of one arm.

    Attributes:
        rounds: the median seconds per call of each round.
        calls: all calls timed.
        fastest: the fastest single call.
    """

    rounds: tuple[float, ...]
    calls: int
    fastest: float

    @property
    def median(self) -> float:
        """Median over rounds of the rounds' medians, in seconds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """(slowest round - fastest round) / median."""
        return (max(self.rounds) - min(self.rounds)) / self.median


@dataclass(slots=True)
class _Arm:
    call: Callable[[], object]
    calls_per_round: int = 1
    rounds: list[float] = field(default_factory=list)
    calls: int = 0
    fastest: float = float("inf")


def measure(
    arms: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 7,
    seconds_per_round: float = 0.3,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time every arm in every round, in rotating order.

    Args:
        arms: name -> one call of the work.
        rounds: how many rounds; the result is the median over them.
        seconds_per_round: wall time given to each arm per round (at least three calls).
        progress: told of each finished round.
    """
    states = {name: _Arm(call) for name, call in arms.items()}
    for state in states.values():  # warm up, then learn how many calls fill a round
        state.call()
        begin = time.perf_counter()
        state.call()
        once = time.perf_counter() - begin
        state.calls_per_round = max(3, round(seconds_per_round / max(once, 1e-7)))
    names = list(states)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            state = states[name]
            samples = []
            for _ in range(state.calls_per_round):
                begin = time.perf_counter()
                state.call()
                samples.append(time.perf_counter() - begin)
            state.rounds.append(statistics.median(samples))
            state.calls += len(samples)
            state.fastest = min(state.fastest, *samples)
        if progress:
            progress(f"round {number + 1}/{rounds}")
    return {name: Timing(tuple(s.rounds), s.calls, s.fastest) for name, s in states.items()}

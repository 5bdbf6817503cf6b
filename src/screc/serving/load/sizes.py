"""How many candidates a query has: fixed, normal, log-normal, heavy-tailed, or sampled from percentiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_HELP = (
    "200, normal:165,16, lognormal:5.1,0.2, heavy, heavy:164,2 or percentiles:FILE "
    "(one size a line, from the 0th to the 100th percentile)"
)


@dataclass(frozen=True, slots=True)
class SizeDistribution:
    """Sizes of queries, clipped to [1, ``largest``] as DeepRecSys (arXiv 2001.02772) does.

    Attributes:
        name: as :meth:`parse` reads it.
        largest: most samples of a query.
    """

    name: str
    largest: int
    _draw: Callable[[np.random.Generator, int], np.ndarray]

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """Sizes of ``count`` queries, int64."""
        return np.clip(np.rint(self._draw(generator, count)), 1, self.largest).astype(np.int64)

    @classmethod
    def parse(cls, text: str, *, largest: int = 1024) -> SizeDistribution:
        """A distribution from its name.

        - ``N`` or ``fixed:N``: always N.
        - ``normal:MEAN,DEVIATION``, e.g. DeepRecSys' 165 and 16.
        - ``lognormal:MU,SIGMA``, e.g. DeepRecSys' 5.1 and 0.2: a median of 164.
        - ``heavy[:MEDIAN[,EXPONENT]]``: a Pareto law. Exponent 2 (the default) is the one whose largest
          quarter of queries holds half of all candidates, as DeepRecSys says of production; median 164.
        - ``percentiles:FILE``: sizes at evenly spaced percentiles, one a line; between them, straight lines.

        Raises:
            ValueError: the text is none of these, or a number is out of range.
            OSError: the file cannot be read.
        """
        if largest < 1:
            raise ValueError(f"largest size of a query must be at least 1, got {largest}")
        kind, _, rest = text.partition(":")
        if not rest and kind.isdigit():
            kind, rest = "fixed", kind
        if kind == "percentiles":
            return cls(text, largest, _percentiles(Path(rest)))
        try:
            numbers = [float(part) for part in rest.split(",")] if rest else []
        except ValueError:
            numbers = None
        if numbers is None or not all(np.isfinite(numbers)):
            raise ValueError(f"size: {text!r} is not a distribution of sizes; use {_HELP}")
        return cls(text, largest, _law(kind, numbers, text, largest))


def _law(
    kind: str, numbers: list[float], text: str, largest: int
) -> Callable[[np.random.Generator, int], np.ndarray]:
    match kind, numbers:
        case "fixed", [size] if 1 <= size <= largest and size == int(size):
            return lambda generator, count: np.full(count, size)
        case "normal", [mean, deviation] if mean > 0 and deviation >= 0:
            return lambda generator, count: generator.normal(mean, deviation, count)
        case "lognormal", [mu, sigma] if sigma >= 0:
            return lambda generator, count: generator.lognormal(mu, sigma, count)
        case "heavy", [*given] if len(given) <= 2:
            median, exponent = (*given, *(164.0, 2.0)[len(given) :])
            if median >= 1 and exponent > 1:
                smallest = median / 2 ** (1 / exponent)
                return lambda generator, count: smallest * (1 + generator.pareto(exponent, count))
    raise ValueError(f"size: {text!r} is not a distribution of sizes up to {largest}; use {_HELP}")


def _percentiles(path: Path) -> Callable[[np.random.Generator, int], np.ndarray]:
    try:
        sizes = np.array([float(line) for line in path.read_text().split()])
    except ValueError as error:
        raise ValueError(f"size: {path}: {error}") from error
    if len(sizes) < 2 or not (np.isfinite(sizes).all() and (np.diff(sizes) >= 0).all() and sizes[0] >= 1):
        raise ValueError(f"size: {path} must hold two or more sizes from 1, in ascending order")
    places = np.linspace(0, 1, len(sizes))
    return lambda generator, count: np.interp(generator.random(count), places, sizes)

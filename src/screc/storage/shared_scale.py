"""The scale and bias that all rows of an int8 or int4 band share: those that rounding loses least with.

Codes that span a band from its least to its largest value lose most of their precision to a few outliers. A
shorter span clamps these and rounds all others finer; the best one minimises the sum of squared errors.
"""

from __future__ import annotations

import numpy as np

from .row_format import LARGEST_CODE, RowFormat, Scale, decode_rows, encode_rows

# A band of more values is judged by a sample of its rows, and by a sixteenth as many values at either end.
_SAMPLE_VALUES = 1 << 20
# Shares of the values that a first guess leaves outside the codes' span, at either end.
_OUTSIDE = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
# The search: how many starts it improves, and its moves of the span's two ends, the shortest in codes.
_STARTS = 8
_MOVES = [(down, up) for down in (-1, 0, 1) for up in (-1, 0, 1) if down or up]
_MOST_MOVES = 200
_SHORTEST_MOVE = 2e-3


class BandValues:
    """What a band's shared scale is chosen by, gathered in one pass in bounded memory.

    All rows of a band of up to ``sample_values`` (2^20) values. Of a larger one every 2^k-th row, which
    leaves at least half as many values, and of the least and of the largest values a sixteenth as many each:
    outliers that the sample misses may weigh more than all else.
    """

    def __init__(self, embedding_dim: int, *, sample_values: int = _SAMPLE_VALUES) -> None:
        self._most_rows = max(1, sample_values // embedding_dim)
        self._most_ends = max(1, sample_values // 16)
        self._every = 1
        self._rows_seen = self._num_values = 0
        self._sample: list[np.ndarray] = []
        # The least values are held negated, as the largest of the negated ones.
        self._largest = self._negated_least = np.zeros(0, np.float32)

    def add(self, rows: np.ndarray) -> None:
        """Takes in rows float32 [n, embedding_dim], finite."""
        self._sample.append(rows[-self._rows_seen % self._every :: self._every].copy())
        self._rows_seen += len(rows)
        self._num_values += rows.size
        while sum(map(len, self._sample)) > self._most_rows:
            self._sample = [np.concatenate(self._sample)[::2]]
            self._every *= 2
        self._largest = _largest(self._largest, rows.reshape(-1), self._most_ends)
        self._negated_least = _largest(self._negated_least, -rows.reshape(-1), self._most_ends)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the largest value of the band, exactly."""
        return float(-self._negated_least.max()), float(self._largest.max())

    def weighted(self) -> tuple[np.ndarray, np.ndarray]:
        """Values in ascending order, float32 [m], and how many of the band's each stands for, float64 [m]."""
        values = np.concatenate(self._sample).reshape(-1)
        if self._every == 1:
            return np.sort(values), np.ones(len(values))
        least, largest = np.sort(-self._negated_least), np.sort(self._largest)
        between = np.sort(values[(values >= least[-1]) & (values <= largest[0])])
        weights = np.ones(len(least) + len(between) + len(largest))
        weights[len(least) : -len(largest)] = (self._num_values - len(least) - len(largest)) / len(between)
        return np.concatenate((least, between, largest)), weights


def spanning_scale(row_format: RowFormat, low: float, high: float) -> Scale:
    """The scale and bias, float32, with which the codes of "int8" or "int4" span [low, high]."""
    scale = np.float32((high - low) / LARGEST_CODE[row_format])
    return float(scale), float(np.float32(low))


def shared_scale(band: BandValues, row_format: RowFormat) -> Scale:
    """The scale and bias, float32, for all rows of an int8 or int4 band.

    They are those of the least sum of squared errors that a search finds, values outside the codes' span
    taking the nearest code. It starts from spans that leave few values outside and from the steps of evenly
    spaced levels, and moves the ends of the best of these. The result loses no more than codes that span all
    values: that is exact for a band of up to 2^20 values, and holds for a larger one as far as its sample
    tells.
    """
    spanning = spanning_scale(row_format, *band.bounds)
    if spanning[0] == 0.0:
        return spanning
    values, weights = band.weighted()
    search = _Search(values, weights, LARGEST_CODE[row_format])
    starts = sorted(search.starts(), key=search.error)[:_STARTS]
    improved = min((search.improved(start) for start in starts), key=search.error)
    best, least = spanning, _lost(values, weights, row_format, spanning)
    for found in (starts[0], improved):
        with np.errstate(over="ignore"):
            rounded = np.array(found, np.float32)
        if np.isfinite(rounded).all() and rounded[0] >= 0:
            scale = (float(rounded[0]), float(rounded[1]))
            # Judged by the codecs themselves: where the search sees a tie, the spanning scale stays.
            lost = _lost(values, weights, row_format, scale)
            if lost < least:
                best, least = scale, lost
    return best


class _Search:
    """Squared errors of weighted values under any scale and bias, from running sums of the sorted values."""

    def __init__(self, values: np.ndarray, weights: np.ndarray, levels: int) -> None:
        self._levels = levels
        self._codes = np.arange(levels + 1, dtype=np.float64)
        # Around their median, so that values in a narrow range far from 0 keep their digits in the sums.
        self._centre = float(values[len(values) // 2])
        self._values = values.astype(np.float64) - self._centre
        moments = np.stack((weights, weights * self._values, weights * self._values**2))
        self._sums = np.zeros((3, len(values) + 1))
        np.cumsum(moments, axis=1, out=self._sums[:, 1:])

    def starts(self) -> list[Scale]:
        """Scales and biases worth a try."""
        whole = self._sums[0, -1]
        ends = np.searchsorted(self._sums[0], whole * np.array([_OUTSIDE, 1 - np.array(_OUTSIDE)]))
        last = len(self._values) - 1
        lows = np.unique(self._values[np.minimum(ends[0], last)])
        highs = np.unique(self._values[np.clip(ends[1] - 1, 0, last)])
        spans = [((high - low) / self._levels, low) for low in lows for high in highs if high > low]
        low, high = self._values[0], self._values[-1]
        # Fewer levels than codes, if evenly spaced, are met exactly by codes as far apart as they.
        spans += [((high - low) / steps, low) for steps in range(1, self._levels + 1)]
        return [(float(step), float(first) + self._centre) for step, first in spans]

    def error(self, scale: Scale) -> float:
        """The sum of squared errors."""
        step, first = scale[0], scale[1] - self._centre
        cuts = np.searchsorted(self._values, first + step * (self._codes[1:] - 0.5))
        cuts = np.concatenate(([0], cuts, [len(self._values)]))
        # Of the values nearest to each code.
        count, total, squares = np.diff(self._sums[:, cuts], axis=1)
        decoded = first + step * self._codes
        return float((squares - 2 * decoded * total + decoded**2 * count).sum())

    def improved(self, scale: Scale) -> Scale:
        """Moves the ends of the codes' span while that helps, by ever shorter steps."""
        low, high = scale[1], scale[1] + scale[0] * self._levels
        best, least, reach = scale, self.error(scale), (high - low) / 4
        shortest = _SHORTEST_MOVE * scale[0]
        for _ in range(_MOST_MOVES):
            spans = ((low + down * reach, high + up * reach) for down, up in _MOVES)
            tried = [((end - start) / self._levels, start) for start, end in spans if end > start]
            errors = [self.error(one) for one in tried]
            chosen = int(np.argmin(errors))
            if errors[chosen] < least:
                best, least = tried[chosen], errors[chosen]
                low, high = best[1], best[1] + best[0] * self._levels
            else:
                reach /= 2
                if reach < shortest:
                    break
        return best


def _lost(values: np.ndarray, weights: np.ndarray, row_format: RowFormat, scale: Scale) -> float:
    """The weighted sum of squared errors of the values as they are written and read."""
    decoded = decode_rows(encode_rows(values[None], row_format, scale), row_format, len(values), scale)[0]
    return float(weights @ (values.astype(np.float64) - decoded) ** 2)


def _largest(kept: np.ndarray, more: np.ndarray, number: int) -> np.ndarray:
    """The largest values of both, as many as are kept, in no order."""
    if len(kept) == number:
        more = more[more > kept.min()]
    both = np.concatenate((kept, more))
    return both if len(both) <= number else np.partition(both, -number)[-number:]

"""The access curve of a table: look-up probability by rank, in runs of equal counts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class AccessCurve:
    """Look-up probability of every row of a table, by rank, as runs of equal probability.

    A table counted over L look-ups has at most about sqrt(2 L) different counts, so a curve over hundreds
    of millions of rows is exact in a few thousand numbers.

    Attributes:
        boundaries: int64 [runs + 1], ascending ranks from 0 to the rows of the table; run i is the ranks
            ``[boundaries[i], boundaries[i + 1])``.
        probabilities: float64 [runs], probability that a look-up asks for one given row of the run;
            probabilities times run lengths sum to 1.
    """

    boundaries: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of_counts(cls, num_embeddings: int, counts: np.ndarray, unseen_share: float) -> AccessCurve:
        """The curve of ``counts`` (int64 [seen], descending), with a given share for the rows beyond them.

        Args:
            num_embeddings: rows of the table, seen and unseen.
            counts: look-ups of each seen row, in rank order, all positive.
            unseen_share: probability that a look-up asks for any unseen row, spread evenly over them and
                taken from all seen rows alike (absolute discounting: rows counted a few times owe much of
                their count to chance, hot rows hardly any). Taken as 0 where every row was seen and as 1
                where none was.
        """
        seen = counts.size
        unseen = num_embeddings - seen
        if seen == 0:
            unseen_share = 1.0
        elif unseen == 0:
            unseen_share = 0.0
        starts = np.flatnonzero(np.diff(counts, prepend=-1)) if seen else np.zeros(0, dtype=np.int64)
        boundaries, probabilities = starts, np.zeros(0)
        if seen:
            lookups = counts.sum(dtype=np.float64)
            probabilities = counts[starts] / lookups - unseen_share / seen
        if unseen:
            boundaries = np.append(boundaries, seen)
            probabilities = np.append(probabilities, unseen_share / unseen)
        boundaries = np.append(boundaries, num_embeddings).astype(np.int64)
        return cls(boundaries, probabilities)

    @classmethod
    def of_masses(cls, num_embeddings: int, rows: np.ndarray, masses: np.ndarray) -> AccessCurve:
        """The curve of runs of rows of which each has a part of the look-ups, in proportion to ``masses``.

        Args:
            num_embeddings: rows of the table; those beyond the runs have probability 0.
            rows: [runs], rows of each run, in rank order. Estimates need not be whole: ends are rounded.
            masses: float64 [runs], not negative.
        """
        ends = np.minimum(np.rint(np.cumsum(rows)), num_embeddings).astype(np.int64)
        ends = np.append(ends, num_embeddings)
        lengths = np.diff(ends, prepend=0)
        masses = np.append(masses, 0.0)
        kept = lengths > 0
        probabilities = masses[kept] / lengths[kept] / masses[kept].sum()
        return cls(np.concatenate(([0], ends[kept])), probabilities)

    @property
    def num_embeddings(self) -> int:
        """Rows of the table."""
        return int(self.boundaries[-1])

    @cached_property
    def _cumulative(self) -> np.ndarray:
        total = np.concatenate(([0.0], np.cumsum(self.probabilities * np.diff(self.boundaries))))
        return total / total[-1]

    def share(self, ranks: np.ndarray | int) -> np.ndarray:
        """Share of the look-ups that ask for one of the first ``ranks`` rows; float64, shape of ``ranks``."""
        return np.interp(ranks, self.boundaries, self._cumulative)

    def missed(self, lookups: float, ranks: np.ndarray | int) -> np.ndarray:
        """Share of the look-ups that ask for one of the first ``ranks`` rows which none of the ``lookups``
        look-ups before asked for: what a cache that reaches so far back does not hold.

        Row r is asked for with probability p_r, and was not before with probability ``exp(-lookups * p_r)``.
        """
        if math.isinf(lookups):
            return np.zeros(np.shape(ranks))
        left = self.probabilities * np.exp(-lookups * self.probabilities) * np.diff(self.boundaries)
        return np.interp(ranks, self.boundaries, np.concatenate(([0.0], np.cumsum(left))))

    def distinct(self, lookups: float, ranks: np.ndarray | int) -> np.ndarray:
        """Expected number of different rows among the first ``ranks`` rows that ``lookups`` look-ups ask for.

        Look-ups are taken as independent: row r is asked for with probability ``1 - exp(-lookups * p_r)``.
        """
        touched = -np.expm1(-lookups * self.probabilities) * np.diff(self.boundaries)
        return np.interp(ranks, self.boundaries, np.concatenate(([0.0], np.cumsum(touched))))

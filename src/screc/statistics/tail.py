"""The rows that were looked up but did not fit into the memory of the counters: a model from a sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False, kw_only=True)
class Tail:
    """Rows of a table that were looked up and are not ranked, known by a uniform sample of the table's rows.

    A row is in the sample by its hash, with probability ``sampling``, and was counted exactly from its first
    look-up on (distinct sampling: Gibbons, VLDB 2001). So estimates are unbiased, and their standard errors
    known.

    Attributes:
        counts: int64 [k], ascending: the different look-ups of unranked rows in the sample.
        rows: int64 [k], how many such rows have each.
        sampling: probability of a row to be in the sample, above 0 and at most 1.
        sample_rows: rows in the sample, ranked or not.
        sample_singletons: rows in the sample that were looked up once, ranked or not.
        bound: no unranked row was looked up more often than this.
    """

    counts: np.ndarray
    rows: np.ndarray
    sampling: float
    sample_rows: int
    sample_singletons: int
    bound: int

    def __post_init__(self) -> None:
        for field in ("counts", "rows"):
            array = getattr(self, field)
            if array.dtype != np.int64 or array.ndim != 1:
                raise TypeError(f"tail {field} must be int64 [k], got {array.dtype} {array.shape}")
        if self.counts.size != self.rows.size:
            raise ValueError(f"tail: {self.counts.size} counts for {self.rows.size} numbers of rows")
        if self.counts.size and (
            self.counts[0] < 1 or self.counts[-1] > self.bound or (np.diff(self.counts) <= 0).any()
        ):
            raise ValueError(f"tail counts must ascend from at least 1 to at most the bound {self.bound}")
        if self.rows.size and self.rows.min() < 1:
            raise ValueError("tail rows must be at least 1")
        if not 0 < self.sampling <= 1:
            raise ValueError(f"tail sampling must be above 0 and at most 1, got {self.sampling}")
        if not max(self.sample_singletons, int(self.rows.sum())) <= self.sample_rows:
            raise ValueError(
                f"tail: {int(self.rows.sum())} unranked rows and {self.sample_singletons} rows looked up "
                f"once in a sample of {self.sample_rows}"
            )

    @property
    def num_rows(self) -> float:
        """Estimated number of unranked rows that were looked up."""
        return float(self.rows.sum() / self.sampling)

    @property
    def num_lookups(self) -> float:
        """Estimated number of look-ups of unranked rows."""
        return float((self.counts * self.rows).sum() / self.sampling)

    @property
    def num_singletons(self) -> float:
        """Estimated number of rows of the table, ranked or not, that were looked up once."""
        return self.sample_singletons / self.sampling

    @property
    def rows_error(self) -> float:
        """Relative standard error of :attr:`num_rows`; infinite without a row to tell."""
        rows = int(self.rows.sum())
        return rows**-0.5 if rows else float("inf")

    @property
    def lookups_error(self) -> float:
        """Relative standard error of :attr:`num_lookups`; infinite without a row to tell."""
        lookups = float((self.counts * self.rows).sum())
        return float((self.counts**2 * self.rows).sum()) ** 0.5 / lookups if lookups else float("inf")

"""What was counted of one embedding table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from screc.statistics.curve import AccessCurve
from screc.statistics.distinct import DistinctRows
from screc.statistics.tail import Tail


@dataclass(frozen=True, eq=False, kw_only=True)
class TableStatistics:
    """Look-up counts of one table: exact, or bounded where memory did not suffice for all rows looked up.

    Without a ``tail`` every row that was looked up is ranked and every count is exact. With one, the rows
    that were looked up most are ranked, each with bounds, and the tail models the others.

    Attributes:
        name: the table.
        num_embeddings: rows of the table, looked up or not.
        num_samples: samples that were counted.
        num_lookups: look-ups in all of them (a row twice in one bag counts twice).
        num_nonempty: samples whose bag was not empty.
        ids: int64 [ranked], the ranked rows in rank order (count descending, ties by id).
        counts: int64 [ranked], their look-ups, or lower bounds of them.
        count_errors: uint32 [ranked], how many more look-ups a row may have had; None where all are exact.
        tail: rows that were looked up and are not ranked; None where there are none.
        distinct: different rows per batch, by batch size; empty where that was not measured.
    """

    name: str
    num_embeddings: int
    num_samples: int
    num_lookups: int
    num_nonempty: int
    ids: np.ndarray
    counts: np.ndarray
    count_errors: np.ndarray | None = None
    tail: Tail | None = None
    distinct: tuple[DistinctRows, ...] = ()

    def __post_init__(self) -> None:
        where = f"table {self.name}"
        if self.num_embeddings < 1:
            raise ValueError(f"{where}: num_embeddings must be at least 1, got {self.num_embeddings}")
        for field in ("ids", "counts"):
            array = getattr(self, field)
            if array.dtype != np.int64 or array.ndim != 1:
                raise TypeError(f"{where}: {field} must be int64 [ranked], got {array.dtype} {array.shape}")
        if self.ids.size != self.counts.size or self.ids.size > self.num_embeddings:
            raise ValueError(
                f"{where}: {self.ids.size} ids and {self.counts.size} counts for {self.num_embeddings} rows; "
                "give one count per looked-up row"
            )
        if self.ids.size and (self.ids.min() < 0 or self.ids.max() >= self.num_embeddings):
            raise ValueError(f"{where}: ids must lie in [0, {self.num_embeddings})")
        if self.counts.size and (self.counts[-1] < 1 or (self.counts[1:] > self.counts[:-1]).any()):
            raise ValueError(
                f"{where}: counts must be positive and descending; use from_counts to order them"
            )
        self._check_sum(where)
        if not 0 <= self.num_nonempty <= self.num_samples:
            raise ValueError(f"{where}: num_nonempty {self.num_nonempty} of {self.num_samples} samples")

    def _check_sum(self, where: str) -> None:
        total = int(self.counts.sum())
        if (self.tail is None) != (self.count_errors is None):
            raise ValueError(f"{where}: count_errors and tail go together; give both or neither")
        if self.count_errors is None:
            if total != self.num_lookups:
                raise ValueError(f"{where}: counts sum to {total}, num_lookups says {self.num_lookups}")
            return
        errors = self.count_errors
        if errors.dtype != np.uint32 or errors.shape != self.counts.shape:
            raise TypeError(
                f"{where}: count_errors must be uint32 {self.counts.shape}, got {errors.dtype} {errors.shape}"
            )
        if total > self.num_lookups:
            raise ValueError(f"{where}: counts sum to {total}, more than num_lookups {self.num_lookups}")

    @classmethod
    def from_counts(
        cls,
        name: str,
        num_embeddings: int,
        ids: np.ndarray,
        counts: np.ndarray,
        *,
        num_samples: int,
        num_nonempty: int | None = None,
    ) -> TableStatistics:
        """Statistics from counts in any order; rows with count 0 are dropped.

        Args:
            name: the table.
            num_embeddings: its rows.
            ids: int64 [n], different row ids.
            counts: int64 [n], look-ups of each.
            num_samples: samples counted.
            num_nonempty: samples with a non-empty bag; default all of them (none without look-ups).
        """
        seen = counts > 0
        ids, counts = ids[seen], counts[seen]
        if ids.size > 1 and (np.diff(ids) <= 0).any():
            order = np.argsort(ids, kind="stable")
            ids, counts = ids[order], counts[order]
            if (np.diff(ids) == 0).any():
                raise ValueError(
                    f"table {name}: ids hold row {ids[:-1][np.diff(ids) == 0][0]} more than once"
                )
        order = np.argsort(-counts, kind="stable")
        total = int(counts.sum())
        return cls(
            name=name,
            num_embeddings=num_embeddings,
            num_samples=num_samples,
            num_lookups=total,
            num_nonempty=(num_samples if total else 0) if num_nonempty is None else num_nonempty,
            ids=ids[order].astype(np.int64, copy=False),
            counts=counts[order].astype(np.int64, copy=False),
        )

    @property
    def exact(self) -> bool:
        """Whether every row that was looked up is ranked, with its exact count."""
        return self.tail is None

    @property
    def max_count_error(self) -> int:
        """The most look-ups that the count of any row misses, taking an unranked row's count as 0."""
        return self.tail.bound if self.tail else 0

    @property
    def num_ranked(self) -> int:
        """Rows whose rank is known; those behind them follow by ascending id."""
        return self.ids.size

    @property
    def num_seen(self) -> int:
        """Rows that were looked up at least once: ``num_ranked``, and as many more as the tail estimates."""
        if self.tail is None:
            return self.ids.size
        return min(self.num_embeddings, self.ids.size + round(self.tail.num_rows))

    @property
    def mean_pooling(self) -> float:
        """Look-ups per sample, empty bags included; 0 without samples."""
        return self.num_lookups / self.num_samples if self.num_samples else 0.0

    @property
    def coverage(self) -> float:
        """Share of the samples with a non-empty bag; 0 without samples."""
        return self.num_nonempty / self.num_samples if self.num_samples else 0.0

    @property
    def unseen_share(self) -> float:
        """Estimated probability that a look-up asks for a row that was never seen.

        Good-Turing: look-ups of rows seen once / all look-ups, taking at least one such row, so that a cold
        band is never predicted to cost nothing. It is capped at unseen * seen / (rows * look-ups): an unseen
        row is never taken to be more likely than a row seen once. 0 where all rows were seen, 1 where none
        was.
        """
        unseen = self.num_embeddings - self.num_seen
        if unseen == 0:
            return 0.0
        if self.num_lookups == 0:
            return 1.0
        if self.tail is None:
            singletons: float = self.num_ranked - int(np.searchsorted(-self.counts, -1, side="left"))
        else:
            singletons = self.tail.num_singletons
        most = unseen * self.num_seen / (self.num_embeddings * self.num_lookups)
        return min(max(singletons, 1) / self.num_lookups, most)

    @cached_property
    def curve(self) -> AccessCurve:
        """The counted access curve: unseen rows have probability 0 (all rows 1/N in a table never seen).

        A tail takes its modelled place, by descending probability: the curve that exact counts would give.
        """
        if self.tail is None:
            return AccessCurve.of_counts(self.num_embeddings, self.counts, 0.0)
        lengths, lookups = self._ranked_runs
        left = self.num_lookups - float((lengths * lookups).sum())
        rest = self.num_embeddings - self.num_ranked
        tail_rows = self.tail.rows / self.tail.sampling
        # The sample may say a little more or less than what is left of rows and look-ups.
        tail_rows *= min(1.0, rest / max(self.tail.num_rows, 1.0))
        tail_lookups = self.tail.counts * (self.tail.rows / self.tail.sampling)
        tail_lookups *= left / max(self.tail.num_lookups, 1.0)
        rows = np.concatenate((lengths, tail_rows))
        masses = np.concatenate((lengths * lookups, tail_lookups))
        order = np.argsort(-masses / rows, kind="stable")
        return AccessCurve.of_masses(self.num_embeddings, rows[order], masses[order])

    @cached_property
    def smoothed_curve(self) -> AccessCurve:
        """The access curve for predictions: :attr:`unseen_share` of the look-ups fall on the unseen rows.

        All seen rows lose the same probability to them (absolute discounting), for it is among the rows seen
        a few times that a count overstates what comes next. Rows of a tail and unseen rows are alike here,
        because :meth:`ids_in_ranks` cannot tell them apart: together they share what the ranked rows leave.
        """
        if self.tail is None:
            return AccessCurve.of_counts(self.num_embeddings, self.counts, self.unseen_share)
        lengths, lookups = self._ranked_runs
        masses = lengths * (lookups / self.num_lookups - self.unseen_share / self.num_seen)
        rest = self.num_embeddings - self.num_ranked
        if rest:
            lengths, masses = np.append(lengths, rest), np.append(masses, 1.0 - masses.sum())
        return AccessCurve.of_masses(self.num_embeddings, lengths, masses)

    @cached_property
    def _ranked_runs(self) -> tuple[np.ndarray, np.ndarray]:
        """Of ranked rows of equal count with a tail: rows int64 [runs], estimated look-ups of each float64.

        What all look-ups leave beyond counts and tail are look-ups of ranked rows that were not counted for
        them: each takes its part in proportion to its error.
        """
        assert self.tail is not None
        assert self.count_errors is not None
        starts = np.flatnonzero(np.diff(self.counts, prepend=-1))
        lengths = np.diff(starts, append=self.num_ranked)
        errors = np.add.reduceat(self.count_errors, starts, dtype=np.float64) if starts.size else starts
        uncounted = self.num_lookups - float(self.counts.sum()) - self.tail.num_lookups
        share = min(max(uncounted / max(float(errors.sum()), 1.0), 0.0), 1.0)
        return lengths, self.counts[starts] + share * errors / lengths

    def share(self, ranks: np.ndarray | int) -> np.ndarray:
        """Counted share of the look-ups that fall on the first ``ranks`` rows (the CDF), vectorised.

        Args:
            ranks: numbers of rows, 0 to num_embeddings. A table never looked up gives ranks / rows.
        """
        ranks = np.asarray(ranks)
        if ranks.size and (ranks.min() < 0 or ranks.max() > self.num_embeddings):
            wrong = ranks.min() if ranks.min() < 0 else ranks.max()
            raise ValueError(f"table {self.name}: ranks must be 0 to {self.num_embeddings}, got {wrong}")
        return self.curve.share(ranks)

    @cached_property
    def _others_below(self) -> np.ndarray:
        # Others below each ranked id, ascending: the k-th other id is k + (ranked ids it lies above).
        return np.sort(self.ids) - np.arange(self.num_ranked)

    def ids_in_ranks(self, start: int, stop: int) -> np.ndarray:
        """The ids of ranks [start, stop), int64, in rank order; ids without a rank follow in ascending order.

        Memory: 8 bytes per returned id; the first call past the ranked rows keeps 8 bytes for each of these.

        Raises:
            ValueError: the range is not within 0 to num_embeddings.
        """
        if not 0 <= start <= stop <= self.num_embeddings:
            raise ValueError(
                f"table {self.name}: ranks [{start}, {stop}) are not within its {self.num_embeddings} rows"
            )
        ranked = self.ids[start : min(stop, self.num_ranked)]
        if stop <= self.num_ranked:
            return ranked.copy()
        wanted = np.arange(max(start - self.num_ranked, 0), stop - self.num_ranked, dtype=np.int64)
        others = wanted + np.searchsorted(self._others_below, wanted, side="right")
        return np.concatenate((ranked, others)) if ranked.size else others

    def shares_in_ranks(self, start: int, stop: int) -> np.ndarray:
        """The share of the look-ups to come that each row of ranks [start, stop) is expected to get, float64
        (:attr:`smoothed_curve`)."""
        return self.smoothed_curve.probability(np.arange(start, stop))

    def ranks_of(self, ids: np.ndarray) -> np.ndarray:
        """The ranks of ids int64 [n]: the inverse of :meth:`ids_in_ranks`.

        Memory: 16 bytes per ranked row, for the length of the call.

        Raises:
            ValueError: an id is not a row of the table.
        """
        if ids.size and (ids.min() < 0 or ids.max() >= self.num_embeddings):
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"table {self.name}: row {wrong} is not one of its {self.num_embeddings}")
        order = np.argsort(self.ids)
        ascending = self.ids[order]
        below = np.searchsorted(ascending, ids)
        ranks = self.num_ranked + ids - below  # of the others: ranked rows that lie below are not before them
        place = np.minimum(below, max(self.num_ranked - 1, 0))
        ranked = ascending[place] == ids if self.num_ranked else np.zeros(ids.shape, bool)
        ranks[ranked] = order[place[ranked]]
        return ranks

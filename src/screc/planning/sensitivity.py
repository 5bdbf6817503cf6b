"""Sensitivity: what each table loses in each format, measured; the accuracy term of a plan.

For a table, a format and a band of ranks: the rise of the mean log-loss on a validation sample when that band
alone is replaced by what the format makes of it and everything else stays float32. A plan is taken to cost
the sum over its bands, as if no band's loss depended on the others; :class:`Additivity` holds how far that is
true of whole plans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from screc.planning.documents import Document
from screc.statistics.access import AccessStatistics, TableStatistics
from screc.storage.frozen import Frozen
from screc.storage.layout import Format, TableLayout
from screc.storage.row_format import LARGEST_CODE, ScaleOf

# Points of a table's access curve that the document keeps, to interpolate between cuts.
_CURVE_POINTS = 64


class Point(Frozen):
    """What replacing some rows did to the mean log-loss, nats a sample."""

    rise: float
    """As measured: the mean over the samples of the difference of their losses."""
    standard_error: NonNegativeFloat
    """Of ``rise``, over the samples."""
    expected: float
    """The rise if the float32 model's probabilities were the true ones: their mean divergence. The rest of
    ``rise``, the mean of (probability - label) times the change of the logit, is 0 but for chance where rows
    move at random, as they do when they are rounded."""

    @property
    def without_chance(self) -> float:
        """``expected`` and, of the rest of ``rise``, as much as stands out of three standard errors."""
        rest = self.rise - self.expected
        doubt = (3 * self.standard_error / rest) ** 2 if rest else 1.0
        return self.expected + rest * max(0.0, 1.0 - doubt)


class Effect(Frozen):
    """The rise of log-loss when bands of one table are held in one format.

    Bands are measured from each of a few cuts to each later one. Rows that stand for themselves cost the same
    in any band; a scale that rows share, and cores, suit the fewer rows of a narrow band better.
    """

    format: Format
    tt_rank: PositiveInt | None = None
    """Of format ``tt``."""
    scale: ScaleOf = "row"
    """Of int8 and int4 rows: one scale each, or one for all of the band."""
    cuts: tuple[NonNegativeInt, ...] = Field(min_length=2)
    """Ranks, ascending from 0 to the table's rows."""
    measured: tuple[tuple[Point, ...], ...]
    """For the band from cut i to cut j, ``measured[i][j - i - 1]``."""
    loss: tuple[tuple[NonNegativeFloat, ...], ...]
    """What planning uses, in the same places: ``measured`` without chance, made to grow with the band."""

    @classmethod
    def of(
        cls,
        format: Format,
        cuts: Sequence[int],
        measured: Sequence[Sequence[Point]],
        *,
        tt_rank: int | None = None,
        scale: ScaleOf = "row",
    ) -> Effect:
        """An effect from what was measured of each band between two cuts."""
        return cls(
            format=format,
            tt_rank=tt_rank,
            scale=scale,
            cuts=tuple(cuts),
            measured=tuple(tuple(points) for points in measured),
            loss=_growing(measured),
        )

    @model_validator(mode="after")
    def _consistent(self) -> Effect:
        if (self.format == "tt") != (self.tt_rank is not None):
            raise ValueError("tt_rank must be given for format 'tt' and only for it")
        if self.scale == "table" and self.format not in LARGEST_CODE:
            raise ValueError(f"only int8 and int4 rows have a scale to share, these are {self.format}")
        if self.cuts[0] != 0 or any(b <= a for a, b in zip(self.cuts, self.cuts[1:], strict=False)):
            raise ValueError(f"cuts must ascend from 0, got {list(self.cuts)}")
        expected = list(range(len(self.cuts) - 1, 0, -1))
        for name in ("measured", "loss"):
            found = [len(row) for row in getattr(self, name)]
            if found != expected:
                raise ValueError(f"{name} has {found} entries, {len(self.cuts)} cuts need {expected}")
        matrix = self._matrix
        if (np.diff(matrix, axis=0) > 0).any() or (np.diff(matrix, axis=1) < 0).any():
            raise ValueError(f"loss must grow with the band, got {[list(row) for row in self.loss]}")
        return self

    @property
    def whole(self) -> float:
        """The loss of the whole table."""
        return self.loss[0][-1]

    @property
    def _matrix(self) -> np.ndarray:
        """Losses from cut to cut, float64 [cuts, cuts]; of bands the wrong way round, negative."""
        matrix = np.zeros((len(self.cuts), len(self.cuts)))
        for i, row in enumerate(self.loss):
            matrix[i, i + 1 :] = row
        return matrix - matrix.T

    def between(
        self, first: np.ndarray, first_part: np.ndarray, last: np.ndarray, last_part: np.ndarray
    ) -> np.ndarray:
        """Losses of bands, bilinear in their two ends, each given by the cut before it and how far, 0 to 1,
        it lies on the way to the next."""
        matrix = self._matrix
        return (
            (1 - first_part) * (1 - last_part) * matrix[first, last]
            + first_part * (1 - last_part) * matrix[first + 1, last]
            + (1 - first_part) * last_part * matrix[first, last + 1]
            + first_part * last_part * matrix[first + 1, last + 1]
        )


class TableSensitivity(Frozen):
    """One table: its effects, and the look-ups between their cuts."""

    table: str
    num_embeddings: PositiveInt
    ranks: tuple[NonNegativeInt, ...] = Field(min_length=2)
    """Ascending from 0 to ``num_embeddings``."""
    shares: tuple[float, ...]
    """Smoothed share of the table's look-ups that ask for a rank below each of ``ranks``, from 0 to 1."""
    effects: tuple[Effect, ...]

    @classmethod
    def of(cls, statistics: TableStatistics, effects: Sequence[Effect]) -> TableSensitivity:
        """A table's effects beside a short form of its access curve."""
        rows = statistics.num_embeddings
        points = np.geomspace(1, rows, _CURVE_POINTS).round().astype(np.int64)
        cuts = [cut for effect in effects for cut in effect.cuts]
        ranks = np.unique(np.concatenate(([0, rows], points, np.array(cuts, np.int64))))
        return cls(
            table=statistics.name,
            num_embeddings=rows,
            ranks=tuple(ranks.tolist()),
            shares=tuple(statistics.smoothed_curve.share(ranks).tolist()),
            effects=tuple(effects),
        )

    @model_validator(mode="after")
    def _consistent(self) -> TableSensitivity:
        where = f"table {self.table}"
        if len(self.ranks) != len(self.shares):
            raise ValueError(f"{where}: {len(self.ranks)} ranks and {len(self.shares)} shares")
        if self.ranks[0] != 0 or self.ranks[-1] != self.num_embeddings or (np.diff(self.ranks) <= 0).any():
            raise ValueError(f"{where}: ranks must ascend from 0 to {self.num_embeddings}")
        if not 0 <= self.shares[0] <= self.shares[-1] <= 1 + 1e-9 or (np.diff(self.shares) < 0).any():
            raise ValueError(f"{where}: shares must ascend within 0 and 1")
        for effect in self.effects:
            if effect.cuts[-1] != self.num_embeddings:
                raise ValueError(
                    f"{where}, format {effect.format}: cuts end at {effect.cuts[-1]}, "
                    f"the table has {self.num_embeddings} rows"
                )
        names = [(effect.format, effect.tt_rank, effect.scale) for effect in self.effects]
        if len(set(names)) != len(names):
            raise ValueError(f"{where}: an effect is given twice")
        return self

    def knows(self, format: Format, tt_rank: int | None = None, scale: ScaleOf = "row") -> bool:
        """Whether :meth:`loss` can tell of a format; TT is not measured where it would save nothing."""
        return format == "fp32" or self._find(format, tt_rank, scale) is not None

    def effect(self, format: Format, tt_rank: int | None = None, scale: ScaleOf = "row") -> Effect:
        """The effect of a format. A TT rank that was not measured takes that of the next smaller one, which
        loses more.

        Raises:
            ValueError: it was not measured; says what was.
        """
        found = self._find(format, tt_rank, scale)
        if found is None:
            known = ", ".join(
                effect.format
                + (f" of TT rank {effect.tt_rank}" if effect.tt_rank else "")
                + (" with a shared scale" if effect.scale == "table" else "")
                for effect in self.effects
            )
            wanted = f"{format} of TT rank {tt_rank}" if format == "tt" else f"{format}, a scale a {scale}"
            raise ValueError(
                f"table {self.table}: the sensitivity to {wanted} was not measured, only to fp32, {known}; "
                "measure it again, or plan without that format"
            )
        return found

    def _find(self, format: Format, tt_rank: int | None, scale: ScaleOf) -> Effect | None:
        fitting = [
            effect
            for effect in self.effects
            if (effect.format, effect.scale) == (format, scale)
            and (effect.tt_rank is None or (tt_rank is not None and effect.tt_rank <= tt_rank))
        ]
        return max(fitting, key=lambda effect: effect.tt_rank or 0, default=None)

    def loss(
        self,
        format: Format,
        tt_rank: int | None,
        start: ArrayLike,
        stop: ArrayLike,
        scale: ScaleOf = "row",
    ) -> np.ndarray:
        """Rise of the mean log-loss when ranks [start, stop) are held in a format, float64, broadcast.

        Between two cuts it is spread over the ranks as their look-ups are: to second order, a row's error
        costs in proportion to how often it is looked up. Never negative; 0 for fp32 and for empty bands.

        Args:
            format: of the band.
            tt_rank: of a ``tt`` band; None for all others.
            start, stop: ranks from 0 to ``num_embeddings``, int, of one shape or scalars.
            scale: of int8 and int4.

        Raises:
            ValueError: the format was not measured, or a rank is out of range.
        """
        start, stop = np.broadcast_arrays(np.asarray(start), np.asarray(stop))
        if start.size and (start.min() < 0 or stop.max() > self.num_embeddings or (stop < start).any()):
            raise ValueError(
                f"table {self.table}: bands must lie within its {self.num_embeddings} ranks, got starts from "
                f"{start.min()} and stops to {stop.max()}"
            )
        if format == "fp32":
            return np.zeros(start.shape)
        effect = self.effect(format, tt_rank, scale)
        found = effect.between(*self._place(effect, start), *self._place(effect, stop))
        return np.maximum(found, 0.0)

    def _place(self, effect: Effect, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The cut before each rank, and how far the rank lies on the way to the next."""
        cuts = np.array(effect.cuts)
        place = np.clip(np.searchsorted(cuts, ranks, side="right") - 1, 0, len(cuts) - 2)
        first, last = self._share(cuts[place]), self._share(cuts[place + 1])
        # Where no look-up falls between two cuts, by rank: then it matters little.
        by_rank = (ranks - cuts[place]) / (cuts[place + 1] - cuts[place])
        with np.errstate(invalid="ignore", divide="ignore"):
            by_share = (self._share(ranks) - first) / (last - first)
        return place, np.where(last > first, by_share, by_rank)

    def _share(self, ranks: np.ndarray) -> np.ndarray:
        return np.interp(ranks, self._curve[0], self._curve[1])

    @property
    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.ranks, np.float64), np.array(self.shares)


class CheckedLayouts(Frozen):
    """Layouts of all tables at once: what they were predicted to cost and what they did."""

    predicted: NonNegativeFloat
    """The sum over all bands, nats a sample."""
    measured: Point
    auc_loss: float
    """AUC of the model in float32 less its AUC in these layouts."""


class Additivity(Frozen):
    """How well sums over bands predict what whole plans cost.

    Plans are compared by :attr:`Point.without_chance`, as bands are measured.
    """

    checked: tuple[CheckedLayouts, ...] = Field(min_length=1)

    @property
    def correlation(self) -> float | None:
        """Pearson's, of predicted and measured; None for fewer than 3 plans or where one does not vary."""
        predicted, measured = self._pairs()
        if len(predicted) < 3 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
            return None
        return float(np.corrcoef(predicted, measured)[0, 1])

    @property
    def ratios(self) -> np.ndarray:
        """measured / predicted, float64, of the plans of which either is more than the standard error."""
        predicted, measured = self._pairs()
        errors = np.array([one.measured.standard_error for one in self.checked])
        some = (np.maximum(predicted, measured) > errors) & (np.minimum(predicted, measured) > 0)
        return measured[some] / predicted[some]

    @property
    def worst_ratio(self) -> float | None:
        """The one of :attr:`ratios` that is farthest from 1 either way; None where there is none."""
        ratios = self.ratios
        return float(ratios[np.argmax(np.abs(np.log(ratios)))]) if ratios.size else None

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.array([one.predicted for one in self.checked]),
            np.array([one.measured.without_chance for one in self.checked]),
        )


class Sensitivity(Document):
    """How much each table's accuracy depends on its format, as versioned JSON."""

    format: Literal["screc-sensitivity"] = "screc-sensitivity"
    version: Literal[1] = 1
    created: str
    base_log_loss: NonNegativeFloat
    """Of the model with all rows in float32, nats a sample."""
    base_auc: float = Field(ge=0, le=1)
    samples: PositiveInt
    statistics_digest: str
    """Of the statistics whose ranks were used (``AccessStatistics.digest``)."""
    checkpoint_digest: str
    """Of the model (``Checkpoint.digest``)."""
    tables: tuple[TableSensitivity, ...] = Field(min_length=1)
    additivity: Additivity | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over everything but the date (hexadecimal); says which sensitivity a plan was made with."""
        known = self.model_dump_json(exclude={"created"})
        return hashlib.sha256(known.encode()).hexdigest()

    def table(self, name: str) -> TableSensitivity:
        """One table.

        Raises:
            ValueError: there is none of this name.
        """
        for table in self.tables:
            if table.table == name:
                return table
        raise ValueError(f"the sensitivity has no table {name}; measure it with the model of these tables")

    def plan_loss(self, layouts: Sequence[TableLayout]) -> float:
        """Predicted rise of the mean log-loss of a model held in these layouts: the sum over their bands.

        Raises:
            ValueError: a table or a format was not measured.
        """
        total = 0.0
        for layout in layouts:
            table = self.table(layout.table)
            for band in layout.bands:
                if band.tt is not None and band.tt.exact:
                    continue
                rank = max(band.tt.ranks) if band.tt else None
                total += float(table.loss(band.format, rank, band.start, band.stop, band.scale))
        return total

    def check(self, statistics: AccessStatistics) -> None:
        """Check that the ranks of a plan from ``statistics`` are those that were measured.

        Raises:
            ValueError: the statistics are others, or of other tables.
        """
        ours = [(table.table, table.num_embeddings) for table in self.tables]
        theirs = [(table.name, table.num_embeddings) for table in statistics.tables]
        if ours != theirs:
            raise ValueError(
                f"sensitivity: it is of tables {ours}, the statistics of {theirs}; measure it for these"
            )
        if self.statistics_digest != statistics.digest:
            raise ValueError(
                "sensitivity: it was measured with other access statistics, so its ranks are other rows; "
                "plan with those statistics, or measure it again with these"
            )


def _growing(measured: Sequence[Sequence[Point]]) -> tuple[tuple[float, ...], ...]:
    """Losses without chance, made to fall as a band's start rises and to rise with its stop."""
    cuts = len(measured) + 1
    loss = np.zeros((cuts, cuts))
    for stop in range(1, cuts):
        points = [measured[start][stop - start - 1] for start in range(stop)]
        loss[:stop, stop] = falling(
            [point.without_chance for point in points], [point.standard_error for point in points]
        )
    loss = np.maximum.accumulate(loss, axis=1)
    return tuple(tuple(loss[start, start + 1 :].tolist()) for start in range(cuts - 1))


def falling(values: Sequence[float], standard_error: Sequence[float]) -> np.ndarray:
    """The nearest numbers that do not rise from one to the next and are never negative: isotonic regression
    (pool adjacent violators) with weights 1 / standard_error^2, cut off at 0, which is the least-squares
    answer under both conditions.

    Args:
        values: [n].
        standard_error: [n]; a 0 is taken as the smallest one that is not.
    """
    errors = np.array(standard_error, np.float64)
    positive = errors[errors > 0]
    weights = np.maximum(errors, positive.min() if positive.size else 1.0) ** -2.0
    pools: list[tuple[float, float, int]] = []  # mean, weight, members
    for value, weight in zip(values, weights, strict=True):
        pool = (float(value), weight, 1)
        while pools and pools[-1][0] < pool[0]:
            mean, total, members = pools.pop()
            joined = total + pool[1]
            pool = ((mean * total + pool[0] * pool[1]) / joined, joined, members + pool[2])
        pools.append(pool)
    level = np.repeat([pool[0] for pool in pools], [pool[2] for pool in pools])
    return np.maximum(level, 0.0)

"""The sensitivity of recipe G's model, carried over to a model of the same features with more rows.

Measured once by ``screc sensitivity`` on the full model of recipe G (docs/guide/recipe-g.md; a twentieth of
the Kaggle rows) and kept in ``recipe_g_sensitivity.json``. Table i here is feature i there. A cut is
carried over at the share of the look-ups that it had: what a format costs is taken to depend on how often
its rows are asked for, not on how many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from screc.planning import Effect, Sensitivity, TableSensitivity
from screc.statistics import AccessStatistics, TableStatistics

T = TypeVar("T")

RECIPE_G_FILE = Path(__file__).with_name("recipe_g_sensitivity.json")


def scaled_sensitivity(measured: Sensitivity, statistics: AccessStatistics) -> Sensitivity:
    """What the tables of ``statistics`` lose in each format, by what those of ``measured`` lost.

    Raises:
        ValueError: there are not as many tables.
    """
    if len(measured.tables) != len(statistics.tables):
        raise ValueError(
            f"the sensitivity is of {len(measured.tables)} tables, the statistics of {len(statistics.tables)}"
        )
    tables = [
        TableSensitivity.of(table, [_scaled(effect, known, table) for effect in known.effects])
        for known, table in zip(measured.tables, statistics.tables, strict=True)
    ]
    return measured.model_copy(
        update={"tables": tuple(tables), "statistics_digest": statistics.digest, "additivity": None}
    )


def _scaled(effect: Effect, known: TableSensitivity, table: TableStatistics) -> Effect:
    """The effect with its cuts at the ranks of ``table`` that answer the same shares of the look-ups."""
    shares = np.interp(effect.cuts[1:-1], known.ranks, known.shares)
    curve = table.smoothed_curve
    reached = curve.share(curve.boundaries)
    ranks = np.interp(shares, reached, curve.boundaries).round().astype(np.int64).tolist()
    # Of cuts that come to lie on one rank, in a table of few rows, the first stands.
    places = {0: 0, table.num_embeddings: len(effect.cuts) - 1}
    for number, rank in enumerate(ranks, start=1):
        places.setdefault(rank, number)
    cuts = sorted(places)
    numbers = [places[cut] for cut in cuts]

    def kept(bands: Sequence[Sequence[T]]) -> tuple[tuple[T, ...], ...]:
        return tuple(
            tuple(bands[first][last - first - 1] for last in numbers[position + 1 :])
            for position, first in enumerate(numbers[:-1])
        )

    return effect.model_copy(
        update={"cuts": tuple(cuts), "measured": kept(effect.measured), "loss": kept(effect.loss)}
    )

"""The sensitivity of recipe G's model, carried over to a model of the same features with more rows.

Measured once by ``screc sensitivity`` on the full model of recipe G (docs/guide/recipe-g.md; a twentieth of
the Kaggle rows) and kept in ``recipe_g_sensitivity.json``. Table i here is feature i there. A cut is
carried over at the share of the look-ups that it had: what a format costs is taken to depend on how often
its rows are asked for, not on how many they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from screc.planning import Effect, Sensitivity, TableSensitivity
from screc.statistics import AccessStatistics, TableStatistics

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
    cuts = np.interp(shares, reached, curve.boundaries).round().astype(np.int64)
    kept = [0, *(i + 1 for i, cut in enumerate(cuts) if 0 < cut < table.num_embeddings)]
    # A table of few rows may reach two shares at one rank: the first stands.
    positions = {0: 0} | {int(cuts[i - 1]): i for i in reversed(kept[1:])}
    ordered = sorted(positions)
    numbers = [positions[cut] for cut in ordered]
    return effect.model_copy(
        update={
            "cuts": (*ordered, table.num_embeddings),
            "measured": (*(effect.measured[i] for i in numbers), effect.measured[-1]),
            "loss": (*(effect.loss[i] for i in numbers), effect.loss[-1]),
        }
    )

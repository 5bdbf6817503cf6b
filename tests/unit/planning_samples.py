"""Access statistics for the planning tests: skewed counts of tables of chosen sizes."""

from __future__ import annotations

import numpy as np

from screc.planning import Effect, Point, Sensitivity, TableSensitivity
from screc.statistics import AccessStatistics, TableStatistics

# Rows of the 26 categorical features of the Criteo Kaggle log.
KAGGLE_ROWS = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)


def zipf_table(
    name: str, rows: int, *, samples: int, pooling: int = 1, exponent: float = 1.05, seed: int = 0
) -> TableStatistics:
    """Counts of samples * pooling look-ups drawn from a bounded Zipf law, on shuffled ids."""
    random = np.random.default_rng(seed)
    span = (rows + 1) ** (1 - exponent) - 1
    ranks = (span * random.random(samples * pooling) + 1) ** (1 / (1 - exponent)) - 1
    counts = np.bincount(np.minimum(ranks.astype(np.int64), rows - 1), minlength=rows)
    ids = np.flatnonzero(counts)
    shuffled = random.permutation(rows)  # so that no row keeps its rank as its id
    return TableStatistics.from_counts(name, rows, shuffled[ids], counts[ids], num_samples=samples)


def zipf_statistics(rows: tuple[int, ...], *, samples: int = 20_000, pooling: int = 1) -> AccessStatistics:
    """One Zipf table per entry of ``rows``."""
    return AccessStatistics(
        tuple(
            zipf_table(f"t{number}", size, samples=samples, pooling=pooling, seed=number)
            for number, size in enumerate(rows)
        )
    )


# How much worse than int8 rows a format is, roughly as measured on the synthetic log.
_HARM = {"fp16": 0.02, "bf16": 0.1, "int8": 0.2, "int4": 60.0}
_TT_HARM = {8: 4000.0, 16: 3000.0, 32: 2000.0, 64: 1000.0}


def made_up_sensitivity(statistics: AccessStatistics, *, unit: float = 1e-6) -> Sensitivity:
    """Losses in proportion to a band's look-ups; ``unit`` is about what int8 costs."""
    tables = []
    for table in statistics.tables:
        rows = table.num_embeddings
        cuts = sorted({0, rows, *(int(rows * share) for share in (0.001, 0.01, 0.1, 0.5))})
        shares = table.smoothed_curve.share(np.array(cuts)) / len(statistics.tables)

        def effect(harm: float, shares=shares, cuts=cuts, **more) -> Effect:
            losses = harm * unit * np.abs(shares[None] - shares[:, None])
            points = [[Point(rise=x, standard_error=x / 10, expected=x) for x in row] for row in losses]
            return Effect.of(cuts=cuts, measured=[row[i + 1 :] for i, row in enumerate(points[:-1])], **more)

        effects = [effect(harm, format=name) for name, harm in _HARM.items()]
        effects += [effect(3 * _HARM[name], format=name, scale="table") for name in ("int8", "int4")]
        effects += [effect(harm, format="tt", tt_rank=rank) for rank, harm in _TT_HARM.items()]
        tables.append(TableSensitivity.of(table, effects))
    return Sensitivity(
        created="2026-11-21T12:00:00+00:00",
        base_log_loss=0.46,
        base_auc=0.78,
        samples=200_000,
        statistics_digest=statistics.digest,
        checkpoint_digest="0" * 64,
        tables=tuple(tables),
    )

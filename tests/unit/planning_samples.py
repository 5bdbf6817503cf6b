"""Access statistics for the planning tests: skewed counts of tables of chosen sizes."""

from __future__ import annotations

import numpy as np

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

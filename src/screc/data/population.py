"""Tables of a production-sized model: how many rows, columns and look-ups each has (docs/guide/terabytes.md).

Meta published the number of tables, the look-ups and the different rows of a batch over all tables, and how
often rows are reused (facebookresearch/dlrm_datasets, MIT; see :mod:`screc.data.reuse_trace`). Sizes,
dimensions and how look-ups spread over the tables were not published. Here they are assumed: log-normal rows
and traffic, and a few common dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from screc.data.reuse_trace import PROFILES, ReuseTraceConfig, ReuseTraceLog, least_rows

# Assumed. Dimensions and their shares of the tables, and the spread of the logarithms.
_DIMS = (32, 64, 128, 256)
_DIM_SHARES = (0.25, 0.4, 0.25, 0.1)
_ROWS_SIGMA, _TRAFFIC_SIGMA = 2.0, 1.0
_LEAST_ROWS = 1000


@dataclass(frozen=True, slots=True)
class TablePopulation:
    """The tables of a model.

    Attributes:
        year: the published batch whose look-ups they share.
        rows: int64 [T].
        dims: int64 [T].
        traffic: float64 [T], look-ups as a multiple of a published table's mean; 1 on average.
        seed: it was drawn with.
    """

    year: str
    rows: np.ndarray
    dims: np.ndarray
    traffic: np.ndarray
    seed: int

    @classmethod
    def draw(cls, num_bytes: int, *, year: str = "2021", seed: int = 1) -> TablePopulation:
        """As many tables as were published, which take this many bytes in float32.

        No table has more traffic than its rows can have under the published reuse: what that takes from small
        tables goes to the others.

        Raises:
            ValueError: so few bytes cannot have the published look-ups.
        """
        if year not in PROFILES:
            raise ValueError(f"year: expected one of {', '.join(PROFILES)}, got {year!r}")
        stream = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 2, 0]))
        count = PROFILES[year].num_tables
        dims = stream.choice(_DIMS, count, p=_DIM_SHARES)
        weights = np.exp(stream.normal(0.0, _ROWS_SIGMA, count))
        traffic = np.exp(stream.normal(0.0, _TRAFFIC_SIGMA, count))
        weights *= num_bytes / (4.0 * (weights * dims).sum())
        rows = np.maximum(weights, _LEAST_ROWS).astype(np.int64)
        # A little less than rows allow: hot rows are whole ones.
        most = 0.9 * rows / least_rows(year, 1.0)
        if most.sum() < count:
            needed = int(num_bytes * count / most.sum())
            raise ValueError(f"num_bytes: the look-ups of {year} need about {needed}, got {num_bytes}")
        while traffic.mean() < 1 - 1e-9 or (traffic > most).any():
            free = traffic < most
            traffic = np.where(free, traffic, most)
            traffic[free] *= (count - traffic[~free].sum()) / traffic[free].sum()
        return cls(year, rows, dims, traffic, seed)

    @property
    def num_bytes(self) -> int:
        """Of all rows in float32."""
        return int((4 * self.rows * self.dims).sum())

    @property
    def names(self) -> tuple[str, ...]:
        """T1, T2, ..."""
        return tuple(f"T{number + 1}" for number in range(self.rows.size))

    def log(self, num_samples: int, *, first: int = 0) -> ReuseTraceLog:
        """Look-ups of samples [first, first + num_samples)."""
        return ReuseTraceLog(
            ReuseTraceConfig(
                num_rows=num_samples,
                year=self.year,
                tables=self.rows.size,
                table_rows=tuple(self.rows.tolist()),
                traffic=tuple(self.traffic.tolist()),
                seed=self.seed,
                first_row=first,
            )
        )

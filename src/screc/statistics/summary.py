"""Access statistics for people: one line per table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from screc.statistics.access import AccessStatistics

if TYPE_CHECKING:
    from rich.console import Console


def statistics_summary(statistics: AccessStatistics, console: Console) -> None:
    """Print rows, look-ups and how few rows answer most of them, table by table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = f"{statistics.num_samples:,} samples; share of look-ups of the top 1 % and 10 % of rows"
    view = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    view.add_column("table", overflow="fold")
    for heading in ("rows", "seen", "pooling", "coverage", "top 1 %", "top 10 %"):
        view.add_column(heading, justify="right")
    for table in statistics.tables:
        ranks = np.ceil(np.array([0.01, 0.1]) * table.num_embeddings).astype(np.int64)
        shares = table.share(ranks)
        view.add_row(
            table.name,
            f"{table.num_embeddings:,}",
            f"{table.num_seen:,}",
            f"{table.mean_pooling:.2f}",
            f"{table.coverage:.0%}",
            *(f"{share:.1%}" for share in shares),
        )
    console.print(view)

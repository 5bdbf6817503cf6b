"""Every layout of small tables, by brute force: the oracle of the planner's tests."""

from __future__ import annotations

import numpy as np

from screc.planning.bands import TableBands


def every_path(table: TableBands) -> list[tuple[int, ...]]:
    """All layouts of a table, as the numbers of their bands."""
    starting: dict[int, list[tuple[int, int]]] = {}
    for number in np.flatnonzero(table.possible).tolist():
        span = number % table.first.size
        starting.setdefault(int(table.first[span]), []).append((number, int(table.last[span])))
    finished, open_paths = [], [((), 0)]
    while open_paths:
        path, point = open_paths.pop()
        if point == table.cuts.size - 1:
            finished.append(path)
            continue
        open_paths.extend(((*path, number), after) for number, after in starting.get(point, ()))
    return finished


def every_usage(table: TableBands) -> np.ndarray:
    """What each layout of a table uses up, float64 [layouts, 7]."""
    return np.array([table.usage[list(path)].sum(axis=0) for path in every_path(table)])

"""One way for each group, and cores for it, so that the slowest core is done as early as possible.

It knows nothing of tables: a way takes time and private bytes on each of its cores. What belongs to nobody is
shared out as cores come free. A greedy start is improved step by step; HiGHS goes on from there where the
program is small enough; a Lagrangian bound of our own stands beside every answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from screc.planning.mip import SolverError

# More variables than this are left to the greedy search.
_MOST_VARIABLES = 6000
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to look a table up.

    Attributes:
        cores: how many have a part of it; 0 for nobody.
        split, strategy: as in :class:`~screc.storage.mapping.TableCores`.
        ns: device-ns in a batch, on each of its cores; of a table of nobody, in all.
        num_bytes: of each of its cores' private caches.
    """

    cores: int
    split: str = "columns"
    strategy: str = "gather"
    ns: float
    num_bytes: int = 0

    @property
    def total_ns(self) -> float:
        """Device-ns of all cores."""
        return self.ns * max(self.cores, 1)

    @property
    def total_bytes(self) -> int:
        """Private bytes of all cores."""
        return self.num_bytes * self.cores


@dataclass(frozen=True, slots=True)
class Placed:
    """A group's way, and its cores."""

    way: Way
    cores: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Solution:
    """Where everything is, and how good that is known to be.

    Attributes:
        placed: of each group.
        ns: until the slowest core is done.
        lower_bound: no assignment is faster.
        status: ``optimal`` (within the gap asked for), ``time limit``, ``bound`` where our own bound was met
            before the solver was needed, or ``greedy`` where the program was too large for it.
    """

    placed: tuple[Placed, ...]
    ns: float
    lower_bound: float
    status: str

    @property
    def gap(self) -> float:
        """(ns - lower_bound) / ns."""
        return (self.ns - self.lower_bound) / self.ns if self.ns > 0 else 0.0


class CoreAssignment:
    """One way of each table, and cores for it; times in device-ns."""

    def __init__(self, ways: Sequence[Sequence[Way]], cores: int, capacity: int) -> None:
        self.ways = [[way for way in own if way.num_bytes <= capacity] for own in ways]
        self.cores, self.capacity = cores, capacity

    def solve(self, *, gap: float, time_limit: float) -> Solution:
        """The best assignment found.

        Args:
            gap: relative gap at which to stop.
            time_limit: seconds for the solver, and a quarter of that before it.

        Raises:
            SolverError: the solver's answer contradicts our bound.
        """
        bound, _ = self.bound
        placed = self.improved(self.greedy(), time_limit / 4)
        best, status = self.makespan(placed), "bound"
        if best > bound * (1 + gap) + _ROUNDING:
            found, status, theirs = self.ask_solver(placed, gap, time_limit)
            if found is not None and self.makespan(found) < best:
                placed, best = found, self.makespan(found)
            if theirs > best * (1 + 1e-6) + _ROUNDING:
                raise SolverError(
                    f"the solver's bound {theirs:g} ns lies above a known assignment's {best:g}"
                )
            bound = max(bound, theirs)
        if best < bound * (1 - 1e-6) - _ROUNDING:
            raise SolverError(f"an assignment of {best:g} ns lies below the bound {bound:g}")
        return Solution(placed=tuple(placed), ns=best, lower_bound=min(bound, best), status=status)

    def loads(self, placed: Sequence[Placed]) -> tuple[np.ndarray, np.ndarray, float]:
        """Device-ns and private bytes of each core, and device-ns of nobody's tables."""
        ns, used, common = np.zeros(self.cores), np.zeros(self.cores), 0.0
        for one in placed:
            if not one.cores:
                common += one.way.ns
            for core in one.cores:
                ns[core] += one.way.ns
                used[core] += one.way.num_bytes
        return ns, used, common

    def makespan(self, placed: Sequence[Placed]) -> float:
        """When the slowest core is done; nobody's tables fill the others up."""
        ns, used, common = self.loads(placed)
        if (used > self.capacity).any():
            return np.inf
        return max(float(ns.max(initial=0.0)), (float(ns.sum()) + common) / self.cores)

    @cached_property
    def bound(self) -> tuple[float, float]:
        """Lagrangian bound, device-ns, which no assignment betters, and the price of a private byte there.

        The average core is not slower than the slowest, and all private bytes are not more than fit.
        """
        if not self.ways:
            return 0.0, 0.0
        ns = [np.array([way.total_ns for way in own]) / self.cores for own in self.ways]
        size = [np.array([way.total_bytes for way in own], dtype=np.float64) for own in self.ways]
        limit = float(self.capacity * self.cores)

        def at(price: float) -> float:
            return sum(float((a + price * b).min()) for a, b in zip(ns, size, strict=True)) - price * limit

        # Concave in the price; its best lies at 0 or between prices at which a table changes its way.
        best, steepest = at(0.0), 0.0
        for a, b in zip(ns, size, strict=True):
            slopes = (a[:, None] - a[None, :])[(b[None, :] > b[:, None])] / np.maximum(
                (b[None, :] - b[:, None])[(b[None, :] > b[:, None])], 1.0
            )
            steepest = max(steepest, float(slopes.max(initial=0.0)))
        low, high = 0.0, steepest
        for _ in range(200):
            third = (high - low) / 3
            left, right = at(low + third), at(high - third)
            best = max(best, left, right)
            low, high = (low + third, high) if left < right else (low, high - third)
        longest = max(min(way.ns if way.cores else way.ns / self.cores for way in own) for own in self.ways)
        return max(best, longest, 0.0), (low + high) / 2

    def greedy(self) -> list[Placed]:
        """The cheapest way of each table at the bound's price, the longest first, on the least busy cores."""
        _, price = self.bound
        order = sorted(
            range(len(self.ways)), key=lambda t: -max((way.total_ns for way in self.ways[t]), default=0.0)
        )
        ns, used = np.zeros(self.cores), np.zeros(self.cores)
        placed: dict[int, Placed] = {}
        for table in order:
            by_price = sorted(
                self.ways[table], key=lambda way: way.total_ns / self.cores + price * way.total_bytes
            )
            for way in by_price:
                free = np.flatnonzero(used + way.num_bytes <= self.capacity)
                if len(free) < way.cores:
                    continue
                taken = tuple(sorted(free[np.argsort(ns[free], kind="stable")][: way.cores].tolist()))
                ns[list(taken)] += way.ns
                used[list(taken)] += way.num_bytes
                placed[table] = Placed(way, taken)
                break
        return [placed[table] for table in range(len(self.ways))]

    def improved(self, placed: Sequence[Placed], seconds: float) -> list[Placed]:
        """Give one table after the other the best way and cores while that helps, for so long at most."""
        placed, until = list(placed), time.monotonic() + seconds
        ns, used, common = self.loads(placed)
        changed = True
        while changed and time.monotonic() < until:
            changed = False
            for table in sorted(range(len(placed)), key=lambda t: -placed[t].way.total_ns):
                before = placed[table]
                rank = self._rank(ns, common)
                self._add(ns, used, before, -1)
                common -= before.way.ns if not before.cores else 0.0
                best = self._best_place(table, ns, used, common)
                if best is None or best[0] >= (rank[0] * (1 - _ROUNDING), rank[1] * (1 - _ROUNDING)):
                    best = (rank, before)
                placed[table] = best[1]
                changed = changed or best[1] is not before
                self._add(ns, used, best[1], 1)
                common += best[1].way.ns if not best[1].cores else 0.0
        return placed

    @staticmethod
    def _add(ns: np.ndarray, used: np.ndarray, one: Placed, sign: int) -> None:
        if one.cores:
            ns[list(one.cores)] += sign * one.way.ns
            used[list(one.cores)] += sign * one.way.num_bytes

    def _rank(self, ns: np.ndarray, common: float) -> tuple[float, float]:
        """The makespan; of equal ones, the evener and smaller loads are better."""
        level = (float(ns.sum()) + common) / self.cores
        return max(float(ns.max(initial=0.0)), level), float(ns @ ns) + self.cores * level**2

    def _best_place(
        self, table: int, ns: np.ndarray, used: np.ndarray, common: float
    ) -> tuple[tuple[float, float], Placed] | None:
        """Rank and place of a table that is nowhere yet: any way, on the cores with least to do."""
        by_load = np.argsort(ns, kind="stable")
        longest, total, squares = float(ns.max(initial=0.0)), float(ns.sum()) + common, float(ns @ ns)
        best: tuple[tuple[float, float], Placed] | None = None
        for way in self.ways[table]:
            taken = by_load[used[by_load] + way.num_bytes <= self.capacity][: way.cores]
            if len(taken) < way.cores:
                continue
            level = (total + way.total_ns) / self.cores
            own = ns[taken]
            most = max(longest, float((own + way.ns).max(initial=0.0)), level)
            rank = (most, squares + float((2 * own + way.ns).sum()) * way.ns + self.cores * level**2)
            if best is None or rank < best[0]:
                best = rank, Placed(way, tuple(sorted(taken.tolist())))
        return best

    def ask_solver(
        self, start: Sequence[Placed], gap: float, seconds: float
    ) -> tuple[list[Placed] | None, str, float]:
        """HiGHS: a mapping or None, status and bound."""
        import highspy

        # Of each table and way whether it is chosen, then of each way and core whether the core has a part;
        # last z and what each core takes of nobody's tables.
        chosen = [(t, w) for t, own in enumerate(self.ways) for w in range(len(own))]
        number = {pair: i for i, pair in enumerate(chosen)}
        held = [(t, w, k) for t, w in chosen if self.ways[t][w].cores for k in range(self.cores)]
        if len(chosen) + len(held) > _MOST_VARIABLES:
            return None, "greedy", 0.0
        first_held, z = len(chosen), len(chosen) + len(held)
        unit = max(self.makespan(start), 1e-300)
        rows: list[tuple[float, float, list[int], list[float]]] = []
        for t, own in enumerate(self.ways):
            rows.append((1.0, 1.0, [number[t, w] for w in range(len(own))], [1.0] * len(own)))
        by_way: dict[tuple[int, int], list[int]] = {}
        by_core: list[list[int]] = [[] for _ in range(self.cores)]
        for i, (t, w, k) in enumerate(held):
            by_way.setdefault((t, w), []).append(first_held + i)
            by_core[k].append(i)
        for (t, w), parts in by_way.items():
            cores = float(self.ways[t][w].cores)
            rows.append((0.0, 0.0, [*parts, number[t, w]], [1.0] * len(parts) + [-cores]))
        for k in range(self.cores):
            ways = [self.ways[held[i][0]][held[i][1]] for i in by_core[k]]
            columns = [first_held + i for i in by_core[k]]
            if self.capacity:
                sizes = [way.num_bytes / self.capacity for way in ways]
                rows.append((-np.inf, 1.0, columns, sizes))
            times = [way.ns / unit for way in ways]
            rows.append((-np.inf, 0.0, [*columns, z, z + 1 + k], [*times, -1.0, 1.0]))
        common = [(number[t, w], self.ways[t][w].ns / unit) for t, w in chosen if not self.ways[t][w].cores]
        rows.append(
            (
                0.0,
                0.0,
                [column for column, _ in common] + [z + 1 + k for k in range(self.cores)],
                [ns for _, ns in common] + [-1.0] * self.cores,
            )
        )
        count = z + 1 + self.cores
        highs = highspy.Highs()
        for option, value in (
            ("output_flag", False),
            ("threads", 1),
            ("random_seed", 0),
            ("mip_rel_gap", gap),
            ("time_limit", max(0.1, seconds)),
            ("mip_feasibility_tolerance", 1e-9),
        ):
            highs.setOptionValue(option, value)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = count, len(rows)
        lp.col_cost_ = np.array([0.0] * z + [1.0] + [0.0] * self.cores)
        lp.col_lower_ = np.zeros(count)
        lp.col_upper_ = np.array([1.0] * z + [np.inf] * (1 + self.cores))
        lp.row_lower_ = np.array([row[0] for row in rows])
        lp.row_upper_ = np.array([row[1] for row in rows])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.concatenate(([0], np.cumsum([len(row[2]) for row in rows]))).astype(np.int32)
        lp.a_matrix_.index_ = np.concatenate([row[2] for row in rows]).astype(np.int32)
        lp.a_matrix_.value_ = np.concatenate([row[3] for row in rows]).astype(np.float64)
        kinds = highspy.HighsVarType
        lp.integrality_ = [kinds.kInteger] * z + [kinds.kContinuous] * (1 + self.cores)
        highs.passModel(lp)
        begin = highspy.HighsSolution()
        begin.col_value = self._values(start, number, held, count, unit).tolist()
        highs.setSolution(begin)
        begun = time.monotonic()
        highs.run()
        state = highs.getModelStatus()
        if state not in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kTimeLimit):
            raise SolverError(
                f"the solver stopped with status {highs.modelStatusToString(state)} after "
                f"{time.monotonic() - begun:.1f} s"
            )
        info = highs.getInfo()
        bound = info.mip_dual_bound * unit if np.isfinite(info.mip_dual_bound) else 0.0
        status = "optimal" if state == highspy.HighsModelStatus.kOptimal else "time limit"
        if info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return None, status, bound
        values = np.array(highs.getSolution().col_value)
        placed = []
        for t, own in enumerate(self.ways):
            way = int(np.argmax([values[number[t, w]] for w in range(len(own))]))
            parts = by_way.get((t, way), [])
            cores = sorted(parts, key=lambda i: -values[i])[: own[way].cores]
            placed.append(Placed(own[way], tuple(sorted(held[i - first_held][2] for i in cores))))
        return placed, status, bound

    def _values(
        self,
        placed: Sequence[Placed],
        number: dict[tuple[int, int], int],
        held: Sequence[tuple[int, int, int]],
        count: int,
        unit: float,
    ) -> np.ndarray:
        """A mapping as values of the program's variables."""
        values = np.zeros(count)
        picked = [self.ways[t].index(one.way) for t, one in enumerate(placed)]
        for t, w in enumerate(picked):
            values[number[t, w]] = 1.0
        for i, (t, w, k) in enumerate(held):
            values[len(number) + i] = float(w == picked[t] and k in placed[t].cores)
        ns, _, _ = self.loads(placed)
        best = self.makespan(placed)
        z = len(number) + len(held)
        values[z] = best / unit
        values[z + 1 :] = self._filled(ns, best, sum(one.way.ns for one in placed if not one.cores)) / unit
        return values

    @staticmethod
    def _filled(ns: np.ndarray, level: float, common: float) -> np.ndarray:
        """Nobody's work shared out below a level."""
        room = np.maximum(level - ns, 0.0)
        return room * (common / room.sum()) if common > 0 else np.zeros_like(ns)

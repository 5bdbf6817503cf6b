"""What a plan minimises and what it must keep to, as sums of what bands use up.

::

    minimise    objective . U  +  z
    subject to  rows[i] . U[d]  +  others[i] . (U - U[d])  <=  limits[i]           every limit
                rows[i] . U[d]  +  others[i] . (U - U[d])  <=  limits[i] + z       every stage

where U is what all tables use up (:data:`screc.planning.costs.RESOURCES`), and U[d] what those of row i's
device d do; a row without a device has all tables in the place of those. A stage's limit is minus what it
takes without any look-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from screc.planning.costs import RESOURCES
from screc.planning.machine import is_private, memory_limits
from screc.planning.plan import Budget, PlanOptions
from screc.planning.system import SystemSpec

# Room for the rounding of a sum of access shares; 0 stays exact.
_SHARE_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Rows over what tables use up.

    Attributes:
        objective: float64 [7], not negative.
        names: of the rows.
        rows, others: float64 [n, 7], not negative: of the tables of the row's device, and of all others.
        limits: float64 [n].
        stage: bool [n]: whether z is added to the row's limit.
        device: int64 [n]; -1 for rows of all tables.
    """

    objective: np.ndarray
    names: tuple[str, ...]
    rows: np.ndarray
    others: np.ndarray
    limits: np.ndarray
    stage: np.ndarray
    device: np.ndarray

    def take(self, kept: np.ndarray) -> Program:
        """Some of the rows, bool or int [n]."""
        return replace(
            self,
            names=tuple(np.array(self.names, dtype=object)[kept].tolist()),
            rows=self.rows[kept],
            others=self.others[kept],
            limits=self.limits[kept],
            stage=self.stage[kept],
            device=self.device[kept],
        )

    def least(self, name: str) -> Program:
        """The program that minimises what the row of a name limits, within the other limits."""
        other = np.array([one != name for one in self.names])
        return replace(self.take(other & ~self.stage), objective=self.rows[self.names.index(name)])

    def weights(self, owner: int) -> np.ndarray:
        """The rows' coefficients for a table of a device (-1: of all), float64 [n, 7]."""
        mine = (self.device == -1) | (self.device == owner)
        return np.where(mine[:, None], self.rows, self.others)


class Rows:
    """Collects the rows of a program."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: list[np.ndarray] = []
        self._others: list[np.ndarray] = []
        self._limits: list[float] = []
        self._stage: list[bool] = []
        self._device: list[int] = []

    def add(
        self,
        name: str,
        limit: float,
        own: Mapping[str, float],
        others: Mapping[str, float] | None = None,
        *,
        stage: bool = False,
        device: int = -1,
    ) -> None:
        """A row with coefficients by resource."""
        self._names.append(name)
        self._rows.append(_coefficients(own))
        self._others.append(_coefficients(others or {}))
        self._limits.append(float(limit))
        self._stage.append(stage)
        self._device.append(device)

    def program(self, objective: Mapping[str, float]) -> Program:
        """The program that minimises z and these multiples of resources."""
        return Program(
            objective=_coefficients(objective),
            names=tuple(self._names),
            rows=np.array(self._rows).reshape(-1, len(RESOURCES)),
            others=np.array(self._others).reshape(-1, len(RESOURCES)),
            limits=np.array(self._limits),
            stage=np.array(self._stage, dtype=bool),
            device=np.array(self._device, dtype=np.int64),
        )


def _coefficients(of: Mapping[str, float]) -> np.ndarray:
    row = np.zeros(len(RESOURCES))
    for resource, coefficient in of.items():
        row[RESOURCES.index(resource)] = coefficient
    return row


def plan_program(
    system: SystemSpec,
    options: PlanOptions,
    budget: Budget,
    *,
    roles: tuple[int, int] = (0, 0),
    devices: Sequence[int] = (-1,),
) -> Program:
    """The program of a plan.

    Args:
        system: the machine.
        options: objective, batch size, work of the dense part.
        budget: bytes, and accuracy to lose.
        roles: devices that look up and that compute; (0, 0): all do both.
        devices: those that have rows of their own, where every table has a device. (-1,): all that look up
            are taken together, as if work and private memories could be spread evenly over them; no
            assignment of tables to devices is better.
    """
    count = system.devices.count
    lookers, computers = (count, count) if roles == (0, 0) else roles
    dense = 1e-9 * system.dense_ns(options.batch_size, options.dense_flops, options.dense_precision)
    latency = options.objective == "latency"
    # What each looking device computes itself; a batch alone is first looked up and then computed.
    own = dense / computers if latency else dense / count if roles == (0, 0) else 0.0
    rate, hidden = system.pages_per_second(options.queue_depth), system.overlap.ssd
    most = (
        options.batch_size / options.samples_per_second - 1e-9 * system.batch_ns
        if options.samples_per_second is not None and options.objective == "memory"
        else None
    )
    rows = Rows()

    def stage(name: str, fixed: float, device: int, *parts: tuple[str, float, bool]) -> None:
        """A stage that takes so much of each resource, of the device's tables or of all."""
        limit = -fixed if most is None else most - fixed
        mine = {resource: amount for resource, amount, _ in parts}
        everyones = {resource: amount for resource, amount, private in parts if not private}
        rows.add(name, limit, mine, everyones, stage=most is None, device=device)

    alone = devices == (-1,)
    for device in devices:
        each = 1.0 / lookers if alone else 1.0
        private = {memory: is_private(system, memory) for memory in ("dram", "ssd")}
        read = (each if private["ssd"] else 1.0) / rate if rate else 0.0
        traffic = (each if private["dram"] else 1.0) / system.dram_bytes_per_second
        stage(
            "look-ups",
            own,
            device,
            ("seconds", each, True),
            ("reads", (1.0 - hidden) * read, private["ssd"]),
        )
        if rate and hidden > 0:
            stage(
                "SSD reads",
                own if latency else (1.0 - hidden) * own,
                device,
                ("seconds", (1.0 - hidden) * each, True),
                ("reads", read, private["ssd"]),
            )
        if not latency:
            stage("DRAM traffic", 0.0, device, ("traffic", traffic, private["dram"]))
    if roles != (0, 0) and not latency:
        stage("dense part", dense / computers, -1)
    for limit in memory_limits(system, budget):
        kept = options.row_cache_bytes if limit.memory == "dram" else 0
        name = limit.memory.upper()
        if not limit.private:
            rows.add(name, limit.num_bytes - kept, {limit.memory: 1.0})
            continue
        for device in devices:
            room = (limit.num_bytes - kept) * (lookers if alone else 1)
            rows.add(name, room, {limit.memory: 1.0}, device=device)
    if budget.max_loss is not None:
        rows.add("loss", budget.max_loss, {"loss": 1.0})
    elif budget.max_tt_share is not None:
        share = budget.max_tt_share
        rows.add("TT share", share + _SHARE_ROUNDING if share > 0 else 0.0, {"loss": 1.0})
    return rows.program({"dram": 1.0, "llc": 1.0} if options.objective == "memory" else {})

"""What a plan is asked for, as people write it: options as text, which a what-if changes one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from screc.planning.baseline_plan import make_baseline_plan
from screc.planning.budget import parse_bytes
from screc.planning.plan import Plan
from screc.planning.planner import make_plan
from screc.planning.sensitivity import Sensitivity
from screc.planning.sparse import sparse_index_bytes
from screc.planning.system import SystemSpec
from screc.statistics.access import AccessStatistics
from screc.storage import StoredTable

# Options that only the program knows; the planners of the literature have no use for them.
_ONLY_MIP = {
    "tt": "yes",
    "row-cache": "0",
    "roles": "mixed",
    "objective": "throughput",
    "target-rate": "None",
}


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Statistics, a model's shape, and options by the names of the flags of ``screc plan``.

    Attributes:
        statistics: access counts of every table.
        dim: embedding dimension.
        dense_flops: float operations of a sample outside the tables.
        method: ``"mip"`` or a planner of the literature (:func:`make_baseline_plan`).
        options: texts by option, as in ``{"dram": "10%", "tt": "no"}``.
        sensitivity: what each table loses in each format, if it was measured.
        kept_bytes: DRAM of the budget that the plan leaves to what packing adds for sparse tables.
    """

    statistics: AccessStatistics
    dim: int
    dense_flops: int
    method: str
    options: Mapping[str, str]
    kept_bytes: int = 0
    sensitivity: Sensitivity | None = None

    @classmethod
    def of(
        cls,
        statistics: AccessStatistics,
        *,
        dim: int,
        weights: Sequence[np.ndarray] = (),
        tables: Sequence[StoredTable] = (),
        method: str = "mip",
        sensitivity: Sensitivity | None = None,
        options: Mapping[str, str],
    ) -> PlanRequest:
        """A request for a model with these weights outside its tables, and these tables in its checkpoint.

        Raises:
            ValueError: an option is unknown or its text does not say what it should.
        """
        flops = 2 * sum(weight.size for weight in weights if weight.ndim == 2)
        kept = sparse_index_bytes(tables)
        request = cls(statistics, dim, flops, method, dict(options), kept, sensitivity)
        request._arguments()
        return request

    def changed(self, changes: Sequence[str]) -> PlanRequest:
        """The same with other options, each as ``NAME=VALUE``.

        Raises:
            ValueError: a change is not of that form, or its option is unknown or its text wrong.
        """
        options = dict(self.options)
        for change in changes:
            name, equals, value = change.partition("=")
            if not equals or name not in options:
                raise ValueError(
                    f"what-if: {change!r} is not OPTION=VALUE with an option of {', '.join(sorted(options))}"
                )
            options[name] = value
        request = replace(self, options=options)
        request._arguments()
        return request

    def plan(self, system: SystemSpec) -> Plan:
        """Make the plan.

        Raises:
            InfeasibleBudget, ValueError: see :func:`make_plan`.
        """
        arguments = self._arguments()
        arguments["sensitivity"] = self.sensitivity
        if self.method == "mip":
            return make_plan(self.statistics, self.dim, system, dense_flops=self.dense_flops, **arguments)
        for option, default in _ONLY_MIP.items():
            if self.options.get(option, default) != default:
                raise ValueError(f"{option}: is not for method {self.method!r}; leave it out")
        for name in ("tt", "row_cache_bytes", "roles", "objective", "samples_per_second"):
            arguments.pop(name, None)
        if arguments.get("max_tt_share") is None:
            arguments.pop("max_tt_share", None)
        formats = arguments.pop("row_formats", None) or ("fp32",)
        if len(formats) != 1:
            raise ValueError(f"formats: method {self.method!r} takes one, got {', '.join(formats)}")
        return make_baseline_plan(
            self.method,
            self.statistics,
            self.dim,
            system,
            row_format=formats[0],
            dense_flops=self.dense_flops,
            **arguments,
        )

    def _arguments(self) -> dict[str, Any]:
        whole = 4 * self.dim * sum(table.num_embeddings for table in self.statistics.tables)
        arguments = {}
        for option, text in self.options.items():
            if option not in _ARGUMENTS:
                raise ValueError(f"options: unknown {option!r}; there are {', '.join(sorted(_ARGUMENTS))}")
            name, read = _ARGUMENTS[option]
            arguments[name] = read(option, text, whole)
        if "dram_bytes" in arguments:
            arguments["dram_bytes"] = max(0, arguments["dram_bytes"] - self.kept_bytes)
        return arguments


Reader = Callable[[str, str, int], Any]


def _bytes(option: str, text: str, whole: int) -> int:
    return parse_bytes(text, whole=whole)


def _number(kind: type[int] | type[float]) -> Reader:
    def read(option: str, text: str, whole: int) -> float:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"{option}: {text!r} is not a number") from None

    return read


def _yes(option: str, text: str, whole: int) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(f"{option}: must be yes or no, got {text!r}")
    return text == "yes"


def _names(option: str, text: str, whole: int) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _none_or(read: Reader) -> Reader:
    """``None`` and ``auto`` leave the choice to the planner."""

    def choice(option: str, text: str, whole: int) -> Any:
        return None if text in ("None", "auto") else read(option, text, whole)

    return choice


def _ranks(option: str, text: str, whole: int) -> tuple[int, ...]:
    try:
        return tuple(int(name) for name in _names(option, text, whole))
    except ValueError:
        raise ValueError(f"{option}: {text!r} is not a list of TT ranks such as 8,16,32") from None


def _roles(option: str, text: str, whole: int) -> tuple[int, int] | None:
    if text == "mixed":
        return None
    memory, plus, compute = text.partition("+")
    if not (plus and memory.isdigit() and compute.isdigit()):
        raise ValueError(f"{option}: {text!r} is not 'mixed' or two numbers of threads such as 1+1")
    return int(memory), int(compute)


def _text(option: str, text: str, whole: int) -> str:
    return text


#: Argument of the planner and reader of its text, by option.
_ARGUMENTS: dict[str, tuple[str, Reader]] = {
    "dram": ("dram_bytes", _bytes),
    "batch-size": ("batch_size", _number(int)),
    "tt-ranks": ("tt_ranks", _ranks),
    "max-tt-share": ("max_tt_share", _none_or(_number(float))),
    "max-loss": ("max_loss", _none_or(_number(float))),
    "objective": ("objective", _text),
    "target-rate": ("samples_per_second", _none_or(_number(float))),
    "tt": ("tt", _yes),
    "ssd": ("ssd", _yes),
    "row-cache": ("row_cache_bytes", _bytes),
    "roles": ("roles", _roles),
    "formats": ("row_formats", _none_or(_names)),
    "row-scale": ("row_scale", _text),
    "time-limit": ("time_limit", _number(float)),
}

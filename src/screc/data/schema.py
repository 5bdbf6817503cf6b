"""The schema of a click log: which columns are dense, which are categories, and which is the label."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

Transform = Literal["log1p", "none"]
Pooling = Literal["sum", "mean"]

_FORMAT, _VERSION = "screc-schema", 1
_Column = TypeVar("_Column", "DenseColumn", "CategoricalColumn")


@dataclass(frozen=True, kw_only=True, slots=True)
class DenseColumn:
    """A number per sample.

    Attributes:
        name: column name in the log.
        transform: "log1p" gives log(1 + max(x, 0)), as is usual for counts (negative counts, which Criteo has
            in I2, become 0); "none" keeps the value. A missing value is 0 after the transform.
    """

    name: str
    transform: Transform = "log1p"

    def __post_init__(self) -> None:
        _check_choice("dense", self.name, "transform", self.transform, get_args(Transform))


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoricalColumn:
    """A category, or a bag of categories, per sample; one embedding table.

    Attributes:
        name: column name in the log and name of the table.
        multi_valued: the column holds lists (bags, possibly empty).
        pooling: how a bag's rows are pooled.
        max_rows: most rows that the encoder may give the table; None for no limit.
        num_embeddings: set where the values are row ids already, in [0, num_embeddings); None for raw values.
    """

    name: str
    multi_valued: bool = False
    pooling: Pooling = "sum"
    max_rows: int | None = None
    num_embeddings: int | None = None

    def __post_init__(self) -> None:
        _check_choice("categorical", self.name, "pooling", self.pooling, get_args(Pooling))
        if type(self.multi_valued) is not bool:
            raise TypeError(
                f"categorical column '{self.name}': multi_valued must be true or false, "
                f"got {self.multi_valued!r}"
            )
        for field in ("max_rows", "num_embeddings"):
            value = getattr(self, field)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(
                    f"categorical column '{self.name}': "
                    f"{field} must be a positive integer or null, got {value!r}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class Schema:
    """Columns of a click log, in the order of the model's inputs.

    Raises:
        ValueError: no categorical column, or a name is empty or used twice.
    """

    categorical: tuple[CategoricalColumn, ...]
    dense: tuple[DenseColumn, ...] = ()
    label: str = "label"

    def __post_init__(self) -> None:
        if not self.categorical:
            raise ValueError(
                "categorical: a schema needs at least one categorical column (an embedding table)"
            )
        seen: set[str] = set()
        for name in (self.label, *(c.name for c in self.dense), *(c.name for c in self.categorical)):
            if not isinstance(name, str) or not name:
                raise ValueError(f"column name {name!r}: must be a non-empty string")
            if name in seen:
                raise ValueError(f"column '{name}' is named twice; give every column one role")
            seen.add(name)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns: label, dense, categorical."""
        return (self.label, *(c.name for c in self.dense), *(c.name for c in self.categorical))

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain JSON values."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "label": self.label,
            "dense": [asdict(c) for c in self.dense],
            "categorical": [asdict(c) for c in self.categorical],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Schema:
        """Inverse of :meth:`to_dict`; unknown or missing fields raise ``ValueError`` naming the column."""
        if value.get("format") != _FORMAT or value.get("version") != _VERSION:
            raise ValueError(
                f"not a schema of this version: expected format '{_FORMAT}' version {_VERSION}, "
                f"got {value.get('format')!r} version {value.get('version')!r}"
            )
        unknown = set(value) - {"format", "version", "label", "dense", "categorical"}
        if unknown:
            raise ValueError(f"schema: unknown field {sorted(unknown)[0]!r}; remove it")
        return cls(
            label=value.get("label", "label"),
            dense=tuple(_column(DenseColumn, c) for c in value.get("dense", ())),
            categorical=tuple(_column(CategoricalColumn, c) for c in value.get("categorical", ())),
        )

    def save(self, path: str | Path) -> None:
        """Write the schema as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a schema that :meth:`save` wrote (or that was written by hand)."""
        try:
            value = json.loads(Path(path).read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not valid JSON ({error}); write it with Schema.save") from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}")
        try:
            return cls.from_dict(value)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{path}: {error}") from error


def _check_choice(role: str, name: str, field: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(
            f"{role} column '{name}': {field} must be one of {', '.join(choices)}, got {value!r}"
        )


def _column(kind: type[_Column], value: Any) -> _Column:
    if not isinstance(value, Mapping) or "name" not in value:
        raise ValueError(f"schema: every column must be an object with a name, got {value!r}")
    unknown = set(value) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"column '{value['name']}': unknown field {sorted(unknown)[0]!r}; remove it")
    return kind(**value)


CRITEO = Schema(
    dense=tuple(DenseColumn(name=f"I{i}") for i in range(1, 14)),
    categorical=tuple(CategoricalColumn(name=f"C{i}") for i in range(1, 27)),
)
"""Criteo display advertising: label, 13 counts, 26 categories."""

AVAZU = Schema(
    label="click",
    categorical=tuple(
        CategoricalColumn(name=name)
        for name in (
            *(
                "hour_of_day",
                "weekday",
                "C1",
                "banner_pos",
                "site_id",
                "site_domain",
                "site_category",
                "app_id",
            ),
            *("app_domain", "app_category", "device_id", "device_ip", "device_model", "device_type"),
            *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
        )
    ),
)
"""Avazu click-through: `hour` (YYMMDDHH) becomes hour_of_day and weekday (0 = Monday); `id` is dropped."""

"""Our engine in the forms that are measured: a row format for the tables, a precision for the MLPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from screc.data import Batch
from screc.serving import Engine


@dataclass(frozen=True, slots=True)
class Form:
    """How the engine keeps a model.

    Attributes:
        row_format: of the tables' rows.
        precision: of the MLPs' weights and inputs.
    """

    row_format: str
    precision: str

    @property
    def name(self) -> str:
        """For keys and tables, e.g. ``screc_int8_bf16``: rows first, MLPs second."""
        return f"screc_{self.row_format}_{self.precision}"

    def row_bytes(self, dim: int) -> int:
        """Bytes of a row with its scale and bias (docs/format.md)."""
        return {"fp32": 4 * dim, "int8": 4 + dim, "int4": 4 + (dim + 1) // 2}[self.row_format]


def build_engines(
    forms: Sequence[Form],
    model: Mapping[str, Any],
    dense: Mapping[str, np.ndarray],
    tables: Sequence[np.ndarray],
    *,
    calibration: Batch,
    threads: int = 0,
) -> dict[Form, Engine]:
    """An engine for each form.

    Args:
        forms: what to build.
        model, dense, tables, threads: as ``Engine.from_arrays`` takes them.
        calibration: samples from which the ranges of int8 inputs are taken.
    """
    engines = {}
    for form in forms:
        options: dict[str, Any] = {}
        if form.row_format != "fp32":
            options["row_format"] = form.row_format
        if form.precision != "fp32":
            options |= {"precision": form.precision, "calibration": calibration}
        try:
            engines[form] = Engine.from_arrays(model, dense, tables, threads=threads, **options)
        except TypeError:  # until the engine takes them
            continue
    return engines

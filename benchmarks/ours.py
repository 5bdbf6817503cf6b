"""Our engine in the forms that are measured: a row format for the tables, a precision for the MLPs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from screc.data import Batch
from screc.serving import Engine
from screc.serving.calibration import arithmetic_of, calibrate
from screc.storage.dense_precision import Precision
from screc.storage.row_format import RowFormat, row_bytes


@dataclass(frozen=True, slots=True)
class Form:
    """How the engine keeps a model.

    Attributes:
        row_format: of the tables' rows.
        precision: of the MLPs' weights and inputs.
    """

    row_format: RowFormat
    precision: Precision

    @property
    def name(self) -> str:
        """For keys and tables, e.g. ``screc_int8_bf16``: rows first, MLPs second."""
        return f"screc_{self.row_format}_{self.precision}"

    def row_bytes(self, dim: int) -> int:
        """Bytes of a row as stored."""
        return row_bytes(self.row_format, dim)


def build_engines(
    forms: Iterable[Form],
    model: Mapping[str, Any],
    dense: Mapping[str, np.ndarray],
    tables: Sequence[np.ndarray],
    *,
    calibration: Batch,
    threads: int = 0,
) -> dict[Form, Engine]:
    """An engine for each form; forms with the same row format share their rows.

    Args:
        forms: what to build.
        model, dense, tables, threads: as ``Engine.from_arrays`` takes them.
        calibration: samples from which the ranges of int8 inputs are taken.
    """
    engines: dict[Form, Engine] = {}
    bases: dict[str, Engine] = {}
    for form in forms:
        if form.row_format not in bases:
            bases[form.row_format] = Engine.from_arrays(
                model, dense, tables, row_format=form.row_format, threads=threads
            )
        base = bases[form.row_format]
        ranges = calibrate(base, [calibration]) if form.precision == "int8" else {}
        engines[form] = base.with_arithmetic(arithmetic_of(base, form.precision, ranges))
    return engines

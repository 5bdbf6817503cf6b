"""Row formats: how the rows of a band are written as bytes (docs/format.md, "Row formats")."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from screc import _native

RowFormat = Literal["fp32", "fp16", "bf16", "int8", "int4"]
# Each quantised row with its own scale and bias, or one pair for all rows of the band.
ScaleOf = Literal["row", "table"]
# value = bias + scale * code, as (scale, bias).
Scale = tuple[float, float]

ROW_FORMATS: tuple[RowFormat, ...] = get_args(RowFormat)
SCALE_OWNERS: tuple[ScaleOf, ...] = get_args(ScaleOf)
LARGEST_CODE = {"int8": 255, "int4": 15}


def row_bytes(row_format: RowFormat, embedding_dim: int, scale: ScaleOf = "row") -> int:
    """Bytes of one encoded row."""
    return _native.row_bytes(row_format, embedding_dim, scale == "row")


def encode_rows(
    rows: np.ndarray, row_format: RowFormat, scale: Scale | None = None, *, first_row: int = 0
) -> np.ndarray:
    """Rows float32 [n, dim] in a row format, uint8 [n, row_bytes], rounded to nearest.

    Args:
        rows: C-contiguous.
        row_format: the format; int8 and int4 rows without ``scale`` each get their own.
        scale: shared by all rows (int8 and int4 only); values outside the codes' span take the nearest code.
        first_row: number of the first row in messages.

    Raises:
        ValueError: a value that the format cannot hold; the message names its row.
    """
    size = row_bytes(row_format, rows.shape[1], "row" if scale is None else "table")
    out = np.empty((len(rows), size), np.uint8)
    _native.encode_rows(rows, row_format, out, scale=scale, first_row=first_row)
    return out


def decode_rows(
    encoded: np.ndarray, row_format: RowFormat, embedding_dim: int, scale: Scale | None = None
) -> np.ndarray:
    """The values of encoded rows, float32 [n, embedding_dim]."""
    out = np.empty((len(encoded), embedding_dim), np.float32)
    _native.decode_rows(encoded, row_format, out, scale=scale)
    return out


class EncodingError:
    """The relative Frobenius error of rows that are encoded piece by piece."""

    def __init__(self) -> None:
        self._lost = self._whole = 0.0

    def add(self, rows: np.ndarray, decoded: np.ndarray) -> None:
        """Counts rows float32 [n, dim] and what they decode to."""
        self._lost += float(np.square(rows - decoded, dtype=np.float64).sum())
        self._whole += float(np.square(rows, dtype=np.float64).sum())

    @property
    def relative(self) -> float:
        """|rows - decoded| / |rows|, Frobenius norms; 0 for rows of zeros that stayed zeros."""
        if self._lost == 0.0:
            return 0.0
        # Rows of zeros that a shared scale cannot write count as lost whole.
        return (self._lost / self._whole) ** 0.5 if self._whole else 1.0

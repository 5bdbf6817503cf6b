"""Parquet logs, row group by row group in bounded memory; list columns are bags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screc.data.log import OnError
from screc.data.schema import Schema

_CHUNK_ROWS = 65_536


class ParquetReader:
    """Reads Parquet logs; see :class:`screc.data.reader.RawReader`.

    Categories may be integers, strings, binary or booleans (or lists of these where multi-valued), dense
    columns numbers (null and NaN = missing), the label 0/1 or boolean. Without the label column, the file is
    unlabelled.

    Args:
        paths: files, read one after the other.
        schema: the columns wanted.
        on_error: "raise" at the first row with a bad label or an infinite number, or "skip" it and count.

    Raises:
        ValueError: a file is not Parquet or lacks a column.
        TypeError: a column's type does not fit its role.
    """

    def __init__(self, paths: tuple[Path, ...], schema: Schema, *, on_error: OnError = "raise") -> None:
        self.schema = schema
        self.skipped = 0
        self._paths = paths
        self._on_error = on_error
        rows = 0
        for path in paths:
            with _open(path) as file:
                _check_types(path, file.schema_arrow, schema)
                rows += file.metadata.num_rows
        self.num_samples: int | None = rows if on_error == "raise" else None

    def chunks(self, *, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """Record batches of at most 65,536 rows."""
        self.skipped = 0
        for path in self._paths:
            with _open(path) as file:
                names = [n for n in self.schema.columns if n in file.schema_arrow.names]
                groups = list(range(file.num_row_groups))
                row = 0
                # Whole row groups are passed over unread, unless bad rows in them would have to be counted.
                while groups and self._on_error == "raise":
                    size = file.metadata.row_group(groups[0]).num_rows
                    if size > skip:
                        break
                    skip, row = skip - size, row + size
                    groups.pop(0)
                if not groups:
                    continue
                for chunk in _decoded(file.iter_batches(_CHUNK_ROWS, row_groups=groups, columns=names), path):
                    row += chunk.num_rows
                    chunk = self._checked(chunk.select(names), path, row - chunk.num_rows)
                    if skip >= chunk.num_rows:
                        skip -= chunk.num_rows
                        continue
                    yield chunk.slice(skip) if skip else chunk
                    skip = 0

    def _checked(self, chunk: pa.RecordBatch, path: Path, first_row: int) -> pa.RecordBatch:
        """The chunk with its label as int8 and bad rows raised or left out."""
        bad = np.zeros(chunk.num_rows, dtype=bool)
        label = self.schema.label
        if label in chunk.schema.names:
            values = chunk.column(label)
            if pa.types.is_boolean(values.type):
                values = values.cast(pa.int8())
            good = pc.fill_null(pc.or_(pc.equal(values, 0), pc.equal(values, 1)), False)
            bad |= ~good.to_numpy(zero_copy_only=False)
            self._raise_first(bad, path, first_row, label, chunk.column(label), "expected 0 or 1")
        for column in self.schema.dense:
            values = chunk.column(column.name)
            if pa.types.is_floating(values.type):
                infinite = pc.fill_null(pc.is_inf(values), False).to_numpy(zero_copy_only=False)
                self._raise_first(infinite, path, first_row, column.name, values, "expected a finite number")
                bad |= infinite
        if bad.any():
            self.skipped += int(bad.sum())
            chunk = chunk.filter(pa.array(~bad))
        if label in chunk.schema.names:
            place = chunk.schema.names.index(label)
            chunk = chunk.set_column(place, label, chunk.column(label).cast(pa.int8()))
        return chunk

    def _raise_first(
        self, bad: np.ndarray, path: Path, first_row: int, column: str, values: pa.Array, expected: str
    ) -> None:
        if self._on_error == "raise" and bad.any():
            where = int(np.argmax(bad))
            raise ValueError(
                f"{path}, row {first_row + where}: column '{column}': {expected}, "
                f"got {values[where].as_py()}; correct the row or read with on_error='skip'"
            )


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error


def _decoded(chunks: Iterator[pa.RecordBatch], path: Path) -> Iterator[pa.RecordBatch]:
    try:
        yield from chunks
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: damaged Parquet file ({error}); write it again") from error


def _check_types(path: Path, found: pa.Schema, schema: Schema) -> None:
    for name in schema.columns:
        if name not in found.names and name != schema.label:
            raise ValueError(f"{path}: no column '{name}'; the file has {', '.join(found.names)}")
    if schema.label in found.names:
        _check_type(path, schema.label, found.field(schema.label).type, "a label (0/1 or boolean)", _is_label)
    for column in schema.dense:
        _check_type(path, column.name, found.field(column.name).type, "a dense column (numbers)", _is_number)
    for column in schema.categorical:
        kind = found.field(column.name).type
        if column.multi_valued:
            _check_type(path, column.name, kind, "a multi-valued column (lists)", _is_list)
            kind = kind if pa.types.is_null(kind) else kind.value_type
        role = "categories (integers, strings or booleans; cast floating point first)"
        allowed = _is_id if column.num_embeddings is not None else _is_category
        _check_type(
            path, column.name, kind, role if allowed is _is_category else "row ids (integers)", allowed
        )


def _check_type(path: Path, name: str, kind: pa.DataType, role: str, allowed) -> None:
    if not allowed(kind):
        raise TypeError(f"{path}: column '{name}' has type {kind}, which cannot be {role}")


def _is_label(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


# A column of type null has only missing values; Parquet files have such where a writer saw no other.
def _is_number(kind: pa.DataType) -> bool:
    return _is_label(kind) or pa.types.is_null(kind)


def _is_id(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_null(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_null(kind)


def _is_category(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return (
        types.is_integer(kind)
        or types.is_null(kind)
        or types.is_boolean(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )

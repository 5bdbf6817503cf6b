"""What a model takes and gives: its tensors by name, and requests turned into queries of the batcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from screc import _native
from screc.data.log import TableSpec
from screc.serving.errors import BadRequestError, TooLargeError
from screc.serving.protocol import datatype

OUTPUT = "probability"
_PLAIN = ("dense", "categorical", "ids", "offsets")
_CONTEXT = tuple(f"context_{name}" for name in _PLAIN)


@dataclass(frozen=True, kw_only=True)
class QueryLimits:
    """The largest request that is taken.

    Attributes:
        rows: samples.
        ids: look-ups, those of a context counted for each sample.
    """

    rows: int = 65_536
    ids: int = 8_388_608


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A request's tensors as ``_native.Batcher.submit`` takes them.

    Attributes:
        form: which tables and columns are the context's.
        batch_size: samples.
        arrays: by argument.
    """

    form: _native.QueryForm
    batch_size: int
    arrays: Mapping[str, np.ndarray]


class Signature:
    """The tensors of one model.

    Inputs are ``dense`` FP32 [B, num_dense] (left out where the model has no dense features), and either
    ``categorical`` INT64 [B, tables], one id for each table, or bags: ``ids`` INT64 [nnz] and ``offsets``
    INT64 [tables * B + 1], table by table, as ``screc.data.Batch`` orders them. The output is ``probability``
    FP32 [B].

    In the form of user and candidates, features that all samples share are sent once. The request's
    parameters name them: ``context_tables``, names of tables with commas between them, and
    ``context_columns``, numbers of dense columns. ``context_dense`` FP32 [1, columns] and
    ``context_categorical`` INT64 [1, tables] (or ``context_ids`` and ``context_offsets``) give them, in the
    order named; the plain tensors then have the other tables and columns only, in the model's order.
    Predictions are those of the plain form.
    """

    def __init__(
        self, tables: Sequence[TableSpec], num_dense: int, limits: QueryLimits | None = None
    ) -> None:
        self.tables = tuple(tables)
        self.num_dense = num_dense
        self.limits = QueryLimits() if limits is None else limits
        self._numbers = {table.name: number for number, table in enumerate(self.tables)}
        self._sizes = [(table.name, table.num_embeddings) for table in self.tables]
        self._plain = _native.QueryForm(self._sizes, num_dense)
        self._context_form = lru_cache(maxsize=64)(self._parse_context)

    def inputs(self) -> list[dict[str, Any]]:
        """The protocol's description of the inputs."""
        tables = len(self.tables)
        dense = (
            [{"name": "dense", "datatype": "FP32", "shape": [-1, self.num_dense]}] if self.num_dense else []
        )
        return [
            *dense,
            {"name": "categorical", "datatype": "INT64", "shape": [-1, tables]},
            {"name": "ids", "datatype": "INT64", "shape": [-1]},
            {"name": "offsets", "datatype": "INT64", "shape": [-1]},
        ]

    def outputs(self) -> list[dict[str, Any]]:
        """The protocol's description of the outputs."""
        return [{"name": OUTPUT, "datatype": "FP32", "shape": [-1]}]

    def query(self, inputs: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> Query:
        """A request as a query; what its values are is checked when it is submitted.

        Raises:
            BadRequestError: a tensor is missing, unknown, or of the wrong type or shape.
            TooLargeError: it has more rows or ids than is taken.
        """
        form, context_tables, context_columns = self._form(parameters)
        in_context = bool(context_tables or context_columns)
        for name in inputs:
            if name not in _PLAIN and not (in_context and name in _CONTEXT):
                known = ", ".join(_PLAIN + _CONTEXT if in_context else _PLAIN)
                hint = "" if in_context else "; parameters context_tables or context_columns add a context"
                raise BadRequestError(f"inputs: there is no tensor {name!r}; the inputs are {known}{hint}")
        arrays: dict[str, np.ndarray] = {}
        columns, tables = self.num_dense - context_columns, len(self.tables) - context_tables
        size = self._part(arrays, "", inputs, columns, tables, None)
        if in_context:
            self._part(arrays, "context_", inputs, context_columns, context_tables, 1)
        if size > self.limits.rows:
            raise TooLargeError(f"{size} rows; at most {self.limits.rows} are taken in one request")
        ids = sum(
            arrays[name].size * (size if name.startswith("context_") else 1)
            for name in arrays
            if name.endswith(("ids", "categorical"))
        )
        if ids > self.limits.ids:
            raise TooLargeError(f"{ids} ids to look up; at most {self.limits.ids} are taken in one request")
        return Query(form=form, batch_size=size, arrays=arrays)

    def _part(
        self,
        arrays: dict[str, np.ndarray],
        prefix: str,
        inputs: Mapping[str, np.ndarray],
        columns: int,
        tables: int,
        size: int | None,
    ) -> int:
        """Puts the tensors of the context or of the candidates among the arrays; returns the batch size."""
        dense = _typed(inputs, prefix + "dense", "FP32", 2)
        categorical = _integers(inputs, prefix + "categorical", 2)
        ids, offsets = _integers(inputs, prefix + "ids", 1), _integers(inputs, prefix + "offsets", 1)
        if dense is None and columns:
            raise BadRequestError(f"inputs: tensor '{prefix}dense' [rows, {columns}] is missing")
        if dense is not None:
            size = _same_size(prefix + "dense", dense.shape[0], size)
            if dense.shape[1] != columns:
                raise BadRequestError(
                    f"{prefix}dense: expected {columns} columns, got shape {list(dense.shape)}"
                )
            arrays[prefix + "dense"] = dense
        if categorical is not None:
            if ids is not None or offsets is not None:
                raise BadRequestError(f"inputs: give {prefix}categorical, or {prefix}ids and {prefix}offsets")
            size = _same_size(prefix + "categorical", categorical.shape[0], size)
            if categorical.shape[1] != tables:
                raise BadRequestError(
                    f"{prefix}categorical: expected {tables} columns, one for each table, got shape "
                    f"{list(categorical.shape)}"
                )
            arrays[prefix + "categorical"] = categorical
            return size
        if tables == 0 and ids is None and offsets is None:
            if size is None:
                raise BadRequestError("inputs: no tensor says how many candidates there are")
            return size
        if ids is None or offsets is None:
            raise BadRequestError(
                f"inputs: tensors '{prefix}ids' and '{prefix}offsets', or '{prefix}categorical' "
                f"[rows, {tables}], are missing"
            )
        if size is None:
            size, rest = divmod(offsets.shape[0] - 1, max(tables, 1))
            if rest or size < 0:
                raise BadRequestError(
                    f"{prefix}offsets: expected {tables} tables x rows + 1 entries, got {offsets.shape[0]}"
                )
        if offsets.shape[0] != tables * size + 1:
            raise BadRequestError(
                f"{prefix}offsets: expected {tables} tables x {size} rows + 1 = {tables * size + 1} entries, "
                f"got {offsets.shape[0]}"
            )
        arrays[prefix + "ids"], arrays[prefix + "offsets"] = ids, offsets
        return size

    def _form(self, parameters: Mapping[str, Any]) -> tuple[_native.QueryForm, int, int]:
        tables = _text_parameter(parameters, "context_tables")
        columns = _text_parameter(parameters, "context_columns")
        return self._context_form(tables, columns) if tables or columns else (self._plain, 0, 0)

    def _parse_context(self, tables: str, columns: str) -> tuple[_native.QueryForm, int, int]:
        numbers = []
        for name in _listed(tables):
            if name not in self._numbers:
                raise BadRequestError(f"parameters.context_tables: the model has no table {name!r}")
            numbers.append(self._numbers[name])
        try:
            places = [int(column) for column in _listed(columns)]
            form = _native.QueryForm(self._sizes, self.num_dense, numbers, places)
        except ValueError as error:
            raise BadRequestError(f"parameters of the context: {error}") from error
        return form, len(numbers), len(places)


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _text_parameter(parameters: Mapping[str, Any], name: str) -> str:
    value = parameters.get(name, "")
    if isinstance(value, int) and not isinstance(value, bool):  # one column, without quotation marks
        return str(value)
    if not isinstance(value, str) or len(value) > 65_536:
        raise BadRequestError(f"parameters.{name}: must be a text with commas between its entries")
    return value


def _typed(inputs: Mapping[str, np.ndarray], name: str, wanted: str, axes: int) -> np.ndarray | None:
    array = inputs.get(name)
    if array is None:
        return None
    if datatype(array) != wanted:
        raise BadRequestError(f"{name}: expected datatype {wanted}, got {datatype(array)}")
    if array.ndim != axes:
        raise BadRequestError(f"{name}: expected {axes} axes, got shape {list(array.shape)}")
    return array


def _integers(inputs: Mapping[str, np.ndarray], name: str, axes: int) -> np.ndarray | None:
    """A tensor of ids, as INT64; narrower integers are widened."""
    array = inputs.get(name)
    if array is not None and array.dtype.kind in "iu" and array.dtype != np.dtype("<u8"):
        inputs = {name: array.astype(np.int64, copy=False)}
    return _typed(inputs, name, "INT64", axes)


def _same_size(name: str, size: int, known: int | None) -> int:
    if known is not None and size != known:
        raise BadRequestError(f"{name}: expected {known} rows, got {size}")
    return size

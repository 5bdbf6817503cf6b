"""The feature encoder: raw columns to batches of row ids and dense features."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screc.data.batch import Batch
from screc.data.hashing import hash_bytes, mix_integers
from screc.data.log import OnError, TableSpec
from screc.data.reader import open_reader
from screc.data.schema import CategoricalColumn, DenseColumn, Schema
from screc.data.vocabulary import ValueCounter, Vocabulary

EncoderKind = Literal["vocabulary", "hash"]

_FORMAT, _VERSION = "screc-encoder", 1


@dataclass(frozen=True, slots=True)
class HashIds:
    """Ids by a seeded hash of the value's bytes: missing is 0, values share 1 .. num_rows - 1."""

    num_rows: int
    seed: int

    def ids(self, values: pa.Array) -> np.ndarray:
        """int64 ids of distinct large_binary values."""
        if self.num_rows == 1:
            return np.zeros(len(values), dtype=np.int64)
        hashed = hash_bytes(values, self.seed) % np.uint64(self.num_rows - 1) + np.uint64(1)
        missing = pc.equal(pc.binary_length(values), 0).to_numpy(zero_copy_only=False)
        return np.where(missing, 0, hashed.astype(np.int64))


@dataclass(frozen=True, slots=True)
class VocabularyIds:
    """Ids by vocabulary: 0 is every unknown or rare value; missing is a value like others."""

    vocabulary: Vocabulary

    @property
    def num_rows(self) -> int:
        """Rows of the table."""
        return self.vocabulary.num_rows

    def ids(self, values: pa.Array) -> np.ndarray:
        """int64 ids of distinct large_binary values."""
        return self.vocabulary.lookup(values)


@dataclass(frozen=True, slots=True)
class IdentityIds:
    """The values are ids already."""

    num_rows: int


IdRule = HashIds | VocabularyIds | IdentityIds


class FeatureEncoder:
    """Turns raw record batches into :class:`Batch` by one id rule per categorical column.

    Values are compared by their bytes; integers and booleans by their text, so that a TSV file and its
    Parquet copy encode alike. An empty string is a missing value, like null. In bags, missing elements are
    left out; a missing or empty bag stays empty.
    """

    def __init__(self, schema: Schema, rules: Sequence[IdRule]) -> None:
        if len(rules) != len(schema.categorical):
            raise ValueError(
                f"rules: expected one per categorical column ({len(schema.categorical)}), got {len(rules)}"
            )
        self.schema = schema
        self.rules = tuple(rules)

    @classmethod
    def identity(cls, schema: Schema) -> FeatureEncoder:
        """The encoder of a schema whose columns all hold row ids (``num_embeddings`` set)."""
        rules = []
        for column in schema.categorical:
            if column.num_embeddings is None:
                raise ValueError(f"column '{column.name}': num_embeddings is not set; fit an encoder instead")
            rules.append(IdentityIds(column.num_embeddings))
        return cls(schema, rules)

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """One table per categorical column."""
        pairs = zip(self.schema.categorical, self.rules, strict=True)
        return tuple(TableSpec(c.name, rule.num_rows, c.pooling) for c, rule in pairs)

    @property
    def num_dense(self) -> int:
        """Dense features per sample."""
        return len(self.schema.dense)

    def encode(self, chunk: pa.RecordBatch) -> Batch:
        """Encode a record batch with the schema's columns (the label may be missing).

        Raises:
            ValueError: a column is missing, a dense value is not finite, or an id is out of range.
            TypeError: a column's type does not fit.
        """
        size = chunk.num_rows
        found = set(chunk.schema.names)
        for name in self.schema.columns[1:]:
            if name not in found:
                raise ValueError(f"column '{name}' is missing; the chunk has {', '.join(chunk.schema.names)}")
        dense = np.empty((size, self.num_dense), dtype=np.float32)
        for place, column in enumerate(self.schema.dense):
            dense[:, place] = _dense(chunk.column(column.name), column)
        ids: list[np.ndarray] = []
        lengths = np.ones((len(self.rules), size), dtype=np.int64)
        for place, (column, rule) in enumerate(zip(self.schema.categorical, self.rules, strict=True)):
            values = chunk.column(column.name)
            if column.multi_valued:
                values, lengths[place] = _flatten(values, column)
            ids.append(_encode(values, column, rule))
        offsets = np.zeros(lengths.size + 1, dtype=np.int64)
        np.cumsum(lengths.ravel(), out=offsets[1:])
        labels = None
        if self.schema.label in found:
            column = chunk.column(self.schema.label)
            if column.null_count:
                raise ValueError(f"column '{self.schema.label}': some samples have a label and some do not")
            labels = column.to_numpy(zero_copy_only=False).astype(np.float32)
        return Batch(dense=dense, ids=np.concatenate(ids), offsets=offsets, labels=labels)

    def encode_records(self, records: Sequence[Mapping[str, Any]]) -> Batch:
        """Encode samples given as mappings from column to value; absent keys are missing values."""
        arrays, names = [], []
        columns = list(self.schema.columns)
        if not any(self.schema.label in r for r in records):
            columns.remove(self.schema.label)
        for name in columns:
            try:
                arrays.append(pa.array([record.get(name) for record in records], type=self._guess(name)))
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(f"column '{name}': {error}; give one type of value per column") from error
            names.append(name)
        return self.encode(pa.RecordBatch.from_arrays(arrays, names=names))

    def _guess(self, name: str) -> pa.DataType | None:
        return pa.float64() if name in {c.name for c in self.schema.dense} else None

    def save(self, directory: str | Path) -> None:
        """Write ``encoder.json`` and one Parquet file per vocabulary; the directory is made if need be."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        columns = []
        for place, (column, rule) in enumerate(zip(self.schema.categorical, self.rules, strict=True)):
            entry: dict[str, Any] = {"name": column.name, "rows": rule.num_rows}
            if isinstance(rule, HashIds):
                entry |= {"kind": "hash", "seed": rule.seed}
            elif isinstance(rule, VocabularyIds):
                file = f"vocabulary.{place:03d}.parquet"
                entry |= {"kind": "vocabulary", "file": file}
                pq.write_table(pa.table({"value": rule.vocabulary.values}), directory / file)
            else:
                entry |= {"kind": "identity"}
            columns.append(entry)
        value = {
            "format": _FORMAT,
            "version": _VERSION,
            "schema": self.schema.to_dict(),
            "columns": columns,
        }
        (directory / "encoder.json").write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path) -> FeatureEncoder:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no encoder in the directory.
            ValueError: a file is damaged or of another version; the message names it.
        """
        path = Path(directory) / "encoder.json"
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not valid JSON ({error}); fit the encoder again") from error
        if not isinstance(value, dict) or (value.get("format"), value.get("version")) != (_FORMAT, _VERSION):
            raise ValueError(f"{path}: not an encoder of version {_VERSION}; fit it again with this release")
        try:
            schema = Schema.from_dict(value["schema"])
            entries = value["columns"]
            if [e["name"] for e in entries] != [c.name for c in schema.categorical]:
                raise ValueError("columns do not match the schema")
            rules = [_load_rule(Path(directory), entry) for entry in entries]
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise ValueError(f"{path}: damaged ({error}); fit the encoder again") from error
        return cls(schema, rules)


def fit_encoder(
    source: str,
    *,
    schema: Schema | None = None,
    kind: EncoderKind = "vocabulary",
    rows: int | Mapping[str, int] | None = None,
    min_count: int = 1,
    seed: int = 0,
    limit: int | None = None,
    on_error: OnError = "raise",
    progress: Callable[[int], None] | None = None,
) -> FeatureEncoder:
    """Fit an encoder on a raw log. Columns that hold row ids already (``num_embeddings``) keep them.

    Args:
        source: ``criteo:PATH``, ``avazu:PATH`` or ``parquet:PATH``.
        schema: columns; by default the preset, or ``schema.json`` beside the Parquet files.
        kind: "vocabulary" (one pass over the log; ids by falling frequency, 0 for unknown and rare values) or
            "hash" (no pass; ids by a seeded hash).
        rows: rows of every table, or per column: the exact number for "hash", the most for "vocabulary".
            By default the column's ``max_rows``.
        min_count: vocabulary only: values seen less often are "rare".
        seed: hash only: another seed gives other collisions.
        limit: look at the first ``limit`` samples only.
        on_error: what to do about malformed lines.
        progress: called with the number of samples read so far.
    """
    if kind not in get_args(EncoderKind):
        raise ValueError(f"kind: expected 'vocabulary' or 'hash', got {kind!r}")
    if min_count < 1:
        raise ValueError(f"min_count: must be at least 1, got {min_count}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit: must be at least 1 or None, got {limit}")
    reader = open_reader(source, schema=schema, on_error=on_error)
    schema = reader.schema
    sizes = {column.name: _rows_of(column, rows) for column in schema.categorical}
    if isinstance(rows, Mapping):
        for name in rows:
            if name not in sizes:
                raise ValueError(f"rows: no categorical column '{name}'; columns are {', '.join(sizes)}")
    rules: dict[str, IdRule] = {
        c.name: IdentityIds(c.num_embeddings) for c in schema.categorical if c.num_embeddings is not None
    }
    open_columns = [column for column in schema.categorical if column.name not in rules]
    if kind == "hash":
        for place, column in enumerate(open_columns):
            size = sizes[column.name]
            if size is None:
                raise ValueError(
                    f"rows: hashing column '{column.name}' needs a number of rows; pass rows=..."
                )
            # Another seed per column, or equal values would collide with the same partners in every table.
            rules[column.name] = HashIds(size, mix_integers(seed, place))
    elif open_columns:
        counters = {column.name: ValueCounter() for column in open_columns}
        _count(reader.chunks(), open_columns, counters, limit, progress)
        for column in open_columns:
            counter = counters[column.name]
            vocabulary = counter.vocabulary(min_count=min_count, max_rows=sizes[column.name])
            rules[column.name] = VocabularyIds(vocabulary)
    return FeatureEncoder(schema, [rules[column.name] for column in schema.categorical])


def _count(
    chunks: Iterable[pa.RecordBatch],
    columns: Sequence[CategoricalColumn],
    counters: Mapping[str, ValueCounter],
    limit: int | None,
    progress: Callable[[int], None] | None,
) -> None:
    seen = 0
    for chunk in chunks:
        if limit is not None:
            chunk = chunk.slice(0, limit - seen)
        for column in columns:
            values = chunk.column(column.name)
            if column.multi_valued:
                values, _ = _flatten(values, column)
            distinct, codes = _distinct(values, column)
            counters[column.name].add(distinct, np.bincount(codes, minlength=len(distinct)))
        seen += chunk.num_rows
        if progress is not None:
            progress(seen)
        if limit is not None and seen >= limit:
            return


def _rows_of(column: CategoricalColumn, rows: int | Mapping[str, int] | None) -> int | None:
    size = rows.get(column.name) if isinstance(rows, Mapping) else rows
    if size is not None and (isinstance(size, bool) or size < 1):
        raise ValueError(f"rows: column '{column.name}' needs at least 1 row, got {size}")
    if size is None or column.max_rows is None:
        return column.max_rows if size is None else int(size)
    return min(int(size), column.max_rows)


def _load_rule(directory: Path, entry: Mapping[str, Any]) -> IdRule:
    kind, rows = entry["kind"], entry["rows"]
    if type(rows) is not int or rows < 1:
        raise ValueError(f"column '{entry['name']}': rows must be a positive integer, got {rows!r}")
    if kind == "hash":
        return HashIds(rows, int(entry["seed"]))
    if kind == "identity":
        return IdentityIds(rows)
    if kind != "vocabulary":
        raise ValueError(f"column '{entry['name']}': unknown kind {kind!r}")
    file = entry["file"]
    if Path(file).name != file:
        raise ValueError(f"column '{entry['name']}': file {file!r} is not in the encoder's directory")
    values = pq.read_table(directory / file).column("value").cast(pa.large_binary()).combine_chunks()
    vocabulary = Vocabulary(values.chunk(0) if isinstance(values, pa.ChunkedArray) else values)
    if vocabulary.num_rows != rows:
        raise ValueError(
            f"column '{entry['name']}': {file} has {vocabulary.num_rows - 1} values, not {rows - 1}"
        )
    return VocabularyIds(vocabulary)


def _dense(values: pa.Array, column: DenseColumn) -> np.ndarray:
    """float64 [n], transformed; missing is 0."""
    try:
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TypeError(f"dense column '{column.name}': expected numbers, got {values.type}") from error
    missing = np.isnan(numbers)
    if column.transform == "log1p":
        numbers = np.log1p(np.maximum(numbers, 0.0))
    numbers = np.where(missing, 0.0, numbers)
    if not (np.abs(numbers) <= np.finfo(np.float32).max).all():
        worst = numbers[np.argmax(np.abs(numbers))]
        raise ValueError(f"dense column '{column.name}': {worst} is not a finite float32; scale or drop it")
    return numbers


def _flatten(values: pa.Array, column: CategoricalColumn) -> tuple[pa.Array, np.ndarray]:
    """Elements of a list column without the missing ones, and the bags' lengths, int64 [n]."""
    if pa.types.is_null(values.type):
        return pa.array([], type=pa.int64()), np.zeros(len(values), dtype=np.int64)
    if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type)):
        raise TypeError(f"column '{column.name}': multi-valued, expected lists, got {values.type}")
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    elements = values.flatten()  # leaves out what lies under null lists
    if pa.types.is_dictionary(elements.type):
        elements = elements.dictionary_decode()
    _check_type(elements.type, column)
    if pa.types.is_integer(elements.type) or pa.types.is_boolean(elements.type):
        present = pc.is_valid(elements)
    elif pa.types.is_null(elements.type):
        return pa.array([], type=pa.int64()), np.zeros_like(lengths)
    else:
        present = pc.fill_null(pc.greater(pc.binary_length(elements), 0), False)
    keep = present.to_numpy(zero_copy_only=False)
    if not keep.all():
        bags = np.repeat(np.arange(lengths.size), lengths)
        lengths = np.bincount(bags[keep], minlength=lengths.size)
        elements = elements.filter(present)
    return elements, lengths


def _encode(values: pa.Array, column: CategoricalColumn, rule: IdRule) -> np.ndarray:
    """int64 ids of a flat column."""
    if isinstance(rule, IdentityIds):
        return _identity(values, column, rule.num_rows)
    distinct, codes = _distinct(values, column)
    return rule.ids(distinct)[codes]


def _distinct(values: pa.Array, column: CategoricalColumn) -> tuple[pa.Array, np.ndarray]:
    """Distinct values as large_binary (missing = empty) and each sample's index into them."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    _check_type(values.type, column)
    encoded = values.dictionary_encode(null_encoding="encode")
    distinct = encoded.dictionary
    if not (pa.types.is_binary(distinct.type) or pa.types.is_large_binary(distinct.type)):
        distinct = distinct.cast(pa.large_string())
    distinct = pc.fill_null(distinct.cast(pa.large_binary()), b"")
    return distinct, encoded.indices.to_numpy(zero_copy_only=False)


def _check_type(kind: pa.DataType, column: CategoricalColumn) -> None:
    if pa.types.is_floating(kind) or pa.types.is_nested(kind):
        raise TypeError(
            f"column '{column.name}': expected integers, strings or booleans, got {kind}; "
            "cast it, or set multi_valued for lists"
        )


def _identity(values: pa.Array, column: CategoricalColumn, rows: int) -> np.ndarray:
    if values.null_count:
        raise ValueError(f"column '{column.name}': a row id is missing; give every sample one")
    if not pa.types.is_integer(values.type) and len(values):
        raise TypeError(f"column '{column.name}': expected row ids (integers), got {values.type}")
    ids = values.to_numpy(zero_copy_only=False).astype(np.int64)
    if ids.size and (ids.min() < 0 or ids.max() >= rows):
        wrong = ids[(ids < 0) | (ids >= rows)][0]
        raise ValueError(f"column '{column.name}': id {wrong} is out of range for {rows} rows")
    return ids

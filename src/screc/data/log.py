"""The click log: a stream of batches that can be read again and again in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from screc.data.batch import Batch
from screc.data.schema import Pooling

if TYPE_CHECKING:
    from screc.data.encoder import FeatureEncoder
    from screc.data.reader import RawReader

OnError = Literal["raise", "skip"]
# Told (samples done, samples in all or None).
Progress = Callable[[int, int | None], None]
SourceKind = Literal["criteo", "avazu", "parquet", "synthetic", "meta-reuse"]


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One embedding table that a log looks up."""

    name: str
    num_embeddings: int
    pooling: Pooling = "sum"


@runtime_checkable
class ClickLog(Protocol):
    """Samples in a fixed order, as batches."""

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """The tables that the batches look up, in order."""
        ...

    @property
    def num_dense(self) -> int:
        """Dense features per sample."""
        ...

    @property
    def num_samples(self) -> int | None:
        """Samples in the log, or None where only reading it to the end would tell."""
        ...

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """Batches of ``batch_size`` samples (the last may be shorter), after ``skip`` samples passed over."""
        ...


class EncodedLog:
    """A raw log read through a feature encoder."""

    def __init__(self, reader: RawReader, encoder: FeatureEncoder) -> None:
        self._reader = reader
        self._encoder = encoder

    @property
    def tables(self) -> tuple[TableSpec, ...]:
        """The encoder's tables."""
        return self._encoder.tables

    @property
    def num_dense(self) -> int:
        """The encoder's number of dense features."""
        return self._encoder.num_dense

    @property
    def num_samples(self) -> int | None:
        """Samples, where the files tell (Parquet read with ``on_error="raise"``)."""
        return self._reader.num_samples

    @property
    def skipped(self) -> int:
        """Malformed lines passed over by the latest pass (``on_error="skip"``)."""
        return self._reader.skipped

    def batches(self, batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
        """See :class:`ClickLog`; malformed input raises ``ValueError`` naming file, line and column."""
        check_batch_arguments(batch_size, skip)
        chunks = (self._encoder.encode(chunk) for chunk in self._reader.chunks(skip=skip))
        return rebatch(chunks, batch_size)


def check_log(log: ClickLog, tables: Sequence[TableSpec], num_dense: int) -> None:
    """Raise ``ValueError`` unless the log's tables and dense features are those of a model.

    Args:
        log: the click log.
        tables: the model's tables; their names need not be the log's.
        num_dense: dense features that the model takes.
    """
    if log.num_dense != num_dense:
        raise ValueError(f"log: has {log.num_dense} dense features, the model takes {num_dense}")
    if len(log.tables) != len(tables):
        raise ValueError(f"log: has {len(log.tables)} tables, the model {len(tables)}")
    for found, own in zip(log.tables, tables, strict=True):
        if (found.num_embeddings, found.pooling) != (own.num_embeddings, own.pooling):
            raise ValueError(
                f"log: table {found.name} has {found.num_embeddings} rows pooled by {found.pooling}, "
                f"the model's has {own.num_embeddings} pooled by {own.pooling}"
            )


def check_batch_arguments(batch_size: int, skip: int) -> None:
    """Raise ``ValueError`` unless batch_size >= 1 and skip >= 0."""
    if batch_size < 1:
        raise ValueError(f"batch_size: must be at least 1, got {batch_size}")
    if skip < 0:
        raise ValueError(f"skip: must not be negative, got {skip}")


def rebatch(chunks: Iterable[Batch], batch_size: int, *, skip: int = 0) -> Iterator[Batch]:
    """Cut a stream of batches of any sizes into batches of ``batch_size``; the last may be shorter.

    Holds one chunk and less than one batch at a time. Passes over the first ``skip`` samples.
    """
    check_batch_arguments(batch_size, skip)
    pending: list[Batch] = []
    held = 0
    for chunk in chunks:
        size = chunk.batch_size
        start = min(skip, size)
        skip -= start
        while start < size:
            stop = min(size, start + batch_size - held)
            piece = chunk if start == 0 and stop == size else chunk.rows(start, stop)
            pending.append(piece)
            held += stop - start
            start = stop
            if held == batch_size:
                yield concatenate(pending)
                pending, held = [], 0
    if held:
        yield concatenate(pending)


def concatenate(batches: list[Batch]) -> Batch:
    """One batch of all the samples, in order; all batches must have the same tables and columns.

    Raises:
        ValueError: no batches, or some have labels and some do not.
    """
    if not batches:
        raise ValueError("batches: nothing to concatenate")
    if len(batches) == 1:
        return batches[0]
    labelled = {batch.labels is not None for batch in batches}
    if len(labelled) > 1:
        raise ValueError("labels: some parts of the log have labels and some do not; read them apart")
    tables = batches[0].num_tables
    lengths = np.concatenate([np.diff(b.offsets).reshape(tables, b.batch_size) for b in batches], axis=1)
    offsets = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths.ravel(), out=offsets[1:])
    return Batch(
        dense=np.concatenate([b.dense for b in batches]),
        ids=np.concatenate([b.table_ids(t) for t in range(tables) for b in batches]),
        offsets=offsets,
        labels=np.concatenate([b.labels for b in batches]) if labelled == {True} else None,
    )


def parse_source(source: str) -> tuple[SourceKind, str]:
    """Split a source such as ``criteo:day_0.gz`` into its kind and the rest."""
    kind, colon, rest = source.partition(":")
    if not colon or not rest or kind not in get_args(SourceKind):
        raise ValueError(
            f"source: expected KIND:WHERE with KIND one of {', '.join(get_args(SourceKind))}, "
            f"got '{source}'; for example criteo:train.txt or synthetic:rows=100000,seed=1"
        )
    return kind, rest  # type: ignore[return-value]


def parse_settings(source: str, text: str, kinds: Mapping[str, tuple[str, type]]) -> dict[str, Any]:
    """Values of a generated source such as ``rows=1000000,seed=1``.

    Args:
        source: its kind, for messages.
        text: what follows the kind.
        kinds: for each key, the name of its value and its type (int, float or str). ``num_rows`` is required.

    Raises:
        ValueError: a key is unknown or given twice, a value is no number, or ``rows`` is missing.
    """
    values: dict[str, Any] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or key not in kinds:
            keys = [f"{one}=" for one in kinds]
            expected = f"{', '.join(keys[:-1])} or {keys[-1]}"
            raise ValueError(f"{source} source: expected {expected}, got '{part}'")
        name, kind = kinds[key]
        if name in values:
            raise ValueError(f"{source} source: '{key}' is given twice")
        try:
            values[name] = value if kind is str else kind(value.replace("_", ""))
        except ValueError:
            what = "a number" if kind is float else "a whole number"
            raise ValueError(f"{source} source: '{key}' must be {what}, got '{value}'") from None
    if "num_rows" not in values:
        raise ValueError(f"{source} source: rows=N is required, for example {source}:rows=100000")
    return values


def open_log(source: str, encoder: FeatureEncoder | None = None, *, on_error: OnError = "raise") -> ClickLog:
    """Open a click log.

    Args:
        source: ``criteo:PATH``, ``avazu:PATH``, ``parquet:PATH`` (a file, a directory or a glob pattern), or
            ``synthetic:rows=...,seed=...,scale=...,first=...``, or
            ``meta-reuse:rows=...,year=...,tables=...,table_rows=...,seed=...,first=...``.
        encoder: from raw columns to batches; needed for all but generated logs and Parquet files whose
            ``schema.json`` says that every categorical column holds row ids (``num_embeddings``).
        on_error: "raise" at the first malformed line, or "skip" and count them (``log.skipped``).

    Raises:
        ValueError: the source is not understood, or an encoder is missing or of no use.
        FileNotFoundError: no file at the path.
    """
    kind, rest = parse_source(source)
    if kind in ("synthetic", "meta-reuse") and encoder is not None:
        raise ValueError(f"encoder: the {kind} log is encoded already; open it without an encoder")
    if kind == "synthetic":
        from screc.data.synthetic import SyntheticClickLog, SyntheticConfig

        return SyntheticClickLog(SyntheticConfig.parse(rest))
    if kind == "meta-reuse":
        from screc.data.reuse_trace import ReuseTraceConfig, ReuseTraceLog

        return ReuseTraceLog(ReuseTraceConfig.parse(rest))
    from screc.data.encoder import FeatureEncoder
    from screc.data.reader import open_reader

    reader = open_reader(source, schema=encoder.schema if encoder else None, on_error=on_error)
    if encoder is None:
        raw = [c.name for c in reader.schema.categorical if c.num_embeddings is None]
        if raw:
            raise ValueError(
                f"encoder: {source} has raw columns (the first is '{raw[0]}'); "
                "fit one with fit_encoder or load one with FeatureEncoder.load "
                "(on the command line: --model, the checkpoint that keeps it)"
            )
        encoder = FeatureEncoder.identity(reader.schema)
    return EncodedLog(reader, encoder)

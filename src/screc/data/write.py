"""Writing logs: any click log as Parquet, the synthetic one as Criteo text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from screc.data.hashing import mix
from screc.data.log import ClickLog
from screc.data.schema import CRITEO, CategoricalColumn, DenseColumn, Schema
from screc.data.synthetic import CHUNK_ROWS, SyntheticClickLog

_BATCH_ROWS = 65_536


def write_parquet(
    log: ClickLog, path: str | Path, *, progress: Callable[[int], None] | None = None
) -> Schema:
    """Write an encoded log as one Parquet file of row ids, and ``schema.json`` beside it.

    ``open_log("parquet:PATH")`` reads the same batches back. Every table becomes a column of lists, so that
    bags of any length survive, except where every bag of the first batch holds one id.

    Args:
        log: any click log.
        path: the file; an existing one, and its schema.json, are replaced.
        progress: called with the number of samples written so far.

    Raises:
        ValueError: the log is empty, or a table that began single-valued has a bag of another length.
    """
    path = Path(path)
    writer: pq.ParquetWriter | None = None
    schema: Schema | None = None
    written = 0
    try:
        for batch in log.batches(_BATCH_ROWS):
            size = batch.batch_size
            lengths = np.diff(batch.offsets).reshape(batch.num_tables, size)
            if schema is None:
                schema = _schema_of(log, (lengths != 1).any(axis=1))
            columns: dict[str, pa.Array] = {}
            if batch.labels is not None:
                columns[schema.label] = pa.array(batch.labels.astype(np.int8))
            for place, column in enumerate(schema.dense):
                columns[column.name] = pa.array(np.ascontiguousarray(batch.dense[:, place]))
            for table, column in enumerate(schema.categorical):
                ids = pa.array(batch.table_ids(table))
                if column.multi_valued:
                    ids = pa.LargeListArray.from_arrays(pa.array(batch.table_offsets(table)), ids)
                elif (lengths[table] != 1).any():
                    raise ValueError(
                        f"table '{column.name}': a bag of {lengths[table].max()} ids after single ones"
                    )
                columns[column.name] = ids
            rows = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(path, rows.schema)
            writer.write_table(rows)
            written += size
            if progress is not None:
                progress(written)
    finally:
        if writer is not None:
            writer.close()
    if schema is None:
        raise ValueError("log: no samples to write")
    schema.save(path.parent / "schema.json")
    return schema


def _schema_of(log: ClickLog, multi_valued: np.ndarray) -> Schema:
    tables = zip(log.tables, multi_valued, strict=True)
    return Schema(
        dense=tuple(DenseColumn(name=f"dense_{i}", transform="none") for i in range(log.num_dense)),
        categorical=tuple(
            CategoricalColumn(
                name=t.name, multi_valued=bool(many), pooling=t.pooling, num_embeddings=t.num_embeddings
            )
            for t, many in tables
        ),
    )


def write_criteo(
    log: SyntheticClickLog, path: str | Path, *, progress: Callable[[int], None] | None = None
) -> None:
    """Write the synthetic log as a Criteo TSV file: label, 13 counts, 26 categories of eight hex digits."""
    written = 0
    with open(path, "wb") as stream:
        for ids, counts, labels in log.raw(CHUNK_ROWS):
            columns = [
                pa.array(labels.astype(np.int8)),
                *(pa.array(np.ascontiguousarray(c)) for c in counts.T),
            ]
            columns += [_hex(ids[field], field) for field in range(ids.shape[0])]
            pyarrow.csv.write_csv(
                pa.table(columns, names=list(CRITEO.columns)),
                stream,
                pyarrow.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none"),
            )
            written += labels.size
            if progress is not None:
                progress(written)


def _hex(ids: np.ndarray, field: int) -> pa.Array:
    """Eight hex digits per id, distinct for distinct ids below 2^32 of one field."""
    # An odd multiplier and an addend permute the 32-bit numbers; every field has its own addend.
    addend = mix(np.array([field + 1], dtype=np.uint64))
    scattered = (ids.astype(np.uint64) * np.uint64(0x9E3779B1) + addend) & np.uint64(0xFFFFFFFF)
    digits = scattered.astype(">u4").tobytes().hex().encode()
    offsets = pa.py_buffer(np.arange(0, 8 * (ids.size + 1), 8, dtype=np.int32))
    return pa.Array.from_buffers(pa.string(), ids.size, [None, offsets, pa.py_buffer(digits)])

"""Raw readers: files to Arrow record batches whose columns are those of a schema."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, get_args

from screc.data.log import OnError, parse_source
from screc.data.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa


class RawReader(Protocol):
    """A log before encoding."""

    @property
    def schema(self) -> Schema:
        """The columns of every chunk (the label may be missing: then the log is unlabelled)."""
        ...

    @property
    def num_samples(self) -> int | None:
        """Samples, where known without reading all."""
        ...

    @property
    def skipped(self) -> int:
        """Malformed lines that the latest pass left out."""
        ...

    def chunks(self, *, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """Record batches of bounded size in file order, after passing over ``skip`` good samples."""
        ...


def open_reader(source: str, *, schema: Schema | None = None, on_error: OnError = "raise") -> RawReader:
    """The reader of a ``criteo:``, ``avazu:`` or ``parquet:`` source.

    Args:
        source: see :func:`screc.data.log.open_log`.
        schema: columns to read; by default the preset of the format or, for Parquet, ``schema.json`` beside
            the files.
        on_error: what to do about malformed lines.
    """
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error: expected 'raise' or 'skip', got {on_error!r}")
    kind, where = parse_source(source)
    if kind == "criteo":
        from screc.data.text import CRITEO_TSV, TextReader

        return TextReader(find_files(where), CRITEO_TSV, schema=schema, on_error=on_error)
    if kind == "avazu":
        from screc.data.text import AVAZU_CSV, TextReader

        return TextReader(find_files(where), AVAZU_CSV, schema=schema, on_error=on_error)
    if kind == "parquet":
        from screc.data.parquet import ParquetReader

        paths = find_files(where, suffix=".parquet")
        if schema is None:
            beside = paths[0].parent / "schema.json"
            if not beside.exists():
                raise ValueError(f"schema: {beside} does not exist; pass a Schema or write one there")
            schema = Schema.load(beside)
        return ParquetReader(paths, schema, on_error=on_error)
    raise ValueError(f"source: '{source}' is generated, there is nothing to encode; open it with open_log")


def find_files(where: str, suffix: str = "") -> tuple[Path, ...]:
    """Files of a path, a directory (its visible files, by name) or a glob pattern (by name)."""
    path = Path(where)
    if path.is_file():
        return (path,)
    if path.is_dir():
        names = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
        found = tuple(p for p in names if p.name.endswith(suffix))
        if not found:
            raise FileNotFoundError(f"{where}: the directory holds no {suffix or 'data'} file")
        return found
    found = tuple(Path(p) for p in sorted(glob.glob(where)) if Path(p).is_file())
    if not found:
        raise FileNotFoundError(f"{where}: no such file, directory or glob match")
    return found

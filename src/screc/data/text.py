"""Delimited text logs (Criteo TSV, Avazu CSV), plain or gzip, in bounded memory with line-accurate errors.

A file is read in blocks of whole lines that pyarrow parses at speed. Where a block does not parse, it is
halved until the culprit stands alone, so fast and careful reading cannot disagree about what is malformed.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from screc.data.log import OnError
from screc.data.schema import AVAZU, CRITEO, Schema

_BLOCK_BYTES = 4 << 20
_LONGEST_LINE = 64 << 20
_DETECTION_LINES = 100
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class TextFormat:
    """How a text log is laid out.

    Attributes:
        name: of the format, for messages.
        delimiter: between columns; there is no quoting in these formats.
        columns: all columns in file order, where no header says otherwise.
        schema: the preset schema.
        may_have_header: a first line that names the label or the first column is a header.
        derive: turns parsed columns into the schema's where they differ; raises :class:`MalformedValue`.
        derived: column of the file -> columns of the schema that ``derive`` makes of it.
    """

    name: str
    delimiter: str
    columns: tuple[str, ...]
    schema: Schema
    may_have_header: bool = False
    derive: Callable[[dict[str, pa.Array]], None] | None = None
    derived: tuple[tuple[str, tuple[str, ...]], ...] = ()


class MalformedValue(ValueError):
    """A parsed value that the format does not allow; the message names the column and the value."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of one file, as its first line tells."""

    names: tuple[str, ...]
    has_header: bool


class TextReader:
    """Reads text logs; see :class:`screc.data.reader.RawReader`.

    Dense columns come as float64 (null = missing), categories as binary (null = missing), the label as int8.
    Blank lines are passed over. A file with one column less than the format, and no header, has no label.

    Args:
        paths: files, read one after the other; gzip is told by content, not by name.
        text_format: layout of the files.
        schema: the columns wanted; the format's preset by default.
        on_error: "raise" at the first malformed line or "skip" and count in :attr:`skipped`.

    Raises:
        ValueError: the schema wants a column that the format does not have.
    """

    def __init__(
        self,
        paths: tuple[Path, ...],
        text_format: TextFormat,
        *,
        schema: Schema | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.schema = schema or text_format.schema
        self.skipped = 0
        self.num_samples: int | None = None
        self._paths = paths
        self._format = text_format
        self._on_error = on_error
        known = set(text_format.schema.columns)
        for name in self.schema.columns:
            if name not in known:
                raise ValueError(
                    f"schema: {text_format.name} has no column '{name}'; it has {', '.join(sorted(known))}"
                )

    def chunks(self, *, skip: int = 0) -> Iterator[pa.RecordBatch]:
        """Record batches of the schema's columns, a few MB each."""
        self.skipped = 0
        for path in self._paths:
            for chunk in self._file_chunks(path):
                if skip >= chunk.num_rows:
                    skip -= chunk.num_rows
                    continue
                yield chunk.slice(skip) if skip else chunk
                skip = 0

    def _file_chunks(self, path: Path) -> Iterator[pa.RecordBatch]:
        layout: _Columns | None = None
        line = 1
        for block in _line_blocks(path):
            if layout is None:
                layout = self._detect(block, path)
                if layout.has_header:
                    block, line = block[block.find(b"\n") + 1 :] if b"\n" in block else b"", 2
            yield from self._parse_or_halve(block, layout, path, line)
            line += block.count(b"\n")

    def _detect(self, block: bytes, path: Path) -> _Columns:
        """Columns and header of a file from its first block."""
        columns, label = self._format.columns, self._format.schema.label
        delimiter = self._format.delimiter.encode()
        first_lines = block.split(b"\n", _DETECTION_LINES)[:_DETECTION_LINES]
        if self._format.may_have_header:
            cells = first_lines[0].rstrip(b"\r").removeprefix(b"\xef\xbb\xbf").split(delimiter)
            names = tuple(c.decode("utf-8", "replace") for c in cells)
            if label in names or columns[0] in names:
                for name in self._file_columns():
                    if name not in names and name != label:
                        raise ValueError(f"{path}, line 1: the header lacks column '{name}'; add it")
                if len(set(names)) != len(names):
                    raise ValueError(f"{path}, line 1: the header names a column twice; rename one")
                return _Columns(names, True)
        # Several lines are asked, lest one short line pass a labelled file for an unlabelled one.
        widths = [line.count(delimiter) + 1 for line in first_lines]
        if widths.count(len(columns) - 1) > widths.count(len(columns)):
            return _Columns(tuple(c for c in columns if c != label), False)
        return _Columns(columns, False)

    def _file_columns(self) -> list[str]:
        """The file's columns that the schema needs."""
        wanted, origin = set(self.schema.columns), {}
        for source, targets in self._format.derived:
            origin.update({target: source for target in targets})
        needed = {origin.get(name, name) for name in wanted}
        return [c for c in self._format.columns if c in needed]

    def _parse_or_halve(
        self, block: bytes, layout: _Columns, path: Path, line: int
    ) -> Iterator[pa.RecordBatch]:
        """The good lines of a block, in order; ``line`` is the number of its first line."""
        if not block.strip(b"\r\n"):
            return
        try:
            yield self._parse(block, layout)
            return
        except (pa.ArrowInvalid, MalformedValue) as error:
            problem = error
        lines = _count_lines(block)
        if lines > 1 and self._on_error == "skip":
            # The commonest fault goes first and at once; halving is slow where every other line is bad.
            good = self._of_full_width(block, layout)
            if len(good) < len(block):
                yield from self._parse_or_halve(good, layout, path, line)
                return
        if lines > 1:
            middle = _nth_line_start(block, lines // 2)
            yield from self._parse_or_halve(block[:middle], layout, path, line)
            yield from self._parse_or_halve(block[middle:], layout, path, line + lines // 2)
        elif self._on_error == "skip":
            self.skipped += 1
        else:
            reason = self._diagnose(block, layout) or str(problem)
            raise ValueError(
                f"{path}, line {line}: {reason}; correct the line or read with on_error='skip'"
            ) from problem

    def _parse(self, block: bytes, layout: _Columns) -> pa.RecordBatch:
        schema = self.schema
        dense = {c.name for c in schema.dense}
        types = {
            name: pa.int8()
            if name == schema.label
            else pa.float64()
            if name in dense
            else pa.int64()
            if any(name == source for source, _ in self._format.derived)
            else pa.binary()
            for name in layout.names
        }
        include = [name for name in self._file_columns() if name in layout.names]
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            read_options=pyarrow.csv.ReadOptions(
                column_names=layout.names, block_size=len(block) + 1, use_threads=len(block) > 1 << 16
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self._format.delimiter, quote_char=False, escape_char=False
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=include, null_values=[""], strings_can_be_null=True
            ),
        )
        lines = _count_lines(block)
        if table.num_rows != lines and table.num_rows != lines - _count_blank_lines(block):
            raise MalformedValue("a carriage return within the line")
        columns = {name: table.column(name).combine_chunks() for name in include}
        columns = {n: c.chunk(0) if isinstance(c, pa.ChunkedArray) else c for n, c in columns.items()}
        if schema.label in columns:
            _check_labels(columns[schema.label], schema.label)
        for name in dense & set(include):
            _check_finite(columns[name], name)
        if self._format.derive is not None:
            self._format.derive(columns)
        names = [name for name in schema.columns if name in columns]
        return pa.RecordBatch.from_arrays([columns[name] for name in names], names=names)

    def _of_full_width(self, block: bytes, layout: _Columns) -> bytes:
        """The block without lines of too many or too few columns, which are counted as skipped."""
        delimiter, width = self._format.delimiter.encode(), len(layout.names) - 1
        lines = block.split(b"\n")
        good = [line for line in lines if line.count(delimiter) == width or not line.strip(b"\r\n")]
        self.skipped += len(lines) - len(good)
        return b"\n".join(good)

    def _diagnose(self, line: bytes, layout: _Columns) -> str | None:
        """What is wrong with one line, in words; None where only the parser knows."""
        cells = line.rstrip(b"\r\n").split(self._format.delimiter.encode())
        if len(cells) != len(layout.names):
            return f"expected {len(layout.names)} columns, got {len(cells)}"
        label = self.schema.label
        for name, cell in zip(layout.names, cells, strict=True):
            shown = cell[:40].decode("utf-8", "backslashreplace")
            if name == label and cell not in (b"0", b"1"):
                return f"column '{name}': expected 0 or 1, got '{shown}'"
            if name in {c.name for c in self.schema.dense} and cell and not _NUMBER.fullmatch(cell.strip()):
                return f"column '{name}': expected a number, got '{shown}'"
        return None


def _check_labels(values: pa.Array, name: str) -> None:
    if values.null_count:
        raise MalformedValue(f"column '{name}': expected 0 or 1, got a missing value")
    labels = values.to_numpy()
    if labels.size and (labels.min() < 0 or labels.max() > 1):
        raise MalformedValue(
            f"column '{name}': expected 0 or 1, got {labels[(labels < 0) | (labels > 1)][0]}"
        )


def _check_finite(values: pa.Array, name: str) -> None:
    if pc.any(pc.is_inf(values)).as_py():
        raise MalformedValue(f"column '{name}': expected a finite number, got an infinite one")


def _line_blocks(path: Path) -> Iterator[bytes]:
    """The file in pieces of whole lines of about ``_BLOCK_BYTES``; the last may lack its line end."""
    try:
        with _open(path) as stream:
            rest = b""
            while piece := stream.read(_BLOCK_BYTES):
                end = piece.rfind(b"\n") + 1
                if not end:
                    rest += piece
                    if len(rest) > _LONGEST_LINE:
                        raise ValueError(
                            f"{path}: no line end within {_LONGEST_LINE >> 20} MiB; is this a text file?"
                        )
                    continue
                yield rest + piece[:end]
                rest = piece[end:]
            if rest:
                yield rest
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged gzip file ({error}); fetch it again") from error


def _open(path: Path) -> BinaryIO:
    with open(path, "rb") as stream:
        magic = stream.read(2)
    return gzip.open(path, "rb") if magic == b"\x1f\x8b" else open(path, "rb")  # type: ignore[return-value]


def _count_lines(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _count_blank_lines(block: bytes) -> int:
    return sum(not line.strip(b"\r\n") for line in block.removesuffix(b"\n").split(b"\n"))


def _nth_line_start(block: bytes, line: int) -> int:
    ends = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
    return int(ends[line - 1]) + 1


def _derive_avazu(columns: dict[str, pa.Array]) -> None:
    """Replace `hour` (YYMMDDHH) by `hour_of_day` and `weekday` (0 = Monday)."""
    if "hour" not in columns:
        return
    values = columns.pop("hour")
    remedy = "expected YYMMDDHH"
    if values.null_count:
        raise MalformedValue(f"column 'hour': {remedy}, got a missing value")
    stamps = values.to_numpy()
    year, month, day, hour = (stamps // 10**6, stamps // 10**4 % 100, stamps // 100 % 100, stamps % 100)
    months = (np.clip(year, 0, 99) + 30) * 12 + month - 1
    dates = months.astype("datetime64[M]").astype("datetime64[D]") + (day - 1)
    wrong = (year < 0) | (year > 99) | (month < 1) | (month > 12) | (day < 1) | (hour > 23)
    wrong |= dates.astype("datetime64[M]").astype(np.int64) != months
    if wrong.any():
        raise MalformedValue(f"column 'hour': {remedy}, got '{stamps[wrong][0]}'")
    columns["hour_of_day"] = pa.array(hour)
    columns["weekday"] = pa.array((dates.astype(np.int64) + 3) % 7)  # day 0, 1970-01-01, was a Thursday


CRITEO_TSV = TextFormat(name="criteo", delimiter="\t", columns=CRITEO.columns, schema=CRITEO)
"""Criteo Kaggle and Terabyte files: no header; test files lack the label."""

AVAZU_CSV = TextFormat(
    name="avazu",
    delimiter=",",
    columns=("id", "click", "hour", *(c.name for c in AVAZU.categorical[2:])),
    schema=AVAZU,
    may_have_header=True,
    derive=_derive_avazu,
    derived=(("hour", ("hour_of_day", "weekday")),),
)
"""Avazu Kaggle files, whole or in parts without header; test files lack the label."""
